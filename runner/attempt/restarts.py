"""Whether a run that has lost one of its ranks goes on by itself, within the same attempt."""

from __future__ import annotations

import time
from typing import NamedTuple

AWAY_SECONDS = 900.0
"""For so long a machine that has gone is tried again. By then a cluster has said that it is lost, and given the job another: Slurm
does after 300 s, where nobody has set it otherwise."""
_REST_SECONDS = 5.0


class Again(NamedTuple):
    """What is to be done."""

    goes_on: bool
    message: str
    """To be told; empty: it was told before."""
    rest: float = 0.0
    """Seconds to wait before."""


class Restarts:
    """Those of one attempt, ``most`` of them as long as it makes progress. While a machine that was there before does not take its
    ranks, a restart has not begun, and does not count."""

    def __init__(self, most: int) -> None:
        self._most, self._number, self._reached = most, 0, (0, 0)
        self._away_since: float | None = None

    def after(self, message: str, *, begun: bool, done: tuple[int, int], resumed: tuple[int, int]) -> Again:
        """What follows a loss: ``message`` tells which, ``begun`` whether all had begun; ``done`` is the epoch and step of the
        attempt's own newest checkpoint, ``resumed`` of the one that it went on from."""
        if begun:
            self._away_since = None
        elif self._number:
            first, self._away_since = self._away_since is None, self._away_since or time.monotonic()
            if time.monotonic() - self._away_since < AWAY_SECONDS:
                minutes = f"{AWAY_SECONDS / 60:.0f} minutes"
                told = f"{message}; that machine is tried again for {minutes}, or until the cluster gives the job another"
                return Again(True, told if first else "", _REST_SECONDS)
        if self._number >= self._most:
            return Again(False, message)
        if done <= max(self._reached, resumed):
            return Again(False, f"{message}; not gone on with by itself, for nothing was saved since it began")
        self._reached, self._number = done, self._number + 1
        return Again(True, f"{message}; going on from step {done[1]} ({self._number} of run.max_restarts {self._most})")
