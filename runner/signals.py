"""Signals that ask a command to leave: Ctrl-C, and what a system sends before it takes a machine away."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from runner.errors import PausedError

LEAVING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextmanager
def handled(handler: Callable[[int], None]) -> Iterator[None]:
    """For a while, call ``handler`` with the signal's number; then as before."""
    before = {signum: signal.signal(signum, lambda number, _: handler(number)) for signum in LEAVING}
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
