"""Everything that training changes, what a checkpoint keeps of it, and how it goes on from one."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from last_e.average import Average
from last_e.config import TrainingConfig, effective_batch
from last_e.evaluate import Scores
from last_e.manifest import MOST_STEPS, DamagedCheckpoint
from last_e.model.launches import ops
from last_e.model.network import LastE
from last_e.optim import add_momentum
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


def _in_order(rows: Tensor) -> Tensor:
    """The sum of rows, one after the other: torch's own sums are in an order of their own."""
    total = rows[0]
    for row in rows[1:]:
        total = total + row
    return total
