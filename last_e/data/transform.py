"""From int16 rows to the three streams of a batch, all clips at once, on any device.

n clips of a batch, r rows (a clip's bodies one after the other), T frames, V joints.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from last_e import rng
from last_e.data.clips import Clips
from last_e.rng import Key
from last_e.skeletons import NTU25, Skeleton

MAX_ANGLE = torch.pi / 12  # 15 degrees
MAX_SHEAR = 0.1
MAX_SCALING = 0.1
JITTER_METRES = 0.01
TEST_CROP = 0.95


def train_crop(key: Key, position: Tensor) -> Tensor:
    """A random part of each clip, 50 to 100% of it: (n, 2) begin and span as fractions."""
    numbers = rng.uniform(key, position, 2)
    span = 0.5 + 0.5 * numbers[:, 0]
    return torch.stack([(1 - span) * numbers[:, 1], span], dim=1)


def test_crop(index: Tensor, begin: float | None = None) -> Tensor:  # noqa: PT028 -- no test function
    """The middle 95% of each of the clips ``index`` (n,), or what ``begin``s elsewhere: (n, 2) begin and span as fractions."""
    begins = torch.full_like(index, (1 - TEST_CROP) / 2 if begin is None else begin, dtype=torch.float32)
    return torch.stack([begins, torch.full_like(begins, TEST_CROP)], dim=1)


def warp(key: Key, position: Tensor, most: float = MAX_ANGLE) -> Tensor:
    """A random linear map for each clip: (n, 3, 3) = shear @ tilt about x @ rotation about y, by up to ``most``, * scale."""
    numbers = 2 * rng.uniform(key, position, 9) - 1
    yaw, tilt = most * numbers[:, 0], MAX_ANGLE * numbers[:, 1]
    zero, one = torch.zeros_like(yaw), torch.ones_like(yaw)
    about_y = torch.stack([yaw.cos(), zero, yaw.sin(), zero, one, zero, -yaw.sin(), zero, yaw.cos()], 1)
    about_x = torch.stack([one, zero, zero, zero, tilt.cos(), -tilt.sin(), zero, tilt.sin(), tilt.cos()], 1)
    s = MAX_SHEAR * numbers[:, 3:]
    shear = torch.stack([one, s[:, 0], s[:, 1], s[:, 2], one, s[:, 3], s[:, 4], s[:, 5], one], 1)
    scale = 1 + MAX_SCALING * numbers[:, 2]
    return (shear.view(-1, 3, 3) @ about_x.view(-1, 3, 3) @ about_y.view(-1, 3, 3)) * scale[:, None, None]


def jitter(
    key: Key, position: Tensor, body: Tensor, frames: int, joints: int = 25, people: int = 2, metres: float = JITTER_METRES
) -> Tensor:
    """Sensor noise: (r, T, V, 3) metres, anew for every joint and frame of each of a clip's ``people``."""
    noise = rng.normal(key, position * max(2, people) + body, frames * joints * 3)
    return metres * noise.view(-1, frames, joints, 3)


def sample(
    clips: Clips, index: Tensor, owner: Tensor, body: Tensor, crop: Tensor, frames: int, moments: Tensor | None = None
) -> Tensor:
    """Cut the clips ``index`` (n,) to ``crop`` (n, 2) and resample them linearly to T frames.

    ``owner`` (r,) and ``body`` (r,) say which clip of the batch and which body each row is; ``moments`` (n, T), from 0 to 1,
    when in the crop each frame is, where that is not at even steps. Returns (r, T, V, 3) metres.
    """
    last = (clips.length[index] - 1).float()
    if moments is None:
        moments = torch.linspace(0, 1, frames, device=crop.device)
    at = last[:, None] * (crop[:, :1] + crop[:, 1:] * moments)
    at = torch.minimum(at, last[:, None])  # rounding must not reach into the next clip
    low = at.floor()
    high = torch.minimum(low + 1, last[:, None])
    base = (clips.start[index][owner] + body * clips.length[index][owner])[:, None]
    before = clips.joints[base + low.long()[owner]].float()
    after = clips.joints[base + high.long()[owner]].float()
    return torch.lerp(before, after, (at - low)[owner][:, :, None, None]) * 0.001


def first_frame(clips: Clips, index: Tensor, owner: Tensor, body: Tensor) -> Tensor:
    """Of each row its clip's first frame, before anything is cut: (r, 1, V, 3) metres."""
    at = clips.start[index][owner] + body * clips.length[index][owner]
    return clips.joints[at].float()[:, None] * 0.001


def apply(matrix: Tensor, joints: Tensor) -> Tensor:
    """A linear map (r, 3, 3) per row on its points (r, T, V, 3)."""
    rows, frames, num_joints, _ = joints.shape
    return (joints.view(rows, -1, 3) @ matrix.transpose(1, 2)).view(rows, frames, num_joints, 3)


@lru_cache
def parents(device: torch.device, of: tuple[int, ...]) -> Tensor:
    """(V,) int64: each joint's parent; kept, because a list of indices would be copied to the device each time."""
    return torch.tensor(of, device=device)


def to_streams(joints: Tensor, skeleton: Skeleton = NTU25) -> dict[str, Tensor]:
    """(r, T, V, 3) -> joint, velocity and bone, each (r, 3, T, V) contiguous.

    Velocity is the step to the next frame, 0 at the last; a bone is its joint minus the parent, 0 at the root.
    """
    joint = joints.permute(0, 3, 1, 2).contiguous()
    velocity = torch.zeros_like(joint)
    torch.sub(joint[:, :, 1:], joint[:, :, :-1], out=velocity[:, :, :-1])
    bone = joint - joint.index_select(3, parents(joint.device, skeleton.parents))
    return {"joint": joint, "velocity": velocity, "bone": bone}
