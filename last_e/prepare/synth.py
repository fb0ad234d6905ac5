"""A made-up data set of NTU's size and shape, for benchmarks: nobody's recordings, the same on every machine.

What a clip shows is invented: people who swing two limbs, at a pace and in a pair that tell the class. How many clips there
are, of which classes, with how many people and how many of them train in ``xsub`` follows ``ntu60`` or ``ntu120`` as published;
the lengths are a guess (log-normal, 26 to 300 frames, mean about 80), since their distribution is not. ``--like FILE`` takes
everything, lengths too, from a prepared file of the real data.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from last_e.datafile import DataError, output_path
from last_e.described import DESCRIPTION
from last_e.joints import FROM_ROOT, NUM_JOINTS, PARENTS, STANDING
from last_e.prepare.account import own_splits, versions
from last_e.prepare.clipfile import NUMBERS, About, Array, Part, names_of, read_columns, write_streamed
from last_e.prepare.names import NtuName
from last_e.prepare.replace import see_that_it_may_be_made
from last_e.splits import NTU60_TRAIN_PERFORMERS, NTU120_TRAIN_PERFORMERS, OFFICIAL, Bools, Ints, trains

SHORTEST, LONGEST = 26, 300
MEDIAN_FRAMES, SPREAD = 74.0, 0.4
MUTUAL = [*range(50, 61), *range(106, 121)]
"""Actions (1-based) of two people: A050 to A060, A106 to A120."""
BATCH = 256

_LIMBS = (5, 9, 13, 17, 6, 10, 14, 18, 1, 3)
"""Joints whose bones swing; a class has two of them."""
_PAIRS = [(a, b) for a in range(len(_LIMBS)) for b in range(a + 1, len(_LIMBS))]

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Plan:
    """N clips before anything moves in them."""

    length: Ints
    bodies: Ints
    about: Ints
    """(N, 5), see :data:`~last_e.prepare.clipfile.NUMBERS`."""
    names: list[str]
    splits: dict[str, Bools] = field(default_factory=dict)
    """The file's own, where ``--like`` names a file whose people are not known."""


def synthesize(
    like: str,
    out: Path,
    *,
    clips: int | None = None,
    seed: int = 0,
    progress: Progress | None = None,
    overwrite: bool = True,
) -> int:
    """Write a made-up prepared file; returns its number of clips.

    Args:
        like: ``ntu60``, ``ntu120`` or a prepared file.
        out: the file to write.
        clips: how many; default: as many as the original has. More than that repeats its clips' numbers, with other motion.
        seed: decides everything.
        progress: told how many clips are done, and of how many.
        overwrite: replace a file with other clips, too.

    Raises:
        DataError: ``like`` is neither, or another file is not to be overwritten.
        OSError: the disk is full.
    """
    out = output_path(Path(out), Path(like))
    plan = _plan(like, seed)
    count = len(plan.length) if clips is None else clips

    def parts() -> Iterator[Part]:
        for begin in range(0, count, BATCH):
            part = Part()
            for number in range(begin, min(begin + BATCH, count)):
                row = number % len(plan.length)
                about = About(*plan.about[row].tolist())
                joints = _scene(about.label, int(plan.length[row]), int(plan.bodies[row]), seed, number)
                part.add(joints, about, plan.names[row], {name: bool(mask[row]) for name, mask in plan.splits.items()})
            if progress:
                progress(min(begin + BATCH, count), count)
            yield part

    facts = {"like": like if like in ("ntu60", "ntu120") else Path(like).name, "seed": seed, "clips": count}
    metadata = {"source": "made up by lastrun data synth: nobody's recordings", "synth": json.dumps(facts)}
    if not overwrite:
        see_that_it_may_be_made(out, metadata)
    write_streamed(parts(), out, {**metadata, "versions": json.dumps(versions())}, overwrite)
    return count


def _plan(like: str, seed: int) -> Plan:
    if like not in ("ntu60", "ntu120"):
        if not Path(like).exists():
            raise DataError(f"{like}: no such file; allowed: ntu60, ntu120 or a prepared file", missing=True)
        columns, metadata = read_columns(Path(like))
        if DESCRIPTION in metadata:
            raise DataError(f"{like}: a set of your own; what is made up has NTU's joints", other=True)
        zeros: Array = np.zeros_like(columns["label"])
        about = np.stack([columns.get(name, zeros) for name in NUMBERS], axis=1)
        return Plan(columns["length"], columns["bodies"], about, names_of(columns), own_splits(columns))
    about = _recordings(like)
    # In a random order, so that any number of clips from the front has all classes, people and cameras.
    random = np.random.default_rng([seed, 0])
    about = _as_many_as_published(like, about[np.argsort(random.random(len(about)), kind="stable")])
    label, performer, camera, setup, replication = about.T
    return Plan(
        length=_lengths(random.random(len(about))),
        bodies=1 + np.isin(label + 1, MUTUAL).astype(np.int64),
        about=about,
        names=[
            str(NtuName(*parts)) for parts in zip(*(c.tolist() for c in (setup, camera, performer, replication, label + 1)))
        ],
    )


def _lengths(numbers: npt.NDArray[np.float64]) -> Ints:
    """Frames of clips, log-normal, from uniform numbers (N,): only of these numpy promises that they stay the same."""
    normal = NormalDist(math.log(MEDIAN_FRAMES), SPREAD)
    length = np.exp([normal.inv_cdf(number) for number in (0.0001 + 0.9998 * numbers).tolist()])
    return np.clip(np.rint(length), SHORTEST, LONGEST).astype(np.int64)


def _recordings(dataset: str) -> Ints:
    """(N, 5) numbers as in the original: 948 recordings of each of the first 60 actions, 960 of the others.

    Who was recorded in which setup is invented, but for the share of people who train.
    """
    blocks = [(range(60), range(1, 18), NTU60_TRAIN_PERFORMERS, range(1, 41), 112, 46)]
    if dataset == "ntu120":
        blocks.append((range(60, 120), range(18, 33), NTU120_TRAIN_PERFORMERS, range(41, 107), 64, 96))
    rows = []
    for labels, setups, trained, people, sessions_train, sessions_test in blocks:
        train = [person for person in people if person in trained]
        test = [person for person in people if person not in trained]
        # Whoever comes again comes in another setup, so that no name is there twice.
        sessions = [(train[n % len(train)], n // len(train)) for n in range(sessions_train)]
        sessions += [(test[n % len(test)], n // len(test)) for n in range(sessions_test)]
        for performer, visit in sessions:
            setup = setups[(performer + visit) % len(setups)]
            rows += list(product(labels, [performer], (1, 2, 3), [setup], (1, 2)))
    return np.array(rows, dtype=np.int64)


def _as_many_as_published(dataset: str, about: Ints) -> Ints:
    """Some left out, as the broken recordings are: what remains to train and to test with in ``xsub`` is what is published."""
    _, performer, camera, setup, _ = about.T
    mask = trains(dataset, "xsub", performer, camera, setup)
    train, test = OFFICIAL[dataset, "xsub"]
    return about[np.where(mask, mask.cumsum() <= train, (~mask).cumsum() <= test)]


def _scene(label: int, length: int, bodies: int, seed: int, number: int) -> npt.NDArray[np.int16]:
    """(M, T, 25, 3) int16 millimetres."""
    random = np.random.default_rng([seed, 1, number])
    joints = np.stack([_person(label, length, random.random(8), body) for body in range(bodies)])
    joints += 0.006 * (random.random(joints.shape, dtype=np.float32) - 0.5)  # what a sensor adds
    return np.rint(joints * 1000).astype(np.int16)


def _person(label: int, length: int, numbers: npt.NDArray[np.float64], body: int) -> npt.NDArray[np.float32]:
    """(T, 25, 3) metres of somebody who swings the two limbs of a class."""
    size, phase, x, z, heading, pace, width, late = numbers.tolist()
    time = np.arange(length) / 30
    moving = {_LIMBS[limb]: turn for limb, turn in zip(_PAIRS[label % len(_PAIRS)], (0.0, 0.25))}
    hertz = 0.5 + 0.25 * (label // len(_PAIRS)) + 0.1 * pace
    joints = np.zeros((length, NUM_JOINTS, 3), dtype=np.float32)
    for joint in FROM_ROOT:
        offset = np.array(STANDING[joint], dtype=np.float32) * (0.9 + 0.2 * size)
        if joint in moving:
            swing = (0.7 + 0.4 * width) * np.sin(2 * np.pi * (hertz * time + phase + moving[joint] + 0.1 * late))
            cos, sin = np.cos(swing), np.sin(swing)
            turned = np.empty((length, 3), dtype=np.float32)
            turned[:, 0] = offset[0]
            turned[:, 1] = cos * offset[1] - sin * offset[2]
            turned[:, 2] = sin * offset[1] + cos * offset[2]
            joints[:, joint] = joints[:, PARENTS[joint]] + turned
        else:
            joints[:, joint] = joints[:, PARENTS[joint]] + offset
    angle = 0.6 * (heading - 0.5) + np.pi * body
    cos, sin = np.cos(angle), np.sin(angle)
    turn = np.array([[cos, 0, -sin], [0, 1, 0], [sin, 0, cos]], dtype=np.float32)
    return joints @ turn + np.array([x - 0.5 + body, 0.0, 2.5 + z], dtype=np.float32)
