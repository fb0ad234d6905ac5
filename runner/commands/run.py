"""Commands that train: submit, resume, and the attempt itself, which launchers call."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from runner.commands.options import (
    AllowOption,
    DetachOption,
    EnvOption,
    HereOption,
    JobOrGroupArgument,
    JsonOption,
    LauncherOption,
    OnOption,
    ParallelOption,
    PrivateOption,
    QuietOption,
    RelayOption,
    SetOption,
    ShutDownOption,
    SpecArgument,
    StopAfterOption,
    StoreOption,
    TakeoverOption,
    TrustOption,
)
from runner.version import lastrun_version

if TYPE_CHECKING:
    from last_e.resume import Change
    from runner.job.job import Job
    from runner.launch.protocol import Launcher
    from runner.launch.ready import How
    from runner.spec import JobSpec


def submit(
    spec: SpecArgument,
    env: EnvOption = None,
    set_: SetOption = None,
    store: StoreOption = None,
    launcher: LauncherOption = None,
    on: OnOption = None,
    relay: RelayOption = False,
    yes_shut_down: ShutDownOption = False,
    yes_private_dataset: PrivateOption = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="check everything and show what would run; write nothing")] = False,
    detach: DetachOption = False,
    here: HereOption = False,
    parallel: ParallelOption = None,
    stop_after: StopAfterOption = None,
    yes: Annotated[
        bool,
        typer.Option("--yes", help="do not ask: before a sweep of more than 20 points, before a machine is rented for --env"),
    ] = False,
    quiet: QuietOption = False,
    json: JsonOption = False,
) -> None:
    """Check a job, keep it in the store, and run it; of a sweep, a job for each point."""
    from runner import kaggle
    from runner.errors import Exit, LastrunError, UsageError
    from runner.job.job import Job
    from runner.launch.approve import approve
    from runner.launch.protocol import Orders
    from runner.launch.ready import How
    from runner.launch.rent import agree, instead
    from runner.launch.start import make_launcher
    from runner.resolve import name_of, resolve_points
    from runner.store.open import store_of
    from runner.trust import Trust, brought, notes_of_file, words
    from runner.view.config import print_explained
    from runner.view.console import print_json, show
    from runner.weights import with_their_weights

    how = _to_its_queue(
        How(
            env,
            _settings(set_, relay, yes_private_dataset),
            launcher=launcher,
            here=here,
            on=_hosts(on, launcher),
            shut_down=yes_shut_down,
        )
    )
    first = _on_first(how)
    points = resolve_points(spec, first.env, first.settings, first.launcher)
    if points.is_sweep:
        from runner.commands.groups import submit_sweep

        submit_sweep(points, spec, how, store, parallel, stop_after, dry_run=dry_run, detach=detach, yes=yes, json=json)
    _see_that_it_is_one(str(spec), how)
    if parallel is not None or stop_after is not None:
        raise UsageError(f"{spec} is one job: --parallel and --stop-after are for a sweep")
    resolved = points.points[0].job
    if (other := instead(resolved, here)) is not None:
        resolved = resolve_points(spec, first.env, first.settings, other.launcher).points[0].job
    config, told = resolved.config, [*notes_of_file(resolved, spec), *resolved.of_data]
    _see_that_relay_fits(config, relay)
    _see_that_it_may_be_shut_down(config, yes_shut_down)
    target = store_of(config.store, store)
    told += kaggle.notes(target.uri)
    starter = make_launcher(config)
    name = name_of(config)
    [begun] = with_their_weights([resolved], target.uri)
    resolved, told = begun.job, [*told, *begun.told]
    if dry_run:
        obstacle: LastrunError | None = None
        try:
            approve(starter, target, resolved, here=here, only_look=True)
        except LastrunError as error:
            obstacle = error
        code = obstacle.exit_code if obstacle else Exit.DONE
        asked = starter.order(target.uri, name) if obstacle is None and isinstance(starter, Orders) else {}
        facts = {"name": name, "store": target.uri, "launcher": config.run.launcher, "order": asked, "config": resolved.items()}
        if json:
            print_json("submit", {"dry_run": True, "obstacle": str(obstacle) if obstacle else None, "notes": told, **facts})
            raise typer.Exit(code)
        for note in [*resolved.notes, *told]:
            show(note)
        print_explained(resolved.items(), resolved.origins, only_set=True)
        show(f"all else is as packaged: lastrun explain {spec} shows every value (with the same --env and --set)")
        if obstacle is not None:
            show(f"it could not start here: {obstacle}")
        else:
            if other is not None and other.is_paid:
                asked_for = "it would be asked whether to rent one, unless --yes says so"
                show(f"env {resolved.env}: this machine {other.found}; {asked_for}")
            for what, value in asked.items():
                show(f"would ask for {what}: {value}")
            show(f"would submit {name} to {target.uri} with launcher {config.run.launcher}; nothing was written")
        raise typer.Exit(code)
    for note in told:
        show(note, error=True)
    approve(starter, target, resolved, here=here)
    if other is not None:
        agree(resolved.env, other, yes, may_ask=not json and sys.stdin.isatty())
    # What was asked for is kept, not what auto found here: the attempt may run elsewhere.
    origins = {key: str(origin) for key, origin in resolved.origins.items()}
    trust, values = Trust(target.uri), brought(resolved)
    trust.remember(values)
    arguments = [*(["--here"] if here else []), *(["--yes-shut-down"] if yes_shut_down else []), *words(values)]
    start(
        lambda: Job.create(target, name, resolved.items(), origins, lastrun_version(), begun.weights),
        arguments,
        detach,
        json,
        "submit",
        starter,
        auto_continue=config.run.auto_continue,
    )


def resume(
    job: JobOrGroupArgument,
    env: EnvOption = None,
    set_: SetOption = None,
    allow_change: AllowOption = None,
    takeover: TakeoverOption = False,
    store: StoreOption = None,
    launcher: LauncherOption = None,
    on: OnOption = None,
    relay: RelayOption = False,
    yes_shut_down: ShutDownOption = False,
    yes_private_dataset: PrivateOption = False,
    detach: DetachOption = False,
    here: HereOption = False,
    trust: TrustOption = False,
    parallel: ParallelOption = None,
    stop_after: StopAfterOption = None,
    yes: Annotated[bool, typer.Option("--yes", help="do not ask before a machine is rented for --env")] = False,
    quiet: QuietOption = False,
    json: JsonOption = False,
) -> None:
    """Go on with a job from its newest whole checkpoint, here; of a group, with all that is unfinished."""
    from dataclasses import replace

    from runner import kaggle
    from runner.errors import NoSuchJobError, UsageError
    from runner.job.carry import carry, home_of, newer
    from runner.job.find import find
    from runner.job.group import Group
    from runner.launch.approve import approve
    from runner.launch.ready import How, ready
    from runner.launch.rent import agree, instead
    from runner.launch.settle import settled
    from runner.trust import Trust, see_that_nothing_is_gained
    from runner.view.console import show

    hosts = _hosts(on, launcher)
    try:
        found = find(job, store)
    except NoSuchJobError as error:
        raise NoSuchJobError(f"{error}{kaggle.where_earlier_jobs_are()}") from None
    how = _to_its_queue(
        How(
            env,
            _settings(set_, relay, yes_private_dataset),
            tuple(allow_change or ()),
            takeover,
            launcher,
            here,
            hosts,
            yes_shut_down,
        )
    )
    if isinstance(found, Group):
        from runner.commands.groups import resume_group

        resume_group(found, how, trust, parallel, stop_after, detach, json)
    _see_that_it_is_one(found.id, how)
    how = _on_first(how)
    if parallel is not None or stop_after is not None:
        raise UsageError(f"{found.id} is one job: --parallel and --stop-after are for a group of them")
    home = found
    if found.store.is_read_only(found.paths.all):  # it goes on where it can be written
        home = home_of(found)
        read, found = found.store, newer(home, found)
        if found is home:
            show(f"going on with the job in {home.store.uri}, which has all of it that {read.uri} has", error=True)
    trusted = Trust(found.store.uri, all_of_it=trust)
    attempts = settled(found)
    go = ready(found, attempts, how, trusted, copied=found is not home)
    # Only for who names the profile now: a stored job's own does not choose what starts it, nor what that costs.
    other = None if env is None else instead(go.resolved, here)
    if other is not None:
        go = ready(found, attempts, replace(how, launcher=other.launcher), trusted, copied=found is not home)
    _see_that_relay_fits(go.resolved.config, relay)
    _see_that_it_may_be_shut_down(go.resolved.config, yes_shut_down)
    if found is not home:
        to = Trust(home.store.uri)
        see_that_nothing_is_gained(trusted, to)
        to.remember(go.values)
    if trust:
        trusted.remember(go.values)
    kaggle.take_secrets(go.resolved.config.named_variables())
    for note in kaggle.notes(home.store.uri):
        show(note, error=True)
    approve(go.launcher, home.store, go.resolved, here=here, prefix=home.paths.all)
    if other is not None:
        agree(go.resolved.env, other, yes, may_ask=not json and sys.stdin.isatty())
    if takeover:
        from runner.launch.ssh.relay import end_all

        for note in end_all(found):
            show(note, error=True)

    def at_home() -> Job:
        return found if found is home else carry(found, home, lambda note: show(note, error=True))

    most = go.resolved.config.run.auto_continue
    start(at_home, go.arguments, detach, json, "resume", go.launcher, go.changes, most)


def _settings(set_: list[str] | None, relay: bool, private: bool) -> tuple[str, ...]:
    said = {"run.relay=true": relay, "run.kaggle.private_dataset=true": private}
    return (*(set_ or ()), *(word for word, meant in said.items() if meant))


def _see_that_relay_fits(config: JobSpec, relay: bool) -> None:
    """That it is asked for where it means something.

    Raises:
        UsageError: it is not.
    """
    from runner.errors import UsageError

    if relay and config.run.launcher != "ssh":
        raise UsageError(f"--relay: found launcher {config.run.launcher}; --relay is for a host that ssh reaches: --on HOST")


def _see_that_it_may_be_shut_down(config: JobSpec, yes: bool) -> None:
    """A file or a store alone switches no machine off.

    Raises:
        UsageError: it says so, and whoever calls has not, or the other way round; or it cannot be.
    """
    from runner.errors import UsageError

    run = config.run
    if yes and run.after != "shutdown":
        raise UsageError("--yes-shut-down: found run.after: nothing; --set run.after=shutdown switches the machine off")
    if run.after != "shutdown":
        return
    where = "this machine" if run.launcher == "local" else run.host
    if run.launcher not in ("local", "ssh"):
        raise UsageError(f"run.after: found shutdown with launcher {run.launcher}; allowed is it with local and ssh alone")
    if run.relay and run.launcher == "ssh":
        raise UsageError(f"run.after: found shutdown with --relay; what {where} keeps has to be fetched while it is on")
    if not yes:
        raise UsageError(
            f"run.after: shutdown would switch {where} off when the attempt has ended, and a file alone does not decide that: "
            "--yes-shut-down says that it may, --set run.after=nothing leaves it on. Nothing was started"
        )


def _hosts(on: str | None, launcher: str | None) -> tuple[str, ...]:
    """Those that ``--on`` names.

    Raises:
        UsageError: they cannot be, or another launcher was named.
    """
    if on is None:
        return ()
    from runner.errors import UsageError
    from runner.launch.hosts import hosts_named

    if launcher not in (None, "ssh", "slurm"):
        raise UsageError(f"--on {on}: found --launcher {launcher}; --on is for launcher ssh, and for slurm's login node")
    names = hosts_named(on)
    if launcher == "slurm" and len(names) > 1:
        raise UsageError(f"--on {on}: found {len(names)} hosts; with launcher slurm it names one, the login node")
    return names


def _to_its_queue(how: How) -> How:
    """With launcher slurm: through the login node that is named, whose queue deals out machines itself."""
    return how.at(how.on[0]) if how.on and how.launcher == "slurm" else how


def _on_first(how: How) -> How:
    """On the first of the hosts, where some are named. What a sweep keeps is what all of them have in common: the profile of
    one says nothing of the others."""
    if not how.on:
        return how
    from dataclasses import replace

    envs = {how.at(host).env for host in how.on}
    return replace(how.at(how.on[0]), env=how.env or (envs.pop() if len(envs) == 1 else None))


def _see_that_it_is_one(what: str, how: How) -> None:
    from runner.errors import UsageError

    if len(how.on) > 1:
        raise UsageError(f"{what} is one job: --on {','.join(how.on)} is for a sweep; one job takes one host")


def attempt(
    job_uri: Annotated[str, typer.Argument(metavar="JOB-URI")],
    env: EnvOption = None,
    set_: SetOption = None,
    allow_change: AllowOption = None,
    takeover: TakeoverOption = False,
    launcher: LauncherOption = None,
    here: HereOption = False,
    token: Annotated[str | None, typer.Option("--token", help="eight hexadecimal digits, with which its ID is to end")] = None,
    read_env: Annotated[bool, typer.Option("--read-env", help="read variables and files from standard input, as JSON")] = False,
    trusted: Annotated[list[str] | None, typer.Option("--trusted", help="marks of what whoever starts it has taken")] = None,
    heard: Annotated[list[str] | None, typer.Option("--heard", help="requests from before it was handed over")] = None,
    until: Annotated[int | None, typer.Option("--until", help="pause once this epoch is done")] = None,
    yes_shut_down: ShutDownOption = False,
    quiet: QuietOption = False,
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
    from runner import kaggle
    from runner.attempt.run import run_attempt
    from runner.job.job import Job
    from runner.store.open import open_store
    from runner.store.uri import StoreUri
    from runner.view.report.page import page_at_the_end

    kaggle.ask_no_more()
    store, job_id = StoreUri.parse(job_uri).parent()
    with ConsoleSink() as sink:
        job = Job(open_store(store), job_id)
        code = run_attempt(
            job,
            env,
            set_ or [],
            allow_change or [],
            sink,
            takeover,
            launcher,
            token,
            here,
            trusted or [],
            heard,
            until,
            yes_shut_down,
            page_at_the_end,
        )
    raise typer.Exit(code)


def again(
    job_uri: Annotated[str, typer.Argument(metavar="JOB-URI")],
    most: Annotated[int, typer.Option("--most", help="how often it may be")],
) -> None:
    """Whether a batch system is to begin the attempt anew in which this is called; batch scripts ask it."""
    from runner.attempt.again import why_not_again
    from runner.errors import Exit
    from runner.job.job import Job
    from runner.store.open import open_store
    from runner.store.uri import StoreUri
    from runner.view.console import say

    store, job_id = StoreUri.parse(job_uri).parent()
    why = why_not_again(Job(open_store(store), job_id), most)
    say("it goes back into the queue, and on from its last checkpoint" if why is None else f"it is not begun anew: {why}")
    raise typer.Exit(Exit.DONE if why is None else Exit.FAILED)


def start(
    make: Callable[[], Job],
    arguments: list[str],
    detach: bool,
    json: bool,
    command: str,
    launcher: Launcher,
    changes: Sequence[Change] = (),
    auto_continue: int = 0,
) -> NoReturn:
    """Make or take a job and start an attempt; who leaves before its launcher listens is told how the job goes on."""
    from last_e.terminal import is_quiet
    from runner.errors import Exit, NoSuchJobError, PausedError
    from runner.launch import start as launch
    from runner.launch.continued import run_on
    from runner.signals import handled, interrupt
    from runner.view.config import changes_text
    from runner.view.console import json_text, say, show
    from runner.view.status import job_status

    if is_quiet():
        arguments = [*arguments, "--quiet"]  # it may run where this process's variables are not
    asked: list[int] = []
    job, token, waiting = None, None, None

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
                say(f"job: {job.uri}")
                if changes:
                    say(changes_text(changes))
            if detach:
                if auto_continue:
                    show(f"run.auto_continue: found {auto_continue}; with --detach nobody is here to begin another", error=True)
                waiting, code = launch.detach(launcher, job, arguments), 0
            else:
                code, token = run_on(
                    launcher, job, arguments, auto_continue, quiet=json, say=lambda text: show(text, error=True)
                )
        except KeyboardInterrupt:
            if job is None:
                raise
            raise PausedError(f"{job.id}: interrupted; lastrun resume {job.reference} goes on with it") from None
    if code == Exit.NO_SUCH_JOB:
        raise NoSuchJobError(f"{job.id} was deleted while it ran; lastrun list shows those there are")
    if json:
        say(json_text(command, job_status(job)))
    elif token is None:
        say(f"{waiting or 'running in the background'}; lastrun status {job.reference}")
    else:
        say(f"job:  {job.uri}\n{_end(job, token, code)}")
    raise typer.Exit(code)


def _end(job: Job, token: str, code: int) -> str:
    """What to do after an attempt that has just ended: one read, if it could say how; else what others know of its end, too."""
    from runner.errors import Exit, Reason, State
    from runner.view.status import job_status

    attempt = job.attempts.of(token)
    if attempt is not None and attempt.reason not in (None, Reason.LEASE_LOST.value):
        return f"next: {Reason(attempt.reason).ending.advice.format(job=job.reference)}"
    status = job_status(job)
    if attempt is None and code == Exit.PAUSED:
        told = f"left before its attempt began: the job is {status['state']}, and nothing was trained"
        return f"{told}\nnext: {status['next']}"
    why = f"lost: {status['message']}\n" if status["state"] == State.LOST.value and status["message"] else ""
    return f"{why}next: {status['next']}"
