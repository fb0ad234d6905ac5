"""Clips that are nearly the same: the same recording rounded otherwise, a frame shorter, with a little noise."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
FRAMES = 8
"""Of each clip, spread evenly over it."""
NEAR = 0.03
"""Torsos that the joints of two clips lie apart in the mean, and are nearly the same: 1.5 cm of a grown person."""
TABLES, PROJECTIONS, WIDTH = 8, 10, 0.3
"""So that two clips which are NEAR share a cell of at least one table in 99 of 100 cases, and few others do."""
MOST_IN_A_CELL = 500
"""Of more, which hardly move and all look alike, not every pair is compared."""
_SEED = 20_261_130


class Near:
    """Clips by their shape over time, wherever they show it and however large.

    Cells of random projections (locality-sensitive hashing: Datar, Immorlica, Indyk and Mirrokni, SCG 2004) tell which pairs
    are compared, so that a set of n clips needs no n^2 comparisons; each of those is exact.
    """

    def __init__(self, clips: int, joints: int) -> None:
        self._points = np.zeros((clips, FRAMES * joints * 3), np.float16)

    def add(self, number: int, joints: Array, centre: int, torso: float) -> None:
        """A clip's main body, (T, V, 3), and how long its torso is."""
        at = np.linspace(0, len(joints) - 1, FRAMES).round().astype(np.int64)
        shape = joints[at].astype(np.float32)
        shape -= shape[:, centre].mean(axis=0)
        self._points[number] = (shape / max(torso, 1.0)).clip(-1e4, 1e4).ravel()

    def pairs(self, group: Array) -> list[tuple[int, int]]:
        """Pairs of clips that are nearly the same, and in no ``group`` (N,) together: of those a number each."""
        count = self._points.shape[1]
        random = np.random.default_rng(_SEED)
        found: set[tuple[int, int]] = set()
        for _ in range(TABLES):
            # A projection of what lies NEAR apart changes by about as much.
            along = random.normal(0, (3 / count) ** 0.5, (count, PROJECTIONS)).astype(np.float32)
            cells = np.floor(self._points.astype(np.float32) @ along / WIDTH + random.random(PROJECTIONS)).astype(np.int64)
            for members in _together(cells):
                for a, b in combinations(members.tolist(), 2):
                    if group[a] != group[b] and (a, b) not in found and self._distance(a, b) < NEAR:
                        found.add((a, b))
        return sorted(found)

    def _distance(self, a: int, b: int) -> float:
        apart = (self._points[a].astype(np.float32) - self._points[b]).reshape(-1, 3)
        return float(np.linalg.norm(apart, axis=1).mean())


def _together(cells: Array) -> Iterator[Array]:
    """The clips of each cell (N, projections) that has several, in the order of their numbers."""
    order = np.lexsort(cells.T[::-1])
    begins = np.flatnonzero(np.r_[True, (np.diff(cells[order], axis=0) != 0).any(axis=1)])
    for begin, end in zip(begins, [*begins[1:], len(order)]):
        if end - begin > 1:
            yield np.sort(order[begin:end])[:MOST_IN_A_CELL]
