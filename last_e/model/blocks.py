"""The parts of a block. Shapes: N clips, C channels, T frames, V joints, K graph subsets.

Activations are (N, C, T, V) in ``channels_last`` memory: rows of C numbers, joint after joint, frame after frame. So a 1x1
convolution is one matrix product, and the joints of a frame mix in another. What a formula writes as several full-size tensors
is folded into weights and small tensors first; ``docs/benchmarks.md`` says what that brought.
``last_e.bench.plain`` is the same network written straight down.

Attribute names are those of the original training code, so that its checkpoints load as they are.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from last_e.model import fused_cuda, gates, spatial, stem
from last_e.model.folding import Weights, folded, is_half
from last_e.model.formats import weight_of
from last_e.model.functions import (
    EveryNthFrame,
    MeanOverFrames,
    Pool,
    ScaleAndAdd,
    batch_norm_twice,
    mix_joints,
    norm_and_depthwise,
)
from last_e.model.fused import rows

STREAMS = ("joint", "velocity", "bone")

SMALL_CONVOLUTION = 3 << 18
"""Numbers in the input of a 1x1 convolution up to which it is a plain matrix product: oneDNN takes longer to begin than to
compute it. Of more numbers oneDNN's convolution is as fast on some CPUs and 2.5 times as fast on others
(``docs/benchmarks.md``). It has nothing to do with the compiled loops, whose threshold is ``last_e.model.fused.LARGE``."""


def conv1x1(cin: int, cout: int, stride: int = 1) -> nn.Conv2d:
    """A 1x1 convolution without bias; ``stride`` is over frames."""
    return nn.Conv2d(cin, cout, 1, stride=(stride, 1), bias=False)


def conv_norm(
    x: Tensor,
    conv: nn.Module,
    norm: nn.Module,
    weights: Callable[[], Weights] | None = None,
    *,
    hardswish: bool = False,
    add: Tensor | None = None,
) -> Tensor:
    """A convolution and its batch norm, then Hardswish or a sum.

    A norm that keeps to its running statistics goes into the weights, but not in half precision. ``weights`` makes what stands
    for the convolution's own.
    """
    return conv_norm_twice(x, conv, norm, weights, hardswish=hardswish, add=add)[0]


def conv_norm_twice(
    x: Tensor,
    conv: nn.Module,
    norm: nn.Module,
    weights: Callable[[], Weights] | None = None,
    *,
    hardswish: bool = False,
    add: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """The same, for two who use it (:func:`last_e.model.functions.batch_norm_twice`)."""
    assert isinstance(conv, nn.Conv2d)
    assert isinstance(norm, nn.BatchNorm2d)
    own = weight_of(conv)
    weights = weights or (lambda: (own, None))
    if conv.kernel_size == (1, 1) and conv.stride != (1, 1) and not fused_cuda.used_on(x.device):
        # Left out beforehand. (For a stride and channels that are no multiple of 16, the gradient of the weights that torch
        # 2.13's oneDNN computes on a CPU in channels_last writes beyond its memory.)
        x = EveryNthFrame.apply(x, conv.stride[0])  # type: ignore[no-untyped-call]
        stride: tuple[int, ...] = (1, 1)
    else:
        stride = conv.stride
    options = (stride, conv.padding, conv.dilation, conv.groups)
    if norm.training or is_half(x):
        return batch_norm_twice(convolution(x, *weights(), *options), norm, hardswish=hardswish, add=add)
    y = convolution(x, *folded(norm, weights), *options)
    if add is not None:
        y += add
    y = F.hardswish(y, inplace=not torch.is_grad_enabled()) if hardswish else y
    return y, y


def convolution(x: Tensor, weight: Tensor, bias: Tensor | None = None, *options: Any) -> Tensor:
    """A 2D convolution; a small 1x1 one as the matrix product that it is."""
    plain = weight.shape[2:] == (1, 1) and options[:1] in ((), ((1, 1),))
    if plain and x.numel() < SMALL_CONVOLUTION:
        return F.linear(rows(x), weight.flatten(1), bias).permute(0, 3, 1, 2)
    return F.conv2d(x, weight, bias, *options)


def full(x: Tensor) -> Tensor:
    """At least float32."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


class StreamFusion(nn.Module):
    """Joint, velocity and bone, each (N, 3, T, V), to (N, stem, T, V): one norm per stream, concatenate, project."""

    def __init__(self, stem: int) -> None:
        super().__init__()
        self.stream_bn = nn.ModuleList(nn.BatchNorm2d(3) for _ in STREAMS)
        self.proj = nn.Sequential(conv1x1(9, stem), nn.BatchNorm2d(stem), nn.ReLU())

    def forward(self, streams: dict[str, Tensor]) -> Tensor:
        x = torch.cat([rows(streams[name]) for name in STREAMS], dim=3).permute(0, 3, 1, 2)
        conv, norm, _ = self.proj.children()
        assert isinstance(conv, nn.Conv2d)
        weight = conv.weight
        streams_norms = [one for one in self.stream_bn.children() if isinstance(one, nn.BatchNorm2d)]

        def weights() -> Weights:
            if stem.fits(x, streams_norms):
                device = x.device.type
                form = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype
                learned = [one for norm in streams_norms for one in (norm.weight, norm.bias)]
                return stem.Folded.apply(x, weight, streams_norms, form, *learned)  # type: ignore[no-any-return,no-untyped-call]
            # A norm is a scale and a shift of each channel, and what follows is linear: both go into the projection.
            with torch.autocast(x.device.type, enabled=False):
                scale, shift = self._norm(x)
                return weight * scale[None, :, None, None], weight.flatten(1) @ shift

        fused = conv_norm(x, conv, norm, weights)
        return F.relu(fused, inplace=not torch.is_grad_enabled())

    def _norm(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Scale and shift (9,) of the streams' norms; in training from the batch, which also moves the running ones."""
        norms = [norm for norm in self.stream_bn.children() if isinstance(norm, nn.BatchNorm2d)]
        if norms[0].training:
            var, mean = torch.var_mean(full(x), dim=(0, 2, 3), correction=0)
            with torch.no_grad():
                count = x.numel() // x.shape[1]
                unbiased = var * (count / max(1, count - 1))
                for norm, own_mean, own_var in zip(norms, mean.view(-1, 3), unbiased.view(-1, 3)):
                    assert norm.running_mean is not None
                    assert norm.running_var is not None
                    assert norm.num_batches_tracked is not None
                    norm.num_batches_tracked += 1
                    norm.running_mean.lerp_(own_mean, norm.momentum or 0.0)
                    norm.running_var.lerp_(own_var, norm.momentum or 0.0)
        else:
            mean = torch.cat([norm.running_mean for norm in norms if norm.running_mean is not None])
            var = torch.cat([norm.running_var for norm in norms if norm.running_var is not None])
        scale = torch.cat([norm.weight for norm in norms]) * (var + norms[0].eps).rsqrt()
        return scale, torch.cat([norm.bias for norm in norms]) - mean * scale


class SpatialGraphConv(nn.Module):
    """(N, Cin, T, V) -> (N, C, T, V): K graph convolutions, their sum weighted by attention if asked for, BN, Hardswish.

    y[k, c, t, w] = sum_v x[k, c, t, v] (A[k] edge[k])[v, w]; with attention, a = softmax_k(W mean_{t,w} y).

    Aggregating joints and mixing channels commute, and the narrower side is aggregated: the input. The mean that the
    attention sees is linear in the input too, so it takes the input's mean over frames alone; and the attention's weights
    go into each clip's adjacency.
    """

    A: Tensor

    def __init__(self, cin: int, cout: int, adjacency: Tensor, subset_attention: bool) -> None:
        super().__init__()
        self.num_subsets = adjacency.shape[0]
        self.register_buffer("A", adjacency.clone())
        self.edge = nn.Parameter(torch.ones_like(adjacency))
        self.gcn = conv1x1(cin, self.num_subsets * cout)
        self.bn = nn.BatchNorm2d(cout)
        if subset_attention:
            linear = nn.Linear(self.num_subsets * cout, self.num_subsets, bias=False)
            self.subset_att: nn.Sequential | None = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), linear)
        else:
            self.subset_att = None

    def forward(self, x: Tensor) -> Tensor:
        return self.beside(x)[0]

    def beside(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What comes out, twice, and x for whatever else needs it: what flows back for that is added where this is."""
        k, cin = self.num_subsets, x.shape[1]
        if self.subset_att is not None and spatial.fits(x, k):
            linear = self.subset_att[2].get_parameter("weight")
            x, gathered, ready = spatial.Attended.apply(x, self.edge, self.gcn.weight, linear, self.A)  # type: ignore[no-untyped-call]
            return *conv_norm_twice(gathered, self.gcn, self.bn, lambda: (ready, None), hardswish=True), x
        weight = self.gcn.weight.view(k, -1, cin)
        share = None if self.subset_att is None else self._attention(x, self.A * self.edge, weight)
        gathered = mix_joints(x, self.A, self.edge, share)

        def weights() -> Weights:
            return weight.transpose(0, 1).reshape(-1, k * cin, 1, 1), None

        return *conv_norm_twice(gathered, self.gcn, self.bn, weights, hardswish=True), x

    def _attention(self, x: Tensor, adjacency: Tensor, weight: Tensor) -> Tensor:
        """(N, K): softmax over k of a linear map of the mean over frames and joints of each subset's output."""
        assert self.subset_att is not None
        with torch.autocast(x.device.type, enabled=False):
            mean = adjacency.mean(dim=2) @ MeanOverFrames.apply(x)  # type: ignore[no-untyped-call]  # (n, k, cin)
            linear = self.subset_att[2].get_parameter("weight").view(self.num_subsets, self.num_subsets, -1)
            logits = torch.einsum("nki,jki->nj", mean, torch.einsum("jkc,kci->jki", linear, weight))
            return logits.softmax(dim=1)


class TemporalConv(nn.Module):
    """(N, C, T, V) -> (N, C, ceil(T / stride), V): expand, 5-frame depthwise convolution, contract, plus a shortcut."""

    def __init__(self, channels: int, expand_ratio: int, stride: int) -> None:
        super().__init__()
        wide = channels * expand_ratio
        depthwise = nn.Conv2d(wide, wide, (5, 1), stride=(stride, 1), padding=(2, 0), groups=wide, bias=False)
        self.expand_conv = nn.Sequential(conv1x1(channels, wide), nn.BatchNorm2d(wide), nn.Hardswish())
        self.depth_conv = nn.Sequential(depthwise, nn.BatchNorm2d(wide), nn.Hardswish())
        self.point_conv = nn.Sequential(conv1x1(wide, channels), nn.BatchNorm2d(channels))
        self.residual: nn.Module = shortcut(channels, channels, stride)

    def forward(self, x: Tensor) -> Tensor:
        return self.twice(x, x)[0]

    def twice(self, x: Tensor, again: Tensor) -> tuple[Tensor, Tensor]:
        """What comes out, twice, of what is given twice: the shortcut is of ``again``."""
        expand, norm, _ = self.expand_conv.children()
        depthwise, last, _ = self.depth_conv.children()
        assert isinstance(expand, nn.Conv2d)
        assert isinstance(norm, nn.BatchNorm2d)
        assert isinstance(depthwise, nn.Conv2d)
        assert isinstance(last, nn.BatchNorm2d)
        if norm.training and last.training:
            y = norm_and_depthwise(F.conv2d(x, weight_of(expand)), norm, depthwise, last)
        else:
            y = conv_norm(x, expand, norm, hardswish=True)
            y = conv_norm(y, depthwise, last, hardswish=True)
        return conv_norm_twice(y, self.point_conv[0], self.point_conv[1], add=self.residual(again))


class ChannelGate(nn.Module):
    """Scale channels by what moves (``motion``), or by that and the frequencies it moves at (``hybrid``).

    x + alpha (x g - x), g = sigmoid(W2 relu(W1 e)). e is the mean over frames and joints of |x[t+1] - x[t]|; hybrid
    appends the mean power |rfft over t|^2 of the low, middle and high third of the frequency bins, in float32.
    """

    def __init__(self, channels: int, hybrid: bool) -> None:
        super().__init__()
        self.hybrid = hybrid
        hidden = max(4, channels // 4)
        descriptor = 4 * channels if hybrid else channels
        self.gate_alpha = nn.Parameter(torch.zeros(1, channels, 1, 1))
        self.mlp = nn.Sequential(nn.Linear(descriptor, hidden, bias=False), nn.ReLU(), nn.Linear(hidden, channels, bias=False))

    def forward(self, x: Tensor, motion: Tensor) -> Tensor:
        """``x`` (N, C, T, V), its ``motion`` (N, C) -> the factor (N, C) by which the gate multiplies it: 1 + alpha (g - 1)."""
        if self.hybrid:
            # Powers are squares of sums: of a channel whose mean is 28 more than half precision holds.
            with torch.autocast(x.device.type, enabled=False):
                gate: Tensor = self.mlp(torch.cat([full(motion), *self._band_powers(x)], dim=1)).sigmoid()
        else:
            gate = self.mlp(motion).sigmoid()
        return 1 + self.gate_alpha.flatten(1) * (gate - 1)

    @staticmethod
    def _band_powers(x: Tensor) -> list[Tensor]:
        power = torch.view_as_real(torch.fft.rfft(full(x), dim=2)).square().sum(dim=4)
        third = power.shape[2] // 3
        return [band.mean(dim=(2, 3)) for band in power.tensor_split((third, 2 * third), dim=2)]


class JointAttention(nn.Module):
    """Scale frames and joints: x + alpha (x s_frame s_joint - x), each s from the mean over the other axis."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = max(4, channels // 4)
        self.alpha = nn.Parameter(torch.zeros(1, channels, 1, 1))

        def branch(pool: tuple[int | None, int | None]) -> nn.Sequential:
            squeeze = (conv1x1(channels, hidden), nn.BatchNorm2d(hidden), nn.ReLU())
            return nn.Sequential(nn.AdaptiveAvgPool2d(pool), *squeeze, conv1x1(hidden, channels), nn.Sigmoid())

        self.temporal_att = branch((None, 1))
        self.spatial_att = branch((1, None))

    def forward(self, frames: Tensor, joints: Tensor) -> tuple[Tensor, Tensor]:
        """Means over joints (N, T, C) and over frames (N, V, C) -> s_frame (N, T, C) and s_joint (N, V, C)."""
        by_frame = self._branch(self.temporal_att, frames.transpose(1, 2)[:, :, :, None])
        by_joint = self._branch(self.spatial_att, joints.transpose(1, 2)[:, :, None, :])
        return by_frame.squeeze(3).transpose(1, 2), by_joint.squeeze(2).transpose(1, 2)

    @property
    def norms(self) -> tuple[nn.BatchNorm2d, nn.BatchNorm2d]:
        """Those of frames and of joints."""
        by_frame, by_joint = self.temporal_att[2], self.spatial_att[2]
        assert isinstance(by_frame, nn.BatchNorm2d)
        assert isinstance(by_joint, nn.BatchNorm2d)
        return by_frame, by_joint

    @staticmethod
    def _branch(branch: nn.Sequential, pooled: Tensor) -> Tensor:
        last = branch[4]
        assert isinstance(last, nn.Conv2d)
        return convolution(F.relu(conv_norm(pooled, branch[1], branch[2])), last.weight).sigmoid()


class Block(nn.Module):
    """Graph convolution, temporal convolutions, channel gate, joint attention; drop path; shortcut."""

    def __init__(
        self,
        cin: int,
        cout: int,
        *,
        stride: int,
        depth: int,
        expand_ratio: int,
        adjacency: Tensor,
        subset_attention: bool,
        hybrid_gate: bool,
        drop_path_rate: float,
    ) -> None:
        super().__init__()
        self.drop_path_rate = drop_path_rate
        self.gcn = SpatialGraphConv(cin, cout, adjacency, subset_attention)
        self.tcns = nn.ModuleList(TemporalConv(cout, expand_ratio, stride if i == 0 else 1) for i in range(depth))
        self.gate = ChannelGate(cout, hybrid_gate)
        self.st_att = JointAttention(cout)
        self.residual = shortcut(cin, cout, stride)

    def forward(self, x: Tensor, path_noise: Tensor | None = None) -> Tensor:
        """``path_noise`` (N,) uniform in [0, 1): a clip whose number is below the rate takes the shortcut alone."""
        y, again, x = self.gcn.beside(x)
        for tcn in self.tcns:
            assert isinstance(tcn, TemporalConv)
            y, again = tcn.twice(y, again)
        return self.end(lambda: self.residual(x), y, path_noise)

    def end(self, base: Callable[[], Tensor], y: Tensor, path_noise: Tensor | None = None) -> Tensor:
        """All behind the convolutions: ``base`` makes what y is added to."""
        rate = self.drop_path_rate if self.training else 0.0
        norms, weights = self.st_att.norms, self.gates()
        if all(norm.training for norm in norms) and gates.fits(y, weights, self.gate.hybrid, *norms):
            noise = torch.rand(len(y), device=y.device) if rate > 0 and path_noise is None else path_noise
            given = base().to(y.dtype), y, noise if rate > 0 else None, rate, norms
            return gates.Tail.apply(*given, *weights)  # type: ignore[no-any-return,no-untyped-call]
        y, motion, frames, joints = Pool.apply(y)  # type: ignore[no-untyped-call]
        # The gate, the attention and drop path all multiply: one factor for each element, p + q s, applied once.
        gate = self.gate(y, motion)
        by_frame, by_joint = self.st_att(frames * gate[:, None].to(y.dtype), joints * gate[:, None].to(y.dtype))
        if rate > 0:
            noise = torch.rand(len(y), device=y.device) if path_noise is None else path_noise
            gate = gate * ((noise >= rate).to(gate.dtype) / (1 - rate))[:, None]
        alpha = self.st_att.alpha.flatten(1)
        p, q = gate * (1 - alpha), (gate * alpha)[:, None] * by_frame
        out: Tensor = ScaleAndAdd.apply(base(), y, p.to(y.dtype), q.to(y.dtype), by_joint.to(y.dtype))  # type: ignore[no-untyped-call]
        return out

    def gates(self) -> gates.Weights:
        """The weights of the channel gate and of the joint attention."""
        ends = (self.gate.mlp.get_parameter(name) for name in ("0.weight", "2.weight"))
        layers = "1.weight", "4.weight", "2.weight", "2.bias"
        branches = self.st_att.temporal_att, self.st_att.spatial_att
        of_attention = (branch.get_parameter(name) for branch in branches for name in layers)
        return gates.Weights._make([*ends, self.gate.gate_alpha, self.st_att.alpha, *of_attention])


class Shortcut(nn.Sequential):
    """A strided 1x1 convolution and a norm, where the shape changes."""

    def forward(self, x: Tensor) -> Tensor:
        return conv_norm(x, self[0], self[1])


def shortcut(cin: int, cout: int, stride: int) -> nn.Module:
    """Identity, or a strided 1x1 convolution and a norm where the shape changes."""
    if cin == cout and stride == 1:
        return nn.Identity()
    return Shortcut(conv1x1(cin, cout, stride), nn.BatchNorm2d(cout))
