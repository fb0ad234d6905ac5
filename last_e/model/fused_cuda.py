"""Operations for autograd that go through the kernels of :mod:`last_e.model.kernels`, on GPUs from Turing (sm_75) on.

They are the same operations as those of :mod:`last_e.model.fused`, on activations in half precision or float32; sums are in
float32 within a program and in float64 across them, statistics and gradients of weights in float32.

Shapes: N clips, C channels, T frames, V joints, K graph subsets; activations (N, C, T, V) in ``channels_last`` memory.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from last_e.model.fused import rows

OLDEST = (7, 5)
"""Compute capability from which on Triton makes kernels."""
PARTS = 256
"""So many programs share the rows of an activation, where it has as many: more than a GPU has multiprocessors, and few enough
that their parts are put together at once."""
FRAMES = 16
"""That a program of the depthwise convolution goes over: few enough that there are programs for all multiprocessors, and many
enough that the four frames beside them, which another reads as well, are few."""


_TRIED: dict[int, bool] = {}
"""Of GPUs, by their number: whether the kernels came out as torch there."""


def kernels_for(x: Tensor, *norms: nn.BatchNorm2d) -> bool:
    """Whether the kernels do it: for activations that they take and that are trained with, and for norms as the network has
    them, on a GPU where :func:`try_out` found them right."""
    if not _TRIED.get(x.device.index or 0) or x.device.type != "cuda" or not x.requires_grad or not rows(x).is_contiguous():
        return False
    return all(norm.momentum is not None and norm.affine and norm.track_running_stats for norm in norms)


def used_on(device: torch.device) -> bool:
    """Whether training there goes through the kernels."""
    return device.type == "cuda" and _TRIED.get(device.index or 0, False)


def leave(device: torch.device) -> None:
    """Use torch's operations alone there."""
    _TRIED[device.index or 0] = False


def try_out(device: torch.device) -> str | None:
    """Have a GPU compute a little with the kernels and with torch, and use them from then on where both agree.

    Returns:
        None, or why they are not used.
    """
    place = device.index or 0
    _TRIED[place] = False
    capability = torch.cuda.get_device_capability(device)
    if capability < OLDEST:
        return (
            f"they need a GPU of compute capability {OLDEST[0]}.{OLDEST[1]}, and this one has {capability[0]}.{capability[1]}"
        )
    if kernels() is None:
        return "triton is not installed here, or does not work; torch's own builds for CUDA bring it"
    try:
        off = {name: value for name, value in differences(device).items() if not value <= 1e-4}
    except Exception as error:  # Triton's, the driver's, the assembler's: torch does without
        return f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')[:300]}"
    if off:
        return ", ".join(f"{name} differs from torch's by {value:.1e}" for name, value in off.items())
    _TRIED[place] = True
    return None


def differences(device: torch.device) -> dict[str, float]:
    """How far the operations and their gradients are on small float32 activations from torch's in float64, relative to the
    largest number."""
    generator = torch.Generator().manual_seed(5)

    def drawn(*shape: int) -> Tensor:
        x = torch.randn(shape, generator=generator).to(device)
        return (_as_laid_out(x) if len(shape) == 4 else x).requires_grad_()

    def norm() -> nn.BatchNorm2d:
        one = nn.BatchNorm2d(24, device=device)
        one.weight.data, one.bias.data = drawn(24).detach(), drawn(24).detach()
        return one

    def apart(own: Tensor, given: Sequence[Tensor], torchs: Callable[..., Tensor]) -> float:
        twin = [each.detach().double().requires_grad_() for each in given]
        other = torchs(*twin)
        flowing = _as_laid_out(torch.linspace(-1, 1, own.numel(), device=device).view(own.shape))
        pairs = [(own, other)]
        pairs += zip(torch.autograd.grad(own, given, flowing), torch.autograd.grad(other, twin, flowing.double()))
        return max(float(((one - two).abs().max() / two.abs().max()).detach()) for one, two in pairs)

    def normed(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return F.batch_norm(x, None, None, weight, bias, training=True)

    found = {}
    for stride in (1, 2):
        first, last = norm(), norm()
        given: tuple[Tensor, ...] = drawn(2, 24, 19, 9), first.weight, first.bias, drawn(24, 1, 5, 1), last.weight, last.bias

        def between(x: Tensor, w: Tensor, b: Tensor, taps: Tensor, *then: Tensor, by: int = stride) -> Tensor:
            y = F.conv2d(F.hardswish(normed(x, w, b)), taps, stride=(by, 1), padding=(2, 0), groups=24)
            return F.hardswish(normed(y, *then))

        own = Depthwise.apply(*given, first, last, stride)  # type: ignore[no-untyped-call]
        found[f"the depthwise convolution of stride {stride}"] = apart(own, given, between)
    one = norm()
    given = drawn(2, 24, 7, 9), one.weight, one.bias, drawn(2, 24, 7, 9)
    own = NormThen.apply(*given, one, False)  # type: ignore[no-untyped-call]
    found["the norm with a sum"] = apart(own, given, lambda x, w, b, add: normed(x, w, b) + add)
    own = NormThen.apply(*given[:3], None, one, True)  # type: ignore[no-untyped-call]
    found["the norm with Hardswish"] = apart(own, given[:3], lambda *all_of_it: F.hardswish(normed(*all_of_it)))
    given = drawn(2, 24, 7, 9), drawn(2, 27, 9)
    own = Mix.apply(*given)  # type: ignore[no-untyped-call]
    found["the mixing of joints"] = apart(
        own, given, lambda x, m: torch.einsum("nov,nctv->ntoc", m, x).reshape(2, 7, 9, 72).permute(0, 3, 1, 2)
    )
    return found


@cache
def kernels() -> ModuleType | None:
    """The kernels, which Triton makes for a GPU when they are first used on it; None where there is no Triton."""
    try:
        from last_e.model import kernels
    except Exception:  # it is not there, or does not fit this Python or this system
        return None
    return kernels


def _its_kernels() -> Any:
    found = kernels()
    assert found is not None
    return found


class Tile(NamedTuple):
    """What a program takes of an activation at a time: numbers of rows and of channels, powers of two."""

    rows: int
    channels: int


def tile(channels: int) -> Tile:
    """2,048 numbers: 16 for each of 128 threads. As few channels as possible beyond the last are asked for in vain."""
    width = next((width for width in (64, 32) if channels % width == 0), 64 if channels > 96 else 32 if channels > 16 else 16)
    return Tile(2048 // width, width)


def share_of(count: int, tile: Tile) -> int:
    """How many of ``count`` rows a program goes over: whole tiles."""
    return -(-count // PARTS // tile.rows) * tile.rows if count > PARTS * tile.rows else tile.rows


def blocks(count: int, size: int) -> int:
    """How many blocks of a size there are in so many."""
    return -(-count // size)


class Affine(NamedTuple):
    """A norm by its batch's statistics."""

    table: Tensor
    """(4, C) float32: mean, scale, bias, one over the standard deviation."""
    rows: int
    """How many numbers of each channel there are."""

    def gradients(self, parts: Tensor, taps: int = 0) -> tuple[Tensor, Tensor, Tensor]:
        """From parts (programs, 2 + taps, C) the terms (2, C) of x's gradient, the gradients (2, C) of weight and bias, and
        (C, taps) those of the taps."""
        channels = parts.shape[2]
        terms, of_norm = parts.new_empty(2, channels), parts.new_empty(2, channels)
        of_taps = parts.new_empty(channels, taps) if taps else terms
        _its_kernels().gradients[(blocks(channels, 16),)](
            parts, len(parts), self.table, channels, self.rows, terms, of_norm, of_taps, TAPS=taps, P=64, C=16
        )
        return terms, of_norm, of_taps


def _affine(parts: Tensor, count: int, norm: nn.BatchNorm2d, weight: Tensor, bias: Tensor) -> Affine:
    """From the parts (programs, 4, C) that ``moments`` gives; moves the running statistics."""
    channels = parts.shape[2]
    assert norm.num_batches_tracked is not None
    norm.num_batches_tracked += 1
    table = parts.new_empty(4, channels)
    arguments = weight.detach(), bias.detach(), norm.running_mean, norm.running_var, norm.momentum, norm.eps, table
    _its_kernels().affine[(blocks(channels, 16),)](parts, len(parts), channels, *arguments, P=64, C=16)
    return Affine(table, count)


def _measured(x: Tensor, norm: nn.BatchNorm2d, weight: Tensor, bias: Tensor) -> Affine:
    """The norm's affine map for this batch."""
    channels, size = x.shape[1], tile(x.shape[1])
    count = x.numel() // channels
    share = share_of(count, size)
    parts = torch.empty(blocks(count, share), 4, channels, dtype=torch.float32, device=x.device)
    grid = len(parts), blocks(channels, size.channels)
    _its_kernels().moments[grid](x, parts, count, channels, share, R=size.rows, C=size.channels)
    return _affine(parts, count, norm, weight, bias)


def _normed(x: Tensor, affine: Affine, add: Tensor | None, hardswish: bool) -> Tensor:
    y, channels, size = torch.empty_like(x), x.shape[1], tile(x.shape[1])
    grid = blocks(affine.rows, size.rows), blocks(channels, size.channels)
    options = {"ADD": add is not None, "HARDSWISH": hardswish, "R": size.rows, "C": size.channels}
    _its_kernels().norm[grid](x, affine.table, x if add is None else add, y, affine.rows, channels, **options)
    return y


def _norm_sums(x: Tensor, affine: Affine, gradient: Tensor, hardswish: bool) -> Tensor:
    channels, size = x.shape[1], tile(x.shape[1])
    share = share_of(affine.rows, size)
    parts = torch.empty(blocks(affine.rows, share), 2, channels, dtype=torch.float32, device=x.device)
    grid = len(parts), blocks(channels, size.channels)
    options = {"HARDSWISH": hardswish, "R": size.rows, "C": size.channels}
    _its_kernels().norm_sums[grid](x, affine.table, gradient, parts, affine.rows, channels, share, **options)
    return parts


def _norm_backward(x: Tensor, affine: Affine, gradient: Tensor, terms: Tensor, out: Tensor, hardswish: bool) -> None:
    channels, size = x.shape[1], tile(x.shape[1])
    grid = blocks(affine.rows, size.rows), blocks(channels, size.channels)
    options = {"HARDSWISH": hardswish, "R": size.rows, "C": size.channels}
    _its_kernels().norm_backward[grid](x, affine.table, gradient, terms, out, affine.rows, channels, **options)


def _as_laid_out(x: Tensor) -> Tensor:
    """In ``channels_last``; a copy where it is not."""
    return x.contiguous(memory_format=torch.channels_last)


class NormThen(torch.autograd.Function):
    """Batch norm by the batch's statistics, then Hardswish, or the sum with ``add``."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, add: Tensor | None, norm: nn.BatchNorm2d, hardswish: bool
    ) -> Tensor:
        ctx.affine, ctx.hardswish = _measured(x, norm, weight, bias), hardswish
        ctx.save_for_backward(x)
        return _normed(x, ctx.affine, None if add is None else _as_laid_out(add), hardswish)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        (x,) = ctx.saved_tensors
        flowing = _as_laid_out(gradient)
        terms, of_norm, _ = ctx.affine.gradients(_norm_sums(x, ctx.affine, flowing, ctx.hardswish))
        of_x = torch.empty_like(x)
        _norm_backward(x, ctx.affine, flowing, terms, of_x, ctx.hardswish)
        return of_x, of_norm[0], of_norm[1], gradient if ctx.needs_input_grad[3] else None, None, None


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
        ctx.stride, ctx.first = stride, _measured(x, first, first_weight, first_bias)
        n, c, t, v = x.shape
        after = blocks(t, stride)
        y = torch.empty((n, c, after, v), dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
        grid, size = _over_frames(y)
        parts = torch.empty(grid[0] * grid[1], 4, c, dtype=torch.float32, device=x.device)
        arguments = x, ctx.first.table, weight.detach(), y, parts, t, after, v, c
        _its_kernels().depthwise[grid](*arguments, STRIDE=stride, **size)
        ctx.last = _affine(parts, n * after * v, last, last_weight, last_bias)
        ctx.save_for_backward(x, y, weight)
        return _normed(y, ctx.last, None, True)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, y, weight = ctx.saved_tensors
        flowing = _as_laid_out(gradient)
        terms, of_last, _ = ctx.last.gradients(_norm_sums(y, ctx.last, flowing, True))
        of_x, (_, c, t, v) = torch.empty_like(x), x.shape
        grid, size = _over_frames(y)
        parts = torch.empty(grid[0] * grid[1], 7, c, dtype=torch.float32, device=x.device)
        behind = y, ctx.last.table, flowing, terms
        arguments = x, ctx.first.table, *behind, weight.detach(), of_x, parts, t, y.shape[2], v, c
        _its_kernels().depthwise_backward[grid](*arguments, STRIDE=ctx.stride, **size)
        terms, of_first, of_taps = ctx.first.gradients(parts, taps=5)
        _norm_backward(x, ctx.first, of_x, terms, of_x, False)
        return of_x, of_first[0], of_first[1], of_taps.view(weight.shape), of_last[0], of_last[1], None, None, None


def _over_frames(y: Tensor) -> tuple[tuple[int, int, int], dict[str, int]]:
    """Grid and sizes for :func:`last_e.model.kernels.depthwise`, from what it gives."""
    n, c, t, v = y.shape
    size = {"T": FRAMES, "V": 8, "C": 64 if c % 64 == 0 else 32, "UNROLL": 2}
    return (n * blocks(t, FRAMES), blocks(v, size["V"]), blocks(c, size["C"])), size


class Mix(torch.autograd.Function):
    """(N, C, T, V) to (N, K C, T, V): y[n, o, t] = sum_v mixing[n, o, v] x[n, v, t] for each channel, o = w K + k; mixing
    (N, V K, V), or (1, V K, V) for all clips, in float32."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, mixing: Tensor) -> Tensor:
        ctx.save_for_backward(x, mixing)
        n, c, t, v = x.shape
        outputs = mixing.shape[1]
        y = torch.empty(n, t, v, outputs // v * c, dtype=x.dtype, device=x.device)
        grid, size = _over_joints(x)
        size |= {"OUT": 16, "BLOCKS": blocks(outputs, 16)}
        _its_kernels().mix[grid](x, mixing.detach(), y, t, v, outputs, c, _of_clip(mixing), **size)
        return y.permute(0, 3, 1, 2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        x, mixing = ctx.saved_tensors
        n, c, t, v = x.shape
        flowing, outputs = _as_laid_out(gradient), mixing.shape[1]
        of_x = torch.empty_like(x)
        grid, size = _over_joints(x)
        of_block = {**size, "OUT": 16}
        many = {"BLOCKS": blocks(outputs, 16)}
        _its_kernels().mix_backward[grid](flowing, mixing, of_x, t, v, outputs, c, _of_clip(mixing), **of_block, **many)
        chunks = blocks(t, size["T"])
        parts = torch.empty(n, chunks, outputs, v, dtype=torch.float32, device=x.device)
        _its_kernels().mix_weights[(n * chunks, blocks(outputs, 16))](flowing, x, parts, t, v, outputs, c, **of_block)
        return of_x, parts.sum(dim=1) if len(mixing) == n else parts.sum(dim=(0, 1))[None]


def _of_clip(mixing: Tensor) -> int:
    return mixing.stride(0) if len(mixing) > 1 else 0


def _over_joints(x: Tensor) -> tuple[tuple[int, int], dict[str, int]]:
    """Grid and sizes for :func:`last_e.model.kernels.mix`, but those of its outputs."""
    n, c, t, v = x.shape
    size = {"T": 8, "V": max(16, 1 << (v - 1).bit_length()), "C": 64 if c % 64 == 0 else 32 if c > 16 else 16}
    return (n * blocks(t, 8), blocks(c, size["C"])), size
