"""What is between the last block and the classifier as operations for autograd, through the kernels of
:mod:`last_e.model.head_kernels`."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from last_e.model.launches import ops


class GatedPool(torch.autograd.Function):
    """(N, C, T, V) to (N, C) float32: g mean + (1 - g) max, g the sigmoid of ``gate`` (1, C, 1, 1)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, gate: Tensor) -> Tensor:
        pooled, mean, most = ops().gated_pool(x, gate)
        ctx.save_for_backward(x, gate, mean, most)
        return pooled  # type: ignore[no-any-return]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        x, gate, mean, most = ctx.saved_tensors
        of_x, of_gate = ops().gated_pool_backward(x, gate, mean, most, gradient.contiguous())
        return of_x, ops().columns(of_gate).view(gate.shape)


class NormAndDropout(torch.autograd.Function):
    """Batch norm of x (N, C) float32 by its own statistics, then dropout of what has less ``noise`` (N, C) than ``rate``; None:
    of nothing. Moves the running statistics."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, norm: nn.BatchNorm1d, noise: Tensor | None, rate: float
    ) -> Tensor:
        moved = norm.running_mean, norm.running_var, norm.num_batches_tracked
        y, table = ops().norm_rows(x, weight, bias, *moved, noise, rate, norm.momentum, norm.eps)
        ctx.rate = rate
        ctx.save_for_backward(x, weight, table, noise)
        return y  # type: ignore[no-any-return]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, table, noise = ctx.saved_tensors
        of_x, of_norm = ops().norm_rows_backward(x, weight, table, noise, ctx.rate, gradient.contiguous())
        return of_x, of_norm[0], of_norm[1], None, None, None


class Divergence(torch.autograd.Function):
    """The mean over rows, weighted by ``row_weight`` (N,) if given, of the KL divergence of N(mu, exp(logvar)) from N(0, 1), of
    (N, D) each."""

    @staticmethod
    def forward(ctx: Any, mu: Tensor, logvar: Tensor, row_weight: Tensor | None) -> Tensor:
        total, gradients = ops().divergence(mu, logvar, row_weight)
        ctx.save_for_backward(gradients)
        return total  # type: ignore[no-any-return]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_total: Tensor) -> tuple[Tensor | None, ...]:
        (gradients,) = ctx.saved_tensors
        of_mu, of_logvar = gradients * of_total
        return of_mu, of_logvar, None
