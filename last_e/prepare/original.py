"""A folder of arrays as ST-GCN and its successors write them: ``train_joint.npy`` (N, 3, T, 25, M), ``train_label.pkl``, and
the same with ``val`` or ``test``."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from last_e.datafile import DataError
from last_e.joints import NUM_JOINTS
from last_e.prepare.arrays import Rows, array_in_file, checked_labels, labels_in
from last_e.prepare.names import read_name
from last_e.prepare.opened import Foreign, Opened
from last_e.prepare.pickles import are_names, found_instead, read_pickle

_JOINTS = ("_joint", "_data_joint", "_data")
"""How files of joints end: the original project's, those of 2s-AGCN and MS-G3D, and of ST-GCN."""
_LABELS = ("_label.pkl", "_label.npy", "_labels.pkl", "_labels.npy")
_TESTS = ("val", "test")
_FILE = re.compile(r"(?P<set>.*?)(?P<part>train|val|test)(?P<end>_joint|_data_joint|_data)\.npy")
_ALLOWED = "allowed: (clips, 3, frames, 25, people)"
_NEEDED = "the folder needs train_joint.npy, train_data_joint.npy or train_data.npy, and the same of val or test"


class Half(NamedTuple):
    """What trains, or what is tested with."""

    trains: bool
    joints: Path
    names: list[str]
    labels: list[int]


def open_original(path: Path, split: str | None) -> Opened:
    """A folder of arrays; its joints are read with its clips.

    Raises:
        DataError: a file of it is missing, damaged, or of another shape.
    """
    train, test, passed_over = _find(path)
    halves = [_half(train, True), _half(test, False)]
    names_known = all(read_name(name) is not None for half in halves for name in half.names)

    def clips() -> Iterator[Foreign]:
        for half in halves:
            with array_in_file(half.joints) as rows:
                _see_that_it_fits(rows, half)
                for row, name, label in zip(rows.each, half.names, half.labels):
                    joints = row if row.ndim == 4 else row[..., None]
                    yield Foreign(joints.transpose(3, 1, 2, 0), label, name, half.trains)

    return Opened(sum(len(half.labels) for half in halves), names_known, split, clips(), passed_over)


def _find(folder: Path) -> tuple[Path, Path, tuple[str, ...]]:
    """The joints to train with, those to test with, and what else looks like them."""
    try:
        files = sorted(path.name for path in folder.iterdir())
    except OSError as error:
        raise DataError(f"{folder}: cannot be read: {error.strerror or error}") from None
    found = [match for match in map(_FILE.fullmatch, files) if match]
    sets = sorted({match["set"] for match in found})
    if len(sets) > 1:
        raise DataError(
            f"{folder}: holds several sets ({', '.join(map(repr, sets[:9]))}): give each a folder of its own", other=True
        )
    parts: dict[str, list[str]] = {}
    for end in _JOINTS:
        for match in found:
            if match["end"] == end:
                parts.setdefault(match["part"], []).append(match[0])
    test = next((part for part in _TESTS if part in parts), None)
    if "train" not in parts or test is None:
        missing = "val or test" if "train" in parts else "train"
        there = f"; found {', '.join(files[:9])}" if files else ""
        raise DataError(f"{folder}: no such file: joints of {missing}; {_NEEDED}{there}", missing=True)
    taken = {"train": parts["train"][0], "val or test": parts[test][0]}
    left = [name for names in parts.values() for name in names if name not in taken.values()]
    passed_over = tuple(f"{name}: not read, beside {' and '.join(taken.values())}" for name in sorted(left))
    return folder / parts["train"][0], folder / parts[test][0], passed_over


def _half(joints: Path, trains: bool) -> Half:
    """Names and labels of the clips, after a look at the shape of their joints."""
    match = _FILE.fullmatch(joints.name)
    assert match is not None
    stem = f"{match['set']}{match['part']}"
    places = [joints.with_name(f"{stem}{end}") for end in _LABELS]
    labels = next((place for place in places if place.exists()), None)
    if labels is None:
        raise DataError(f"{places[0]}: no such file, nor {places[1].name}: labels belong to {joints.name}", missing=True)
    with array_in_file(joints) as rows:
        half = Half(trains, joints, *_names_and_labels(labels, match["part"]))
        _see_that_it_fits(rows, half)
    if len(half.labels) != rows.shape[0]:
        raise DataError(f"{labels}: {len(half.labels)} labels for {rows.shape[0]} clips", other=True)
    return half


def _see_that_it_fits(rows: Rows, half: Half) -> None:
    shape, dtype, path = rows.shape, rows.dtype, half.joints
    if len(shape) not in (4, 5) or shape[1] != 3 or shape[3] != NUM_JOINTS or dtype.kind != "f":
        raise DataError(f"{path}: {dtype} {shape}; {_ALLOWED}", other=True)
    if 0 in shape:
        raise DataError(f"{path}: {dtype} {shape}: empty, as of recordings that were not found; {_ALLOWED}", other=True)


def _names_and_labels(path: Path, part: str) -> tuple[list[str], list[int]]:
    """``(names, labels)`` as ST-GCN writes them, or labels alone, as a pickle or as an array."""
    names, labels = _of_array(path) if path.suffix == ".npy" else _of_pickle(path)
    if names is not None and len(names) != len(labels):
        raise DataError(f"{path}: {len(names)} names, but {len(labels)} labels", other=True)
    labels = checked_labels(labels, str(path))
    return names or [f"{part}-{number:06}" for number in range(len(labels))], labels


def _of_array(path: Path) -> tuple[list[str] | None, list[int]]:
    with array_in_file(path) as rows:
        if rows.dtype.kind != "U":
            return None, labels_in(rows.each, str(path))
        both = [row.tolist() for row in rows.each] if len(rows.shape) == 2 and rows.shape[0] == 2 else []
    if not both or not all(re.fullmatch(r"-?[0-9]{1,9}", text) for text in both[1]):  # numpy's of a pair of lists
        raise DataError(f"{path}: is {rows.dtype} {rows.shape}: holds neither (names, labels) nor a list of labels", other=True)
    return both[0], [int(text) for text in both[1]]


def _of_pickle(path: Path) -> tuple[list[str] | None, list[int]]:
    content = read_pickle(path)
    names = None
    if isinstance(content, (tuple, list)) and len(content) == 2 and np.iterable(content[0]):
        names, content = list(content[0]), content[1]
        if not are_names(names):
            raise DataError(f"{path}: its names are no texts; {found_instead(names)}", other=True)
        names = [str(name) for name in names]
    if isinstance(content, np.ndarray) and content.ndim and content.dtype.kind in "fiu":
        return names, labels_in(content, str(path))
    whole = np.iterable(content) and all(isinstance(one, (int, np.integer)) and not isinstance(one, bool) for one in content)
    if not whole or isinstance(content, (dict, bytes)):
        raise DataError(
            f"{path}: holds neither (names, labels) nor a list of labels, which are whole numbers; {found_instead(content)}",
            other=True,
        )
    return names, [int(label) for label in content]
