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
    """From logits (n, C), labels (n,) and the classes' weights (C,), if any: the sum :func:`last_e.state.cross_entropy` of
    them, and how many clips the largest logit is right of."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, label: Tensor, smoothing: float, weights: Tensor | None) -> tuple[Tensor, Tensor]:
        gradient, total, hits = ops().cross_entropy(logits.contiguous(), label, smoothing, weights)
        ctx.save_for_backward(gradient)
        ctx.mark_non_differentiable(hits)
        return total, hits

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_total: Tensor, of_hits: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = ctx.saved_tensors
        return gradient * of_total, None, None, None
