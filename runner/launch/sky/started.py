"""A cluster of SkyPilot as the command that has started it holds it."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from typing import TextIO

from runner.errors import EngineError, Exit, LastrunError
from runner.job.job import Job
from runner.launch.followed import Followed
from runner.launch.sky.engine import CANCELLED, NOTES, Seen, clean, ended_by, sky
from runner.waits import WAITS


def own_words(line: str) -> str:
    """Without what SkyPilot puts before each line."""
    return re.sub(r"^\(lastrun, pid=\d+[^)]*\) ", "", clean(line))


class StartedThere(Followed):
    """See :class:`~runner.launch.followed.Followed`.

    Args:
        job: whose attempt it is.
        name: of the cluster.
        token: what the attempt's ID ends with.
        output: where its log goes; None: nobody follows it.
    """

    def __init__(self, job: Job, name: str, token: str, output: TextIO | None) -> None:
        super().__init__(job, token, output)
        self._name = name
        self._tail: subprocess.Popen[str] | None = None
        self._last = ""

    @property
    def queued(self) -> str | None:
        """Its machine is there, and is set up for minutes."""
        if self._job.attempts.of(self._token) is not None:
            return None
        found = sky().look(self._name)
        return f"SkyPilot cluster {self._name} is being set up" if found.runs else None

    def hand_on(self, signum: int) -> None:
        """What has not begun is taken down; else, and where that is not seen or not done, it is asked through the store, which
        one that has not begun hears, too."""
        with suppress(LastrunError):
            if self._job.attempts.of(self._token) is None:
                sky().down(self._name)
                self._withdrawn = True
                return
        super().hand_on(signum)

    def last_words(self) -> str:
        """The last line of its log."""
        lines: list[str] = []
        with suppress(LastrunError):
            lines = [line.strip() for line in sky().last_lines(self._name) if line.strip()]
        told = [line for line in lines if line.startswith("(lastrun")] or lines
        return own_words(told[-1]) if told else self._last

    def kill(self) -> None:
        """Its machine goes at once."""
        with suppress(LastrunError):
            sky().down(self._name)
        if self._tail is not None:
            self._tail.kill()

    @property
    def _ended_by(self) -> str:
        return ended_by(self._name)

    def _look(self) -> int | None:
        found = sky().look(self._name)
        in_doubt = found.state in ("UNHEALTHY", "gone") and not found.given_back
        if found.runs or (in_doubt and self._gave_a_sign()):
            if found.job not in (None, "INIT", "PENDING"):
                self._follow_log()
            return None
        self._read_log_to_its_end(is_there=found.state == "UP")
        self.cancelled = self._withdrawn or found.given_back or found.job == CANCELLED
        code = self._code(found)
        self._give_back(found)
        return code

    def _gave_a_sign(self) -> bool:
        """SkyPilot's own programs there, or what its server knows of the machine, may be gone while the attempt is not."""
        with suppress(LastrunError):
            attempt = self._job.attempts.of(self._token)
            return attempt is not None and self._job.attempts.gave_a_sign(attempt, 3 * WAITS.heartbeat)
        return True

    def _code(self, found: Seen) -> int:
        """The store knows best; what SkyPilot tells of a job has no exit code."""
        if self._withdrawn:
            return Exit.PAUSED
        if (kept := self._kept_code()) is not None:
            return kept
        with suppress(LastrunError):
            if found.job != "SUCCEEDED" and self._job.attempts.of(self._token) is None:  # no record tells it
                self._last = f"SkyPilot cluster {self._name} {found.end}"
                self._write(f"{self._last}\n")
        return Exit.DONE if found.job == "SUCCEEDED" else Exit.FAILED

    def _give_back(self, found: Seen) -> None:
        """At once, not after some idle minutes. How it ended is written first: afterwards it was we who have taken it down."""
        with suppress(LastrunError):
            attempt = self._job.attempts.of(self._token)
            if attempt is not None and attempt.open:
                self._job.attempts.write_lost(attempt, clean(f"its SkyPilot cluster {self._name} {found.end}"))
            NOTES.forget(self._token)
        if found.state == "gone":
            return
        self._last = self.last_words()
        try:
            sky().down(self._name)
        except EngineError as error:
            self._write(f"{error}: SkyPilot gives {self._name} back by itself; {ended_by(self._name)} does it now\n")

    def _lines(self) -> Iterator[str]:
        self._tail = sky().log(self._name)
        assert self._tail.stdout is not None
        with self._tail.stdout as lines:
            yield from map(own_words, lines)
        self._tail.wait()
