"""Deletes what the retention rule does not keep, beside the uploads: neither waits for the other."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from runner.errors import StoreError


class Pruner(threading.Thread):
    """Calls ``prune`` on a thread of its own, once for all that it was told of while it was at it. One that failed is made up
    for the next time; ``say`` is told once that nothing may be deleted."""

    def __init__(self, prune: Callable[[], None], say: Callable[[str], None]) -> None:
        super().__init__(name="pruner", daemon=True)
        self._prune, self._say = prune, say
        self._said = False
        self._told = threading.Condition()
        self._wanted = self._busy = self._failed = False
        self.start()

    def want(self) -> None:
        """There is more in the store than before."""
        self._wake(True)

    def again(self) -> None:
        """Make up for one that failed."""
        self._wake(False)

    def drain(self, seconds: float) -> None:
        """Wait until nothing is left to do, for ``seconds`` at the most."""
        deadline = time.monotonic() + seconds
        with self._told:
            self._told.wait_for(lambda: not (self._wanted or self._busy), max(0.0, deadline - time.monotonic()))

    def run(self) -> None:
        """On its thread."""
        while True:
            with self._told:
                self._told.wait_for(lambda: self._wanted)
                self._wanted, self._busy = False, True
            failed = True
            try:
                self._prune()
                failed = False
            except StoreError as error:
                if error.lasting and not self._said:
                    self._said = True
                    self._say(f"checkpoints that are not to be kept cannot be deleted, so all are kept: {error}")
            except Exception as error:  # whatever it is: the next checkpoint may do
                self._say(f"deleting what is not to be kept failed ({type(error).__name__}: {error}); it is tried again")
            finally:
                with self._told:
                    self._busy, self._failed = False, failed
                    self._told.notify_all()

    def _wake(self, wanted: bool) -> None:
        with self._told:
            self._wanted = self._wanted or wanted or self._failed
            self._told.notify_all()
