"""How far float32 may be from float64 without a mistake, found from the computation itself and not on some machine.

The same operations are done in float64, where rounding does not count, and then a few times more with each number that they
take or give moved at random by about the half unit in the last place that float32 would round it by (Monte Carlo arithmetic:
Parker, Pierce and Eggert, Monte Carlo Arithmetic: how to gamble with floating point and win, 2000). How far the results move is
what rounding does to them, whatever CPU rounds, and in whatever order it adds up. What is random is drawn by torch's generator,
which gives the same everywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

HALF_UNIT = 2.0**-24
"""By how much, relatively, a number changes at most when it is rounded to float32."""

ALLOWED = 128
"""Times what the moved results stray, as the root of the mean square over RUNS.

A sum over n numbers rounds n times, and not once as here. Where signs vary, what has been added up so far is about sqrt(n) of
the numbers, and so is what all these roundings come to over what moving each number once does: for the 3,150 numbers of a
channel in these tests, 56 times. Twice that, and the next power of two. A mistake in a formula is thousands of times as large.
"""
RUNS = 4

CLEAR = 2e-5
"""How far from a bend an argument has to be: many times what float32 can be off by, all layers before it together."""

_EXACT = {"amax", "cat", "clone", "copy_", "detach", "_to_copy", "slice_backward", "constant_pad_nd", "neg", "abs", "abs_"}
"""Operations that only move numbers about, or change a sign: nothing is rounded."""

Results = dict[str, Tensor]


class _Moved(TorchDispatchMode):
    """Moves whatever an operation computes, forward and backward."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.generator = torch.Generator().manual_seed(seed)

    def move(self, x: Tensor) -> None:
        x.mul_(1 + HALF_UNIT * (2 * torch.rand(x.shape, generator=self.generator, dtype=x.dtype) - 1))

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if func.overloadpacket.__name__ not in _EXACT:
            outputs = out if isinstance(out, (tuple, list)) else (out,)
            for returned, x in zip(func._schema.returns, outputs):
                made = returned.alias_info is None or returned.alias_info.is_write  # and not a view of what was there
                if made and isinstance(x, Tensor) and x.dtype == torch.float64:
                    self.move(x)
        return out


class _Bends(TorchDispatchMode):
    """How near the arguments of functions with a bend, or a jump of their derivative, come to it."""

    def __init__(self) -> None:
        super().__init__()
        self.nearest = float("inf")

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for distance in _distances(func.overloadpacket.__name__, *args):
            self.nearest = min(self.nearest, float(distance.min()))
        return func(*args, **(kwargs or {}))


def _distances(name: str, *args: Any) -> Iterator[Tensor]:
    if name in ("hardswish", "hardswish_"):
        yield (args[0].abs() - 3).abs()
    elif name in ("relu", "relu_", "abs", "abs_"):
        yield args[0].abs()
    elif name == "amax":
        values = args[0].movedim(args[1], tuple(range(-len(args[1]), 0))).flatten(-len(args[1]))
        largest = values.topk(2).values
        yield largest[..., 0] - largest[..., 1]


class _NormsInParts(TorchFunctionMode):
    """Batch norms by their batch as the few operations that they are, each of which rounds: the mean and the scale of a
    channel are off for all of its numbers alike, which counts where gradients cancel over a whole channel."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.nn.functional.batch_norm and kwargs["training"]:
            return _batch_norm(*args, **kwargs)
        return func(*args, **(kwargs or {}))


def _batch_norm(
    x: Tensor,
    running_mean: Tensor,
    running_var: Tensor,
    weight: Tensor,
    bias: Tensor,
    training: bool,
    momentum: float,
    eps: float,
) -> Tensor:
    over = [axis for axis in range(x.ndim) if axis != 1]
    count = x.numel() // x.shape[1]
    shape = [-1 if axis == 1 else 1 for axis in range(x.ndim)]
    mean = x.mean(over, keepdim=True)
    centred = x - mean
    var = centred.square().mean(over, keepdim=True)
    with torch.no_grad():
        running_mean.lerp_(mean.flatten(), momentum)
        running_var.lerp_(var.flatten() * count / (count - 1), momentum)
    return centred * ((var + eps).rsqrt() * weight.view(shape)) + bias.view(shape)


def is_clear_of_bends(compute: Callable[[], Any]) -> bool:
    """Whether no rounding can take an argument to the other side of a bend, where the derivative is another one."""
    with _Bends() as bends:
        compute()
    return bends.nearest > CLEAR


def compare(compute: Callable[[Callable[[Tensor], Tensor]], Results], mine: Results) -> dict[str, float]:
    """How much of what is allowed each of ``mine`` strays from what ``compute`` gives; from 1 on it is a mistake.

    Args:
        compute: gives the same results in float64. It has to send all that goes in through the function that it is given.
        mine: the results in float32.
    """
    exact = compute(lambda x: x)
    assert mine.keys() == exact.keys()
    squares = {name: (HALF_UNIT * value.double().norm()) ** 2 for name, value in exact.items()}  # a result is rounded itself
    with _NormsInParts():
        for name, value in compute(lambda x: x).items():  # or all that follows would say nothing
            assert torch.allclose(value, exact[name], rtol=1e-6, atol=1e-9 * max(1.0, float(exact[name].abs().max()))), name
    for seed in range(RUNS):
        with _Moved(seed) as moved:

            def enter(x: Tensor, moved: _Moved = moved) -> Tensor:
                x = x.clone()
                if x.is_floating_point():
                    moved.move(x)
                return x

            with _NormsInParts():
                found = compute(enter)
        for name, value in found.items():
            squares[name] += (value - exact[name]).double().norm() ** 2 / RUNS
    shares = {}
    for name, value in exact.items():
        assert mine[name].shape == value.shape, name
        error, scale = float((mine[name].double() - value.double()).norm()), float(squares[name].sqrt())
        shares[name] = error / (ALLOWED * scale) if scale else (0.0 if error == 0 else float("inf"))
    return shares
