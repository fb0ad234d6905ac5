"""Prepared files of other projects, read into ours. Joints only: velocity and bone are derived from them when training.

=========  =====================================================================================================
ctrgcn     CTR-GCN's ``.npz``: ``x_train`` (N, T, 150), one-hot ``y_train``, ``x_test``, ``y_test``
pyskl      pyskl's ``.pkl``: ``split`` and ``annotations`` with 3-D keypoints (M, T, 25, 3)
npy        a folder with ``train_joint.npy`` (N, 3, T, 25, M), ``train_label.pkl``, and the same with ``val``
=========  =====================================================================================================

Zeros are padding, or a person who is not seen. People come from NTU's file names where a file has these; else the split that
the file brings is kept, under the name that the user gives.
"""

from __future__ import annotations

import json
import math
import zipfile
import zlib
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from last_e.datafile import DataError
from last_e.joints import NUM_JOINTS
from last_e.prepare.account import count_splits, guess_dataset, versions
from last_e.prepare.clipfile import About, Array, Part, write_streamed
from last_e.prepare.names import read_name
from last_e.prepare.people import NobodyError, take_people
from last_e.prepare.pickles import read_pickle
from last_e.text import one_line

BATCH = 256
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
    done = 0
    while batch := list(islice(opened.clips, BATCH)):
        part = Part()
        for one in batch:
            try:
                clip = take_people(one.joints)
            except NobodyError as error:
                report.left_out.append(f"{one.name}: {error}")
                continue
            name = read_name(one.name)
            about = About(one.label)
            if name is not None:
                about = About(one.label, name.performer, name.camera, name.setup, name.replication)
            part.add(clip.joints, about, one.name, {own: one.trains} if own else None)
            report.unusable += clip.unusable
            report.error_mm = max(report.error_mm, clip.error)
        done += len(batch)
        if progress:
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
    except (zipfile.BadZipFile, zlib.error, OSError, EOFError, NotImplementedError, RuntimeError) as error:
        raise DataError(f"{path}: not a whole .npz file ({one_line(error)})") from None

    def clips() -> Iterator[Foreign]:
        with zipfile.ZipFile(path) as archive:
            for part, numbers in labels.items():
                try:
                    with closing(_npy(archive, path, f"x_{part}")) as rows:
                        for number, row in enumerate(rows):
                            if number >= len(numbers) or row.ndim != 2 or row.shape[1] != 2 * NUM_JOINTS * 3:
                                raise DataError(f"{path}: x_{part} is not (clips, frames, 150) with a row for each of y_{part}")
                            joints = row.reshape(len(row), 2, NUM_JOINTS, 3).swapaxes(0, 1)
                            yield Foreign(joints, numbers[number], f"{part}-{number:06}", part == "train")
                except DataError:
                    raise
                except (zipfile.BadZipFile, zlib.error, OSError, EOFError, NotImplementedError, RuntimeError) as error:
                    raise DataError(f"{path}: x_{part} is damaged ({one_line(error)})") from None

    return Opened(sum(map(len, labels.values())), False, split, clips())


def _npy(archive: zipfile.ZipFile, path: Path, name: str) -> Generator[Array, None, None]:
    """The rows of an array inside a ``.npz``, one at a time: these files hold several gigabytes."""
    try:
        file = archive.open(f"{name}.npy")
    except KeyError:
        raise DataError(f"{path}: no {name} in it; CTR-GCN's files hold x_train, y_train, x_test, y_test") from None
    with file:
        try:
            version = np.lib.format.read_magic(file)
            header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, by_columns, dtype = header(file)
        except Exception as error:  # a header is a Python expression, and fails in as many ways
            raise DataError(f"{path}: {name} is no array ({one_line(error)})") from None
        size = math.prod(shape[1:]) * dtype.itemsize
        if by_columns or dtype.kind not in "fiub" or len(shape) < 2 or min(shape) < 0 or size > 2**26:
            raise DataError(f"{path}: {name} is {dtype} {shape}; allowed are numbers in rows, as CTR-GCN writes them")
        for _ in range(shape[0]):
            row = file.read(size)
            if len(row) != size:
                raise DataError(f"{path}: {name} is cut short")
            yield np.frombuffer(row, dtype).reshape(shape[1:])


def _labels(rows: Generator[Array, None, None], what: str) -> list[int]:
    """Classes of one-hot rows."""
    labels = []
    with closing(rows):
        for row in rows:
            if row.ndim != 1 or np.count_nonzero(row) != 1:
                raise DataError(f"{what} is not one-hot (one 1 in each row)")
            labels.append(int(row.argmax()))
    return labels


# --- pyskl -------------------------------------------------------------------------------------------------------------


def _pyskl(path: Path, split: str | None) -> Opened:
    content = read_pickle(path)
    if not isinstance(content, dict) or not isinstance(content.get("annotations"), list):
        raise DataError(f"{path}: not a file of pyskl: no list of annotations in it")
    annotations: list[Any] = content["annotations"]
    splits = content.get("split")
    wrong = next((n for n, one in enumerate(annotations) if not _is_annotation(one)), None)
    if wrong is not None:
        raise DataError(f"{path}: annotation {wrong}: needs frame_dir, label and a keypoint array (people, frames, 25, 3)")
    names_known = all(read_name(one["frame_dir"]) is not None for one in annotations)
    train: set[str] = set()
    if not names_known:
        lists = splits if isinstance(splits, dict) else {}
        key = f"{split}_train" if split else next((key for key in lists if str(key).endswith("train")), "")
        if not isinstance(lists.get(key), list):
            raise DataError(f"{path}: neither names like NTU's nor a list of the clips that train ({key or 'xsub_train'})")
        train, split = set(map(str, lists[key])), split or str(key).removesuffix("_train")

    def clips() -> Iterator[Foreign]:
        for one in annotations:
            name = one["frame_dir"]
            yield Foreign(one["keypoint"], int(one["label"]), name, name in train)

    return Opened(len(annotations), names_known, split, clips())


def _is_annotation(one: Any) -> bool:
    if not isinstance(one, dict) or not isinstance(one.get("frame_dir"), str):
        return False
    keypoint, label = one.get("keypoint"), one.get("label")
    return (
        isinstance(keypoint, np.ndarray)
        and keypoint.dtype.kind == "f"
        and keypoint.ndim == 4
        and keypoint.shape[2:] == (NUM_JOINTS, 3)
        and isinstance(label, (int, np.integer))
        and 0 <= int(label) < 100_000
    )


# --- the original project ----------------------------------------------------------------------------------------------


def _original(path: Path, split: str | None) -> Opened:
    halves = []
    for part in ("train", "val"):
        try:
            joints = np.load(path / f"{part}_joint.npy", mmap_mode="r", allow_pickle=False)
        except FileNotFoundError:
            raise DataError(f"{path / part}_joint.npy: no such file; the folder needs train and val", missing=True) from None
        except (OSError, ValueError, EOFError) as error:
            raise DataError(f"{path / part}_joint.npy: damaged or no array ({one_line(error)})") from None
        if joints.ndim == 4:
            joints = joints[..., None]
        if joints.ndim != 5 or joints.shape[1] != 3 or joints.shape[3] != NUM_JOINTS or joints.dtype.kind != "f":
            raise DataError(
                f"{path / part}_joint.npy: {joints.dtype} {joints.shape}; allowed is (clips, 3, frames, 25, people)"
            )
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


def _names_and_labels(path: Path, part: str) -> tuple[list[str], list[int]]:
    """``(names, labels)`` as ST-GCN writes them, or labels alone."""
    content = read_pickle(path)
    names = None
    if isinstance(content, (tuple, list)) and len(content) == 2 and isinstance(content[0], (list, tuple, np.ndarray)):
        names, content = [str(name) for name in content[0]], content[1]
    if (
        not isinstance(content, (list, tuple, np.ndarray))
        or np.ndim(content) != 1
        or np.asarray(content).dtype.kind not in "iu"
    ):
        raise DataError(f"{path}: holds neither (names, labels) nor a list of labels")
    labels = [int(label) for label in content]
    if names is not None and len(names) != len(labels):
        raise DataError(f"{path}: {len(names)} names, but {len(labels)} labels")
    if min(labels, default=0) < 0:
        raise DataError(f"{path}: a label is negative")
    return names or [f"{part}-{number:06}" for number in range(len(labels))], labels


READERS = {"ctrgcn": _ctrgcn, "pyskl": _pyskl, "npy": _original}
