"""Norms that keep to their running statistics, put into the weights before them: once, where many batches follow."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor, nn

Weights = tuple[Tensor, Tensor | None]
"""Of a convolution: weight (cout, cin, ...) and bias (cout,)."""

_kept: ContextVar[dict[nn.Module, Weights] | None] = ContextVar("folded", default=None)


@contextmanager
def folded_once() -> Iterator[None]:
    """While it lasts nobody changes the weights: what is put together of them is kept, not made anew for each batch."""
    token = _kept.set({})
    try:
        yield
    finally:
        _kept.reset(token)


def folded(norm: nn.BatchNorm2d, weights: Callable[[], Weights]) -> Weights:
    """``weights`` of the convolution before a norm, and the norm in them."""
    kept = _kept.get()
    if kept is not None and norm in kept:
        return kept[norm]
    assert norm.running_mean is not None
    assert norm.running_var is not None
    weight, bias = weights()
    scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
    shift = norm.bias - norm.running_mean * scale
    shift = shift if bias is None else shift + bias * scale
    found = weight * scale[:, None, None, None], shift
    if kept is not None:
        kept[norm] = found
    return found


def is_half(x: Tensor) -> bool:
    """Whether what is computed of it is in half precision.

    There a norm stays by itself, in float32: what it would take away from an activation may be beyond what half precision
    holds, and a GPU adds a bias in a pass of its own anyway.
    """
    return x.dtype in (torch.float16, torch.bfloat16) or torch.is_autocast_enabled(x.device.type)
