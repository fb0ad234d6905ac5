"""Augmentations that a recipe may ask for beside those of the reference: ``training.augmentations``.

Each is a function of a key (:mod:`last_e.rng`) and of where in the epoch's order a clip stands, so that it is the same on every
device, in every micro-batch and after any cut. Of a clip with several bodies, what is of a body is drawn for each alone: by its
``person`` number.

n clips of a batch, r rows (a clip's bodies one after the other), T frames, V joints, C classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from last_e import rng
from last_e.config import AugmentationsConfig
from last_e.rng import Key
from last_e.skeletons import Skeleton

MOTION_RANGE = (0.15, 1.1)
_RADIANS = torch.pi / 180
_TABLE = 1024
"""Steps of the table that shares of mixed clips are drawn from."""


@dataclass(frozen=True)
class Mirror:
    """What changes places in a mirror, as tables: what stands at i there is at ``[i]`` here."""

    joints: tuple[int, ...]
    """(V,)."""
    classes: tuple[int, ...]
    """(C,)."""


def mirror_of(skeleton: Skeleton, classes: int, pairs: tuple[tuple[int, int], ...] | None) -> Mirror | None:
    """Left and right of a data set, whose classes change places by ``pairs``; None: nobody knows, or it has no sides."""
    if pairs is None or not skeleton.has_sides:
        return None
    return Mirror(_swap(len(skeleton.joints), skeleton.pairs), _swap(classes, pairs))


def _swap(count: int, pairs: tuple[tuple[int, int], ...]) -> tuple[int, ...]:
    table = list(range(count))
    for a, b in pairs:
        table[a], table[b] = b, a
    return tuple(table)


@lru_cache
def table(values: tuple[int, ...], device: torch.device) -> Tensor:
    """(len(values),) int64; kept, because a list would be copied to the device each time."""
    return torch.tensor(values, device=device)


def swapped(joints: Tensor, mirror: Mirror, flip: Tensor | None = None) -> Tensor:
    """Joints (r, T, V, 3) with left and right ones in each other's places, where ``flip`` (r,) says so."""
    there = table(mirror.joints, joints.device)
    if flip is None:
        return joints.index_select(2, there)
    here = torch.arange(len(there), device=joints.device)
    at = torch.where(flip[:, None], there, here)
    return joints.gather(2, at[:, None, :, None].expand_as(joints))


def across(flip: Tensor) -> Tensor:
    """(n, 1, 3) by which the columns of a linear map are multiplied so that it mirrors first, x becoming -x, where ``flip``
    (n,) says so."""
    one = torch.ones_like(flip, dtype=torch.float32)
    return torch.stack([torch.where(flip, -one, one), one, one], dim=1)[:, None]


# --- over time -----------------------------------------------------------------------------------------------------------


def pace(key: Key, position: Tensor, most: float, frames: int) -> Tensor:
    """Moments of a crop, from 0 to 1, that are shown: (n, T). The pace rises or falls evenly, from 1 - a to 1 + a of the mean,
    |a| <= ``most`` < 1: g(u) = u + a u (u - 1), so that both ends stay where they are."""
    change = most * (2 * rng.uniform(key, position, 1) - 1)
    even = torch.linspace(0, 1, frames, device=position.device)
    return even + change * even * (even - 1)


def scaled_motion(joints: Tensor, middle: Tensor, factor: Tensor) -> Tensor:
    """Every joint's way from ``middle`` (r, 1, V, 3) scaled by its row's ``factor`` (r,)."""
    return torch.lerp(middle, joints, factor[:, None, None, None])


def motion_factor(key: Key, person: Tensor, config: AugmentationsConfig) -> Tensor:
    """By how much the range of motion of each row is scaled: (r,), 1 where it is not."""
    numbers = rng.uniform(key, person, 2)
    low, high = config.motion_range or MOTION_RANGE
    return torch.where(numbers[:, 0] < (config.motion or 0.0), low + (high - low) * numbers[:, 1], 1.0)


def without_frames(key: Key, person: Tensor, joints: Tensor, most: float) -> Tensor:
    """Joints (r, T, V, 3) with a stretch of up to ``most`` of the frames that is not seen: there they move on a straight line
    from the frame before to the one behind it. The first frame and the last are always seen."""
    rows, frames = joints.shape[:2]
    numbers = rng.uniform(key, person, 2)
    length = (most * (frames - 1) * numbers[:, 0]).floor()
    before = ((frames - 1 - length) * numbers[:, 1]).floor()
    behind = before + length + 1
    row, time = torch.arange(rows, device=joints.device), torch.arange(frames, device=joints.device)
    share = (time - before[:, None]) / (length + 1)[:, None]
    line = torch.lerp(
        joints[row, before.long()][:, None], joints[row, behind.long()][:, None], share.clamp(0, 1)[:, :, None, None]
    )
    unseen = (time > before[:, None]) & (time < behind[:, None])
    return torch.where(unseen[:, :, None, None], line, joints)


# --- over joints ---------------------------------------------------------------------------------------------------------


@lru_cache
def ways(skeleton: Skeleton, device: torch.device) -> Tensor:
    """(V, V) float32: 1 where the joint of the column lies on the way from the root to that of the row, both included."""
    parents = skeleton.parents
    way = torch.zeros(len(parents), len(parents))
    for joint in range(len(parents)):
        at = joint
        while True:
            way[joint, at] = 1
            if parents[at] == at:
                break
            at = parents[at]
    return way.to(device)


@lru_cache
def bones(skeleton: Skeleton, device: torch.device) -> Tensor:
    """(V, V) float32 of what makes bones of joints: each joint minus its parent, the root as it is."""
    bone = torch.eye(len(skeleton.parents))
    for joint, parent in enumerate(skeleton.parents):
        if parent != joint:
            bone[joint, parent] = -1
    return bone.to(device)


@lru_cache
def sides(skeleton: Skeleton, device: torch.device) -> Tensor:
    """(V,) int64: a joint's number, of a pair that of the left one."""
    first = {right: left for left, right in skeleton.pairs}
    return torch.tensor([first.get(joint, joint) for joint in range(len(skeleton.joints))], device=device)


def limbs(key: Key, person: Tensor, skeleton: Skeleton, most: float) -> Tensor:
    """What makes bones longer or shorter by up to ``most`` of their length, those of both sides alike: (r, V, V), to be
    multiplied with joints. A joint is the root plus all bones on the way to it, so that this is way @ diag(factor) @ bone."""
    numbers = rng.uniform(key, person, len(skeleton.joints))[:, sides(skeleton, person.device)]
    factor = 1 + most * (2 * numbers - 1)
    factor[:, skeleton.centre].fill_(1)  # no bone, but where all begin
    return (ways(skeleton, person.device) * factor[:, None, :]) @ bones(skeleton, person.device)


def of_joints(operator: Tensor, joints: Tensor) -> Tensor:
    """A linear map (r, V, V) of each row's joints (r, T, V, 3), along each axis and in each frame alike."""
    rows, frames, count, _ = joints.shape
    flat = joints.transpose(2, 3).reshape(rows, frames * 3, count)
    return (flat @ operator.transpose(1, 2)).view(rows, frames, 3, count).transpose(2, 3).contiguous()


def pose(key: Key, person: Tensor, skeleton: Skeleton, most: float) -> Tensor:
    """How far joints are moved all clip long, (r, 1, V, 3): the far end of each bone by up to ``most`` along each axis, and
    with it all that hangs on it."""
    count = len(skeleton.joints)
    moves = most * (2 * rng.uniform(key, person, 3 * count).view(-1, count, 3) - 1)
    moves[:, skeleton.centre].zero_()
    return (ways(skeleton, person.device) @ moves)[:, None]


def without_joints(key: Key, person: Tensor, joints: Tensor, skeleton: Skeleton, chance: float) -> Tensor:
    """Joints (r, T, V, 3) of which some are not seen, each by the same ``chance``: they lie where the nearest one is that is
    seen on the way to the root, as in own sets. The root is always seen."""
    hidden = (rng.uniform(key, person, len(skeleton.joints)) < chance).unbind(1)
    parents, found = skeleton.parents, dict[int, Tensor]()

    def stands_at(joint: int) -> Tensor:
        if joint not in found:
            own = torch.full_like(person, joint)
            found[joint] = own if parents[joint] == joint else torch.where(hidden[joint], stands_at(parents[joint]), own)
        return found[joint]

    at = torch.stack([stands_at(joint) for joint in range(len(parents))], dim=1)
    return joints.gather(2, at[:, None, :, None].expand_as(joints))


# --- of the whole body ---------------------------------------------------------------------------------------------------


def lean(key: Key, position: Tensor, most: float) -> Tensor:
    """Rotations (n, 3, 3) about x and then about z, by up to ``most`` degrees each."""
    angle = most * _RADIANS * (2 * rng.uniform(key, position, 2) - 1)
    (a, b), zero, one = angle.unbind(1), torch.zeros_like(angle[:, 0]), torch.ones_like(angle[:, 0])
    about_x = torch.stack([one, zero, zero, zero, a.cos(), -a.sin(), zero, a.sin(), a.cos()], 1).view(-1, 3, 3)
    about_z = torch.stack([b.cos(), -b.sin(), zero, b.sin(), b.cos(), zero, zero, zero, one], 1).view(-1, 3, 3)
    return about_z @ about_x


def drift(key: Key, person: Tensor, most: float, frames: int) -> Tensor:
    """How far a body has gone over the ground, (r, T, 1, 3): evenly, up to ``most`` along x and z by the last frame."""
    end = most * (2 * rng.uniform(key, person, 2) - 1)
    whole = torch.stack([end[:, 0], torch.zeros_like(end[:, 0]), end[:, 1]], dim=1)
    return torch.linspace(0, 1, frames, device=person.device)[:, None, None] * whole[:, None, None, :]


# --- pairs ---------------------------------------------------------------------------------------------------------------


def larger_share(key: Key, position: Tensor, concentration: float) -> Tensor:
    """The larger share of two clips that are mixed: (n,) in [0.5, 1], max(b, 1 - b) of b from Beta(a, a), a the
    ``concentration`` (Zhang et al., mixup: Beyond Empirical Risk Minimization, ICLR 2018)."""
    at = rng.uniform(key, position, 1)[:, 0] * _TABLE
    low = at.floor()
    values = _larger_shares(concentration, position.device)
    return torch.lerp(values[low.long()], values[low.long() + 1], at - low)


@lru_cache
def _larger_shares(concentration: float, device: torch.device) -> Tensor:
    """1 - q(p / 2) for p = 0, 1 / :data:`_TABLE`, ... 1, q the quantiles of Beta(a, a).

    With y = x^a the integral of its density t^(a - 1) (1 - t)^(a - 1) up to x is that of (1 - y^(1 / a))^(a - 1) / a up to y,
    which has no pole at 0.
    """
    y = np.linspace(0, 0.5**concentration, 1 << 15)
    middle = (y[1:] + y[:-1]) / 2
    mass = np.concatenate([[0.0], np.cumsum((1 - middle ** (1 / concentration)) ** (concentration - 1))])
    at = np.interp(np.linspace(0, mass[-1], _TABLE + 1), mass, y)
    return torch.from_numpy(1 - at ** (1 / concentration)).float().to(device)
