"""A graph convolution's attention and mixing of joints as one operation for autograd, through the kernels of
:mod:`last_e.model.spatial_kernels`: seven launches where torch's operations are some forty."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from last_e.model.fused_cuda import as_laid_out, kernels_for, mixes
from last_e.model.launches import ops

MOST_SUBSETS = {16: 5, 32: 3}
"""Of a graph of up to so many joints, for which the attention is by kernels: a program holds them all, and of more it would
spill registers."""


def fits(x: Tensor, subsets: int) -> bool:
    """Whether the kernels do it."""
    joints = x.shape[3]
    most = max((most for some, most in MOST_SUBSETS.items() if joints <= some), default=0)
    return subsets <= most and kernels_for(x) and mixes(joints, joints * subsets)


class Attended(torch.autograd.Function):
    """From x (N, C, T, V), the adjacency and ``edge`` (K, V, V), the convolution's ``weight`` (K O, C, 1, 1), the attention's
    ``linear`` (K, K O): x itself, so that what comes back for it is added in the same pass; its joints mixed, (N, K C, T, V);
    and the weight in x's format that is for them, (O, K C, 1, 1)."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, edge: Tensor, weight: Tensor, linear: Tensor, adjacency: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        do, frames = ops(), x.shape[2]
        sums, ready, meets = do.begin(x, weight, linear)
        shares, means, mixing = do.attend(sums, adjacency, edge, meets, frames)
        ctx.save_for_backward(x, edge, weight, linear, adjacency, meets, sums, shares, means, mixing)
        return x, do.mix(x, mixing).permute(0, 3, 1, 2), ready

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_whole: Tensor, of_mixed: Tensor, of_ready: Tensor) -> tuple[Tensor | None, ...]:
        x, edge, weight, linear, adjacency, meets, sums, shares, means, mixing = ctx.saved_tensors
        do, flowing = ops(), as_laid_out(of_mixed)
        parts = do.mix_weights(flowing, x, mixing)
        of_means, rows = do.attend_backward(parts, sums, adjacency, edge, meets, shares, means, x.shape[2])
        of_x, of_rows = do.mix_backward_and_sum(flowing, mixing, as_laid_out(of_whole), of_means, rows)
        of_edge, of_meets = of_rows.split([edge.numel(), meets.numel()])
        of_weight, of_linear = do.meet_backward(of_meets.view(meets.shape), of_ready.contiguous(), weight, linear)
        return of_x, of_edge.view(edge.shape), of_weight, of_linear, None
