"""Prepared files of any size: clips are gathered into parts, parts joined into one file, joints never all in memory.

The format is the one that :mod:`last_e.data.files` reads; beside what training needs a file tells where its clips come from:

=============  ==========  ============================================================
``offset``     (N,) int64  row of each clip's first frame
``replication``  (N,) int64  as in NTU's file names; 0 where it is not known
``name``       (N, W) uint8  the recording's name in UTF-8, filled up with zeros
``train.xsub`` (N,) bool   a split of the file's own
``validation.xsub`` (N,) bool  the part of it that neither trains nor tests
``missing``    (N,) int64  joints that were not seen in a frame, and are guessed from others; of own sets
=============  ==========  ============================================================
"""

from __future__ import annotations

import errno
import hashlib
import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from filelock import FileLock, Timeout
from safetensors import SafetensorError, safe_open

from last_e.datafile import FORMAT, OWN_SPLIT, VALIDATION, DataError, unreadable
from last_e.described import MOST_PEOPLE as MOST_OF_OWN
from last_e.described import described
from last_e.joints import NUM_JOINTS
from last_e.prepare.replace import CONTENT_HASH, as_text, see_that_it_is_the_same
from last_e.whole import see_that_it_is_ours, whole_file

NUMBERS = ("label", "performer", "camera", "setup", "replication")
"""What is told of each clip, in the order of :meth:`Part.add`; 0 where it is not known."""
REQUIRED = ("length", "bodies", "label", "performer", "camera", "setup")
MOST_CLASSES = 100_000
MOST_PEOPLE = 2

_KINDS = {"int64": "I64", "int16": "I16", "uint8": "U8", "bool": "BOOL"}
_TEXT_LIMIT = 255

Array = npt.NDArray[Any]
Finish = Callable[[dict[str, Array]], tuple[dict[str, Array], dict[str, str]]]
"""From a file's columns to further ones and its metadata."""


class Form(NamedTuple):
    """What all clips of a file have in common."""

    joints: int = NUM_JOINTS
    people: int = MOST_PEOPLE
    """At most."""


class About(NamedTuple):
    """One clip's numbers; see :data:`NUMBERS`."""

    label: int
    performer: int = 0
    camera: int = 0
    setup: int = 0
    replication: int = 0


@dataclass
class Part:
    """Clips on their way to a file."""

    joints: list[npt.NDArray[np.int16]] = field(default_factory=list)
    about: list[About] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    splits: dict[str, list[bool]] = field(default_factory=dict)
    more: dict[str, list[int]] = field(default_factory=dict)
    """Further columns, a number for each clip."""

    def add(self, joints: npt.NDArray[np.int16], about: About, name: str, splits: Mapping[str, bool] | None = None) -> None:
        """Add a clip: joints (M, T, V, 3) in millimetres; ``splits`` says where it trains if its people are not known."""
        self.joints.append(joints)
        self.about.append(about)
        self.names.append(name)
        for split, trains in (splits or {}).items():
            self.splits.setdefault(split, []).append(trains)

    def write(self, path: Path, metadata: Mapping[str, str]) -> None:
        """Write the clips, of which there is at least one, to a file of their own."""
        about = np.array(self.about, dtype=np.int64).reshape(-1, len(NUMBERS))
        columns: dict[str, Array] = dict(zip(NUMBERS, about.T))
        columns["length"] = np.array([joints.shape[1] for joints in self.joints], dtype=np.int64)
        columns["bodies"] = np.array([joints.shape[0] for joints in self.joints], dtype=np.int64)
        columns["name"] = _text_column(self.names)
        columns.update({OWN_SPLIT + split: np.array(trains, dtype=np.bool_) for split, trains in self.splits.items()})
        columns.update({name: np.array(values, dtype=np.int64) for name, values in self.more.items()})
        joints = self.joints[0].shape[2] if self.joints else NUM_JOINTS
        write_clip_file(path, columns, self.joints, metadata, num_joints=joints)


def write_clip_file(
    path: Path,
    columns: Mapping[str, Array],
    joints: Iterable[Array],
    metadata: Mapping[str, str],
    scratch: Path | None = None,
    overwrite: bool = True,
    num_joints: int = NUM_JOINTS,
) -> None:
    """Write a prepared file, whole or not at all. ``joints`` may come in pieces, of any shape that ends in (V, 3).

    While it is written it lies in the folder ``scratch``, on the same disk; default: beside ``path``.

    Raises:
        DataError: ``path`` is there with other clips, and is not to be overwritten.
    """
    columns = dict(columns)
    frames = columns["length"] * columns["bodies"]
    columns["offset"] = np.cumsum(frames) - frames
    # Large elements first, as safetensors itself does, so that everything is aligned.
    order = sorted(columns, key=lambda name: (-columns[name].itemsize, name))
    wide = [name for name in order if columns[name].itemsize == 8]
    told = {key: as_text(value) for key, value in metadata.items()}
    header: dict[str, Any] = {"__metadata__": {**told, "format": FORMAT, CONTENT_HASH: "0" * 64}}
    end = 0
    for name in [*wide, "joints", *order[len(wide) :]]:
        kind, shape = ("I16", (int(frames.sum()), num_joints, 3)) if name == "joints" else _describe(columns[name])
        begin, end = end, end + int(np.prod(shape)) * {"I64": 8, "I16": 2, "U8": 1, "BOOL": 1}[kind]
        header[name] = {"dtype": kind, "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    digest = hashlib.sha256()
    with whole_file(path, scratch) as part, part.open("wb") as file:

        def put(array: Array) -> None:
            view = np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
            digest.update(view)
            file.write(view)

        file.write(len(text).to_bytes(8, "little") + text)
        for name in wide:
            put(columns[name])
        for piece in joints:
            put(piece.astype(np.int16, copy=False))
        for name in order[len(wide) :]:
            put(columns[name])
        if file.tell() != 8 + len(text) + end:
            raise AssertionError(f"{path}: {file.tell()} bytes written, {8 + len(text) + end} announced")
        file.seek(8 + text.index(b"0" * 64))
        file.write(digest.hexdigest().encode())
        file.flush()
        if not overwrite:
            see_that_it_is_the_same(path, header.keys() - {"__metadata__"}, digest.hexdigest())


def join(
    parts: Sequence[Path], path: Path, metadata: Mapping[str, str], overwrite: bool = True, finish: Finish | None = None
) -> dict[str, Array]:
    """Join files of one folder to one, a part's joints in memory at a time; returns the columns of the whole."""
    form = Form() if finish is None else Form(shape_of(parts[0])[1], MOST_OF_OWN)  # parts do not say what they are of
    pieces = [read_columns(part, form)[0] for part in parts]
    columns = {name: _stack([piece[name] for piece in pieces]) for name in pieces[0] if name != "offset"}
    if finish is not None:
        more, metadata = finish(columns)
        columns.update(more)
    joints = (read_joints(part) for part in parts)
    write_clip_file(path, columns, joints, metadata, parts[0].parent, overwrite, form.joints)
    return columns


@contextmanager
def workplace(path: Path) -> Iterator[Path]:
    """The hidden folder beside ``path`` in which it is made, for one process at a time; deleted when all went well.

    What a killed process has left in it is there for the next one: a lock that the kernel frees tells the dead from the living.

    Raises:
        DataError: another process is making it, or none can.
    """
    folder = path.with_name(f".{path.name}.parts")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileExistsError):
            folder.mkdir(mode=0o700)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise
        told = f"{path}: cannot be written there: {error.strerror}; name another file with --out"
        raise DataError(told, missing=True) from None
    try:  # finished parts in it are taken for what they say, and what a link leads to is not ours to clear
        see_that_it_is_ours(folder, "unfinished work belongs there, but")
    except PermissionError as error:
        raise DataError(str(error)) from None
    try:
        with FileLock(folder / ".lock", timeout=0):
            try:
                yield folder
            except DataError:
                if not any(folder.glob("*.part")):  # nothing to go on with
                    shutil.rmtree(folder, ignore_errors=True)
                raise
            shutil.rmtree(folder, ignore_errors=True)
    except Timeout:
        raise DataError(f"{path}: is being prepared by another process; wait for it, or name another file with --out") from None


class NoClipsError(DataError):
    """There is nothing to write."""


def write_streamed(
    parts: Iterable[Part],
    path: Path,
    metadata: Mapping[str, str],
    overwrite: bool = True,
    finish: Finish | None = None,
) -> dict[str, Array]:
    """Write a file from parts that are made one after the other; returns its columns.

    ``finish`` is asked when all clips are there, for further columns and the metadata in place of those given.

    Raises:
        DataError: there is no clip in any of them, or ``path`` is there with others, and is not to be overwritten.
    """
    with workplace(path) as folder:
        _clear(folder)
        try:
            paths = []
            for number, part in enumerate(parts):
                if part.joints:
                    paths.append(folder / f"{number:06}.part")
                    part.write(paths[-1], {})
            if not paths:
                raise NoClipsError(f"{path}: not written: there is not one clip")
            return join(paths, path, metadata, overwrite, finish)
        finally:  # nobody goes on with these
            shutil.rmtree(folder, ignore_errors=True)


def _clear(folder: Path) -> None:
    """Delete what is in a workplace but its lock."""
    for path in folder.iterdir():
        if path.name != ".lock":
            path.unlink()


def read_columns(path: Path, form: Form | None = None) -> tuple[dict[str, Array], dict[str, str]]:
    """Everything of a prepared file but its joints, and its metadata. ``form`` is what its clips must have; default: what it
    says of itself, or NTU's.

    Raises:
        DataError: missing, damaged, or another kind of file.
    """
    if path.exists() and not path.is_file():  # a pipe would be waited for, whoever wants it to end
        raise unreadable(path, OSError())
    try:
        with safe_open(path, framework="np") as file:
            metadata = file.metadata() or {}
            told = metadata.get("format")
            if told != FORMAT:
                raise DataError(f"{path}: not a prepared data file: its format is {told!r}, not {FORMAT!r}", other=True)
            names = [name for name in file.keys() if _belongs_to_clips(name)]  # noqa: SIM118 (no mapping)
            columns = {name: file.get_tensor(name) for name in names}
            joints = file.get_slice("joints")
            kind, shape = joints.get_dtype(), joints.get_shape()
            description = described(metadata)
    except FileNotFoundError:
        raise DataError(f"{path}: no such file", missing=True) from None
    except (SafetensorError, OSError, ValueError, TypeError) as error:
        raise unreadable(path, error) from None
    if form is None:
        form = Form() if description is None else Form(len(description.skeleton.joints), description.people)
    _check_columns(path, columns, kind, shape, form)
    return columns, metadata


def _check_columns(path: Path, columns: Mapping[str, Array], kind: str, shape: list[int], form: Form) -> None:
    """See that everything has the type and the shape that the format says, so that nobody behind this has to ask."""
    wrong = []
    joints, people = form
    if kind != "I16" or len(shape) != 3 or shape[1:] != [joints, 3]:
        wrong.append(f"joints are {kind} {tuple(shape)}, not int16 (rows, {joints}, 3)")
    missing = [name for name in REQUIRED if name not in columns]
    if missing:
        wrong.append(f"it has no {', '.join(missing)}")
    for name, column in columns.items():
        if name == "name":
            fits, meant = column.dtype == np.uint8 and column.ndim == 2, "uint8 (clips, width)"
        elif name.startswith((OWN_SPLIT, VALIDATION)):
            fits, meant = column.dtype == np.bool_ and column.ndim == 1, "bool (clips,)"
        else:
            fits, meant = column.dtype == np.int64 and column.ndim == 1, "int64 (clips,)"
        if not fits:
            wrong.append(f"{name} is {column.dtype} {column.shape}, not {meant}")
    if not wrong and len({len(column) for column in columns.values()}) > 1:
        wrong.append("the lists of clips differ in length")
    if wrong:
        raise DataError(f"{path}: damaged or not a prepared data file: {'; '.join(wrong)}")
    length, bodies, label = columns["length"], columns["bodies"], columns["label"]
    if not len(length):
        return
    # Before anything is multiplied or counted: numbers of 64 bits overflow, and a count for each label may be any size.
    if not (1 <= length.min() <= length.max() <= max(shape[0], 1) and 1 <= bodies.min() <= bodies.max() <= people):
        raise DataError(f"{path}: damaged: a length or a number of people is out of range")
    if not 0 <= label.min() <= label.max() < MOST_CLASSES:
        raise DataError(f"{path}: damaged: a label is out of range; allowed: 0 to {MOST_CLASSES - 1:,}")
    if shape[0] != int((length * bodies).sum()):
        raise DataError(f"{path}: damaged: {shape[0]} rows of joints are not what the clips' lengths add up to")


def _belongs_to_clips(name: str) -> bool:
    """Whether it is a column that is known here; others may stand beside them."""
    return name in (*REQUIRED, "replication", "offset", "missing", "name") or name.startswith((OWN_SPLIT, VALIDATION))


def read_joints(path: Path, begin: int = 0, end: int | None = None) -> npt.NDArray[np.int16]:
    """Rows ``begin`` to ``end`` of the joints, (rows, V, 3), without reading the others."""
    with safe_open(path, framework="np") as file:
        stored = file.get_slice("joints")
        if not stored.get_shape()[0]:  # safetensors does not slice what is empty
            return np.empty((0, *stored.get_shape()[1:]), np.int16)
        joints: npt.NDArray[np.int16] = stored[begin:end]
    return joints


def shape_of(path: Path) -> tuple[int, ...]:
    """The shape of a file's joints, (rows, V, 3)."""
    with safe_open(path, framework="np") as file:
        return tuple(file.get_slice("joints").get_shape())


def content_hash(path: Path) -> str:
    """sha256 of everything behind a prepared file's header: what its metadata say under ``data_sha256``."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        file.seek(8 + int.from_bytes(file.read(8), "little"))
        while piece := file.read(2**20):
            digest.update(piece)
    return digest.hexdigest()


def names_of(columns: Mapping[str, Array]) -> list[str]:
    """The clips' names; their numbers where the file has none."""
    if "name" not in columns:
        return [str(number) for number in range(len(columns["label"]))]
    table = np.ascontiguousarray(columns["name"])
    if not table.size:
        return [""] * len(table)
    return [name.decode("utf-8", "replace") for name in table.view(f"S{table.shape[1]}").ravel().tolist()]


def _describe(column: Array) -> tuple[str, tuple[int, ...]]:
    return _KINDS[column.dtype.name], column.shape


def _text_column(names: Sequence[str]) -> npt.NDArray[np.uint8]:
    """(N, W) uint8 of UTF-8, filled up with zeros; what is too long is cut between two characters."""
    whole = (name.encode("utf-8", "backslashreplace")[:_TEXT_LIMIT] for name in names)
    encoded = [name.decode("utf-8", "ignore").encode() for name in whole]
    width = max(map(len, encoded), default=0)
    return np.frombuffer(b"".join(name.ljust(width, b"\0") for name in encoded), np.uint8).reshape(len(names), width)


def _stack(pieces: Sequence[Array]) -> Array:
    """Columns one below the other; texts are filled up to the widest."""
    if pieces[0].ndim == 2:
        width = max(piece.shape[1] for piece in pieces)
        pieces = [np.pad(piece, ((0, 0), (0, width - piece.shape[1]))) for piece in pieces]
    return np.concatenate(pieces)
