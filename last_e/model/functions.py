"""Operations with a backward pass of their own, which touches memory half as often as the one that autograd puts together.

Shapes: N clips, C channels, T frames, V joints; activations (N, C, T, V) in ``channels_last`` memory. Sums run over views with
three axes, which torch reduces ten times as fast as ones with four.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def rows(x: Tensor) -> Tensor:
    """(N, C, T, V) in ``channels_last`` -> a view (N, T, V, C)."""
    return x.permute(0, 2, 3, 1)


def sum_over_joints(x: Tensor) -> Tensor:
    """(N, T, V, C) -> (N, T, C)."""
    n, t, v, c = x.shape
    return x.reshape(n * t, v, c).sum(dim=1).view(n, t, c)


def sum_over_frames(x: Tensor) -> Tensor:
    """(N, T, V, C) -> (N, V, C)."""
    n, t, v, c = x.shape
    return x.reshape(n, t, v * c).sum(dim=1).view(n, v, c)


class Pool(torch.autograd.Function):
    """What the gates see of (N, C, T, V).

    Returns the mean of |x[t+1] - x[t]| over frames and joints (N, C), the mean over joints (N, T, C) and the mean over frames
    (N, V, C).
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        ctx.save_for_backward(x)
        x = rows(x)
        n, t, v, c = x.shape
        motion = (x[:, 1:] - x[:, :-1]).abs_().reshape(n, -1, c).mean(dim=1)
        return motion, sum_over_joints(x) / v, sum_over_frames(x) / t

    @staticmethod
    def backward(ctx: Any, motion: Tensor, joints: Tensor, frames: Tensor) -> Tensor:
        x = rows(ctx.saved_tensors[0])
        _, t, v, _ = x.shape
        # What is laid out in another order would give its order to all that is computed with it.
        gradient = (joints.contiguous() / v)[:, :, None] + (frames.contiguous() / t)[:, None]
        step = (x[:, 1:] - x[:, :-1]).sign_().mul_((motion / ((t - 1) * v))[:, None, None])
        gradient[:, 1:] += step
        gradient[:, :-1] -= step
        return gradient.permute(0, 3, 1, 2)


class EveryNthFrame(torch.autograd.Function):
    """(N, C, T, V) -> (N, C, ceil(T / step), V), in ``channels_last`` both ways; a slice's own gradient is not."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, step: int) -> Tensor:
        ctx.shape, ctx.step = x.shape, step
        return rows(x)[:, ::step].contiguous().permute(0, 3, 1, 2)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        n, c, t, v = ctx.shape
        whole = gradient.new_zeros(n, t, v, c)
        whole[:, :: ctx.step] = rows(gradient)
        return whole.permute(0, 3, 1, 2), None


class ScaleAndAdd(torch.autograd.Function):
    """``base + x (p + q s)``: ``base`` and ``x`` (N, C, T, V), p (N, C), q (N, T, C), s (N, V, C)."""

    @staticmethod
    def forward(ctx: Any, base: Tensor, x: Tensor, p: Tensor, q: Tensor, s: Tensor) -> Tensor:
        q, s = q.contiguous(), s.contiguous()  # else their order would be that of all that is computed with them
        ctx.save_for_backward(x, p, q, s)
        scale = torch.addcmul(p[:, None, None], q[:, :, None], s[:, None])
        return torch.addcmul(rows(base), rows(x), scale).permute(0, 3, 1, 2)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        x, p, q, s = ctx.saved_tensors
        flowing = rows(gradient)
        scale = torch.addcmul(p[:, None, None], q[:, :, None], s[:, None])
        for_x = (flowing * scale).permute(0, 3, 1, 2)
        for_scale = flowing * rows(x)
        torch.mul(for_scale, s[:, None], out=scale)
        for_q = sum_over_joints(scale)
        torch.mul(for_scale, q[:, :, None], out=scale)
        for_s = sum_over_frames(scale)
        return gradient, for_x, sum_over_joints(for_scale).sum(dim=1), for_q, for_s
