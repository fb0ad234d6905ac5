"""Long recordings in windows, and what is to be said of them over time. Torch-free."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


def windows(frames: int, size: int, stride: int) -> Iterator[tuple[int, int]]:
    """Begin and end of each window over so many frames. The last one is moved back to end with the recording; a recording that
    is shorter than a window is one."""
    begin = 0
    while begin + size < frames:
        yield begin, begin + size
        begin += stride
    yield max(0, frames - size), frames


class Segment(NamedTuple):
    """A stretch of which the same class is said throughout."""

    begin: int
    end: int
    """The frame behind its last."""
    label: int
    probability: float
    """Mean over its frames."""


class Timeline:
    """What is said of each frame is the mean over the windows that cover it. Windows come in order; only those are kept that
    cover frames still to be told."""

    def __init__(self) -> None:
        self._open: deque[tuple[int, Floats]] = deque()
        self._at = 0
        self._segment: Segment | None = None

    def add(self, begin: int, end: int, probabilities: Floats) -> Iterator[Segment]:
        """One more window, with the probability of each class (C,); the segments that are finished by it."""
        yield from self._until(begin)
        self._open.append((end, probabilities))

    def close(self) -> Iterator[Segment]:
        """What is left when no window comes any more."""
        if self._open:
            yield from self._until(self._open[-1][0])
        if self._segment is not None:
            yield self._segment
        self._segment = None

    def _until(self, time: int) -> Iterator[Segment]:
        while self._open and self._open[0][0] <= time:
            yield from self._told(self._open[0][0])
            self._open.popleft()
        yield from self._told(time)

    def _told(self, end: int) -> Iterator[Segment]:
        begin, self._at = self._at, max(self._at, end)
        if end <= begin or not self._open:
            return
        mean = np.mean([probabilities for _, probabilities in self._open], axis=0)
        label = int(mean.argmax())
        before = self._segment
        if before is not None and before.label == label and before.end == begin:
            total = before.probability * (begin - before.begin) + float(mean[label]) * (end - begin)
            self._segment = Segment(before.begin, end, label, total / (end - before.begin))
            return
        if before is not None:
            yield before
        self._segment = Segment(begin, end, label, float(mean[label]))
