"""Operations for autograd that go through the kernels of :mod:`last_e.model.kernels`, on GPUs from Turing (sm_75) on, as
:mod:`last_e.model.launches` has them.

They are the same operations as those of :mod:`last_e.model.fused`, on activations in half precision or float32; sums are in
float32 within a program and, those of norms, in float64 across them; statistics and gradients of weights in float32.

Shapes: N clips, C channels, T frames, V joints, K graph subsets; activations (N, C, T, V) in ``channels_last`` memory.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from last_e.model.agreed import Agreed
from last_e.model.fused import rows
from last_e.model.launches import ops

OLDEST = (7, 5)
"""Compute capability from which on Triton makes kernels."""
MOST_JOINTS, MOST_OUTPUTS = 32, 80
"""Of which the mixing of joints is by a kernel: of more a program would spill registers, or take more shared memory than many
GPUs have."""
FORMATS = (torch.float16, torch.bfloat16, torch.float32)
"""Of activations; float64 would be summed up in float32."""
STRIDES = (1, 2)
"""That the kernels of the depthwise convolution are for: how far they move on in what they have read is written out there."""


AGREED = Agreed()
"""Of training steps."""
used_on = AGREED.used_on


def kernels_for(x: Tensor, *norms: nn.BatchNorm2d) -> bool:
    """Whether the kernels do it: for activations that they take and that are trained with, and for norms as the network has
    them, on a GPU where :func:`last_e.model.tried.try_out` found them right."""
    if not used_on(x.device) or x.dtype not in FORMATS or not x.requires_grad or not rows(x).is_contiguous():
        return False
    return all(norm.momentum is not None and norm.affine and norm.track_running_stats for norm in norms)


def mixes(joints: int, outputs: int) -> bool:
    """Whether the mixing of so many joints to so many fits each kind of GPU."""
    return joints <= MOST_JOINTS and outputs <= MOST_OUTPUTS


def _affine(parts: Tensor, norm: nn.BatchNorm2d, weight: Tensor, bias: Tensor) -> Tensor:
    """A norm's affine map (4, C) for its batch, from what was summed of that; moves the running statistics."""
    mean, var, tracked = norm.running_mean, norm.running_var, norm.num_batches_tracked
    table: Tensor = ops().affine(parts, weight, bias, mean, var, tracked, norm.momentum, norm.eps)
    return table


def as_laid_out(x: Tensor) -> Tensor:
    """In ``channels_last``; a copy where it is not."""
    return x.contiguous(memory_format=torch.channels_last)


def _rows(x: Tensor) -> int:
    """How many numbers of each channel there are."""
    return x.numel() // x.shape[1]


class NormThen(torch.autograd.Function):
    """Batch norm by the batch's statistics, then Hardswish, or the sum with ``add``. Twice, for two who use it: what flows back
    from both is added where it is read."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, add: Tensor | None, norm: nn.BatchNorm2d, hardswish: bool
    ) -> tuple[Tensor, Tensor]:
        table = _affine(ops().moments(x), norm, weight, bias)
        ctx.hardswish = hardswish
        ctx.save_for_backward(x, table)
        ctx.set_materialize_grads(False)
        y: Tensor = ops().norm(x, table, None if add is None else as_laid_out(add), hardswish)
        return y, y.detach()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        x, table = ctx.saved_tensors
        first, *rest = [as_laid_out(one) for one in gradients if one is not None]
        more = rest[0] if rest else None
        parts = ops().norm_sums(x, table, first, more, ctx.hardswish)
        terms, of_norm, _ = ops().gradients(parts, table, _rows(x))
        of_x = ops().norm_backward(x, table, first, more, terms, ctx.hardswish)
        of_add = None
        if ctx.needs_input_grad[3]:
            of_add = first if more is None else first + more
        return of_x, of_norm[0], of_norm[1], of_add, None, None


class Depthwise(torch.autograd.Function):
    """Norm, Hardswish, depthwise convolution over five frames (``weight`` (C, 1, 5, 1)), norm, Hardswish.

    Of what lies between, only what the convolution gives is written to memory; the rest is made anew on the way back.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        first_weight: Tensor,
        first_bias: Tensor,
        weight: Tensor,
        last_weight: Tensor,
        last_bias: Tensor,
        first: nn.BatchNorm2d,
        last: nn.BatchNorm2d,
        stride: int,
    ) -> Tensor:
        ctx.stride, before = stride, _affine(ops().moments(x), first, first_weight, first_bias)
        y, parts = ops().depthwise(x, before, weight, stride)
        behind = _affine(parts, last, last_weight, last_bias)
        ctx.save_for_backward(x, before, y, behind, weight)
        out: Tensor = ops().norm(y, behind, None, True)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, before, y, behind, weight = ctx.saved_tensors
        flowing = as_laid_out(gradient)
        terms, of_last, _ = ops().gradients(ops().norm_sums(y, behind, flowing, None, True), behind, _rows(y))
        of_x, parts = ops().depthwise_backward(x, before, y, behind, flowing, terms, weight, ctx.stride)
        terms, of_first, of_taps = ops().gradients(parts, before, _rows(x))
        ops().norm_backward_(x, before, of_x, terms)
        return of_x, of_first[0], of_first[1], of_taps.view(weight.shape), of_last[0], of_last[1], None, None, None


class Mix(torch.autograd.Function):
    """(N, C, T, V) to (N, K C, T, V): y[n, o, t] = sum_v mixing[n, o, v] x[n, v, t] for each channel, o = w K + k; mixing
    (N, V K, V), or (1, V K, V) for all clips, in float32."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, mixing: Tensor) -> Tensor:
        mixing = mixing.contiguous()  # the kernels go through it by rows; of a single subset it comes as columns
        ctx.save_for_backward(x, mixing)
        y: Tensor = ops().mix(x, mixing)
        return y.permute(0, 3, 1, 2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        x, mixing = ctx.saved_tensors
        flowing = as_laid_out(gradient)
        parts = ops().mix_weights(flowing, x, mixing)
        of_mixing = parts.sum(dim=1) if len(mixing) == len(x) else parts.sum(dim=(0, 1))[None]
        return ops().mix_backward(flowing, mixing), of_mixing
