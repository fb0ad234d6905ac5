"""How fast each rank is by itself, as their agent hears it: without the time in which it waits for others. Torch-free."""

from __future__ import annotations

from collections import deque
from dataclasses import replace
from typing import NamedTuple

from last_e.events import Beat, EpochDone, Event, Progress

STEPS = 30
"""Of so many of the last looks at a rank, each of which has found it further."""
MEASURED_SECONDS = 3.0
"""Of its own computing; of less a rate means little."""


class _Span(NamedTuple):
    """What a rank did from the first of these looks to the last."""

    clips: int
    seconds: float
    waited: float | None


class Pace:
    """What ``ranks`` have done of late."""

    def __init__(self, ranks: int) -> None:
        self._done: list[deque[Beat]] = [deque(maxlen=STEPS) for _ in range(ranks)]

    def hear(self, rank: int, beat: Beat) -> None:
        """Take what a rank says."""
        done = self._done[rank]
        if beat.clips and (not done or beat.clips > done[-1].clips):  # the first ones, during which it warms up, do not count
            done.append(beat)

    @property
    def rates(self) -> list[float] | None:
        """Clips per second of each; None as long as one has not computed enough."""
        spans = self._spans()
        return None if spans is None else [float(f"{span.clips / span.seconds:.4g}") for span in spans]

    @property
    def of_one(self) -> float | None:
        """How many times as fast they are together as one that waits for nobody; None as long as that is not known."""
        shares = [
            None if span.waited is None else span.seconds / (span.seconds + span.waited) for span in self._spans() or [_UNKNOWN]
        ]
        known = [share for share in shares if share is not None]
        return float(f"{sum(known):.4g}") if len(known) == len(shares) else None

    def told(self, event: Event) -> Event:
        """What the first rank tells of the run's speed, with that of each and of all together."""
        return replace(event, ranks=self.rates, of_one=self.of_one) if isinstance(event, (Progress, EpochDone)) else event

    def _spans(self) -> list[_Span] | None:
        spans = [_between(done[0], done[-1]) if done else _UNKNOWN for done in self._done]
        return None if min(span.seconds for span in spans) < MEASURED_SECONDS else spans


_UNKNOWN = _Span(0, 0.0, None)


def _between(first: Beat, last: Beat) -> _Span:
    waited = None if first.waited is None or last.waited is None else last.waited - first.waited
    return _Span(last.clips - first.clips, last.seconds - first.seconds, waited)
