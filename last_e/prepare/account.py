"""What a prepared file holds, counted against what it officially should."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from importlib import metadata as packages
from typing import Any

import numpy as np
import numpy.typing as npt

from last_e.config import TrainConfig
from last_e.datafile import OWN_SPLIT, VALIDATION, DataError, with_validation
from last_e.splits import OFFICIAL, SPLITS, Bools, Parts, trains

Array = npt.NDArray[Any]


def own_splits(columns: Mapping[str, Array]) -> dict[str, Bools]:
    """Splits that a file brings because its people are not known: which clips train, (N,)."""
    return {name[len(OWN_SPLIT) :]: column for name, column in columns.items() if name.startswith(OWN_SPLIT)}


def split_masks(dataset: str, columns: Mapping[str, Array]) -> dict[str, Bools]:
    """Which clips train, (N,), for each split that a file's clips allow: the file's own ones, else the data set's.

    None of a data set that is not known here.
    """
    people = (columns["performer"], columns["camera"], columns["setup"])
    return own_splits(columns) or {split: trains(dataset, split, *people) for split in SPLITS.get(dataset, ())}


def held_out(columns: Mapping[str, Array], train: Bools, split: str) -> Bools:
    """Which clips test, (N,), of those that do not ``train``: all but a split's validation part."""
    validation = columns.get(VALIDATION + split)
    return ~train if validation is None else ~(train | validation)


def parts_of(config: TrainConfig, columns: Mapping[str, Array]) -> Parts:
    """Which clips of a job train, which test, and on which the best is chosen, as its trainer will find them.

    Raises:
        DataError: there is no such split.
        ValueError: they cannot be chosen so.
    """
    masks, split = split_masks(config.dataset, columns), config.split_type
    if split not in masks:
        raise DataError(f"has no split {split}, only {', '.join(sorted(masks))}", missing=True)
    named = {name[len(VALIDATION) :]: column for name, column in columns.items() if name.startswith(VALIDATION)}
    parts = Parts(masks[split], held_out(columns, masks[split], split))
    return with_validation(config, parts, columns["label"], columns["performer"], named)


def count_splits(dataset: str, columns: Mapping[str, Array]) -> dict[str, dict[str, int | None]]:
    """Per split: clips to train and to test with, and how many there are officially (None: nobody says)."""
    counts: dict[str, dict[str, int | None]] = {}
    for split, mask in split_masks(dataset, columns).items():
        train, test = int(mask.sum()), int(held_out(columns, mask, split).sum())
        official = OFFICIAL.get((dataset, split), (None, None))
        counts[split] = {
            "train": train,
            "test": test,
            "official_train": official[0],
            "official_test": official[1],
            **({"validation": len(mask) - train - test} if VALIDATION + split in columns else {}),
        }
    return counts


def guess_dataset(columns: Mapping[str, Array]) -> str:
    """The data set whose classes a file of unknown origin has."""
    return "ntu120" if np.max(columns["label"], initial=0) >= 60 else "ntu60"


def versions() -> dict[str, str]:
    """What a file was made with."""
    found = {"python": platform.python_version()}
    for name in ("lastrun", "numpy", "safetensors", "numba"):
        try:
            found[name] = packages.version(name)
        except packages.PackageNotFoundError:
            found[name] = "none"
    return found
