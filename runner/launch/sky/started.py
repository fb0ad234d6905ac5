"""A cluster of SkyPilot as the command that has started it holds it."""

from __future__ import annotations

import re
import subprocess
import threading
import time
from contextlib import suppress
from itertools import islice
from typing import TextIO

from last_e.process import pass_on
from runner.errors import EngineError, Exit, LastrunError, Reason, StoreError
from runner.job.job import Job
from runner.launch.sky.engine import CANCELLED, NOTES, SILENCE_SECONDS, Seen, clean, ended_by, sky
from runner.waits import WAITS

_LOOK_SECONDS = 10 * WAITS.follow


def own_words(line: str) -> str:
    """Without what SkyPilot puts before each line."""
    return re.sub(r"^\(lastrun, pid=\d+[^)]*\) ", "", clean(line))


class StartedThere:
    """See :class:`~runner.launch.protocol.Started`.

    Args:
        job: whose attempt it is.
        name: of the cluster.
        token: what the attempt's ID ends with.
        output: where its log goes; None: nobody follows it.
    """

    def __init__(self, job: Job, name: str, token: str, output: TextIO | None) -> None:
        self._job, self._name, self._token, self._output = job, name, token, output
        self._next_look, self._said, self._silent_since = 0.0, "", 0.0
        self._withdrawn = self._asked = self.cancelled = False
        self._follow: threading.Thread | None = None
        self._log: subprocess.Popen[str] | None = None
        self._told, self._last = 0, ""

    @property
    def queued(self) -> str | None:
        """Its machine is there, and is set up for minutes."""
        if self._job.attempts.of(self._token) is not None:
            return None
        found = sky().look(self._name)
        return f"SkyPilot cluster {self._name} is being set up" if found.runs else None

    def wait(self, seconds: float) -> int | None:
        """Its log is copied meanwhile, from another thread."""
        time.sleep(min(seconds, max(0.0, self._next_look - time.monotonic())))
        if time.monotonic() < self._next_look:
            return None
        self._next_look = time.monotonic() + _LOOK_SECONDS
        try:
            found = sky().look(self._name)
        except EngineError as error:
            self._bear(error)
            return None
        self._silent_since = 0.0
        in_doubt = found.state in ("UNHEALTHY", "gone") and not found.given_back
        if found.runs or (in_doubt and self._gave_a_sign()):
            self._follow_log(found)
            return None
        if self._follow is None and found.state == "UP":  # it has come and gone between two looks
            self._follow_log(found)
        if self._follow is not None:
            self._follow.join(30)
        self.cancelled = self._withdrawn or found.given_back or found.job == CANCELLED
        code = self._code(found)
        self._give_back(found)
        return code

    def hand_on(self, signum: int) -> None:
        """There is no way to send a signal there, so it is asked through the store; what has not begun is taken down."""
        if self._job.attempts.of(self._token) is None:
            sky().down(self._name)
            self._withdrawn = True
            return
        try:
            self._job.requests.ask_to_stop(now=self._asked)
        except StoreError as error:
            raise EngineError(f"{error}; {ended_by(self._name)} ends it without saving") from None
        self._asked = True

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
        if self._log is not None:
            self._log.kill()

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
        with suppress(LastrunError):
            attempt = self._job.attempts.of(self._token)
            if attempt is not None and attempt.reason in Reason._value2member_map_:
                return Reason(attempt.reason).ending.exit_code
            if attempt is None and found.job != "SUCCEEDED":  # no record tells it
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

    def _bear(self, error: EngineError) -> None:
        now = time.monotonic()
        self._silent_since = self._silent_since or now
        if str(error) != self._said:
            self._said = str(error)
            self._write(f"{error}; the attempt goes on\n")
        if now - self._silent_since > SILENCE_SECONDS:
            job = self._job.reference
            raise EngineError(
                f"{error}. lastrun status {job} tells what becomes of it, lastrun stop {job} has it save and end; "
                f"{ended_by(self._name)} ends the machine"
            )

    def _follow_log(self, found: Seen) -> None:
        if self._output is None or found.job in (None, "INIT", "PENDING") or (self._follow and self._follow.is_alive()):
            return
        self._follow = threading.Thread(target=self._copy_log, name="sky", daemon=True)
        self._follow.start()

    def _copy_log(self) -> None:
        """Until it ends, or breaks off: then the next look goes on with it. The attempt and its log in the store need none."""
        with suppress(LastrunError):
            self._log = sky().log(self._name)
            assert self._log.stdout is not None
            with self._log.stdout as lines:
                for line in islice(lines, self._told, None):
                    self._told += 1
                    self._write(own_words(line if line.endswith("\n") else f"{line}\n"))
            self._log.wait()

    def _write(self, text: str) -> None:
        if self._output is not None:
            pass_on(text, self._output)
