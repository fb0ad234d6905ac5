"""Signals that ask a command to leave: Ctrl-C, and what a system sends before it takes a machine away."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from last_e.process import NOTICES
from runner.errors import PausedError

LEAVING = (signal.SIGINT, *NOTICES)


@contextmanager
def handled(handler: Callable[[int], None]) -> Iterator[None]:
    """For a while, call ``handler`` with the signal's number; then as before. On another thread than the main one, which alone
    hears signals, this does nothing."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
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
def tidied(tidy: Callable[[], None]) -> Iterator[None]:
    """For a while, a signal that ends this command on the spot has something tidied up first. On another thread than the main
    one, which alone hears signals, this does nothing."""
    is_main = threading.current_thread() is threading.main_thread()
    ends = [signum for signum in LEAVING if is_main and signal.getsignal(signum) is signal.SIG_DFL]

    def leave(signum: int, _: object) -> None:
        tidy()
        signal.signal(signum, signal.SIG_DFL)
        signal.raise_signal(signum)

    for signum in ends:
        signal.signal(signum, leave)
    try:
        yield
    finally:
        for signum in ends:
            signal.signal(signum, signal.SIG_DFL)


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
