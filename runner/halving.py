"""Which point of a sweep trains next, and how far, when weak ones are not trained to their end.

Asynchronous successive halving: L. Li et al., "A System for Massively Parallel Hyperparameter Tuning", MLSys 2020. A point that
has come to a rung waits there; of those that have come so far the best 1/factor go on to the next. Here they really do go on:
each is a job that resumes. When no point is left to begin, the best of each rung goes on though fewer are there than
the factor: so one at least is trained to its end.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Halving:
    """How a group is halved."""

    first: int
    """Epochs until points wait for the first time."""
    factor: int
    """Of those that have come so far one in so many goes on, so many times as far."""

    def rungs(self, epochs: int) -> list[int]:
        """The epochs at which points wait, of so many in all."""
        rungs, rung = [], self.first
        while rung < epochs:
            rungs.append(rung)
            rung *= self.factor
        return rungs


Values = Mapping[int, Mapping[int, float]]
"""Of each point, by its number, what it was worth at the rungs that it has come to; more is better."""


def next_point(
    values: Values, rungs: Sequence[int], factor: int, waiting: Collection[int], at_work: bool
) -> tuple[int, int | None] | None:
    """The number of the point to train next, and until which epoch (None: to its end); None: none, for now or for good.

    Args:
        values: of all points of the group.
        rungs: see :meth:`Halving.rungs`.
        factor: one of so many goes on.
        waiting: those that could be trained; others run, have ended, or have failed.
        at_work: whether some run, so that more may come to a rung.
    """
    for least in (0,) if at_work else (0, 1):
        for place in reversed(range(len(rungs))):
            there = [number for number, worth in values.items() if rungs[place] in worth]
            there.sort(key=lambda number: (-values[number][rungs[place]], number))
            for number in there[: max(least, len(there) // factor)]:
                if number in waiting and max(values[number]) == rungs[place]:
                    return number, rungs[place + 1] if place + 1 < len(rungs) else None
        if fresh := sorted(number for number in waiting if not values.get(number)):
            return fresh[0], rungs[0] if rungs else None
    return None
