"""Signals passed on to attempts that run side by side."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator, Sequence
from functools import partial

from runner.errors import LastrunError
from runner.launch.signs import Running
from runner.store.parallel import in_parallel

_STOPPING = "stopping: no other point begins, and those that run save a checkpoint first (Ctrl-C again to leave without)"


class Relay:
    """On threads of its own: while the main one waits for a store, attempts are to hear of a notice all the same, and none
    waits for a host that does not answer.

    Args:
        running: those that run, changed by who owns it.
    """

    def __init__(self, running: Sequence[Running]) -> None:
        self._running = running
        self._signals: queue.SimpleQueue[int | None] = queue.SimpleQueue()
        self._told: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._heard = False

    def start(self) -> None:
        """Pass on what comes, until :meth:`end`."""
        threading.Thread(target=self._pass_on, daemon=True).start()

    def put(self, signum: int) -> None:
        """Pass this on; a signal handler may call it."""
        if not self._heard:
            self._told.put(_STOPPING)
        self._heard = True
        self._signals.put(signum)

    def end(self) -> None:
        """Nothing more comes."""
        self._signals.put(None)

    def notes(self) -> Iterator[str]:
        """That there was one, and where it did not get to, in words, each once."""
        while not self._told.empty():
            yield self._told.get()

    def _pass_on(self) -> None:
        while (signum := self._signals.get()) is not None:
            calls = [partial(self._pass_on_to, one, signum) for one in list(self._running)]
            threading.Thread(target=in_parallel, args=(calls,), daemon=True).start()

    def _pass_on_to(self, one: Running, signum: int) -> None:
        try:
            one.started.hand_on(signum)
        except (LastrunError, OSError) as error:
            self._told.put(f"point {one.task.number}: {error}")
