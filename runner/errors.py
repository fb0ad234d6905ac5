"""How things end: the exception tree, the exit codes, and the reasons for which an attempt ends."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, IntEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from last_e.problems import Problem


class Exit(IntEnum):
    """Exit codes of every command."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    NO_SUCH_JOB = 3
    STORE = 4
    CLAIMED = 5
    NO_ENGINE = 6
    PAUSED = 75
    INTERRUPTED_TWICE = 130


class LastrunError(Exception):
    """Base of all errors that end a command with one clear line."""

    exit_code = Exit.FAILED


UNREADABLE = (LastrunError, KeyError, TypeError, ValueError, AttributeError, OverflowError)
"""What comes of reading a record that is damaged, or of somebody who means no good."""


class UsageError(LastrunError):
    """A command was called in a way that cannot work."""

    exit_code = Exit.USAGE


def refuse(wrong: Sequence[str]) -> None:
    """Tell all that is ``wrong`` in how a command was called, if anything is.

    Raises:
        UsageError: something is.
    """
    if wrong:
        raise UsageError("; ".join(wrong))


def unwritable(place: object, error: OSError) -> UsageError:
    """What to say of a place that somebody has named and that cannot be written."""
    return UsageError(f"{place}: cannot be written there: {error.strerror or error}; name another place")


class SpecError(UsageError):
    """A job that cannot be so: of Python alone, the commands tell the same line by line."""

    def __init__(self, told: str, problems: Sequence[Problem]) -> None:
        super().__init__(told)
        self.problems = list(problems)
        """Every mistake: ``origin``, ``key``, ``found``, ``allowed``."""


class NoSuchJobError(LastrunError):
    """The store holds no such job."""

    exit_code = Exit.NO_SUCH_JOB


class StoreError(LastrunError):
    """The store cannot be reached, refuses, or holds something unreadable."""

    exit_code = Exit.STORE
    lasting = False
    """Whether waiting will not help: no space, no permission, no such bucket."""
    renewable = False
    """Whether it refuses keys that have worked: an attempt waits for newer ones as for a server that is away."""
    demands: str | None = None
    """What a server seems to miss in a write: ``checksum`` or ``encryption``."""


class MissingKeyError(StoreError):
    """The store holds nothing under a key."""


class DamagedObjectError(StoreError):
    """An object of the store is not what was written, or cannot be read though the others can."""


class LinkError(DamagedObjectError):
    """A symbolic link lies where an object of the store should, and is not followed."""


class ClaimedError(LastrunError):
    """Another attempt is at work on the job."""

    exit_code = Exit.CLAIMED


class EngineError(LastrunError):
    """What a command or a launcher needs (a library, a program, an engine, a GPU) is not there."""

    exit_code = Exit.NO_ENGINE


class PausedError(LastrunError):
    """A command was interrupted, and the same command goes on where it was."""

    exit_code = Exit.PAUSED


class State(str, Enum):
    """Where a job is."""

    QUEUED = "queued"
    RUNNING = "running"
    PAUSED = "paused"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    STOPPED = "stopped"
    LOST = "lost"


@dataclass(frozen=True)
class Ending:
    """What a reason means: the job's state, the exit code, whether ``resume`` makes sense, and what to do next."""

    state: State
    exit_code: Exit
    resumable: bool
    advice: str


class Reason(Enum):
    """Why an attempt ended."""

    COMPLETED = "completed"
    TIME_LIMIT = "time_limit"
    PREEMPTED = "preempted"
    STOP_REQUESTED = "stop_requested"
    INTERRUPTED = "interrupted"
    TRAINER_ERROR = "trainer_error"
    DATA_ERROR = "data_error"
    CONFIG_ERROR = "config_error"
    DIVERGED = "diverged"
    OUT_OF_MEMORY = "out_of_memory"
    OUT_OF_DISK = "out_of_disk"
    STORE_UNREACHABLE = "store_unreachable"
    LEASE_LOST = "lease_lost"
    JOB_DELETED = "job_deleted"
    IMAGE_ERROR = "image_error"
    NO_GPU = "no_gpu"
    GPU_LOST = "gpu_lost"
    EPOCH_REACHED = "epoch_reached"
    RANK_LOST = "rank_lost"

    @property
    def ending(self) -> Ending:
        """What this reason means."""
        return _ENDINGS[self]


LOST = (Reason.LEASE_LOST, Reason.JOB_DELETED)
"""Why an attempt that is at work has its job no more."""

_RESUME = "lastrun resume {job}"
_ENDINGS = {
    Reason.COMPLETED: Ending(State.SUCCEEDED, Exit.DONE, False, "lastrun pull {job} FOLDER --best"),
    Reason.TIME_LIMIT: Ending(State.PAUSED, Exit.PAUSED, True, _RESUME),
    Reason.PREEMPTED: Ending(State.PAUSED, Exit.PAUSED, True, _RESUME),
    Reason.STOP_REQUESTED: Ending(State.STOPPED, Exit.PAUSED, True, _RESUME),
    Reason.INTERRUPTED: Ending(State.PAUSED, Exit.PAUSED, True, _RESUME),
    Reason.TRAINER_ERROR: Ending(State.FAILED, Exit.FAILED, True, "lastrun logs {job}, then lastrun resume {job}"),
    Reason.DATA_ERROR: Ending(State.FAILED, Exit.FAILED, True, "put the data right, then lastrun resume {job}"),
    Reason.CONFIG_ERROR: Ending(State.FAILED, Exit.USAGE, False, "submit again with what the message allows"),
    Reason.DIVERGED: Ending(State.FAILED, Exit.FAILED, False, "submit again with a lower training.lr or a longer warm-up"),
    Reason.OUT_OF_MEMORY: Ending(State.FAILED, Exit.FAILED, True, "lastrun resume {job} --set hardware.micro_batch=N"),
    Reason.OUT_OF_DISK: Ending(State.FAILED, Exit.FAILED, True, "free some space, then lastrun resume {job}"),
    Reason.STORE_UNREACHABLE: Ending(State.PAUSED, Exit.STORE, True, _RESUME),
    Reason.LEASE_LOST: Ending(State.PAUSED, Exit.CLAIMED, True, "lastrun status {job}"),
    Reason.JOB_DELETED: Ending(State.STOPPED, Exit.NO_SUCH_JOB, False, "lastrun list"),
    Reason.IMAGE_ERROR: Ending(State.FAILED, Exit.NO_ENGINE, True, "put the image right, then lastrun resume {job}"),
    Reason.NO_GPU: Ending(
        State.FAILED, Exit.NO_ENGINE, True, "lastrun resume {job} on a machine with a GPU, or with --set run.gpus=0 on its CPU"
    ),
    Reason.GPU_LOST: Ending(
        State.PAUSED, Exit.NO_ENGINE, True, "lastrun resume {job}; if it happens again, on another machine"
    ),
    Reason.EPOCH_REACHED: Ending(State.PAUSED, Exit.PAUSED, True, _RESUME),
    Reason.RANK_LOST: Ending(State.FAILED, Exit.FAILED, True, "lastrun logs {job}, then lastrun resume {job}"),
}
