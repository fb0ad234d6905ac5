"""Data loading as such trainers usually have it: worker processes, a mapped file, numpy, one clip at a time.

It shows the same clips with augmentation of the same kind as :mod:`last_e.data.batches`; only the random numbers differ.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from last_e.data.clips import Clips
from last_e.data.transform import JITTER_METRES, MAX_ANGLE, MAX_SCALING, MAX_SHEAR
from last_e.joints import PARENTS

Item = tuple[Any, Any, Any, int]


class PlainClips(Dataset[Item]):
    """Clips from a mapped file of joints; each is prepared when it is asked for.

    Args:
        clips: where clips begin, how long they are, how many bodies.
        file: their joints as ``.npy``.
        frames: each is resampled to so many.
    """

    def __init__(self, clips: Clips, file: Path, frames: int) -> None:
        self.start, self.length, self.bodies, self.label = (
            tensor.numpy() for tensor in (clips.start, clips.length, clips.bodies, clips.label)
        )
        self.file, self.frames = file, frames
        self.joints: Any = None

    def __len__(self) -> int:
        return len(self.label)

    def __getitem__(self, index: int) -> Item:
        if self.joints is None:  # in each worker on its own
            self.joints = np.load(self.file, mmap_mode="r")
        begin, length, bodies = int(self.start[index]), int(self.length[index]), int(self.bodies[index])
        x = np.asarray(self.joints[begin : begin + length * bodies], dtype=np.float32).reshape(bodies, length, 25, 3) / 1000
        x = self._turned(x)
        x = self._resampled(x)
        x = x @ self._warp().T + np.random.normal(0, JITTER_METRES, x.shape).astype(np.float32)
        joint = np.ascontiguousarray(x.transpose(0, 3, 1, 2), dtype=np.float32)
        velocity = np.zeros_like(joint)
        velocity[:, :, :-1] = joint[:, :, 1:] - joint[:, :, :-1]
        bone = joint - joint[..., list(PARENTS)]
        return joint, velocity, bone, int(self.label[index])

    @staticmethod
    def _turned(x: Any) -> Any:
        """Centred on the first frame's spine base, shoulders along x, over the torso's length."""
        x = x - x[0, 0, 0]
        across = x[0, 0, 8] - x[0, 0, 4]
        angle = np.arctan2(across[2], across[0])
        cos, sin = np.cos(angle), np.sin(angle)
        turn = np.array([[cos, 0, sin], [0, 1, 0], [-sin, 0, cos]], dtype=np.float32)
        torso = max(0.05, float(np.linalg.norm(x[0, :, 2] - x[0, :, 0], axis=1).mean()))
        return x @ turn.T / torso

    def _resampled(self, x: Any) -> Any:
        """A random part of at least half, linearly to the number of frames."""
        length = x.shape[1]
        span = np.random.uniform(0.5, 1.0)
        at = (length - 1) * (np.random.uniform(0, 1 - span) + span * np.linspace(0, 1, self.frames))
        low = np.floor(at).astype(np.int64)
        high = np.minimum(low + 1, length - 1)
        share = (at - low).astype(np.float32)[None, :, None, None]
        return x[:, low] * (1 - share) + x[:, high] * share

    @staticmethod
    def _warp() -> Any:
        """A random rotation, tilt, shear and scale."""
        yaw, tilt = np.random.uniform(-MAX_ANGLE, MAX_ANGLE, 2)
        about_y = np.array([[np.cos(yaw), 0, np.sin(yaw)], [0, 1, 0], [-np.sin(yaw), 0, np.cos(yaw)]])
        about_x = np.array([[1, 0, 0], [0, np.cos(tilt), -np.sin(tilt)], [0, np.sin(tilt), np.cos(tilt)]])
        shear = np.eye(3) + np.random.uniform(-MAX_SHEAR, MAX_SHEAR, (3, 3)) * (1 - np.eye(3))
        scale = 1 + np.random.uniform(-MAX_SCALING, MAX_SCALING)
        return (shear @ about_x @ about_y * scale).astype(np.float32)


def collate(items: list[Item]) -> tuple[dict[str, Tensor], Tensor, Tensor]:
    """Streams of all bodies as rows, the clip of each row, labels."""
    streams = {
        name: torch.from_numpy(np.concatenate([item[at] for item in items]))
        for at, name in enumerate(("joint", "velocity", "bone"))
    }
    bodies = torch.tensor([len(item[0]) for item in items])
    return streams, torch.repeat_interleave(torch.arange(len(items)), bodies), torch.tensor([item[3] for item in items])


def forever(loader: DataLoader[Item]) -> Iterator[tuple[dict[str, Tensor], Tensor, Tensor]]:
    """Batches, epoch after epoch."""
    while True:
        yield from loader
