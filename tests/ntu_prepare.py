"""Trees of recordings, and their preparation, for the tests of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from last_e.prepare.ntu import Report, prepare_ntu
from tests.ntu_files import GHOST, motion, name_of, one_person, text_of, two_people

BROKEN = "S001C002P005R002A008"


def recordings(count: int = 24) -> dict[str, bytes]:
    """Recordings of several people, cameras, setups and classes, every third with two people."""
    files = {}
    for number in range(count):
        scene = one_person(motion(number, 20 + number))
        if number % 3 == 0:
            scene = two_people(motion(number, 20 + number), motion(number + 50, 20 + number))
        if number % 5 == 0:
            scene[3].append((GHOST, motion(9, 1)[0]))
        if number % 7 == 0:
            scene[1] = []
        name = name_of(1 + number % 17, 1 + number % 3, 1 + number % 40, 2 - number % 2, 1 + number % 60)
        files[name] = text_of(scene, ending="\r\n" if number % 4 == 0 else "\n")
    return files


def prepare(raw: Path, out: Path, dataset: str = "ntu60", **more) -> Report:
    return prepare_ntu(dataset, [raw], out, workers=1, **more)


def why(report: Report) -> dict[str, str]:
    return {one.name: one.reason for one in report.left_out}


class Stop(Exception):
    pass


def interrupted(tree: Path, out: Path, after: int) -> None:
    """A run that ends when so many recordings are done."""

    def progress(done: int, total: int) -> None:
        if done >= after:
            raise Stop

    with pytest.raises(Stop):
        prepare(tree, out, progress=progress)
