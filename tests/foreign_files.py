"""Other projects' prepared files, made here as their code makes them."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest

from last_e.data import read_clips
from last_e.datafile import DataError
from last_e.prepare.foreign import import_file
from tests.ntu_files import Points, motion, name_of

PEOPLE = (1, 2, 3, 6, 7, 8)
"""Performers of the clips: 1 2 8 train in xsub."""


LABELS = (0, 5, 59, 3, 3, 12)


def people(number: int) -> list[Points]:
    """One or two people of a clip."""
    first = motion(number, 30 + number)
    return [first] if number % 2 else [first, motion(number + 50, 30 + number) + np.array([1.0, 0, 0])]


def names() -> list[str]:
    return [name_of(performer=person, camera=1 + n % 3, action=LABELS[n] + 1) for n, person in enumerate(PEOPLE)]


def padded(number: int, frames: int = 64) -> Points:
    """(2, frames, 25, 3): zeros where nobody is."""
    whole = np.zeros((2, frames, 25, 3), dtype=np.float32)
    for person, points in enumerate(people(number)):
        whole[person, : len(points)] = points
    return whole


def check(out: Path, order: list[int]) -> None:
    """The clips of a file are those of here, in this order."""
    clips = read_clips(out, 60)
    assert clips.label.tolist() == [LABELS[number] for number in order]
    for row, number in enumerate(order):
        expected = np.stack(people(number))
        assert (int(clips.bodies[row]), int(clips.length[row])) == expected.shape[:2]
        begin = int(clips.start[row])
        found = clips.joints[begin : begin + expected.shape[0] * expected.shape[1]].numpy().reshape(expected.shape)
        assert np.abs(found / 1000 - expected).max() <= 0.00051


def ctrgcn(path: Path, save=np.savez, **changes) -> Path:
    rows = np.stack([padded(n).transpose(1, 0, 2, 3).reshape(64, 150) for n in range(6)])
    one_hot = np.eye(60, dtype=np.float64)[list(LABELS)]
    parts = {"x_train": rows[:4], "y_train": one_hot[:4], "x_test": rows[4:], "y_test": one_hot[4:]}
    save(path, **{**parts, **changes})
    return path


def refused(kind: str, path: Path, expected: str) -> None:
    out = path.parent / "out"
    with pytest.raises(DataError) as caught:
        import_file(kind, path, out)
    assert expected in str(caught.value)
    assert str(caught.value).startswith(str(path.parent))
    assert len(str(caught.value).splitlines()) == 1
    assert not out.exists()
    assert not list(path.parent.glob(".out*")), "what was half-written is gone"


def annotations(known: bool = True) -> list[dict]:
    return [
        {
            "frame_dir": name if known else f"clip{number}",
            "label": LABELS[number],
            "keypoint": np.stack(people(number)).astype(np.float32),
            "total_frames": 30 + number,
        }
        for number, name in enumerate(names())
    ]


def pyskl(path: Path, known: bool = True, **changes) -> Path:
    ids = [one["frame_dir"] for one in annotations(known)]
    split = {"xsub_train": [ids[0], ids[1], ids[5]], "xsub_val": ids[2:5], "xview_train": ids[:2], "xview_val": ids[2:]}
    path.write_bytes(pickle.dumps({"split": split, "annotations": annotations(known), **changes}))
    return path


def original(folder: Path, labels=None) -> Path:
    folder.mkdir()
    for part, chosen in (("train", [0, 1, 5]), ("val", [2, 3, 4])):
        joints = np.stack([padded(number).transpose(3, 1, 2, 0) for number in chosen])
        assert joints.shape == (3, 3, 64, 25, 2)
        np.save(folder / f"{part}_joint.npy", joints)
        np.save(folder / f"{part}_velocity.npy", np.zeros(1))
        content = ([f"{names()[number]}.skeleton" for number in chosen], [LABELS[number] for number in chosen])
        (folder / f"{part}_label.pkl").write_bytes(pickle.dumps(labels(content) if labels else content))
    return folder


def forged(function, arguments, state=None):
    """What numpy would never write, with the names that numpy writes."""

    class Forged:
        def __reduce__(self):
            return (function, arguments) if state is None else (function, arguments, state)

    return Forged()


def shared(levels):
    value = []
    for _ in range(levels):
        value = [value, value]
    return value


RECONSTRUCT = np.zeros(1).__reduce__()[0]
