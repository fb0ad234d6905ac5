"""Whom a clip shows: the usual choice of people, then one row of frames for each, in whole millimetres.

The bounds and their order are those of CTR-GCN's preparation (Chen et al., ICCV 2021). Its code does three things that these
rules do not: see ``unlike CTR-GCN`` in :data:`RULES`. So a clip of several bodies may show other people than there.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from last_e.datafile import DataError
from last_e.joints import NUM_JOINTS
from last_e.prepare.clipfile import MOST_PEOPLE
from last_e.prepare.skeleton import Floats, Ints, Recording
from last_e.splits import Bools

FEWEST_FRAMES = 11
WIDE = 0.8
MOST_WIDE_FRAMES = 0.69754
FARTHEST_MM = 32_767
FARTHEST = (FARTHEST_MM + 0.499) / 1000
RULES = {
    "version": 1,
    "short": f"a body seen in {FEWEST_FRAMES} frames or fewer is dropped, unless it is the only one",
    "wide": f"of several, one wider than {WIDE} of its height in {MOST_WIDE_FRAMES:.3%} of its frames or more is dropped",
    "order": f"most motion first (variance of its joints over x, y and z); the first {MOST_PEOPLE} are kept",
    "frames": "frames with nobody are cut; between two sightings people move on straight lines, before and after they stand",
    "unseen": f"a body counts as not seen where a coordinate is no number or beyond {FARTHEST_MM} mm",
    "unit": "int16 millimetres",
    "unlike CTR-GCN": [
        "ids that follow one another in time are not joined to one person",
        "motion counts every frame of a body; there it is at most that of the frames in which the body is not wide",
        "gaps of a person are filled; there they are zeros",
    ],
}
"""What was decided, in words; kept in the header of a prepared file."""


class NobodyError(DataError):
    """Nobody is left whom a clip could show."""


@dataclass(frozen=True)
class Clip:
    """The people of one recording."""

    joints: npt.NDArray[np.int16]
    """(M, T, 25, 3) millimetres, the main person first."""
    unusable: int
    """Sightings left out because a coordinate was no number or too far away to be one."""
    error: float
    """Largest error of rounding to whole millimetres, in millimetres. (Metres in float16 err by up to 1 mm from 2 m on.)"""
    frame: Ints
    """(T,) which of the recording's frames these are, 0-based; those in which nobody is seen are cut."""


def choose_people(recording: Recording) -> Clip:
    """The clip of a recording: at most two people, each with a place for every frame in which anybody is seen.

    Raises:
        NobodyError: nobody is seen, or nobody for long enough.
    """
    joints, frame, body = recording.joints, recording.frame, recording.body
    # Comparing takes NaN for false, so this asks for numbers, too.
    usable: Bools = np.all(np.abs(joints) < FARTHEST, axis=(1, 2))
    unusable = len(usable) - int(usable.sum())
    if unusable:
        joints, frame, body = joints[usable], frame[usable], body[usable]
    if not len(body):
        raise NobodyError("nobody is seen in any frame" if not unusable else "no sighting has usable coordinates")
    # Ids in the order in which they were first seen: a tie in motion goes to the first.
    ids, first = np.unique(body, return_index=True)
    people = [(frame[body == one], joints[body == one]) for one in ids[np.argsort(first)]]
    if len(people) > 1:
        people = [person for person in people if len(person[0]) > FEWEST_FRAMES]
        if not people:
            raise NobodyError(f"nobody is seen in more than {FEWEST_FRAMES} frames")
        kept = [person for person in people if _wide_frames(person[1]) < MOST_WIDE_FRAMES]
        # The last one is never dropped for its shape: somebody who lies down is somebody.
        people = kept or people[-1:]
    if len(people) > 1:
        people = sorted(people, key=lambda person: -_motion(person[1]))[:MOST_PEOPLE]
    return _clip(people, unusable)


def take_people(joints: npt.NDArray[np.floating]) -> Clip:
    """The clip of people whom somebody else has chosen, (M, T, 25, 3) metres: all zeros where a person is not seen.

    Raises:
        NobodyError: all zeros, or without usable coordinates.
    """
    with np.errstate(all="ignore"):  # what is no number, or too large for one, is left out below
        joints = joints.astype(np.float64)
    flat = joints.reshape(*joints.shape[:2], 3 * NUM_JOINTS)
    there = (flat != 0).any(axis=2)
    usable = there & (np.abs(flat) < FARTHEST).all(axis=2)
    people = [(np.flatnonzero(seen), points[seen]) for seen, points in zip(usable, joints) if seen.any()]
    unusable = int((there & ~usable).sum())
    if not people:
        raise NobodyError("nobody is seen in any frame" if not unusable else "no sighting has usable coordinates")
    return _clip(people[:MOST_PEOPLE], unusable)


def _clip(people: list[tuple[Ints, Floats]], unusable: int) -> Clip:
    """People, each with the frames in which they are seen and their joints in these, as a clip."""
    seen = people[0][0] if len(people) == 1 else np.union1d(people[0][0], people[1][0])
    millimetres = np.stack([_fill(seen, frames, points) for frames, points in people]) * 1000
    rounded = np.rint(millimetres)
    return Clip(rounded.astype(np.int16), unusable, float(np.abs(rounded - millimetres).max()), seen)


def _wide_frames(points: Floats) -> float:
    """Part of the frames (n, 25, 3) in which a body is wider than 0.8 of its height."""
    low, high = points.min(axis=1), points.max(axis=1)
    wide = (high[:, 0] - low[:, 0]) > WIDE * (high[:, 1] - low[:, 1])
    return float(wide.mean())


def _motion(points: Floats) -> float:
    """Sum over x, y and z of the variance of all joints in all frames (n, 25, 3), in square metres."""
    return float(points.reshape(-1, 3).var(axis=0).sum())


def _fill(at: Ints, seen: Ints, points: Floats) -> Floats:
    """Joints (T, 25, 3) at the frames ``at`` (T,) of somebody seen with ``points`` (n, 25, 3) at the frames ``seen`` (n,)."""
    if len(at) == len(seen):
        return points
    position = np.interp(at, seen, np.arange(len(seen)))
    low = position.astype(np.int64)
    high = np.minimum(low + 1, len(seen) - 1)
    part = (position - low)[:, None, None]
    return points[low] * (1 - part) + points[high] * part
