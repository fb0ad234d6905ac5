"""The points that have yet to be begun: which is next, and how far it is trained."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial

from last_e.choosing import chosen_by
from runner.errors import DamagedObjectError, NoSuchJobError, State, UsageError
from runner.halving import Halving, next_point
from runner.job.group import Group
from runner.job.job import Job
from runner.launch.points import Task
from runner.launch.protocol import Launcher, Queue
from runner.launch.start import make_launcher
from runner.spec import JobSpec


class Line:
    """Points in the order of their numbers, each trained to its end; those that come back stand at the end."""

    def __init__(self, tasks: Sequence[Task]) -> None:
        self._tasks, self._left = tasks, deque(tasks)

    def __len__(self) -> int:
        """How many there is still something to do for."""
        return len(self._left)

    def launchers(self) -> list[Launcher]:
        """One of each kind that they begin with."""
        return list({type(task.go.launcher): task.go.launcher for task in self._tasks if task.go is not None}.values())

    def may_begin(self, at_work: bool) -> bool:
        """Whether one could begin now; ``at_work``: others run."""
        return bool(self._left)

    def take(self, at_work: bool) -> tuple[Task, list[str]]:
        """The next one, with what its attempt is told."""
        return self._left.popleft(), []

    def put_back(self, task: Task) -> None:
        """It has not begun after all: the next to be taken."""
        self._left.appendleft(task)

    def give_back(self, task: Task) -> None:
        """It is to be begun again.

        Raises:
            StoreError: the store does not tell who has been at it.
        """
        self._left.append(_as_known_now(task))

    def came_as_far(self, task: Task) -> None:
        """It has come as far as it was to come for now.

        Raises:
            StoreError: the store does not tell how it fares.
        """

    def drop(self, task: Task) -> None:
        """It has failed: nothing more is to be done for it, and others are not measured by it."""


class HalvedLine(Line):
    """Points of a group whose weak ones are left early; see :mod:`runner.halving`.

    Raises:
        StoreError: the store does not tell how far they are.
    """

    def __init__(self, group: Group, halving: Halving, tasks: Sequence[Task], failed: Iterable[Task] = ()) -> None:
        super().__init__(tasks)
        self._factor = halving.factor
        self._rungs = halving.rungs(max(task.go.resolved.config.training.epochs for task in tasks if task.go is not None))
        self._waiting = {task.number: task for task in tasks}
        jobs = group.jobs()
        worth = group.store.in_parallel([partial(worth_of, job, self._rungs) for job in jobs])
        self._values = dict(enumerate(worth, 1))
        self._until: dict[int, int] = {}
        for task in failed:
            self.drop(task)

    def __len__(self) -> int:
        return len(self._waiting) if self.may_begin(at_work=False) else 0

    def may_begin(self, at_work: bool) -> bool:
        """Whether one could: others may have to come as far first."""
        return self._next(at_work) is not None

    def take(self, at_work: bool) -> tuple[Task, list[str]]:
        """The next one, and until when."""
        found = self._next(at_work)
        assert found is not None
        number, until = found
        if until is not None:
            self._until[number] = until
        return self._waiting.pop(number), [] if until is None else ["--until", str(until)]

    def put_back(self, task: Task) -> None:
        """It has not begun after all."""
        self._waiting[task.number] = task

    def give_back(self, task: Task) -> None:
        """It was lost on the way; see :meth:`Line.give_back`."""
        known = _as_known_now(task)
        self._values[task.number] = worth_of(Job(task.job.store, task.job.id), self._rungs)
        self._waiting[task.number] = known

    def came_as_far(self, task: Task) -> None:
        """It waits at the rung to which it was trained.

        Raises:
            DamagedObjectError: what it is worth there is not in the store: it would be trained to there again and again.
        """
        self.give_back(task)
        if (until := self._until.get(task.number)) not in self._values[task.number]:
            raise DamagedObjectError(f"its metrics do not tell of epoch {until}")

    def drop(self, task: Task) -> None:
        """It has failed; see :meth:`Line.drop`."""
        self._waiting.pop(task.number, None)
        self._values[task.number] = {}

    def _next(self, at_work: bool) -> tuple[int, int | None] | None:
        return next_point(self._values, self._rungs, self._factor, self._waiting.keys(), at_work)


def is_searched(group: Group) -> bool:
    """Whether nothing of a group is trained any more but by its own name: it is halved, and the rest was too weak.

    Raises:
        StoreError: the store does not tell how far its points are.
    """
    halving = group.halving()
    if halving is None:
        return False
    jobs = group.jobs()
    states = group.store.in_parallel([job.state for job in jobs])
    rungs = halving.rungs(max(int(job.record()["config"]["training.epochs"]) for job in jobs))
    worth = group.store.in_parallel([partial(worth_of, job, rungs) for job in jobs])
    values = {number: worth[number - 1] for number, (state, _, _) in enumerate(states, 1) if state is not State.FAILED}
    waiting = [number for number, (state, _, _) in enumerate(states, 1) if number in values and state is not State.SUCCEEDED]
    return next_point(values, rungs, halving.factor, waiting, at_work=False) is None


def worth_of(job: Job, rungs: Sequence[int]) -> dict[int, float]:
    """Of each rung that a job has come to, the best top-1 until then."""
    try:
        epochs = [(int(epoch["epoch"]), chosen_by(epoch)) for epoch in job.metrics()]
    except NoSuchJobError:
        return {}
    last = max((epoch for epoch, _ in epochs), default=0)
    return {rung: max(top1 for epoch, top1 in epochs if epoch <= rung) for rung in rungs if rung <= last}


def _as_known_now(task: Task) -> Task:
    return replace(task, known=tuple(task.job.attempts.names()))


def see_that_somebody_decides(halving: Halving | None, config: JobSpec, *, detach: bool) -> None:
    """Nobody decides which points go on, once all are in a queue and the command has returned.

    Raises:
        UsageError: so it would be.
    """
    if halving is not None and detach and isinstance(make_launcher(config), Queue):
        raise UsageError(
            "sweep.halving: with --detach all points stand in the queue, and nobody decides which of them go on: leave out "
            "--detach and let the command run (in tmux, for instance), or --set sweep.halving.first=null"
        )
