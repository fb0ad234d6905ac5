"""Clips as an exported network takes them: the keypoints, in the units that they were recorded in."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from last_e.data.clips import Clips
from last_e.described import UNITS, Description


class Given(NamedTuple):
    """What goes into an exported network."""

    keypoints: Tensor
    """(N, C, L, V, M) float32."""
    frames: Tensor
    """(N,) int64."""
    people: Tensor
    """(N,) int64."""


def given(clips: Clips, description: Description, index: Tensor) -> Given:
    """The clips ``index`` (n,), filled up with zeros to the longest and the most people."""
    lengths, bodies = clips.length[index], clips.bodies[index]
    sides = 2 if description.is_flat else 3
    joints = len(description.skeleton.joints)
    keypoints = torch.zeros(len(index), sides, int(lengths.max()), joints, int(bodies.max()))
    one = torch.tensor([1.0, -1.0] if description.is_flat else [1.0] * 3) * UNITS[description.units]
    for row, clip in enumerate(index.tolist()):
        length, people, begin = int(clips.length[clip]), int(clips.bodies[clip]), int(clips.start[clip])
        rows = clips.joints[begin : begin + length * people].view(people, length, joints, 3)[..., :sides]
        keypoints[row, :, :length, :, :people] = (rows.double() / one.double()).float().permute(3, 1, 2, 0)
    return Given(keypoints, lengths, bodies)


def pieces(index: Tensor, first: int, size: int) -> Iterator[Tensor]:
    """One clip alone ``first`` times, then ``size`` together: what a network that was exported for any number must bear."""
    for begin in range(0, min(first, len(index))):
        yield index[begin : begin + 1]
    if len(index) > first:
        yield from torch.split(index[first:], size)
