"""What hosts need before points of a group can begin there, brought to all of them side by side."""

from __future__ import annotations

import threading
from collections.abc import Hashable

from runner.errors import EngineError, LastrunError
from runner.launch.protocol import Brings, Launcher


class Bringing:
    """Each on a thread of its own: while data are on their way to one host, points begin on another. Who leaves waits for none
    of them; what has come stays there, and is gone on with."""

    def __init__(self) -> None:
        self._threads: dict[Hashable, _Thread] = {}

    def hosts(self) -> set[str]:
        """Those that something is on its way to."""
        return {thread.host for thread in list(self._threads.values()) if thread.is_alive()}

    def is_there(self, launcher: Launcher, host: str) -> bool:
        """Whether an attempt can begin on a host; if not, what it needs is on its way from now on.

        Raises:
            LastrunError: why it did not get there; the next time it is tried again.
        """
        what = launcher.to_bring() if isinstance(launcher, Brings) else None
        if what is None or not isinstance(launcher, Brings):
            return True
        if what not in self._threads:
            self._threads[what] = _Thread(launcher, host)
            self._threads[what].start()
        elif not self._threads[what].is_alive():
            if (error := self._threads[what].error) is None:
                return True
            del self._threads[what]
            raise error
        return False


class _Thread(threading.Thread):
    """Brings it to one host."""

    def __init__(self, launcher: Brings, host: str) -> None:
        super().__init__(name="bring", daemon=True)
        self._launcher, self.host = launcher, host
        self.error: LastrunError | None = None

    def run(self) -> None:
        """Until it is there; ``error``: why not."""
        try:
            self._launcher.bring()
        except LastrunError as error:
            self.error = error
        except Exception as error:  # whatever it is: a thread that dies in silence would pass for one that has brought it
            self.error = EngineError(f"{self.host}: sending to it broke off ({type(error).__name__}: {error})")
