"""Made-up motion: the same clips on every machine, for tests and trials without any recording."""

from __future__ import annotations

import torch

from last_e import rng
from last_e.data.clips import Clips
from last_e.joints import FROM_ROOT, PARENTS, STANDING

_MOVING = (5, 9, 13, 17, 6, 10, 1, 14)
"""Joint whose bone swings in each class (modulo its length)."""


def synthetic_clips(num_classes: int = 6, num_clips: int = 360, seed: int = 0) -> Clips:
    """Clips of 20 to 80 frames. Class c swings one limb, at a pace that grows with c; every third class has two people.

    Performers 1 to 12; sizes, phases, places and headings vary from clip to clip.
    """
    numbers = rng.uniform(rng.key(seed, 100, 0), torch.arange(num_clips), 16)
    label = torch.arange(num_clips) % num_classes
    length = 20 + (numbers[:, 0] * 61).long()
    bodies = 1 + (label % 3 == 2).long()
    rows = []
    for clip in range(num_clips):
        for body in range(int(bodies[clip])):
            rows.append(_person(int(label[clip]), int(length[clip]), numbers[clip].roll(body), body))
    ones = torch.ones(num_clips, dtype=torch.int64)
    performer = 1 + torch.arange(num_clips) // num_classes % 12
    return Clips(torch.cat(rows), length, bodies, label, performer, camera=ones, setup=ones)


def _person(label: int, length: int, numbers: torch.Tensor, body: int) -> torch.Tensor:
    """(length, 25, 3) int16 millimetres of one person's motion."""
    size, phase, x, z, heading, pace = (float(number) for number in numbers[1:7])
    time = torch.arange(length) / 30
    swing = (0.9 + 0.3 * size) * torch.sin(2 * torch.pi * ((0.6 + 0.15 * label + 0.1 * pace) * time + phase))
    offsets = torch.tensor(STANDING) * (0.9 + 0.2 * size)
    joint = torch.zeros(length, 25, 3)
    for child in FROM_ROOT:
        offset = offsets[child].expand(length, 3)
        if child == _MOVING[label % len(_MOVING)]:
            cos, sin = swing.cos(), swing.sin()
            y, depth = offset[:, 1], offset[:, 2]
            offset = torch.stack([offset[:, 0], cos * y - sin * depth, sin * y + cos * depth], dim=1)
        joint[:, child] = joint[:, PARENTS[child]] + offset
    turn = torch.tensor(0.6 * (heading - 0.5) + torch.pi * body)
    cos, sin = turn.cos(), turn.sin()
    joint = torch.stack(
        [cos * joint[..., 0] + sin * joint[..., 2], joint[..., 1], cos * joint[..., 2] - sin * joint[..., 0]], dim=2
    )
    place = torch.tensor([x - 0.5 + body, 0.0, 2.5 + z])
    return ((joint + place) * 1000).round().to(torch.int16)
