"""What every section is given, and the clips and settings that they share."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from last_e.config import TrainConfig
from last_e.data.clips import TENSORS, Clips
from last_e.data.synthetic import synthetic_clips
from last_e.layers import resolve
from last_e.reading import set_layer

ROOT = Path(__file__).parents[2]
NTU60_TRAIN, NTU60_TEST = 40_091, 16_487


@dataclass(frozen=True)
class Task:
    """What a section is given."""

    device: torch.device
    config: TrainConfig
    """Of the network that is measured."""
    clips: int
    """In a whole epoch."""
    seconds: float
    """One measurement of a rate."""
    quick: bool
    """Few steps of a small network, to try the script."""
    found: dict[str, Any]
    """The results of the sections before, by name; without those that failed or were left out."""


def settings(*words: str) -> TrainConfig:
    """A configuration of ntu60 with these keys set."""
    layer, problems = set_layer(["dataset=ntu60", *words])
    return resolve([layer], TrainConfig, problems).config


def some_clips(task: Task, classes: int = 60) -> Clips:
    """Made-up clips, 20 to 80 frames long, a third of them with two bodies."""
    return synthetic_clips(classes, 60 if task.quick else 240)


def epoch_of_clips(task: Task) -> Clips:
    """As many as a whole epoch has: the same ones again and again."""
    few = some_clips(task)
    times = math.ceil(task.clips / len(few))
    return Clips(**{name: torch.cat([getattr(few, name)] * times) for name in TENSORS})


def relative(found: float, expected: float) -> float:
    """How far apart, as a share of what was expected; infinite where one of them is no number."""
    difference = abs(found - expected) / abs(expected)
    return difference if math.isfinite(difference) else math.inf


def compared(found: dict[str, Any], expected: dict[str, Any]) -> dict[str, Any]:
    """Whether all tensors in two states are the same to the last bit, and the largest difference, as a share of the largest
    number of its tensor."""
    these, those = _tensors(found), _tensors(expected)
    assert these.keys() == those.keys(), "other tensors"
    different = [name for name, tensor in those.items() if not torch.equal(these[name], tensor)]
    worst = max((_apart(these[name], those[name]) for name in different), default=0.0)
    return {"identical": not different, "largest_difference": worst}


def _tensors(value: Any, name: str = "") -> dict[str, Tensor]:
    """All tensors in dictionaries and lists, by where they stand."""
    if isinstance(value, Tensor):
        return {name: value}
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return {place: tensor for key, item in items for place, tensor in _tensors(item, f"{name}/{key}").items()}


def _apart(found: Tensor, expected: Tensor) -> float:
    """Largest difference as a share of the largest number."""
    largest = float(expected.double().abs().max())
    return float((found.double() - expected.double()).abs().max()) / (largest or 1.0)
