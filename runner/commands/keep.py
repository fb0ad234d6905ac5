"""Commands about what is kept of a job: stop, pull, sync, rm."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from runner.commands.options import GROUP_HELP, JobArgument, JobOrGroupArgument, JsonOption, StoreOption


def stop(
    job: Annotated[str | None, typer.Argument(metavar="JOB|GROUP", help=GROUP_HELP, show_default=False)] = None,
    all_: Annotated[bool, typer.Option("--all", help="every job of the store that runs")] = False,
    now: Annotated[bool, typer.Option("--now", help="at once, without saving")] = False,
    wait: Annotated[bool, typer.Option("--wait", help="until it has stopped")] = False,
    store: StoreOption = None,
    json: JsonOption = False,
) -> None:
    """Ask a job to save and stop, wherever it runs; of a group, all points, and whoever runs them begins no more."""
    from runner.errors import State, UsageError
    from runner.job.find import find, list_jobs
    from runner.job.group import Group
    from runner.job.paths import group_of
    from runner.launch.settle import state_of
    from runner.store.open import default_store, open_store
    from runner.view.console import print_json, show
    from runner.view.status import running, until_stopped

    if (job is None) is not all_:
        both = "name a job or say --all, not both" if all_ else "name a job, or say --all"
        raise UsageError(f"{both}; lastrun list shows those there are")
    groups: list[Group] = []
    if job is None:
        found = running(list_jobs(target := open_store(store or default_store())))
        groups = [Group(target, name) for name in dict.fromkeys(group_of(one.id) for one in found) if name is not None]
    elif isinstance(one := find(job, store), Group):
        groups = [one]
    else:
        found = [one]
        state, attempt, _ = state_of(one)
        if state is not State.RUNNING or attempt is None:
            raise UsageError(f"{one.id} is {state.value}: there is nothing to stop")
    for group in groups:  # first: whoever runs its points begins no more of them
        group.requests.ask_to_stop(now)
    if job is not None and groups:
        found = running(iter(groups[0].jobs()))
    for one in found:
        one.requests.ask_to_stop(now)
        if not json:
            show(f"{one.id} is stopping; lastrun status {one.reference} tells when it has stopped")
    if not found and not json:
        show(f"no point of {groups[0].id} runs; whoever runs its points begins no more" if groups else "no job runs")
    ended = {}
    for one, facts in until_stopped(found) if wait else ():
        ended[one.id] = facts["state"]
        if not json:
            show(f"{one.id}: {facts['state']} at step {facts['step']:,}; {facts['next']}")
    if json:
        asked = "now" if now else "save"
        jobs = [{"id": one.id, "asked": asked, "state": ended.get(one.id, "stopping")} for one in found]
        named = None if job is None else groups[0].id if groups else found[0].id
        print_json("stop", {"id": named, "asked": asked, "jobs": jobs})


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
    job: JobOrGroupArgument,
    store: StoreOption = None,
    json: JsonOption = False,
) -> None:
    """Delete a job whole, or a group with all its jobs; takes the whole ID."""
    from runner.errors import State, UsageError
    from runner.job.find import find
    from runner.job.group import Group
    from runner.launch.settle import state_of
    from runner.view.console import print_json, show
    from runner.view.status import running

    found = find(job, store, whole=True)
    if isinstance(found, Group):
        if busy := running(iter(found.jobs())):
            raise UsageError(f"{found.id}: {len(busy)} of its points run: lastrun stop {found.reference} first")
    elif state_of(found)[0] is State.RUNNING:
        raise UsageError(f"{found.id} is running: lastrun stop {found.reference} first")
    count = found.delete()
    if json:
        print_json("rm", {"id": found.id, "objects": count})
    else:
        show(f"{found.id} deleted ({count} objects)")
