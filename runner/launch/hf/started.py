"""A job of Hugging Face as the command that has started it holds it."""

from __future__ import annotations

import re
import threading
import time
from contextlib import suppress
from typing import TextIO

from last_e.process import pass_on
from last_e.text import plain
from runner.errors import EngineError, Exit, LastrunError, Reason, StoreError
from runner.job.job import Job
from runner.launch.hf import hub
from runner.waits import WAITS

_LOOK_SECONDS = 10 * WAITS.follow
_PATIENCE_SECONDS = 600.0
"""For how long nobody may answer."""


class StartedThere:
    """See :class:`~runner.launch.protocol.Started`.

    Args:
        job: whose attempt it is.
        there: whose job it is there.
        id: its ID there.
        token: what the attempt's ID ends with.
        output: where its log goes; None: nobody follows it.
    """

    def __init__(self, job: Job, there: hub.Namespace, id: str, token: str, output: TextIO | None) -> None:
        self._job, self._there, self._id, self._token, self._output = job, there, id, token, output
        self._next_look, self._said, self._silent_since = 0.0, "", 0.0
        self._withdrawn = self._asked = self.cancelled = False
        self._follow: threading.Thread | None = None

    @property
    def queued(self) -> str | None:
        """It begins when there is a machine."""
        found = self._there.look(self._id)
        return str(found) if found is not None and found.stage == hub.WAITING else None

    def wait(self, seconds: float) -> int | None:
        """Its log is copied meanwhile, from another thread."""
        time.sleep(min(seconds, max(0.0, self._next_look - time.monotonic())))
        if time.monotonic() < self._next_look:
            return None
        self._next_look = time.monotonic() + _LOOK_SECONDS
        try:
            found = self._there.look(self._id, at_once=True)  # the next look asks again
        except EngineError as error:
            self._bear(error)
            return None
        self._silent_since = 0.0
        if found is not None and found.stage not in hub.ENDED:
            if str(found) != self._said:
                self._said = str(found)
                self._write(f"{found}\n")
            if found.stage == hub.RUNNING and self._follow is None and self._output is not None:
                self._follow = threading.Thread(target=self._copy_log, name="hf", daemon=True)
                self._follow.start()
            return None
        if self._follow is None and self._output is not None:  # it has come and gone between two looks
            self._copy_log()
        elif self._follow is not None:
            self._follow.join(30)
        self.cancelled = found is not None and found.stage == hub.CANCELLED
        return self._code(found)

    def hand_on(self, signum: int) -> None:
        """There is no way to send a signal there, so it is asked through the store; what has no machine yet is taken back."""
        if self.queued is not None:
            self._there.cancel(self._id)
            self._withdrawn = True
            return
        try:
            self._job.requests.ask_to_stop(now=self._asked)
        except StoreError as error:
            raise EngineError(f"{error}; hf jobs cancel {self._id} ends it without saving") from None
        self._asked = True

    def last_words(self) -> str:
        """The last line of its log."""
        lines: list[str] = []
        with suppress(LastrunError):
            lines = [line.strip() for line in self._there.log(self._id, follow=False) if line.strip()]
        return plain(lines[-1]) if lines else ""

    def kill(self) -> None:
        """Its machine goes at once."""
        with suppress(LastrunError):
            self._there.cancel(self._id)

    def _code(self, found: hub.Seen | None) -> int:
        """The store knows best; an attempt that never had the job has its exit code in what is said of the job's end."""
        if self._withdrawn:
            return Exit.PAUSED
        with suppress(LastrunError):
            attempt = self._job.attempts.of(self._token)
            if attempt is not None and attempt.reason in Reason._value2member_map_:
                return Reason(attempt.reason).ending.exit_code
        if found is not None and found.stage == "COMPLETED":
            return Exit.DONE
        if found is not None and found.message:  # no record of an attempt tells it
            self._write(f"{found}: {found.message}\n")
        told = re.search(r"exit code:?\s*(\d+)", found.message) if found is not None else None
        return int(told[1]) if told and int(told[1]) in Exit._value2member_map_ else Exit.FAILED

    def _bear(self, error: EngineError) -> None:
        now = time.monotonic()
        self._silent_since = self._silent_since or now
        if str(error) != self._said:
            self._said = str(error)
            self._write(f"{error}; the attempt goes on\n")
        if now - self._silent_since > _PATIENCE_SECONDS:
            job = self._job.reference
            raise EngineError(
                f"{error}. lastrun status {job} tells what becomes of it, lastrun stop {job} has it save and end; "
                f"hf jobs cancel {self._id} ends the machine"
            )

    def _copy_log(self) -> None:
        """Until it ends; without it the attempt goes on, and so does its log in the store."""
        try:
            for line in self._there.log(self._id, follow=True):
                self._write(plain(line if line.endswith("\n") else f"{line}\n"))
        except LastrunError as error:
            self._write(f"{error}: its log is not followed any more; lastrun logs {self._job.reference} has it\n")

    def _write(self, text: str) -> None:
        if self._output is not None:
            pass_on(text, self._output)
