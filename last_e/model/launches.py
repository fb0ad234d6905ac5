"""The kernels of :mod:`last_e.model.kernels` as operations of torch (``torch.ops.lastrun``): which programs there are of each.

As operations they are known to all that torch has for its own: each says what comes out of it without computing it
(FakeTensorMode), and what it changes. Made when they are first asked for.

Shapes: N clips, C channels, T frames, V joints; activations (N, C, T, V) in ``channels_last`` memory, tables and parts float32.
"""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from last_e.gpu import has_no_memory, is_lost
from last_e.model import gate_launches, head_launches, spatial_launches, stem_launches, step_launches
from last_e.model.agreed import KernelFailed, said
from last_e.model.layout import COLUMNS, blocks, power_of_two

PARTS = 256
"""So many programs share the rows of an activation, where it has as many: more than a GPU has multiprocessors, and few enough
that their parts are put together at once."""
FRAMES = 16
"""That a program of the depthwise convolution goes over: few enough that there are programs for all multiprocessors, and many
enough that the four frames beside them, which another reads as well, are few."""
JOINTS = 8
"""Of which it takes that many."""
MIXED = 8
"""Frames that a program which mixes joints goes over."""
BLOCK = 16
"""Outputs that it computes at a time, and channels of a program that puts parts together."""


@cache
def ops() -> Any:
    """The operations.

    Raises:
        Exception: there is no Triton here, or none that works.
    """
    from last_e.model import gate_kernels, head_kernels, kernels, spatial_kernels, stem_kernels, step_kernels

    return defined(
        {
            kernels: _OPS,
            gate_kernels: gate_launches.OPS,
            spatial_kernels: spatial_launches.OPS,
            head_kernels: head_launches.OPS,
            stem_kernels: stem_launches.OPS,
            step_kernels: step_launches.OPS,
        }
    )


def defined(apart: dict[Any, dict[str, tuple[str, Any, Any]]]) -> Any:
    """``torch.ops.lastrun`` with these operations: for each module of kernels by name the schema, the launch with what comes
    out of it, and what comes out of it. Called, they raise :class:`KernelFailed` for whatever the launch does."""
    library: Any = torch.library.Library("lastrun", "FRAGMENT")  # type: ignore[no-untyped-call]
    every = [(module, name, *one) for module, those in apart.items() for name, one in those.items()]
    for module, name, schema, run, shaped in every:
        library.define(f"{name}{schema}")

        def launched(*given: Any, of: Any = module, launch: Any = run, out: Any = shaped, called: str = name) -> Any:
            made = out(*given)
            try:
                launch(of, *given, *(() if made is None else made if isinstance(made, tuple) else (made,)))
            except Exception as error:  # Triton's, the driver's, the assembler's
                if is_lost(error) or has_no_memory(error):
                    raise
                raise KernelFailed(f"{called}: {said(error)}") from error
            return made

        library.impl(name, launched, "CompositeExplicitAutograd")
        torch.library.register_fake(f"lastrun::{name}", shaped, lib=library)
    _KEPT.append(library)
    return torch.ops.lastrun


_KEPT: list[Any] = []
"""What a library defines is gone with it."""


class Tile(NamedTuple):
    """What a program takes of an activation at a time: numbers of rows and of channels, powers of two."""

    rows: int
    channels: int


def tile(channels: int) -> Tile:
    """2,048 numbers: 16 for each of 128 threads. As few channels as possible beyond the last are asked for in vain."""
    width = next((width for width in (64, 32) if channels % width == 0), 64 if channels > 96 else 32 if channels > 16 else 16)
    return Tile(2048 // width, width)


def _share(count: int, size: Tile) -> int:
    """How many of ``count`` rows a program goes over: whole tiles."""
    return blocks(count, PARTS * size.rows) * size.rows


def _rows(x: Tensor) -> int:
    return x.numel() // x.shape[1]


def _parts(x: Tensor, sums: int) -> Tensor:
    """For sums over the rows of an activation."""
    return x.new_empty(blocks(_rows(x), _share(_rows(x), tile(x.shape[1]))), sums, x.shape[1], dtype=torch.float32)


def _over_rows(x: Tensor) -> tuple[tuple[int, int], dict[str, int]]:
    """Grid and sizes of programs that each take a tile."""
    size = tile(x.shape[1])
    return (blocks(_rows(x), size.rows), blocks(x.shape[1], size.channels)), {"R": size.rows, "C": size.channels}


def _over_frames(y: Tensor) -> tuple[tuple[int, int, int], dict[str, int]]:
    """Grid and sizes for the depthwise convolution, from what it gives."""
    n, c, t, v = y.shape
    size = {"T": FRAMES, "V": JOINTS, "C": 64 if c % 64 == 0 else 32, "UNROLL": 2}
    return (n * blocks(t, FRAMES), blocks(v, JOINTS), blocks(c, size["C"])), size


def _over_joints(x: Tensor, mixing: Tensor) -> tuple[tuple[int, int], dict[str, int]]:
    """Grid and sizes for what mixes joints."""
    n, c, t, v = x.shape
    most = 64 if x.element_size() == 2 else 32  # float32 of 64 channels would not fit an A100's registers
    size = {"T": MIXED, "V": power_of_two(v, 16), "C": most if c % most == 0 else 32 if c > 16 else 16}
    return (n * blocks(t, MIXED), blocks(c, size["C"])), {**size, "OUT": BLOCK, "BLOCKS": blocks(mixing.shape[1], BLOCK)}


def _of_clip(mixing: Tensor) -> int:
    return mixing.stride(0) if len(mixing) > 1 else 0


# --- each: what comes out of it, and its launch ----------------------------------------------------------------------------


def _moments_out(x: Tensor) -> Tensor:
    return _parts(x, 4)


def _moments(kernels: Any, x: Tensor, parts: Tensor) -> None:
    (_, across), size = _over_rows(x)
    share = _share(_rows(x), tile(x.shape[1]))
    kernels.moments[len(parts), across](x, parts, _rows(x), x.shape[1], share, **size)


def _affine_out(
    parts: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, var: Tensor, tracked: Tensor, momentum: float, eps: float
) -> Tensor:
    return parts.new_empty(4, parts.shape[2])


def _affine(kernels: Any, parts: Tensor, *rest: Any) -> None:
    channels = parts.shape[2]
    kernels.affine[(blocks(channels, BLOCK),)](parts, len(parts), channels, *rest, P=64, C=BLOCK)


def _norm_out(x: Tensor, table: Tensor, add: Tensor | None, hardswish: bool) -> Tensor:
    return torch.empty_like(x)


def _norm(kernels: Any, x: Tensor, table: Tensor, add: Tensor | None, hardswish: bool, y: Tensor) -> None:
    grid, size = _over_rows(x)
    given = x, table, x if add is None else add, y, _rows(x), x.shape[1]
    kernels.norm[grid](*given, ADD=add is not None, HARDSWISH=hardswish, **size)


def _norm_sums_out(x: Tensor, table: Tensor, gradient: Tensor, more: Tensor | None, hardswish: bool) -> Tensor:
    return _parts(x, 2)


def _norm_sums(
    kernels: Any, x: Tensor, table: Tensor, gradient: Tensor, more: Tensor | None, hardswish: bool, parts: Tensor
) -> None:
    (_, across), size = _over_rows(x)
    share = _share(_rows(x), tile(x.shape[1]))
    given = x, table, gradient, gradient if more is None else more, parts, _rows(x), x.shape[1], share
    kernels.norm_sums[len(parts), across](*given, MORE=more is not None, HARDSWISH=hardswish, **size)


def _gradients_out(parts: Tensor, table: Tensor, rows: int) -> tuple[Tensor, Tensor, Tensor]:
    _, sums, channels = parts.shape
    return parts.new_empty(2, channels), parts.new_empty(2, channels), parts.new_empty(channels, sums - 2)


def _gradients(kernels: Any, parts: Tensor, table: Tensor, rows: int, terms: Tensor, of_norm: Tensor, of_taps: Tensor) -> None:
    many, sums, channels = parts.shape
    given = parts, many, table, channels, rows, terms, of_norm, of_taps
    kernels.gradients[(blocks(channels, BLOCK),)](*given, TAPS=sums - 2, P=64, C=BLOCK)


def _norm_backward_out(
    x: Tensor, table: Tensor, gradient: Tensor, more: Tensor | None, terms: Tensor, hardswish: bool
) -> Tensor:
    return torch.empty_like(x)


def _norm_backward(
    kernels: Any,
    x: Tensor,
    table: Tensor,
    gradient: Tensor,
    more: Tensor | None,
    terms: Tensor,
    hardswish: bool,
    of_x: Tensor,
) -> None:
    grid, size = _over_rows(x)
    given = x, table, gradient, gradient if more is None else more, terms, of_x, _rows(x), x.shape[1]
    kernels.norm_backward[grid](*given, MORE=more is not None, HARDSWISH=hardswish, **size)


def _in_place_out(x: Tensor, table: Tensor, gradient: Tensor, terms: Tensor) -> None:
    return None


def _in_place(kernels: Any, x: Tensor, table: Tensor, gradient: Tensor, terms: Tensor) -> None:
    _norm_backward(kernels, x, table, gradient, None, terms, False, gradient)


def _depthwise_out(x: Tensor, table: Tensor, taps: Tensor, stride: int) -> tuple[Tensor, Tensor]:
    n, c, t, v = x.shape
    y = torch.empty((n, c, blocks(t, stride), v), dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
    grid, _ = _over_frames(y)
    return y, x.new_empty(grid[0] * grid[1], 4, c, dtype=torch.float32)


def _depthwise(kernels: Any, x: Tensor, table: Tensor, taps: Tensor, stride: int, y: Tensor, parts: Tensor) -> None:
    grid, size = _over_frames(y)
    _, c, t, v = x.shape
    kernels.depthwise[grid](x, table, taps, y, parts, t, y.shape[2], v, c, STRIDE=stride, **size)


def _depthwise_backward_out(
    x: Tensor, table: Tensor, y: Tensor, last_table: Tensor, gradient: Tensor, last_terms: Tensor, taps: Tensor, stride: int
) -> tuple[Tensor, Tensor]:
    grid, _ = _over_frames(y)
    return torch.empty_like(x), x.new_empty(grid[0] * grid[1], 7, x.shape[1], dtype=torch.float32)


def _depthwise_backward(
    kernels: Any,
    x: Tensor,
    table: Tensor,
    y: Tensor,
    last_table: Tensor,
    gradient: Tensor,
    last_terms: Tensor,
    taps: Tensor,
    stride: int,
    of_x: Tensor,
    parts: Tensor,
) -> None:
    grid, size = _over_frames(y)
    _, c, t, v = x.shape
    given = x, table, y, last_table, gradient, last_terms, taps, of_x, parts, t, y.shape[2], v, c
    kernels.depthwise_backward[grid](*given, STRIDE=stride, **size)


def _mix_out(x: Tensor, mixing: Tensor) -> Tensor:
    n, c, t, v = x.shape
    return x.new_empty(n, t, v, mixing.shape[1] // v * c)


def _mix(kernels: Any, x: Tensor, mixing: Tensor, y: Tensor) -> None:
    grid, size = _over_joints(x, mixing)
    _, c, t, v = x.shape
    kernels.mix[grid](x, mixing, y, t, v, mixing.shape[1], c, _of_clip(mixing), **size)


def _mix_backward_out(gradient: Tensor, mixing: Tensor) -> Tensor:
    n, c, t, _ = gradient.shape
    outputs, v = mixing.shape[1:]
    shape = n, c * v // outputs, t, v
    return torch.empty(shape, dtype=gradient.dtype, device=gradient.device, memory_format=torch.channels_last)


def _mix_backward(kernels: Any, gradient: Tensor, mixing: Tensor, of_x: Tensor) -> None:
    grid, size = _over_joints(of_x, mixing)
    n, c, t, v = of_x.shape
    nothing = of_x, mixing, mixing, mixing
    given = gradient, mixing, *nothing[:2], of_x, *nothing[2:], n, 0, t, v, mixing.shape[1], c, _of_clip(mixing)
    kernels.mix_backward[grid](*given, ADD=False, **size, **COLUMNS)


def _mix_and_sum_out(gradient: Tensor, mixing: Tensor, add: Tensor, means: Tensor, found: Tensor) -> tuple[Tensor, Tensor]:
    return _mix_backward_out(gradient, mixing), found.new_empty(found.shape[1])


def _mix_and_sum(
    kernels: Any,
    gradient: Tensor,
    mixing: Tensor,
    add: Tensor,
    means: Tensor,
    found: Tensor,
    of_x: Tensor,
    sums: Tensor,
) -> None:
    (tiles, across), size = _over_joints(of_x, mixing)
    n, c, t, v = of_x.shape
    length = len(sums)
    grid = tiles + blocks(blocks(length, COLUMNS["COLUMNS"]), across), across
    shape = n, length, t, v, mixing.shape[1], c, _of_clip(mixing)
    kernels.mix_backward[grid](gradient, mixing, add, means, of_x, found, sums, *shape, ADD=True, **size, **COLUMNS)


def _mix_weights_out(gradient: Tensor, x: Tensor, mixing: Tensor) -> Tensor:
    n, _, t, v = x.shape
    return x.new_empty(n, blocks(t, MIXED), mixing.shape[1], v, dtype=torch.float32)


def _mix_weights(kernels: Any, gradient: Tensor, x: Tensor, mixing: Tensor, parts: Tensor) -> None:
    (programs, _), size = _over_joints(x, mixing)
    _, c, t, v = x.shape
    grid = programs, size.pop("BLOCKS")
    kernels.mix_weights[grid](gradient, x, parts, t, v, mixing.shape[1], c, **size)


_OPS: dict[str, tuple[str, Any, Any]] = {
    "moments": ("(Tensor x) -> Tensor", _moments, _moments_out),
    "affine": (
        "(Tensor parts, Tensor weight, Tensor bias, Tensor(a!) mean, Tensor(b!) var, Tensor(c!) tracked, float momentum, "
        "float eps) -> Tensor",
        _affine,
        _affine_out,
    ),
    "norm": ("(Tensor x, Tensor table, Tensor? add, bool hardswish) -> Tensor", _norm, _norm_out),
    "norm_sums": (
        "(Tensor x, Tensor table, Tensor gradient, Tensor? more, bool hardswish) -> Tensor",
        _norm_sums,
        _norm_sums_out,
    ),
    "gradients": ("(Tensor parts, Tensor table, int rows) -> (Tensor, Tensor, Tensor)", _gradients, _gradients_out),
    "norm_backward": (
        "(Tensor x, Tensor table, Tensor gradient, Tensor? more, Tensor terms, bool hardswish) -> Tensor",
        _norm_backward,
        _norm_backward_out,
    ),
    "norm_backward_": ("(Tensor x, Tensor table, Tensor(a!) gradient, Tensor terms) -> ()", _in_place, _in_place_out),
    "depthwise": ("(Tensor x, Tensor table, Tensor taps, int stride) -> (Tensor, Tensor)", _depthwise, _depthwise_out),
    "depthwise_backward": (
        "(Tensor x, Tensor table, Tensor y, Tensor last_table, Tensor gradient, Tensor last_terms, Tensor taps, int stride) -> "
        "(Tensor, Tensor)",
        _depthwise_backward,
        _depthwise_backward_out,
    ),
    "mix": ("(Tensor x, Tensor mixing) -> Tensor", _mix, _mix_out),
    "mix_backward": ("(Tensor gradient, Tensor mixing) -> Tensor", _mix_backward, _mix_backward_out),
    "mix_backward_and_sum": (
        "(Tensor gradient, Tensor mixing, Tensor add, Tensor means, Tensor found) -> (Tensor, Tensor)",
        _mix_and_sum,
        _mix_and_sum_out,
    ),
    "mix_weights": ("(Tensor gradient, Tensor x, Tensor mixing) -> Tensor", _mix_weights, _mix_weights_out),
}
"""By name: its schema, its launch with what comes out of it, and what comes out of it."""
