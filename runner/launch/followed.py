"""An attempt on somebody else's machine as the command that has started it holds it: looked at now and then, asked through the
store, and borne with when nobody answers."""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import suppress
from itertools import islice
from typing import TextIO

from last_e.process import pass_on
from runner.errors import EngineError, LastrunError, Reason, StoreError
from runner.job.job import Job
from runner.waits import WAITS

LOOK_SECONDS = 10 * WAITS.follow
SILENCE_SECONDS = 600.0
"""For how long nobody may answer: a laptop that was asleep finds its network again."""


class Followed(ABC):
    """See :class:`~runner.launch.protocol.Started`.

    Args:
        job: whose attempt it is.
        token: what the attempt's ID ends with.
        output: where its log goes; None: nobody follows it.
    """

    def __init__(self, job: Job, token: str, output: TextIO | None) -> None:
        self._job, self._token, self._output = job, token, output
        self._next_look, self._said, self._silent_since = 0.0, "", 0.0
        self._withdrawn = self._asked = self.cancelled = False
        self._log: threading.Thread | None = None
        self._told, self._is_told = 0, False

    @abstractmethod
    def _look(self) -> int | None:
        """Its exit code, once it has ended.

        Raises:
            EngineError: nobody answers; the next look asks again.
        """

    @abstractmethod
    def _lines(self) -> Iterator[str]:
        """What it says, from its beginning until it ends.

        Raises:
            LastrunError: that breaks off.
        """

    @property
    @abstractmethod
    def _ended_by(self) -> str:
        """What ends it at once, without lastrun: the subject of a sentence."""

    def wait(self, seconds: float) -> int | None:
        """Its log is copied meanwhile, from another thread."""
        time.sleep(min(seconds, max(0.0, self._next_look - time.monotonic())))
        if time.monotonic() < self._next_look:
            return None
        self._next_look = time.monotonic() + LOOK_SECONDS
        try:
            code = self._look()
        except EngineError as error:
            self._bear(error)
            return None
        self._silent_since = 0.0
        return code

    def hand_on(self, signum: int) -> None:
        """There is no way to send a signal there, so it is asked through the store."""
        try:
            self._job.requests.ask_to_stop(now=self._asked)
        except StoreError as error:
            raise EngineError(f"{error}; {self._ended_by} ends it without saving") from None
        self._asked = True

    def _kept_code(self) -> int | None:
        """As the store has it, which knows best; None: it knows of no end."""
        with suppress(LastrunError):
            attempt = self._job.attempts.of(self._token)
            if attempt is not None and attempt.reason in Reason._value2member_map_:
                return Reason(attempt.reason).ending.exit_code
        return None

    def _follow_log(self) -> None:
        """Where somebody wants it; one that has broken off is gone on with."""
        if self._output is not None and (self._log is None or not self._log.is_alive()):
            self._log = threading.Thread(target=self._copy_log, name="log", daemon=True)
            self._log.start()

    def _read_log_to_its_end(self, *, is_there: bool = True) -> None:
        """Also of one that has come and gone between two looks."""
        if is_there and not self._is_told:
            self._follow_log()
        if self._log is not None:
            self._log.join(30)

    def _copy_log(self) -> None:
        """What has been shown is not shown again. Without it the attempt goes on, and so does its log in the store."""
        with suppress(LastrunError):
            for line in islice(self._lines(), self._told, None):
                self._told += 1
                self._write(line if line.endswith("\n") else f"{line}\n")
            self._is_told = True

    def _show(self, found: object) -> None:
        """What becomes of it, once."""
        if str(found) != self._said:
            self._said = str(found)
            self._write(f"{found}\n")

    def _bear(self, error: EngineError) -> None:
        now = time.monotonic()
        self._silent_since = self._silent_since or now
        self._show(f"{error}; the attempt is not touched by that")
        if now - self._silent_since > SILENCE_SECONDS:
            raise EngineError(f"{error}. {self._how_it_goes_on()}")

    def _how_it_goes_on(self) -> str:
        job = self._job.reference
        told = f"lastrun status {job} tells what becomes of it, lastrun stop {job} has it save and end"
        return f"{told}; {self._ended_by} ends it without saving"

    def _write(self, text: str) -> None:
        if self._output is not None:
            pass_on(text, self._output)
