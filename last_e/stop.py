"""Asking a training run to stop: signals, a time limit, a parent that has died."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType

from last_e.process import on_notices
from last_e.terminal import clear_below

INTERRUPTED_TWICE = 130
REASONS = ("interrupted", "preempted", "time_limit", "lease_lost")


class Stop:
    """A reason to stop, once there is one. Training looks at :attr:`reason` between steps."""

    def __init__(self) -> None:
        self._reason: str | None = None
        self._deadline: float | None = None

    @property
    def reason(self) -> str | None:
        """One of :data:`REASONS`, or None to go on."""
        if self._reason is None and self._deadline is not None and time.monotonic() >= self._deadline:
            self._reason = "time_limit"
        return self._reason

    def ask(self, reason: str) -> None:
        """Ask to stop; the first reason counts."""
        self._reason = self._reason or reason

    def after(self, seconds: float) -> None:
        """Ask to stop for ``time_limit`` in ``seconds``."""
        self._deadline = time.monotonic() + seconds

    @property
    def seconds_left(self) -> float | None:
        """Until :meth:`after` asks to stop; None: there is no such time."""
        return None if self._deadline is None else max(0.0, self._deadline - time.monotonic())

    def on_signals(self, say: Callable[[str], None]) -> None:
        """Ctrl-C stops as ``interrupted`` (a second one leaves at once, unsaved), what a system sends
        (:data:`~last_e.process.NOTICES`) as ``preempted``."""

        def interrupt(signum: int, frame: FrameType | None) -> None:
            if self._reason is not None:
                clear_below(sys.stdout)
                os._exit(INTERRUPTED_TWICE)
            self.ask("interrupted")
            say("stopping: saving a checkpoint first (Ctrl-C again to leave without)")

        signal.signal(signal.SIGINT, interrupt)
        on_notices(lambda _: self.ask("preempted"))

    def when_supervised(self, hear: Callable[[], None] = lambda: None) -> None:
        """Under the job runner: notices ask to stop, to whichever process of a group they are sent; Ctrl-C is the runner's
        affair, and so is our standard input: its end means that the runner is gone, so training on would waste the machine.
        ``hear`` is called when something comes there, and at the end."""
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        on_notices(lambda _: self.ask("preempted"))

        def watch() -> None:
            while os.read(sys.stdin.fileno(), 4096):
                hear()
            hear()
            self.ask("lease_lost")

        threading.Thread(target=watch, name="watch-runner", daemon=True).start()
