"""A session of Kaggle as the command that has started it holds it."""

from __future__ import annotations

import math
import re
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import TextIO

from last_e.text import plain
from runner.errors import EngineError, Exit, LastrunError
from runner.job.job import Job
from runner.launch.followed import Followed
from runner.launch.kaggle import kept
from runner.launch.kaggle.account import CANCELLED, Account, Seen
from runner.launch.kaggle.begin import ENDED


class StartedThere(Followed):
    """See :class:`~runner.launch.followed.Followed`.

    Args:
        job: whose attempt it is.
        there: whose session it is.
        slug: its name there.
        version: of the script that was pushed.
        token: what the attempt's ID ends with.
        output: where its log goes; None: nobody follows it.
    """

    def __init__(self, job: Job, there: Account, slug: str, version: str, token: str, output: TextIO | None) -> None:
        super().__init__(job, token, output)
        self._there, self._slug, self._version = there, slug, version
        self._absent_until, self._over = 0.0, False
        self._note = kept.NOTES.read(token) or {}

    @property
    def queued(self) -> str | None:
        """It begins when there is a machine, and is set up for minutes; where its job went along, nobody hears of that here."""
        found = self._there.look(self._slug, self._version)
        if found is None or not found.active:
            return None
        if self._is_folder:
            return f"{found}; what it trains is fetched when it has ended"
        return kept.held(self._job, self._token, found)

    def hand_on(self, signum: int) -> None:
        """By way of the store. A job that went along hears of nothing."""
        if self._is_folder:
            job = self._job.reference
            raise EngineError(
                f"{self._job.id}: its Kaggle session goes on by itself, and lastrun status {job} fetches what it has trained "
                f"when it has ended; from here nothing ends it: {self._ended_by} does, and then that is lost"
            )
        super().hand_on(signum)

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

    @property
    def _is_folder(self) -> bool:
        return self._note.get("folder") == "1"

    @property
    def _ended_by(self) -> str:
        return f"{self._there.page(self._slug)}, Cancel Run,"

    def _how_it_goes_on(self) -> str:
        if self._is_folder:
            return f"lastrun status {self._job.reference} tells what becomes of it; {self._ended_by} ends it without that"
        return super()._how_it_goes_on()

    def _look(self) -> int | None:
        found = self._there.look(self._slug, self._version, at_once=True)
        if found is None and time.monotonic() < (self._absent_until or math.inf):
            self._absent_until = self._absent_until or time.monotonic() + kept.ABSENT_SECONDS
            return None
        if found is not None and found.active:
            self._absent_until = 0.0
            self._show(found)
            if not found.waits:
                self._follow_log()
            return None
        return self._end(found)

    def _end(self, found: Seen | None) -> int:
        """May be called again, where what it has left does not come yet."""
        self._read_log_to_its_end()
        self.cancelled = found is not None and found.state == CANCELLED
        code = kept.over(self._job, self._token, self._note, found) if self._note else None
        self._over = True
        if (of_the_store := self._kept_code()) is not None:
            return of_the_store
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

    def _lines(self) -> Iterator[str]:
        yield from map(plain, self._there.log(self._slug, self._version))


def _with_end(piece: str) -> str:
    return piece if piece.endswith("\n") else f"{piece}\n"
