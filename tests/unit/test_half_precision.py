"""Where statistics in float32 meet activations in half precision: values that break what rounds or adds in the wrong format.

float16 ends at 65,504 and keeps 11 bits, bfloat16 8.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from last_e.data.batches import TestBatches
from last_e.data.synthetic import synthetic_clips
from last_e.evaluate import Scores, evaluate
from last_e.model import LastE, build_model, fused
from last_e.model.blocks import ChannelGate, SpatialGraphConv, StreamFusion, conv_norm
from last_e.model.functions import MeanOverFrames, Pool, batch_norm
from last_e.precision import Precision

HALVES = pytest.mark.parametrize("half", [torch.float16, torch.bfloat16])
ROUNDING = {torch.float16: 2e-3, torch.bfloat16: 2e-2}
"""Relative, of what was rounded a few times."""


def around(mean: float, half: torch.dtype, *shape: int) -> Tensor:
    """Numbers of half precision near a mean, as activations of a GPU are."""
    torch.manual_seed(0)
    x = mean * (1 + 0.1 * torch.randn(shape))
    return x.to(half).contiguous(memory_format=torch.channels_last)


@HALVES
def test_a_hybrid_gate_takes_the_power_of_a_channel_whose_mean_is_28(half):
    """64 frames of 28: a power of 3.2 million, of a third of the bins 300,000 on average."""
    gate, x = ChannelGate(8, hybrid=True), around(28, half, 3, 8, 64, 25)
    with torch.no_grad():
        gate.gate_alpha.fill_(1)
        gate.mlp[0].weight.uniform_(-1e-6, 1e-6)  # a gate between open and closed, so that what it is given can be seen
        gate.mlp[2].weight.uniform_(-1, 1)
    results = []
    for given, enabled in ((x, True), (x.float(), False)):
        given = given.clone().requires_grad_()
        motion = torch.full((3, 8), 3.0, dtype=given.dtype)
        with torch.autocast("cpu", half, enabled=enabled):
            out = gate(given, motion)
        (gradient,) = torch.autograd.grad(out.sum(), given)
        assert out.isfinite().all()
        results.append((out, gradient.float()))
    assert 1e-3 < float((results[1][0].detach() - 0.5).abs().max()) < 0.4
    torch.testing.assert_close(results[0][0], results[1][0], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(results[0][1], results[1][1], rtol=ROUNDING[half], atol=1e-7)


@HALVES
def test_means_are_of_sums_that_half_precision_does_not_hold(half):
    """64 frames of 3,000 add up to 192,000, 25 joints to 75,000."""
    x = around(3000, half, 2, 4, 64, 25)
    exact = x.double()
    with torch.autocast("cpu", half):
        _, motion, by_frame, by_joint = Pool.apply(x)
        mean = MeanOverFrames.apply(x)
    assert {each.dtype for each in (motion, by_frame, by_joint)} == {half}, "what goes back has their format"
    assert mean.dtype == torch.float32
    torch.testing.assert_close(mean.double(), exact.mean(dim=2).transpose(1, 2), rtol=1e-6, atol=0)
    for found, of in ((by_frame, exact.mean(dim=3)), (by_joint, exact.mean(dim=2))):
        torch.testing.assert_close(found.double(), of.transpose(1, 2), rtol=ROUNDING[half] / 2, atol=0)
    torch.testing.assert_close(motion.double(), exact.diff(dim=2).abs().mean(dim=(2, 3)), rtol=ROUNDING[half], atol=0)


@HALVES
def test_a_mean_over_frames_goes_back_as_autograd_would_have_it(half):
    x, way = around(1, half, 2, 4, 6, 5).requires_grad_(), torch.randn(2, 5, 4)
    (found,) = torch.autograd.grad((MeanOverFrames.apply(x) * way).sum(), x)
    (expected,) = torch.autograd.grad((x.float().mean(dim=2).transpose(1, 2) * way).sum(), x)
    torch.testing.assert_close(found, expected)
    exact = x.detach().double().requires_grad_()
    assert torch.autograd.gradcheck(MeanOverFrames.apply, (exact,))


@HALVES
def test_the_attention_of_subsets_sees_means_of_large_activations(half):
    """A mean of 1,500 over 64 frames: their sum is 96,000."""
    torch.manual_seed(0)
    layer = SpatialGraphConv(4, 8, torch.rand(3, 25, 25), subset_attention=True)
    assert layer.subset_att is not None
    with torch.no_grad():
        layer.subset_att[2].weight.mul_(1e-4)
    x = around(1500, half, 2, 4, 64, 25)
    weight = layer.gcn.weight.view(3, -1, 4)
    share = layer._attention(x, layer.A * layer.edge, weight)
    exact = layer._attention(x.float(), layer.A * layer.edge, weight)
    assert share.dtype == torch.float32
    assert float(exact.detach().std()) > 1e-3
    torch.testing.assert_close(share, exact, rtol=1e-5, atol=1e-6)


@HALVES
def test_the_norms_of_streams_go_into_the_projection_in_float32(half):
    """A stream that hardly varies: its scale is 300, and what it is shifted by as many times its mean."""
    torch.manual_seed(0)
    fusion = StreamFusion(8).train()
    streams = {name: 3 + 1e-4 * torch.randn(2, 3, 16, 25) for name in ("joint", "velocity", "bone")}
    seen: list[Tensor] = []
    original = torch.nn.functional.conv2d

    def conv2d(x: Tensor, weight: Tensor, bias: Tensor, *options: object) -> Tensor:
        seen.append(bias)
        return original(x, weight, bias, *options)

    with pytest.MonkeyPatch.context() as patch, torch.autocast("cpu", half):
        patch.setattr("last_e.model.blocks.SMALL_CONVOLUTION", 0)
        patch.setattr(torch.nn.functional, "conv2d", conv2d)
        fusion(streams)
    assert seen[0].dtype == torch.float32


def loud(variant: str) -> LastE:
    """A network whose last stage has channels with means of about 28, with gates that are open."""
    torch.manual_seed(0)
    model = build_model(variant, 6, stem_channels=8, channels=[8, 8, 16], num_blocks=[1, 1, 1], dropout=0.0, drop_path_rate=0.0)
    last = next(iter(model.stages[2].children()))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "alpha" in name:
                parameter.fill_(0.5)
        last.tcns[-1].point_conv[1].bias.fill_(28)
    return model


@pytest.mark.parametrize("variant", ["base", "large"])
def test_a_network_with_large_means_is_that_of_float32_within_rounding(variant):
    """In float16, of which an activation of 28 has steps of 1/64."""
    model, streams = loud(variant), {name: torch.randn(8, 3, 32, 25) for name in ("joint", "velocity", "bone")}
    for training in (True, False):
        model.train(training)
        found = []
        for enabled in (False, True):
            with torch.autocast("cpu", torch.float16, enabled=enabled):
                output = model(streams)
            logits = output[0] if isinstance(output, tuple) else output
            assert logits.isfinite().all()
            found.append(logits.detach().float())
        worst = float((found[1] - found[0]).abs().max() / found[0].abs().max())
        assert worst < 0.1, f"training={training}: {worst}"


@HALVES
def test_a_norm_that_takes_away_more_than_half_precision_holds_stays_by_itself(half):
    """A channel that hardly moves around 300: folded, 95,000 would be taken away from as much."""
    conv, norm = torch.nn.Conv2d(4, 4, 1, bias=False), torch.nn.BatchNorm2d(4).eval()
    assert norm.running_mean is not None
    assert norm.running_var is not None
    with torch.no_grad():
        conv.weight.copy_(torch.eye(4)[:, :, None, None])
        norm.running_mean.fill_(300)
        norm.running_var.zero_()
        x = torch.full((2, 4, 8, 25), 300.0)
        x[:, :, 0] = 302  # what half precision holds at 300, too
        with torch.autocast("cpu", half):
            found = conv_norm(x, conv, norm, hardswish=True)
    expected = torch.zeros_like(x)
    expected[:, :, 0] = 2 / 1e-5**0.5
    torch.testing.assert_close(found.float(), expected, rtol=ROUNDING[half], atol=1e-3)


def test_a_norm_that_is_kept_still_stays_so_where_training_goes_through_loops(monkeypatch):
    monkeypatch.setattr(fused, "LARGE", 1)
    norm, x = torch.nn.BatchNorm2d(4).eval(), around(3, torch.float32, 2, 4, 8, 25)
    assert norm.running_mean is not None
    torch.testing.assert_close(batch_norm(x, norm), x / (1 + norm.eps) ** 0.5)
    assert float(norm.running_mean.abs().max()) == 0


class Rounded(TorchDispatchMode):
    """How often weights were put into half precision, as they are: views of some are made, and rounded, for each batch."""

    def __init__(self) -> None:
        super().__init__()
        self.times = 0

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = operation(*args, **(kwargs or {}))
        if operation._schema.name == "aten::_to_copy" and isinstance(args[0], nn.Parameter):
            self.times += out.dtype == torch.bfloat16
        return out


def test_a_test_puts_weights_into_half_precision_once_and_the_next_one_anew():
    torch.manual_seed(0)
    model = build_model("base", 6, stem_channels=8, channels=[8, 8, 16], num_blocks=[1, 1, 1])
    clips, counted = synthetic_clips(6, 12), []

    def scored(count: int) -> Scores | None:
        batches = TestBatches(clips, torch.arange(4 * count), 16, 4)
        return evaluate(model, batches, torch.device("cpu"), Precision(torch.bfloat16, False, ""), lambda done: True)

    for batches in (1, 3):
        with Rounded() as rounded:
            before = scored(batches)
        counted.append(rounded.times)
    assert counted[0] == counted[1] > 0
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.2)
    assert scored(3) != before


@HALVES
def test_the_information_loss_squares_what_half_precision_does_not_hold_the_square_of(half):
    """A mean of 300: its square is 90,000."""
    torch.manual_seed(0)
    model = build_model("base", 6, stem_channels=8, channels=[8, 8, 16], num_blocks=[1, 1, 1])
    with torch.no_grad():
        model.fc_mu.weight.fill_(300 / 16)
        model.fc_logvar.weight.fill_(0.5)
    pooled, bodies = 1 + 0.01 * torch.randn(4, 16), torch.tensor([1.0, 0.5, 0.5, 1.0])
    for given in (pooled, pooled.to(half)):
        for weight in (None, bodies):
            with torch.autocast("cpu", half):
                loss = model._ib_loss(given, weight)
            expected = model._ib_loss(given.float(), weight)
            assert loss.dtype == torch.float32
            assert float(expected.detach()) > 1e5
            torch.testing.assert_close(loss, expected, rtol=1e-6, atol=0)
