"""One optimizer step: what changes a :class:`last_e.state.State`, in two stretches, so that it can be recorded and several
ranks can add up what they have between them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from last_e.config import TrainConfig, TrainingConfig, effective_batch
from last_e.data.batches import Batch, average_bodies
from last_e.model import fused_cuda
from last_e.model import loss as loss_kernel
from last_e.model.agreed import REMEDY, KernelFailed
from last_e.model.blocks import full
from last_e.model.launches import ops
from last_e.precision import Precision
from last_e.ranks.fold import Fold, shares
from last_e.ranks.group import ALONE, Group
from last_e.state import State


@dataclass
class Begun:
    """A step of which this rank has done its parts.

    A recorded step leaves them in the same memory each time it is played, and its end reads them there.
    """

    rows: Tensor
    before: list[Tensor]
    sums: _Sums | None

    def add_up(self, group: Group) -> None:
        """With what the other ranks have."""
        if self.sums is not None:
            self.sums.add_up(group)
            group.fill(self.rows)


def train_step(
    state: State,
    batches: Sequence[Batch],
    lr: float | None,
    config: TrainConfig,
    precision: Precision,
    group: Group = ALONE,
    parts: int | None = None,
) -> None:
    """One optimizer step over the micro-batches of an effective batch; what came out is in ``state.counters``.

    ``batches`` are this rank's share of the ``parts`` that the step has, all of them without a ``group``. Each part gives a
    gradient and moves the running statistics; both are added up in an order that follows from ``parts`` alone, so that the
    result does not depend on the ranks. The rate is ``lr``, or where that is None what :meth:`State.set_rate` was told.

    A step whose loss or gradient is not finite changes nothing: neither weights nor momentum nor running statistics. That is
    decided on the device, which the host never waits for.
    """
    if lr is not None:
        state.set_rate(lr)
    parts = len(batches) if parts is None else parts
    whole_step(state, partial(begin_step, state, batches, config, precision, parts, group), config, group)


def whole_step(state: State, begin: Callable[[], Begun], config: TrainConfig, group: Group = ALONE) -> None:
    """A step that is not recorded, from its first stretch to its last. Where a kernel fails in it, torch goes on from what was
    there before: the first stretch is begun anew."""
    begun = None
    try:
        begun = begin()
    except KernelFailed as error:
        REMEDY(error)
    if begun is None:  # only here: while the error is handled, it holds all that the failed stretch has made
        begun = begin()
    begun.add_up(group)
    end_step(state, begun, config)


def begin_step(
    state: State, batches: Sequence[Batch], config: TrainConfig, precision: Precision, parts: int, group: Group = ALONE
) -> Begun:
    """The first stretch of :func:`train_step`: gradients of this rank's share of the ``parts``. Others are not asked.

    Raises:
        KernelFailed: nothing is changed then.
    """
    device = state.device
    if not state.model.training:
        state.model.train()
    before = [statistics.clone() for statistics in state.statistics]
    rows = torch.zeros(parts, 3, dtype=torch.float64, device=device)  # of each part: cross-entropy, IB loss, hits
    sums = _Sums(state, parts, before) if parts > 1 else None
    try:
        for part, batch in zip(shares(parts, group.size)[group.rank], batches):
            batch = batch.to(device, pin=config.hardware.pin_memory and device.type == "cuda")
            _part(state, batch, config.training, precision, rows[part])
            if sums is not None:
                sums.take(part)
    except KernelFailed:
        for statistics, old in zip(state.statistics, before):
            statistics.copy_(old)
        for parameter in state.parameters:
            parameter.grad = None
        raise
    return Begun(rows, before, sums)


def _part(state: State, batch: Batch, training: TrainingConfig, precision: Precision, row: Tensor) -> None:
    """The gradient of a part of a step; what is counted of it goes to ``row`` (3,)."""
    device = state.device
    with torch.autocast(device.type, precision.dtype, enabled=precision.dtype is not None):
        output = state.model(batch.streams, batch.noise, batch.row_weight)
    logits, ib_loss = output if isinstance(output, tuple) else (output, torch.zeros((), device=device))
    logits = average_bodies(full(logits), batch)
    if batch.mixed is None and loss_kernel.fits(logits):
        _by_kernels(state, logits, ib_loss, batch, training, row).backward()  # type: ignore[no-untyped-call]
        return
    ce = loss_of(logits, batch, training.label_smoothing, state.class_weights)
    hits = (logits.argmax(1) == batch.label).sum()
    ib = ib_loss * len(batch.label)
    loss: Tensor = (ce + training.ib_loss_weight * ib) / effective_batch(training)
    state.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
    row.copy_(torch.stack([ce.detach().double(), ib.detach().double(), hits.double()]))


def end_step(state: State, begun: Begun, config: TrainConfig) -> None:
    """The last stretch of :func:`train_step`: weights, and what else a step changes. The same on each rank."""
    if begun.sums is not None:
        begun.sums.give_back()
    good = _step(state, begun.rows, config.training)
    for statistics, old, still in zip(state.statistics, begun.before, state.still):
        _settle(statistics, old, good, still)
    if state.average is not None:
        state.average.add(good)
    state.optimizer.zero_grad(set_to_none=True)


def _by_kernels(state: State, logits: Tensor, ib_loss: Tensor, batch: Batch, training: TrainingConfig, row: Tensor) -> Tensor:
    """What a part of a step is to make small, scaled; what is counted of it goes to ``row`` (3,)."""
    ce, hits = loss_kernel.CrossEntropy.apply(logits, batch.label, training.label_smoothing, state.class_weights)  # type: ignore[no-untyped-call]
    clips, size = len(batch.label), effective_batch(training)
    scaled: Tensor = loss_kernel.StepLoss.apply(  # type: ignore[no-untyped-call]
        ce, ib_loss, hits, state.scale(), training.ib_loss_weight, clips, size, row
    )
    return scaled


def _step(state: State, rows: Tensor, training: TrainingConfig) -> Tensor:
    """Move the weights by the gradients that are there, scaled back and clipped, unless something is not finite; whether all
    is."""
    optimizer, scaler = state.optimizer, state.scaler
    if (decided := _decided(state, rows, training)) is not None:
        good, bad, divisor = decided
    else:
        divisor = None
        scaler.unscale_(optimizer)
        norm = torch.nn.utils.clip_grad_norm_(state.parameters, training.gradient_clip or math.inf)
        good, bad = state.counters.judge(rows, norm, training.ib_loss_weight, effective_batch(training))
    # The fused optimizers look at these on the device, as they do for a GradScaler: they divide by the one, and leave
    # everything as it was by the other.
    optimizer.grad_scale = divisor  # type: ignore[attr-defined]
    optimizer.found_inf = bad  # type: ignore[attr-defined]
    optimizer.step()
    if scaler.is_enabled() and divisor is None:
        scaler.update()
    return good


def _decided(state: State, rows: Tensor, training: TrainingConfig) -> tuple[Tensor, Tensor, Tensor] | None:
    """What a kernel decides of a step (:meth:`last_e.state.Counters.decide`); None: torch is to."""
    if not fused_cuda.used_on(state.device):
        return None
    norm = torch.nn.utils.get_total_norm([one.grad for one in state.parameters if one.grad is not None])
    try:
        return state.counters.decide(rows, norm, training, state.scale(), state.scaler)
    except KernelFailed as error:
        REMEDY(error)
        return None


def _settle(statistics: Tensor, old: Tensor, good: Tensor, still: Tensor | None) -> None:
    """What a step that was not ``good`` has moved is put back, and what is kept still: it is not moved by a sum's rounding
    either."""
    if fused_cuda.used_on(statistics.device):
        try:
            ops().settle(statistics, old, good, still)
            return
        except KernelFailed as error:
            REMEDY(error)
    statistics.copy_(torch.where(good if still is None else good & ~still, statistics, old))


def loss_of(logits: Tensor, batch: Batch, smoothing: float, weights: Tensor | None) -> Tensor:
    """The sum of :func:`cross_entropy` over the clips of a batch; of those that are mixed, of both classes by their shares."""
    if batch.mixed is None:
        return cross_entropy(logits, batch.label, smoothing, weights)
    parts = ((batch.label, batch.mixed.share), (batch.mixed.label, 1 - batch.mixed.share))
    both = [share * _cross_entropies(logits, label, smoothing, weights) for label, share in parts]
    return (both[0] + both[1]).sum()


def cross_entropy(logits: Tensor, label: Tensor, smoothing: float, weights: Tensor | None) -> Tensor:
    """The sum over n clips of w[y] H(q, p): y their classes (n,), p the softmax of ``logits`` (n, C), q = 1 - smoothing on y
    plus smoothing / C on every class (Szegedy et al., Rethinking the Inception Architecture, CVPR 2016, section 7).

    The weight is that of the clip's class, for all of its loss (Cui et al., Class-Balanced Loss, CVPR 2019, section 4): so that
    it stands for that many clips, also of what smoothing adds. It is not divided by the sum of the weights of a batch, which
    would depend on how a step is cut.
    """
    if weights is None:
        return F.cross_entropy(logits, label, reduction="sum", label_smoothing=smoothing)
    return _cross_entropies(logits, label, smoothing, weights).sum()


def _cross_entropies(logits: Tensor, label: Tensor, smoothing: float, weights: Tensor | None) -> Tensor:
    each = F.cross_entropy(logits, label, reduction="none", label_smoothing=smoothing)
    return each if weights is None else each * weights[label]


class _Sums:
    """Gradients and moves of the running statistics, of several parts of a step.

    A part moves a statistic s with momentum m by m b to (1 - m) s + m b, b the batch's own. After all of them that is
    (1 - m)^parts s plus the sum of (1 - m)^(parts - 1 - part) m b: a sum like that of the gradients, in which the order of the
    parts stands in the factors. So each part moves the statistics as they were ``before`` the step.
    """

    def __init__(self, state: State, parts: int, before: list[Tensor]) -> None:
        self._state, self._parts, self._before = state, parts, before
        self._rest = [old for old in before if old.is_floating_point()]
        self._fold: Fold[Tensor] = Fold(parts, Tensor.add_)
        self._total: Tensor | None = None
        self._trained: list[torch.nn.Parameter] = []
        self._taken = 0

    def take(self, part: int) -> None:
        """What a backward pass has left."""
        state = self._state
        self._trained = self._trained or [parameter for parameter in state.parameters if parameter.grad is not None]
        kept = 1 - state.momentum
        flat = [parameter.grad.reshape(-1) for parameter in self._trained if parameter.grad is not None]
        for statistics, old in zip(state.moving, self._rest):
            flat.append(torch.sub(statistics, old, alpha=kept).mul_(kept ** (self._parts - 1 - part)))
            statistics.copy_(old)
        self._fold.add((0, part), torch.cat(flat))
        self._taken += 1
        for parameter in self._trained:
            parameter.grad = None

    def make_room(self) -> None:
        """For the sum of all, so that it is in the same place each time."""
        self._total = torch.empty_like(next(iter(self._fold.nodes.values())))

    def add_up(self, group: Group) -> None:
        """The sum of all, of this rank and of the others."""
        if group.size == 1:
            self._total = self._fold.total
            return
        own: Fold[Tensor] = Fold(self._parts, Tensor.add_)
        own.nodes = dict(self._fold.nodes)  # played again, a recorded step has its parts in these places anew
        total = group.complete(own, self._parts)
        self._total = total if self._total is None else self._total.copy_(total)

    def give_back(self) -> None:
        """The sum of all, to the gradients and the statistics."""
        state, total = self._state, self._total
        assert total is not None
        sizes = [parameter.numel() for parameter in self._trained] + [statistics.numel() for statistics in state.moving]
        pieces = torch.split(total, sizes)
        for parameter, piece in zip(self._trained, pieces):
            parameter.grad = piece.view_as(parameter)
        moved = iter(pieces[len(self._trained) :])
        for statistics, old in zip(state.statistics, self._before):
            if statistics.is_floating_point():
                torch.add(next(moved), old, alpha=(1 - state.momentum) ** self._parts, out=statistics)
            else:  # how many batches each norm has seen: as many here as anywhere
                statistics.copy_(old + (statistics - old) // self._taken * self._parts)
