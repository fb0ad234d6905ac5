"""How many clips the known data sets have, without reading one. Free of torch and of numpy."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from last_e.config import TrainConfig

OFFICIAL = {
    ("ntu60", "xsub"): (40_091, 16_487),
    ("ntu60", "xview"): (37_646, 18_932),
    ("ntu120", "xsub"): (63_026, 50_919),
    ("ntu120", "xset"): (54_468, 59_477),
}
"""Clips to train and to test with in the literature, the broken recordings left out."""

TWO_PEOPLE = {"ntu60": (11, 60), "ntu120": (26, 120)}
"""Classes of two people (A050 to A060, A106 to A120), and all classes."""


class Counts(NamedTuple):
    """Clips to train and to test with, and the mean number of bodies of each."""

    train: int
    test: int
    train_bodies: float
    test_bodies: float


WITHOUT_FILE = {
    ("irds", "xsub"): Counts(858, 548, 1.0, 1.0),
    ("synthetic", "xsub"): Counts(240, 120, 4 / 3, 4 / 3),
}
"""Of the data sets that come with the package, exactly."""


def fewer(config: TrainConfig) -> list[str]:
    """What has fewer clips train than would, as a job says it."""
    said = {key: getattr(config.data, key) for key in ("train_position", "train_subjects", "train_clips")}
    return [f"data.{key}: {value}" for key, value in said.items() if value is not None]


def chooses(config: TrainConfig) -> bool:
    """Whether a job says itself which clips train, of those that its split has for that: else their number is known."""
    return config.data.validation is not None or bool(fewer(config))
