"""The kernels of :mod:`last_e.model.spatial_kernels` as operations of torch, as :mod:`last_e.model.launches` has the others.

Shapes: N clips, C channels, T frames, V joints, K subsets, O outputs.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from last_e.model.layout import blocks, power_of_two

CHUNK = 16
"""Frames that a program goes over."""
SUBSETS = {"J": 16, "C": 32, "B": 32}
"""Subsets (as few as a matrix product takes), outputs and channels that a program has at a time."""


def _frame_sums_out(x: Tensor) -> Tensor:
    n, c, t, v = x.shape
    return x.new_empty(n, blocks(t, CHUNK), v, c, dtype=torch.float32)


def _frame_sums(kernels: Any, x: Tensor, sums: Tensor) -> None:
    n, c, t, v = x.shape
    grid = n * blocks(t, CHUNK), blocks(c, 32)
    kernels.frame_sums[grid](x, sums, t, v, c, T=CHUNK, V=power_of_two(v, 16), C=32)


def _meet_out(weight: Tensor, linear: Tensor, form: torch.dtype) -> tuple[Tensor, Tensor]:
    k, (rows, channels) = len(linear), weight.shape[:2]
    ready = weight.new_empty(rows // k, k * channels, 1, 1, dtype=form)
    return ready, weight.new_empty(k, k, channels)


def _meet(kernels: Any, weight: Tensor, linear: Tensor, form: torch.dtype, ready: Tensor, meets: Tensor) -> None:
    k, _, channels = meets.shape
    kernels.meet[k, blocks(channels, SUBSETS["B"])](weight, linear, ready, meets, k, len(ready), channels, **SUBSETS)


def _attend_out(sums: Tensor, adjacency: Tensor, edge: Tensor, meets: Tensor, frames: int) -> tuple[Tensor, Tensor, Tensor]:
    n, _, v, c = sums.shape
    k = len(adjacency)
    return sums.new_empty(n, k), sums.new_empty(n, k, c), sums.new_empty(n, v * k, v)


def _sizes(joints: int, subsets: int) -> dict[str, int]:
    return {"K": subsets, "J": power_of_two(subsets), "V": power_of_two(joints, 16), "B": 32}


def _attend(kernels: Any, sums: Tensor, adjacency: Tensor, edge: Tensor, meets: Tensor, frames: int, *made: Tensor) -> None:
    n, chunks, v, c = sums.shape
    kernels.attend[(n,)](sums, adjacency, edge, meets, *made, chunks, frames, v, c, **_sizes(v, len(adjacency)))


def _attend_backward_out(parts: Tensor, sums: Tensor, adjacency: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    n, _, v, c = sums.shape
    k = len(adjacency)
    return sums.new_empty(n, v, c), sums.new_empty(n, k * v * v + k * k * c)


def _attend_backward(kernels: Any, parts: Tensor, sums: Tensor, adjacency: Tensor, *rest: Any) -> None:
    *given, frames, of_means, rows = rest
    n, chunks, v, c = sums.shape
    shape = parts.shape[1], chunks, frames, v, c
    kernels.attend_backward[(n,)](
        parts, sums, adjacency, *given, of_means, rows, *shape, **_sizes(v, len(adjacency)), num_warps=8
    )


def _meet_backward_out(of_meets: Tensor, of_ready: Tensor, weight: Tensor, linear: Tensor) -> tuple[Tensor, Tensor]:
    return torch.empty_like(weight), torch.empty_like(linear)


def _meet_backward(kernels: Any, of_meets: Tensor, of_ready: Tensor, weight: Tensor, linear: Tensor, *made: Tensor) -> None:
    k, (outputs, channels) = len(linear), (len(of_ready), weight.shape[1])
    grid = k, blocks(outputs, SUBSETS["C"])
    kernels.meet_backward[grid](of_meets, of_ready, weight, linear, *made, k, outputs, channels, **SUBSETS)


OPS: dict[str, tuple[str, Any, Any]] = {
    "frame_sums": ("(Tensor x) -> Tensor", _frame_sums, _frame_sums_out),
    "meet": ("(Tensor weight, Tensor linear, ScalarType form) -> (Tensor, Tensor)", _meet, _meet_out),
    "attend": (
        "(Tensor sums, Tensor adjacency, Tensor edge, Tensor meets, int frames) -> (Tensor, Tensor, Tensor)",
        _attend,
        _attend_out,
    ),
    "attend_backward": (
        "(Tensor parts, Tensor sums, Tensor adjacency, Tensor edge, Tensor meets, Tensor shares, Tensor means, int frames) "
        "-> (Tensor, Tensor)",
        _attend_backward,
        _attend_backward_out,
    ),
    "meet_backward": (
        "(Tensor of_meets, Tensor of_ready, Tensor weight, Tensor linear) -> (Tensor, Tensor)",
        _meet_backward,
        _meet_backward_out,
    ),
}
"""By name: its schema, its launch with what comes out of it, and what comes out of it."""
