"""Recordings of any kind of file as a network takes them: read one at a time, and what cannot be read is told. Needs no torch.

==========  ===============================================================================================================
skeleton    NTU's ``.skeleton``, also packed by gz, bz2 or xz
prepared    ``.safetensors``, as ``lastrun data`` writes them
npy         an array (T, V, D) or (M, T, V, D) of one recording, or (N, M, T, V, D) of several
json        a record a line (``.jsonl``, ``.ndjson``, standard input), a list of records, one alone, or MediaPipe's landmarks
openpose    a folder that holds ``*_keypoints.json``, one a frame
csv npz coco  as ``lastrun data import`` reads them; labels may be missing
==========  ===============================================================================================================
"""

from __future__ import annotations

import os
import select
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from last_e.datafile import DataError, see_that_it_is_there
from last_e.described import IN_THE_IMAGE, Description, described
from last_e.own_set import doubtful_units
from last_e.prepare.arrays import array_in_file
from last_e.prepare.clipfile import names_of, read_columns, read_joints
from last_e.prepare.detections import ENDING, is_coco, openpose_clip, read_coco
from last_e.prepare.entry import RECORDING, recording_name, whole_entry
from last_e.prepare.keypoints import MOST_LINE_BYTES, Found, Told, objects, of_record, parsed, read_csv, read_npz
from last_e.prepare.own import in_whole_numbers
from last_e.prepare.own_look import torso_of
from last_e.prepare.people import choose_people
from last_e.prepare.skeleton import parse
from last_e.skeletons import NTU25
from last_e.text import shown

INPUT = "-"
"""Standard input, in place of a file."""
Kind = Literal["skeleton", "prepared", "npy", "csv", "npz", "json", "openpose", "coco"]
KINDS: tuple[Kind, ...] = ("skeleton", "prepared", "npy", "csv", "npz", "json", "openpose", "coco")
_BY_ENDING: dict[str, Kind] = {
    ".safetensors": "prepared",
    ".npy": "npy",
    ".npz": "npz",
    ".csv": "csv",
    ".json": "json",
    ".jsonl": "json",
    ".ndjson": "json",
}
_ROWS = 1 << 16
"""Of a prepared file that are read at once, unless a clip has more."""


@dataclass(frozen=True)
class Recording:
    """One recording as a network takes it."""

    source: str
    """The file, or ``-``."""
    name: str
    joints: npt.NDArray[np.int16]
    """(M, T, V, 3), as in a prepared file."""
    frame: npt.NDArray[np.int64]
    """(T,): which of the recording's frames these are; nobody is seen in the others."""
    frames: int
    """How many the recording has."""
    doubts: tuple[str, ...] = ()
    """What makes one doubt that its units are those of the network's set."""


class Unread(NamedTuple):
    """What could not be read."""

    source: str
    why: str


Item = Recording | Unread | None
"""None: nothing more can be had without waiting for it."""


@dataclass(frozen=True)
class Reader:
    """Reads for a network.

    Args:
        model: what the network was trained on.
        kind: of all files; default: each as its name says.
        units: of keypoints; default: those of the network's set.
    """

    model: Description
    kind: Kind | None = None
    units: str | None = None

    def read(self, places: Iterable[str]) -> Iterator[Item]:
        """The recordings of files, folders and standard input, in order; those of a folder by their names."""
        told: set[str] = set()
        for place in places:
            for item in self._standard_input() if place == INPUT else self._in(Path(place)):
                if isinstance(item, Recording) and item.source not in told:
                    told.add(item.source)  # once for each file: one that is in other units is so throughout
                    item = self._doubted(item)
                yield item

    def _in(self, path: Path) -> Iterator[Item]:
        try:
            if not path.is_dir():
                yield from self._of_file(path, self._kind_of(path))
                return
            found = False
            for item in self._in_folder(path):
                found = True
                yield item
        except OSError as error:
            yield Unread(str(path), f"{path}: cannot be read: {error.strerror or error}")
            return
        except DataError as error:
            yield Unread(str(path), str(error))
            return
        if not found:
            allowed = f"{', '.join(_BY_ENDING)} or .skeleton file, nor OpenPose's *{ENDING}"
            yield Unread(str(path), f"{path}: no {allowed} in it")

    def _in_folder(self, root: Path) -> Iterator[Item]:
        for folder, folders, files in os.walk(root, followlinks=False):
            folders.sort()
            if any(name.endswith(ENDING) for name in files):
                yield from self._of_file(Path(folder), "openpose")
                continue
            for name in sorted(files):
                kind = _kind_by_name(name)
                if kind is not None and self.kind in (None, kind):
                    yield from self._of_file(Path(folder) / name, kind)

    def _kind_of(self, path: Path) -> Kind:
        see_that_it_is_there(path)
        kind = self.kind or _kind_by_name(path.name)
        if kind is None:
            allowed = f".skeleton, {', '.join(_BY_ENDING)}, a folder, or - for standard input"
            raise DataError(f"{path}: its name does not say what it is; allowed: {allowed}; or say it with --kind", other=True)
        return kind

    def _of_file(self, path: Path, kind: Kind) -> Iterator[Item]:
        """One that is bad is told, and the others go on."""
        readers: dict[str, Callable[[Path], Iterator[Item]]] = {
            "skeleton": self._skeleton,
            "prepared": self._prepared,
            "npy": self._array,
            "json": self._json,
            "csv": lambda path: self._of_clips(path, read_csv(path, self._told)),
            "npz": lambda path: self._of_clips(path, read_npz(path, self._told)),
            "coco": lambda path: self._of_clips(path, read_coco(path, self._told)),
            "openpose": lambda path: self._of_clips(path, iter([openpose_clip(path, self._told)])),
        }
        try:
            yield from readers[kind](path)
        except (DataError, OSError) as error:
            text = str(error) if isinstance(error, DataError) else f"cannot be read: {error.strerror or error}"
            yield Unread(str(path), text if text.startswith(str(path)) else f"{path}: {text}")

    # --- kinds -----------------------------------------------------------------------------------------------------------

    def _skeleton(self, path: Path) -> Iterator[Item]:
        self._see_that_it_fits("a .skeleton file", NTU25.joints, is_flat=False)
        recording = parse(whole_entry(path).read())
        clip = choose_people(recording)
        people = clip.joints[: self.model.people]
        yield Recording(str(path), recording_name(path.name), people, clip.frame, recording.frames)

    def _prepared(self, path: Path) -> Iterator[Item]:
        columns, metadata = read_columns(path)
        own = described(metadata)
        skeleton = NTU25 if own is None else own.skeleton
        self._see_that_it_fits(str(path), skeleton.joints, is_flat=own is not None and own.is_flat)
        names, length, bodies = names_of(columns), columns["length"].tolist(), columns["bodies"].tolist()
        first, row = 0, 0
        while first < len(names):
            last, rows = first, 0
            while last < len(names) and (last == first or rows + length[last] * bodies[last] <= _ROWS):
                rows += length[last] * bodies[last]
                last += 1
            joints = read_joints(path, row, row + rows)
            at = 0
            for number in range(first, last):
                shape = bodies[number], length[number]
                clip = joints[at : at + shape[0] * shape[1]].reshape(*shape, *joints.shape[1:])
                at += shape[0] * shape[1]
                yield Recording(str(path), names[number], clip[: self.model.people], np.arange(shape[1]), shape[1])
            first, row = last, row + rows

    def _array(self, path: Path) -> Iterator[Item]:
        with array_in_file(path) as rows:
            if len(rows.shape) not in (3, 4, 5):
                allowed = "(frames, joints, D), (people, frames, joints, D), or (clips, people, frames, joints, D)"
                raise DataError(f"{path}: is {rows.shape}; allowed: {allowed}", other=True)
            if len(rows.shape) == 5:
                for number, one in enumerate(rows.each):
                    yield self._made(str(path), f"{path.stem}-{number:06}", one)
            else:
                yield self._made(str(path), path.stem, np.stack(list(rows.each)) if rows.shape[0] else np.empty(rows.shape))

    def _json(self, path: Path) -> Iterator[Item]:
        if path.suffix.lower() in (".jsonl", ".ndjson"):
            with path.open("rb") as file:
                for number, line in enumerate(iter(lambda: file.readline(MOST_LINE_BYTES), b""), 1):
                    yield from self._of_line(str(path), number, line, path.stem)
            return
        if is_coco(path):
            yield from self._of_clips(path, read_coco(path, self._told))
            return
        for number, (where, record) in enumerate(objects(path)):
            yield self._of_record(str(path), where, record, path.stem if number == 0 else f"{path.stem}-{number:06}")

    def _standard_input(self) -> Iterator[Item]:
        """A record a line. Where nothing more is there yet, that is told, so that what is there can be answered."""
        left = b""
        number = 0
        while True:
            if not select.select([0], [], [], 0)[0]:
                yield None
            piece = os.read(0, 1 << 20)
            *lines, left = (left + piece).split(b"\n")
            if not piece and left:
                lines, left = [left], b""
            for line in lines:
                number += 1
                yield from self._of_line("standard input", number, line, "line")
            if len(left) > MOST_LINE_BYTES:
                yield Unread(
                    INPUT, f"standard input:{number + 1}: a line of more than {MOST_LINE_BYTES >> 20} MB; no more is read"
                )
                return
            if not piece:
                return

    def _of_line(self, source: str, number: int, line: bytes, stem: str) -> Iterator[Item]:
        where = f"{source}:{number}"
        if len(line) >= MOST_LINE_BYTES:
            raise DataError(f"{where}: a line of more than {MOST_LINE_BYTES >> 20} MB")
        if not line.strip():
            return
        try:
            record = parsed(line.decode("utf-8-sig"), where)
        except (DataError, UnicodeDecodeError) as error:
            yield Unread(source, str(error) if isinstance(error, DataError) else f"{where}: no text in UTF-8")
            return
        yield self._of_record(source, where, record, f"{stem}-{number:06}")

    def _of_record(self, source: str, where: str, record: Any, usual: str) -> Item:
        try:
            found = of_record(record, where, usual, self._told)
        except DataError as error:
            return Unread(source, str(error))
        return self._made(source, found.clip.name, found.clip.joints, where)

    def _of_clips(self, path: Path, clips: Iterator[Found]) -> Iterator[Item]:
        for found in clips:
            yield self._made(str(path), found.clip.name, found.clip.joints)

    # --- what all kinds have in common -----------------------------------------------------------------------------------

    @property
    def _set(self) -> Description:
        """What keypoints are: the network's set, in the units that are said."""
        return self.model if self.units is None else self.model.model_copy(update={"units": self.units})

    @property
    def _told(self) -> Told:
        return Told({}, self.model.skeleton, self.model.people, None, self.model.is_flat, needs_labels=False)

    def _made(self, source: str, name: str, joints: Any, where: str = "") -> Item:
        where = where or (source if name == Path(source).stem else f"{source}: {shown(name)}")
        try:
            made = in_whole_numbers(joints, self._set)
        except DataError as error:
            return Unread(source, f"{where}: {error}, as in {self.model.name}, which the model was trained on")
        if made is None:
            return Unread(source, f"{where}: nobody is seen in any frame")
        return Recording(source, name, made.joints[: self.model.people], made.frame, made.frames)

    def _see_that_it_fits(self, what: str, joints: Sequence[str], *, is_flat: bool) -> None:
        model = self.model
        if tuple(joints) != tuple(model.skeleton.joints) or is_flat != model.is_flat:
            raise DataError(
                f"{what} has {_told_joints(joints, is_flat)}; the model was trained on {model.name}, with "
                f"{_told_joints(model.skeleton.joints, model.is_flat)}",
                other=True,
            )

    def _doubted(self, one: Recording) -> Recording:
        torso = np.array([torso_of(one.joints, self.model.skeleton.measure)])
        doubts = doubtful_units(self._set, torso, one.joints.min(axis=(0, 1, 2)), one.joints.max(axis=(0, 1, 2)))
        return Recording(one.source, one.name, one.joints, one.frame, one.frames, tuple(doubts)) if doubts else one


def see_that_units_fit(model: Description, units: str | None) -> None:
    """See that units that are said are of as many dimensions as the network knows.

    Raises:
        DataError: they are not.
    """
    if units is not None and (units in IN_THE_IMAGE) != model.is_flat:
        kinds = "pixels and image are" if model.is_flat else "metres, centimetres and millimetres are"
        raise DataError(
            f"--units {units}: the model was trained on {model.name}, in {model.units}: {kinds} allowed", other=True
        )


def _told_joints(joints: Sequence[str], is_flat: bool) -> str:
    some = ", ".join(joints[:3])
    return f"{len(joints)} joints in {'two' if is_flat else 'three'} dimensions ({some}, ...)"


def _kind_by_name(name: str) -> Kind | None:
    kind = _BY_ENDING.get(Path(name).suffix.lower())
    return kind or ("skeleton" if RECORDING.search(name) else None)
