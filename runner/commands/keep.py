"""Commands about what is kept of a job: stop, pull, sync, rm."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from runner.commands.options import JOB_HELP, JobArgument, JsonOption, StoreOption

if TYPE_CHECKING:
    from runner.job.job import Job


def stop(
    job: Annotated[str | None, typer.Argument(metavar="JOB", help=JOB_HELP, show_default=False)] = None,
    all_: Annotated[bool, typer.Option("--all", help="every job of the store that runs or waits to begin")] = False,
    now: Annotated[bool, typer.Option("--now", help="at once, without saving")] = False,
    wait: Annotated[bool, typer.Option("--wait", help="until it has stopped")] = False,
    store: StoreOption = None,
    json: JsonOption = False,
) -> None:
    """Ask a job to save and stop, wherever it runs."""
    from runner.errors import State, UsageError
    from runner.job.find import find_job, list_jobs, store_with_jobs
    from runner.launch.settle import state_of, waiting, withdraw
    from runner.view.console import print_json, show
    from runner.view.status import running, until_stopped

    if (job is None) is not all_:
        both = "name a job or say --all, not both" if all_ else "name a job, or say --all"
        raise UsageError(f"{both}; lastrun list shows those there are")
    facts: list[dict[str, Any]] = []
    found: list[Job] = []

    def take_out(one: Job) -> list[str] | None:
        """None if something of it was in a queue; else why nobody knows."""
        taken, silent = withdraw(one)
        if taken is None:
            return silent
        facts.append({"id": one.id, "asked": None, "state": state_of(one)[0].value})
        if not json:
            show(f"{one.id}: {taken} was taken out of the queue; lastrun resume {one.reference} goes on with it")
        return None

    if job is not None:
        named = find_job(job, store)
        state, attempt, _ = state_of(named)
        if state is State.RUNNING and attempt is not None:
            found = [named]
        elif (silent := take_out(named)) is not None:
            raise UsageError(f"{named.id} is {state.value}: {'; '.join(['there is nothing to stop', *silent])}")
    else:
        named, jobs = None, list(list_jobs(store_with_jobs(store)))
        found = running(jobs)
        queued, silent = waiting([one for one in jobs if one not in found])
        for words in silent:
            show(words, error=True)
        found += [one for one in queued if take_out(one) is not None]  # it has begun meanwhile, or does so
    for one in found:
        one.requests.ask_to_stop(now)
        if not json:
            show(f"{one.id} is stopping; lastrun status {one.reference} tells when it has stopped")
    if not found and not facts and not json:
        show("no job runs")
    ended = {}
    for one, status in until_stopped(found) if wait else ():
        ended[one.id] = status["state"]
        if not json:
            show(f"{one.id}: {status['state']} at step {status['step']:,}; {status['next']}")
    if json:
        asked = "now" if now else "save"
        facts += [{"id": one.id, "asked": asked, "state": ended.get(one.id, "stopping")} for one in found]
        told = None if facts and not found else asked
        print_json("stop", {"id": named.id if named is not None else None, "asked": told, "jobs": facts})


def pull(
    job: JobArgument,
    destination: Annotated[Path, typer.Argument(metavar="FOLDER", help="folder to put the checkpoint in")],
    best: Annotated[bool, typer.Option("--best", help="the best by test top-1 instead of the newest")] = False,
    step: Annotated[int | None, typer.Option("--step", metavar="N", help="the one of step N")] = None,
    store: StoreOption = None,
    json: JsonOption = False,
) -> None:
    """Download a checkpoint, whole or not at all."""
    from runner.errors import UsageError
    from runner.job.find import find_job
    from runner.job.pull import pull_checkpoint
    from runner.view.console import print_json, show

    if best and step is not None:
        raise UsageError("--best and --step name one checkpoint each: give one of them")
    name = pull_checkpoint(find_job(job, store), destination, best=best, step=step)
    if json:
        print_json("pull", {"checkpoint": name, "path": str(destination)})
    else:
        show(f"{destination}: checkpoint {name}")


def sync(
    job: JobArgument,
    from_: Annotated[Path | None, typer.Option("--from", metavar="DIR", help="the outbox that the attempt named")] = None,
    store: StoreOption = None,
    json: JsonOption = False,
) -> None:
    """Send what an ended attempt left on this machine."""
    from runner.attempt.leftovers import sync_job
    from runner.job.find import find_job
    from runner.launch.settle import scratch_places, settled
    from runner.view.console import print_json, show

    found = find_job(job, store)
    # Settled first: an attempt whose container has ended does not count as alive.
    sent = sync_job(found, from_, [] if from_ is not None else scratch_places(found, settled(found)))
    if json:
        print_json("sync", {"sent": sent})
    else:
        show(f"{sent} objects sent" if sent else "nothing was waiting")


def rm(
    job: JobArgument,
    store: StoreOption = None,
    json: JsonOption = False,
) -> None:
    """Delete a job whole; takes its whole ID."""
    from runner.errors import State, UsageError
    from runner.job.find import find_job
    from runner.launch.settle import state_of
    from runner.view.console import print_json, show

    found = find_job(job, store, whole=True)
    if state_of(found)[0] is State.RUNNING:
        raise UsageError(f"{found.id} is running: lastrun stop {found.reference} first")
    count = found.delete()
    if json:
        print_json("rm", {"id": found.id, "objects": count})
    else:
        show(f"{found.id} deleted ({count} objects)")
