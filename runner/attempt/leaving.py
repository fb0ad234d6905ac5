"""Whether an attempt is to leave, why, and how long it may take over that."""

from __future__ import annotations

import math
import os
import signal
import time
from collections.abc import Callable
from types import FrameType

from last_e.config import HardwareConfig
from last_e.process import on_notices
from runner.attempt.trainer import Inbox, Trainer
from runner.errors import Exit, Reason
from runner.waits import WAITS

STOP_PATIENCE_SECONDS = WAITS.save
HASTE_SECONDS = 5.0
PREEMPTED_SECONDS = WAITS.notice


class Leaving:
    """The first reason to leave counts.

    Args:
        hardware: the session's limits.
        trainer: is asked to save.
        inbox: gets a word for people.
    """

    def __init__(self, hardware: HardwareConfig, trainer: Trainer, inbox: Inbox) -> None:
        self._hardware, self._trainer, self._inbox = hardware, trainer, inbox
        self._began = time.monotonic()
        self._asked_at = 0.0
        self._interrupted = False
        self.in_haste = False
        """Asked a second time: without saving."""
        self.haste_until = math.inf
        self.reason: Reason | None = None

    def take_signals(self) -> None:
        """From now on Ctrl-C and what a system sends are reasons to leave. A second Ctrl-C leaves without saving, as soon as
        the store knows; a third does not wait for that."""

        def interrupt(signum: int, frame: FrameType | None) -> None:
            if self.in_haste:
                self._trainer.kill_soon()
                os._exit(Exit.INTERRUPTED_TWICE)
            if self._interrupted:
                self.in_haste, self.haste_until = True, time.monotonic() + HASTE_SECONDS
                self._trainer.kill_soon()
                self._inbox.put(("note", "leaving at once: a checkpoint that is not whole by now is not waited for"))
                return
            self._interrupted = True  # who was asked to stop in another way has not been told of a second one
            self.ask(Reason.INTERRUPTED)
            self._inbox.put(("note", "stopping: saving a checkpoint first (Ctrl-C again to leave without)"))

        signal.signal(signal.SIGINT, interrupt)
        on_notices(lambda _: self.ask(Reason.PREEMPTED))

    def ask(self, reason: Reason) -> None:
        """Ask the trainer to save and leave."""
        if self.reason is None:
            self.reason, self._asked_at = reason, time.monotonic()
            self._trainer.ask_to_save()

    def look_at_limit(self) -> None:
        """A session that is nearly over is a reason, too."""
        if self.seconds_left is not None and self.seconds_left <= 0:
            self.ask(Reason.TIME_LIMIT)

    @property
    def seconds_left(self) -> float | None:
        """Until a session that has a limit asks to stop; None: it has none."""
        limit = self._hardware.session_limit
        return None if limit is None else max(0.0, limit - self._hardware.stop_margin - (time.monotonic() - self._began))

    def end_what_is_overdue(self, say: Callable[[str, str], None]) -> None:
        """End a trainer that has had time enough to save."""
        overdue = self.reason is not None and time.monotonic() - self._asked_at > STOP_PATIENCE_SECONDS
        if overdue and self._trainer.runs:
            say(f"the trainer did not stop within {STOP_PATIENCE_SECONDS:.0f} s and was ended", "warning")
            self._trainer.kill()

    def drain_seconds(self, reason: Reason) -> float:
        """How long the end may wait for the network: a spot machine is gone after 30 s, a session at its limit."""
        if reason is Reason.PREEMPTED:
            return max(5.0, PREEMPTED_SECONDS - (time.monotonic() - self._asked_at))
        if reason is Reason.TIME_LIMIT:
            return max(5.0, self._hardware.stop_margin - (time.monotonic() - self._asked_at) - 10.0)
        return WAITS.drain
