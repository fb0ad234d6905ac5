"""Clips as an epoch shows them: cut, placed and augmented, all of a batch at once, on any device."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from last_e import rng
from last_e.config import TrainingConfig
from last_e.data import augment, transform
from last_e.data.augment import Mirror
from last_e.data.clips import Clips
from last_e.data.placement import Placement
from last_e.model.network import Noise
from last_e.rng import KeyOf


def augmented(
    clips: Clips,
    placement: Placement,
    mirror: Mirror | None,
    recipe: TrainingConfig,
    key: KeyOf,
    position: Tensor,
    index: Tensor,
    owner: Tensor,
    body: Tensor,
) -> tuple[Tensor, Tensor]:
    """Joints (r, T, V, 3) and labels (n,), augmented as in the reference and, in between, as ``training.augmentations`` says.

    What is of time and of a body's own measures comes first, in metres; what is of the whole body once it is centred, turned
    and scaled; what is not seen at last, so that it is not seen of all that.

    Args:
        clips: the data set.
        placement: of each of its clips.
        mirror: what changes places in a mirror, for a recipe that mirrors.
        recipe: ``training``, with ``augment``.
        key: of each purpose, in the epoch.
        position: (n,) where in the epoch's order clips stand; all random numbers hang on that.
        index: (n,) which of the data set they are.
        owner: (r,) which of the n clips a row is of.
        body: (r,) which of its bodies.
    """
    more, frames, skeleton = recipe.augmentations, recipe.input_frames, clips.skeleton

    label, person = clips.label[index], position
    if any(one is not None for _, one in more):  # else nobody asks
        person = position[owner] * max(2, clips.people) + body
    moments = None if more.speed is None else augment.pace(key(rng.SPEED), position, more.speed, frames)
    joints = transform.sample(clips, index, owner, body, transform.train_crop(key(rng.CROP), position), frames, moments)
    if more.motion is not None:
        from_mean = more.motion_from == "mean"
        middle = joints.mean(dim=1, keepdim=True) if from_mean else transform.first_frame(clips, index, owner, body)
        joints = augment.scaled_motion(joints, middle, augment.motion_factor(key(rng.MOTION), person, more))
    if more.limbs is not None:
        joints = augment.of_joints(augment.limbs(key(rng.LIMBS), person, skeleton, more.limbs), joints)
    joints -= placement.origin[index][owner][:, None, None]
    metres = transform.JITTER_METRES if more.noise is None else more.noise
    joints += transform.jitter(key(rng.JITTER), position[owner], body, frames, len(skeleton.joints), clips.people, metres)
    most = transform.MAX_ANGLE if more.rotation is None else more.rotation * torch.pi / 180
    matrix = transform.warp(key(rng.WARP), position, most)
    if more.lean is not None:
        matrix = matrix @ augment.lean(key(rng.LEAN), position, more.lean)
    if more.mirror is not None and mirror is not None:
        flip = rng.uniform(key(rng.MIRROR), position, 1)[:, 0] < more.mirror
        label = torch.where(flip, augment.table(mirror.classes, label.device)[label], label)
        joints = augment.swapped(joints, mirror, flip[owner])
        matrix = matrix * augment.across(flip)
    joints = transform.apply((matrix @ placement.turn[index])[owner], joints)
    if more.pose is not None:
        joints += augment.pose(key(rng.POSE), person, skeleton, more.pose)
    if more.drift is not None:
        joints += augment.drift(key(rng.DRIFT), person, more.drift, frames)
    if clips.is_flat:  # what is seen of the turned body, as in testing
        joints[..., 2] = 0
    if more.mask_joints is not None:
        joints = augment.without_joints(key(rng.MASK_JOINTS), person, joints, skeleton, more.mask_joints)
    if more.mask_frames is not None:
        joints = augment.without_frames(key(rng.MASK_FRAMES), person, joints, more.mask_frames)
    return joints, label


class TorchRows:
    """Rows of clips as an epoch shows them, by torch's operations.

    Args:
        clips: the data set.
        placement: of each of its clips.
        mirror: what changes places in a mirror, for a recipe that mirrors.
        recipe: ``training``.
        key: of each purpose, in the epoch.
        position: (n,) where in the epoch's order clips stand.
        clip: (n,) which of the data set they are.
        owner: (r,) which of the n clips a row is of.
        body: (r,) which of its bodies.
    """

    def __init__(
        self,
        clips: Clips,
        placement: Placement,
        mirror: Mirror | None,
        recipe: TrainingConfig,
        key: KeyOf,
        position: Tensor,
        clip: Tensor,
        owner: Tensor,
        body: Tensor,
    ) -> None:
        self._clips, self._key, self._rows = clips, key, (position, clip, owner)
        if recipe.augment:
            self._joints, self._label = augmented(clips, placement, mirror, recipe, key, position, clip, owner, body)
        else:
            self._joints, self._label = still(clips, placement, clip, owner, body, recipe.input_frames), clips.label[clip]

    def streams(self) -> dict[str, Tensor]:
        """Joint, velocity and bone, each (r, 3, T, V)."""
        return transform.to_streams(self._joints, self._clips.skeleton)

    def joints(self) -> Tensor:
        """(r, T, V, 3)."""
        return self._joints

    def labels(self) -> Tensor:
        """(n,), as they are in a mirror."""
        return self._label

    def others(self, noise: tuple[int, int]) -> tuple[Tensor, Tensor | None, Noise]:
        """Labels (n,); the :func:`weight` of each row; so many columns of dropout and drop path."""
        position, clip, owner = self._rows
        dropout, drop_path = (
            rng.uniform(self._key(purpose), position, width)[owner]
            for purpose, width in zip((rng.DROPOUT, rng.DROP_PATH), noise)
        )
        return self._label, weight(self._clips, clip, owner), Noise(dropout, drop_path)


def weight(clips: Clips, clip: Tensor, owner: Tensor) -> Tensor | None:
    """(r,) one over the number of bodies of the row's clip; None where each of the clips (n,) has one row."""
    return None if len(owner) == len(clip) else clips.bodies[clip].float().reciprocal()[owner]


class Spoil(NamedTuple):
    """What is wrong with clips that test, so that it is seen what a network bears. Which joints, and which noise, follows from
    a clip's number and a body's: the same for all networks."""

    noise: float | None = None
    """Standard deviation of what is added to each coordinate in each frame, in metres."""
    missing: float | None = None
    """Chance for each joint that it is not seen in a clip: it lies where its parent is."""
    motion: float | None = None
    """Factor of each joint's way from where it is in the clip's first frame."""


def still(
    clips: Clips,
    placement: Placement,
    index: Tensor,
    owner: Tensor,
    body: Tensor,
    frames: int,
    begin: float | None = None,
    spoil: Spoil | None = None,
) -> Tensor:
    """Clips without augmentation, (r, T, V, 3): the middle of each, or what ``begin``s elsewhere; centred, turned, scaled.
    Those that are to be spoilt are placed by what they were before."""
    joints = transform.sample(clips, index, owner, body, transform.test_crop(index, begin), frames)
    if spoil is not None and spoil.motion is not None:
        factor = torch.full_like(owner, spoil.motion, dtype=torch.float32)
        joints = augment.scaled_motion(joints, transform.first_frame(clips, index, owner, body), factor)
    joints -= placement.origin[index][owner][:, None, None]
    if spoil is None:
        return transform.apply(placement.turn[index][owner], joints)
    person, count = index[owner] * max(2, clips.people) + body, len(clips.skeleton.joints)
    if spoil.noise is not None:
        noise = rng.normal(rng.key(0, rng.JITTER, 0), person, frames * count * 3)
        joints += spoil.noise * noise.view(-1, frames, count, 3)
    joints = transform.apply(placement.turn[index][owner], joints)
    if clips.is_flat:
        joints[..., 2] = 0
    if spoil.missing is not None:
        joints = augment.without_joints(rng.key(0, rng.MASK_JOINTS, 0), person, joints, clips.skeleton, spoil.missing)
    return joints
