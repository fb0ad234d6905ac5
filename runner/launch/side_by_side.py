"""Points of a group run side by side: each slot takes the next point, as a normal attempt, until none is left."""

from __future__ import annotations

import os
import secrets
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import replace
from functools import partial
from typing import Any, TextIO

from last_e.problems import ConfigError
from runner.errors import ClaimedError, DamagedObjectError, Exit, LastrunError, PausedError, Reason, State, StoreError
from runner.job.attempts import Attempt
from runner.job.group import Group
from runner.job.job import Job
from runner.launch.away import Away, Verdict
from runner.launch.line import Line
from runner.launch.outcome import Outcome, Row, Watcher, as_left, exit_code, outcome_of, taken_by_another
from runner.launch.points import Task
from runner.launch.protocol import Queue
from runner.launch.ready import Ready
from runner.launch.relay import Relay
from runner.launch.settle import settled
from runner.launch.signs import Running, Signs
from runner.launch.slots import Places, Slot, variables_set
from runner.launch.ssh.connection import CutError
from runner.signals import handled
from runner.spec import JobSpec

STOP_AFTER = 5
_LOOK_SECONDS = 0.1
_LAST_WORDS = 4000
_MOST_LOST = 2
"""How often a point is put in line again whose attempt was killed on a host that is still there."""


class SideBySide:
    """One run through points of a group.

    Args:
        group: theirs.
        line: those there is something to do for.
        slots: where they run.
        stop_after: so many in a row that fail for the same reason end it.
        watcher: is told.
        prepare: for slots on hosts, what it takes to go on with a point on one of them.
        at_work: points that an earlier command has begun on one of these hosts: each takes a slot there.
    """

    def __init__(
        self,
        group: Group,
        line: Line,
        slots: list[Slot],
        stop_after: int,
        watcher: Watcher,
        prepare: Callable[[Task, str], Ready] | None = None,
        at_work: Sequence[tuple[Task, Attempt, str]] = (),
    ) -> None:
        self._line, self._places, self._watcher, self._prepare = line, Places(slots), watcher, prepare
        self._running: list[Running] = []
        self._row, self._begin = Row(stop_after), time.monotonic()
        self._signs, self._relay = Signs(group, self._running, self._leave), Relay(self._running)
        self._lost: Counter[int] = Counter()
        self._given_back: set[int] = set()
        self._signals_heard = 0
        self._kept = ExitStack()
        self.outcomes: list[Outcome] = []
        self.leaving: str | None = None
        """Why no more points are begun, in words."""
        self.failing: str | None = None
        """The same, where too many failed in a row."""
        for task, attempt, host in at_work:
            slot = self._free(host) or Slot(f"{host}, too many", host=host)  # it may be more than are begun there now
            token = attempt.id.rpartition("-")[2]
            self._running.append(Running(task, slot, Away(task.job, own=False), token, None))
            watcher.started(task, host)

    @property
    def left(self) -> int:
        """How many have not been begun, or are in line again."""
        return len(self._line)

    @property
    def unfollowed(self) -> list[Task]:
        """Those that run on when it has ended: begun by earlier commands, or not heard of."""
        return [one.task for one in self._running]

    @property
    def stranded(self) -> str | None:
        """Why there is nowhere left to begin a point; None: there is, or none is left."""
        return self._places.why_none() if self.left else None

    @property
    def exit_code(self) -> Exit | int:
        """Of the whole command."""
        leaving, stranded = self.leaving is not None, self.stranded is not None
        return exit_code(self.outcomes, leaving=leaving, left=self.left, stranded=stranded)

    def run(self) -> None:
        """Until nothing is left that could be begun, and what has begun has ended."""
        with handled(self._hear):
            for launcher in self._line.launchers():
                with suppress(LastrunError):  # what is over makes room; where it cannot, the start says so
                    launcher.clean()
            self._relay.start()
            self._signs.start()
            try:
                while self._waits_for_some() or (self._begins_more and self._places and self._line.may_begin(at_work=False)):
                    self._collect()
                    while (
                        (slot := self._free()) is not None and self._begins_more and self._line.may_begin(bool(self._running))
                    ):
                        self._begin_next(slot)
                    for note in self._relay.notes():
                        self._watcher.note(note)
                    self._watcher.beats(dict(self._signs.beats))
                    time.sleep(_LOOK_SECONDS)
            finally:
                self._signs.end()
                self._kept.close()
                self._relay.end()

    # --- beginning ----------------------------------------------------------------------------------------------------

    @property
    def _begins_more(self) -> bool:
        return self.leaving is None and self.failing is None

    def _waits_for_some(self) -> bool:
        """What an earlier command has begun is waited for only as long as points may have to follow it."""
        patient = self._signals_heard < 2  # asked twice, it waits for nobody of whom it only hears through the store
        own = [one for one in self._running if not isinstance(one.started, Away) or (one.started.own and patient)]
        return bool(own or (self._running and self._begins_more))

    def _free(self, host: str | None = None) -> Slot | None:
        return self._places.free([one.slot for one in self._running], host)

    def _begin_next(self, slot: Slot) -> None:
        task, words = self._line.take(bool(self._running))
        try:
            if found := taken_by_another(task):
                self._end(found)
                return
            if self._came_back(task, slot):
                return
            if slot.host is not None and self._prepare is not None:
                task = replace(task, go=self._prepare(task, slot.host))
        except StoreError as error:
            self._end(Outcome(task, "failed", "store_unreachable", Exit.STORE, message=str(error)))
            return
        except (LastrunError, ConfigError) as error:
            self._end(_refused(task, error))
            return
        assert task.go is not None
        limit = [] if isinstance(task.go.launcher, Queue) else self._session(task.go.resolved.config)
        if limit is None:
            self._line.put_back(task)
            return
        token, arguments = secrets.token_hex(4), [*task.go.arguments, *slot.arguments, *limit, *words]
        output: Any = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115 -- closed when it has ended
        try:
            if not self._places.has_all(task.go.launcher, slot.host):
                output.close()
                self._line.put_back(task)
                return
            with variables_set(slot.variables):
                started = task.go.launcher.start(task.job, arguments, token, output=output)
        except PausedError:  # asked to leave while it was being started
            output.close()
            self._line.put_back(task)
            self._hear(signal.SIGINT)
            return
        except LastrunError as error:
            output.close()
            if slot.host is None or isinstance(error, ClaimedError):
                self._end(_refused(task, error))
                return
            if not isinstance(error, CutError):
                self._places.refused(slot.host, str(error))
                if not self._back_or_failed(task, slot.host, str(error)):
                    self._line.put_back(task)
                return
            # It may have begun all the same, which shows in time.
            self._watcher.note(f"point {task.number} of {task.count}: {error}")
            self._running.append(Running(task, slot, Away(task.job, own=True), token, None))
            return
        self._running.append(Running(task, slot, started, token, output))
        self._places.begun(slot.host)
        self._watcher.started(task, slot.host)

    def _came_back(self, task: Task, slot: Slot) -> bool:
        """Of a point that was given up for lost on a host: whether its attempt has come back meanwhile, and gone on."""
        if task.number not in self._given_back:
            return False
        state, attempt, _ = task.job.attempts.state(settled(Job(task.job.store, task.job.id)))
        if state is State.RUNNING and attempt is not None:
            token = attempt.id.rpartition("-")[2]
            self._running.append(Running(task, slot, Away(task.job, own=True), token, None))
            self._watcher.started(task, slot.host)
        elif state is State.SUCCEEDED:
            self._end(as_left(task, Exit.DONE))
        return state in (State.RUNNING, State.SUCCEEDED)

    def _session(self, config: JobSpec) -> list[str] | None:
        """A session is as long for all its points together as for one; None: its end is too near to begin another."""
        limit, gone = config.hardware.session_limit, int(time.monotonic() - self._begin)
        if limit is None or gone == 0:
            return []
        if limit - gone <= config.hardware.stop_margin:
            self._leave("the session's time is over")
            return None
        return ["--set", f"hardware.session_limit={limit - gone}"]

    # --- ending -------------------------------------------------------------------------------------------------------

    def _collect(self) -> None:
        for one in list(self._running):
            try:
                code = one.started.wait(0)
            except KeyboardInterrupt:  # heard while its end was being found out
                self._hear(signal.SIGINT)
                continue
            except LastrunError as error:  # nobody tells any more what becomes of it
                self._lose_sight(one, Outcome(one.task, "failed", str(error), int(error.exit_code)))
                continue
            if code is None and one.verdict is not None:
                if one.verdict.dead is not None:
                    self._give_back(one, one.verdict)
                    continue
                code = one.verdict.code
            if code is not None:
                outcome = outcome_of(one.task, one.token, code, partial(_last_line, one.output))
                if outcome.is_without_a_word:
                    self._lose_sight(one, outcome)
                else:
                    self._remove(one)
                    self._end(_in_line_again(self._line, replace(outcome, host=one.slot.host)))

    def _lose_sight(self, one: Running, outcome: Outcome) -> None:
        """Here that is the end of it; of one on a host its signs of life tell what becomes of it."""
        if one.slot.host is None:
            self._remove(one)
            self._end(outcome)
        else:
            one.started = Away(one.task.job, own=True)

    def _remove(self, one: Running) -> None:
        self._running.remove(one)
        self._signs.beats.pop(one.task.number, None)
        if one.output is not None:
            one.output.close()

    def _give_back(self, one: Running, found: Verdict) -> None:
        """Put a point in line again whose attempt is dead; from a host that is gone nothing more is taken."""
        task, host, why = one.task, str(one.slot.host), str(found.dead)
        if not self._back_or_failed(task, host, why, counts=not found.host_is_gone):
            return  # the store may answer at the next look
        self._running.remove(one)
        if one.output is not None:  # who still looks for the attempt may write to it
            self._kept.enter_context(one.output)
        self._signs.beats.pop(task.number, None)
        if found.host_is_gone:
            self._places.lose(host, why)

    def _back_or_failed(self, task: Task, host: str, why: str, *, counts: bool = True) -> bool:
        """A point that a host has lost, or could not begin, is in line again, but not for ever; False: the store does not tell
        who has been at it."""
        lost, why = self._lost[task.number] + counts, why.removeprefix(f"{host}: ")
        if lost > _MOST_LOST:
            self._end(Outcome(task, "failed", f"lost {lost} times, the last time on {host}: {why}", Exit.FAILED))
            return True
        try:
            self._line.give_back(task)
        except StoreError:
            return False
        self._lost[task.number] = lost
        self._given_back.add(task.number)
        self._watcher.given_back(task, f"{host}: {why}")
        return True

    def _end(self, outcome: Outcome) -> None:
        self.outcomes.append(outcome)
        self._watcher.ended(outcome)
        if outcome.why == Reason.TIME_LIMIT.value and not isinstance(outcome.task.go and outcome.task.go.launcher, Queue):
            self._leave("the session's time is over")
        if outcome.kind == "failed":
            self._line.drop(outcome.task)
        too_many = self._row.add(outcome)
        if too_many is not None and self.left:
            self.failing = too_many

    # --- leaving ------------------------------------------------------------------------------------------------------

    def _leave(self, why: str) -> None:
        self.leaving = self.leaving or why

    def _hear(self, signum: int) -> None:
        """A signal handler: it does no more than it must."""
        self._signals_heard += 1
        self._leave(f"interrupted ({signal.Signals(signum).name})")
        self._relay.put(signum)


def _in_line_again(line: Line, outcome: Outcome) -> Outcome:
    """One that has come as far as it was to come for now may go on later."""
    if outcome.kind == "waits":
        try:
            line.came_as_far(outcome.task)
        except DamagedObjectError as error:
            return replace(outcome, kind="failed", why=str(error), code=int(Exit.STORE))
        except StoreError as error:
            return replace(outcome, kind="failed", why="store_unreachable", code=int(Exit.STORE), message=str(error))
    return outcome


def _refused(task: Task, error: LastrunError | ConfigError) -> Outcome:
    """Of a point that could not be begun."""
    code = error.exit_code if isinstance(error, LastrunError) else Exit.USAGE
    return Outcome(task, "elsewhere" if isinstance(error, ClaimedError) else "failed", str(error), int(code))


def _last_line(output: TextIO | None) -> str:
    with suppress(OSError, ValueError):
        if output is None:
            return ""
        output.flush()
        size = output.seek(0, os.SEEK_END)
        output.seek(max(0, size - _LAST_WORDS))
        lines = output.read().strip().splitlines()
        return lines[-1].removeprefix("error: ") if lines else ""
    return ""
