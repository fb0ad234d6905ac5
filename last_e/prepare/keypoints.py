"""Keypoints in files of any program's, read as clips of an own set, one at a time.

==========  ===============================================================================================================
csv         a row for each person and frame: ``clip``, ``frame``, ``label``, and ``NAME_x``, ``NAME_y``, ... or ``x0``, ...
npz         ``joints`` (N, T, V, D) or (N, M, T, V, D), ``label`` (N,), and perhaps ``length``, ``subject``, ``name``, ``part``
json        records with ``joints`` (T, V, D) or (M, T, V, D), ``label``, ...: a line each, or in a list
mediapipe   the same with landmarks ``{"x": ..., "y": ..., "z": ..., "visibility": ...}``, a list of them for each frame
openpose    a folder for each clip with a ``*_keypoints.json`` for each frame
coco        COCO's keypoints: ``images`` whose ``file_name`` is CLIP/FRAME, and ``annotations``
pyskl       pyskl's ``.pkl`` with keypoints in any layout; see :mod:`last_e.prepare.pyskl_own`
==========  ===============================================================================================================

What a file does not say of a clip comes from a table of clips (``--clips``), its label also from the folder that it lies in.
"""

from __future__ import annotations

import csv
import json
import re
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from last_e.datafile import DataError
from last_e.prepare.archives import NOT_WHOLE
from last_e.prepare.arrays import array_in_zip
from last_e.prepare.clipfile import Array
from last_e.prepare.json_stream import elements
from last_e.prepare.own import OwnClip, as_whole
from last_e.skeletons import LAYOUTS, Skeleton
from last_e.text import one_line, shown
from last_e.whole import read_bounded

MOST_JSON_BYTES = 1 << 29
"""Of one file that has to be read as a whole."""
MOST_LINE_BYTES = 1 << 26
CLIPS = "clips"
"""Under which key a JSON file may have the list of its records."""
MOST_ROWS = 100_000
"""Of one clip in a csv file."""
PARTS = ("train", "test", "validation")
TOLD = ("label", "subject", "camera", "part")
"""What a table of clips may say, beside their names."""
_DEEPEST = 4
_AXIS = re.compile(r"(?i)(?:(?P<name>.+)[_.](?P<axis>x|y|z|score|c|confidence|visibility|v)|(?P<a>[xyzvc])_?(?P<n>\d{1,3}))")


class Found(NamedTuple):
    """A clip of a file, with the part of the file's own split that it is in, if it says so."""

    clip: OwnClip
    part: str | None = None
    knows_subject: bool = False


@dataclass(frozen=True)
class Told:
    """What is told of a file's clips beside the file."""

    table: Mapping[str, Mapping[str, str]]
    """A table of clips: by name, what is known of each."""
    skeleton: Skeleton | None
    people: int
    """Most that are followed where a file does not tell who is who."""
    train_list: str | None = None
    """Which of a pickle's lists names who trains."""
    is_flat: bool = False
    """Whether the set's units are those of an image."""
    needs_labels: bool = True
    """Whether a clip without a class is none; else its label is empty."""

    def found(self, name: str, joints: Any, said: Mapping[str, Any], folder: str = "") -> Found:
        """A clip, of whom the table's word counts before the file's own, and that before its folder's name.

        Raises:
            DataError: nobody says of which class it is.
        """
        told = {**{key: said[key] for key in TOLD if said.get(key) not in (None, "")}, **self.table.get(name, {})}
        label = told.get("label", folder)
        if label == "" and self.needs_labels:
            raise DataError(
                f"clip {shown(name)}: nothing says of which class it is: a label, a folder of that name, or --clips"
            )
        part = told.get("part")
        if part is not None and part not in PARTS:
            raise DataError(f"clip {shown(name)}: part {shown(part)}; allowed: {', '.join(PARTS)}")
        try:
            camera = int(_number(told.get("camera", 0)))
            clip = OwnClip(joints, _number(label), name, _number(told.get("subject", 0)), camera)
        except (TypeError, ValueError):
            raise DataError(f"clip {shown(name)}: its label, subject or camera is no text and no whole number") from None
        return Found(clip, part, "subject" in told)


def _number(value: Any) -> int | str:
    """A whole number where it is one, also as a text; else the text."""
    if (number := as_whole(value)) is not None:
        return number
    if not isinstance(value, str):
        raise TypeError(value)
    return int(value) if re.fullmatch(r"[0-9]{1,9}", value) and str(int(value)) == value else value


def read_table(path: Path) -> dict[str, dict[str, str]]:
    """A table of clips: a csv file with ``name`` and any of :data:`TOLD`.

    Raises:
        DataError: it is none.
    """
    table: dict[str, dict[str, str]] = {}
    for line, row in _rows(path):
        name = row.get("name") or row.get("clip")
        if not name:
            raise DataError(f"{path}:{line}: no name of a clip; the columns are name, and any of {', '.join(TOLD)}")
        if name in table:
            raise DataError(f"{path}:{line}: clip {shown(name)} is there twice")
        table[name] = {key: row[key] for key in TOLD if row.get(key)}
    return table


# --- csv -------------------------------------------------------------------------------------------------------------


def read_csv(path: Path, told: Told) -> Iterator[Found]:
    """The clips of a csv file, or of each in a folder: the rows of a clip stand together."""
    for file, name, folder in _files(path, ".csv"):
        gathered: list[tuple[int, dict[str, str]]] = []
        before: str | None = None
        for line, row in _rows(file):
            own = row.get("clip") or name
            if own != before and gathered:
                yield _of_rows(file, str(before), gathered, told, folder)
                gathered = []
            before = own
            gathered.append((line, row))
            if len(gathered) > MOST_ROWS:
                raise DataError(f"{file}:{line}: more than {MOST_ROWS:,} rows of one clip")
        if gathered:
            yield _of_rows(file, str(before), gathered, told, folder)


def _of_rows(file: Path, name: str, rows: list[tuple[int, dict[str, str]]], told: Told, folder: str) -> Found:
    line, first = rows[0]
    columns = joint_columns(list(first), told, f"{file}:1")
    said: dict[str, str] = {}
    clip = f"clip {shown(name)}"
    people: dict[str, int] = {}
    points: dict[tuple[float, str], list[list[float]]] = {}
    for line, row in rows:
        where = f"{file}:{line}: {clip}"
        for key in TOLD:
            if row.get(key) and said.setdefault(key, row[key]) != row[key]:
                raise DataError(f"{where}: {key} {shown(row[key])}, which was {shown(said[key])} before")
        try:
            frame = float(row.get("frame") or len(points))
            at = [[float(row[column] or "nan") if column else np.nan for column in joint] for joint in columns]
        except (ValueError, TypeError) as error:
            raise DataError(f"{file}:{line}: {one_line(error)}") from None
        person = row.get("person") or "0"
        people.setdefault(person, len(people))
        if not np.isfinite(frame):
            raise DataError(f"{where}: frame {frame}: a number is needed")
        if len(people) > 1 and not row.get("frame"):
            raise DataError(f"{where}: several people, and no frame to tell who is there at the same time")
        if (frame, person) in points:
            raise DataError(f"{where}: frame {frame:g} of person {shown(person)} is there already")
        points[frame, person] = at
    frames = {frame: number for number, frame in enumerate(sorted({frame for frame, _ in points}))}
    if len(people) * len(frames) > MOST_ROWS:
        raise DataError(f"{file}:{line}: {clip} has {len(people):,} people in {len(frames):,} frames")
    joints = np.full((len(people), len(frames), len(columns), len(columns[0])), np.nan)
    for (frame, person), at in points.items():
        joints[people[person], frames[frame]] = at
    return told.found(name, joints, said, folder)


def joint_columns(names: list[str], told: Told, where: str) -> list[list[str]]:
    """For each joint the columns of its coordinates, in the order of the skeleton where names tell which is which.

    Raises:
        DataError: there are none, or not those of the skeleton.
    """
    skeleton = told.skeleton
    found: dict[str, dict[str, str]] = {}
    for name in names:
        if match := _AXIS.fullmatch(name.strip()):
            joint = match["name"] or match["n"]
            axis = (match["axis"] or match["a"]).lower()
            before = found.setdefault(joint, {}).setdefault(axis if axis in "xyz" else "score", name)
            if before != name:
                raise DataError(f"{where}: two columns of the same: {shown(before)} and {shown(name)}")
    found = {joint: axes for joint, axes in found.items() if {"x", "y"} <= set(axes)}
    if not found:
        raise DataError(f"{where}: no columns of joints: NAME_x, NAME_y, perhaps NAME_z, or x0, y0, ...")
    order = list(found)
    if skeleton is not None:
        if len(found) != len(skeleton.joints):
            raise DataError(f"{where}: columns of {len(found)} joints; the layout has {len(skeleton.joints)}")
        if set(found) == set(skeleton.joints):
            order = list(skeleton.joints)
        elif not all(joint.isdecimal() for joint in found):
            unknown = sorted(set(found) - set(skeleton.joints))
            raise DataError(f"{where}: joints that the layout does not have: {shown(', '.join(unknown[:6]))}")
    if all(joint.isdecimal() for joint in order):
        order.sort(key=int)
    has = {axis for axes in found.values() for axis in axes}
    if told.is_flat and "z" in has and "score" not in has:
        raise DataError(f"{where}: columns of z, and units of an image: --units metres, or leave these columns out")
    third = "score" if told.is_flat else "z"
    sides = ["x", "y", third] if third in has else ["x", "y"]
    return [[found[joint].get(axis, "") for axis in sides] for joint in order]


def layout_of_csv(path: Path) -> Skeleton | None:
    """The known layout whose joints a csv file's columns name."""
    for file, _, _ in _files(path, ".csv"):
        with file.open(encoding="utf-8-sig", errors="replace", newline="") as lines:
            header = lines.readline(MOST_LINE_BYTES)
        names = {match["name"] for name in header.split(",") if (match := _AXIS.fullmatch(name.strip())) and match["name"]}
        return next((layout for layout in LAYOUTS.values() if names == set(layout.joints)), None)
    return None


def _rows(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """The rows of a csv file by the names of its columns, each with its line."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = csv.reader(_lines(file, path))
            header = [name.strip() for name in next(rows, [])]
            if not header or len(set(header)) < len(header):
                raise DataError(f"{path}:1: names of columns are needed, each once")
            for row in rows:
                if not row:
                    continue
                if len(row) != len(header):
                    raise DataError(f"{path}:{rows.line_num}: {len(row)} values in {len(header)} columns")
                yield rows.line_num, dict(zip(header, row))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: cannot be read as csv: {one_line(error)}") from None


def _lines(file: Any, path: Path) -> Iterator[str]:
    while line := file.readline(MOST_LINE_BYTES):
        if len(line) == MOST_LINE_BYTES:
            raise DataError(f"{path}: a line of more than {MOST_LINE_BYTES >> 20} MB")
        yield line


# --- npz -------------------------------------------------------------------------------------------------------------


def read_npz(path: Path, told: Told) -> Iterator[Found]:
    """The clips of a ``.npz`` file of arrays with a row for each."""
    try:
        with zipfile.ZipFile(path) as archive, ExitStack() as opened:
            there = {info.filename.removesuffix(".npy") for info in archive.infolist()}
            joints = next((name for name in ("joints", "keypoints", "keypoint") if name in there), None)
            if joints is None:
                raise DataError(f"{path}: no joints in it, but {shown(', '.join(sorted(there)) or 'nothing')}", other=True)
            small = [name for name in ("name", "length", *TOLD) if name in there]
            rows = {name: opened.enter_context(array_in_zip(archive, name, f"{path}: {name}")) for name in [joints, *small]}
            count = rows[joints].shape[0]
            if len(rows[joints].shape) not in (4, 5):
                raise DataError(
                    f"{path}: {joints} is {rows[joints].shape}; allowed: (N, T, V, D) or (N, M, T, V, D)", other=True
                )
            if wrong := [name for name in small if rows[name].shape != (count,)]:
                raise DataError(f"{path}: {', '.join(wrong)}: one value for each of the {count} clips is needed", other=True)
            for number in range(count):
                one = {name: next(rows[name].each) for name in rows}
                said = {name: one[name].item() for name in small}
                points, name = one[joints], str(said.get("name", f"{path.stem}-{number:06}"))
                if "length" in said:
                    if (length := as_whole(said["length"])) is None:
                        raise DataError(f"{path}: clip {shown(name)}: length {said['length']!r}: no whole number")
                    points = points[..., : max(0, length), :, :]
                yield told.found(name, _without_padding(points), said)
    except NOT_WHOLE as error:
        raise DataError(f"{path}: not a whole .npz file ({one_line(error)})") from None


def _without_padding(points: Array) -> Array:
    """Joints of which a frame that is all zeros shows nobody."""
    empty = ~np.any(points, axis=(-2, -1))
    return np.where(empty[..., None, None], np.nan, points) if empty.any() else points


# --- json ------------------------------------------------------------------------------------------------------------


def read_json(path: Path, told: Told) -> Iterator[Found]:
    """The records of a JSON file, of one with a record a line, or of each in a folder."""
    return _records(path, told, _lists(told))


def read_mediapipe(path: Path, told: Told) -> Iterator[Found]:
    """The same, with MediaPipe's landmarks."""
    return _records(path, told, _landmarks(told))


def _count(told: Told) -> int:
    """How many joints a clip has that shows nobody."""
    return 0 if told.skeleton is None else len(told.skeleton.joints)


def landmarks(frames: Any, is_flat: bool, usual: int) -> Any:
    """(T, V, 3) of a list of frames, each a list of landmarks, or a mapping that holds one, or null where nobody is seen.

    In space they are world landmarks, turned upright; of those in the image the third number is whether a joint is visible.

    Raises:
        DataError: a frame has those of the other kind alone.
    """
    found: list[Any] = []
    meant, other = ("pose_landmarks", "pose_world_landmarks")[:: 1 if is_flat else -1]
    for frame in frames:
        if isinstance(frame, dict):
            if frame.get(other) and not frame.get(meant):
                hint = "lie in space: --units metres" if is_flat else "lie in the image: --units image"
                raise DataError(f"frame {len(found)} has {other} alone, which {hint}, and all frames of that kind")
            frame = next((frame[key] for key in (meant, "landmarks") if frame.get(key)), None)
        if frame and isinstance(frame[0], list):  # a list for each person: the first
            frame = frame[0]
        found.append(frame)
    count = max((len(frame) for frame in found if frame), default=usual)
    nobody = [[np.nan] * 3] * count
    if is_flat:
        return [[[p["x"], p["y"], p.get("visibility", 1.0)] for p in frame] if frame else nobody for frame in found]
    return [[[p["x"], -p["y"], -p["z"]] for p in frame] if frame else nobody for frame in found]


def _records(path: Path, told: Told, points: Any) -> Iterator[Found]:
    for file, name, folder in _files(path, ".json", ".jsonl", ".ndjson"):
        for number, (where, record) in enumerate(objects(file)):
            yield of_record(record, where, name if number == 0 else f"{name}-{number:06}", told, points, folder)


def of_record(
    record: Any, where: str, usual: str, told: Told, points: Callable[[Any], Any] | None = None, folder: str = ""
) -> Found:
    """The clip of a JSON record, which is called as is ``usual`` where it has no name of its own. Its joints are made of what
    the record holds by ``points``; default: as lists, or as MediaPipe's landmarks where it has these.

    Raises:
        DataError: it is none; beginning with ``where``.
    """
    if not isinstance(record, dict):
        raise DataError(f"{where}: no record of a clip: joints, label, ...")
    joints = next((record[key] for key in ("joints", "keypoints", "frames") if key in record), None)
    if joints is None:
        raise DataError(f"{where}: no joints in it, but {shown(', '.join(map(str, record)) or 'nothing')}")
    if points is None:
        points = _landmarks(told) if _has_landmarks(joints) else _lists(told)
    own = record.get("name", record.get("clip", usual))
    try:
        joints = points(joints)
    except DataError as error:
        raise DataError(f"{where}: {error}") from None
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        raise DataError(f"{where}: its joints are not what they should be ({one_line(error)})") from None
    return told.found(str(own), joints, record, folder)


def _has_landmarks(frames: Any) -> bool:
    """Whether they are what MediaPipe's are: mappings, or lists of mappings."""
    frame = next((one for one in frames if one), None) if isinstance(frames, list) else None
    return isinstance(frame, dict) or (isinstance(frame, list) and isinstance(frame[0], dict))


def _lists(told: Told) -> Callable[[Any], Any]:
    return lambda joints: _with_gaps(joints, _count(told))


def _landmarks(told: Told) -> Callable[[Any], Any]:
    return lambda frames: landmarks(frames, told.is_flat, _count(told))


def _with_gaps(value: Any, joints: int) -> Any:
    """Lists in which ``null``, for a joint, a frame or a person, is as many numbers that are none as others have."""
    sides = _sides(value)
    if not sides:
        return [[[np.nan] * 3] * joints] if _is_void(value) else value
    gaps = [np.full(sides[deep:], np.nan).tolist() for deep in range(1, len(sides))]

    def filled(one: Any, deep: int) -> Any:
        if deep >= len(gaps) or not isinstance(one, list):
            return one
        return [gaps[deep] if inner is None else filled(inner, deep + 1) for inner in one]

    return filled(value, 0)


def _sides(value: Any, deep: int = 0) -> tuple[int, ...]:
    """How many people, frames, joints and numbers nested lists have, by the first number in them; none where there is none."""
    if not isinstance(value, list) or deep > _DEEPEST:
        return ()
    if any(isinstance(one, (int, float)) for one in value):
        return (len(value),)
    inner = next((found for one in value if (found := _sides(one, deep + 1))), ())
    return (len(value), *inner) if inner else ()


def _is_void(value: Any, deep: int = 0) -> bool:
    """Whether there is nothing in nested lists."""
    if deep > _DEEPEST or not isinstance(value, list):
        return value is None
    return all(_is_void(one, deep + 1) for one in value)


def objects(file: Path) -> Iterator[tuple[str, Any]]:
    """The records of a JSON file, or of one with a record a line, each with where it stands.

    Raises:
        DataError: it is none, or too large.
    """
    if file.suffix in (".jsonl", ".ndjson"):
        try:
            with file.open(encoding="utf-8-sig") as lines:
                for number, line in enumerate(_lines(lines, file), 1):
                    if line.strip():
                        yield f"{file}:{number}", parsed(line, f"{file}:{number}")
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"{file}: cannot be read: {one_line(error)}") from None
        return
    number, alone = 0, {}
    for key, one in elements(file, CLIPS):
        if key in ("", CLIPS):
            yield f"{file}: record {number}", one
            number += 1
        else:
            alone[key] = one
    if alone and not number:
        yield str(file), alone


def json_of(file: Path) -> Any:
    """What a JSON file holds.

    Raises:
        DataError: it is none, or too large.
    """
    try:
        return parsed(read_bounded(file, MOST_JSON_BYTES).decode("utf-8-sig"), str(file))
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{file}: cannot be read: {one_line(error)}") from None


def parsed(text: str | bytes, where: str) -> Any:
    """What a JSON text says.

    Raises:
        DataError: it is none; beginning with ``where``.
    """
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: no JSON: {one_line(error)}") from None


def _files(path: Path, *endings: str) -> Iterable[tuple[Path, str, str]]:
    """The files that are meant, in order, each with its name as a clip, and the name of the folder that may tell its class."""
    if not path.is_dir():
        return [(path, path.stem, "")]
    found = sorted(file for file in path.rglob("*") if file.suffix.lower() in endings and file.is_file())
    if not found:
        raise DataError(f"{path}: no {' or '.join(endings)} file in it", missing=True)
    return [(file, file.stem, file.parent.name if file.parent != path else "") for file in found]
