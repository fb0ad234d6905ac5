"""Jobs of a group before they run: which of them there is anything to do for, and whether all of that can be done."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Literal

from last_e.layers import Resolved
from last_e.problems import ConfigError, show
from runner.errors import LastrunError, NoSuchJobError, State
from runner.job.job import Job
from runner.launch.approve import approve
from runner.launch.ready import How, Ready, ready
from runner.launch.settle import settle
from runner.launch.start import make_launcher
from runner.launch.together import raise_all
from runner.resolve import unlike
from runner.spec import JobSpec
from runner.store.protocol import Store
from runner.trust import Trust

Kind = Literal["to do", "succeeded", "running", "failed"]


@dataclass(frozen=True)
class Task:
    """A point, and what there is to do for it."""

    job: Job
    number: int
    """Its own in the group."""
    count: int
    words: str
    """What it sets."""
    kind: Kind
    known: tuple[str, ...]
    """Its attempts when this was found out."""
    why: str = ""
    """Of one that failed so that it would again: the reason."""
    go: Ready | None = None


def find_tasks(jobs: Iterable[Job], how: How, trust: Callable[[], Trust], *, copied: bool = False) -> list[Task]:
    """What there is to do for jobs of a group, in their order. With ``copied`` they are in a store that can only be read, and
    go on as copies elsewhere.

    Raises:
        LastrunError, ConfigError: some cannot go on so; all that is in the way.
    """
    some = list(jobs)
    found = some[0].store.in_parallel([partial(_task, job, how, trust, copied) for job in some]) if some else []
    raise_all([one for one in found if isinstance(one, (LastrunError, ConfigError))])
    return [one for one in found if isinstance(one, Task)]


def _task(job: Job, how: How, trust: Callable[[], Trust], copied: bool) -> Task | LastrunError | ConfigError | None:
    try:
        group = job.record(again=True)["group"]
        names = tuple(job.attempts.names())
        attempts = settle(job, job.attempts.read(names))
        stand = state, _, reason = job.attempts.state(attempts)
        member = (int(job.id[-4:]), int(group["count"])) if group else (1, 1)
        values = group["values"] if group else {}
        said = ", ".join(f"{key}={show(value)}" for key, value in values.items()) or "the job as it is"
        task = partial(Task, job, *member, said)
        if state is State.SUCCEEDED and not how.allow_change:
            return task("succeeded", names)
        if state is State.RUNNING and not how.takeover and not copied:
            return task("running", names)
        if reason is not None and not reason.ending.resumable and not how.allow_change:
            return task("failed", names, reason.value)
        return task("to do", names, go=ready(job, attempts, how, trust(), stand, copied=copied))
    except NoSuchJobError:  # it is being deleted
        return None
    except (LastrunError, ConfigError) as error:
        return error


def approve_all(
    store: Store, jobs: Iterable[Resolved[JobSpec]], *, here: bool, prefix: str = "", only_look: bool = False
) -> None:
    """See to all that attempts of these jobs need; see :func:`~runner.launch.approve.approve`.

    Raises:
        LastrunError: all that is missing, with the exit code of the first.
    """
    missing: list[LastrunError] = []
    for job in unlike(jobs):
        try:
            approve(make_launcher(job.config), store, job, here=here, prefix=prefix, only_look=only_look)
        except LastrunError as error:
            missing.append(error)
    raise_all(missing)
