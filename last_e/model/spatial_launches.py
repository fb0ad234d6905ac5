"""The kernels of :mod:`last_e.model.spatial_kernels` as operations of torch, as :mod:`last_e.model.launches` has the others.

Shapes: N clips, C channels, T frames, V joints, K subsets, O outputs.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from last_e.model.layout import CHUNK, blocks, power_of_two

SUBSETS = {"J": 16, "C": 32, "B": 32}
"""Subsets (as few as a matrix product takes), outputs and channels that a program has at a time."""


def _begin_out(x: Tensor, weight: Tensor, linear: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    n, c, t, v = x.shape
    k = len(linear)
    sums = x.new_empty(n, blocks(t, CHUNK), v, c, dtype=torch.float32)
    return sums, x.new_empty(len(weight) // k, k * c, 1, 1), weight.new_empty(k, k, c)


def _begin(kernels: Any, x: Tensor, weight: Tensor, linear: Tensor, sums: Tensor, ready: Tensor, meets: Tensor) -> None:
    n, c, t, v = x.shape
    k = len(linear)
    grid = n * blocks(t, CHUNK) + k, blocks(c, SUBSETS["B"])
    shape = n, t, v, k, len(ready), c
    kernels.begin[grid](x, weight, linear, sums, ready, meets, *shape, T=CHUNK, V=power_of_two(v, 16), **SUBSETS)


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
    "begin": ("(Tensor x, Tensor weight, Tensor linear) -> (Tensor, Tensor, Tensor)", _begin, _begin_out),
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
