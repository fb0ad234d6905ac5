"""How many clips a job trains and tests with, and how many bodies they have: from its file where that is at hand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from last_e.config import TrainConfig
from last_e.counts import OFFICIAL, TWO_PEOPLE, WITHOUT_FILE, Counts
from last_e.datafile import VALIDATION, DataError, data_path
from last_e.described import is_own
from runner.errors import UsageError


@dataclass(frozen=True)
class Data:
    """The clips of a job."""

    counts: Counts
    bodies_known: bool
    """Whether the numbers of bodies were counted, not assumed."""
    source: str
    note: str | None = None
    """Why a file that is there was not used."""


def data_of(configs: Sequence[TrainConfig]) -> Data:
    """The clips of a job whose file may lie where one of its ``configs`` looks for it (a profile each, else the same): those
    that train and those that test, or validate in their place, after each epoch."""
    data = _whole(configs)
    part, counts = configs[0].data.validation, data.counts
    if isinstance(part, float):  # of subjects it is about as many clips
        validate = round(part * counts.train)
        counts = Counts(counts.train - validate, validate, counts.train_bodies, counts.train_bodies)
        told = f"{data.source}; about {validate:,} of those that train are cut off to validate"
        return replace(data, counts=counts, source=told)
    return data


def _whole(configs: Sequence[TrainConfig]) -> Data:
    note = None
    for config in configs:
        try:
            path = data_path(config)
        except DataError:
            continue  # not at hand, or in a bucket
        if path is None:
            counts = WITHOUT_FILE[config.dataset, config.split_type]
            return Data(counts, True, f"{config.dataset} {config.split_type}: {_clips(counts)}, as shipped", note)
        try:
            counts = _count(path, config.dataset, config.split_type, config.data.validation)
        except DataError as error:
            note = str(error)
        except ModuleNotFoundError as error:
            note = f"{path}: not read, since {error.name} is not installed (from a clone: pip install '.[data]')"
        else:
            bodies = f"{counts.train_bodies:.3g} bodies a clip to train and {counts.test_bodies:.3g} to test"
            return Data(counts, True, f"{path}: {_clips(counts)}, {bodies}")
    dataset, split = configs[0].dataset, configs[0].split_type
    if is_own(dataset):
        raise UsageError(
            f"{dataset}: how many clips it has only its file tells; {note or 'name a copy with --set data.uri=PATH'}"
        )
    if (dataset, split) not in OFFICIAL:
        counts = WITHOUT_FILE[dataset, split]
        return Data(
            counts, False, f"{dataset} {split}: {_clips(counts)}, as shipped (the file of data.uri is not at hand)", note
        )
    two, classes = TWO_PEOPLE[dataset]
    mean = 1 + two / classes
    counts = Counts(*OFFICIAL[dataset, split], mean, mean)
    assumed = f"assumed are {mean:.3g} bodies a clip, two in {two} of {classes} classes"
    told = f"{dataset} {split}: {_clips(counts)}, the official numbers; {assumed} (no prepared file at hand)"
    return Data(counts, False, told, note)


def _clips(counts: Counts) -> str:
    return f"{counts.train:,} clips to train and {counts.test:,} to test"


def _count(path: Path, dataset: str, split_type: str, validation: float | str | None) -> Counts:
    """A prepared file's; reads all of it but the joints.

    Raises:
        DataError: it is damaged, or has no such split.
        ModuleNotFoundError: what reads it is not installed.
    """
    from last_e.prepare.account import held_out, split_masks
    from last_e.prepare.clipfile import read_columns

    columns, _ = read_columns(path)
    masks = split_masks(dataset, columns)
    if split_type not in masks:
        raise DataError(f"{path}: has no split {split_type}, only {', '.join(sorted(masks))}", missing=True)
    mask, bodies = masks[split_type], columns["bodies"]
    rest = held_out(columns, mask, split_type)
    if isinstance(validation, str) and (chosen := columns.get(VALIDATION + validation)) is not None:
        mask, rest = mask & ~chosen, chosen
    train, test = int(mask.sum()), int(rest.sum())
    if not train or not test:
        raise DataError(f"{path}: {split_type}: {train} clips to train and {test} to test")
    return Counts(train, test, float(bodies[mask].mean()), float(bodies[rest].mean()))
