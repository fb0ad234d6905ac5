"""Whether an export says of real clips what the network says, and how long it takes."""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median
from typing import NamedTuple

import torch
from torch import Tensor

from last_e.data.batches import TestBatches
from last_e.data.clips import Clips
from last_e.described import Description
from last_e.evaluate import logits_of
from last_e.export.clips import given, pieces
from last_e.export.formats import Run
from last_e.model.network import LastE
from last_e.precision import Precision

CLOSE = 1e-5
"""How far a logit may be off, as a part of the largest one where that is above 1: float32 keeps seven digits of a number."""
TOGETHER = 8
ALONE = 2
_SECONDS = 1.5
_MOST_RUNS = 50

Counted = Callable[[int, int], None]
"""Told clips done, of how many."""


class Differs(RuntimeError):
    """An export that says something else than the network."""


class Checked(NamedTuple):
    """What an export said of some clips."""

    logits: Tensor
    """(n, classes)."""
    off: float
    """Farthest from what was to be said, as :data:`CLOSE` counts it."""


def spread(index: Tensor, most: int) -> Tensor:
    """At most so many of some clips, spread evenly."""
    if len(index) <= most:
        return index
    return index[torch.linspace(0, len(index) - 1, most).round().long()]


@torch.no_grad()
def expected(model: LastE, clips: Clips, index: Tensor, frames: int, counted: Counted) -> Tensor:
    """(n, classes) float32: what the trainer itself says in testing."""
    plain = Precision(None, False, "")
    rows, done = [], 0
    for batch in TestBatches(clips, index, frames, TOGETHER):
        rows.append(logits_of(model, batch, plain))
        done += len(batch.label)
        counted(done, len(index))
    return torch.cat(rows)


def said(run: Run, clips: Clips, description: Description, index: Tensor, counted: Counted, kind: str) -> Tensor:
    """(n, classes) float32: what an export says of clips, some alone, then several of different lengths together."""
    rows, done = [], 0
    for piece in pieces(index, ALONE, TOGETHER if kind != "executorch" else ALONE):
        rows.append(run(given(clips, description, piece)))
        done += len(piece)
        counted(done, len(index))
    return torch.cat(rows)


def distance(found: Tensor, wanted: Tensor) -> float:
    """How far logits are off: a part of the largest one, where that is above 1. Infinite where one is no number."""
    off = float((found.double() - wanted.double()).abs().max() / wanted.double().abs().max().clamp(min=1))
    return off if off == off else float("inf")


def see_that_it_is_the_same(found: Tensor, wanted: Tensor, what: str) -> float:
    """How far it is off.

    Raises:
        Differs: too far.
    """
    off = distance(found, wanted)
    if not off <= CLOSE:
        row = int((found.double() - wanted.double()).abs().nan_to_num(nan=float("inf")).amax(dim=1).argmax())
        raise Differs(
            f"{what} says something else than the network: of {len(wanted):,} clips one (the {row + 1}.) is off by {off:.1e}, "
            f"and {CLOSE:.0e} is allowed. Nothing was written"
        )
    return off


def milliseconds(run: Run, clips: Clips, description: Description, index: Tensor) -> float:
    """What one clip of the middle length takes, with its people: the median of some runs, in ms."""
    one = index[clips.length[index].argsort()[len(index) // 2]]
    clip = given(clips, description, one[None])
    for _ in range(3):
        run(clip)
    times: list[float] = []
    end = time.perf_counter() + _SECONDS
    while len(times) < _MOST_RUNS and (len(times) < 3 or time.perf_counter() < end):
        begin = time.perf_counter()
        run(clip)
        times.append(time.perf_counter() - begin)
    return 1000 * median(times)
