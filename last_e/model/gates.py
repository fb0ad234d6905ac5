"""The end of a block as one operation for autograd, through the kernels of :mod:`last_e.model.gate_kernels`.

Nine kernels where torch's operations are some 160, and an activation is read where it is used, not once for each of them.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from last_e.model import fused_cuda
from last_e.model.launches import ops

MOST_JOINTS, MOST_HIDDEN = 64, 64
"""That a program takes at once."""


class Weights(NamedTuple):
    """Of a channel gate and of a joint attention, as their layers have them (float32)."""

    first: Tensor
    """Of the gate: (H, C)."""
    last: Tensor
    """(C, H)."""
    gate_alpha: Tensor
    """(1, C, 1, 1)."""
    alpha: Tensor
    """Of the attention: (1, C, 1, 1)."""
    squeeze_frames: Tensor
    """(H, C, 1, 1)."""
    excite_frames: Tensor
    """(C, H, 1, 1)."""
    weight_frames: Tensor
    """Of the norm between them: (H,)."""
    bias_frames: Tensor
    squeeze_joints: Tensor
    excite_joints: Tensor
    weight_joints: Tensor
    bias_joints: Tensor


def fits(x: Tensor, weights: Weights, hybrid: bool, *norms: nn.BatchNorm2d) -> bool:
    """Whether the kernels do it: on activations and norms that they take, of as much as a program holds, and of gates that see
    motion alone."""
    hidden, (_, c, t, v) = len(weights.first), x.shape
    same = weights.first.shape == weights.squeeze_frames.shape[:2] == weights.squeeze_joints.shape[:2] == (hidden, c)
    small = same and not hybrid and hidden <= MOST_HIDDEN and v <= MOST_JOINTS and t > 1
    return small and fused_cuda.kernels_for(x, *norms)


class Tail(torch.autograd.Function):
    """``base + x d g (1 - alpha + alpha s_frame s_joint)``, all of it from x (N, C, T, V); ``noise`` (N,) and ``rate`` of drop
    path, None: nothing is dropped. Moves the norms' running statistics."""

    @staticmethod
    def forward(
        ctx: Any,
        base: Tensor,
        x: Tensor,
        noise: Tensor | None,
        rate: float,
        norms: tuple[nn.BatchNorm2d, nn.BatchNorm2d],
        *given: Tensor,
    ) -> Tensor:
        w, do = Weights(*given), ops()
        sums, motion = do.pool(x)
        _, _, t, v = x.shape
        given_to = sums, motion, w.first, w.last, w.gate_alpha, w.squeeze_frames, w.squeeze_joints, t, v, x.dtype
        narrow, hidden, sigmoid, parts = do.squeeze(*given_to)
        learned = (w.weight_frames, w.bias_frames), (w.weight_joints, w.bias_joints)
        moved = [(*own, norm.running_mean, norm.running_var, norm.num_batches_tracked) for own, norm in zip(learned, norms)]
        one = norms[0]
        table, scales = do.excite(
            narrow, parts, w.excite_frames, w.excite_joints, *moved[0], *moved[1], one.momentum, one.eps, t
        )
        ctx.rate = rate
        ctx.save_for_backward(x, noise, sums, motion, narrow, hidden, sigmoid, table, scales, *given)
        base = base.contiguous(memory_format=torch.channels_last)
        out: Tensor = do.scale(base, x, sigmoid, w.gate_alpha, scales, w.alpha, noise, rate)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, noise, sums, motion, narrow, hidden, sigmoid, table, scales, *given = ctx.saved_tensors
        w, do = Weights(*given), ops()
        flowing = gradient.contiguous(memory_format=torch.channels_last)
        factors = sigmoid, w.gate_alpha, w.alpha, noise, ctx.rate
        own, whole = do.scale_sums(flowing, x, scales)
        _, _, t, v = x.shape
        before, parts, through, rows = do.excite_backward(
            narrow, table, w.excite_frames, w.excite_joints, scales, own, *factors, t
        )
        of_means, of_gate, of_norms = do.squeeze_backward(
            narrow, table, before, parts, sums, sigmoid, w.gate_alpha, w.squeeze_frames, w.squeeze_joints, rows, t
        )
        given_to = whole, through, of_gate, motion, hidden, sigmoid, w.gate_alpha, w.alpha, w.first, w.last, noise, ctx.rate
        of_motion = do.gate_backward(*given_to, rows, t, v)
        size = w.first.numel()
        scaled = sigmoid, w.gate_alpha, scales, w.alpha, noise, ctx.rate
        of_x, sums = do.tail_backward(flowing, x, *scaled, of_means, of_motion, rows, 4 * size)
        found = sums.split([size] * 6 + [x.shape[1]] * 2)
        squeeze_frames, squeeze_joints, excite_frames, excite_joints, first, last, alpha, gate_alpha = found
        of_weights = Weights(
            first,
            last,
            gate_alpha,
            alpha,
            squeeze_frames,
            excite_frames,
            of_norms[0, 0],
            of_norms[0, 1],
            squeeze_joints,
            excite_joints,
            of_norms[1, 0],
            of_norms[1, 1],
        )
        gradients = (one.view(weight.shape) for one, weight in zip(of_weights, w))
        return gradient, of_x, None, None, None, *gradients
