"""Weights of convolutions in half precision: all of a step at once, where autocast would convert one after the other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from last_e.model import fused_cuda

_ready: ContextVar[dict[nn.Module, Tensor] | None] = ContextVar("ready", default=None)


@contextmanager
def converted(convolutions: Sequence[nn.Conv2d], training: bool) -> Iterator[None]:
    """While it lasts :func:`weight_of` gives the weights as autocast would have them; of a GPU that trains with kernels of our
    own, otherwise nothing is done."""
    device = convolutions[0].weight.device if convolutions else torch.device("cpu")
    if not (training and fused_cuda.used_on(device) and torch.is_autocast_enabled(device.type)):
        yield
        return
    form, ready = torch.get_autocast_dtype(device.type), dict[nn.Module, Tensor]()
    # Apart: all that comes out of a Function has a gradient where one of its weights has.
    for learns, convert in ((True, Converted.apply), (False, _converted)):
        those = [convolution for convolution in convolutions if convolution.weight.requires_grad is learns]
        if those:
            ready |= zip(those, convert(form, *(convolution.weight for convolution in those)))
    token = _ready.set(ready)
    try:
        yield
    finally:
        _ready.reset(token)


def weight_of(convolution: nn.Conv2d) -> Tensor:
    """A convolution's weight, converted where that has been done."""
    ready = _ready.get()
    return convolution.weight if ready is None else ready.get(convolution, convolution.weight)


class Converted(torch.autograd.Function):
    """Weights (cout, cin, 1, 1) in another format, and their gradients back, in few launches."""

    @staticmethod
    def forward(ctx: Any, form: torch.dtype, *weights: Tensor) -> tuple[Tensor, ...]:
        ctx.form = weights[0].dtype
        return _converted(form, *weights)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        return (None, *_converted(ctx.form, *gradients))


def _converted(form: torch.dtype, *tensors: Tensor) -> tuple[Tensor, ...]:
    made = [torch.empty(one.shape, dtype=form, device=one.device) for one in tensors]
    # Flat: torch copies all at once where they lie alike, which of what is 1x1 it cannot tell.
    torch._foreach_copy_([one.flatten(1) for one in made], [one.flatten(1) for one in tensors])
    return tuple(made)
