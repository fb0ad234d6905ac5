"""Operations for autograd that go through the compiled loops of :mod:`last_e.model.loops`.

What a norm needs of its batch, and what a gradient needs of all of it, are sums of one pass; what is left is one pass more, in
which the activation goes along. So a norm and its Hardswish read and write half as much memory as torch's two operations.

Shapes: N clips, C channels, T frames, V joints; activations (N, C, T, V), float32, in ``channels_last`` memory.
"""

from __future__ import annotations

from functools import cache
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

LARGE = 3 << 18
"""Numbers in a tensor (3 MiB) from which on passes over memory cost more than what it takes to begin a loop."""


def rows(x: Tensor) -> Tensor:
    """(N, C, T, V) in ``channels_last`` -> a view (N, T, V, C)."""
    return x.permute(0, 2, 3, 1)


def loops_for(x: Tensor, *norms: nn.BatchNorm2d) -> ModuleType | None:
    """The compiled loops, for activations that they take and that are worth it, and for norms as the network has them."""
    if x.device.type != "cpu" or x.dtype != torch.float32 or x.numel() < LARGE or not rows(x).is_contiguous():
        return None
    if any(norm.momentum is None or not norm.affine or not norm.track_running_stats for norm in norms):
        return None
    return loops()


@cache
def loops() -> ModuleType | None:
    """The compiled loops, which are compiled where that has not been done on this machine; None without a numba that works."""
    try:
        import numba

        from last_e.model import loops
    except Exception:  # it is not there, or does not fit this numpy, this system or another package
        return None
    return None if numba.config.DISABLE_JIT else loops


def _its_loops(x: Tensor) -> ModuleType:
    loops = loops_for(x)
    assert loops is not None
    return loops


def array(x: Tensor) -> Any:
    """The memory of (N, C, T, V) as a C-contiguous array (N, T, V, C); a copy where it is not in ``channels_last``."""
    return rows(x.detach()).contiguous().numpy()


def _flat(x: Tensor) -> Any:
    """The same as rows: (N T V, C)."""
    return array(x).reshape(-1, x.shape[1])


class Affine(NamedTuple):
    """A norm by its batch's statistics."""

    table: Any
    """(3, C) float32: mean, scale, bias."""
    inverse: Any
    """(C,) float64: one over the standard deviation."""
    rows: int
    """How many numbers of each channel there are."""

    @np.errstate(all="ignore")  # a step that is not finite is told of once, by who counts them
    def gradients(self, sums: Any) -> tuple[Any, Tensor, Tensor]:
        """From sums (parts, 2, C) of the gradient behind the norm, and of that times x - mean.

        The two terms (2, C) by which x's gradient is more than scale times that (the statistics depend on x too: Ioffe and
        Szegedy, Batch Normalization, ICML 2015, section 3), and the gradients of weight and bias (C,).
        """
        of_bias, with_x = sums.sum(axis=0, dtype=np.float64)
        terms = -self.table[1] / self.rows * np.stack([self.inverse**2 * with_x, of_bias])
        return terms.astype(np.float32), _tensor(with_x * self.inverse), _tensor(of_bias)


def _tensor(x: Any) -> Tensor:
    return torch.from_numpy(x.astype(np.float32))


@np.errstate(all="ignore")
def _affine(norm: nn.BatchNorm2d, weight: Tensor, bias: Tensor, sums: Any, origins: Any, counts: Any) -> Affine:
    """From sums (parts, 2, C) of x - origin and of its square; ``counts`` (parts, 1). Moves the running statistics.

    Chan, Golub and LeVeque, Algorithms for Computing the Sample Variance, 1983: parts put together without cancellation.
    """
    total = int(counts.sum())
    off = sums[:, 0].astype(np.float64) / counts
    mean = ((origins + off) * counts).sum(axis=0) / total
    squares = sums[:, 1] - off * sums[:, 0] + counts * np.square(origins + off - mean)
    var = np.maximum(squares.sum(axis=0) / total, 0)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    assert norm.num_batches_tracked is not None
    norm.num_batches_tracked += 1
    # As arrays, so that autograd does not count it: in the end all running statistics are one tensor, and torch's own norms
    # have kept theirs for the way back.
    for running, new in ((norm.running_mean, mean), (norm.running_var, var * (total / max(1, total - 1)))):
        kept = running.numpy()
        kept += norm.momentum * (new.astype(np.float32) - kept)
    inverse = 1 / np.sqrt(var + norm.eps)
    table = np.stack([mean, inverse * weight.detach().numpy(), bias.detach().numpy()]).astype(np.float32)
    return Affine(table, inverse, total)


def _measured(x: Tensor, norm: nn.BatchNorm2d, weight: Tensor, bias: Tensor) -> Affine:
    """The norm's affine map for this batch."""
    loops, values = _its_loops(x), _flat(x)
    begins = np.arange(0, len(values), loops.BLOCK)
    origins, sums = np.empty((len(begins), x.shape[1]), np.float32), np.empty((len(begins), 2, x.shape[1]), np.float32)
    loops.share(loops.moments, len(begins), values, origins, sums)
    counts = np.minimum(loops.BLOCK, len(values) - begins)[:, None]
    return _affine(norm, weight, bias, sums, origins, counts)


class NormThen(torch.autograd.Function):
    """Batch norm by the batch's statistics, then Hardswish, or the sum with ``add``."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, add: Tensor | None, norm: nn.BatchNorm2d, hardswish: bool
    ) -> Tensor:
        loops = _its_loops(x)
        ctx.affine = _measured(x, norm, weight, bias)
        ctx.curve = loops.HARDSWISH if hardswish else loops.NO_ACTIVATION
        ctx.save_for_backward(x)
        y = torch.empty_like(x)
        values, place = _flat(x), _flat(y)
        if add is None:
            loops.share(loops.norm, len(values), values, ctx.affine.table, *ctx.curve, place)
        else:
            loops.share(loops.norm_and_add, len(values), values, ctx.affine.table, _flat(add), place)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        (x,) = ctx.saved_tensors
        loops, values = _its_loops(x), _flat(x)
        arguments = values, ctx.affine.table, _flat(gradient), *ctx.curve
        sums = np.empty((-(-len(values) // loops.BLOCK), 2, x.shape[1]), np.float32)
        loops.share(loops.norm_sums, len(sums), *arguments, sums)
        terms, of_weight, of_bias = ctx.affine.gradients(sums)
        of_x = torch.empty_like(x)
        loops.share(loops.norm_backward, len(values), *arguments, terms, _flat(of_x))
        return of_x, of_weight, of_bias, gradient if ctx.needs_input_grad[3] else None, None, None


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
        loops = _its_loops(x)
        n, c, t, v = x.shape
        ctx.stride, ctx.first = stride, _measured(x, first, first_weight, first_bias)
        y = torch.empty((n, c, -(-t // stride), v), memory_format=torch.channels_last)
        origins, sums = np.empty((n, c), np.float32), np.empty((n, 2, c), np.float32)
        loops.share(loops.depthwise, n, array(x), ctx.first.table, _taps(weight), stride, array(y), origins, sums)
        ctx.last = _affine(last, last_weight, last_bias, sums, origins, np.full((n, 1), y[0, 0].numel()))
        ctx.save_for_backward(x, y, weight)
        out = torch.empty_like(y)
        values = _flat(y)
        loops.share(loops.norm, len(values), values, ctx.last.table, *loops.HARDSWISH, _flat(out))
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, y, weight = ctx.saved_tensors
        loops, values, flowing = _its_loops(x), _flat(y), array(gradient)
        n, c = x.shape[:2]
        sums = np.empty((-(-len(values) // loops.BLOCK), 2, c), np.float32)
        loops.share(loops.norm_sums, len(sums), values, ctx.last.table, flowing.reshape(-1, c), *loops.HARDSWISH, sums)
        terms, *of_last = ctx.last.gradients(sums)
        of_x, sums, of_weight = torch.empty_like(x), np.empty((n, 2, c), np.float32), np.empty((n, 5, c), np.float32)
        before = array(x), ctx.first.table, array(y), ctx.last.table, flowing, terms, _taps(weight), ctx.stride
        loops.share(loops.depthwise_backward, n, *before, array(of_x), sums, of_weight)
        terms, *of_first = ctx.first.gradients(sums)
        values = _flat(x)
        loops.share(loops.norm_backward_in_place, len(values), values, ctx.first.table, terms, _flat(of_x))
        of_taps = _tensor(of_weight.sum(axis=0, dtype=np.float64).T)
        return of_x, *of_first, of_taps.reshape(weight.shape), *of_last, None, None, None


def _taps(weight: Tensor) -> Any:
    """(C, 1, 5, 1) -> (5, C)."""
    return weight.detach().reshape(len(weight), 5).t().contiguous().numpy()


class Mix(torch.autograd.Function):
    """y[n, t, output[e]] += weight[n, e] x[n, t, source[e]], ``output`` ascending; weight (N, E), or (1, E) for all clips."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, output: Tensor, source: Tensor, outputs: int) -> Tensor:
        loops = _its_loops(x)
        n, c, t, v = x.shape
        ctx.graph = np.searchsorted(output.numpy(), np.arange(outputs + 1)).astype(np.int64), source.numpy()
        ctx.save_for_backward(x, weight)
        y = x.new_empty(n * t, outputs, c)
        loops.share(loops.mix, n * t, array(x).reshape(n * t, v, c), *ctx.graph, weight.detach().numpy(), t, y.numpy())
        return y.view(n, t, v, -1).permute(0, 3, 1, 2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        loops = _its_loops(x)
        n, c, t, v = x.shape
        flowing, values = array(gradient).reshape(n * t, -1, c), array(x).reshape(n * t, v, c)
        of_x, of_weight = torch.empty_like(x), weight.new_empty(n, weight.shape[1])
        places = array(of_x).reshape(n * t, v, c), of_weight.numpy()
        loops.share(loops.mix_backward, n, values, flowing, *ctx.graph, weight.numpy(), t, *places)
        return of_x, of_weight if len(weight) == n else of_weight.sum(dim=0, keepdim=True), None, None, None
