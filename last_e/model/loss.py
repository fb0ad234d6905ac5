"""A step's loss as one operation for autograd, through the kernels of :mod:`last_e.model.step_kernels`."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from last_e.model import fused_cuda
from last_e.model.launches import ops

MOST_CLASSES = 2048
"""That a program takes at once."""


def fits(logits: Tensor) -> bool:
    """Whether the kernel does it."""
    return fused_cuda.used_on(logits.device) and logits.dtype == torch.float32 and logits.shape[1] <= MOST_CLASSES


class CrossEntropy(torch.autograd.Function):
    """From logits (n, C), labels (n,) and the classes' weights (C,), if any: the sum :func:`last_e.step.cross_entropy` of
    them, and how many clips the largest logit is right of."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, label: Tensor, smoothing: float, weights: Tensor | None) -> tuple[Tensor, Tensor]:
        gradient, total, hits = ops().cross_entropy(logits.contiguous(), label, smoothing, weights)
        ctx.save_for_backward(gradient)
        ctx.mark_non_differentiable(hits)
        ctx.set_materialize_grads(False)  # of hits there is none, and nobody reads it
        return total, hits

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_total: Tensor, of_hits: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = ctx.saved_tensors
        return gradient * of_total, None, None, None


class StepLoss(torch.autograd.Function):
    """Of a part of ``clips`` clips of a step over ``size``: from the sum of cross-entropies and the mean IB loss what is to be
    made small, times ``scale`` if given. Writes what is counted of it, with ``hits``, to ``row`` (3,) float64."""

    @staticmethod
    def forward(
        ctx: Any,
        ce: Tensor,
        ib: Tensor,
        hits: Tensor,
        scale: Tensor | None,
        ib_weight: float,
        clips: int,
        size: int,
        row: Tensor,
    ) -> Tensor:
        loss, factors = ops().step_loss(ce, ib, hits, scale, ib_weight, clips, size, row)
        ctx.save_for_backward(factors)
        return loss  # type: ignore[no-any-return]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        (factors,) = ctx.saved_tensors
        of_ce, of_ib = factors * gradient
        return of_ce, of_ib, None, None, None, None, None, None
