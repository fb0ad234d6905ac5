"""Commands about what is kept of a job: stop, pull, sync, rm."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from runner.commands.options import GROUP_HELP, JobArgument, JobOrGroupArgument, JsonOption, QuietOption, StoreOption, at_home

if TYPE_CHECKING:
    from runner.job.group import Group
    from runner.job.job import Job
    from runner.launch.stopping import ToStop
    from runner.store.protocol import Store

_MOST_NAMED = 10
"""Of jobs that may wait where nobody answers; of more the number is told."""


def stop(
    job: Annotated[str | None, typer.Argument(metavar="JOB|GROUP", help=GROUP_HELP, show_default=False)] = None,
    all_: Annotated[bool, typer.Option("--all", help="every job of the store that runs or waits to begin")] = False,
    now: Annotated[bool, typer.Option("--now", help="at once, without saving")] = False,
    wait: Annotated[bool, typer.Option("--wait", help="until it has stopped")] = False,
    store: StoreOption = None,
    json: JsonOption = False,
) -> None:
    """Ask a job to save and stop, wherever it runs; of a group, all points, and whoever runs them begins no more."""
    from runner.errors import Exit, UsageError
    from runner.job.find import find, store_with_jobs
    from runner.job.group import Group
    from runner.launch.settle import state_of
    from runner.launch.stopping import ASKED, ask, to_stop
    from runner.view.console import print_json, show
    from runner.view.status import until_stopped

    if (job is None) is not all_:
        both = "name a job or say --all, not both" if all_ else "name a job, or say --all"
        raise UsageError(f"{both}; lastrun list shows those there are")
    one = None if job is None else find(job, store)
    if one is None:
        found = _stop_all(store_with_jobs(store), now)
    elif isinstance(one, Group):
        found = _stop_group(one, now)
    else:
        found = to_stop(one)
    deaf = ask(found, now)
    for each in found.cut:
        if not json:
            show(
                f"{each.id}: nothing of it runs; whoever follows it begins no other attempt by itself (run.auto_continue); "
                f"lastrun resume {each.reference} goes on with it"
            )
    leaves = f"what waits there leaves as soon as it has begun, which {'is not waited for: ' if wait else ''}lastrun"
    many = [each for each, what in found.later if what == ASKED]
    are_named = len(many) <= _MOST_NAMED
    if not are_named and not json:
        show(f"{len(many)} jobs that do not run: {ASKED} of each; {leaves} list tells")
    for each, what in [] if json else found.later:
        if are_named or what != ASKED:
            show(f"{each.id}: {what}; {leaves} status {each.reference} tells")
    hearing = [each for each in found.runs if each.id not in deaf]
    for each in hearing:
        if not json:
            then = "waiting until it has stopped" if wait else f"lastrun status {each.reference} tells when it has stopped"
            show(f"{each.id} is stopping; {then}")
    for each, what in [] if json else found.taken:
        show(f"{each.id}: {what} was taken out of the queue; lastrun resume {each.reference} goes on with it")
    for words in [*found.unread, *found.silent]:
        show(words, error=True)
    if found.is_empty and not json:
        known = "no job runs" if not found.unread else "no job runs of those that can be read"
        show(known if one is None else f"no point of {one.id} runs, and none is begun by whoever may run its points")
    ended = {}
    for each, facts in until_stopped(hearing) if wait else ():
        ended[each.id] = facts["state"]
        if not json:
            show(f"{each.id}: {facts['state']} at step {facts['step']:,}; {facts['next']}")
    if json:
        asked = "now" if now else "save"
        jobs = [{"id": each.id, "asked": asked, "state": ended.get(each.id, "stopping")} for each in hearing]
        not_running: list[tuple[Job, str | None]] = [(each, asked) for each in found.cut]
        not_running += [(each, asked) for each, _ in found.later] + [(each, None) for each, _ in found.taken]
        jobs += [{"id": each.id, "asked": what, "state": state_of(each)[0].value} for each, what in not_running]
        jobs += [{"id": each, "asked": None, "state": "running"} for each in deaf]
        print_json(
            "stop",
            {
                "id": one.id if one else None,
                "asked": asked if hearing or found.cut or found.later or not (found.taken or deaf) else None,
                "jobs": jobs,
                "problems": [*found.unread, *found.silent],
            },
        )
    if found.unread or deaf:
        raise typer.Exit(Exit.STORE if found.unread else Exit.NO_ENGINE)


def _stop_all(store: Store, now: bool) -> ToStop:
    """Of a whole store; groups of which something waits begin no more. Where a launcher does not tell what waits, any job may
    that it may have and that has not reached its end."""
    from runner.errors import State
    from runner.job.find import list_jobs
    from runner.job.group import Group
    from runner.job.paths import group_of
    from runner.launch.continued import may_go_on
    from runner.launch.settle import waiting
    from runner.launch.stopping import ASKED, ToStop, take_back
    from runner.view.status import with_their_attempts

    known, unread = with_their_attempts(list_jobs(store))
    queued, silent, unsure = waiting([job for job, state, _ in known if state is not State.RUNNING])
    found = ToStop([job for job, state, _ in known if state is State.RUNNING], unread=unread, silent=silent)
    idle = [one for one in known if one[1] is not State.RUNNING and one[0] not in queued]
    found.cut = [job for job, _, last in idle if may_go_on(last, 3600.0)]
    over = [job for job, state, _ in idle if state is State.SUCCEEDED]
    found.later = [(job, ASKED) for job in unsure if job not in over and job not in found.cut]
    for group_id in dict.fromkeys(group_of(job.id) for job in [*found.runs, *queued, *(job for job, _ in found.later)]):
        if group_id is not None:  # first: whoever runs its points begins no more of them
            Group(store, group_id).requests.ask_to_stop(now)
    take_back(found, queued)
    return found


def _stop_group(group: Group, now: bool) -> ToStop:
    """Whoever runs the group begins no more, and what waits in a queue that is not seen from here leaves when it begins."""
    from runner.errors import State
    from runner.launch.settle import waiting
    from runner.launch.stopping import ASKED, ToStop, take_back
    from runner.view.status import states

    group.requests.ask_to_stop(now)
    by_state, unread = states(group.jobs())
    idle = [job for job, state in by_state if state not in (State.RUNNING, State.SUCCEEDED)]
    queued, silent, unsure = waiting(idle)
    found = ToStop([job for job, state in by_state if state is State.RUNNING], unread=unread, silent=silent)
    found.later = [(job, ASKED) for job in unsure]
    unseen = [job for job in idle if job not in queued and job not in unsure]
    group.store.in_parallel([partial(job.requests.ask_to_stop, now) for job in unseen])
    take_back(found, queued)
    return found


def pull(
    job: JobArgument,
    destination: Annotated[Path, typer.Argument(metavar="FOLDER", help="folder to put the checkpoint in", callback=at_home)],
    best: Annotated[bool, typer.Option("--best", help="the best by top-1 instead of the newest")] = False,
    step: Annotated[int | None, typer.Option("--step", metavar="N", min=0, help="the one of step N")] = None,
    store: StoreOption = None,
    quiet: QuietOption = False,
    json: JsonOption = False,
) -> None:
    """Download a checkpoint, whole or not at all."""
    from last_e.bar import Bar
    from runner.errors import UsageError
    from runner.job.find import find_job
    from runner.job.pull import pull_checkpoint
    from runner.launch.ssh.relay import fetch
    from runner.view.console import print_json, show

    if best and step is not None:
        raise UsageError("--best and --step name one checkpoint each: give one of them")
    found = find_job(job, store)
    fetch(found)
    with Bar("MB") as bar:
        name = pull_checkpoint(found, destination, best=best, step=step, watch=bar.of_growing)
    if json:
        print_json("pull", {"checkpoint": name, "path": str(destination)})
    else:
        show(f"{destination}: checkpoint {name}")


def sync(
    job: JobArgument,
    from_: Annotated[
        Path | None, typer.Option("--from", metavar="DIR", help="the outbox that the attempt named", callback=at_home)
    ] = None,
    store: StoreOption = None,
    quiet: QuietOption = False,
    json: JsonOption = False,
) -> None:
    """Send what an ended attempt left on this machine, and fetch what a host keeps of the job."""
    from last_e.bar import Bar
    from runner.attempt.leftovers import sync_job
    from runner.errors import EngineError
    from runner.job.find import find_job
    from runner.launch.settle import scratch_places, settled
    from runner.launch.ssh.relay import GONE, relays
    from runner.view.console import print_json, show

    found = find_job(job, store)
    try:
        fetched = sum(relay.pull() or 0 for relay in ([] if from_ is not None else relays(found)))
    except EngineError as error:
        raise EngineError(f"{error}. {GONE.format(job=found.reference)}") from None
    # Settled first: an attempt whose container has ended does not count as alive.
    with Bar("objects sent") as bar:
        sent = sync_job(found, from_, [] if from_ is not None else scratch_places(found, settled(found)), bar.update)
    if json:
        print_json("sync", {"sent": sent, "fetched": fetched})
    else:
        told = [f"{count} objects {what}" for count, what in ((fetched, "fetched"), (sent, "sent")) if count]
        show(", ".join(told) or "nothing was waiting")


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
