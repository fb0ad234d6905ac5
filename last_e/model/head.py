"""What is between the last block and the classifier as operations for autograd, through the kernels of
:mod:`last_e.model.head_kernels`."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
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
        return of_x, ops().columns(of_gate, of_gate.shape[1], len(of_gate)).view(gate.shape)


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
