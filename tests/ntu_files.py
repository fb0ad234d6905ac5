"""A writer of ``.skeleton`` files: real motion (IRDS) and made-up scenes, in NTU's layout. None of it is NTU's."""

from __future__ import annotations

import tarfile
import zipfile
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

import last_e

IRDS = Path(last_e.__file__).parent / "data" / "irds" / "healthy.npz"

Points = npt.NDArray[np.float64]
Sighting = tuple[int, Points]
"""Id and joints (25, 3) in metres of a body in a frame."""
Scene = list[list[Sighting]]
"""The bodies of each frame, in the order in which the file lists them."""

ANNA, BERT, GHOST = 72057594037931101, 72057594037931368, 72057594037934711
"""Ids that are equal as float64: whoever reads them as such mixes people up."""

_OF_BODY = "0 1 1 1 1 0 0.02764709 0.05745083 2"
_OF_JOINT = "277.4419 191.8232 1036.233 519.1677 -0.2059419 0.05349901 0.9692109 -0.1239193 2"


@cache
def _irds() -> tuple[npt.NDArray[np.int16], npt.NDArray[np.int64]]:
    with np.load(IRDS) as file:
        return file["joints_mm"], np.concatenate([[0], np.cumsum(file["length"], dtype=np.int64)])


def motion(number: int, frames: int | None = None) -> Points:
    """(T, 25, 3) metres: a real recording; its beginning, going on forth and back where it is too short."""
    joints, start = _irds()
    points = joints[start[number] : start[number + 1]] / 1000.0
    if frames is None:
        return points
    back_and_forth = np.concatenate([points, points[::-1]])
    return back_and_forth[np.arange(frames) % len(back_and_forth)]


def one_person(points: Points, ident: int = ANNA) -> Scene:
    return [[(ident, frame)] for frame in points]


def two_people(first: Points, second: Points, apart: float = 1.0) -> Scene:
    """Two people beside each other; which of them a frame lists first changes from frame to frame."""
    moved = second + np.array([apart, 0, 0])
    scene: Scene = []
    for number, (a, b) in enumerate(zip(first, moved)):
        both = [(ANNA, a), (BERT, b)]
        scene.append(both if number % 3 else both[::-1])
    return scene


def text_of(scene: Scene, *, frames: int | None = None, ending: str = "\n") -> bytes:
    """The file of a scene; ``frames`` is what it claims to hold."""
    lines = [str(len(scene) if frames is None else frames)]
    for bodies in scene:
        lines.append(str(len(bodies)))
        for ident, points in bodies:
            lines += [f"{ident} {_OF_BODY}", str(len(points))]
            lines += [f"{x:.7g} {y:.7g} {z:.7g} {_OF_JOINT}" for x, y, z in points.tolist()]
    return (ending.join(lines) + ending).encode()


def name_of(setup: int = 1, camera: int = 1, performer: int = 1, replication: int = 1, action: int = 1) -> str:
    return f"S{setup:03}C{camera:03}P{performer:03}R{replication:03}A{action:03}"


def write_tree(folder: Path, files: Iterable[tuple[str, bytes]]) -> Path:
    """Files by name, in a folder for each setup."""
    for name, content in files:
        place = folder / "nturgb+d_skeletons" / name[:4]
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{name}.skeleton").write_bytes(content)
    return folder


def write_zip(path: Path, files: Sequence[tuple[str, bytes]]) -> Path:
    """The same as the zip file that is distributed."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files:
            archive.writestr(f"nturgb+d_skeletons/{name}.skeleton", content)
    return path


def tar_of(tree: Path, path: Path, mode: str) -> Path:
    """The same as a tar file, as people make them."""
    with tarfile.open(path, mode) as archive:
        archive.add(tree, "nturgb+d_skeletons")
    return path
