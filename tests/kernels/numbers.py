"""What Triton's interpreter makes of the kernels, against torch in float64: prints a JSON object, for each case how far each
number is off, relative to the largest of its tensor. To be run with TRITON_INTERPRET=1."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from copy import deepcopy
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from last_e.model import fused_cuda
from last_e.model.functions import norm_and_depthwise
from last_e.model.fused_cuda import Depthwise, Mix, NormThen, differences

FORMATS = {"float32": torch.float32, "float16": torch.float16}
# Clips, channels, frames, joints, stride: channels that fill no tile and such that fill several, frames that end within a
# program's and such that do not, more joints than a tile of them has, the strides of the network.
SHAPES = [(2, 12, 7, 5, 1), (1, 20, 35, 9, 2), (1, 96, 2, 3, 1), (1, 8, 2, 33, 1)]


def main() -> None:
    """All cases of a format."""
    generator = torch.Generator().manual_seed(7)
    dtype = FORMATS[sys.argv[1]]

    def drawn(*shape: int, scale: float = 1.0, shift: float = 0.0) -> Tensor:
        return torch.randn(shape, generator=generator) * scale + shift

    def laid_out(x: Tensor) -> Tensor:
        return x.to(dtype).contiguous(memory_format=torch.channels_last).requires_grad_()

    def norm(channels: int) -> nn.BatchNorm2d:
        one = nn.BatchNorm2d(channels)
        values = drawn(4, channels)
        one.weight.data, one.bias.data = values[0] + 2, values[1]
        one.running_mean, one.running_var = values[2], values[3].abs()
        return one

    def off(
        own: Tensor, given: Sequence[Tensor], norms: Sequence[nn.BatchNorm2d], torchs: Callable[..., Tensor]
    ) -> dict[str, float]:
        """``torchs`` is given the same in float64, and norms before they were moved."""
        twin = [each.detach().double().requires_grad_() for each in given]
        other = torchs(*twin)
        flowing = drawn(*own.shape).to(own.dtype).contiguous(memory_format=torch.channels_last)
        pairs = {"y": (own, other)}
        grads = zip(torch.autograd.grad(own, given, flowing), torch.autograd.grad(other, twin, flowing.double()))
        pairs |= {f"gradient {number}": pair for number, pair in enumerate(grads)}
        for number, one in enumerate(norms):
            for name in ("running_mean", "running_var", "num_batches_tracked"):
                pairs[f"{name} {number}"] = getattr(one, name), getattr(copies[number], name)
        assert own.dtype == dtype
        with torch.no_grad():
            return {name: float((a.double() - b).abs().max() / b.double().abs().max()) for name, (a, b) in pairs.items()}

    found = {}
    for shape in SHAPES:
        n, c, t, v, stride = shape
        x = laid_out(drawn(n, c, t, v, scale=3.0, shift=2.0))
        norms = norm(c), norm(c)
        copies = [deepcopy(one).double() for one in norms]
        taps = drawn(c, 1, 5, 1, scale=0.4).requires_grad_()
        given = [x, *norms[0].parameters(), taps, *norms[1].parameters()]
        own = Depthwise.apply(*given, *norms, stride)

        def separable(
            x: Tensor, w: Tensor, b: Tensor, taps: Tensor, w2: Tensor, b2: Tensor, by: int = stride, like: Any = copies
        ) -> Tensor:
            y = F.hardswish(_norm(like[0], x, w, b))
            y = F.conv2d(y, taps, stride=(by, 1), padding=(2, 0), groups=len(taps))
            # As it is stored: Hardswish's slope jumps at -3 and 3, and rounding takes numbers across.
            y = y + (y.to(dtype).double() - y).detach()
            return F.hardswish(_norm(like[1], y, w2, b2))

        found[f"depthwise {shape}"] = off(own, given, norms, separable)
        add = laid_out(drawn(n, c, t, v))
        for name, extra, hardswish in (("hardswish", None, True), ("nothing", None, False), ("sum", add, False)):
            norms = (norm(c),)
            copies = [deepcopy(one).double() for one in norms]
            given = [x, *norms[0].parameters(), *([] if extra is None else [extra])]
            own = NormThen.apply(x, *norms[0].parameters(), extra, norms[0], hardswish)

            def normed(x: Tensor, w: Tensor, b: Tensor, *add: Tensor, then: bool = hardswish, like: Any = copies) -> Tensor:
                y = sum(add, _norm(like[0], x, w, b))
                return F.hardswish(y) if then else y

            found[f"norm, {name} {shape}"] = off(own, given, norms, normed)
        for clips in {1, n}:
            given = [x, drawn(clips, 3 * v, v).to(dtype).float().requires_grad_()]  # as the kernel multiplies it

            def mixed(x: Tensor, mixing: Tensor) -> Tensor:
                n, c, t, v = x.shape
                y = torch.einsum("nov,nctv->ntoc", mixing.expand(n, -1, -1), x)
                return y.reshape(n, t, v, 3 * c).permute(0, 3, 1, 2)

            found[f"mix of {clips} {shape}"] = off(Mix.apply(*given), given, (), mixed)
    told = {"cases": found, "as it is called": as_it_is_called(drawn), "tried out": differences(torch.device("cpu"))}
    print(json.dumps(told))


def as_it_is_called(drawn: Callable[..., Tensor]) -> dict[str, float]:
    """What the network calls, where a GPU would be right with the kernels: how far all strides that a configuration may ask for
    are from torch, and a mixing that comes as columns."""
    x = drawn(2, 8, 13, 5).contiguous(memory_format=torch.channels_last).requires_grad_()
    found = {}
    for stride in range(1, 5):
        conv = nn.Conv2d(8, 8, (5, 1), stride=(stride, 1), padding=(2, 0), groups=8, bias=False)
        norms = nn.BatchNorm2d(8), nn.BatchNorm2d(8)
        plainly = norm_and_depthwise(x, norms[0], conv, norms[1])
        with patch.object(fused_cuda, "kernels_for", return_value=True):
            own = norm_and_depthwise(x, norms[0], conv, norms[1])
        found[f"stride {stride}"] = float((own - plainly).detach().abs().max())
    columns = drawn(1, 5, 15).transpose(1, 2)
    mixed = torch.einsum("nov,nctv->ntoc", columns.expand(2, -1, -1), x).reshape(2, 13, 5, 24).permute(0, 3, 1, 2)
    found["columns"] = float((Mix.apply(x, columns) - mixed).detach().abs().max())
    return found


def _norm(norm: nn.BatchNorm2d, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    norm.num_batches_tracked += 1
    return F.batch_norm(x, norm.running_mean, norm.running_var, weight, bias, True, norm.momentum, norm.eps)


if __name__ == "__main__":
    main()
