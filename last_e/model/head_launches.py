"""The kernels of :mod:`last_e.model.head_kernels` as operations of torch, as :mod:`last_e.model.launches` has the others."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from last_e.model.layout import blocks, power_of_two

TILE = {"R": 32, "C": 32}
"""Rows and channels that a program takes at a time."""


def _shape(x: Tensor) -> tuple[tuple[int, int], int, int]:
    n, c, t, v = x.shape
    return (n, blocks(c, TILE["C"])), t * v, c


def _gated_pool_out(x: Tensor, gate: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    n, c = x.shape[:2]
    return gate.new_empty(n, c), gate.new_empty(n, c), gate.new_empty(n, c)


def _gated_pool(kernels: Any, x: Tensor, gate: Tensor, *made: Tensor) -> None:
    grid, *shape = _shape(x)
    kernels.gated_pool[grid](x, gate, *made, *shape, **TILE)


def _gated_pool_backward_out(x: Tensor, gate: Tensor, *rest: Tensor) -> tuple[Tensor, Tensor]:
    return torch.empty_like(x), gate.new_empty(x.shape[:2])


def _gated_pool_backward(kernels: Any, x: Tensor, *rest: Tensor) -> None:
    grid, *shape = _shape(x)
    kernels.gated_pool_backward[grid](x, *rest, *shape, **TILE)


def _divergence_out(mu: Tensor, logvar: Tensor, row_weight: Tensor | None) -> tuple[Tensor, Tensor]:
    return mu.new_empty(()), mu.new_empty(2, *mu.shape)


def _divergence(kernels: Any, mu: Tensor, logvar: Tensor, row_weight: Tensor | None, *made: Tensor) -> None:
    width = power_of_two(mu.shape[1], 16)
    given = mu, logvar, mu if row_weight is None else row_weight, *made, *mu.shape
    kernels.divergence[(1,)](*given, WEIGHTS=row_weight is not None, R=2048 // width, C=width, num_warps=8)


def _norm_rows_out(x: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    return torch.empty_like(x), x.new_empty(2, x.shape[1])


def _norm_rows(
    kernels: Any,
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    mean: Tensor,
    var: Tensor,
    tracked: Tensor,
    noise: Tensor | None,
    *rest: Any,
) -> None:
    given = x, weight, bias, mean, var, tracked, x if noise is None else noise, *rest, *x.shape
    kernels.norm_rows[(blocks(x.shape[1], TILE["C"]),)](*given, DROP=noise is not None, **TILE)


def _norm_rows_backward_out(x: Tensor, weight: Tensor, table: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    return torch.empty_like(x), torch.empty_like(table)


def _norm_rows_backward(kernels: Any, x: Tensor, weight: Tensor, table: Tensor, noise: Tensor | None, *rest: Any) -> None:
    given = x, weight, table, x if noise is None else noise, *rest, *x.shape
    kernels.norm_rows_backward[(blocks(x.shape[1], TILE["C"]),)](*given, DROP=noise is not None, **TILE)


OPS: dict[str, tuple[str, Any, Any]] = {
    "gated_pool": ("(Tensor x, Tensor gate) -> (Tensor, Tensor, Tensor)", _gated_pool, _gated_pool_out),
    "gated_pool_backward": (
        "(Tensor x, Tensor gate, Tensor mean, Tensor most, Tensor gradient) -> (Tensor, Tensor)",
        _gated_pool_backward,
        _gated_pool_backward_out,
    ),
    "norm_rows": (
        "(Tensor x, Tensor weight, Tensor bias, Tensor(a!) mean, Tensor(b!) var, Tensor(c!) tracked, Tensor? noise, "
        "float rate, float momentum, float eps) -> (Tensor, Tensor)",
        _norm_rows,
        _norm_rows_out,
    ),
    "norm_rows_backward": (
        "(Tensor x, Tensor weight, Tensor table, Tensor? noise, float rate, Tensor flowing) -> (Tensor, Tensor)",
        _norm_rows_backward,
        _norm_rows_backward_out,
    ),
    "divergence": (
        "(Tensor mu, Tensor logvar, Tensor? row_weight) -> (Tensor, Tensor)",
        _divergence,
        _divergence_out,
    ),
}
"""By name: its schema, its launch with what comes out of it, and what comes out of it."""
