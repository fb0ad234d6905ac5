"""Whether a GPU computes with the kernels of our own what torch does: asked of it as training begins."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from last_e.config import TrainConfig
from last_e.model import whole
from last_e.model.agreed import said
from last_e.model.fused_cuda import AGREED, OLDEST, STRIDES, Depthwise, Mix, NormThen, as_laid_out
from last_e.model.gates import Tail, Weights
from last_e.model.head import Divergence, GatedPool, NormAndDropout
from last_e.model.launches import ops
from last_e.model.loss import CrossEntropy, StepLoss
from last_e.model.spatial import Attended
from last_e.model.stem import Folded


def try_out(device: torch.device, config: TrainConfig, form: torch.dtype | None) -> str | None:
    """Have a GPU compute a little with the kernels and with torch, and use them from then on where both agree: each kernel by
    itself, and a step of the run's network in the format ``form`` (None: float32).

    Returns:
        None, or why they are not used.
    """
    AGREED.leave(device)
    capability = torch.cuda.get_device_capability(device)
    if capability < OLDEST:
        return (
            f"they need a GPU of compute capability {OLDEST[0]}.{OLDEST[1]}, and this one has {capability[0]}.{capability[1]}"
        )
    try:
        ops()
    except Exception as error:  # it does not fit this Python, this system or this torch
        return f"triton is not installed here, or does not work ({said(error)}); torch's own builds for CUDA bring it"
    try:
        return AGREED.try_out(device, partial(_off, device, config, form))
    finally:
        torch.cuda.empty_cache()  # how much is free decides where the clips are


def _off(device: torch.device, config: TrainConfig, form: torch.dtype | None) -> dict[str, float]:
    """What is too far off: of the kernels by themselves, and if nothing is, in a step of a network."""
    off = {name: value for name, value in differences(device).items() if not value <= 1e-4}
    if off:
        return off
    AGREED.take(device)
    off = whole.too_far(whole.differences(device, config, form), form)
    if off:
        # Of a network whose gradients are not torch's either in such a format, the kernels are not to blame.
        AGREED.leave(device)
        torchs = whole.differences(device, config, form)
        off = {name: value for name, value in off.items() if not value <= 2 * torchs[name]}
    return off


def differences(device: torch.device) -> dict[str, float]:
    """How far the operations and their gradients are on small float32 activations from torch's in float64, relative to the
    largest number."""
    generator = torch.Generator().manual_seed(5)

    def drawn(*shape: int) -> Tensor:
        x = torch.randn(shape, generator=generator).to(device)
        return (as_laid_out(x) if len(shape) == 4 else x).requires_grad_()

    def norm() -> nn.BatchNorm2d:
        one = nn.BatchNorm2d(24, device=device)
        one.weight.data, one.bias.data = drawn(24).detach(), drawn(24).detach()
        return one

    def normed(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return F.batch_norm(x, None, None, weight, bias, training=True)

    found = {}
    for stride in STRIDES:
        first, last = norm(), norm()
        given: tuple[Tensor, ...] = drawn(2, 24, 19, 9), first.weight, first.bias, drawn(24, 1, 5, 1), last.weight, last.bias

        def between(x: Tensor, w: Tensor, b: Tensor, taps: Tensor, *then: Tensor, by: int = stride) -> Tensor:
            y = F.conv2d(F.hardswish(normed(x, w, b)), taps, stride=(by, 1), padding=(2, 0), groups=24)
            return F.hardswish(normed(y, *then))

        own = Depthwise.apply(*given, first, last, stride)  # type: ignore[no-untyped-call]
        found[f"the depthwise convolution of stride {stride}"] = apart(own, given, between)
    one = norm()
    given = drawn(2, 24, 7, 9), one.weight, one.bias, drawn(2, 24, 7, 9)
    own, again = NormThen.apply(*given, one, False)  # type: ignore[no-untyped-call]
    found["the norm with a sum"] = apart(own + 0.5 * again, given, lambda x, w, b, add: 1.5 * (normed(x, w, b) + add))
    own, _ = NormThen.apply(*given[:3], None, one, True)  # type: ignore[no-untyped-call]
    found["the norm with Hardswish"] = apart(own, given[:3], lambda *all_of_it: F.hardswish(normed(*all_of_it)))
    given = drawn(2, 24, 7, 9), drawn(2, 27, 9)
    own = Mix.apply(*given)  # type: ignore[no-untyped-call]
    found["the mixing of joints"] = apart(
        own, given, lambda x, m: torch.einsum("nov,nctv->ntoc", m, x).reshape(2, 7, 9, 72).permute(0, 3, 1, 2)
    )
    given = drawn(3, 24, 19, 9), drawn(3, 24, 19, 9), *(drawn(*shape) for shape in _gates(24, 6))
    noise = torch.tensor([0.9, 0.2, 0.6], device=device)
    norms = nn.BatchNorm2d(6, device=device), nn.BatchNorm2d(6, device=device)
    own = Tail.apply(*given[:2], noise, 0.3, norms, *given[2:])  # type: ignore[no-untyped-call]
    found["the gates"] = apart(own, given, partial(_gated, (noise >= 0.3) / 0.7))
    given = tuple(drawn(*shape) for shape in ((2, 24, 19, 9), (3, 9, 9), (72, 24, 1, 1), (3, 72), (3, 9, 9)))
    given[3].data *= 0.05  # so that no subset has all of it
    whole, mixed, ready = Attended.apply(*given)  # type: ignore[no-untyped-call]
    own = whole + torch.einsum("nctv,oc->notv", mixed, ready.flatten(1))
    found["a graph convolution's attention"] = apart(own, given[:4], partial(_attended, given[4].detach().double()))
    given = drawn(2, 24, 7, 9), drawn(1, 24, 1, 1)
    own = GatedPool.apply(*given)  # type: ignore[no-untyped-call]
    found["the pooling"] = apart(own[:, :, None, None], given, _pooled)
    flat, noise = nn.BatchNorm1d(24, device=device), drawn(9, 24).detach()
    given = drawn(9, 24), flat.weight, flat.bias
    own = NormAndDropout.apply(*given, flat, noise, 0.4)  # type: ignore[no-untyped-call]
    found["the norm and dropout before the classifier"] = apart(
        own[:, :, None, None], given, lambda *each: (normed(*each) * (noise >= 0.4) / 0.6)[:, :, None, None]
    )
    given = drawn(9, 7), drawn(9, 7)
    own = Divergence.apply(*given, None)  # type: ignore[no-untyped-call]
    found["the divergence"] = apart(own.view(1, 1, 1, 1), given, _divergence)
    x = drawn(2, 9, 7, 9).detach()
    given = (drawn(12, 9, 1, 1), *(drawn(3) for _ in range(6)))
    three = [nn.BatchNorm2d(3, device=device) for _ in range(3)]
    ready, shift = Folded.apply(x, given[0], three, torch.float32, *given[1:])  # type: ignore[no-untyped-call]
    own = torch.einsum("nctv,oc->notv", x, ready.flatten(1)) + shift[:, None, None]
    found["the norms of streams"] = apart(own, given, partial(_folded, x.double()))
    logits, label = drawn(9, 7), torch.arange(9, device=device) % 7
    total, _ = CrossEntropy.apply(logits, label, 0.1, None)  # type: ignore[no-untyped-call]
    plainly = partial(F.cross_entropy, target=label, reduction="sum", label_smoothing=0.1)
    found["the loss"] = apart(total.view(1, 1, 1, 1), (logits,), lambda x: plainly(x).view(1, 1, 1, 1))
    for scale in (None, torch.tensor(4.0, device=device)):
        name, by = ("the loss of a step", 1.0) if scale is None else ("the scaled loss of a step", 4.0)
        given, row = (drawn(), drawn()), torch.zeros(3, dtype=torch.float64, device=device)
        own = StepLoss.apply(*given, torch.tensor(2.0, device=device), scale, 0.125, 5, 8, row)  # type: ignore[no-untyped-call]
        found[name] = apart(own.view(1, 1, 1, 1), given, partial(_loss_of_step, by / 8))
        counted = torch.stack([given[0], 5 * given[1], torch.full_like(own, 2)]).detach()
        found[f"what {name} counts"] = float((row - counted).abs().max())
    found["what a step decides"] = max(_decided(device, scaled) for scaled in (True, False))
    return found


def _loss_of_step(by: float, ce: Tensor, ib: Tensor) -> Tensor:
    return (by * (ce + 0.125 * 5 * ib)).view(1, 1, 1, 1)


def _decided(device: torch.device, scaled: bool) -> float:
    """How far off it is what a step of 8 clips in two parts counts, and what it puts back, if its gradient is finite or not."""
    found = []
    for norm, good in ((2.0, True), (float("inf"), False)):
        rows = torch.tensor([[3.5, 0.25, 3], [1.5, 0.5, 2]], dtype=torch.float64, device=device)
        sums, steps, loss = (torch.zeros(shape, dtype=torch.float64, device=device) for shape in ((4,), (3,), ()))
        scale, tracker = torch.tensor(4.0, device=device), torch.tensor(1, dtype=torch.int32, device=device)
        given = (sums, steps, loss), (scale, tracker, 2.0, 0.5, 2) if scaled else (None, None, 1.0, 1.0, 0)
        finite, missed, by = ops().judge(rows, torch.tensor(norm, device=device), 0.125, 8, 0.25, *given[0], *given[1])
        counted = torch.cat([sums, steps, *(one.double().view(1) for one in (loss, finite, missed, scale, tracker))])
        expected = [5, 0.75, 5, 8, 0, 0, 0] if good else [0, 0, 0, 0, 1, 1, 1]
        expected += [(5 + 0.125 * 0.75) / 8, good, not good, *((8 if good else 2, 0) if scaled else (4, 1))]
        found.append(counted - torch.tensor(expected, device=device))
        # Of length 2, that is 4 times what it should be where it is scaled: 0.25 is an eighth of it, one way or the other.
        found.append((1 / by - (0.125 if good else 0.0)).double().view(1))
        for still in (None, torch.arange(1500, device=device) % 3 == 0):
            before = torch.arange(1500, device=device) / 3
            moved = before + 1
            ops().settle(moved, before, finite, still)
            kept = torch.full_like(before, not good) if still is None else (still | (not good)).float()
            found.append((moved - before - 1 + kept).double())
    return float(torch.cat(found).abs().max())


def apart(own: Tensor, given: Sequence[Tensor], torchs: Callable[..., Tensor]) -> float:
    """How far ``own``, and its gradients by ``given``, are from what ``torchs`` makes of the same in float64, relative to the
    largest number of each; nan where one of them is."""
    twin = [each.detach().double().requires_grad_() for each in given]
    other = torchs(*twin)
    flowing = as_laid_out(torch.linspace(-1, 1, own.numel(), device=own.device).view(own.shape))
    pairs = [(own, other)]
    pairs += zip(torch.autograd.grad(own, given, flowing), torch.autograd.grad(other, twin, flowing.double()))
    with torch.no_grad():
        # Not by Python's max, which passes over what is no number.
        return float(torch.stack([(one - two).abs().max() / two.abs().max() for one, two in pairs]).max())


def _attended(adjacency: Tensor, x: Tensor, edge: Tensor, weight: Tensor, linear: Tensor) -> Tensor:
    """A graph convolution with attention as its formula has it, and x."""
    y = torch.einsum("nctv,koc,kvw->nkotw", x, weight.view(3, 24, 24), adjacency * edge)
    share = (y.mean(dim=(3, 4)).flatten(1) @ linear.T).softmax(dim=1)
    return x + (y * share[:, :, None, None, None]).sum(dim=1)


def _pooled(x: Tensor, gate: Tensor) -> Tensor:
    """The pooling behind the last block."""
    share = gate.sigmoid()
    return share * x.mean(dim=(2, 3), keepdim=True) + (1 - share) * x.amax(dim=(2, 3), keepdim=True)


def _divergence(mu: Tensor, logvar: Tensor) -> Tensor:
    """The mean over rows of the divergence of N(mu, exp(logvar)) from N(0, 1)."""
    return -0.5 * (1 + logvar - mu.square() - logvar.exp()).sum(dim=1).mean().view(1, 1, 1, 1)


def _folded(x: Tensor, weight: Tensor, *learned: Tensor) -> Tensor:
    """The streams' norms, and the projection of all three."""
    normed = [
        F.batch_norm(one, None, None, learned[2 * number], learned[2 * number + 1], training=True)
        for number, one in enumerate(x.chunk(3, dim=1))
    ]
    return torch.einsum("nctv,oc->notv", torch.cat(normed, dim=1), weight.flatten(1))


def _gates(channels: int, hidden: int) -> list[tuple[int, ...]]:
    """The shapes of :class:`last_e.model.gates.Weights`."""
    branch = [(hidden, channels, 1, 1), (channels, hidden, 1, 1), (hidden,), (hidden,)]
    return [(hidden, channels), (channels, hidden), (1, channels, 1, 1), (1, channels, 1, 1), *branch, *branch]


def _gated(kept: Tensor, base: Tensor, x: Tensor, *given: Tensor) -> Tensor:
    """The end of a block as its formula has it."""
    w = Weights(*given)
    motion = (x[:, :, 1:] - x[:, :, :-1]).abs().mean(dim=(2, 3))
    sigmoid = (F.relu(motion @ w.first.T) @ w.last.T).sigmoid()
    gate = 1 + w.gate_alpha * (sigmoid[:, :, None, None] - 1)

    def branch(axis: int, squeeze: Tensor, excite: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        narrow = F.conv2d(x.mean(dim=axis, keepdim=True) * gate, squeeze)
        return F.conv2d(F.relu(F.batch_norm(narrow, None, None, weight, bias, training=True)), excite).sigmoid()

    by_frame, by_joint = branch(3, *given[4:8]), branch(2, *given[8:])
    return base + x * gate * kept[:, None, None, None] * (1 - w.alpha + w.alpha * by_frame * by_joint)
