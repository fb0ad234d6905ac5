"""Batches of an epoch, each a pure function of (seed, epoch, step): made anywhere, in any order, always the same.

They are made where the clips are: in the memory of the GPU that trains, or in that of the host, by threads ahead of it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from copy import copy
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

from last_e import rng
from last_e.config import TrainingConfig, cuts, effective_batch
from last_e.data import augment, launches, transform
from last_e.data.augment import Mirror
from last_e.data.balance import balanced_order
from last_e.data.clips import Clips
from last_e.data.launches import KernelRows
from last_e.data.shown import Spoil, TorchRows, still, weight
from last_e.model.agreed import REMEDY, KernelFailed
from last_e.model.network import Noise
from last_e.problems import ConfigError, Problem
from last_e.ranks.fold import shares
from last_e.rng import KeyOf

AHEAD_PER_WORKER = 2
S = TypeVar("S")
T = TypeVar("T")


class Mixed(NamedTuple):
    """The other clip of each of n clips that are mixed."""

    label: Tensor
    """(n,) int64: its class."""
    share: Tensor
    """(n,) of the first one, 0.5 to 1."""


@dataclass
class Batch:
    """n clips as r rows, one row a body."""

    streams: dict[str, Tensor]
    """joint, velocity, bone, each (r, 3, T, V) float32."""
    owner: Tensor
    """(r,) int64: which clip of the batch a row belongs to."""
    label: Tensor
    """(n,) int64."""
    row_weight: Tensor | None = None
    """(r,) one over the number of bodies of the row's clip; None where every clip has one."""
    noise: Noise | None = None
    """(r, ...) numbers for dropout and drop path; None when testing."""
    mixed: Mixed | None = None
    """What else is in the clips; None where they are not mixed."""

    def to(self, device: torch.device, pin: bool = False) -> Batch:
        """Itself where it is on ``device``, else a copy there; through page-locked memory, and not waited for, when ``pin``."""

        def move(tensor: Tensor) -> Tensor:
            return (tensor.pin_memory() if pin else tensor).to(device, non_blocking=pin)

        return self if self.label.device.type == device.type else self.of(move)

    def of(self, made: Callable[[Tensor], Tensor]) -> Batch:
        """The same with what is ``made`` of each tensor."""
        streams = {name: made(stream) for name, stream in self.streams.items()}
        weight = None if self.row_weight is None else made(self.row_weight)
        noise = None if self.noise is None else Noise(*map(made, self.noise))
        mixed = None if self.mixed is None else Mixed(*map(made, self.mixed))
        return Batch(streams, made(self.owner), made(self.label), weight, noise, mixed)


def average_bodies(rows: Tensor, batch: Batch) -> Tensor:
    """Mean over the bodies of each clip: (r, classes) -> (n, classes), of at least float32."""
    weight = batch.row_weight
    if weight is None:
        return rows
    weighted = rows * weight[:, None].to(rows.dtype)
    if rows.device.type == "cpu":
        return rows.new_zeros(len(batch.label), rows.shape[1]).index_add_(0, batch.owner, weighted)
    # A GPU would add them in another order each time; a matrix product has one.
    clips = torch.arange(len(batch.label), device=rows.device)
    return (batch.owner == clips[:, None]).to(rows.dtype) @ weighted


class Order:
    """Clips in the order in which they are shown, each with its rows.

    The host knows how many rows a piece has, so it never has to ask the device.
    """

    def __init__(self, clips: Clips, index: Tensor) -> None:
        bodies = clips.bodies_on_host[index]
        owner, body = rows_of(bodies)
        self._begin = [0, *bodies.cumsum(0).tolist()]
        device = clips.joints.device
        self._index, self._owner, self._body = (tensor.to(device, non_blocking=True) for tensor in (index, owner, body))

    def piece(self, begin: int, end: int) -> Piece:
        """The clips from ``begin`` up to ``end``."""
        first, last = self._begin[begin], self._begin[end]
        index = self._index[begin:end]
        position = torch.arange(begin, end, device=index.device)
        return Piece(position, index, self._owner[first:last] - begin, self._body[first:last])

    def at(self, position: Tensor) -> Tensor:
        """Which clips of the data set stand at ``position`` (n,)."""
        return self._index[position]


class Piece(NamedTuple):
    """n clips of an :class:`Order` and their r rows."""

    position: Tensor
    """(n,) int64: where in the order they stand."""
    clip: Tensor
    """(n,) int64: which of the data set they are."""
    owner: Tensor
    """(r,) int64: which of the n clips a row belongs to."""
    body: Tensor
    """(r,) int64: which of its bodies."""
    other_position: Tensor | None = None
    """(n,) int64: where in the order the clips stand that these are mixed with; None: they are not mixed."""
    other_clip: Tensor | None = None
    """(n,) int64: which of the data set those are."""

    def of(self, made: Callable[[Tensor], Tensor]) -> Piece:
        """The same with what is ``made`` of each tensor."""
        return Piece(*(one if one is None else made(one) for one in self))  # type: ignore[arg-type]


class TrainBatches:
    """The training clips in their order, or with ``training.sampler`` so that each class comes as often. A step's effective
    batch is cut into micro-batches; the last, incomplete batch of an epoch is left out, so that every step weighs the same (the
    order changes every epoch, so no clip is lost).

    Args:
        clips: the data set, on the host or on the device that trains.
        index: (M,) which clips train, on the host.
        config: the recipe.
        micro_batch: most clips in one forward pass.
        noise_shape: columns of dropout and drop-path noise (:attr:`LastE.noise_shape`).
        workers: threads that prepare steps ahead; 0 prepares each when it is asked for.
        rank, ranks: which share of each step's micro-batches is made (:attr:`share`, of :attr:`parts`; :attr:`own` clips).
        mirror: what changes places in a mirror, for a recipe that has clips mirrored.

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
        rank: int = 0,
        ranks: int = 1,
        mirror: Mirror | None = None,
    ) -> None:
        self.clips, self.index, self.config, self.mirror = clips, index, config, mirror
        self.noise_shape, self.workers = noise_shape, workers
        self.cuts = cuts(config.batch_size, micro_batch)
        self.parts = config.gradient_accumulation_steps * self.cuts
        self.share = shares(self.parts, ranks)[rank]
        self.batch = effective_batch(config)
        self.own = sum(self._size(part) for part in self.share)
        self.steps = len(index) // self.batch
        self.placement = clips.placement
        if self.steps == 0:
            allowed = f"at most {len(index)} clips, all there are to train with, times training.gradient_accumulation_steps"
            raise ConfigError([Problem("configuration", "training.batch_size", f"{self.batch} clips a step", allowed)])

    def epoch(self, epoch: int, first_step: int = 0) -> Iterator[list[Batch]]:
        """The steps of an epoch from ``first_step`` on, each as the micro-batches of this share."""
        key = self._keys(epoch)

        def made(pieces: list[Piece]) -> list[Batch]:
            try:
                return [self.make(piece, key) for piece in pieces]
            except KernelFailed as error:
                REMEDY(error)
            return [self.make(piece, key) for piece in pieces]

        return prefetch(made, self.drafts(epoch, first_step), self.workers)

    @property
    def mixes(self) -> bool:
        """Whether clips are mixed with others of their step."""
        return self.config.augment and self.config.augmentations.mixup is not None

    def drafts(self, epoch: int, first_step: int = 0) -> Iterator[list[Piece]]:
        """The same as :meth:`epoch`, of which :meth:`make` is still to make the batches."""
        order = self._order(epoch)
        for step in range(first_step, self.steps):
            yield [self._piece(order, epoch, step, *part) for part in self._ends(step)]

    def _keys(self, epoch: int) -> KeyOf:
        """Where a GPU's kernels make the batches, they read the keys there."""
        if not launches.used_for(self.clips, self.config):
            return partial(rng.key_of, self.config.seed, epoch)
        keys = rng.Keys(self.clips.joints.device)
        keys.set(self.config.seed, epoch)
        return keys

    def _order(self, epoch: int) -> Order:
        if self.config.sampler == "balanced":
            permutation = balanced_order(self.config.seed, epoch, self.clips.label.cpu()[self.index])
        else:
            permutation = rng.permutation(rng.key(self.config.seed, rng.ORDER, epoch), len(self.index))
        return Order(self.clips, self.index[permutation])

    def _ends(self, step: int) -> Iterator[tuple[int, int]]:
        """Where in the epoch's order this share's micro-batches begin and end."""
        # Micro-batches never straddle two of the recipe's batches, so accumulation cuts at the same places everywhere.
        size, larger = divmod(self.config.batch_size, self.cuts)
        for part in self.share:
            batch, cut = divmod(part, self.cuts)
            begin = step * self.batch + batch * self.config.batch_size + cut * size + min(cut, larger)
            yield begin, begin + self._size(part)

    def _size(self, part: int) -> int:
        size, larger = divmod(self.config.batch_size, self.cuts)
        return size + (part % self.cuts < larger)

    def _piece(self, order: Order, epoch: int, step: int, begin: int, end: int) -> Piece:
        """Clips of a step, each with the one that it is mixed with, where they are: that stands some places further in the
        step, as far for all of them; behind the step's end its beginning follows."""
        piece = order.piece(begin, end)
        if not self.mixes:
            return piece
        first = step * self.batch
        away = 1 + rng.host_bits(rng.key(self.config.seed, rng.PARTNER, epoch), step) % (self.batch - 1)
        other = first + (piece.position + (away - first)) % self.batch
        return piece._replace(other_position=other, other_clip=order.at(other))

    def make(self, piece: Piece, key: KeyOf) -> Batch:
        """A micro-batch. All random numbers hang on the clips' positions in the epoch."""
        position, clip, owner, body, other_position, other_clip = piece
        rows = self._rows(key, position, clip, owner, body)
        label, weight, noise = rows.others(self.noise_shape)
        if other_position is None or other_clip is None:
            return Batch(rows.streams(), owner, label, weight, noise)
        # Of one that has fewer bodies than the other some count twice; if it is the other that has more, some do not count.
        bodies = body % self.clips.bodies[other_clip][owner]
        others = self._rows(key, other_position, other_clip, owner, bodies)
        share = augment.larger_share(key(rng.MIXUP), position, self.config.augmentations.mixup or 0.0)
        joints = torch.lerp(others.joints(), rows.joints(), share[owner][:, None, None, None])
        mixed = Mixed(others.labels(), share)
        return Batch(transform.to_streams(joints, self.clips.skeleton), owner, label, weight, noise, mixed)

    def _rows(self, key: KeyOf, *rows: Tensor) -> TorchRows | KernelRows:
        """By the kernels where these find the keys they need."""
        given = self.clips, self.placement, self.mirror, self.config
        if isinstance(key, rng.Keys) and launches.used_for(self.clips, self.config):
            return KernelRows(*given, key, *rows)
        return TorchRows(*given, key, *rows)


class TestBatches:
    """The test clips, the middle of each (or what ``begin``s elsewhere, a fraction of it), in the order of the file; as they
    would be in a ``mirror``, under their own labels; or with a ``spoil``. Of n ranks each makes every n-th batch."""

    __test__ = False  # not a test class, whatever pytest thinks of its name

    def __init__(
        self,
        clips: Clips,
        index: Tensor,
        frames: int,
        batch_size: int,
        workers: int = 0,
        rank: int = 0,
        ranks: int = 1,
        begin: float | None = None,
        mirror: Mirror | None = None,
        spoil: Spoil | None = None,
    ) -> None:
        self.clips, self.index, self.frames, self.begin = clips, index, frames, begin
        self.mirror, self.spoil = mirror, spoil
        self.rank, self.ranks = rank, ranks
        self.batch_size, self.workers = batch_size, workers
        self.placement = clips.placement
        self._order = Order(clips, index)

    def of(self, index: Tensor) -> TestBatches:
        """The same of other clips."""
        other = copy(self)
        other.index, other._order = index, Order(self.clips, index)
        return other

    def __len__(self) -> int:
        return -(-len(self.index) // self.batch_size)

    @property
    def share(self) -> range:
        """The numbers of the batches that are made here, of ``len(self)``."""
        return range(self.rank, len(self), self.ranks)

    def __iter__(self) -> Iterator[Batch]:
        return prefetch(self._batch, self.share, self.workers)

    def _batch(self, number: int) -> Batch:
        begin = number * self.batch_size
        piece = self._order.piece(begin, min(begin + self.batch_size, len(self.index)))
        index, owner, body = piece.clip, piece.owner, piece.body
        joints = still(self.clips, self.placement, index, owner, body, self.frames, self.begin, self.spoil)
        if self.mirror is not None:
            joints = augment.swapped(joints, self.mirror)
            joints[..., 0].neg_()
        streams = transform.to_streams(joints, self.clips.skeleton)
        return Batch(streams, owner, self.clips.label[index], weight(self.clips, index, owner))


def rows_of(bodies: Tensor) -> tuple[Tensor, Tensor]:
    """Rows of a batch whose clips have these many ``bodies`` (n,): clip and body of each row, both (r,)."""
    owner = torch.repeat_interleave(torch.arange(len(bodies)), bodies)
    return owner, torch.arange(len(owner)) - (bodies.cumsum(0) - bodies)[owner]


def prefetch(make: Callable[[S], T], numbers: Iterable[S], workers: int) -> Iterator[T]:
    """``make`` of each of them in order, prepared ahead by ``workers`` threads (torch releases the interpreter's lock)."""
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
