"""How an agent and its ranks hear that the other lives, and what becomes of a rank that nobody leads any more. Torch-free."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import IO

from last_e.events import Beat, Sink
from last_e.process import pass_on

BEAT_SECONDS = 1.0
SILENT_SECONDS = 15.0
"""Who lives says so every second, whatever it computes."""
_PR_SET_PDEATHSIG = 1


def beat(sink: Sink, now: Callable[[], Beat]) -> None:
    """Of a rank: say every second that it lives, from a thread."""

    def run() -> None:
        while True:
            sink.emit(now())
            time.sleep(BEAT_SECONDS)

    threading.Thread(target=run, name="beat", daemon=True).start()


@contextmanager
def tell_that_one_lives(inputs: Iterable[IO[str] | None]) -> Iterator[None]:
    """Of an agent: say so every second to ranks on other machines, by their standard input."""
    pipes = [pipe.fileno() for pipe in inputs if pipe is not None]
    over = threading.Event()

    def run() -> None:
        while not over.wait(BEAT_SECONDS):
            for pipe in pipes:
                with suppress(OSError):  # it has ended, or takes nothing now
                    os.write(pipe, b"\n")

    for pipe in pipes:
        os.set_blocking(pipe, False)
    thread = threading.Thread(target=run, name="agent lives", daemon=True)
    if pipes:
        thread.start()
    try:
        yield
    finally:
        over.set()
        if pipes:
            thread.join()


class Lifeline:
    """Of a rank on another machine than its agent's: when nothing comes from there any more, it ends itself. Nobody else could:
    where the network between them is gone, it would wait for the others, and keep its GPU, for hours."""

    def __init__(self) -> None:
        self._heard: float | None = None
        """None: nothing came yet; what starts ranks may not hand it on."""

    def hear(self) -> None:
        """Something came, or the end of all that comes."""
        self._heard = time.monotonic()

    def watch(self) -> None:
        """From a thread."""
        threading.Thread(target=self._watch, name="lifeline", daemon=True).start()

    def _watch(self) -> None:
        now = time.monotonic()
        while self._heard is None or now - self._heard <= SILENT_SECONDS:
            last_look = now
            time.sleep(BEAT_SECONDS)
            now = time.monotonic()
            if self._heard is not None and now - last_look > 5 * BEAT_SECONDS:  # it was this process that slept
                self._heard = now
        pass_on(f"nothing came from the machine that leads the run for {SILENT_SECONDS:.0f} s: this rank ends\n", sys.stderr)
        os._exit(1)


def end_with_its_parent(parent: int) -> None:
    """Of a rank: when the agent is killed, nobody ends it but the system (Linux; elsewhere, and on another machine than the
    agent's, which is parent 0, the end of its input does)."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if parent and os.getppid() != parent:  # it was killed before
        os._exit(1)
