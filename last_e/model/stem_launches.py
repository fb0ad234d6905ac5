"""The kernels of :mod:`last_e.model.stem_kernels` as operations of torch, as :mod:`last_e.model.launches` has the others."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from last_e.model.layout import power_of_two

ROWS = 32
"""Outputs at a time."""


def _fold_out(parts: Tensor, weight: Tensor, *rest: Any) -> tuple[Tensor, Tensor, Tensor]:
    form: torch.dtype = rest[-1]
    return torch.empty_like(weight, dtype=form), weight.new_empty(len(weight), dtype=form), parts.new_empty(3, parts.shape[2])


def _fold(kernels: Any, parts: Tensor, weight: Tensor, *rest: Any) -> None:
    *given, _, ready, shift, table = rest
    channels = parts.shape[2]
    shape = len(parts), channels // 3, len(weight)
    size = {"P": 64, "R": ROWS, "C": power_of_two(channels, 16)}
    kernels.fold[(1,)](parts, weight, *given, ready, shift, table, *shape, **size)


def _fold_backward_out(of_ready: Tensor, of_shift: Tensor, weight: Tensor, *rest: Tensor) -> tuple[Tensor, Tensor]:
    return torch.empty_like(weight), weight.new_empty(2, weight.shape[1])


def _fold_backward(kernels: Any, of_ready: Tensor, of_shift: Tensor, weight: Tensor, *rest: Tensor) -> None:
    channels = weight.shape[1]
    size = {"R": ROWS, "C": power_of_two(channels, 16)}
    kernels.fold_backward[(1,)](of_ready, of_shift, weight, *rest, channels // 3, len(weight), **size)


_NORM = "Tensor weight_{0}, Tensor bias_{0}, Tensor({1}!) mean_{0}, Tensor({2}!) var_{0}, Tensor({3}!) tracked_{0}"
_NORMS = ", ".join(_NORM.format(name, *places) for name, places in (("joint", "abc"), ("velocity", "def"), ("bone", "ghi")))

OPS: dict[str, tuple[str, Any, Any]] = {
    "fold": (
        f"(Tensor parts, Tensor weight, {_NORMS}, float momentum, float eps, ScalarType form) -> (Tensor, Tensor, Tensor)",
        _fold,
        _fold_out,
    ),
    "fold_backward": (
        "(Tensor of_ready, Tensor of_shift, Tensor weight, Tensor table, Tensor bias_joint, Tensor bias_velocity, "
        "Tensor bias_bone) -> (Tensor, Tensor)",
        _fold_backward,
        _fold_backward_out,
    ),
}
"""By name: its schema, its launch with what comes out of it, and what comes out of it."""
