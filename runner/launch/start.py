"""An attempt started by any launcher: followed to its end, or left to live on."""

from __future__ import annotations

import secrets
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import Any, NamedTuple, Protocol, TextIO

from last_e.terminal import clear_below, cleared_by_signals, do_default
from runner.errors import Exit, LastrunError, StoreError
from runner.job.job import Job
from runner.launch.protocol import Launcher, Started
from runner.launch.settle import launcher_class
from runner.signals import handled, interruptible
from runner.spec import JobSpec

START_SECONDS = 60.0
_LOOK_SECONDS = 0.2


def make_launcher(config: JobSpec) -> Launcher:
    """The launcher that a configuration names."""
    return launcher_class(config.run.launcher)(config)


class Ended(NamedTuple):
    """How an attempt that was followed ended."""

    code: int
    token: str
    """What its ID ends with."""
    asked: bool
    """Whether somebody has asked it to end: through this command, or where it ran."""


class Shown(Protocol):
    """What shows an attempt elsewhere while it is followed."""

    stream: TextIO
    """Where what it says is to go."""

    def __enter__(self) -> Shown:
        """Until the block ends."""

    def __exit__(self, *error: Any) -> None: ...

    def begin(self) -> None:
        """It has been started."""


Look = Callable[[Job, TextIO], Shown]
"""What shows it, given where people look. It is given from above: what they see is no matter of a launcher's."""


def run(launcher: Launcher, job: Job, arguments: list[str], *, quiet: bool, look: Look | None = None) -> Ended:
    """Run an attempt to its end in the foreground. ``quiet``: nothing on standard output. ``look``: shows one that does not run
    here, where it has the terminal itself.

    Raises:
        LastrunError: it could not be started, or nobody tells any more what becomes of it.
        KeyboardInterrupt: a signal came before it was started.
    """
    asked: list[int] = []
    handed_on = 0
    with handled(asked.append):
        _tidy(launcher, job)
        token = secrets.token_hex(4)
        if asked:  # there is no attempt yet that a terminal would have told, too
            raise KeyboardInterrupt
        output = sys.stderr if quiet else sys.stdout
        with cleared_by_signals(partial(_leave, output)), ExitStack() as held:
            shown = None if look is None or launcher.runs_here else held.enter_context(look(job, output))
            started = launcher.start(job, arguments, token, output=output if shown is None else shown.stream)
            if shown is not None:
                shown.begin()
            while (code := started.wait(_LOOK_SECONDS)) is None:
                while len(asked) > handed_on:
                    started.hand_on(asked[handed_on])
                    handed_on += 1
        clear_below(output)  # of one that was killed
    return Ended(code, token, bool(asked) or started.cancelled)


def _leave(output: TextIO, signum: int) -> None:
    clear_below(output)  # before the shell goes on: it waits for this process alone
    do_default(signum)


def detach(launcher: Launcher, job: Job, arguments: list[str]) -> str | None:
    """Start an attempt that lives on when this process ends; returns once it has claimed the job, or is held by what will begin
    it: then what that says.

    Raises:
        LastrunError: it ended before that.
    """
    _tidy(launcher, job)
    token = secrets.token_hex(4)
    asked: list[int] = []
    with handled(asked.append):
        started = launcher.start(job, arguments, token, output=None)
    if asked:
        started.kill()
        raise KeyboardInterrupt
    try:
        if waiting := started.queued:
            return waiting
    except LastrunError as error:  # it has been started all the same
        return f"started; nobody tells now whether it waits or runs ({error})"
    deadline, words = time.monotonic() + START_SECONDS, ""
    while time.monotonic() < deadline:
        code = started.wait(0)  # asked first: it may claim, run and end between two looks
        try:
            if (attempt := job.attempts.of(token)) and attempt.phase != "claiming":
                return None
        except StoreError as error:  # it may answer again
            words = f": {error}"
        if code is not None:
            raise _failed(started, code)
        time.sleep(_LOOK_SECONDS)
    said = _end(started)
    words = f"; it said: {said}" if said else words
    raise StoreError(f"{job.id}: no sign of the attempt within {START_SECONDS:.0f} s, so it was ended{words}")


def _failed(started: Started, code: int) -> LastrunError:
    """What an attempt that ended before it had the job says."""
    error = LastrunError(_end(started) or f"the attempt ended with code {code}")
    error.exit_code = Exit(code) if code in Exit._value2member_map_ else Exit.FAILED
    return error


def _end(started: Started) -> str:
    """End what was started, and return its last words."""
    try:
        return started.last_words().strip().removeprefix("error: ")
    finally:
        started.kill()


def _tidy(launcher: Launcher, job: Job) -> None:
    """What is over makes room."""
    with interruptible(f"{job.id}: interrupted before its attempt began; lastrun resume {job.reference} begins it"):
        launcher.clean()
