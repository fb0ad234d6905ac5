"""Which clips train and which test, by the people, cameras and setups of the recordings. Torch-free."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from hashlib import sha256
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from last_e.counts import OFFICIAL as OFFICIAL

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

IRDS_TEST_SUBJECTS = (102, 104, 106, 302, 304, 306)
NTU60_TRAIN_PERFORMERS = (1, 2, 4, 5, 8, 9, *range(13, 20), 25, 27, 28, 31, 34, 35, 38)
NTU120_TRAIN_PERFORMERS = (
    *NTU60_TRAIN_PERFORMERS,
    *(45, 46, 47, 49, 50, *range(52, 60), 70, 74, 78, *range(80, 87), 89, *range(91, 96), 97, 98, 100, 103),
)
NTU60_TRAIN_CAMERAS = (2, 3)
_MOST_TOLD = 6

SPLITS = {"irds": ("xsub",), "ntu60": ("xsub", "xview"), "ntu120": ("xsub", "xset"), "synthetic": ("xsub",)}
"""The splits of each data set."""


def trains(dataset: str, split_type: str, performer: Ints, camera: Ints, setup: Ints) -> Bools:
    """(N,) bool: True where a clip trains; everything else tests.

    NTU: Shahroudy et al., CVPR 2016 (xsub, xview); Liu et al., TPAMI 2019 (ntu120's xsub, xset).

    Raises:
        ValueError: the data set has no such split.
    """
    mask: Any
    if (dataset, split_type) == ("irds", "xsub"):
        mask = ~np.isin(performer, IRDS_TEST_SUBJECTS)
    elif (dataset, split_type) == ("ntu60", "xsub"):
        mask = np.isin(performer, NTU60_TRAIN_PERFORMERS)
    elif (dataset, split_type) == ("ntu60", "xview"):
        mask = np.isin(camera, NTU60_TRAIN_CAMERAS)
    elif (dataset, split_type) == ("ntu120", "xsub"):
        mask = np.isin(performer, NTU120_TRAIN_PERFORMERS)
    elif (dataset, split_type) == ("ntu120", "xset"):
        mask = setup % 2 == 0
    elif (dataset, split_type) == ("synthetic", "xsub"):
        mask = performer % 3 != 0
    else:
        raise ValueError(f"no split {split_type} of {dataset}")
    return np.asarray(mask, dtype=np.bool_)


class Parts(NamedTuple):
    """Which clips do what, (N,) bool each."""

    train: Bools
    test: Bools
    validation: Bools | None = None
    """The best is chosen on these; None: on those that test."""
    notes: tuple[str, ...] = ()
    """What seems wrong with the part that was cut off, and is no reason not to train."""


def few(parts: Parts, subjects: int | None, clips: int | None, seed: int, *, label: Ints, performer: Ints) -> Parts:
    """Have fewer clips train: those of so many ``subjects``, and of each class so many ``clips``; the others do nothing.

    Who is drawn follows from the sha256 of the seed and of each one's number alone, so that it is the same on every machine,
    and of more those of fewer are a part.

    Raises:
        ValueError: there are not so many subjects.
    """
    train = parts.train
    if subjects is not None:
        among = _in_drawn_order(np.unique(performer[train]), f"{seed} subject")
        if subjects > len(among):
            raise ValueError(f"data.train_subjects: found {subjects}; allowed: at most {len(among)}, all that would train")
        train = train & np.isin(performer, among[:subjects])
    if clips is not None:
        groups = [np.flatnonzero(train & (label == one)) for one in np.unique(label[train])]
        wanted = [one for group in groups for one in _in_drawn_order(group, f"{seed} clip")[:clips]]
        train = np.isin(np.arange(len(train)), wanted)
    return parts._replace(train=np.asarray(train))


def _in_drawn_order(numbers: Ints, of: str) -> list[int]:
    return sorted(numbers.tolist(), key=lambda one: sha256(f"{of} {one}".encode()).digest())


def cut_off(
    parts: Parts,
    part: float | str,
    by: str | None,
    seed: int | None,
    *,
    label: Ints,
    performer: Ints,
    named: Mapping[str, Bools],
) -> Parts:
    """Take clips from those that train, to choose the best on.

    A fraction of the subjects, or of each class's clips, is drawn by the sha256 of the seed and of each one's number alone, so
    that it is the same on every machine.

    Args:
        parts: who trains and who tests.
        part: a fraction in (0, 1), or one of ``named``.
        by: ``subject`` (default) or ``clip``, for a fraction.
        seed: decides who is drawn; default 0.
        label: (N,).
        performer: (N,).
        named: the validation part of each split that has one, (N,) bool.

    Raises:
        ValueError: it cannot be, and what can.
    """
    train = parts.train
    if isinstance(part, str):
        if part not in named:
            told = f"the splits that have one are {', '.join(sorted(named))}" if named else "no split of it has one"
            raise ValueError(f"data.validation: no split {part} with a validation part; {told}")
        chosen = named[part]
        if (both := int((chosen & parts.test).sum())) > 0:
            raise ValueError(f"data.validation: {both:,} clips of the validation part of {part} test; choose another split's")
    else:
        chosen = _drawn(train, part, by or "subject", seed or 0, label, performer)
    rest = train & ~chosen
    if not rest.any() or not chosen.any():
        what = "validate" if rest.any() else "train"
        raise ValueError(f"data.validation: {part} of {int(train.sum()):,} clips leaves none to {what}")
    return Parts(rest, parts.test, chosen, tuple(_lacking(rest, chosen, label)))


def _drawn(train: Bools, part: float, by: str, seed: int, label: Ints, performer: Ints) -> Bools:
    keys = performer if by == "subject" else np.arange(len(train))
    groups = [train] if by == "subject" else [train & (label == one) for one in np.unique(label[train])]
    wanted: list[int] = []
    for group in groups:
        among = sorted(np.unique(keys[group]).tolist(), key=lambda one: sha256(f"{seed} validation {one}".encode()).digest())
        if by == "subject" and len(among) < 2:
            raise ValueError(
                "data.validation: the clips that train are of one subject, or nobody knows of whom; draw clips instead with "
                "data.validation_by: clip"
            )
        wanted += among[: min(len(among) - 1, max(1, round(part * len(among))))]
    return np.asarray(train & np.isin(keys, wanted))


def _lacking(train: Bools, validation: Bools, label: Ints) -> Iterator[str]:
    """Classes that are in one part alone."""
    there = {"train": set(label[train].tolist()), "validate": set(label[validation].tolist())}
    for part, other in (("train", "validate"), ("validate", "train")):
        if lacking := sorted(there[other] - there[part]):
            some, more = lacking[:_MOST_TOLD], len(lacking) - _MOST_TOLD
            told = ", ".join(map(str, some)) + (f" and {more} more" if more > 0 else "")
            yield f"data.validation: classes without a clip to {part}: {told}"
