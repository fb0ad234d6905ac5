"""Everything that training changes, and the one function that changes it."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from last_e.config import TrainConfig, effective_batch
from last_e.data.batches import Batch, average_bodies
from last_e.evaluate import Scores
from last_e.manifest import DamagedCheckpoint
from last_e.model.network import LastE
from last_e.precision import Precision
from last_e.text import one_line


@dataclass
class Totals:
    """Sums over the good steps of an epoch so far, kept in checkpoints so that a cut epoch's means come out the same."""

    loss: float = 0.0
    ib_loss: float = 0.0
    hits: int = 0
    clips: int = 0
    skipped: int = 0


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
    bad_in_a_row: int = 0
    totals: Totals = field(default_factory=Totals)
    best_top1: float = -1.0
    best_epoch: int = 0
    last: Scores | None = None

    def nbytes(self) -> int:
        """About how large a checkpoint of it is, also before the optimizer has made its averages."""
        averages = 2 if isinstance(self.optimizer, torch.optim.AdamW) else 1
        parameters = sum(p.nbytes for p in self.model.parameters())
        return (1 + averages) * parameters + sum(b.nbytes for b in self.model.buffers())

    def to_dict(self, fingerprint: str) -> dict[str, Any]:
        """Tensors, numbers and text only, so that it loads with ``weights_only=True``."""
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "optimizer_kind": type(self.optimizer).__name__,
            "scaler": self.scaler.state_dict(),
            "step": self.step,
            "evaluated": self.evaluated,
            "bad_in_a_row": self.bad_in_a_row,
            "totals": vars(self.totals).copy(),
            "best_top1": self.best_top1,
            "best_epoch": self.best_epoch,
            "last": None if self.last is None else list(self.last),
            "data": fingerprint,
        }

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
                self.optimizer.load_state_dict(state["optimizer"])
                for group, own in zip(self.optimizer.param_groups, options):
                    group.update(own)
            else:
                warning = f"the optimizer was {state['optimizer_kind']}: its averages are not taken over"
            if self.scaler.is_enabled() and state["scaler"]:
                self.scaler.load_state_dict(state["scaler"])
            self.step, self.evaluated = state["step"], state["evaluated"]
            self.bad_in_a_row = state["bad_in_a_row"]
            self.totals = Totals(**state["totals"])
            self.best_top1, self.best_epoch = state["best_top1"], state["best_epoch"]
            self.last = None if state["last"] is None else Scores(*state["last"])
            if not (isinstance(self.step, int) and isinstance(self.bad_in_a_row, int) and self.step >= 0):
                raise ValueError("a number is of another kind")
        except (KeyError, TypeError, ValueError, RuntimeError, AttributeError, OverflowError, IndexError) as error:
            raise DamagedCheckpoint(f"it does not fit this model ({one_line(error)})") from None
        return warning


def train_step(
    state: State, batches: Iterable[Batch], lr: float, config: TrainConfig, device: torch.device, precision: Precision
) -> tuple[float, bool]:
    """One optimizer step over the micro-batches of an effective batch. Returns the loss and whether it was finite.

    A step whose loss or gradient is not finite changes nothing: neither weights nor momentum nor running statistics.
    """
    model, optimizer, scaler = state.model, state.optimizer, state.scaler
    training = config.training
    model.train()
    for group in optimizer.param_groups:
        group["lr"] = lr
    statistics = [b for name, b in model.named_buffers() if not name.endswith(".A")]
    before = [b.clone() for b in statistics]
    size = effective_batch(training)
    ce_sum = torch.zeros((), device=device)
    ib_sum = torch.zeros((), device=device)
    hits = torch.zeros((), dtype=torch.int64, device=device)
    for batch in batches:
        batch = batch.to(device, pin=config.hardware.pin_memory and device.type == "cuda")
        with torch.autocast(device.type, precision.dtype, enabled=precision.dtype is not None):
            output = model(batch.streams, batch.noise, batch.row_weight)
        rows, ib_loss = output if isinstance(output, tuple) else (output, torch.zeros((), device=device))
        logits = average_bodies(rows.float(), batch)
        ce = F.cross_entropy(logits, batch.label, reduction="sum", label_smoothing=training.label_smoothing)
        ib = ib_loss * len(batch.label)
        loss: Tensor = (ce + training.ib_loss_weight * ib) / size
        scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        ce_sum += ce.detach()
        ib_sum += ib.detach()
        hits += (logits.argmax(dim=1) == batch.label).sum()
    scaler.unscale_(optimizer)
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), training.gradient_clip or math.inf)
    total = (ce_sum + training.ib_loss_weight * ib_sum) / size
    loss_value, ce_value, ib_value, norm_value = torch.stack([total, ce_sum, ib_sum, norm]).tolist()
    good = math.isfinite(loss_value) and math.isfinite(norm_value)
    if good:
        scaler.step(optimizer)
        state.totals.loss += ce_value
        state.totals.ib_loss += ib_value
        state.totals.hits += int(hits)
        state.totals.clips += size
    else:
        for buffer, old in zip(statistics, before):
            buffer.copy_(old)
        state.totals.skipped += 1
    if scaler.is_enabled():
        scaler.update()
    optimizer.zero_grad(set_to_none=True)
    return loss_value, good
