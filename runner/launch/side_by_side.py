"""Points of a group run side by side: each slot takes the next point, as a normal attempt, until none is left.

A slot is a place for one attempt: of a process of this machine a GPU of its own where there are several, of a cluster's queue
one place in it.
"""

from __future__ import annotations

import os
import queue
import secrets
import signal
import tempfile
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, Protocol, TextIO

from last_e.environment import usable_cores
from runner.errors import ClaimedError, Exit, LastrunError, Reason, State, StoreError
from runner.job.attempts import Attempt
from runner.job.group import Group
from runner.job.job import Job
from runner.launch.points import Task
from runner.launch.protocol import Queue, Started
from runner.launch.settle import settled
from runner.launch.start import make_launcher
from runner.machine import gpus_to_use
from runner.signals import handled
from runner.spec import JobSpec
from runner.waits import WAITS

STOP_AFTER = 5
_LOOK_SECONDS = 0.1
_LAST_WORDS = 4000
Kind = Literal["succeeded", "paused", "failed", "elsewhere"]


@dataclass(frozen=True)
class Slot:
    """A place for one attempt at a time."""

    name: str
    variables: dict[str, str] = field(default_factory=dict)
    arguments: tuple[str, ...] = ()


def make_slots(number: int | None, config: JobSpec, count: int) -> list[Slot]:
    """So many slots for ``count`` jobs such as this; by default one a GPU of this machine, one a job where a queue deals out
    machines, else one. GPUs are dealt out in turn, the processor's cores evenly."""
    run, hardware = config.run, config.hardware
    is_local = run.launcher == "local"
    gpus = gpus_to_use() if is_local and run.gpus != 0 and hardware.device != "cpu" else []
    queues = isinstance(make_launcher(config), Queue)
    number = min(number or (count if queues else max(1, len(gpus))), max(1, count))
    if not is_local or (number == 1 and len(gpus) < 2):
        return [Slot(str(place)) for place in range(number)]
    if gpus:
        return [Slot(f"GPU {place}", {"CUDA_VISIBLE_DEVICES": gpus[place % len(gpus)]}) for place in range(number)]
    threads = max(1, usable_cores() // number)
    words = () if hardware.cpu_threads is not None else ("--set", f"hardware.cpu_threads={threads}")
    return [Slot(str(place), arguments=words) for place in range(number)]


@dataclass(frozen=True)
class Outcome:
    """What became of an attempt at a point."""

    task: Task
    kind: Kind
    why: str
    """The reason, or what it said last; empty of one that succeeded."""
    code: int
    attempt: Attempt | None = None
    message: str = ""


class Watcher(Protocol):
    """Shows what happens."""

    def started(self, task: Task) -> None:
        """A point has begun."""

    def ended(self, outcome: Outcome) -> None:
        """One has ended."""

    def beats(self, beats: dict[int, dict[str, Any]]) -> None:
        """How far those are that run, by their numbers."""

    def note(self, text: str) -> None:
        """Something to know."""


@dataclass
class _Running:
    task: Task
    slot: Slot
    started: Started
    token: str
    output: TextIO
    asked: bool = False
    """Whether a stop request to the group has been passed on to it."""


class SideBySide:
    """One run through points of a group.

    Args:
        group: theirs.
        tasks: those there is something to do for.
        slots: where they run.
        stop_after: so many in a row that fail for the same reason end it.
        watcher: is told.
    """

    def __init__(self, group: Group, tasks: Iterable[Task], slots: list[Slot], stop_after: int, watcher: Watcher) -> None:
        self._group, self._slots, self._stop_after, self._watcher = group, slots, stop_after, watcher
        self._left = deque(tasks)
        self._running: list[_Running] = []
        self._row: list[Outcome] = []
        self._begin = time.monotonic()
        self._old_requests = set(group.requests.keys())
        self._signals: queue.SimpleQueue[int | None] = queue.SimpleQueue()
        self._beats: dict[int, dict[str, Any]] = {}
        self._over = threading.Event()
        self._told: queue.SimpleQueue[str] = queue.SimpleQueue()
        self.outcomes: list[Outcome] = []
        self.leaving: str | None = None
        """Why no more points are begun, in words."""
        self.failing: str | None = None
        """The same, where too many failed in a row."""

    @property
    def left(self) -> int:
        """How many have not been begun."""
        return len(self._left)

    @property
    def exit_code(self) -> Exit | int:
        """Of the whole command."""
        kinds = {outcome.kind for outcome in self.outcomes}
        if any(outcome.code == Exit.INTERRUPTED_TWICE for outcome in self.outcomes):
            return Exit.INTERRUPTED_TWICE
        if self.leaving is not None and (self._left or "paused" in kinds):
            return Exit.PAUSED
        if "failed" in kinds:
            codes = {outcome.code for outcome in self.outcomes if outcome.kind == "failed"}
            return codes.pop() if len(codes) == 1 else Exit.FAILED
        return Exit.PAUSED if "paused" in kinds else Exit.CLAIMED if "elsewhere" in kinds else Exit.DONE

    def run(self) -> None:
        """Until nothing is left that could be begun, and what has begun has ended."""
        others = [threading.Thread(target=work, daemon=True) for work in (self._hand_on, self._look_around)]
        with handled(self._hear):
            for launcher in {type(task.go.launcher): task.go.launcher for task in self._left if task.go}.values():
                with suppress(LastrunError):  # what is over makes room; where it cannot, the start says so
                    launcher.clean()
            for thread in others:
                thread.start()
            try:
                while self._running or (self._left and self.leaving is None and self.failing is None):
                    self._collect()
                    while self._left and self._may_begin():
                        self._begin_next()
                    while not self._told.empty():
                        self._watcher.note(self._told.get())
                    self._watcher.beats(dict(self._beats))
                    time.sleep(_LOOK_SECONDS)
            finally:
                self._over.set()
                self._signals.put(None)

    # --- beginning ----------------------------------------------------------------------------------------------------

    def _may_begin(self) -> bool:
        return self.leaving is None and self.failing is None and len(self._running) < len(self._slots)

    def _begin_next(self) -> None:
        task = self._left.popleft()
        assert task.go is not None
        limit = [] if isinstance(task.go.launcher, Queue) else self._session(task.go.resolved.config)
        if limit is None:
            self._left.appendleft(task)
            return
        try:
            if found := self._taken_by_another(task):
                self._end(found)
                return
        except StoreError as error:
            self._end(Outcome(task, "failed", "store_unreachable", Exit.STORE, message=str(error)))
            return
        busy = {one.slot.name for one in self._running}
        slot = next(slot for slot in self._slots if slot.name not in busy)
        token, arguments = secrets.token_hex(4), [*task.go.arguments, *slot.arguments, *limit]
        output: Any = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115 -- closed when it has ended
        try:
            with _variables(slot.variables):
                started = task.go.launcher.start(task.job, arguments, token, output=output)
        except LastrunError as error:
            output.close()
            kind: Kind = "elsewhere" if isinstance(error, ClaimedError) else "failed"
            self._end(Outcome(task, kind, str(error), int(error.exit_code)))
            return
        self._running.append(_Running(task, slot, started, token, output))
        self._watcher.started(task)

    def _session(self, config: JobSpec) -> list[str] | None:
        """A session is as long for all its points together as for one; None: its end is too near to begin another."""
        limit, gone = config.hardware.session_limit, int(time.monotonic() - self._begin)
        if limit is None or gone == 0:
            return []
        if limit - gone <= config.hardware.stop_margin:
            self.leaving = "the session's time is over"
            return None
        return ["--set", f"hardware.session_limit={limit - gone}"]

    def _taken_by_another(self, task: Task) -> Outcome | None:
        """Somebody else may have been at the point since it was found to be unfinished: it is left to them."""
        if set(task.job.attempts.names()) <= set(task.known):
            return None
        return self._as_left(task, Exit.CLAIMED)

    def _as_left(self, task: Task, code: int) -> Outcome:
        state, attempt, _ = task.job.attempts.state(settled(task.job))
        if state is State.SUCCEEDED:
            return Outcome(task, "succeeded", "", Exit.DONE, attempt)
        return Outcome(task, "elsewhere", f"{state.value} by another", code, attempt)

    # --- ending -------------------------------------------------------------------------------------------------------

    def _collect(self) -> None:
        for one in list(self._running):
            try:
                code = one.started.wait(0)
            except KeyboardInterrupt:  # heard while its end was being found out
                self._hear(signal.SIGINT)
                continue
            except LastrunError as error:  # nobody tells any more what becomes of it
                self._running.remove(one)
                self._end(Outcome(one.task, "failed", str(error), int(error.exit_code)))
                continue
            if code is not None:
                self._running.remove(one)
                self._end(self._outcome(one, code))
                one.output.close()

    def _outcome(self, one: _Running, code: int) -> Outcome:
        task, attempt = one.task, None
        try:
            attempt = task.job.attempts.of(one.token)
            if code == Exit.DONE:
                return Outcome(task, "succeeded", "", code, attempt)
            if attempt is None or attempt.phase == "claiming" or attempt.reason == Reason.LEASE_LOST.value:
                found = self._as_left(task, code)  # it has not had the job, or has it no more: another may
                if found.kind == "succeeded" or code == Exit.CLAIMED:
                    return found
        except StoreError:
            pass  # its exit code and its last words tell enough
        if attempt is not None and attempt.reason is not None:
            reason = Reason(attempt.reason)
            away = reason in (Reason.INTERRUPTED, Reason.PREEMPTED, Reason.STOP_REQUESTED, Reason.TIME_LIMIT)
            if reason is Reason.TIME_LIMIT and not isinstance(task.go and task.go.launcher, Queue):
                self.leaving = self.leaving or "the session's time is over"
            return Outcome(task, "paused" if away else "failed", reason.value, code, attempt, attempt.message or "")
        if code in (Exit.PAUSED, Exit.INTERRUPTED_TWICE):
            return Outcome(task, "paused", "interrupted", code, attempt)
        return Outcome(task, "failed", _last_line(one.output) or f"it ended with code {code}", code, attempt)

    def _end(self, outcome: Outcome) -> None:
        self.outcomes.append(outcome)
        self._beats.pop(outcome.task.number, None)
        self._watcher.ended(outcome)
        if outcome.kind == "failed":
            self._row = [*(self._row if self._row and self._row[-1].why == outcome.why else []), outcome]
        elif outcome.kind != "elsewhere":
            self._row = []
        if len(self._row) >= self._stop_after and self._left:
            said = f": {outcome.message}" if outcome.message else ""
            self.failing = f"{len(self._row)} points in a row failed for the same reason, {outcome.why}{said}"

    # --- leaving ------------------------------------------------------------------------------------------------------

    def _hear(self, signum: int) -> None:
        """A signal handler: it does no more than it must."""
        self.leaving = self.leaving or f"interrupted ({signal.Signals(signum).name})"
        self._signals.put(signum)

    def _hand_on(self) -> None:
        """On a thread of its own: while the main one waits for a store, attempts are to hear of a notice all the same."""
        while (signum := self._signals.get()) is not None:
            for one in list(self._running):
                try:
                    one.started.hand_on(signum)
                except (LastrunError, OSError) as error:
                    self._told.put(f"point {one.task.number}: {error}")

    def _look_around(self) -> None:
        """On a thread of its own: how far points are, and whether somebody has asked the group to stop."""
        store = self._group.store
        jobs: dict[str, Job] = {}
        while not self._over.wait(WAITS.follow):
            with suppress(LastrunError):
                running = list(self._running)
                here = [jobs.setdefault(one.token, Job(store, one.task.job.id)) for one in running]
                requests, *found = store.in_parallel(
                    [
                        partial(self._group.requests.new, self._old_requests),
                        *(partial(_beat, job, one.token) for job, one in zip(here, running)),
                    ]
                )
                self._beats = {one.task.number: beat for one, beat in zip(running, found) if beat is not None}
                if requests:
                    self.leaving = self.leaving or "asked to stop from another terminal or machine"
                for one, job, beat in zip(running, here, found):
                    if requests and beat is not None and not one.asked:  # an attempt hears what comes after it has the job
                        one.asked = True
                        job.requests.ask_to_stop("now" in requests.values())
                    elif requests and not one.asked and one.task.go and isinstance(one.task.go.launcher, Queue):
                        one.asked = True  # it may be hours until it begins
                        one.started.hand_on(signal.SIGTERM)


def _beat(job: Job, token: str) -> dict[str, Any] | None:
    """The last sign of life of an attempt; None: it has not taken the job yet."""
    attempt = job.attempts.of(token)
    return job.attempts.heartbeat(attempt) if attempt is not None and attempt.phase == "running" else None


def _last_line(output: TextIO) -> str:
    with suppress(OSError, ValueError):
        output.flush()
        size = output.seek(0, os.SEEK_END)
        output.seek(max(0, size - _LAST_WORDS))
        lines = output.read().strip().splitlines()
        return lines[-1].removeprefix("error: ") if lines else ""
    return ""


@contextmanager
def _variables(values: dict[str, str]) -> Iterator[None]:
    """For what is started meanwhile."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
