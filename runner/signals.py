"""Signals that ask a command to leave: Ctrl-C, and what a system sends before it takes a machine away."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from last_e.process import NOTICES
from runner.errors import PausedError

LEAVING = (signal.SIGINT, *NOTICES)


@contextmanager
def handled(handler: Callable[[int], None]) -> Iterator[None]:
    """For a while, call ``handler`` with the signal's number; then as before."""
    heard = [n for n in LEAVING if n != signal.SIGHUP or signal.getsignal(n) is not signal.SIG_IGN]  # nohup
    before = {signum: signal.signal(signum, lambda number, _: handler(number)) for signum in heard}
    try:
        yield
    finally:
        for signum, old in before.items():
            signal.signal(signum, old)


def interrupt(signum: int) -> None:
    """A handler for what has to be tidied up when it is left: by default, signals end a command on the spot.

    Raises:
        KeyboardInterrupt: always.
    """
    raise KeyboardInterrupt


@contextmanager
def interruptible(told: str) -> Iterator[None]:
    """For a while, a signal leaves what is being done.

    Raises:
        PausedError: one came; ``told`` is what to say then.
    """
    with handled(interrupt):
        try:
            yield
        except KeyboardInterrupt:
            raise PausedError(told) from None
