"""A loss that does not jump from step to step, for people to watch."""

from __future__ import annotations

HALF = 20.0
"""After so many steps what was before counts half."""


class Smooth:
    """An exponential mean of the loss over steps, taken from the sums that training keeps anyway.

    Until there is much of it, only what there is counts, as with Adam's averages (Kingma and Ba, 2015, section 3).
    """

    def __init__(self) -> None:
        self._sum = self._weight = 0.0
        self._seen = (0.0, 0)

    def look(self, loss: float, clips: int, batch: int) -> float | None:
        """The mean by now, given the sum over the ``clips`` of the epoch so far, which have come ``batch`` a step; None before
        the first. A smaller number of clips than the last time is that of a new epoch."""
        before = self._seen if clips >= self._seen[1] else (0.0, 0)
        self._seen = loss, clips
        fresh = clips - before[1]
        if fresh > 0:
            kept = 0.5 ** (fresh / batch / HALF)
            self._sum = kept * self._sum + (1 - kept) * (loss - before[0]) / fresh
            self._weight = kept * self._weight + 1 - kept
        return self._sum / self._weight if self._weight else None
