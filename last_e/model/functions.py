"""Operations with a backward pass of their own, which touches memory half as often as the one that autograd puts together.

On a CPU large activations go through compiled loops (:mod:`last_e.model.fused`), where numba is installed; in training on a
GPU through kernels of our own (:mod:`last_e.model.fused_cuda`), where Triton is; everything else through torch's operations.
All give the same numbers within rounding.

Shapes: N clips, C channels, T frames, V joints, K graph subsets; activations (N, C, T, V) in ``channels_last`` memory. Sums run
over views with three axes, which torch reduces ten times as fast as ones with four.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from last_e.model import fused_cuda
from last_e.model.fused import Depthwise, Mix, NormThen, array, loops_for, rows


def sum_over_joints(x: Tensor) -> Tensor:
    """(N, T, V, C) -> (N, T, C)."""
    n, t, v, c = x.shape
    return x.reshape(n * t, v, c).sum(dim=1).view(n, t, c)


def sum_over_frames(x: Tensor) -> Tensor:
    """(N, T, V, C) -> (N, V, C)."""
    n, t, v, c = x.shape
    return x.reshape(n, t, v * c).sum(dim=1).view(n, v, c)


def at_least_float32(format: torch.dtype) -> torch.dtype:
    """Of numbers that are added up."""
    return torch.float32 if format in (torch.float16, torch.bfloat16) else format


def batch_norm(x: Tensor, norm: nn.BatchNorm2d, *, hardswish: bool = False, add: Tensor | None = None) -> Tensor:
    """The norm, in training by this batch's own statistics, which also move the running ones; then Hardswish, or the sum with
    ``add``."""
    return batch_norm_twice(x, norm, hardswish=hardswish, add=add)[0]


def batch_norm_twice(
    x: Tensor, norm: nn.BatchNorm2d, *, hardswish: bool = False, add: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The same, for two who use it: a kernel adds what flows back from both as it reads it."""
    fits = norm.training and (add is None or (add.shape == x.shape and add.dtype == x.dtype))
    arguments = x, norm.weight, norm.bias, add, norm, hardswish
    if fits and loops_for(x, norm) is not None:
        y: Tensor = NormThen.apply(*arguments)  # type: ignore[no-untyped-call]
        return y, y
    if fits and fused_cuda.kernels_for(x, norm):
        return fused_cuda.NormThen.apply(*arguments)  # type: ignore[no-any-return,no-untyped-call]
    y = norm(x)
    if add is not None:
        y += add
    y = F.hardswish(y) if hardswish else y
    return y, y


def norm_and_depthwise(x: Tensor, norm: nn.BatchNorm2d, conv: nn.Conv2d, last: nn.BatchNorm2d) -> Tensor:
    """(N, C, T, V) -> (N, C, ceil(T / stride), V): norm, Hardswish, depthwise convolution over five frames, norm, Hardswish.

    Both norms by this batch's own statistics.
    """
    parameters = norm.weight, norm.bias, conv.weight, last.weight, last.bias
    if fused_cuda.kernels_for(x, norm, last) and conv.stride[0] in fused_cuda.STRIDES:
        made = fused_cuda.Depthwise.apply(x, *parameters, norm, last, conv.stride[0])  # type: ignore[no-untyped-call]
        return made  # type: ignore[no-any-return]
    if loops_for(x, norm, last) is not None:
        return Depthwise.apply(x, *parameters, norm, last, conv.stride[0])  # type: ignore[no-any-return,no-untyped-call]
    return batch_norm(conv(batch_norm(x, norm, hardswish=True)), last, hardswish=True)


def mix_joints(x: Tensor, adjacency: Tensor, edge: Tensor, share: Tensor | None) -> Tensor:
    """(N, C, T, V) -> (N, K C, T, V): y[k c, w] = sum_v x[c, v] (adjacency edge)[k, v, w], times ``share`` (N, K) if given."""
    n, c, t, v = x.shape
    k = len(adjacency)
    into = (adjacency * edge).permute(2, 0, 1)  # (w, k, v): all that reaches joint w, one subset after the other
    if loops_for(x) is not None:
        # Of most joints few others are so near that the adjacency is not 0.
        output, source = adjacency.permute(2, 0, 1).reshape(v * k, v).nonzero(as_tuple=True)
        weight = into.reshape(v * k, v)[output, source][None]
        if share is not None:
            weight = weight * share[:, output % k]
        return Mix.apply(x, weight, output, source, v * k)  # type: ignore[no-any-return,no-untyped-call]
    if fused_cuda.kernels_for(x) and fused_cuda.mixes(v, v * k):
        mixing = into.reshape(1, v * k, v) if share is None else (into * share[:, None, :, None]).reshape(n, v * k, v)
        return fused_cuda.Mix.apply(x, mixing)  # type: ignore[no-any-return,no-untyped-call]
    if share is None:
        mix = into.to(x.dtype).reshape(1, v * k, v).expand(n * t, v * k, v)
    else:
        mix = into * share[:, None, :, None]
        mix = mix.to(x.dtype).reshape(n, 1, v * k, v).expand(n, t, v * k, v).reshape(n * t, v * k, v)
    return torch.bmm(mix, rows(x).reshape(n * t, v, c)).view(n, t, v, k * c).permute(0, 3, 1, 2)


class MeanOverFrames(torch.autograd.Function):
    """(N, C, T, V) -> (N, V, C), of at least float32: a sum of frames may be more than half precision holds.

    What goes back is the same for each frame, and is expanded, not written for each.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        n, c, t, v = x.shape
        ctx.frames, ctx.format = t, x.dtype
        return rows(x).reshape(n, t, v * c).sum(dim=1, dtype=at_least_float32(x.dtype)).view(n, v, c) / t

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        n, v, c = gradient.shape
        whole: Tensor = (gradient / ctx.frames).to(ctx.format)[:, None].expand(n, ctx.frames, v, c)
        return whole.permute(0, 3, 1, 2)


class Pool(torch.autograd.Function):
    """What the gates see of (N, C, T, V).

    Returns x itself, so that what comes back for it is added in the same pass, the mean of |x[t+1] - x[t]| over frames and
    joints (N, C), the mean over joints (N, T, C) and the mean over frames (N, V, C).
    """

    @staticmethod
    def forward(ctx: Any, whole: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        ctx.save_for_backward(whole)
        loops = loops_for(whole) if whole.shape[2] > 1 else None
        x = rows(whole)
        n, t, v, c = x.shape
        if loops is not None:
            means = x.new_empty(n, c), x.new_empty(n, t, c), x.new_empty(n, v, c)
            loops.share(loops.pool, n, x.detach().numpy(), *(mean.numpy() for mean in means))
            return whole, *means
        motion = (x[:, 1:] - x[:, :-1]).abs_().reshape(n, -1, c).mean(dim=1)
        # Means, added up in float32: a sum may be more than half precision holds. Autocast would make x float32 for that.
        by_frame, by_joint = x.reshape(n * t, v, c).mean(dim=1), x.reshape(n, t, v * c).mean(dim=1)
        return whole, motion, by_frame.view(n, t, c), by_joint.view(n, v, c)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, whole: Tensor, motion: Tensor, joints: Tensor, frames: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        loops = loops_for(x) if x.shape[2] > 1 else None
        x = rows(x)
        _, t, v, _ = x.shape
        if loops is not None:
            for_x = torch.empty_like(x)
            shares = motion / ((t - 1) * v), joints / v, frames / t
            given = [each.contiguous().numpy() for each in (rows(whole), *shares)]
            loops.share(loops.pool_backward, len(x), x.numpy(), *given, for_x.numpy())
            return for_x.permute(0, 3, 1, 2)
        # What is laid out in another order would give its order to all that is computed with it.
        gradient = (joints.contiguous() / v)[:, :, None] + (frames.contiguous() / t)[:, None]
        gradient += rows(whole)
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
        p, q, s = p.contiguous(), q.contiguous(), s.contiguous()  # else their order would be that of all computed with them
        ctx.save_for_backward(x, p, q, s)
        loops = loops_for(x)
        if loops is not None:
            out = torch.empty_like(x)
            n, t, v, c = rows(x).shape
            assert (base.shape, p.shape, q.shape, s.shape) == (x.shape, (n, c), (n, t, c), (n, v, c))
            factors = [factor.detach().numpy() for factor in (p, q, s)]
            loops.share(loops.scale_and_add, len(x), array(base), array(x), *factors, array(out))
            return out
        scale = torch.addcmul(p[:, None, None], q[:, :, None], s[:, None])
        return torch.addcmul(rows(base), rows(x), scale).permute(0, 3, 1, 2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        x, p, q, s = ctx.saved_tensors
        loops = loops_for(x)
        if loops is not None:
            of_x, of_p, of_q, of_s = (torch.empty_like(value) for value in (x, p, q, s))
            factors = [factor.numpy() for factor in (p, q, s)]
            places = array(of_x), of_p.numpy(), of_q.numpy(), of_s.numpy()
            loops.share(loops.scale_backward, len(x), array(x), array(gradient), *factors, *places)
            return gradient, of_x, of_p, of_q, of_s
        flowing = rows(gradient)
        scale = torch.addcmul(p[:, None, None], q[:, :, None], s[:, None])
        for_x = (flowing * scale).permute(0, 3, 1, 2)
        for_scale = flowing * rows(x)
        torch.mul(for_scale, s[:, None], out=scale)
        for_q = sum_over_joints(scale)
        torch.mul(for_scale, q[:, :, None], out=scale)
        for_s = sum_over_frames(scale)
        return gradient, for_x, sum_over_joints(for_scale).sum(dim=1), for_q, for_s
