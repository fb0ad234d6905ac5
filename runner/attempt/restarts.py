"""Whether a run that has lost one of its ranks goes on by itself, within the same attempt."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from last_e.manifest import newest_whole, read_manifest
from runner.attempt.voice import Voice
from runner.job.attempts import Attempt

AWAY_SECONDS = 900.0
"""For so long a machine that has gone is tried again. By then a cluster has said that it is lost, and given the job another:
Slurm does after 300 s, where nobody has set it otherwise."""
_REST_SECONDS = 5.0


class Again(NamedTuple):
    """What is to be done."""

    goes_on: bool
    message: str
    """To be told; empty: it was told before."""
    rest: float = 0.0
    """Seconds to wait before."""

    def begin(self, voice: Voice, asked: Callable[[], bool]) -> None:
        """Say why, if that is to be told, and wait, unless somebody has asked to stop."""
        if self.message:
            voice.say(self.message, "warning")
        until = time.monotonic() + self.rest
        while time.monotonic() < until and not asked():
            time.sleep(0.2)


class Restarts:
    """Those of one attempt, ``most`` of them as long as it makes progress. While machines that were there before do not reach
    each other, a restart has not begun, and does not count.

    Args:
        most: ``run.max_restarts``.
        scratch: the attempt's folder.
    """

    def __init__(self, most: int, scratch: Path) -> None:
        self._most, self._checkpoints = most, scratch / "run" / "checkpoints"
        self._number, self._reached = 0, (0, 0)
        self._away_since: float | None = None
        self.own: Path | None = None
        """The attempt's own checkpoint to go on from."""

    def after(self, message: str, attempt: Attempt, *, begun: bool) -> Again:
        """What follows a loss; ``message`` tells which, ``begun`` whether the ranks had met."""
        if begun:
            self._away_since = None
        elif self._number:
            first, self._away_since = self._away_since is None, self._away_since or time.monotonic()
            if time.monotonic() - self._away_since < AWAY_SECONDS:
                minutes = f"{AWAY_SECONDS / 60:.0f} minutes"
                told = f"{message}; tried again for {minutes}, or until the cluster gives the job other machines"
                return Again(True, told if first else "", _REST_SECONDS)
        if self._number >= self._most:
            return Again(False, message)
        newest = newest_whole(self._checkpoints, lambda _: None)
        about = None if newest is None else read_manifest(newest)
        done = (0, 0) if about is None else (about.epoch, about.step)
        if done <= max(self._reached, (attempt.resumed_epoch, attempt.resumed_step)):
            return Again(False, f"{message}; not gone on with by itself, for nothing was saved since it began")
        self.own, self._reached, self._number = newest, done, self._number + 1
        return Again(True, f"{message}; going on from step {done[1]} ({self._number} of run.max_restarts {self._most})")
