"""The kernels of :mod:`last_e.model.gate_kernels` as operations of torch, as :mod:`last_e.model.launches` has the others.

Shapes: N clips, C channels, T frames, V joints, H what the gates squeeze channels to, K chunks of frames, B blocks of rows; all
but activations and ``narrow`` and ``scales`` is float32.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from last_e.model.layout import CHUNK, COLUMNS, blocks, power_of_two

MOST_ROWS = 64
"""Frames or joints that a program of the attention takes."""
PARTS = 8
"""Rows of parts that are put together at a time."""


def _chunks(x: Tensor) -> int:
    return blocks(x.shape[2], CHUNK)


def rows_of(frames: int, joints: int, hidden: int, itemsize: int) -> int:
    """How many rows of a branch a program takes: all, or as many as its registers hold."""
    width = power_of_two(hidden, 16)
    most = 2048 // width if width < 64 and itemsize == 2 else 1024 // width
    return max(16, min(MOST_ROWS, power_of_two(max(frames, joints)), most))


def _over_clips(x: Tensor) -> tuple[tuple[int, int], dict[str, int]]:
    """Grid and sizes of programs that each go over a chunk of a clip's frames, all joints of them."""
    v = power_of_two(x.shape[3], 16)
    size = {"T": CHUNK, "V": v, "C": 32 if v <= 32 else 16}
    return (len(x) * _chunks(x), blocks(x.shape[1], size["C"])), size


def _over_rows(
    clips: int, frames: int, joints: int, hidden: int, form: torch.dtype
) -> tuple[tuple[int, int], dict[str, int], int]:
    """Grid and sizes of programs that each take a block of rows of a branch; how many blocks of each clip there are."""
    width = power_of_two(hidden, 16)
    size = {"R": rows_of(frames, joints, hidden, form.itemsize), "H": width, "num_warps": 8 if width < 64 else 4}
    many = blocks(max(frames, joints), size["R"])
    return (clips * many, 2), size, many


def _floats(x: Tensor, *shape: int) -> Tensor:
    return x.new_empty(shape, dtype=torch.float32)


def _pool_out(x: Tensor) -> tuple[Tensor, Tensor]:
    n, c, t, v = x.shape
    return _floats(x, n, t + _chunks(x) * v, c), _floats(x, n * _chunks(x), c)


def _pool(kernels: Any, x: Tensor, sums: Tensor, motion: Tensor) -> None:
    grid, size = _over_clips(x)
    _, c, t, v = x.shape
    kernels.pool[grid](x, sums, motion, t, v, c, **size)


def _squeeze_out(
    sums: Tensor,
    motion: Tensor,
    first: Tensor,
    last: Tensor,
    gate_alpha: Tensor,
    of_frames: Tensor,
    of_joints: Tensor,
    frames: int,
    joints: int,
    form: torch.dtype,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    n, c, hidden = len(sums), sums.shape[2], len(first)
    (many, _), _, _ = _over_rows(n, frames, joints, hidden, form)
    narrow = sums.new_empty(n, frames + joints, hidden, dtype=form)
    return narrow, _floats(sums, n, hidden), _floats(sums, n, c), _floats(sums, many, 2, 4, hidden)


def _squeeze(kernels: Any, sums: Tensor, motion: Tensor, first: Tensor, *rest: Any) -> None:
    *given, frames, joints, _, narrow, hidden, sigmoid, parts = rest
    grid, size, many = _over_rows(len(sums), frames, joints, len(first), narrow.dtype)
    shape = frames, joints, blocks(frames, CHUNK), many, sums.shape[2], len(first)
    kernels.squeeze[grid](sums, motion, first, *given, narrow, hidden, sigmoid, parts, *shape, C=32, **size)


def _excite_out(narrow: Tensor, parts: Tensor, of_frames: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    n, rows, hidden = narrow.shape
    return _floats(narrow, 2, 4, hidden), narrow.new_empty(n, rows, len(of_frames))


def _excite(kernels: Any, narrow: Tensor, parts: Tensor, of_frames: Tensor, *rest: Any) -> None:
    *given, frames, table, scales = rest
    n, rows, hidden = narrow.shape
    grid, size, many = _over_rows(n, frames, rows - frames, hidden, narrow.dtype)
    shape = len(parts), frames, rows - frames, many, len(of_frames), hidden
    kernels.excite[grid](narrow, parts, of_frames, *given, table, scales, *shape, P=PARTS, C=32, **size)


def _noise(noise: Tensor | None, x: Tensor, rate: float) -> tuple[Any, ...]:
    return (x, 0, 0.0) if noise is None else (noise, noise.stride(0), rate)


def _scale_out(base: Tensor, x: Tensor, *rest: Any) -> Tensor:
    return torch.empty_like(x)


def _scale(
    kernels: Any,
    base: Tensor,
    x: Tensor,
    sigmoid: Tensor,
    gate_alpha: Tensor,
    scales: Tensor,
    alpha: Tensor,
    noise: Tensor | None,
    rate: float,
    out: Tensor,
) -> None:
    grid, size = _over_clips(x)
    _, c, t, v = x.shape
    given = base, x, sigmoid, gate_alpha, scales, alpha, *_noise(noise, x, rate), out
    kernels.scale[grid](*given, t, v, c, DROP=noise is not None, **size)


def _scale_sums_out(gradient: Tensor, x: Tensor, scales: Tensor) -> tuple[Tensor, Tensor]:
    return _pool_out(x)


def _scale_sums(kernels: Any, gradient: Tensor, x: Tensor, scales: Tensor, sums: Tensor, whole: Tensor) -> None:
    grid, size = _over_clips(x)
    _, c, t, v = x.shape
    kernels.scale_sums[grid](gradient, x, scales, sums, whole, t, v, c, **size)


def _excite_backward_out(narrow: Tensor, table: Tensor, *rest: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    (n, rows, hidden), c, frames = narrow.shape, len(rest[0]), rest[-1]
    (many, _), _, _ = _over_rows(n, frames, rows - frames, hidden, narrow.dtype)
    weights = _floats(narrow, many, 6 * c * hidden + 2 * c)
    return torch.empty_like(narrow), _floats(narrow, many, 4, hidden), _floats(narrow, many, c), weights


def _excite_backward(kernels: Any, narrow: Tensor, *rest: Any) -> None:
    *given, noise, rate, frames, flowing, parts, through, weights = rest
    n, rows, hidden = narrow.shape
    grid, size, many = _over_rows(n, frames, rows - frames, hidden, narrow.dtype)
    all_of_it = narrow, *given, *_noise(noise, narrow, rate), flowing, parts, through, weights, weights.shape[1]
    shape = frames, rows - frames, blocks(frames, CHUNK), many, through.shape[1], hidden
    kernels.excite_backward[grid](*all_of_it, *shape, DROP=noise is not None, C=16, **size)


def _squeeze_backward_out(narrow: Tensor, *rest: Any) -> tuple[Tensor, Tensor, Tensor]:
    (n, rows, hidden), (*_, of_joints, _, frames) = narrow.shape, rest
    (many, _), _, _ = _over_rows(n, frames, rows - frames, hidden, narrow.dtype)
    c = of_joints.shape[1]
    return _floats(narrow, n, rows, c), _floats(narrow, many * 2, c), _floats(narrow, 2, 2, hidden)


def _squeeze_backward(kernels: Any, narrow: Tensor, *rest: Any) -> None:
    *given, weights, frames, of_means, of_gate, of_norms = rest
    n, rows, hidden = narrow.shape
    grid, size, many = _over_rows(n, frames, rows - frames, hidden, narrow.dtype)
    all_of_it = narrow, *given, of_means, of_gate, of_norms, weights, weights.shape[1], grid[0], n
    shape = frames, rows - frames, blocks(frames, CHUNK), many, of_means.shape[2], hidden
    kernels.squeeze_backward[grid](*all_of_it, *shape, P=PARTS, C=32 if size["R"] == MOST_ROWS else 16, **size)


def _gate_backward_out(whole: Tensor, *rest: Any) -> Tensor:
    hidden_gate = rest[3]
    return _floats(whole, len(hidden_gate), whole.shape[1])


def _gate_backward(kernels: Any, *rest: Any) -> None:
    *given, noise, rate, weights, frames, joints, of_motion = rest
    _, through, _, _, hidden_gate, *_ = given
    n, hidden = hidden_gate.shape
    shape = frames, joints, blocks(frames, CHUNK), len(through) // n, through.shape[1], hidden
    all_of_it = *given, *_noise(noise, through, rate), of_motion, weights, weights.shape[1], *shape
    kernels.gate_backward[(n,)](*all_of_it, DROP=noise is not None, H=power_of_two(hidden, 16), C=32)


def _tail_backward_out(gradient: Tensor, x: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    return torch.empty_like(x), _floats(x, rest[-2].shape[1])


def _tail_backward(kernels: Any, gradient: Tensor, x: Tensor, *rest: Any) -> None:
    *given, noise, rate, of_means, of_motion, parts, end, out, found = rest
    (tiles, across), size = _over_clips(x)
    n, c, t, v = x.shape
    many, length = parts.shape
    grid = tiles + blocks(blocks(length, COLUMNS["COLUMNS"]), across), across
    all_of_it = gradient, x, *given, *_noise(noise, x, rate), of_means, of_motion, out, parts, found, many, n, end, length
    kernels.tail_backward[grid](*all_of_it, t, v, c, DROP=noise is not None, **size, **COLUMNS)


def _columns_out(parts: Tensor) -> Tensor:
    return parts.new_empty(parts.shape[1])


def _columns(kernels: Any, parts: Tensor, out: Tensor) -> None:
    many, length = parts.shape
    kernels.columns[(blocks(length, COLUMNS["COLUMNS"]),)](parts, out, many, length, **COLUMNS)


_OF_NORM = "Tensor weight_{0}, Tensor bias_{0}, Tensor({1}!) mean_{0}, Tensor({2}!) var_{0}, Tensor({3}!) tracked_{0}"

OPS: dict[str, tuple[str, Any, Any]] = {
    "pool": ("(Tensor x) -> (Tensor, Tensor)", _pool, _pool_out),
    "squeeze": (
        "(Tensor sums, Tensor motion, Tensor first, Tensor last, Tensor gate_alpha, Tensor of_frames, Tensor of_joints, "
        "int frames, int joints, ScalarType form) -> (Tensor, Tensor, Tensor, Tensor)",
        _squeeze,
        _squeeze_out,
    ),
    "excite": (
        "(Tensor narrow, Tensor parts, Tensor of_frames, Tensor of_joints, "
        f"{_OF_NORM.format('frames', 'a', 'b', 'c')}, {_OF_NORM.format('joints', 'd', 'e', 'f')}, float momentum, float eps, "
        "int frames) "
        "-> (Tensor, Tensor)",
        _excite,
        _excite_out,
    ),
    "scale": (
        "(Tensor base, Tensor x, Tensor sigmoid, Tensor gate_alpha, Tensor scales, Tensor alpha, Tensor? noise, float rate) "
        "-> Tensor",
        _scale,
        _scale_out,
    ),
    "scale_sums": ("(Tensor gradient, Tensor x, Tensor scales) -> (Tensor, Tensor)", _scale_sums, _scale_sums_out),
    "excite_backward": (
        "(Tensor narrow, Tensor table, Tensor of_frames, Tensor of_joints, Tensor scales, Tensor sums, Tensor sigmoid, "
        "Tensor gate_alpha, Tensor alpha, Tensor? noise, float rate, int frames) -> (Tensor, Tensor, Tensor, Tensor)",
        _excite_backward,
        _excite_backward_out,
    ),
    "squeeze_backward": (
        "(Tensor narrow, Tensor table, Tensor flowing, Tensor parts, Tensor sums, Tensor sigmoid, Tensor gate_alpha, "
        "Tensor of_frames, Tensor of_joints, Tensor(a!) weights, int frames) -> (Tensor, Tensor, Tensor)",
        _squeeze_backward,
        _squeeze_backward_out,
    ),
    "gate_backward": (
        "(Tensor whole, Tensor through, Tensor of_gate, Tensor motion, Tensor hidden_gate, Tensor sigmoid, "
        "Tensor gate_alpha, Tensor alpha, Tensor first, Tensor last, Tensor? noise, float rate, Tensor(a!) weights, "
        "int frames, int joints) -> Tensor",
        _gate_backward,
        _gate_backward_out,
    ),
    "tail_backward": (
        "(Tensor gradient, Tensor x, Tensor sigmoid, Tensor gate_alpha, Tensor scales, Tensor alpha, Tensor? noise, "
        "float rate, Tensor of_means, Tensor of_motion, Tensor parts, int end) -> (Tensor, Tensor)",
        _tail_backward,
        _tail_backward_out,
    ),
    "columns": ("(Tensor parts) -> Tensor", _columns, _columns_out),
}
"""By name: its schema, its launch with what comes out of it, and what comes out of it."""
