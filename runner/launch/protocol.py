"""What every launcher can do; ``tests/contract`` holds each to it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Protocol, TextIO

if TYPE_CHECKING:
    from runner.job.attempts import Attempt
    from runner.job.job import Job
    from runner.spec import JobSpec


class Started(Protocol):
    """An attempt as the command that has started it holds it."""

    def wait(self, seconds: float) -> int | None:
        """Its exit code, once it has ended; None if that takes longer than ``seconds``. What has to be found out when it has
        ended, and may take long, lets itself be left (:func:`runner.signals.interrupt`).

        Raises:
            EngineError: nobody tells any more what becomes of it.
        """

    def hand_on(self, signum: int) -> None:
        """Pass on a signal that this command has got.

        Raises:
            EngineError: it does not get there.
        """

    def last_words(self) -> str:
        """What it said last, for an end of which the store knows nothing, such as why it could not begin; may be empty."""

    def kill(self) -> None:
        """End it at once, without saving; nothing of it stays."""


class Launcher(Protocol):
    """Starts ``lastrun attempt JOB-URI`` somewhere, with one job's configuration.

    What starts an attempt elsewhere tells it so in the variable LASTRUN_CONTAINER (:func:`runner.machine.container`), where
    ``launcher`` is its name here; the attempt's record keeps it, so that the same kind of launcher can be asked about it later.
    """

    runs_here: ClassVar[bool]
    """Whether its attempts are processes of this machine, so that what does not fit here can be told before there is a job."""

    def __init__(self, config: JobSpec) -> None: ...

    def preflight(self, store: str) -> None:
        """See that an attempt of a job in ``store`` can start at all, before a job is made for it.

        Raises:
            EngineError, UsageError: what is missing, and what to do.
        """

    def start(self, job: Job, arguments: list[str], token: str, *, output: TextIO | None) -> Started:
        """Start an attempt, whose ID is to end with ``token``. What it says goes to ``output`` as it comes; with None it lives
        on when this process ends.

        Signals are held back meanwhile, by :mod:`runner.launch.start`. What takes long lets itself be left
        (:func:`runner.signals.interruptible`), and then nothing of it stays.

        Raises:
            LastrunError: it cannot be started.
        """

    @staticmethod
    def settle(job: Job, attempt: Attempt) -> Attempt | None:
        """Is an open attempt that this kind of launcher has started alive? Where it has ended beyond doubt and could not say
        so itself, its end is written, with what is known of it. Returns the attempt as it is now, read anew where it is not
        alive (None: its record is gone); unchanged where it is alive or cannot be seen from here, and its heartbeat decides.

        Raises:
            LastrunError: it cannot be seen from here.
        """

    @staticmethod
    def clean() -> None:
        """Remove what ended attempts of this user, of any job, have left with the launcher, once the store knows their end."""

    @staticmethod
    def places(job: Job, attempts: list[Attempt]) -> set[Path]:
        """Folders of this machine in which these attempts of a job may have left scratch folders."""
