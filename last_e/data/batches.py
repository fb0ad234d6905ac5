"""Batches of an epoch, each a pure function of (seed, epoch, step): made anywhere, in any order, always the same."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from last_e import rng
from last_e.config import TrainingConfig, effective_batch
from last_e.data import transform
from last_e.data.clips import Clips
from last_e.model.network import Noise
from last_e.problems import ConfigError, Problem

AHEAD_PER_WORKER = 2
T = TypeVar("T")


@dataclass
class Batch:
    """n clips as r rows, one row a body."""

    streams: dict[str, Tensor]
    """joint, velocity, bone, each (r, 3, T, V) float32."""
    owner: Tensor
    """(r,) int64: which clip of the batch a row belongs to."""
    label: Tensor
    """(n,) int64."""
    noise: Noise | None = None
    """(r, ...) numbers for dropout and drop path; None when testing."""

    @property
    def row_weight(self) -> Tensor | None:
        """(r,) one over the number of bodies of the row's clip; None where every clip has one."""
        if len(self.owner) == len(self.label):
            return None
        return 1.0 / torch.bincount(self.owner, minlength=len(self.label))[self.owner]

    def to(self, device: torch.device, pin: bool = False) -> Batch:
        """A copy on ``device``; from page-locked memory, and not waited for, when ``pin``."""

        def move(tensor: Tensor) -> Tensor:
            return (tensor.pin_memory() if pin else tensor).to(device, non_blocking=pin)

        if device.type == "cpu":
            return self
        noise = None if self.noise is None else Noise(*map(move, self.noise))
        return Batch({k: move(v) for k, v in self.streams.items()}, move(self.owner), move(self.label), noise)


def average_bodies(rows: Tensor, batch: Batch) -> Tensor:
    """Mean over the bodies of each clip: (r, classes) -> (n, classes)."""
    weight = batch.row_weight
    if weight is None:
        return rows
    mean = torch.zeros(len(batch.label), rows.shape[1], device=rows.device)
    return mean.index_add_(0, batch.owner, rows.float() * weight[:, None])


class TrainBatches:
    """The training clips in their order. A step's effective batch is cut into micro-batches; the last, incomplete batch
    of an epoch is left out, so that every step weighs the same (the order changes every epoch, so no clip is lost).

    Args:
        clips: the data set.
        index: (M,) which clips train.
        config: the recipe.
        micro_batch: most clips in one forward pass.
        noise_shape: columns of dropout and drop-path noise (:attr:`LastE.noise_shape`).
        workers: threads that prepare steps ahead; 0 prepares each when it is asked for.

    Raises:
        ConfigError: fewer clips than one effective batch.
    """

    def __init__(
        self,
        clips: Clips,
        index: Tensor,
        config: TrainingConfig,
        micro_batch: int | None,
        noise_shape: tuple[int, int],
        workers: int = 0,
    ) -> None:
        self.clips, self.index, self.config = clips, index, config
        self.noise_shape, self.workers = noise_shape, workers
        # Even parts, none of a single clip: batch norm needs two.
        size = config.batch_size
        self.cuts = max(1, min(-(-size // (micro_batch or size)), size // 2))
        self.batch = effective_batch(config)
        self.steps = len(index) // self.batch
        self.placement = transform.place(clips)
        if self.steps == 0:
            allowed = f"at most {len(index)} clips, all there are to train with, times training.gradient_accumulation_steps"
            raise ConfigError([Problem("configuration", "training.batch_size", f"{self.batch} clips a step", allowed)])

    def epoch(self, epoch: int, first_step: int = 0) -> Iterator[list[Batch]]:
        """The steps of an epoch from ``first_step`` on, each as its micro-batches."""
        order = self.index[rng.permutation(rng.key(self.config.seed, rng.ORDER, epoch), len(self.index))]
        return prefetch(lambda step: self._step(epoch, order, step), range(first_step, self.steps), self.workers)

    def _step(self, epoch: int, order: Tensor, step: int) -> list[Batch]:
        first = step * self.batch
        batches = []
        # Micro-batches never straddle two of the recipe's batches, so accumulation cuts at the same places everywhere.
        for begin in range(first, first + self.batch, self.config.batch_size):
            for part in torch.arange(begin, begin + self.config.batch_size).tensor_split(self.cuts):
                batches.append(self._micro(epoch, part, order[part]))
        return batches

    def _micro(self, epoch: int, position: Tensor, index: Tensor) -> Batch:
        """Clips ``index`` (n,), which stand at ``position`` (n,) of the epoch: all random numbers hang on that."""
        seed = self.config.seed
        owner, body = rows_of(self.clips.bodies[index])
        if self.config.augment:
            crop = transform.train_crop(rng.key(seed, rng.CROP, epoch), position)
            joints = transform.sample(self.clips, index, owner, body, crop, self.config.input_frames)
            joints -= self.placement.origin[index][owner][:, None, None]
            joints += transform.jitter(rng.key(seed, rng.JITTER, epoch), position[owner], body, self.config.input_frames)
            matrix = transform.warp(rng.key(seed, rng.WARP, epoch), position) @ self.placement.turn[index]
            joints = apply(matrix[owner], joints)
        else:
            joints = still(self.clips, self.placement, index, owner, body, self.config.input_frames)
        width, blocks = self.noise_shape
        noise = Noise(
            rng.uniform(rng.key(seed, rng.DROPOUT, epoch), position, width)[owner],
            rng.uniform(rng.key(seed, rng.DROP_PATH, epoch), position, blocks)[owner],
        )
        return Batch(transform.to_streams(joints), owner, self.clips.label[index], noise)


class TestBatches:
    """The test clips, the middle of each, in the order of the file."""

    __test__ = False  # not a test class, whatever pytest thinks of its name

    def __init__(self, clips: Clips, index: Tensor, frames: int, batch_size: int, workers: int = 0) -> None:
        self.clips, self.index, self.frames = clips, index, frames
        self.batch_size, self.workers = batch_size, workers
        self.placement = transform.place(clips)

    def __len__(self) -> int:
        return -(-len(self.index) // self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        return prefetch(self._batch, range(len(self)), self.workers)

    def _batch(self, number: int) -> Batch:
        index = self.index[number * self.batch_size : (number + 1) * self.batch_size]
        owner, body = rows_of(self.clips.bodies[index])
        joints = still(self.clips, self.placement, index, owner, body, self.frames)
        return Batch(transform.to_streams(joints), owner, self.clips.label[index])


def still(clips: Clips, placement: transform.Placement, index: Tensor, owner: Tensor, body: Tensor, frames: int) -> Tensor:
    """Clips without augmentation, (r, T, V, 3): the middle of each, centred, turned and scaled."""
    joints = transform.sample(clips, index, owner, body, transform.test_crop(len(index)), frames)
    joints -= placement.origin[index][owner][:, None, None]
    return apply(placement.turn[index][owner], joints)


def apply(matrix: Tensor, joints: Tensor) -> Tensor:
    """A linear map (r, 3, 3) per row on its points (r, T, V, 3)."""
    rows, frames, num_joints, _ = joints.shape
    return (joints.view(rows, -1, 3) @ matrix.transpose(1, 2)).view(rows, frames, num_joints, 3)


def rows_of(bodies: Tensor) -> tuple[Tensor, Tensor]:
    """Rows of a batch whose clips have these many ``bodies`` (n,): clip and body of each row, both (r,)."""
    owner = torch.repeat_interleave(torch.arange(len(bodies)), bodies)
    return owner, torch.arange(len(owner)) - (bodies.cumsum(0) - bodies)[owner]


def prefetch(make: Callable[[int], T], numbers: range, workers: int) -> Iterator[T]:
    """``make`` of each number in order, prepared ahead by ``workers`` threads (torch releases the interpreter's lock)."""
    if workers == 0:
        yield from map(make, numbers)
        return
    pool = ThreadPoolExecutor(workers, thread_name_prefix="batches")
    waiting: deque[Future[T]] = deque()
    try:
        for number in numbers:
            waiting.append(pool.submit(make, number))
            if len(waiting) > workers * AHEAD_PER_WORKER:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
