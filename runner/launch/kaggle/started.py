"""A session of Kaggle as the command that has started it holds it."""

from __future__ import annotations

import math
import re
import sys
import threading
import time
from contextlib import suppress
from typing import TextIO

from last_e.process import pass_on
from last_e.text import plain
from runner.errors import EngineError, Exit, LastrunError, Reason, StoreError
from runner.job.job import Job
from runner.launch.kaggle import kept
from runner.launch.kaggle.account import CANCELLED, Account, Seen
from runner.launch.kaggle.begin import ENDED
from runner.waits import WAITS

_LOOK_SECONDS = 10 * WAITS.follow
_PATIENCE_SECONDS = 600.0
"""For how long nobody may answer."""


class StartedThere:
    """See :class:`~runner.launch.protocol.Started`.

    Args:
        job: whose attempt it is.
        there: whose session it is.
        slug: its name there.
        version: of the script that was pushed.
        token: what the attempt's ID ends with.
        output: where its log goes; None: nobody follows it.
    """

    def __init__(self, job: Job, there: Account, slug: str, version: str, token: str, output: TextIO | None) -> None:
        self._job, self._there, self._slug, self._version = job, there, slug, version
        self._token, self._output = token, output
        self._next_look, self._said, self._silent_since = 0.0, "", 0.0
        self._absent_until = 0.0
        self._asked = self.cancelled = self._over = self._copied = False
        self._follow: threading.Thread | None = None
        self._note = kept.NOTES.read(token) or {}

    @property
    def queued(self) -> str | None:
        """It begins when there is a machine, and is set up for minutes; where its job went along, nobody hears of that here."""
        found = self._there.look(self._slug, self._version)
        if found is None or not found.active:
            return None
        if found.waits or self._is_folder:
            return f"{found}; what it trains is fetched when it has ended" if self._is_folder else str(found)
        return None if self._job.attempts.of(self._token) is not None else f"{found} is being set up"

    @property
    def _is_folder(self) -> bool:
        return self._note.get("folder") == "1"

    def wait(self, seconds: float) -> int | None:
        """Its log is copied meanwhile, from another thread."""
        time.sleep(min(seconds, max(0.0, self._next_look - time.monotonic())))
        if time.monotonic() < self._next_look:
            return None
        self._next_look = time.monotonic() + _LOOK_SECONDS
        try:
            found = self._there.look(self._slug, self._version, at_once=True)  # the next look asks again
            if found is None and time.monotonic() < (self._absent_until or math.inf):
                self._absent_until = self._absent_until or time.monotonic() + kept.ABSENT_SECONDS
                return None
            if found is not None and found.active:
                self._silent_since = self._absent_until = 0.0
                self._show(found)
                return None
            return self._end(found)
        except EngineError as error:
            self._bear(error)
            return None

    def hand_on(self, signum: int) -> None:
        """There is no way to send a signal there, so it is asked through the store. A job that went along hears of nothing."""
        page = self._there.page(self._slug)
        if self._is_folder:
            job = self._job.reference
            raise EngineError(
                f"{self._job.id}: its Kaggle session goes on by itself, and lastrun status {job} fetches what it has trained "
                f"when it has ended; from here nothing ends it: {page}, Cancel Run, does, and then that is lost"
            )
        try:
            self._job.requests.ask_to_stop(now=self._asked)
        except StoreError as error:
            raise EngineError(f"{error}; {page}, Cancel Run, ends it without saving") from None
        self._asked = True

    def last_words(self) -> str:
        """The last line of its log but for that with its code."""
        lines: list[str] = []
        with suppress(LastrunError):
            text = "".join(_with_end(piece) for piece in self._there.log(self._slug, self._version))
            lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith(ENDED)]
        return plain(lines[-1]) if lines else ""

    def kill(self) -> None:
        """Kaggle has no call for it: who is here is told where it is ended."""
        with suppress(LastrunError):
            if self._over or (found := self._there.look(self._slug, self._version)) is None or not found.active:
                return
            sys.stderr.write(f"{found} cannot be ended from here: {self._there.page(self._slug)}, Cancel Run\n")

    def _end(self, found: Seen | None) -> int:
        if self._follow is None and self._output is not None:  # it has come and gone between two looks
            if not self._copied:
                self._copy_log()
            self._copied = True
        elif self._follow is not None:
            self._follow.join(30)
        self.cancelled = found is not None and found.state == CANCELLED
        code = kept.over(self._job, self._token, self._note, found) if self._note else None
        self._over = True
        with suppress(LastrunError):
            attempt = self._job.attempts.of(self._token)
            if attempt is not None and attempt.reason in Reason._value2member_map_:
                return Reason(attempt.reason).ending.exit_code
        if code is None:
            code = self._told_code()
        return code if code is not None and code in Exit._value2member_map_ else Exit.FAILED

    def _told_code(self) -> int | None:
        """An attempt that never had the job has its exit code in the log alone."""
        with suppress(LastrunError):
            text = "".join(_with_end(piece) for piece in self._there.log(self._slug, self._version))
            if told := re.findall(rf"^{ENDED} (\d+)$", text, re.MULTILINE):
                return int(told[-1])
        return None

    def _show(self, found: Seen) -> None:
        if str(found) != self._said:
            self._said = str(found)
            self._write(f"{found}\n")
        if not found.waits and self._follow is None and self._output is not None:
            self._follow = threading.Thread(target=self._copy_log, name="kaggle", daemon=True)
            self._follow.start()

    def _bear(self, error: EngineError) -> None:
        now = time.monotonic()
        self._silent_since = self._silent_since or now
        if str(error) != self._said:
            self._said = str(error)
            self._write(f"{error}; the attempt is not touched by that\n")
        if now - self._silent_since > _PATIENCE_SECONDS:
            job = self._job.reference
            raise EngineError(f"{error}. lastrun status {job} tells what becomes of it: {self._there.page(self._slug)}")

    def _copy_log(self) -> None:
        """Until it ends, over connections that break; what comes again from the beginning is not shown twice. Without it the
        attempt goes on, and so does its log in the store."""
        shown, tries = 0, 0
        while True:
            try:
                for number, piece in enumerate(self._there.log(self._slug, self._version)):
                    if number >= shown:
                        shown, tries = number + 1, 0
                        self._write(_with_end(plain(piece)))
                return
            except LastrunError as error:
                tries += 1
                if tries > 5:
                    self._write(f"{error}: its log is not followed any more; lastrun logs {self._job.reference} has it\n")
                    return
                time.sleep(_LOOK_SECONDS)

    def _write(self, text: str) -> None:
        if self._output is not None:
            pass_on(text, self._output)


def _with_end(piece: str) -> str:
    return piece if piece.endswith("\n") else f"{piece}\n"
