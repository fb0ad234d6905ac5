"""How fast each rank is by itself, as their agent hears it: without the time in which it waits for others. Torch-free."""

from __future__ import annotations

from collections import deque
from dataclasses import replace

from last_e.events import Beat, EpochDone, Event, Progress

STEPS = 30
"""Of so many of the last looks at a rank, each of which has found it further."""
MEASURED_SECONDS = 3.0
"""Of its own computing; of less a rate means little."""


class Pace:
    """What ``ranks`` have done of late."""

    def __init__(self, ranks: int) -> None:
        self._done: list[deque[tuple[int, float]]] = [deque(maxlen=STEPS) for _ in range(ranks)]

    def hear(self, rank: int, beat: Beat) -> None:
        """Take what a rank says."""
        done = self._done[rank]
        if beat.clips and (not done or beat.clips > done[-1][0]):  # the first ones, during which it warms up, do not count
            done.append((beat.clips, beat.seconds))

    @property
    def rates(self) -> list[float] | None:
        """Clips per second of each; None as long as one has not computed enough."""
        spans = [(done[-1][0] - done[0][0], done[-1][1] - done[0][1]) if done else (0, 0.0) for done in self._done]
        if min(seconds for _, seconds in spans) < MEASURED_SECONDS:
            return None
        return [float(f"{clips / seconds:.4g}") for clips, seconds in spans]

    def told(self, event: Event) -> Event:
        """What the first rank tells of the run's speed, with that of each."""
        return replace(event, ranks=self.rates) if isinstance(event, (Progress, EpochDone)) else event
