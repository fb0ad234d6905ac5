"""What becomes of points that a command runs, and of the whole command."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from runner.errors import Exit, Reason, State, StoreError
from runner.job.attempts import Attempt
from runner.launch.points import Task
from runner.launch.settle import settled

Kind = Literal["succeeded", "paused", "waits", "failed", "elsewhere"]
"""``waits``: it has come as far as it was to come for now."""
_AWAY = (Reason.INTERRUPTED, Reason.PREEMPTED, Reason.STOP_REQUESTED, Reason.TIME_LIMIT)


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
    host: str | None = None
    """Where it was, of several hosts."""

    @property
    def is_without_a_word(self) -> bool:
        """Whether the attempt is over and has not written its end itself."""
        return self.kind == "failed" and self.attempt is not None and (self.attempt.open or self.attempt.phase == "lost")


class Watcher(Protocol):
    """Shows what happens."""

    def started(self, task: Task, host: str | None) -> None:
        """A point has begun, of several hosts on this one."""

    def ended(self, outcome: Outcome) -> None:
        """One has ended."""

    def given_back(self, task: Task, why: str) -> None:
        """One has not ended, and is in line again."""

    def beats(self, beats: dict[int, dict[str, Any]]) -> None:
        """How far those are that run, by their numbers."""

    def note(self, text: str) -> None:
        """Something to know."""


class Row:
    """Failures one after the other for the same reason.

    Args:
        most: so many are too many.
    """

    def __init__(self, most: int) -> None:
        self._most, self._outcomes = most, list[Outcome]()

    def add(self, outcome: Outcome) -> str | None:
        """Take one more outcome; in words, that there are too many, else None."""
        if outcome.kind == "failed":
            same = self._outcomes and self._outcomes[-1].why == outcome.why
            self._outcomes = [*(self._outcomes if same else []), outcome]
        elif outcome.kind != "elsewhere":
            self._outcomes = []
        if len(self._outcomes) < self._most:
            return None
        said = f": {outcome.message}" if outcome.message else ""
        return f"{len(self._outcomes)} points in a row failed for the same reason, {outcome.why}{said}"


def as_left(task: Task, code: int) -> Outcome:
    """Of a point that somebody else has taken."""
    state, attempt, _ = task.job.attempts.state(settled(task.job))
    if state is State.SUCCEEDED:
        return Outcome(task, "succeeded", "", Exit.DONE, attempt)
    return Outcome(task, "elsewhere", f"{state.value} by another", code, attempt)


def taken_by_another(task: Task) -> Outcome | None:
    """Somebody else may have been at the point since it was found to be unfinished: it is left to them."""
    if set(task.job.attempts.names()) <= set(task.known):
        return None
    return as_left(task, Exit.CLAIMED)


def outcome_of(task: Task, token: str, code: int, last_line: Callable[[], str]) -> Outcome:
    """Of an attempt that has ended with a code, by what the store has of it, else by the last line that it said."""
    attempt = None
    try:
        attempt = task.job.attempts.of(token)
        if code == Exit.DONE:
            return Outcome(task, "succeeded", "", code, attempt)
        lost = code == Exit.CLAIMED or (attempt is not None and attempt.reason == Reason.LEASE_LOST.value)
        if attempt is None or attempt.phase == "claiming" or lost:
            found = as_left(task, code)  # it has not had the job, or has it no more: another may
            if found.kind == "succeeded" or code == Exit.CLAIMED:
                return found
    except StoreError:
        pass  # its exit code and its last words tell enough
    if attempt is not None and attempt.reason is not None:
        reason = Reason(attempt.reason)
        kind: Kind = "waits" if reason is Reason.EPOCH_REACHED else "paused" if reason in _AWAY else "failed"
        return Outcome(task, kind, reason.value, code, attempt, attempt.message or "")
    if code in (Exit.PAUSED, Exit.INTERRUPTED_TWICE):
        return Outcome(task, "paused", "interrupted", code, attempt)
    return Outcome(task, "failed", last_line() or f"it ended with code {code}", code, attempt)


def exit_code(outcomes: Sequence[Outcome], *, leaving: bool, left: int, stranded: bool) -> Exit | int:
    """Of the whole command: ``leaving``: it was to begin no more; ``stranded``: there was nowhere left to begin them."""
    kinds = {outcome.kind for outcome in outcomes}
    if any(outcome.code == Exit.INTERRUPTED_TWICE for outcome in outcomes):
        return Exit.INTERRUPTED_TWICE
    if leaving and (left or "paused" in kinds):
        return Exit.PAUSED
    if stranded:
        return Exit.NO_ENGINE
    if "failed" in kinds:
        codes = {outcome.code for outcome in outcomes if outcome.kind == "failed"}
        return codes.pop() if len(codes) == 1 else Exit.FAILED
    return Exit.PAUSED if "paused" in kinds else Exit.CLAIMED if "elsewhere" in kinds else Exit.DONE
