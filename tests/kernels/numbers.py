"""What Triton's interpreter makes of the kernels, against torch in float64: prints a JSON object, for each case how far each
number is off, relative to the largest of its tensor. To be run with TRITON_INTERPRET=1."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Sequence
from copy import deepcopy
from functools import partial
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from last_e.config import TrainingConfig
from last_e.model import fused_cuda
from last_e.model.blocks import Block, SpatialGraphConv, StreamFusion
from last_e.model.functions import mix_joints, norm_and_depthwise
from last_e.model.fused_cuda import Depthwise, Mix, NormThen
from last_e.model.gates import Tail
from last_e.model.head import Divergence, GatedPool, NormAndDropout
from last_e.model.loss import CrossEntropy, StepLoss
from last_e.model.spatial import Attended
from last_e.model.stem import Folded
from last_e.model.tried import differences
from last_e.state import Counters, State
from last_e.step import _settle, _step, cross_entropy

FORMATS = {"float32": torch.float32, "float16": torch.float16}
# Clips, channels, frames, joints, stride: channels that fill no tile and such that fill several, frames that end within a
# program's and such that do not, more joints than a tile of them has, the strides of the network.
SHAPES = [(2, 12, 7, 5, 1), (1, 20, 35, 9, 2), (1, 96, 2, 3, 1), (1, 8, 2, 33, 1)]

GATED = [(2, 12, 7, 5), (1, 40, 18, 33), (2, 8, 70, 11)]
"""Clips, channels, frames, joints: of the end of a block. Several chunks of frames, blocks of channels and of rows."""

ATTENDED = [(2, 12, 20, 7, 5, 3), (1, 40, 36, 18, 25, 2)]
"""Clips, channels, outputs, frames, joints, subsets: of a graph convolution's attention."""


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
            own, _ = NormThen.apply(x, *norms[0].parameters(), extra, norms[0], hardswish)

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
    for shape in GATED:
        for rate in (0.0, 0.4):
            found[f"gates, drop path {rate} {shape}"] = gated(shape, rate, drawn, laid_out)
    for shape in ((2, 40, 9, 11), (3, 8, 2, 3)):
        found[f"pooling {shape}"] = pooled(laid_out(drawn(*shape, scale=2.0).round()), drawn(1, shape[1], 1, 1))
    found["streams"] = stemmed(dtype, drawn)
    for shape in ATTENDED:
        found[f"graph convolution {shape}"] = attended(shape, drawn, laid_out)
    norms = (norm(12),)
    copies = [deepcopy(one).double() for one in norms]
    given = [laid_out(drawn(2, 12, 7, 5, scale=3.0, shift=2.0)), *norms[0].parameters()]
    own, again = NormThen.apply(*given, None, norms[0], True)

    def used_twice(x: Tensor, w: Tensor, b: Tensor, like: Any = copies) -> Tensor:
        return 1.5 * F.hardswish(_norm(like[0], x, w, b))

    found["norm, used twice"] = off(own + 0.5 * again, given, norms, used_twice)
    norms = (norm(12),)
    copies = [deepcopy(one).double() for one in norms]
    given = [given[0], *norms[0].parameters(), laid_out(drawn(2, 12, 7, 5))]
    own, again = NormThen.apply(*given, norms[0], False)

    def sum_used_twice(x: Tensor, w: Tensor, b: Tensor, add: Tensor, like: Any = copies) -> Tensor:
        return 1.5 * (_norm(like[0], x, w, b) + add)

    found["norm with a sum, used twice"] = off(own + 0.5 * again, given, norms, sum_used_twice)
    if dtype == torch.float32:
        for shape in ((5, 7), (70, 120)):
            found[f"loss {shape}"] = lost(shape, drawn)
        for shape in ((5, 12), (70, 40)):
            found[f"norm and dropout {shape}"] = in_rows(shape, drawn)
        found["what a step is to make small"] = scaled()
        found["what a step decides"] = decided()
        sgd = partial(torch.optim.SGD, lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.1)
        for name, optimizer, clip in (
            ("plain", partial(torch.optim.SGD, lr=0.1), 0.5),
            ("momentum", sgd, 0.0),
            ("AdamW", partial(torch.optim.AdamW, lr=0.1), 0.5),
        ):
            found[f"what a step does, {name}"] = moved(optimizer, clip)
        found["divergence"] = diverged(drawn)
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


def gated(
    shape: tuple[int, ...], rate: float, drawn: Callable[..., Tensor], laid_out: Callable[[Tensor], Tensor]
) -> dict[str, float]:
    """How far the end of a block is from what its layers are in float64."""
    n, c, _, v = shape
    block = Block(
        c, c, stride=1, depth=1, expand_ratio=1, adjacency=torch.ones(1, v, v), subset_attention=False, hybrid_gate=False,
        drop_path_rate=rate,
    )  # fmt: skip
    weights = block.gates()
    for weight in weights:
        weight.data = drawn(*weight.shape, scale=0.4, shift=float(weight.dim() == 1))
    twin = deepcopy(block).double()
    base, y = laid_out(drawn(*shape)), laid_out(drawn(*shape, scale=2.0, shift=1.0))
    noise = torch.tensor([0.9, 0.2])[:n]
    own = Tail.apply(base, y, noise if rate else None, rate, block.st_att.norms, *weights)
    given = [base.detach().double().requires_grad_(), y.detach().double().requires_grad_()]
    other = twin.end(lambda: given[0], given[1], noise)
    flowing = drawn(*shape).to(own.dtype).contiguous(memory_format=torch.channels_last)
    grads = torch.autograd.grad(own, [base, y, *weights], flowing)
    twins = torch.autograd.grad(other, [*given, *twin.gates()], flowing.double())
    pairs = {"out": (own, other), **dict(zip(("base", "x", *weights._fields), zip(grads, twins)))}
    for number, (one, two) in enumerate(zip(block.st_att.norms, twin.st_att.norms)):
        for name in ("running_mean", "running_var", "num_batches_tracked"):
            pairs[f"{name} {number}"] = getattr(one, name), getattr(two, name)
    with torch.no_grad():
        return {name: float((a.double() - b).abs().max() / b.double().abs().max()) for name, (a, b) in pairs.items()}


def attended(shape: tuple[int, ...], drawn: Callable[..., Tensor], laid_out: Callable[[Tensor], Tensor]) -> dict[str, float]:
    """How far the attention of a graph convolution, and the mixing of joints by it, is from what its layer is in float64."""
    n, c, outputs, t, v, k = shape
    layer = SpatialGraphConv(c, outputs, drawn(k, v, v) * (drawn(k, v, v) > 0), subset_attention=True)
    learned = [layer.edge, layer.gcn.weight, layer.get_parameter("subset_att.2.weight")]
    for weight, scale in zip(learned, (1.0, 0.3, 0.1)):
        weight.data = drawn(*weight.shape, scale=scale)
    twin = deepcopy(layer).double()
    own = [laid_out(drawn(n, c, t, v, shift=0.5)), *learned]
    other = [own[0].detach().double().requires_grad_(), twin.edge, twin.gcn.weight, twin.get_parameter("subset_att.2.weight")]
    found = Attended.apply(*own, layer.A)
    weight = twin.gcn.weight.view(k, -1, c)
    mixed = mix_joints(other[0], twin.A, twin.edge, twin._attention(other[0], twin.A * twin.edge, weight))
    plain = other[0].clone(), mixed, weight.transpose(0, 1).reshape(-1, k * c, 1, 1)
    flowing = [drawn(*one.shape).to(one.dtype).contiguous(memory_format=torch.channels_last) for one in found]
    grads = torch.autograd.grad(found, own, flowing)
    twins = torch.autograd.grad(plain, other, [one.double() for one in flowing])
    names = ["x", "mixed", "ready", *(f"gradient of {name}" for name in ("x", "edge", "weight", "linear"))]
    with torch.no_grad():
        pairs = zip(names, [*found, *grads], [*plain, *twins])
        return {name: float((a.double() - b).abs().max() / b.abs().max()) for name, a, b in pairs}


def lost(shape: tuple[int, int], drawn: Callable[..., Tensor]) -> dict[str, float]:
    """How far the loss, its gradient and the hits are, with weights of classes and without, where some logits are the same."""
    logits = drawn(*shape, scale=4.0).round().requires_grad_()
    # Half of them are right, also where two logits are the largest.
    label = torch.where(torch.arange(shape[0]) % 2 == 0, logits.detach().argmax(1), torch.arange(shape[0]) * 3 % shape[1])
    found = {}
    for name, weights in (("plain", None), ("weighted", drawn(shape[1]).abs())):
        own, hits = CrossEntropy.apply(logits, label, 0.1, weights)
        twin = logits.detach().double().requires_grad_()
        other = cross_entropy(twin, label, 0.1, None if weights is None else weights.double())
        one, two = torch.autograd.grad(own * 0.5, logits)[0], torch.autograd.grad(other * 0.5, twin)[0]
        found[name] = float((own - other).abs().detach() / other.detach())
        found[f"gradient, {name}"] = float((one - two).abs().max() / two.abs().max())
        right = (logits.argmax(1) == label).sum()
        assert shape[0] / 2 <= right < shape[0]
        found[f"hits, {name}"] = float((hits - right).abs())
    return found


def pooled(x: Tensor, gate: Tensor) -> dict[str, float]:
    """How far the pooling behind the last block is, where several numbers are the largest."""
    given = [x, gate.requires_grad_()]
    own = GatedPool.apply(*given)
    twin = [one.detach().double().requires_grad_() for one in given]
    share = twin[1].flatten(1).sigmoid()
    other = share * twin[0].mean(dim=(2, 3)) + (1 - share) * twin[0].amax(dim=(2, 3))
    flowing = torch.linspace(-1, 1, own.numel()).view(own.shape)
    grads = zip(torch.autograd.grad(own, given, flowing), torch.autograd.grad(other, twin, flowing.double()))
    pairs = {"pooled": (own, other), **dict(zip(("x", "gate"), grads))}
    with torch.no_grad():
        return {name: float((a.double() - b).abs().max() / b.abs().max()) for name, (a, b) in pairs.items()}


def diverged(drawn: Callable[..., Tensor]) -> dict[str, float]:
    """How far the divergence and its gradients are, with weights of rows and without."""
    given = [drawn(70, 20).requires_grad_(), drawn(70, 20).requires_grad_()]
    found = {}
    for name, weight in (("plain", None), ("weighted", drawn(70).abs())):
        twin = [one.detach().double().requires_grad_() for one in given]
        each = -0.5 * (1 + twin[1] - twin[0].square() - twin[1].exp()).sum(dim=1)
        share = torch.full((70,), 1 / 70).double() if weight is None else weight.double() / weight.double().sum()
        own, other = Divergence.apply(*given, weight), (each * share).sum()
        found[name] = float((own - other).abs().detach() / other.detach())
        for kind, one, two in zip(("mu", "logvar"), torch.autograd.grad(own, given), torch.autograd.grad(other, twin)):
            found[f"{kind}, {name}"] = float((one - two).abs().max() / two.abs().max())
    return found


def in_rows(shape: tuple[int, int], drawn: Callable[..., Tensor]) -> dict[str, float]:
    """How far the norm and dropout before the classifier are, and their gradients."""
    found = {}
    for rate in (0.0, 0.4):
        own, noise = nn.BatchNorm1d(shape[1]), drawn(*shape).abs()
        own.weight.data, own.bias.data = drawn(shape[1]) + 2, drawn(shape[1])
        twin = deepcopy(own).double()
        x = drawn(*shape, scale=3.0, shift=5.0).requires_grad_()
        other = x.detach().double().requires_grad_()
        y = NormAndDropout.apply(x, own.weight, own.bias, own, noise if rate else None, rate)
        plain = twin(other) * (noise >= rate) / (1 - rate)
        flowing = drawn(*shape)
        grads = torch.autograd.grad(y, [x, *own.parameters()], flowing)
        twins = torch.autograd.grad(plain, [other, *twin.parameters()], flowing.double())
        pairs = {"y": (y, plain), **dict(zip(("x", "weight", "bias"), zip(grads, twins)))}
        pairs |= {name: (one, twin.get_buffer(name)) for name, one in own.named_buffers()}
        with torch.no_grad():
            found |= {f"{name}, {rate}": float((a.double() - b).abs().max() / b.abs().max()) for name, (a, b) in pairs.items()}
    return found


def scaled() -> dict[str, float]:
    """How far what is to be made small is, its gradients, and what is counted of it, with a scale and without."""
    ce, ib = torch.tensor(3.5, requires_grad=True), torch.tensor(0.3, requires_grad=True)
    found = {}
    for scale in (None, torch.tensor(16.0)):
        row = torch.zeros(3, dtype=torch.float64)
        own = StepLoss.apply(ce, ib, torch.tensor(2.0), scale, 0.125, 5, 12, row)
        by = 1.0 if scale is None else 16.0
        grads = torch.autograd.grad(own, [ce, ib], torch.tensor(0.5))
        made = torch.stack([own.detach(), *grads]).double()
        expected = torch.tensor([3.5 + 0.125 * 5 * 0.3, 0.5, 0.5 * 0.125 * 5], dtype=torch.float64) * by / 12
        found[f"scaled by {by}"] = float((made - expected).abs().max() / expected.max())
        found[f"counted, {by}"] = float((row - torch.tensor([3.5, 5 * 0.3, 2.0]).double()).abs().max())
    return found


def moved(optimizer_of: Callable[..., torch.optim.Optimizer], clip: float) -> dict[str, float]:
    """How far weights and the scale of losses are after steps with all that a scaler does, infinite gradients, and clipping
    unless ``clip`` is 0."""
    ends = []
    for by_kernels in (True, False):
        weight = nn.Parameter(torch.linspace(-1, 1, 50))
        optimizer = optimizer_of([weight], fused=True)
        scaler = torch.amp.GradScaler("cpu", init_scale=8.0, growth_interval=2)
        state: Any = SimpleNamespace(
            model=None,
            optimizer=optimizer,
            scaler=scaler,
            parameters=[weight],
            device=weight.device,
            counters=Counters(weight.device),
        )
        state.scale = partial(State.scale, state)
        training: Any = TrainingConfig.model_construct(
            gradient_clip=clip, ib_loss_weight=0.125, batch_size=8, gradient_accumulation_steps=1
        )
        seen = []
        for number, size in enumerate((1.0, 0.01, math.inf, 3.0, 0.1, math.nan, math.nan, 0.2)):
            scaler.scale((weight * torch.arange(50).cos() * size).sum()).backward()
            rows = torch.tensor([[3.5 + number, 0.25, 3]], dtype=torch.float64)
            with patch.object(fused_cuda, "used_on", return_value=by_kernels):
                _step(state, rows, training)
            optimizer.zero_grad()
            seen.append(torch.cat([weight.detach(), scaler._scale.view(1), scaler._growth_tracker.view(1).float()]))
        ends.append(torch.stack(seen))
    return {"weights and scale": float((ends[0] - ends[1]).abs().max())}


def stemmed(form: torch.dtype, drawn: Callable[..., Tensor]) -> dict[str, float]:
    """How far the projection of the streams with their norms in it is, and its gradients."""
    fusion = StreamFusion(40)
    norms = [norm for norm in fusion.stream_bn.children() if isinstance(norm, nn.BatchNorm2d)]
    for parameter in fusion.parameters():
        parameter.data = drawn(*parameter.shape) + 0.5
    twin = deepcopy(fusion).double()
    x = drawn(3, 9, 11, 7, scale=2.0, shift=3.0).contiguous(memory_format=torch.channels_last)
    weight, other = fusion.get_parameter("proj.0.weight"), twin.get_parameter("proj.0.weight")
    own = [weight, *(one for norm in norms for one in (norm.weight, norm.bias))]
    twins = [other, *twin.stream_bn.parameters()]
    made = Folded.apply(x, weight, norms, form, *own[1:])
    scale, shift = twin._norm(x.double())
    plain = other * scale[None, :, None, None], other.flatten(1) @ shift
    flowing = [drawn(*one.shape).to(one.dtype) for one in made]
    grads = torch.autograd.grad(made, own, flowing), torch.autograd.grad(plain, twins, [one.double() for one in flowing])
    pairs = {str(number): pair for number, pair in enumerate(zip((*made, *grads[0]), (*plain, *grads[1])))}
    pairs |= {name: (one, twin.get_buffer(name)) for name, one in fusion.named_buffers() if name.startswith("stream_bn")}
    with torch.no_grad():
        return {name: float((a.double() - b).abs().max() / b.double().abs().max()) for name, (a, b) in pairs.items()}


def decided() -> dict[str, float]:
    """How far what a step decides and counts is, of steps whose loss or gradient is finite or not."""
    own, other = Counters(torch.device("cpu")), Counters(torch.device("cpu"))
    statistics = [torch.arange(1500) % 7, torch.arange(1500) / 3]
    found = {}
    for number, (ce, norm) in enumerate([(3.5, 1.0), (math.nan, 1.0), (2.5, math.inf), (-math.inf, 2.0), (4.5, 2.0)]):
        rows = torch.tensor([[ce, 0.25, 3], [1.5, 0.5, 2]], dtype=torch.float64)
        training: Any = TrainingConfig.model_construct(
            gradient_clip=1.5, ib_loss_weight=0.125, batch_size=8, gradient_accumulation_steps=1
        )
        plainly = other.judge(rows, torch.tensor(norm), 0.125, 8)
        *good, by = own.decide(rows, torch.tensor(norm), training, None, torch.amp.GradScaler("cpu", enabled=False))
        if math.isfinite(norm):
            found[f"clipped {number}"] = abs(float(by) - max(1.0, (norm + 1e-6) / 1.5))
        found[f"decision {number}"] = float(any(not torch.equal(one, two) for one, two in zip(good, plainly)))
        for still in (None, torch.arange(1500) % 3 == 0):
            for values in statistics:
                moved, expected = values + 1, values + 1
                _settle(expected, values, good[0], still)
                with patch.object(fused_cuda, "used_on", return_value=True):
                    _settle(moved, values, good[0], still)
                found[f"statistics {number} {still is None} {values.dtype}"] = float((moved - expected).abs().max())
        found[f"counted {number}"] = float(any(one != two for one, two in zip(_counted(own), _counted(other))))
    return found


def _counted(counters: Counters) -> list[str]:
    return [str(one) for one in counters.read()]


def _norm(norm: nn.BatchNorm2d, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    norm.num_batches_tracked += 1
    return F.batch_norm(x, norm.running_mean, norm.running_var, weight, bias, True, norm.momentum, norm.eps)


if __name__ == "__main__":
    main()
