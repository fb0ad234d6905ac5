"""Keypoints of detectors, frame after frame, that know nobody from the frame before: OpenPose's folders and COCO's lists."""

from __future__ import annotations

import json
import re
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from last_e.datafile import DataError
from last_e.prepare.json_stream import elements
from last_e.prepare.keypoints import CLIPS, Found, Told, json_of
from last_e.text import one_line, shown

ENDING = "_keypoints.json"
COCO = ("images", "annotations")
"""The lists of a COCO file that are read."""
Points = npt.NDArray[np.float64]


def read_openpose(path: Path, told: Told) -> Iterator[Found]:
    """A clip for each folder that has OpenPose's files, one a frame, in the order of their numbers; the folder around it may
    name the class."""
    if not path.is_dir():
        raise DataError(f"{path}: no folder; openpose is one with a folder for each clip", other=True)
    folders = sorted({file.parent for file in path.rglob(f"*{ENDING}")})
    if not folders:
        raise DataError(f"{path}: no {ENDING} file in it", missing=True)
    for folder in folders:
        yield openpose_clip(folder, told, folder.parent.name if folder.parent != path and folder != path else "")


def openpose_clip(folder: Path, told: Told, label: str = "") -> Found:
    """The clip of one folder with OpenPose's files, one a frame.

    Raises:
        DataError: one of them is none.
    """
    frames = []
    for file in sorted(folder.glob(f"*{ENDING}"), key=_in_order):
        try:
            people = json_of(file)["people"]
            frames.append([_triples(person["pose_keypoints_2d"]) for person in people])
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise DataError(f"{file}: not what OpenPose writes ({one_line(error)})") from None
    return told.found(folder.name, followed(frames, told, folder), {}, label)


def read_coco(path: Path, told: Told) -> Iterator[Found]:
    """A clip for each folder of the images that COCO's ``annotations`` are of; the folder around it may name the class.

    Images and annotations may stand in any order, so they are put on disk meanwhile, in the temporary folder.
    """
    with tempfile.TemporaryDirectory(prefix="lastrun-coco-") as folder, closing(sqlite3.connect(f"{folder}/seen")) as seen:
        seen.executescript(
            "PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF;"
            "CREATE TABLE image (id TEXT PRIMARY KEY, clip TEXT, file TEXT);"
            "CREATE TABLE person (image TEXT, points BLOB)"
        )
        try:
            for key, one in elements(path, *COCO):
                if key == "images":
                    file = Path(str(one["file_name"]))
                    seen.execute(
                        "INSERT OR REPLACE INTO image VALUES (?, ?, ?)", (_as_key(one["id"]), str(file.parent), file.name)
                    )
                elif key == "annotations":
                    points = _triples(one["keypoints"]).tobytes()
                    seen.execute("INSERT INTO person VALUES (?, ?)", (_as_key(one["image_id"]), points))
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            what = f"images and annotations ({one_line(error)})"
            raise DataError(f"{path}: not what COCO's keypoints are: {what}") from None
        seen.executescript("CREATE INDEX clips ON image (clip); CREATE INDEX people ON person (image)")
        lost = seen.execute("SELECT image FROM person WHERE image NOT IN (SELECT id FROM image) LIMIT 1").fetchone()
        if lost is not None:
            raise DataError(f"{path}: an annotation of image {shown(lost[0])}, which is not there")
        for clip in sorted(Path(name) for (name,) in seen.execute("SELECT DISTINCT clip FROM image")):
            if not clip.name:
                raise DataError(f"{path}: the images lie in no folder, which would name their clip: CLIP/FRAME.jpg")
            images = seen.execute("SELECT id, file FROM image WHERE clip = ?", (str(clip),)).fetchall()
            frames = [_seen_in(seen, number) for number, file in sorted(images, key=lambda image: _in_order(Path(image[1])))]
            yield told.found(clip.name, followed(frames, told, path), {}, clip.parent.name)


def is_coco(path: Path) -> bool:
    """Whether a JSON file holds what COCO's keypoints are."""
    return any(key in COCO for key, _ in elements(path, *COCO, CLIPS))


def _as_key(number: Any) -> str:
    """An image's ID, which is a number or a text, as a text that no other one has."""
    if isinstance(number, bool) or not isinstance(number, (int, str)):
        raise TypeError(f"an image's id is {shown(number)}")
    return json.dumps(number)


def _seen_in(seen: sqlite3.Connection, image: str) -> list[Points]:
    people = seen.execute("SELECT points FROM person WHERE image = ? ORDER BY rowid", (image,))
    return [np.frombuffer(points).reshape(-1, 3) for (points,) in people]


def _in_order(file: Path) -> list[Any]:
    """What frames are sorted by: numbers in their names by their size, so that frame 10 comes after frame 2."""
    pieces = re.split("([0-9]+)", file.name)  # a number at every second place
    return [(len(piece.lstrip("0")), piece.lstrip("0")) if at % 2 else piece for at, piece in enumerate(pieces)]


def _triples(numbers: Any) -> Points:
    """(V, 3) of x, y and score, one after the other; no numbers where the score is 0."""
    points = np.asarray(numbers, dtype=np.float64).reshape(-1, 3)
    return np.where(points[:, 2:] > 0, points, np.nan)


def followed(frames: list[list[Points]], told: Told, where: Any) -> Points:
    """(M, T, V, 3) of detections, each frame's in any order: who is nearest to where somebody was is taken for the same.

    Of more people than are followed those count that are seen best, over all frames.
    """
    widths = {len(points) for frame in frames for points in frame}
    if len(widths) > 1:
        raise DataError(f"{where}: people of {' and '.join(map(str, sorted(widths)))} joints")
    width = next(iter(widths), 0 if told.skeleton is None else len(told.skeleton.joints))
    nobody = np.full((width, 3), np.nan)
    tracks: list[list[Points]] = []
    last: list[Points] = []
    for number, frame in enumerate(frames):
        free = list(range(len(tracks)))
        rest = [points for points in frame if np.isfinite(points).any()]
        for track in tracks:
            track.append(nobody)
        while rest and free:
            apart = np.array([[_apart(points, last[track]) for track in free] for points in rest])
            one, other = np.unravel_index(int(np.argmin(apart)), apart.shape)
            who, points = free.pop(int(other)), rest.pop(int(one))
            tracks[who][number] = last[who] = points
        for points in rest:
            if len(tracks) < 4 * told.people:
                tracks.append([nobody] * number + [points])
                last.append(points)
    scores = [float(np.nansum([points[:, 2] for points in track])) for track in tracks]
    best = sorted(range(len(tracks)), key=lambda track: -scores[track])[: told.people]
    return np.stack([np.stack(tracks[track]) for track in best]) if best else np.full((1, len(frames), width, 3), np.nan)


def _apart(points: Points, others: Points) -> float:
    """How far two people are apart: the mean distance of the joints that both show."""
    both = np.isfinite(points).all(axis=1) & np.isfinite(others).all(axis=1)
    if not both.any():
        return 1e9
    return float(np.linalg.norm(points[both, :2] - others[both, :2], axis=1).mean())
