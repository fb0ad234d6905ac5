"""An own data set: what a job takes from its file, and the mistakes in it that are told before anything trains. Torch-free."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NamedTuple

from last_e.config import TrainConfig, named_weights
from last_e.datafile import FORMAT, OWN_SPLIT, VALIDATION, DataError, read_header, see_that_the_batch_fits, with_validation
from last_e.described import UNITS, Description, content, described
from last_e.known import no_mirror
from last_e.text import counted, shown

if TYPE_CHECKING:
    import numpy as np

    from last_e.splits import Parts

    Column = np.ndarray[Any, Any]

DATA_HASH = "data_sha256"
MOST_SHARE = 0.9
"""A class that holds so much of a set is told."""
_FEWEST = 20
"""Clips of which shares are worth a word."""
_MOST_TOLD = 6
_SAMPLE_BYTES = 1 << 18
SMALLEST, LARGEST = 50, 5000
"""A torso in the file's whole numbers: of a smaller one a clip is scaled as if it had so much
(:func:`last_e.data.placement.place`), and no body has a larger one."""
FLAT = 0.01
"""A depth of so much of the width is none."""


class OwnSet(NamedTuple):
    """An own set by its file, the joints unread."""

    description: Description
    content: str
    """What stands for all of it in a job."""
    columns: dict[str, Column]
    """``label``, ``performer``, and its splits, (N,) each."""
    sample: Column | None = None
    """The first of its joints, (rows, V, 3)."""

    @property
    def splits(self) -> list[str]:
        """Its splits; the first is the usual one."""
        return [name for name in self.description.splits if OWN_SPLIT + name in self.columns]

    def values(self, split: str | None = None) -> dict[str, Any]:
        """What a job has from it, by key; ``split``: the one that it names, if it names one."""
        split = self.splits[0] if split is None else split
        validation = self.columns.get(VALIDATION + split)
        return {
            **({} if validation is None or not validation.any() else {"data.validation": split}),
            "split_type": self.splits[0],
            "data.num_classes": len(self.description.classes),
            "data.splits": self.splits,
            "data.joints": len(self.description.skeleton.joints),
            "data.content": self.content,
        }


def read_own(file: IO[bytes], size: int, where: Any) -> OwnSet:
    """What a set's file, opened and of so many bytes, says of itself.

    Raises:
        DataError: it says nothing, is damaged, or says what cannot be.
    """
    import numpy as np

    try:
        tensors, begin = read_header(file)
        metadata = tensors.pop("__metadata__")
        if metadata.get("format") != FORMAT:
            raise DataError(f"{where}: not a prepared data file: its format is {metadata.get('format')!r}, not {FORMAT!r}")
        description = described(metadata)
        if description is None:
            told = metadata.get("dataset")
            hint = (
                f"dataset: {told} and data.uri: the file" if told else "dataset: ntu60, or what it is, and data.uri: the file"
            )
            raise DataError(
                f"{where}: says nothing of its classes and joints, so it is none of your own; set {hint}", other=True
            )
        end = begin + max(about["data_offsets"][1] for about in tensors.values())
        if end > size:
            raise DataError(f"{where}: cut short: {size:,} bytes are there, {end:,} belong to it; copy it again")
        if not isinstance(metadata.get(DATA_HASH), str):
            raise DataError(f"{where}: no {DATA_HASH}, the sha256 of all behind its header (docs/own-data.md)", other=True)
        columns = {}
        for name, about in tensors.items():
            if name in ("label", "performer") or name.startswith((OWN_SPLIT, VALIDATION)):
                if about["dtype"] != ("I64" if name in ("label", "performer") else "BOOL"):
                    raise TypeError(name)
                first, last = about["data_offsets"]
                file.seek(begin + first)
                columns[name] = np.frombuffer(file.read(last - first), "?" if about["dtype"] == "BOOL" else "<i8")
        shape = [int(side) for side in tensors["joints"]["shape"][1:]]
        first, last = tensors["joints"]["data_offsets"]
        row = 2 * math.prod(shape)
        file.seek(begin + first)
        some = file.read(min(last - first, max(1, _SAMPLE_BYTES // row) * row))
        sample = np.frombuffer(some, "<i2").reshape(-1, *shape)
        one = OwnSet(description, content(description, metadata[DATA_HASH], tensors), columns, sample)
        sound = len({len(column) for column in columns.values()}) == 1 and {"label", "performer"} <= set(columns)
    except (KeyError, TypeError, AttributeError, IndexError, ArithmeticError, MemoryError):
        raise DataError(f"{where}: not a prepared data file, or a damaged one; lastrun data makes them") from None
    except ValueError as error:
        raise DataError(f"{where}: {error}", other=True) from None
    joints = len(description.skeleton.joints)
    if shape != [joints, 3] or not sound or not one.splits:
        raise DataError(f"{where}: damaged: its clips are not what its description says ({joints} joints, and splits)")
    return one


class Mistake(NamedTuple):
    """Something wrong with a set."""

    text: str
    fatal: bool = False
    """Whether nothing can be trained with it."""


def mistakes_in(one: OwnSet, *splits: str) -> list[Mistake]:
    """All that is wrong with a set's labels and splits; where some ``splits`` are named, with those alone."""
    names = [split for split in one.splits if not splits or split in splits]
    splits_too = [mistake for name in names for mistake in _wrong_split(one, name)]
    return [*_wrong_labels(one), *splits_too, *_doubtful_sample(one)]


def _wrong_labels(one: OwnSet) -> Iterator[Mistake]:
    import numpy as np

    label, classes = one.columns["label"], one.description.classes
    if not len(label):
        yield Mistake("it holds no clips", fatal=True)
        return
    beyond = label[(label < 0) | (label >= len(classes))]
    if len(beyond):
        found = f"{beyond.min()} to {beyond.max()}" if beyond.min() < beyond.max() else f"{beyond.min()}"
        yield Mistake(
            f"{counted(len(beyond), 'label')} without a name: {found}, and the classes are 0 to {len(classes) - 1}", True
        )
        return
    count = np.bincount(label, minlength=len(classes))
    if len(label) >= _FEWEST and count.max() >= MOST_SHARE * len(label):
        most = int(count.argmax())
        share = f"{count[most] / len(label):.0%}"
        yield Mistake(f"class {most} ({shown(classes[most])}) holds {share} of the clips: accuracy will tell little")
    if empty := np.flatnonzero(count == 0).tolist():
        yield Mistake(f"classes without a clip: {_some([classes[number] for number in empty])}")


def _wrong_split(one: OwnSet, name: str) -> Iterator[Mistake]:
    import numpy as np

    label, performer, classes = one.columns["label"], one.columns["performer"], one.description.classes
    train = one.columns[OWN_SPLIT + name]
    validation = one.columns.get(VALIDATION + name, np.zeros_like(train))
    parts = {"train": train & ~validation, "test": ~(train | validation)}
    if (train & validation).any():
        yield Mistake(f"split {name}: {counted(int((train & validation).sum()), 'clip')} both to train and to validate", True)
    if validation.any():
        parts["validate"] = validation
    if empty := [part for part, mask in parts.items() if not mask.any()]:
        yield Mistake(f"split {name}: no clip to {' nor to '.join(empty)}", fatal=True)
        return
    inside = (label >= 0) & (label < len(classes))
    there = {part: set(np.unique(label[mask & inside]).tolist()) for part, mask in parts.items()}
    some = set().union(*there.values())
    for part, found in there.items():
        if lacking := sorted(some - found):
            yield Mistake(f"split {name}: classes without a clip to {part}: {_some([classes[number] for number in lacking])}")
    if len(np.unique(performer)) > 1:
        people = {part: set(np.unique(performer[mask]).tolist()) for part, mask in parts.items()}
        for part in list(parts)[1:]:
            if both := sorted(people["train"] & people[part]):
                yield Mistake(f"split {name}: {counted(len(both), 'subject')} both to train and to {part}: {_some(both)}")


def doubtful_units(description: Description, torso: Column, low: Column, high: Column) -> list[str]:
    """What makes one doubt that a set's coordinates are what they are said to be: clips' torsos (N,), and the least and largest
    x, y and z, in the file's whole numbers."""
    import numpy as np

    units, found = description.units, []
    number = float(np.median(torso)) if len(torso) else float(SMALLEST)
    one = UNITS[units if description.is_flat else "metres"]
    floor = f" A clip is scaled as if it were at least {SMALLEST / one:g}" if number < SMALLEST else ""
    if description.is_flat:
        unit = "pixels" if units == "pixels" else "of the image"
        told = f"a torso is {number / one:.3g} {unit} long: metres, or another unit, in place of {units} (units)?{floor}"
        return [told] if number < SMALLEST else []
    x, y, z = (high - low).tolist()
    if z <= FLAT * max(x, y):
        found.append(f"z hardly changes: coordinates of an image, which are pixels or image, not {units} (units)?")
    elif low[0] >= 0 and low[1] >= 0 and max(high[0], high[1]) <= UNITS["metres"]:
        found.append(f"x and y all lie between 0 and 1 m: parts of an image's width, which are image, not {units} (units)?")
    if not SMALLEST <= number <= LARGEST:
        found.append(f"a torso is {number / one:.3g} m long: pixels, or another unit, in place of {units} (units)?{floor}")
    return found


def _doubtful_sample(one: OwnSet) -> Iterator[Mistake]:
    import numpy as np

    if one.sample is None or not len(one.sample):
        return
    joints = one.sample.astype(np.float64)
    low, high = one.description.skeleton.measure
    torso = np.linalg.norm(joints[:, high] - joints[:, low], axis=1)
    for text in doubtful_units(one.description, torso, joints.min(axis=(0, 1)), joints.max(axis=(0, 1))):
        yield Mistake(text)


def _some(words: Sequence[Any]) -> str:
    """The first of some words, and how many more there are."""
    told = ", ".join(shown(str(word)) for word in words[:_MOST_TOLD])
    return told + (f" and {len(words) - _MOST_TOLD} more" if len(words) > _MOST_TOLD else "")


def notes_of(mistakes: Sequence[Mistake], where: Any) -> list[str]:
    """What is no reason to refuse a job, a line each."""
    return [f"warning: {where}: {mistake.text}" for mistake in mistakes if not mistake.fatal]


def check_own(config: TrainConfig, file: IO[bytes], size: int, where: Any) -> None:
    """See that a job can train with the set in an open file: that it is the one that the job was made with, and has nothing
    fatal. Reads some hundred kilobytes.

    Raises:
        DataError: with all that does not fit.
    """
    one = read_own(file, size, where)
    split, data = config.split_type, config.data
    if data.content not in (None, one.content):
        told = "it is not the set that the job was made with: other clips, classes, joints or splits (data.content)"
        raise DataError(f"{where}: {told}", missing=True)
    wrong = [mistake.text for mistake in mistakes_in(one, split) if mistake.fatal]
    if split not in one.splits:
        wrong.append(f"it has no split {split}; its own are {', '.join(one.splits)}")
    has = {"classes": len(one.description.classes), "joints": len(one.description.skeleton.joints)}
    for what, said, key in (("classes", data.num_classes, "num_classes"), ("joints", data.joints, "joints")):
        if said not in (None, has[what]):
            wrong.append(f"it has {has[what]} {what}, and data.{key} is {said}")
    weights = config.training.class_weights
    if isinstance(weights, list):
        try:
            named_weights(weights, data.num_classes, one.description.classes)
        except ValueError as error:
            wrong.append(str(error))
    about = one.description
    if config.training.augmentations.mirror is not None and (about.mirrored is None or not about.skeleton.has_sides):
        wrong.append(no_mirror("it", about.skeleton))
    if wrong:
        raise DataError(f"{where}: {'; '.join(wrong)}", missing=True)
    see_that_the_batch_fits(config, int(_parts(one, config, where).train.sum()))


def _parts(one: OwnSet, config: TrainConfig, where: Any) -> Parts:
    """Who trains and on whom the best is chosen."""
    named = {name[len(VALIDATION) :]: mask for name, mask in one.columns.items() if name.startswith(VALIDATION)}
    from last_e.splits import Parts

    train = one.columns[OWN_SPLIT + config.split_type]
    parts = Parts(train, ~(train | named[config.split_type]) if config.split_type in named else ~train)
    try:
        return with_validation(config, parts, one.columns["label"], one.columns["performer"], named)
    except ValueError as error:
        raise DataError(f"{where}: {error}", missing=True) from None


def see_that_it_is_whole(path: Path) -> None:
    """See that a set's bytes are those that its header promises: a job is known by that promise. Reads all of the file.

    Raises:
        DataError: they are others.
    """
    with path.open("rb") as file:
        promised = read_header(file)[0]["__metadata__"].get(DATA_HASH)
        found = rest_of(file)
    if found != promised:
        raise DataError(f"{path}: damaged, or changed since it was written (data_sha256); make it anew, or copy it again")


def rest_of(file: IO[bytes]) -> str:
    """The sha256 of what is left of a file; behind its header that is what a set's metadata say under ``data_sha256``."""
    digest = hashlib.sha256()
    while piece := file.read(1 << 20):
        digest.update(piece)
    return digest.hexdigest()
