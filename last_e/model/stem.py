"""The norms of the three streams, put into the projection behind them, as one operation for autograd, through the kernels of
:mod:`last_e.model.stem_kernels`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from last_e.model import fused_cuda
from last_e.model.launches import ops


def fits(x: Tensor, norms: Sequence[nn.BatchNorm2d]) -> bool:
    """Whether the kernels do it: of streams that nothing flows back to, in training."""
    plain = x.dtype == torch.float32 and not x.requires_grad and torch.is_grad_enabled()
    return plain and fused_cuda.used_on(x.device) and all(norm.training and norm.momentum is not None for norm in norms)


class Folded(torch.autograd.Function):
    """From the streams (N, 3 C, T, V) and the projection's weight (O, 3 C, 1, 1) that with the norms in it, and its shift (O,),
    in a format. ``learned``: the three norms' weights and biases. Moves the running statistics."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, norms: Sequence[nn.BatchNorm2d], form: torch.dtype, *learned: Tensor
    ) -> tuple[Tensor, Tensor]:
        moved = [
            one
            for norm, pair in zip(norms, (learned[0:2], learned[2:4], learned[4:6]))
            for one in (*pair, norm.running_mean, norm.running_var, norm.num_batches_tracked)
        ]
        one = norms[0]
        ready, shift, table = ops().fold(ops().moments(x), weight, *moved, one.momentum, one.eps, form)
        ctx.save_for_backward(weight, table, *learned[1::2])
        return ready, shift

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_ready: Tensor, of_shift: Tensor) -> tuple[Tensor | None, ...]:
        weight, table, *biases = ctx.saved_tensors
        of_weight, of_norms = ops().fold_backward(of_ready.contiguous(), of_shift.contiguous(), weight, table, *biases)
        of_learned = [one for stream in of_norms.view(2, 3, -1).unbind(1) for one in stream]
        return None, of_weight, None, None, *of_learned
