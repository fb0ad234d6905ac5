"""An own set compared with itself: classes, missing joints, clips unlike the others, clips that are there twice."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from itertools import combinations, product
from pathlib import Path
from typing import Any

import numpy as np

from last_e.datafile import VALIDATION
from last_e.described import Description
from last_e.own_set import OwnSet, doubtful_units, mistakes_in
from last_e.prepare.account import held_out, own_splits
from last_e.prepare.clipfile import Array, names_of, read_joints
from last_e.prepare.near import Near
from last_e.splits import Bools

MISSING = "missing"
"""Column and key of the metadata: joints that were not seen."""
MOST_ROWS = 1 << 16
"""Rows of joints in memory at a time, more only for a clip that has more."""
UNLIKE = 3.0
"""A torso so many times as long as others', or so many times shorter, is told."""
JUMP = 2.0
"""So many torsos in one frame is no motion."""


@dataclass
class OwnLook:
    """What is found in an own set."""

    joints: int
    units: str
    fps: float
    classes: list[dict[str, Any]] = field(default_factory=list)
    """For each its name, its clips, and how many of them are in each part of each split."""
    subjects: int = 0
    missing: dict[str, float] = field(default_factory=dict)
    """By joint: in which part of the frames it was not seen."""
    mostly_missing: list[str] = field(default_factory=list)
    """Clips of which less than half was seen."""
    outliers: dict[str, list[str]] = field(default_factory=dict)
    """Clips unlike the others, by what is unlike, each with how much."""
    twice: list[list[str]] = field(default_factory=list)
    """Clips that show the same, in groups."""
    leaks: dict[str, list[list[str]]] = field(default_factory=dict)
    """Of each split the pairs that show the same in two parts of it."""
    nearly: dict[str, list[list[str]]] = field(default_factory=dict)
    """Of each split the pairs in two parts of it that show nearly the same."""
    mistakes: list[str] = field(default_factory=list)
    fatal: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """All of it in plain values."""
        return asdict(self)


def look_at(path: Path, description: Description, columns: Mapping[str, Array], metadata: Mapping[str, str]) -> OwnLook:
    """Compare a set with itself; reads all its joints once, some megabytes at a time."""
    look = OwnLook(len(description.skeleton.joints), description.units, description.fps)
    names, label = names_of(columns), columns["label"]
    parts = {split: parts_of(columns, split, mask) for split, mask in own_splits(columns).items()}
    for number, name in enumerate(description.classes):
        mine = label == number
        shared = {split: {part: int((mask & mine).sum()) for part, mask in of.items()} for split, of in parts.items()}
        look.classes.append({"name": name, "clips": int(mine.sum()), **shared})
    look.subjects = len(np.unique(columns["performer"]))
    with suppress(ValueError, TypeError, AttributeError, KeyError):  # anybody may have written the file
        told = {str(joint): float(part) for joint, part in json.loads(metadata.get(MISSING, "{}")).items()}
        look.missing = dict(sorted(told.items(), key=lambda item: -item[1]))
    if MISSING in columns:
        sightings = columns["length"] * columns["bodies"] * look.joints
        look.mostly_missing = [names[n] for n in np.flatnonzero(2 * columns[MISSING] > sightings).tolist()]
    measured = _Measured(description, len(label))
    for number, joints in _each(path, columns):
        measured.add(number, joints)
    look.outliers = measured.outliers(names)
    for group in measured.same():
        look.twice.append([names[number] for number in group])
        for split, of in parts.items():
            lying = [[number for number in group if mask[number]] for mask in of.values()]
            pairs = [[names[a], names[b]] for one, other in combinations(lying, 2) for a, b in product(one[:9], other[:9])]
            if pairs:
                look.leaks.setdefault(split, []).extend(pairs)
    for a, b in measured.nearly():
        for split, of in parts.items():
            if any(mask[a] != mask[b] for mask in of.values()):
                look.nearly.setdefault(split, []).append([names[a], names[b]])
    mistakes = mistakes_in(OwnSet(description, "", dict(columns)))
    look.fatal = [mistake.text for mistake in mistakes if mistake.fatal]
    look.mistakes = [mistake.text for mistake in mistakes if not mistake.fatal]
    look.mistakes += doubtful_units(description, measured.torso, measured.low, measured.high)
    return look


def parts_of(columns: Mapping[str, Array], split: str, train: Bools) -> dict[str, Bools]:
    """The parts of a split: who trains, who tests, and who does neither."""
    found = {"train": train, "test": held_out(columns, train, split)}
    return found | ({"validation": columns[VALIDATION + split]} if VALIDATION + split in columns else {})


class _Measured:
    """What is measured of each clip."""

    def __init__(self, description: Description, clips: int) -> None:
        self._skeleton = description.skeleton
        self.torso, self._jump, self._motion = (np.zeros(clips) for _ in range(3))
        self.low, self.high = np.full(3, np.inf), np.full(3, -np.inf)
        self._frames = np.zeros(clips, dtype=np.int64)
        self._seen: dict[bytes, list[int]] = {}
        self._near = Near(clips, len(description.skeleton.joints))

    def add(self, number: int, joints: Array) -> None:
        """A clip, (M, T, V, 3)."""
        self.low = np.minimum(self.low, joints.min(axis=(0, 1, 2)))
        self.high = np.maximum(self.high, joints.max(axis=(0, 1, 2)))
        self._frames[number] = joints.shape[1]
        first = joints[:1, :1, self._skeleton.centre : self._skeleton.centre + 1].astype(np.int32)
        moved = joints - first  # the same clip elsewhere is the same
        self._seen.setdefault(sha256(repr(joints.shape).encode() + moved.tobytes()).digest(), []).append(number)
        self.torso[number] = torso_of(joints, self._skeleton.measure)
        self._near.add(number, joints[0], self._skeleton.centre, self.torso[number])
        if joints.shape[1] > 1:
            steps = np.linalg.norm(np.diff(joints.astype(np.float32), axis=1), axis=3)
            self._jump[number] = steps.max()
            self._motion[number] = steps.mean()

    def same(self) -> list[list[int]]:
        """Clips that show the same, in groups."""
        return [group for group in self._seen.values() if len(group) > 1]

    def nearly(self) -> list[tuple[int, int]]:
        """Pairs of clips that show nearly the same, but not the very same; of those that do not move nothing is told."""
        group = np.arange(len(self.torso))
        for same in self._seen.values():
            group[same] = same[0]
        moves = self._motion > 0
        return [(a, b) for a, b in self._near.pairs(group) if moves[a] and moves[b]]

    def outliers(self, names: list[str]) -> dict[str, list[str]]:
        """Clips unlike the others, the most unlike first."""
        usual = max(float(np.median(self.torso)), 1e-9)
        times, jump = self.torso / usual, self._jump / np.maximum(self.torso, usual / UNLIKE)
        found: dict[str, list[str]] = {}

        def note(what: str, which: Bools, of: Array, words: str) -> None:
            order = sorted(np.flatnonzero(which).tolist(), key=lambda number: (-of[number], number))
            if order:
                found[what] = [words.format(names[number], of[number]) for number in order]

        note("a torso much longer than others", times > UNLIKE, times, "{0}: {1:.1f} times")
        with np.errstate(divide="ignore"):
            note("a torso much shorter than others", times < 1 / UNLIKE, 1 / times, "{0}: {1:.1f} times")
        note("a joint jumps in one frame", jump > JUMP, jump, "{0}: {1:.1f} torsos")
        note("nothing moves", (self._motion == 0) & (self._frames > 1), self._frames, "{0}: {1} frames")
        note("one frame alone", self._frames == 1, self._frames, "{0}")
        return found


def torso_of(joints: Array, measure: tuple[int, int]) -> float:
    """The mean length of the main body's torso in a clip (M, T, V, 3)."""
    low, high = measure
    return float(np.linalg.norm(joints[0, :, high].astype(np.float64) - joints[0, :, low], axis=1).mean())


def _each(path: Path, columns: Mapping[str, Array]) -> Iterator[tuple[int, Array]]:
    """Every clip's number and joints, (M, T, V, 3)."""
    rows = (columns["length"] * columns["bodies"]).tolist()
    first, row = 0, 0
    while first < len(rows):
        last, count = first + 1, rows[first]
        while last < len(rows) and count + rows[last] <= MOST_ROWS:
            count, last = count + rows[last], last + 1
        block, at = read_joints(path, row, row + count), 0
        for number in range(first, last):
            joints = block[at : at + rows[number]]
            yield number, joints.reshape(int(columns["bodies"][number]), int(columns["length"][number]), *joints.shape[1:])
            at += rows[number]
        first, row = last, row + count
