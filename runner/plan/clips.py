"""How many clips a job trains and tests with, and how many bodies they have: from its file where that is at hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from last_e.config import TrainConfig
from last_e.counts import OFFICIAL, TWO_PEOPLE, WITHOUT_FILE, Counts, chooses, fewer
from last_e.datafile import DataError, data_path
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


class UnknownClipsError(UsageError):
    """How many clips train only a file that is not at hand could tell."""


def data_of(configs: Sequence[TrainConfig]) -> Data:
    """The clips of a job whose file may lie where one of its ``configs`` looks for it (a profile each, else the same): those
    that train and those that test, or validate in their place, after each epoch.

    Raises:
        UnknownClipsError: nobody can tell without the file.
        UsageError: so few, or so many, cannot be chosen among them.
    """
    note = None
    for config in configs:
        try:
            path = data_path(config)
        except DataError:
            continue  # not at hand, or in a bucket
        try:
            return _at_hand(config, path, note)
        except DataError as error:
            note = str(error)
        except ModuleNotFoundError as error:
            what = path or f"which clips of {config.dataset} train"
            note = f"{what}: not read, since {error.name} is not installed (from a clone: pip install '.[data]')"
    return _by_table(configs[0], note)


def _at_hand(config: TrainConfig, path: Path | None, note: str | None) -> Data:
    of = f"{config.dataset} {config.split_type}" if path is None else str(path)
    if path is None and not chooses(config):  # then nothing is read
        counts = WITHOUT_FILE[config.dataset, config.split_type]
        return Data(counts, True, f"{of}: {_clips(counts)}, as shipped", note)
    counts, whole, cut_off = _count(config, path)
    told = [f"{of}: {_clips(counts, cut_off)}"]
    if counts.train + (cut_off or 0) < whole:
        told.append(f"of {whole:,} that would ({', '.join(fewer(config))})")
    if path is None:
        return Data(counts, True, ", ".join([*told, "as shipped"]), note)
    told.append(f"{counts.train_bodies:.3g} bodies a clip to train and {counts.test_bodies:.3g} to test")
    return Data(counts, True, ", ".join(told))


def _by_table(config: TrainConfig, note: str | None) -> Data:
    """Of a data set whose file is not at hand, or cannot be read."""
    dataset, split, part = config.dataset, config.split_type, config.data.validation
    if is_own(dataset) or (some := fewer(config)):
        many = "it has" if is_own(dataset) else f"of it train with {', '.join(some)}"
        hint = note or "name a copy with --set data.uri=PATH"
        raise UnknownClipsError(f"{dataset}: how many clips {many} only its file tells; {hint}")
    if (dataset, split) not in OFFICIAL:
        counts, known = WITHOUT_FILE[dataset, split], config.data.uri is None
        told = f"{dataset} {split}: {_clips(counts)}, as shipped"
        told += "" if known else " (the file of data.uri is not at hand)"
    else:
        two, classes = TWO_PEOPLE[dataset]
        mean, known = 1 + two / classes, False
        counts = Counts(*OFFICIAL[dataset, split], mean, mean)
        assumed = f"assumed are {mean:.3g} bodies a clip, two in {two} of {classes} classes"
        told = f"{dataset} {split}: {_clips(counts)}, the official numbers; {assumed} (no prepared file at hand)"
    if isinstance(part, float):  # of subjects it is about as many clips
        validate = round(part * counts.train)
        counts = Counts(counts.train - validate, validate, counts.train_bodies, counts.train_bodies)
        told += f"; about {validate:,} of those that train are cut off to validate"
    return Data(counts, known, told, note)


def _clips(counts: Counts, cut_off: int | None = None) -> str:
    what = "test" if cut_off is None else "validate, out of those that would train" if cut_off else "validate"
    return f"{counts.train:,} clips to train and {counts.test:,} to {what}"


def _count(config: TrainConfig, path: Path | None) -> tuple[Counts, int, int | None]:
    """Of a prepared file, of which all is read but the joints, or of what is shipped (None): the clips that train and those
    that are scored after an epoch; how many would train if all did; how many of these validate (None: it is the test that is
    scored).

    Raises:
        DataError: it is damaged, or has no such split.
        UsageError: what the job chooses among them is not there.
        ModuleNotFoundError: what reads it is not installed.
    """
    from last_e.prepare.account import parts_of, split_masks

    where = config.dataset if path is None else f"{path}"
    try:
        columns = _columns(config, path)
        parts = parts_of(config, columns)
    except DataError as error:
        raise DataError(f"{where}: {error}", missing=True) from None
    except ValueError as error:
        raise UsageError(f"{where}: {error}") from None
    would_train, bodies = split_masks(config.dataset, columns)[config.split_type], columns["bodies"]
    scored = parts.test if parts.validation is None else parts.validation
    train, test = int(parts.train.sum()), int(scored.sum())
    if not train or not test:
        raise DataError(f"{where}: {config.split_type}: {train} clips to train and {test} to test")
    counts = Counts(train, test, float(bodies[parts.train].mean()), float(bodies[scored].mean()))
    cut_off = None if parts.validation is None else int((parts.validation & would_train).sum())
    return counts, int(would_train.sum()), cut_off


def _columns(config: TrainConfig, path: Path | None) -> Mapping[str, Any]:
    if path is None:
        from last_e.shipped import columns_of

        return columns_of(config.dataset, config.data.num_classes)
    from last_e.prepare.clipfile import read_columns

    return read_columns(path)[0]
