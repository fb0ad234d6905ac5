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

if TYPE_CHECKING:
    from last_e.resume import Change
    from runner.job.job import Job
    from runner.launch.protocol import Launcher


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
    from runner.errors import Exit, LastrunError, UsageError
    from runner.launch.approve import approve
    from runner.launch.begin import how_to, new_job, on_first, see_that_it_is_one
    from runner.launch.protocol import Orders
    from runner.resolve import resolve_points
    from runner.view.config import print_explained
    from runner.view.console import print_json, show

    how = how_to(env, set_ or (), launcher, on=on, relay=relay, private=yes_private_dataset, here=here, shut_down=yes_shut_down)
    first = on_first(how)
    points = resolve_points(spec, first.env, first.settings, first.launcher)
    if points.is_sweep:
        from runner.commands.groups import submit_sweep

        submit_sweep(points, spec, how, store, parallel, stop_after, dry_run=dry_run, detach=detach, yes=yes, json=json)
    see_that_it_is_one(str(spec), how)
    if parallel is not None or stop_after is not None:
        raise UsageError(f"{spec} is one job: --parallel and --stop-after are for a sweep")
    job = new_job(points, spec, how, store)
    for note in [*(job.resolved.notes if dry_run and not json else []), *job.notes]:
        show(note, error=json or not dry_run)
    begun = job.begun  # not before that was shown: it asks for what the file names
    if dry_run:
        obstacle: LastrunError | None = None
        try:
            approve(job.launcher, job.store, job.resolved, here=here, only_look=True)
        except LastrunError as error:
            obstacle = error
        resolved, name, target, kind = begun.job, job.name, job.store.uri, job.resolved.config.run.launcher
        code = obstacle.exit_code if obstacle else Exit.DONE
        asked = job.launcher.order(target, name) if obstacle is None and isinstance(job.launcher, Orders) else {}
        facts = {"name": name, "store": target, "launcher": kind, "order": asked, "config": resolved.items()}
        if json:
            told = str(obstacle) if obstacle else None
            print_json("submit", {"dry_run": True, "obstacle": told, "notes": [*job.notes, *begun.told], **facts})
            raise typer.Exit(code)
        for note in begun.told:
            show(note)
        print_explained(resolved.items(), resolved.origins, only_set=True)
        show(f"all else is as packaged: lastrun explain {spec} shows every value (with the same --env and --set)")
        if obstacle is not None:
            show(f"it could not start here: {obstacle}")
        else:
            if job.other is not None and job.other.is_paid:
                asked_for = "it would be asked whether to rent one, unless --yes says so"
                show(f"env {resolved.env}: this machine {job.other.found}; {asked_for}")
            for what, value in asked.items():
                show(f"would ask for {what}: {value}")
            show(f"would submit {name} to {target} with launcher {kind}; nothing was written")
        raise typer.Exit(code)
    for note in begun.told:
        show(note, error=True)
    begin = job.begin(yes=yes, may_ask=not json and _somebody_is_there())
    start(begin.make, begin.arguments, detach, json, "submit", begin.launcher, auto_continue=begin.auto_continue)


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
    from runner import kaggle
    from runner.errors import NoSuchJobError, UsageError
    from runner.job.find import find
    from runner.job.group import Group
    from runner.launch.begin import go_on, how_to, see_that_it_is_one
    from runner.view.console import show

    how = how_to(
        env,
        set_ or (),
        launcher,
        on=on,
        relay=relay,
        private=yes_private_dataset,
        here=here,
        shut_down=yes_shut_down,
        allow_change=allow_change or (),
        takeover=takeover,
    )
    try:
        found = find(job, store)
    except NoSuchJobError as error:
        raise NoSuchJobError(f"{error}{kaggle.where_earlier_jobs_are()}") from None
    if isinstance(found, Group):
        from runner.commands.groups import resume_group

        resume_group(found, how, trust, parallel, stop_after, detach, json)
    see_that_it_is_one(found.id, how)
    if parallel is not None or stop_after is not None:
        raise UsageError(f"{found.id} is one job: --parallel and --stop-after are for a group of them")
    may_ask = not json and _somebody_is_there()
    begin = go_on(found, how, trust=trust, yes=yes, may_ask=may_ask, say=lambda text: show(text, error=True))
    start(begin.make, begin.arguments, detach, json, "resume", begin.launcher, begin.changes, begin.auto_continue)


def _somebody_is_there() -> bool:
    """Whether whoever calls could be asked; standard input may be closed."""
    return sys.stdin is not None and sys.stdin.isatty()


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
    until: Annotated[int | None, typer.Option("--until", metavar="EPOCH", min=1, help="pause once this epoch is done")] = None,
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
    most: Annotated[int, typer.Option("--most", metavar="N", help="how often it may be")],
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
    from functools import partial

    from last_e.terminal import is_quiet
    from runner.errors import Exit, NoSuchJobError, PausedError
    from runner.launch import start as launch
    from runner.launch.continued import run_on
    from runner.signals import handled, interrupt
    from runner.view.attempt import AttemptView
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
                say_so = partial(show, error=True)
                code, token = run_on(launcher, job, arguments, auto_continue, quiet=json, say=say_so, look=AttemptView)
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
