"""The command line: wires, decides nothing. Everything heavy is imported by the command that needs it."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from runner.bench import bench
from runner.data import data_app
from runner.image_commands import image_app
from runner.options import JsonOption

if TYPE_CHECKING:
    from last_e.layers import Resolved
    from last_e.resume import Change
    from runner.job import Job
    from runner.spec import JobSpec

app = typer.Typer(
    help="Train LAST-E v3 on whatever machine you can get; when it goes away, go on elsewhere as if nothing had happened.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.add_typer(data_app, name="data")
app.add_typer(image_app, name="image")
app.command()(bench)

SpecArgument = Annotated[Path, typer.Argument(metavar="JOB.YAML", help="the job's file")]
JobArgument = Annotated[str, typer.Argument(metavar="JOB", help="ID of a job, the beginning of one, or STORE/ID")]
EnvOption = Annotated[str | None, typer.Option("--env", metavar="ENV", help="auto, local, kaggle, gcp, lambda or a100")]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE ...", help="set any keys; applied last, values read as YAML")
]
LauncherOption = Annotated[str | None, typer.Option("--launcher", metavar="NAME", help="local or docker")]
StoreOption = Annotated[
    str | None, typer.Option("--store", metavar="URI", help="default: LASTRUN_STORE, config.toml, your data folder")
]
DetachOption = Annotated[bool, typer.Option("--detach", help="start it and return; it lives on in the background")]
AllowOption = Annotated[
    list[str] | None,
    typer.Option("--allow-change", metavar="KEY", help="a key that may change although it decides learning (data: the clips)"),
]

TakeoverOption = Annotated[bool, typer.Option("--takeover", help="take the job from an attempt that still seems to run")]


@app.command()
def submit(
    spec: SpecArgument,
    env: EnvOption = None,
    set_: SetOption = None,
    store: StoreOption = None,
    launcher: LauncherOption = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="check everything and show what would run; write nothing")] = False,
    detach: DetachOption = False,
    json: JsonOption = False,
) -> None:
    """Check a job, keep it in the store, and run it."""
    from runner import console
    from runner.errors import LastrunError
    from runner.job import Job
    from runner.launch import make_launcher
    from runner.store import StoreUri, default_store, open_store

    resolved = _resolve(spec, env, set_, launcher)
    config = resolved.config
    options = config.store.model_dump(exclude={"uri"})
    target = open_store(StoreUri.parse(store or config.store.uri or default_store()).with_options(options))
    starter = make_launcher(config)
    name = config.name or f"{config.model.variant}-{config.dataset}-{config.split_type}".replace("_", "-")
    if dry_run:
        try:
            starter.preflight(target.uri)
            obstacle = None
        except LastrunError as error:
            obstacle = str(error)
        facts = {"name": name, "store": target.uri, "launcher": config.run.launcher, "config": resolved.items()}
        if json:
            console.print_json("submit", {"dry_run": True, "obstacle": obstacle, **facts})
            return
        for note in resolved.notes:
            print(note)
        console.print_explained(resolved.items(), resolved.origins)
        print(f"would submit {name} to {target.uri} with launcher {config.run.launcher}; nothing was written")
        if obstacle is not None:
            print(f"it could not start here: {obstacle}")
        return
    starter.preflight(target.uri)
    # What was asked for is kept, not what auto found here: the attempt may run elsewhere.
    origins = {key: str(origin) for key, origin in resolved.origins.items()}
    _run(lambda: Job.create(target, name, resolved.items(), origins, _version()), [], detach, json, "submit", starter)


@app.command()
def resume(
    job: JobArgument,
    env: EnvOption = None,
    set_: SetOption = None,
    allow_change: AllowOption = None,
    takeover: TakeoverOption = False,
    store: StoreOption = None,
    launcher: LauncherOption = None,
    detach: DetachOption = False,
    json: JsonOption = False,
) -> None:
    """Go on with a job from its newest whole checkpoint, here."""
    from runner.errors import ClaimedError, State, UsageError
    from runner.job import find_job
    from runner.launch import make_launcher
    from runner.resolve import absolute_settings

    found = find_job(job, store)
    resolved, changes = _resolve_again(found, env, set_, allow_change, launcher)
    state, attempt, reason = found.state()
    if reason is not None and not reason.ending.resumable and state is not State.SUCCEEDED and not allow_change:
        raise UsageError(
            f"{found.id} ended as {reason.value}: going on unchanged would end the same way; {reason.ending.advice}, "
            f"or go on with --set KEY=VALUE --allow-change KEY"
        )
    if state is State.SUCCEEDED and not allow_change:
        raise UsageError(
            f"{found.id} is complete: there is nothing to go on with; lastrun status {found.reference} shows its result"
        )
    if state is State.RUNNING and attempt is not None and not takeover:
        raise ClaimedError(
            f"{found.id} is being run by {attempt}; lastrun status {found.reference} follows it, --takeover takes it over"
        )
    starter = make_launcher(resolved.config)
    starter.preflight(found.store.uri)
    arguments = [*(["--takeover"] if takeover else []), *([] if env is None else ["--env", env])]
    arguments += [] if launcher is None else ["--launcher", launcher]
    for word in absolute_settings(set_ or []):
        arguments += ["--set", word]
    for word in allow_change or []:
        arguments += ["--allow-change", word]
    _run(lambda: found, arguments, detach, json, "resume", starter, changes)


@app.command()
def validate(spec: SpecArgument, env: EnvOption = None, set_: SetOption = None, json: JsonOption = False) -> None:
    """Check a job's file; every mistake is told at once."""
    from runner import console

    resolved = _resolve(spec, env, set_)
    if json:
        console.print_json("validate", {"valid": True, "config": resolved.items(), "notes": resolved.notes})
        return
    config = resolved.config
    for note in resolved.notes:
        print(note)
    print(f"{spec} is valid: {config.model.variant} on {config.dataset} {config.split_type}, {config.training.epochs} epochs")


@app.command()
def explain(spec: SpecArgument, env: EnvOption = None, set_: SetOption = None, json: JsonOption = False) -> None:
    """Print every value of a job with the layer that set it."""
    from runner import console

    resolved = _resolve(spec, env, set_)
    if json:
        values = {k: {"value": v, "origin": str(resolved.origins[k])} for k, v in resolved.items().items()}
        console.print_json("explain", {"config": values, "notes": resolved.notes})
        return
    for note in resolved.notes:
        print(note)
    console.print_explained(resolved.items(), resolved.origins)


@app.command()
def plan(
    spec: SpecArgument,
    env: EnvOption = None,
    set_: SetOption = None,
    gpu: Annotated[str | None, typer.Option("--gpu", metavar="NAME", help="the GPU of --env, or of gcp, such as L4")] = None,
    prices: Annotated[Path | None, typer.Option("--prices", metavar="FILE", help="your own prices, as TOML")] = None,
    json: JsonOption = False,
) -> None:
    """Show what a job would take on each profile: time, sessions, cost; measured or estimated."""
    from runner import console
    from runner.plan.planner import make_plan
    from runner.plan.view import print_plan

    made = make_plan(spec, env, set_ or [], gpu, prices)
    if json:
        console.print_json("plan", made.to_dict())
    else:
        print_plan(made)


@app.command(name="list")
def list_(
    store: StoreOption = None,
    limit: Annotated[int, typer.Option("--limit", min=1, help="how many, newest first")] = 50,
    json: JsonOption = False,
) -> None:
    """List the jobs of a store, newest first."""
    from runner import console
    from runner.job import list_jobs
    from runner.status import summaries
    from runner.store import default_store, open_store

    target = open_store(store or default_store())
    jobs, more = summaries(list_jobs(target), limit)
    if json:
        console.print_json("list", {"store": target.uri, "jobs": jobs, "more": more})
    else:
        console.print_jobs(jobs, target.uri, more)


@app.command()
def status(
    job: JobArgument,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="again every few seconds, until it no longer runs")] = False,
    store: StoreOption = None,
    json: JsonOption = False,
) -> None:
    """Show where a job is, how it fares, and what to do next."""
    from runner import console
    from runner.job import find_job
    from runner.status import follow_status, job_status

    found = find_job(job, store)
    if json:
        console.print_json("status", job_status(found))
    elif watch:
        console.watch_status(follow_status(found))
    else:
        console.print_status(job_status(found))


@app.command()
def logs(
    job: JobArgument,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="wait for more, until the job no longer runs")] = False,
    store: StoreOption = None,
    json: JsonOption = False,
) -> None:
    """Print the log of all attempts of a job."""
    from last_e.text import plain
    from runner import console
    from runner.job import find_job
    from runner.status import follow_log

    found = find_job(job, store)
    if json:
        console.print_json("logs", {"id": found.id, "lines": "".join(found.log()).splitlines()})
        return
    for piece in follow_log(found) if follow else found.log():
        sys.stdout.write(plain(piece))
        sys.stdout.flush()


@app.command()
def stop(
    job: JobArgument,
    now: Annotated[bool, typer.Option("--now", help="at once, without saving")] = False,
    store: StoreOption = None,
    json: JsonOption = False,
) -> None:
    """Ask a job to save and stop, wherever it runs."""
    from runner import console
    from runner.errors import State, UsageError
    from runner.job import find_job

    found = find_job(job, store)
    state, attempt, _ = found.state()
    if state is not State.RUNNING or attempt is None:
        raise UsageError(f"{found.id} is {state.value}: there is nothing to stop")
    found.ask_to_stop(now)
    if json:
        console.print_json("stop", {"id": found.id, "asked": "now" if now else "save"})
    else:
        print(f"asked {attempt} to stop; lastrun status {found.reference} tells when it has")


@app.command()
def pull(
    job: JobArgument,
    destination: Annotated[Path, typer.Argument(metavar="FOLDER", help="folder to put the checkpoint in")],
    best: Annotated[bool, typer.Option("--best", help="the best by test top-1 instead of the newest")] = False,
    step: Annotated[int | None, typer.Option("--step", metavar="N", help="the one of step N")] = None,
    store: StoreOption = None,
    json: JsonOption = False,
) -> None:
    """Download a checkpoint, whole or not at all."""
    from runner import console
    from runner.errors import UsageError
    from runner.job import find_job
    from runner.transfer import pull_checkpoint

    if best and step is not None:
        raise UsageError("--best and --step name one checkpoint each: give one of them")
    name = pull_checkpoint(find_job(job, store), destination, best=best, step=step)
    if json:
        console.print_json("pull", {"checkpoint": name, "path": str(destination)})
    else:
        print(f"{destination}: checkpoint {name}")


@app.command()
def sync(
    job: JobArgument,
    from_: Annotated[Path | None, typer.Option("--from", metavar="DIR", help="the outbox that the attempt named")] = None,
    store: StoreOption = None,
    json: JsonOption = False,
) -> None:
    """Send what an ended attempt left on this machine."""
    from runner import console
    from runner.job import find_job
    from runner.transfer import sync_job

    sent = sync_job(find_job(job, store), from_)
    if json:
        console.print_json("sync", {"sent": sent})
    else:
        print(f"{sent} objects sent" if sent else "nothing was waiting")


@app.command()
def rm(
    job: JobArgument,
    store: StoreOption = None,
    json: JsonOption = False,
) -> None:
    """Delete a job whole; takes its whole ID."""
    from runner import console
    from runner.errors import State, UsageError
    from runner.job import find_job

    found = find_job(job, store, whole=True)
    if found.state()[0] is State.RUNNING:
        raise UsageError(f"{found.id} is running: lastrun stop {found.reference} first")
    count = found.delete()
    if json:
        console.print_json("rm", {"id": found.id, "objects": count})
    else:
        print(f"{found.id} deleted ({count} objects)")


@app.command(hidden=True)
def attempt(
    job_uri: Annotated[str, typer.Argument(metavar="JOB-URI")],
    env: EnvOption = None,
    set_: SetOption = None,
    allow_change: AllowOption = None,
    takeover: TakeoverOption = False,
    launcher: LauncherOption = None,
    read_env: Annotated[bool, typer.Option("--read-env", help="read variables and files from standard input, as JSON")] = False,
) -> None:
    """Run one attempt of a job on this machine; launchers call this."""
    if read_env:
        from json import loads

        line = sys.stdin.readline()
        if not line.endswith("\n"):  # who started it is gone: without its variables it would run otherwise, or not at all
            from runner.errors import UsageError

            raise UsageError("standard input ended before the variables came")
        given = loads(line)
        for path, text in given["files"].items():
            Path(path).write_text(text)
        os.environ.update(given["variables"])
    from last_e.console import ConsoleSink
    from runner.agent import run_attempt
    from runner.job import Job
    from runner.store import StoreUri, open_store

    store, job_id = StoreUri.parse(job_uri).parent()
    with ConsoleSink() as sink:
        reason = run_attempt(Job(open_store(store), job_id), env, set_ or [], allow_change or [], sink, takeover, launcher)
    raise typer.Exit(reason.ending.exit_code)


@app.command(hidden=True)
def probe(
    torch: Annotated[bool, typer.Option("--torch", help="try torch and the GPUs, too")] = False,
) -> None:
    """Say what is installed here, as JSON; run inside an image by who wants to know."""
    from json import dumps

    from runner.image import probe as look

    print(dumps(look(torch)))


@app.callback(invoke_without_command=True)
def _root(version: Annotated[bool, typer.Option("--version", help="print the version and leave")] = False) -> None:
    if version:
        print(f"lastrun {_version()}")
        raise typer.Exit


def main() -> NoReturn:
    """Entry point: every error of ours, or of the user's, ends in clear lines and a documented exit code."""
    _run_app(lambda: app(args=_spread_set(sys.argv[1:]), prog_name="lastrun", standalone_mode=False))


def _run_app(call: Callable[[], Any]) -> NoReturn:
    code: Any = 0
    try:
        try:
            code = call() or 0  # of typer.Exit
        except SystemExit as end:
            code = end.code
        except typer.Abort:
            raise KeyboardInterrupt from None
        sys.stdout.flush()  # here, where a full disk behind it can be told, not when the interpreter ends
        raise SystemExit(code)
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    except BrokenPipeError:  # the reader of our output has gone, as with `| head`
        _discard_output()
        raise SystemExit(code) from None
    except Exception as error:
        from last_e.problems import ConfigError
        from last_e.redact import redact
        from last_e.text import plain
        from runner.errors import Exit, LastrunError, UsageError

        misused = hasattr(error, "format_message")  # typer's own; the class has moved between its versions
        if misused and not isinstance(error, LastrunError):
            said = str(error.format_message()).rstrip(".")  # type: ignore[attr-defined]
            if said.startswith("Usage:"):  # called without anything
                print(said, file=sys.stderr)
                raise SystemExit(int(Exit.USAGE)) from None
            error = UsageError(f"{said}; --help tells more")
        from runner.console import print_json

        if "--json" in sys.argv and isinstance(error, (ConfigError, LastrunError)):
            from dataclasses import asdict

            problems = [asdict(problem) for problem in error.problems] if isinstance(error, ConfigError) else []
            code = Exit.USAGE if isinstance(error, ConfigError) else error.exit_code
            print_json(_command(), {"error": redact(str(error)), "exit_code": int(code), "problems": problems})
        if isinstance(error, ConfigError):
            for problem in error.problems:
                print(f"error: {problem}", file=sys.stderr)
            raise SystemExit(int(Exit.USAGE)) from None
        if isinstance(error, LastrunError):
            print(f"error: {plain(redact(str(error)))}", file=sys.stderr)
            raise SystemExit(int(error.exit_code)) from None
        if isinstance(error, OSError):
            words = f"{error.filename or 'output'}: {error.strerror or error}"
            if "--json" in sys.argv and error.filename:
                print_json(_command(), {"error": words, "exit_code": int(Exit.FAILED), "problems": []})
                sys.stdout.flush()
            _discard_output()
            print(f"error: {words}", file=sys.stderr)
            raise SystemExit(int(Exit.FAILED)) from None
        raise


def _command() -> str:
    """What was called: ``submit``, ``data prepare``."""
    return " ".join(sys.argv[1:3] if sys.argv[1] in ("data", "image") else sys.argv[1:2])


def _discard_output() -> None:
    """Nobody reads it any more: what is still buffered must not fail again when the interpreter ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _spread_set(arguments: list[str]) -> list[str]:
    """``--set A=1 B=2`` as in the reference, for a parser that takes one value per option: ``--set A=1 --set B=2``."""
    spread: list[str] = []
    in_set = False
    for word in arguments:
        if word.startswith("-"):
            in_set = word == "--set"
            spread.append(word)
        elif in_set and spread[-1] != "--set" and "=" in word:
            spread += ["--set", word]
        else:
            in_set = in_set and spread[-1] == "--set"
            spread.append(word)
    return spread


def _resolve(spec: Path, env: str | None, settings: list[str] | None, launcher: str | None = None) -> Resolved[JobSpec]:
    from runner.resolve import resolve_spec

    return resolve_spec(spec, env, settings or [], launcher)


def _resolve_again(
    job: Job, env: str | None, settings: list[str] | None, allow_change: list[str] | None, launcher: str | None
) -> tuple[Resolved[JobSpec], list[Change]]:
    from runner.resolve import resolve_attempt

    config, origins, _ = job.settings()
    return resolve_attempt(config, origins, env, settings or [], allow_change or [], launcher)


def _run(
    make: Callable[[], Job],
    arguments: list[str],
    detach: bool,
    json: bool,
    command: str,
    launcher: Any,
    changes: Sequence[Change] = (),
) -> NoReturn:
    """Make or take a job and start an attempt; who leaves before its launcher listens is told how the job goes on."""
    from runner import console
    from runner.errors import PausedError
    from runner.signals import handled, interrupt
    from runner.status import job_status

    asked: list[int] = []
    job = None

    def once_it_is_made(signum: int) -> None:
        if asked:  # asked again: its store may not answer
            interrupt(signum)
        asked.append(signum)

    with handled(interrupt):
        try:
            with handled(once_it_is_made):
                job = make()
            if asked:
                interrupt(asked[0])
            if not json:
                print(f"job: {job.uri}", flush=True)
                console.print_changes(changes)
            if detach:
                launcher.detach(job, arguments)
                code = 0
            else:
                code = launcher.run(job, arguments, quiet=json)
        except KeyboardInterrupt:
            if job is None:
                raise
            raise PausedError(f"{job.id}: interrupted; lastrun resume {job.reference} goes on with it") from None
    facts = job_status(job)
    if json:
        console.print_json(command, facts)
    elif detach:
        print(f"running in the background; lastrun status {job.reference}")
    else:
        print(f"job:  {job.uri}\nnext: {facts['next']}")
    raise typer.Exit(code)


def _version() -> str:
    from importlib import metadata

    try:
        return metadata.version("lastrun")
    except metadata.PackageNotFoundError:
        return "unknown"
