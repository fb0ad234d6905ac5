"""The kernels of :mod:`last_e.model.step_kernels` as operations of torch, as :mod:`last_e.model.launches` has the others."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from last_e.model.layout import blocks, power_of_two


def _judge_out(rows: Tensor, norm: Tensor, *rest: Any) -> tuple[Tensor, Tensor, Tensor]:
    good, floats = norm.new_empty((), dtype=torch.bool), torch.float32
    return good, norm.new_empty((), dtype=floats), norm.new_empty((), dtype=floats)


def _judge(
    kernels: Any,
    rows: Tensor,
    norm: Tensor,
    ib_weight: float,
    size: int,
    clip: float,
    sums: Tensor,
    steps: Tensor,
    loss: Tensor,
    scale: Tensor | None,
    tracker: Tensor | None,
    growth: float,
    backoff: float,
    interval: int,
    *made: Tensor,
) -> None:
    places = norm if scale is None else scale, loss if tracker is None else tracker
    given = rows, norm, ib_weight, clip, sums, steps, loss, *places, growth, backoff, interval, *made, len(rows), size
    kernels.judge[(1,)](*given, SCALED=scale is not None, num_warps=1)


def _settle_out(values: Tensor, before: Tensor, good: Tensor, still: Tensor | None) -> None:
    return None


def _settle(kernels: Any, values: Tensor, before: Tensor, good: Tensor, still: Tensor | None) -> None:
    mask = values if still is None else still
    grid = (blocks(values.numel(), 1024),)
    kernels.settle[grid](values, before, good, mask, values.numel(), STILL=still is not None, S=1024)


def _cross_entropy_out(
    logits: Tensor, label: Tensor, smoothing: float, weights: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    return torch.empty_like(logits), logits.new_empty(()), logits.new_empty(())


def _cross_entropy(
    kernels: Any, logits: Tensor, label: Tensor, smoothing: float, weights: Tensor | None, *made: Tensor
) -> None:
    clips, classes = logits.shape
    width = power_of_two(classes, 16)
    given = logits, label, logits if weights is None else weights, *made, smoothing, clips, classes
    kernels.cross_entropy[(1,)](*given, WEIGHTS=weights is not None, R=max(1, 2048 // width), C=width, num_warps=8)


def _step_loss_out(ce: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    return torch.empty_like(ce), ce.new_empty(2)


def _step_loss(
    kernels: Any,
    ce: Tensor,
    ib: Tensor,
    hits: Tensor,
    scale: Tensor | None,
    ib_weight: float,
    clips: int,
    size: int,
    *places: Tensor,
) -> None:
    given = ce, ib, hits, ce if scale is None else scale, ib_weight, *places, clips, size
    kernels.step_loss[(1,)](*given, SCALED=scale is not None, num_warps=1)


OPS: dict[str, tuple[str, Any, Any]] = {
    "judge": (
        "(Tensor rows, Tensor norm, float ib_weight, int size, float clip, Tensor(a!) sums, Tensor(b!) steps, Tensor(c!) loss, "
        "Tensor(d!)? scale, Tensor(e!)? tracker, float growth, float backoff, int interval) -> (Tensor, Tensor, Tensor)",
        _judge,
        _judge_out,
    ),
    "cross_entropy": (
        "(Tensor logits, Tensor label, float smoothing, Tensor? weights) -> (Tensor, Tensor, Tensor)",
        _cross_entropy,
        _cross_entropy_out,
    ),
    "step_loss": (
        "(Tensor ce, Tensor ib, Tensor hits, Tensor? scale, float ib_weight, int clips, int size, Tensor(a!) row) "
        "-> (Tensor, Tensor)",
        _step_loss,
        _step_loss_out,
    ),
    "settle": ("(Tensor(a!) values, Tensor before, Tensor good, Tensor? still) -> ()", _settle, _settle_out),
}
"""By name: its schema, its launch with what comes out of it, and what comes out of it."""
