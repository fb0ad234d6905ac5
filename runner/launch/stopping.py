"""What there is to stop of jobs, and the asking: the same for the command and for Python."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial

from runner.errors import State, UsageError
from runner.job.job import Job
from runner.launch.continued import may_go_on
from runner.launch.kaggle.kept import where_to_press
from runner.launch.settle import state_of, waiting, waits, withdraw
from runner.launch.ssh.relay import deliver

ASKED = "the request is in the store"


@dataclass
class ToStop:
    """What there is to stop."""

    runs: list[Job] = field(default_factory=list)
    taken: list[tuple[Job, str]] = field(default_factory=list)
    """What was taken out of a queue."""
    later: list[tuple[Job, str]] = field(default_factory=list)
    """What waits, or may wait, where nobody can take it back."""
    cut: list[Job] = field(default_factory=list)
    """Jobs that whoever follows them may be about to go on with."""
    unread: list[str] = field(default_factory=list)
    """Which jobs cannot be read."""
    silent: list[str] = field(default_factory=list)
    """What does not answer, or does not hear."""

    @property
    def is_empty(self) -> bool:
        """Whether nothing is asked, or taken back."""
        return not (self.runs or self.taken or self.later or self.cut)


def to_stop(job: Job) -> ToStop:
    """What of one job can be stopped. What waits in a queue is taken back.

    Raises:
        UsageError: nothing.
    """
    state, attempt, _ = state_of(job)
    if state is State.RUNNING and attempt is not None:
        return ToStop(runs=[job])
    queued, silent, unsure = waiting([job])
    found = ToStop(silent=silent)
    if queued:
        take_back(found, queued)
    elif may_go_on(attempt):
        found.cut = [job]
    elif unsure and state is not State.SUCCEEDED:
        found.later = [(job, ASKED)]
    else:
        raise UsageError(f"{job.id} is {state.value}: {'; '.join(['there is nothing to stop', *silent])}")
    return found


def take_back(found: ToStop, queued: list[Job]) -> None:
    """Of these jobs something waits: it is taken back, or asked where nobody can do that."""
    for job in sorted(queued, key=lambda job: job.id, reverse=True):  # one may wait for another's end
        what, silent = withdraw(job)
        if what is not None:
            found.taken.append((job, what))
            continue
        found.silent += [f"{job.id}: {words}" for words in silent]
        if (later := waits(job)) is not None:
            found.later.append((job, later))
        elif silent:
            found.later.append((job, ASKED))
        else:
            found.runs.append(job)  # it has begun meanwhile, or does so


def ask(found: ToStop, now: bool) -> dict[str, list[str]]:
    """Ask all of it to save and leave, or to leave ``now`` without. Of those that do not hear, by job, what is to be told."""
    for each in found.cut:
        each.requests.ask_to_stop(now)
    if found.later:
        found.later[0][0].store.in_parallel([partial(each.requests.ask_to_stop, now) for each, _ in found.later])
    deaf: dict[str, list[str]] = {}
    for each in found.runs:
        each.requests.ask_to_stop(now)
        if told := where_to_press(each):
            deaf[each.id] = told
        else:
            found.silent += deliver(each)
    found.silent += [words for told in deaf.values() for words in told]
    return deaf
