"""Batches of an epoch, each a pure function of (seed, epoch, step): made anywhere, in any order, always the same.

They are made where the clips are: in the memory of the GPU that trains, or in that of the host, by threads ahead of it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from copy import copy
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

from last_e import rng
from last_e.config import TrainingConfig, cuts, effective_batch
from last_e.data import augment, transform
from last_e.data.augment import Mirror
from last_e.data.balance import balanced_order
from last_e.data.clips import Clips
from last_e.data.shown import Spoil, augmented, still
from last_e.model.network import Noise
from last_e.problems import ConfigError, Problem
from last_e.ranks.fold import shares
from last_e.rng import KeyOf

AHEAD_PER_WORKER = 2
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

        if self.label.device.type == device.type:
            return self
        streams = {name: move(stream) for name, stream in self.streams.items()}
        weight = None if self.row_weight is None else move(self.row_weight)
        noise = None if self.noise is None else Noise(*map(move, self.noise))
        mixed = None if self.mixed is None else Mixed(*map(move, self.mixed))
        return Batch(streams, move(self.owner), move(self.label), weight, noise, mixed)


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

    def row_weight(self, clips: Clips) -> Tensor | None:
        """(r,) one over the number of bodies of the row's clip; None where every clip has one."""
        single = len(self.owner) == len(self.clip)
        return None if single else clips.bodies[self.clip].float().reciprocal()[self.owner]


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
        order, key = self._order(epoch), partial(rng.key_of, self.config.seed, epoch)

        def made(step: int) -> list[Batch]:
            if self.mixes:
                return [self._with_others(epoch, order, step, *part) for part in self._ends(step)]
            return [self.make(order.piece(*part), key) for part in self._ends(step)]

        return prefetch(made, range(first_step, self.steps), self.workers)

    @property
    def mixes(self) -> bool:
        """Whether clips are mixed with others of their step."""
        return self.config.augment and self.config.augmentations.mixup is not None

    def drafts(self, epoch: int, first_step: int = 0) -> Iterator[list[Piece]]:
        """The same as :meth:`epoch`, of which :meth:`make` is still to make the batches; not where clips are mixed."""
        order = self._order(epoch)
        for step in range(first_step, self.steps):
            yield [order.piece(*part) for part in self._ends(step)]

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

    def make(self, piece: Piece, key: KeyOf) -> Batch:
        """A micro-batch. All random numbers hang on the clips' positions in the epoch."""
        if self.config.augment:
            return self._batch(piece, key, *self._shown(key, piece))
        _, clip, owner, body = piece
        joints = still(self.clips, self.placement, clip, owner, body, self.config.input_frames)
        return self._batch(piece, key, joints, self.clips.label[clip])

    def _batch(self, piece: Piece, key: KeyOf, joints: Tensor, label: Tensor, mixed: Mixed | None = None) -> Batch:
        width, blocks = self.noise_shape
        noise = Noise(
            rng.uniform(key(rng.DROPOUT), piece.position, width)[piece.owner],
            rng.uniform(key(rng.DROP_PATH), piece.position, blocks)[piece.owner],
        )
        streams, weight = transform.to_streams(joints, self.clips.skeleton), piece.row_weight(self.clips)
        return Batch(streams, piece.owner, label, weight, noise, mixed)

    def _shown(self, key: KeyOf, piece: Piece) -> tuple[Tensor, Tensor]:
        return augmented(self.clips, self.placement, self.mirror, self.config, key, *piece)

    def _with_others(self, epoch: int, order: Order, step: int, begin: int, end: int) -> Batch:
        """Clips, each mixed with the one that stands some places further in the step, as far for all of them; behind the step's
        end its beginning follows. Of one that has fewer bodies than the other some count twice; if it is the other that has
        more, some of those do not count."""
        concentration, piece = self.config.augmentations.mixup, order.piece(begin, end)
        key = partial(rng.key_of, self.config.seed, epoch)
        assert concentration is not None
        joints, label = self._shown(key, piece)
        n, first = len(label), step * self.batch
        away = 1 + rng.host_bits(rng.key(self.config.seed, rng.PARTNER, epoch), step) % (self.batch - 1)
        other = torch.arange(n, device=label.device)
        others, labels, clips, owner = joints, label, piece.clip, piece.owner
        if n == self.batch:  # they are all here
            other = (other + away) % n
        else:
            at = first + (begin - first + away) % self.batch
            end = min(at + n, first + self.batch)
            pieces = [order.piece(at, end), *([order.piece(first, first + n - (end - at))] if end - at < n else [])]
            made = [self._shown(key, one) for one in pieces]
            others, labels = torch.cat([one for one, _ in made]), torch.cat([one for _, one in made])
            clips = torch.cat([one.clip for one in pieces])
            owner = torch.cat([pieces[0].owner, *(one.owner + end - at for one in pieces[1:])])
        bodies, begins = self.clips.bodies[clips][other], torch.searchsorted(owner, other)
        row = begins[piece.owner] + piece.body % bodies[piece.owner]
        share = augment.larger_share(key(rng.MIXUP), piece.position, concentration)
        mixed = torch.lerp(others[row], joints, share[piece.owner][:, None, None, None])
        return self._batch(piece, key, mixed, label, Mixed(labels[other], share))


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
        _, index, owner, body = piece
        joints = still(self.clips, self.placement, index, owner, body, self.frames, self.begin, self.spoil)
        if self.mirror is not None:
            joints = augment.swapped(joints, self.mirror)
            joints[..., 0].neg_()
        streams, weight = transform.to_streams(joints, self.clips.skeleton), piece.row_weight(self.clips)
        return Batch(streams, owner, self.clips.label[index], weight)


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
