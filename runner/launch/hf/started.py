"""A job of Hugging Face as the command that has started it holds it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from typing import TextIO

from last_e.text import plain
from runner.errors import EngineError, Exit, LastrunError
from runner.job.job import Job
from runner.launch.followed import Followed
from runner.launch.hf import hub


def held(job: Job, token: str, found: hub.Seen) -> str | None:
    """What keeps an attempt from its job, in words; None: it has it, or has ended.

    Raises:
        StoreError: that cannot be read.
    """
    if found.stage == hub.WAITING:
        return str(found)
    return None if found.stage in hub.ENDED or job.attempts.of(token) is not None else f"{found} is being set up"


class StartedThere(Followed):
    """See :class:`~runner.launch.followed.Followed`.

    Args:
        job: whose attempt it is.
        there: whose job it is there.
        id: its ID there.
        token: what the attempt's ID ends with.
        output: where its log goes; None: nobody follows it.
    """

    def __init__(self, job: Job, there: hub.Namespace, id: str, token: str, output: TextIO | None) -> None:
        super().__init__(job, token, output)
        self._there, self._id = there, id

    @property
    def queued(self) -> str | None:
        """It begins when there is a machine, and is set up for minutes."""
        found = self._there.look(self._id)
        return None if found is None else held(self._job, self._token, found)

    def hand_on(self, signum: int) -> None:
        """What has no machine yet is taken back; else, and where that does not succeed at once, it is asked through the store,
        which one that has not begun hears, too."""
        with suppress(EngineError):
            found = self._there.look(self._id, at_once=True)
            if found is not None and found.stage == hub.WAITING:
                self._there.cancel(self._id, at_once=True)
                self._withdrawn = True
                return
        super().hand_on(signum)

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

    @property
    def _ended_by(self) -> str:
        return f"hf jobs cancel {self._id}"

    def _look(self) -> int | None:
        found = self._there.look(self._id, at_once=True)
        if found is not None and found.stage not in hub.ENDED:
            self._show(found)
            if found.stage == hub.RUNNING:
                self._follow_log()
            return None
        self._read_log_to_its_end()
        self.cancelled = found is not None and found.stage == hub.CANCELLED
        return self._code(found)

    def _code(self, found: hub.Seen | None) -> int:
        """An attempt that never had the job has its exit code in what is said of the job's end."""
        if self._withdrawn:
            hub.NOTES.forget(self._token)
            return Exit.PAUSED
        if (kept := self._kept_code()) is not None:
            hub.NOTES.forget(self._token)  # else there is an end to be written
            return kept
        if found is not None and found.stage == "COMPLETED":
            return Exit.DONE
        if found is not None and found.message:  # no record of an attempt tells it
            self._write(f"{found}: {found.message}\n")
        told = re.search(r"exit code:?\s*(\d+)", found.message) if found is not None else None
        return int(told[1]) if told and int(told[1]) in Exit._value2member_map_ else Exit.FAILED

    def _lines(self) -> Iterator[str]:
        yield from map(plain, self._there.log(self._id, follow=True))
