"""Made-up motion: the same clips on every machine, for tests and trials without any recording."""

from __future__ import annotations

import torch

from last_e import rng
from last_e.data.clips import Clips
from last_e.joints import FROM_ROOT, PARENTS, STANDING
from last_e.shipped import SYNTHETIC_CLIPS, SYNTHETIC_PERFORMERS

_MOVING = (5, 9, 13, 17, 6, 10, 1, 14)
"""Joint whose bone swings in each class (modulo its length)."""


def synthetic_clips(num_classes: int = 6, num_clips: int = SYNTHETIC_CLIPS, seed: int = 0) -> Clips:
    """Clips of 20 to 80 frames. Class c swings one limb, at a pace that grows with c; every third class has two people.

    Performers 1 to 12; sizes, phases, places and headings vary from clip to clip.
    """
    numbers = rng.uniform(rng.key(seed, 100, 0), torch.arange(num_clips), 16)
    label = torch.arange(num_clips) % num_classes
    length = 20 + (numbers[:, 0] * 61).long()
    bodies = 1 + (label % 3 == 2).long()
    clip = torch.arange(num_clips).repeat_interleave(bodies)
    second = torch.cat([torch.zeros(1, dtype=torch.bool), clip[1:] == clip[:-1]])
    own = torch.where(second[:, None], numbers[clip].roll(1, dims=1), numbers[clip])
    motion = _people(label[clip], int(length.max()), own, second)
    rows = motion[torch.arange(motion.shape[1]) < length[clip][:, None]]
    ones = torch.ones(num_clips, dtype=torch.int64)
    performer = 1 + torch.arange(num_clips) // num_classes % SYNTHETIC_PERFORMERS
    return Clips(rows, length, bodies, label, performer, camera=ones, setup=ones)


def _people(label: torch.Tensor, frames: int, numbers: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """(people, frames, 25, 3) int16 millimetres of the motion of people, each with a class and 16 numbers in [0, 1), and the
    ``second`` of a clip or not."""

    def of_each(values: torch.Tensor) -> torch.Tensor:
        return values.float()[:, None]  # computed in float64: a number for a person, then as a float32 for the frames

    size, phase, x, z, heading, pace = numbers[:, 1:7].double().unbind(1)
    time = torch.arange(frames) / 30
    angle = 2 * torch.pi * (of_each(0.6 + 0.15 * label.double() + 0.1 * pace) * time + of_each(phase))
    swing = of_each(0.9 + 0.3 * size) * angle.sin()
    cos, sin = swing.cos(), swing.sin()
    offsets = torch.tensor(STANDING) * of_each(0.9 + 0.2 * size)[..., None]
    moving = torch.tensor(_MOVING)[label % len(_MOVING)]
    joint = torch.zeros(*angle.shape, 25, 3)
    for child in FROM_ROOT:
        offset = offsets[:, child, None].expand(*angle.shape, 3)
        y, depth = offset[..., 1], offset[..., 2]
        swung = torch.stack([offset[..., 0], cos * y - sin * depth, sin * y + cos * depth], dim=2)
        joint[:, :, child] = joint[:, :, PARENTS[child]] + torch.where((moving == child)[:, None, None], swung, offset)
    turn = (0.6 * (heading - 0.5) + torch.pi * second.double()).float()
    cos, sin = turn.cos()[:, None, None], turn.sin()[:, None, None]
    joint = torch.stack(
        [cos * joint[..., 0] + sin * joint[..., 2], joint[..., 1], cos * joint[..., 2] - sin * joint[..., 0]], dim=3
    )
    place = torch.stack([(x - 0.5 + second).float(), torch.zeros(len(label)), (2.5 + z).float()], dim=1)
    return ((joint + place[:, None, None]) * 1000).round().to(torch.int16)
