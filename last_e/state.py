"""Everything that training changes, and the one function that changes it."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from last_e.average import Average
from last_e.config import TrainConfig, TrainingConfig, effective_batch
from last_e.data.batches import Batch, average_bodies
from last_e.evaluate import Scores
from last_e.manifest import MOST_STEPS, DamagedCheckpoint
from last_e.model import fused_cuda
from last_e.model import loss as loss_kernel
from last_e.model.blocks import full
from last_e.model.launches import ops
from last_e.model.network import LastE
from last_e.optim import add_momentum
from last_e.precision import Precision
from last_e.ranks.fold import Fold, shares
from last_e.ranks.group import ALONE, Group
from last_e.text import one_line

_ALIGNED = 64
"""Bytes."""


@dataclass
class Totals:
    """Sums over the good steps of an epoch so far, kept in checkpoints so that a cut epoch's means come out the same."""

    loss: float = 0.0
    ib_loss: float = 0.0
    hits: int = 0
    clips: int = 0
    skipped: int = 0


class Reading(NamedTuple):
    """What the device has counted, as numbers."""

    totals: Totals
    bad_in_a_row: int
    """Skipped steps since the last good one."""
    worst: int
    """Most of them in a row so far."""
    loss: float
    """The last step's."""


def _reading(numbers: list[float]) -> Reading:
    loss, ib_loss, hits, clips, skipped, in_a_row, worst, last = numbers
    return Reading(Totals(loss, ib_loss, int(hits), int(clips), int(skipped)), int(in_a_row), int(worst), last)


class Counters:
    """Sums that stay on the device, so that no step waits for it; :meth:`read` does."""

    def __init__(self, device: torch.device) -> None:
        self._sums = torch.zeros(4, dtype=torch.float64, device=device)  # loss, IB loss, hits, clips: of good steps
        self._steps = torch.zeros(3, dtype=torch.float64, device=device)  # skipped, bad in a row, most of them
        self._loss = torch.zeros((), dtype=torch.float64, device=device)
        self._marked: list[Tensor] = []

    def judge(self, rows: Tensor, norm: Tensor, ib_weight: float, size: int) -> tuple[Tensor, Tensor]:
        """Count a step over ``size`` clips, of whose parts the ``rows`` (parts, 3) are cross-entropy, IB loss and hits.

        Returns:
            Whether these and the gradient's ``norm`` are finite; 0 where they are and else 1.
        """
        ce_sum, ib_sum, hits = _in_order(rows)
        total = (ce_sum + ib_weight * ib_sum) / size
        good = total.isfinite() & norm.isfinite()
        self.add(good, total, torch.stack([ce_sum, ib_sum, hits, torch.full_like(hits, size)]))
        return good, (~good).float()

    def decide(
        self, rows: Tensor, norm: Tensor, training: TrainingConfig, scale: Tensor | None, scaler: torch.amp.GradScaler
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The same by a kernel, of a gradient that is ``scale`` times as long as it should be; moves that as ``scaler`` would.

        Returns:
            The same two, and what each number of the gradient is to be divided by.
        """
        moved = scale, None if scale is None else scaler._growth_tracker
        how: tuple[float, float, int] = (1.0, 1.0, 0)
        if scale is not None:
            how = scaler.get_growth_factor(), scaler.get_backoff_factor(), scaler.get_growth_interval()
        clip, places = training.gradient_clip or math.inf, (self._sums, self._steps, self._loss)
        given = rows, norm, training.ib_loss_weight, effective_batch(training), clip, *places, *moved, *how
        return ops().judge(*given)  # type: ignore[no-any-return]

    def add(self, good: Tensor, loss: Tensor, sums: Tensor) -> None:
        """One step: whether it was ``good``, its ``loss``, and what it adds (loss, IB loss, hits, clips)."""
        self._sums += torch.where(good, sums.double(), torch.zeros_like(self._sums))
        skipped, in_a_row, worst = self._steps
        in_a_row = torch.where(good, torch.zeros_like(in_a_row), in_a_row + 1)
        # In place, so that a step can be recorded as a CUDA graph and played again.
        self._steps.copy_(torch.stack([skipped + ~good, in_a_row, torch.maximum(worst, in_a_row)]))
        self._loss.copy_(loss)

    def read(self) -> Reading:
        """The numbers, once the device has come so far."""
        return _reading(self._all().tolist())

    def mark(self) -> None:
        """Have the device remember the numbers as they are after the last step; nobody waits for that."""
        self._marked.append(self._all())

    def read_marked(self) -> list[Reading]:
        """What was remembered since the last time, oldest first, once the device has come so far."""
        marked, self._marked = self._marked, []
        return [_reading(numbers) for numbers in torch.stack(marked).tolist()] if marked else []

    def _all(self) -> Tensor:
        return torch.cat([self._sums, self._steps, self._loss[None]])

    def set(self, totals: Totals, bad_in_a_row: int) -> None:
        """Begin with these."""
        # In place, since a step that was recorded as a CUDA graph goes on with what is there.
        self._sums.copy_(torch.tensor([totals.loss, totals.ib_loss, totals.hits, totals.clips], dtype=torch.float64))
        self._steps.copy_(torch.tensor([totals.skipped, bad_in_a_row, bad_in_a_row], dtype=torch.float64))


@dataclass
class State:
    """Everything that training changes."""

    model: LastE
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    step: int = 0
    """Optimizer steps so far, skipped ones included."""
    evaluated: bool = True
    """False between the last step of an epoch and its test."""
    best_top1: float = -1.0
    best_epoch: int = 0
    last: Scores | None = None
    class_weights: Tensor | None = None
    """(C,) by how much the loss of a clip of each class counts; as of the configuration, and so in no checkpoint."""
    keeps_best: bool = False
    """Whether the best epoch's weights stay at hand: for the test of a run that has clips to validate."""
    chosen_on: str | None = None
    """The sha256 of the clips that validate; None: the best is chosen on those that test."""
    best_weights: dict[str, Tensor] | None = None
    tested: Scores | None = None
    """Of the best epoch's weights, once training is over; of a run that has clips to validate."""
    risen_top1: float = -1.0
    """Top-1 when it rose last by enough for ``training.patience``, and after which epoch."""
    risen_epoch: int = 0
    ema: float | None = None
    """How much of the weights' average stays at each step; None: there is none."""

    def __post_init__(self) -> None:
        # Listed once: a walk through all modules takes longer than many an operation of a step.
        self.parameters = list(self.model.parameters())
        self.device = self.parameters[0].device
        self.counters = Counters(self.device)
        self.statistics = pack_statistics(self.model)
        self.moving = [statistics for statistics in self.statistics if statistics.is_floating_point()]
        self.still = [_mask(self.model, statistics) for statistics in self.statistics]
        (self.momentum,) = {norm.momentum for norm in _norms(self.model)}
        # Once: they are changed in place, and listing some 300 takes longer than copying them.
        self._weights = dict(self.model.state_dict())
        self.average = None if self.ema is None else Average(self._weights, self.ema)
        if self.device.type == "cuda":
            self.keep_rate_on_device()

    def keep_rate_on_device(self) -> None:
        """Have the optimizer read its rate where it computes, so that a step which was recorded finds that of its time."""
        for options in self.optimizer.param_groups:
            options["lr"] = torch.tensor(float(options["lr"]), device=self.device)

    def set_rate(self, lr: float) -> None:
        """The learning rate of the next step."""
        for options in self.optimizer.param_groups:
            rate = lr * options.get("lr_factor", 1.0)
            if isinstance(options["lr"], Tensor):
                options["lr"].fill_(rate)
            else:
                options["lr"] = rate

    def scale(self) -> Tensor | None:
        """By what losses are multiplied, where it is computed with; None: by nothing."""
        if not self.scaler.is_enabled():
            return None
        if self.scaler._scale is None:  # it is made with its first use
            self.scaler.scale(torch.zeros((), device=self.device))
        return self.scaler._scale

    def forget_step(self) -> None:
        """What a step that was begun and not done has left for the rest of it: gradients, and what the scaler has noted."""
        for parameter in self.parameters:
            parameter.grad = None
        noted = self.scaler.state_dict()
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.scaler.is_enabled())
        self.scaler.load_state_dict(noted)

    def new_epoch(self) -> None:
        """Begin the sums of an epoch."""
        self.counters.set(Totals(), self.counters.read().bad_in_a_row)

    @property
    def marks(self) -> tuple[Any, ...]:
        """All that scoring an epoch changes."""
        return (
            (self.best_top1, self.best_epoch, self.best_weights),
            (self.risen_top1, self.risen_epoch),
            (self.last, self.evaluated),
        )

    @marks.setter
    def marks(self, marks: tuple[Any, ...]) -> None:
        best, risen, (self.last, self.evaluated) = marks
        self.best_top1, self.best_epoch, self.best_weights = best
        self.risen_top1, self.risen_epoch = risen

    def take_as_best(self) -> None:
        """Keep the weights as they are now."""
        if self.keeps_best:
            self.best_weights = {name: tensor.detach().clone() for name, tensor in self._weights.items()}

    @contextmanager
    def as_the_best(self) -> Iterator[None]:
        """With the best epoch's weights, until the block ends."""
        with self._as(self.best_weights):
            yield

    @contextmanager
    def as_the_average(self) -> Iterator[None]:
        """With the average of the weights, until the block ends."""
        with self._as(None if self.average is None else self.average.weights):
            yield

    @contextmanager
    def _as(self, weights: dict[str, Tensor] | None) -> Iterator[None]:
        if weights is None:
            yield
            return
        now = {name: tensor.detach().clone() for name, tensor in self._weights.items()}
        try:
            self.model.load_state_dict(weights)
            yield
        finally:
            self.model.load_state_dict(now)

    def digest(self, *also: str) -> bytes:
        """The sha256 of weights, statistics and step, and of some words."""
        found = hashlib.sha256("\n".join([str(self.step), *also]).encode())
        for tensor in self._weights.values():
            found.update(tensor.detach().cpu().contiguous().numpy().tobytes())
        return found.digest()

    def nbytes(self) -> int:
        """About how large a checkpoint of it is, also before the optimizer has made its averages."""
        averages = 2 if isinstance(self.optimizer, torch.optim.AdamW) else 1
        parameters, buffers = sum(p.nbytes for p in self.parameters), sum(b.nbytes for b in self.model.buffers())
        copies = 1 + self.keeps_best + (self.average is not None)
        return (copies + averages) * parameters + copies * buffers

    def to_dict(self, fingerprint: str) -> dict[str, Any]:
        """Tensors, numbers and text only, so that it loads with ``weights_only=True``."""
        counted = self.counters.read()
        return {
            "model": self._weights,
            "optimizer": _with_numbers(self.optimizer.state_dict()),
            "optimizer_kind": type(self.optimizer).__name__,
            "scaler": self.scaler.state_dict(),
            "step": self.step,
            "evaluated": self.evaluated,
            "bad_in_a_row": counted.bad_in_a_row,
            "totals": vars(counted.totals),
            "best_top1": self.best_top1,
            "best_epoch": self.best_epoch,
            "last": None if self.last is None else list(self.last),
            "data": fingerprint,
            **self._more(),
        }

    def _more(self) -> dict[str, Any]:
        """What only some runs have, so that the files of others stay what they were."""
        more: dict[str, Any] = {}
        if self.keeps_best:
            tested = None if self.tested is None else list(self.tested)
            more |= {"best_model": self.best_weights, "tested": tested, "chosen_on": self.chosen_on}
        if self.risen_epoch:
            more |= {"risen_top1": self.risen_top1, "risen_epoch": self.risen_epoch}
        if self.average is not None:
            more |= self.average.to_dict()
        return more

    def restore(self, state: dict[str, Any]) -> str | None:
        """The inverse of :meth:`to_dict`, but for the optimizer's options, which are the configuration's.

        Returns a warning where something could not be taken over.

        Raises:
            DamagedCheckpoint: it is not of this model.
        """
        warning = None
        try:
            self.model.load_state_dict(state["model"])
            if state["optimizer_kind"] == type(self.optimizer).__name__:
                options = [{k: v for k, v in g.items() if k != "params"} for g in self.optimizer.param_groups]
                # Told beforehand that it is fused, torch keeps the step counters of AdamW on the device.
                groups = [{**group, "fused": True} for group in state["optimizer"]["param_groups"]]
                self.optimizer.load_state_dict({**state["optimizer"], "param_groups": groups})
                for group, own in zip(self.optimizer.param_groups, options):
                    group.update(own)
                add_momentum(self.optimizer)
            else:
                warning = f"the optimizer was {state['optimizer_kind']}: its averages are not taken over"
            if self.scaler.is_enabled() and state["scaler"]:
                self.scaler.load_state_dict(state["scaler"])
            self.step, self.evaluated = state["step"], state["evaluated"]
            self.counters.set(Totals(**state["totals"]), int(state["bad_in_a_row"]))
            self.best_top1, self.best_epoch = state["best_top1"], state["best_epoch"]
            self.last = None if state["last"] is None else Scores(*state["last"])
            self.risen_top1, self.risen_epoch = state.get("risen_top1", -1.0), state.get("risen_epoch", 0)
            if state.get("chosen_on") != self.chosen_on:
                told = "the best is chosen on other clips than before: what was the best so far counts no more"
                warning = told if warning is None else f"{warning}; {told}"
                self.best_top1, self.best_epoch, self.last, self.risen_top1, self.risen_epoch = -1.0, 0, None, -1.0, 0
            elif self.keeps_best:
                best, tested = state["best_model"], state["tested"]
                if best is not None and {k: v.shape for k, v in best.items()} != {k: v.shape for k, v in self._weights.items()}:
                    raise ValueError("the best epoch's weights are of another model")
                # Under this model's own names, so that what is stored of it comes out the same, byte for byte.
                self.best_weights = None if best is None else {k: best[k].to(self.device) for k in self._weights}
                self.tested = None if tested is None else Scores(*tested)
            if self.average is not None and not self.average.restore(state):
                told = "no average of the weights is kept so far: it begins here"
                warning = told if warning is None else f"{warning}; {told}"
            if not (isinstance(self.step, int) and isinstance(state["bad_in_a_row"], int) and 0 <= self.step <= MOST_STEPS):
                raise ValueError("a number is of another kind")
        except (KeyError, TypeError, ValueError, RuntimeError, AttributeError, OverflowError, IndexError) as error:
            raise DamagedCheckpoint(f"it does not fit this model ({one_line(error)})") from None
        return warning


def _with_numbers(stored: dict[str, Any]) -> dict[str, Any]:
    """An optimizer's state without rates that are on the device: each step sets its own."""
    groups = [{**group, "lr": 0.0} if isinstance(group["lr"], Tensor) else group for group in stored["param_groups"]]
    return {**stored, "param_groups": groups}


def _norms(model: torch.nn.Module) -> list[Any]:
    return [module for module in model.modules() if isinstance(module, torch.nn.modules.batchnorm._BatchNorm)]


def pack_statistics(model: LastE) -> list[Tensor]:
    """Make all running statistics views of one tensor for each kind of number, and return those.

    A few operations then keep them and put them back, instead of a few for each of some 150. Each begins where a tensor of its
    own might: kernels of GPUs read 16 bytes at a time.
    """
    found: dict[torch.dtype, list[tuple[dict[str, Any], str]]] = {}
    for norm in _norms(model):
        for name, buffer in norm._buffers.items():
            if buffer is not None:
                found.setdefault(buffer.dtype, []).append((norm._buffers, name))
    packed = []
    for places in found.values():
        begins, end = [], 0
        for buffers, name in places:
            begins.append(end)
            end += -(-buffers[name].nbytes // _ALIGNED) * _ALIGNED // buffers[name].itemsize
        first = places[0][0][places[0][1]]
        whole = first.new_zeros(end)
        for (buffers, name), begin in zip(places, begins):
            view = whole[begin : begin + buffers[name].numel()].view(buffers[name].shape)
            buffers[name] = view.copy_(buffers[name])
        packed.append(whole)
    return packed


def _mask(model: LastE, packed: Tensor) -> Tensor | None:
    """Which of packed statistics are those of norms that are kept still; None: none is."""
    mask = torch.zeros_like(packed, dtype=torch.bool)
    for norm in model.still:
        for buffer in norm.buffers(recurse=False):
            if buffer.dtype == packed.dtype:
                mask[buffer.storage_offset() : buffer.storage_offset() + buffer.numel()] = True
    return mask if model.still else None


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
    batches: Iterable[Batch],
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
    if parts is None:
        batches = list(batches)
        parts = len(batches)
    begun = begin_step(state, batches, config, precision, parts, group)
    begun.add_up(group)
    end_step(state, begun, config)


def begin_step(
    state: State, batches: Iterable[Batch], config: TrainConfig, precision: Precision, parts: int, group: Group = ALONE
) -> Begun:
    """The first stretch of :func:`train_step`: gradients of this rank's share of the ``parts``. Others are not asked."""
    model, scaler, device, training = state.model, state.scaler, state.device, config.training
    if not model.training:
        model.train()
    before = [statistics.clone() for statistics in state.statistics]
    rows = torch.zeros(parts, 3, dtype=torch.float64, device=device)  # of each part: cross-entropy, IB loss, hits
    sums = _Sums(state, parts, before) if parts > 1 else None
    for part, batch in zip(shares(parts, group.size)[group.rank], batches):
        batch = batch.to(device, pin=config.hardware.pin_memory and device.type == "cuda")
        with torch.autocast(device.type, precision.dtype, enabled=precision.dtype is not None):
            output = model(batch.streams, batch.noise, batch.row_weight)
        logits, ib_loss = output if isinstance(output, tuple) else (output, torch.zeros((), device=device))
        logits = average_bodies(full(logits), batch)
        if batch.mixed is None and loss_kernel.fits(logits):
            _by_kernels(state, logits, ib_loss, batch, training, rows[part]).backward()  # type: ignore[no-untyped-call]
        else:
            ce = loss_of(logits, batch, training.label_smoothing, state.class_weights)
            hits = (logits.argmax(1) == batch.label).sum()
            ib = ib_loss * len(batch.label)
            loss: Tensor = (ce + training.ib_loss_weight * ib) / effective_batch(training)
            scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
            rows[part] = torch.stack([ce.detach().double(), ib.detach().double(), hits.double()])
        if sums is not None:
            sums.take(part)
    return Begun(rows, before, sums)


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
    optimizer, scaler, divisor = state.optimizer, state.scaler, None
    if fused_cuda.used_on(state.device):
        norm = torch.nn.utils.get_total_norm([one.grad for one in state.parameters if one.grad is not None])
        good, bad, divisor = state.counters.decide(rows, norm, training, state.scale(), scaler)
    else:
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


def _settle(statistics: Tensor, old: Tensor, good: Tensor, still: Tensor | None) -> None:
    """What a step that was not ``good`` has moved is put back, and what is kept still: it is not moved by a sum's rounding
    either."""
    if fused_cuda.used_on(statistics.device):
        ops().settle(statistics, old, good, still)
    else:
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


def _in_order(rows: Tensor) -> Tensor:
    """The sum of rows, one after the other: torch's own sums are in an order of their own."""
    total = rows[0]
    for row in rows[1:]:
        total = total + row
    return total


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
