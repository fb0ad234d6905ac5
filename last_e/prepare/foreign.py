"""Prepared files of other projects, read into ours. Joints only: velocity and bone are derived from them when training.

=========  =====================================================================================================
ctrgcn     CTR-GCN's ``.npz``: ``x_train`` (N, T, 150), one-hot ``y_train``, ``x_test``, ``y_test``
pyskl      pyskl's ``.pkl``, and mmaction2's: ``split`` and ``annotations`` with 3-D keypoints (M, T, 25, 3)
npy        a folder with ``train_joint.npy`` (N, 3, T, 25, M), ``train_label.pkl``, and the same with ``val``;
           2s-AGCN, MS-G3D and ST-GCN call them ``train_data_joint.npy`` and ``train_data.npy``
=========  =====================================================================================================

Zeros are padding, or a person who is not seen. People come from NTU's file names where a file has these; else the split that
the file brings is kept, under the name that the user gives.
"""

from __future__ import annotations

import io
import json
import math
import operator
import re
import zipfile
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from last_e.datafile import DataError, output_path
from last_e.joints import NUM_JOINTS
from last_e.prepare.account import count_splits, guess_dataset, versions
from last_e.prepare.archives import NOT_WHOLE
from last_e.prepare.clipfile import MOST_CLASSES, About, Array, Part, write_streamed
from last_e.prepare.names import read_name
from last_e.prepare.people import NobodyError, take_people
from last_e.prepare.pickles import read_pickle
from last_e.text import one_line

BATCH, BATCH_BYTES = 256, 32 * 2**20
MOST_CLIP_BYTES = 16 * 2**20
"""Of one clip as it stands in a file: 14,000 frames of two people in float64. NTU's longest has 300."""
MOST_CLIPS = 1_000_000
MOST_HEADER_BYTES = 1 << 16
"""Of an array's file."""
SPLITS = ("xsub", "xview", "xset")
_SPLIT_WORDS = {"cs": "xsub", "csub": "xsub", "xsub": "xsub", "cv": "xview", "xview": "xview", "cset": "xset", "xset": "xset"}

Progress = Callable[[int, int], None]


@dataclass
class Imported:
    """How an import went."""

    kind: str
    dataset: str = ""
    """``ntu60`` or ``ntu120``, by the classes."""
    clips: int = 0
    frames: int = 0
    two_people: int = 0
    splits: dict[str, dict[str, int | None]] = field(default_factory=dict)
    own_split: str | None = None
    """The split that the file brought; None where the people are known and every split can be made."""
    unusable: int = 0
    error_mm: float = 0.0
    left_out: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Foreign:
    """One clip of another project's file."""

    joints: npt.NDArray[np.floating]
    """(M, T, 25, 3) metres; zeros where nobody is."""
    label: int
    name: str
    trains: bool


@dataclass(frozen=True)
class Opened:
    """Another project's file, not yet read."""

    total: int
    names_known: bool
    """Whether every clip has one of NTU's names, so that the people are known."""
    split: str | None
    clips: Iterator[Foreign]


def import_file(kind: str, path: Path, out: Path, *, split: str | None = None, progress: Progress | None = None) -> Imported:
    """Read another project's file and write a prepared one.

    Args:
        kind: a key of :data:`READERS`.
        path: the file, or the folder for ``npy``.
        out: the prepared file.
        split: what the file's own split is called; needed where neither its clips' names nor its own name tell.
        progress: told how many clips are done, and of how many.

    Raises:
        DataError: the file is missing, damaged, of another kind, or does not say who trains.
        OSError: the disk is full.
    """
    path, out = Path(path), Path(out)
    if not path.exists():
        raise DataError(f"{path}: no such file or folder", missing=True)
    out = output_path(out, path)
    opened = READERS[kind](path, split or _split_in(path))
    own = None
    if not opened.names_known:
        own = opened.split
        if own not in SPLITS:
            raise DataError(
                f"{path}: its clips have no names, so only the file knows who trains; say which split that is with --split "
                f"{', '.join(SPLITS)}",
                missing=True,
            )
    report = Imported(kind, own_split=own)
    metadata = {"source": f"imported from {kind}: {path.name}", "versions": json.dumps(versions())}
    columns = write_streamed(_parts(opened, own, report, progress), out, metadata)
    report.dataset = guess_dataset(columns)
    report.clips, report.frames = len(columns["label"]), int(columns["length"].sum())
    report.two_people = int((columns["bodies"] == 2).sum())
    report.splits = count_splits(report.dataset, columns)
    return report


def _parts(opened: Opened, own: str | None, report: Imported, progress: Progress | None) -> Iterator[Part]:
    """Parts of few clips and few bytes: what a file claims or unpacks to never decides how much memory is taken."""
    part, size = Part(), 0
    for done, one in enumerate(opened.clips, 1):
        try:
            clip = take_people(one.joints)
        except NobodyError as error:
            report.left_out.append(f"{one.name}: {error}")
        else:
            name = read_name(one.name)
            about = About(one.label)
            if name is not None:
                about = About(one.label, name.performer, name.camera, name.setup, name.replication)
            part.add(clip.joints, about, one.name, {own: one.trains} if own else None)
            size += clip.joints.nbytes
            report.unusable += clip.unusable
            report.error_mm = max(report.error_mm, clip.error)
        if len(part.joints) == BATCH or size >= BATCH_BYTES:
            yield part
            part, size = Part(), 0
        if progress and (done % BATCH == 0 or done == opened.total):
            progress(done, opened.total)
    yield part


def _split_in(path: Path) -> str | None:
    """``xsub`` of ``NTU60_CS.npz``."""
    words = path.stem.lower().replace("-", "_").split("_")
    return next((_SPLIT_WORDS[word] for word in words if word in _SPLIT_WORDS), None)


# --- CTR-GCN -----------------------------------------------------------------------------------------------------------


def _ctrgcn(path: Path, split: str | None) -> Opened:
    try:
        with zipfile.ZipFile(path) as archive:
            labels = {part: _labels(_npy(archive, path, f"y_{part}"), f"{path}: y_{part}") for part in ("train", "test")}
    except DataError:
        raise
    except NOT_WHOLE as error:
        raise DataError(f"{path}: not a whole .npz file ({one_line(error)})") from None

    def clips() -> Iterator[Foreign]:
        with zipfile.ZipFile(path) as archive:
            for part, numbers in labels.items():
                wrong = DataError(f"{path}: x_{part} is not (clips, frames, 150) with a row for each of y_{part}")
                rows = 0
                try:
                    with closing(_npy(archive, path, f"x_{part}")) as arrays:
                        for rows, row in enumerate(arrays, 1):
                            if rows > len(numbers) or row.ndim != 2 or row.shape[1] != 2 * NUM_JOINTS * 3:
                                raise wrong
                            joints = row.reshape(len(row), 2, NUM_JOINTS, 3).swapaxes(0, 1)
                            yield Foreign(joints, numbers[rows - 1], f"{part}-{rows - 1:06}", part == "train")
                    if rows < len(numbers):
                        raise wrong
                except DataError:
                    raise
                except NOT_WHOLE as error:
                    raise DataError(f"{path}: x_{part} is damaged ({one_line(error)})") from None

    return Opened(sum(map(len, labels.values())), False, split, clips())


def _npy(archive: zipfile.ZipFile, path: Path, name: str) -> Generator[Array, None, None]:
    """The rows of an array inside a ``.npz``, one at a time: these files hold several gigabytes."""
    try:
        file = archive.open(f"{name}.npy")
    except KeyError:
        raise DataError(f"{path}: no {name} in it; CTR-GCN's files hold x_train, y_train, x_test, y_test") from None
    with file:
        shape, by_columns, dtype = _header(file, f"{path}: {name}")
        size = math.prod(shape[1:]) * dtype.itemsize
        if by_columns or dtype.kind not in "fiub" or len(shape) < 2:
            raise DataError(f"{path}: {name} is {dtype} {shape}; allowed are numbers in rows, as CTR-GCN writes them")
        _not_too_large(shape, size, f"{path}: {name}")
        for _ in range(shape[0]):
            row = file.read(size)
            if len(row) != size:
                raise DataError(f"{path}: {name} is cut short")
            yield np.frombuffer(row, dtype).reshape(shape[1:])


def _header(file: IO[bytes], what: str) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape, whether it goes by columns, and element type of an array, from the beginning of its file."""
    try:
        version = np.lib.format.read_magic(file)
        if version not in ((1, 0), (2, 0), (3, 0)):
            raise ValueError(f"numpy has no version {version} of its format")
        begin = file.read(2 if version == (1, 0) else 4)
        length = int.from_bytes(begin, "little")
        if length > MOST_HEADER_BYTES:  # numpy would read all of it first
            raise ValueError(f"its header has {length:,} bytes")
        header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, by_columns, dtype = header(io.BytesIO(begin + file.read(length)))
        shape = tuple(map(operator.index, shape))
        if min(shape, default=0) < 0:
            raise ValueError("its shape is negative")
    except Exception as error:  # a header is a Python expression, and fails in as many ways
        raise DataError(f"{what} is damaged or no array ({one_line(error)})") from None
    return shape, by_columns, dtype


def _not_too_large(shape: Sequence[int], clip_bytes: int, what: str) -> None:
    """What unpacks to any size, or claims one, is refused before memory is taken for it."""
    if shape[0] > MOST_CLIPS or clip_bytes > MOST_CLIP_BYTES:
        most = f"{MOST_CLIPS:,} clips of {MOST_CLIP_BYTES // 2**20} MiB each"
        raise DataError(f"{what} has the shape {tuple(shape)}, which no recordings have; allowed are at most {most}")


def _labels(rows: Generator[Array, None, None], what: str) -> list[int]:
    """Classes of one-hot rows."""
    labels = []
    with closing(rows):
        for row in rows:
            if row.ndim != 1 or np.count_nonzero(row) != 1 or len(row) > MOST_CLASSES:
                raise DataError(f"{what} is not one-hot (one 1 in each row, at most {MOST_CLASSES:,} wide)")
            labels.append(int(row.argmax()))
    return labels


# --- pyskl -------------------------------------------------------------------------------------------------------------


_NAME_KEYS = ("frame_dir", "filename")
"""What an annotation calls its clip: pyskl and mmaction2, and older lists of the latter."""
_ENDINGS = re.compile(r"(?i)(\.skeleton|\.avi|\.mp4|\.npy|\.json|_rgb)+$")


def _pyskl(path: Path, split: str | None) -> Opened:
    content = read_pickle(path)
    if isinstance(content, list):  # of older versions: annotations alone
        content = {"annotations": content}
    if not isinstance(content, dict) or not isinstance(content.get("annotations"), list):
        raise DataError(f"{path}: not a file of pyskl or mmaction2: no list of annotations in it; {_found(content)}")
    annotations: list[Any] = content["annotations"]
    wrong = next((n for n, one in enumerate(annotations) if not _is_annotation(one)), None)
    if wrong is not None:
        raise DataError(
            f"{path}: annotation {wrong}: needs frame_dir (or filename), label and a keypoint array (people, frames, 25, 3); "
            f"{_found(annotations[wrong])}"
        )
    names = [next(one[key] for key in _NAME_KEYS if key in one) for one in annotations]
    names_known = all(read_name(name) is not None for name in names)
    trains = set(range(len(names)))
    if not names_known:
        lists = content.get("split")
        trains, split = _who_trains(path, lists if isinstance(lists, dict) else {}, split, names)

    def clips() -> Iterator[Foreign]:
        for number, (name, one) in enumerate(zip(names, annotations)):
            yield Foreign(one["keypoint"], int(one["label"]), name, number in trains)

    return Opened(len(annotations), names_known, split, clips())


def _who_trains(path: Path, lists: dict[Any, Any], split: str | None, names: list[str]) -> tuple[set[int], str | None]:
    """The numbers of the clips that train, by a file's own list of names or numbers, and what their split is called."""
    keys = [key for key in lists if isinstance(key, str) and key.endswith("train")]
    chosen = [key for key in keys if split is None or key == f"{split}_train"] or keys
    if not chosen or (split is not None and len(chosen) > 1):
        there = f"; its lists are {', '.join(map(str, list(lists)[:9]))}" if lists else ""
        raise DataError(
            f"{path}: neither names like NTU's nor a list of the clips that train ({split or 'xsub'}_train, or train){there}"
        )
    key = chosen[0]
    if not isinstance(lists[key], (list, tuple, np.ndarray)) or not _are_names(list(lists[key])):
        raise DataError(f"{path}: neither names like NTU's nor a list of the clips that train: {key} holds no names or numbers")
    listed = list(lists[key])
    if all(isinstance(one, (int, np.integer)) for one in listed):
        found = {int(one) for one in listed if 0 <= int(one) < len(names)}
    else:
        wanted = set(map(str, listed))
        found = {number for number, name in enumerate(names) if name in wanted}
        if not found:  # in one of the two as a path, or with an ending
            stems = set(map(_stem, wanted))
            found = {number for number, name in enumerate(names) if _stem(name) in stems}
    if not found or len(found) == len(names):
        raise DataError(
            f"{path}: of the {len(listed)} names in {key}, {len(found)} are among its {len(names)} clips: some have to train, "
            f"and some to test; it has {names[0]!r}, and {key} {str(listed[0])[:60]!r}"
        )
    return found, split or key.removesuffix("train").rstrip("_") or None


def _stem(name: str) -> str:
    return _ENDINGS.sub("", re.split(r"[/\\]", name)[-1])


def _found(content: Any) -> str:
    """What is there instead, in a few words."""
    if isinstance(content, dict):
        shapes = {key: f" {value.dtype} {value.shape}" for key, value in content.items() if isinstance(value, np.ndarray)}
        return "found " + (
            ", ".join(f"{str(key)[:40]}{shapes.get(key, '')}" for key in list(content)[:9]) or "an empty mapping"
        )
    return f"found {type(content).__name__}" + (f" of {len(content)}" if isinstance(content, (list, tuple)) else "")


def _are_names(names: Sequence[Any]) -> bool:
    """Of anything else nobody knows how long its text is: lists in lists that share theirs have an endless one."""
    return all(isinstance(name, (str, int, np.integer)) for name in names)


def _is_annotation(one: Any) -> bool:
    if not isinstance(one, dict) or not any(isinstance(one.get(key), str) for key in _NAME_KEYS):
        return False
    if any(key in one and not isinstance(one[key], str) for key in _NAME_KEYS):
        return False
    keypoint, label = one.get("keypoint"), one.get("label")
    return (
        isinstance(keypoint, np.ndarray)
        and keypoint.dtype.kind == "f"
        and keypoint.ndim == 4
        and keypoint.shape[2:] == (NUM_JOINTS, 3)
        and keypoint.nbytes <= MOST_CLIP_BYTES
        and isinstance(label, (int, np.integer))
        and 0 <= int(label) < MOST_CLASSES
    )


# --- the original project ----------------------------------------------------------------------------------------------


def _original(path: Path, split: str | None) -> Opened:
    halves = []
    for part in ("train", _first_there(path, ("val", "test"), "{}_label.pkl")):
        joints = _mapped(path / _first_there(path, _JOINT_FILES, "{}", part))
        names, labels = _names_and_labels(path / f"{part}_label.pkl", part)
        if len(labels) != len(joints):
            raise DataError(f"{path / part}_label.pkl: {len(labels)} labels for {len(joints)} clips")
        halves.append((part, joints, names, labels))
    names_known = all(read_name(name) is not None for _, _, names, _ in halves for name in names)

    def clips() -> Iterator[Foreign]:
        for part, joints, names, labels in halves:
            for number, label in enumerate(labels):
                yield Foreign(joints[number].transpose(3, 1, 2, 0), label, names[number], part == "train")

    return Opened(sum(len(labels) for *_, labels in halves), names_known, split, clips())


_JOINT_FILES = ("{}_joint.npy", "{}_data_joint.npy", "{}_data.npy")
"""What the original project, 2s-AGCN and MS-G3D, and ST-GCN call their joints."""


def _first_there(folder: Path, choices: Sequence[str], pattern: str, part: str = "") -> str:
    """The first of some names that a file of the folder has; none has one: the first, to be told that it is not there."""
    names = [pattern.format(choice).format(part) for choice in choices]
    there = next((number for number, name in enumerate(names) if (folder / name).exists()), 0)
    return names[there] if part else choices[there]


def _mapped(path: Path) -> Array:
    """Joints (N, 3, T, 25, M) as they lie on the disk."""
    try:
        with path.open("rb") as file:
            shape, by_columns, dtype = _header(file, str(path))
            begin = file.tell()
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; the folder needs train and val", missing=True) from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from None
    allowed = "allowed is (clips, 3, frames, 25, people)"
    if len(shape) not in (4, 5) or shape[1] != 3 or shape[3] != NUM_JOINTS or dtype.kind != "f":
        raise DataError(f"{path}: {dtype} {shape}; {allowed}")
    if not math.prod(shape):
        raise DataError(f"{path}: {dtype} {shape}: empty; {allowed}")
    _not_too_large(shape, math.prod(shape[1:]) * dtype.itemsize, str(path))
    if math.prod(shape) * dtype.itemsize > path.stat().st_size - begin:
        raise DataError(f"{path}: damaged: it is shorter than its shape {shape} says")
    joints = np.memmap(path, dtype, "r", begin, shape, "F" if by_columns else "C")
    return joints if joints.ndim == 5 else joints[..., None]


def _names_and_labels(path: Path, part: str) -> tuple[list[str], list[int]]:
    """``(names, labels)`` as ST-GCN writes them, or labels alone."""
    content = read_pickle(path)
    names = None
    if isinstance(content, (tuple, list)) and len(content) == 2 and np.iterable(content[0]):
        names, content = list(content[0]), content[1]
        if not _are_names(names):
            raise DataError(f"{path}: its names are no texts")
        names = [str(name) for name in names]
    whole = np.iterable(content) and all(isinstance(one, (int, np.integer)) and not isinstance(one, bool) for one in content)
    if not whole or isinstance(content, (dict, bytes)):
        raise DataError(f"{path}: holds neither (names, labels) nor a list of labels")
    labels = [int(label) for label in content]
    if names is not None and len(names) != len(labels):
        raise DataError(f"{path}: {len(names)} names, but {len(labels)} labels")
    if min(labels, default=0) < 0 or max(labels, default=0) >= MOST_CLASSES:
        raise DataError(f"{path}: a label is negative, or {MOST_CLASSES:,} or more: no class has such a number")
    return names or [f"{part}-{number:06}" for number in range(len(labels))], labels


READERS = {"ctrgcn": _ctrgcn, "pyskl": _pyskl, "npy": _original}
