"""What every launcher can do; ``tests/contract`` holds each to it."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TextIO, runtime_checkable

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

    cancelled: bool
    """Once it has ended: whether somebody has ended it there on purpose, by the means of whom a machine was asked of."""

    @property
    def queued(self) -> str | None:
        """What holds it and will begin it by itself, such as a batch system's queue, in words; None: it has begun."""

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

    runs_here: bool
    """Whether an attempt is a process of this very machine, which then has to fit the job's profile."""

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
    def waits(job: Job) -> str | None:
        """What of the job has been handed over and has not begun, and why; None: nothing, as far as can be seen from here.

        Raises:
            LastrunError: nobody answers.
        """

    @staticmethod
    def waiting(jobs: Sequence[Job]) -> list[Job]:
        """Those of these jobs of which something has been handed over and has not begun, found out at once for all.

        Raises:
            LastrunError: nobody answers.
        """

    @staticmethod
    def withdraw(job: Job) -> str | None:
        """Take back what of the job has not begun. Returns what that was; None: there was nothing.

        Raises:
            LastrunError: it cannot be taken back.
        """

    @staticmethod
    def ready() -> str:
        """What it would use from here, in words. Nothing is started or written for that, and it is left when it takes long.

        Raises:
            LastrunError: what is missing, and the command that mends it.
        """

    @staticmethod
    def clean() -> None:
        """Remove what ended attempts of this user, of any job, have left with the launcher, once the store knows their end."""

    @staticmethod
    def places(job: Job, attempts: list[Attempt]) -> set[Path]:
        """Folders of this machine in which these attempts of a job may have left scratch folders."""


class BeginsAtOnce:
    """What a launcher answers that has no queue."""

    @staticmethod
    def waits(job: Job) -> str | None:
        """Nothing."""

    @staticmethod
    def waiting(jobs: Sequence[Job]) -> list[Job]:
        """None of them."""
        return []

    @staticmethod
    def withdraw(job: Job) -> str | None:
        """Nothing."""


@runtime_checkable
class Queue(Launcher, Protocol):
    """A launcher that hands attempts to a queue, which begins them by itself: nobody here has to wait for that."""

    def line_up(self, job: Job, arguments: list[str], token: str, after: str | None) -> str:
        """Put an attempt into the queue; returns what it is called there. With ``after`` it begins when what is called so has
        ended, in whatever way.

        Raises:
            LastrunError: the queue takes it not.
        """


@runtime_checkable
class SharesGpus(Protocol):
    """A launcher on whose machine others may be at work on the GPUs."""

    def see_that_gpus_are_free(self, job: str) -> None:
        """See that an attempt could have those that it asks for, once ``preflight`` has been through; ``job`` goes on, and its
        own attempt may be at work on them still. Empty: it is a new one.

        Raises:
            EngineError: who has them.
        """


@runtime_checkable
class Brings(Protocol):
    """A launcher that may have to send something to a machine before an attempt can begin there. What it starts brings it, too:
    this is for who does not want to wait for one machine after the other."""

    def to_bring(self) -> Hashable | None:
        """What is to be sent, and where to; None: nothing."""

    def bring(self) -> None:
        """Send it, unless it is there; any thread may do so.

        Raises:
            LastrunError: it does not get there.
        """


@runtime_checkable
class Elsewhere(Launcher, Protocol):
    """A launcher whose preflight sees the very machine that an attempt will run on."""

    def see_that_it_fits(self, here: bool) -> None:
        """The machine that preflight has seen is one that the job's profile is for; with ``here`` it need not be.

        Raises:
            UsageError: it is another.
        """


@runtime_checkable
class Orders(Launcher, Protocol):
    """A launcher that asks somebody else for a machine, or for a place on one."""

    def order(self, store: str, name: str) -> dict[str, str]:
        """What it would ask for, by the words of whom it asks, for a job of that name in ``store``; values that are secret are
        names alone, and what is known only once there is a job stands in capital letters.

        Raises:
            LastrunError: it cannot be told.
        """


@dataclass(frozen=True)
class Offer:
    """A kind of machine that a launcher can start attempts on."""

    machine: str
    """As whom it is asked of calls it."""
    gpus: str
    """In words; empty: it has none."""
    dollars: float | None
    """For an hour; None: it is paid otherwise, or not at all."""
    words: str
    """What is added to ``lastrun submit`` to get it."""
    left: str = ""
    """How much of it may still be used, in words; empty: nobody counts."""


@dataclass(frozen=True)
class Rented:
    """A machine that has been asked for and is not given back yet."""

    id: str
    """As whom it was asked of calls it."""
    job: str
    """Whose attempt it runs, or is to."""
    state: str
    """``runs`` or ``waits``."""
    machine: str
    since: float | None
    """When it was asked for, in seconds since 1970; None: nobody tells."""
    dollars: float | None
    """For an hour; None: nobody tells, or it costs nothing."""
    ended_by: str
    """The command that ends it, also where lastrun does not answer."""


@runtime_checkable
class Market(Protocol):
    """A launcher that can tell which machines can be had through it."""

    @staticmethod
    def offers() -> list[Offer]:
        """What can be had now, the cheapest first.

        Raises:
            LastrunError: what is missing to use it.
        """


@runtime_checkable
class Cloud(Market, Protocol):
    """One whose machines are there for an attempt alone, and cost money until they are given back."""

    @staticmethod
    def rented() -> list[Rented]:
        """All of this user's that run attempts of lastrun, or will, wherever they were started from.

        Raises:
            LastrunError: nobody answers.
        """
