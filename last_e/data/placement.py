"""Where each clip of a data set stands, which way it looks and how large it is."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from last_e.data.clips import Clips


@dataclass(frozen=True)
class Placement:
    """Per clip: what centres, turns and scales it. All bodies of a clip share it."""

    origin: Tensor
    """(N, 3) metres: the centre joint (NTU: the spine base) of the main body's first frame."""
    turn: Tensor
    """(N, 3, 3): rotation about y that lays that frame's line from left to right shoulder along x, over the torso length; no
    rotation where nothing has sides, or a set has two dimensions."""
    torso: Tensor
    """(N,) metres: mean length of the main body's torso (NTU: from spine base to neck)."""

    def to(self, device: torch.device) -> Placement:
        """The same on ``device``."""
        return Placement(*(getattr(self, one.name).to(device) for one in fields(self)))


def place(clips: Clips) -> Placement:
    """Measure every clip's placement (``Preparation of a clip`` in docs/data.md), of clips in the host's memory.

    It is computed on the CPU whatever the device, so that it is the same on all of them.
    """
    first = clips.joints[clips.start].double() / 1000
    skeleton = clips.skeleton
    angle = torch.zeros(len(clips), dtype=torch.float64)
    if skeleton.pairs and not clips.is_flat:
        left, right = skeleton.pairs[0]
        across = first[:, right] - first[:, left]
        angle = torch.atan2(across[:, 2], across[:, 0])
    cos, sin, zero, one = angle.cos(), angle.sin(), torch.zeros_like(angle), torch.ones_like(angle)
    turn = torch.stack([cos, zero, sin, zero, one, zero, -sin, zero, cos], dim=1).view(-1, 3, 3)

    owner = torch.repeat_interleave(torch.arange(len(clips)), clips.length * clips.bodies)
    row = torch.arange(len(owner)) - clips.start[owner]
    main = row < clips.length[owner]
    low, high = skeleton.measure
    spine = (clips.joints[:, high].double() - clips.joints[:, low].double()).norm(dim=1) / 1000
    total = torch.zeros(len(clips), dtype=torch.float64).index_add_(0, owner[main], spine[main])
    torso = (total / clips.length).clamp(min=0.05)  # a body without extent must not become infinite
    turn = turn / torso[:, None, None]
    return Placement(*(tensor.float() for tensor in (first[:, skeleton.centre], turn, torso)))
