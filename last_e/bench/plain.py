"""The network written straight down, as such trainers usually have it: what lastrun's own is measured and tested against.

It takes and gives what :class:`last_e.model.LastE` takes and gives, with the same parameters under the same keys.
Shapes: N clips, C channels, T frames, V joints, K graph subsets.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from last_e.model.blocks import conv1x1, full
from last_e.model.network import LastE


class StreamFusion(nn.Module):
    """Joint, velocity and bone, each (N, 3, T, V), to (N, stem, T, V): one norm per stream, concatenate, project."""

    def __init__(self, stem: int) -> None:
        super().__init__()
        self.stream_bn = nn.ModuleList(nn.BatchNorm2d(3) for _ in range(3))
        self.proj = nn.Sequential(conv1x1(9, stem), nn.BatchNorm2d(stem), nn.ReLU())

    def forward(self, streams: dict[str, Tensor]) -> Tensor:
        normed = [bn(streams[name]) for bn, name in zip(self.stream_bn, ("joint", "velocity", "bone"))]
        fused: Tensor = self.proj(torch.cat(normed, dim=1))
        return fused


class SpatialGraphConv(nn.Module):
    """(N, Cin, T, V) -> (N, C, T, V): K graph convolutions, their sum weighted by attention if asked for, BN, Hardswish.

    y[k, c, t, w] = sum_v x[k, c, t, v] (A[k] edge[k])[v, w]; with attention, a = softmax_k(W mean_{t,w} y).
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
        n, _, t, v = x.shape
        y = self.gcn(x).reshape(n, self.num_subsets, -1, v)
        y = torch.matmul(y, (self.A * self.edge).to(y.dtype))
        if self.subset_att is not None:
            weight = self.subset_att(y.reshape(n, -1, t, v)).softmax(dim=1)
            y = y * weight[:, :, None, None]
        return F.hardswish(self.bn(y.sum(dim=1).reshape(n, -1, t, v)))


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
        y: Tensor = self.point_conv(self.depth_conv(self.expand_conv(x))) + self.residual(x)
        return y


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
        self.power: Callable[[Tensor], Tensor] = power_by_fft
        """Of the frequencies; something else where there is no such operation."""

    def forward(self, x: Tensor) -> Tensor:
        energy = (x[:, :, 1:] - x[:, :, :-1]).abs().mean(dim=(2, 3))
        if self.hybrid:
            energy = torch.cat([full(energy), *self._band_powers(x)], dim=1)
        gate: Tensor = self.mlp(energy).sigmoid()[:, :, None, None].to(x.dtype)
        return x + self.gate_alpha * (x * gate - x)

    def _band_powers(self, x: Tensor) -> list[Tensor]:
        with torch.autocast(x.device.type, enabled=False):
            power = self.power(full(x))
        third = power.shape[2] // 3
        return [band.mean(dim=(2, 3)) for band in power.tensor_split((third, 2 * third), dim=2)]


def power_by_fft(x: Tensor) -> Tensor:
    """(N, C, T, V) -> |rfft over t|^2, (N, C, T // 2 + 1, V)."""
    powers: Tensor = torch.fft.rfft(x, dim=2).abs().square()
    return powers


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

    def forward(self, x: Tensor) -> Tensor:
        scaled: Tensor = x * self.temporal_att(x) * self.spatial_att(x)
        return x + self.alpha * (scaled - x)


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
        y = self.gcn(x)
        for tcn in self.tcns:
            y = tcn(y)
        y = self.st_att(self.gate(y))
        if self.training and self.drop_path_rate > 0:
            noise = torch.rand(len(y), device=y.device) if path_noise is None else path_noise
            keep = (noise >= self.drop_path_rate).to(y.dtype) / (1 - self.drop_path_rate)
            y = y * keep[:, None, None, None]
        out: Tensor = y + self.residual(x)
        return out


def shortcut(cin: int, cout: int, stride: int) -> nn.Module:
    """Identity, or a strided 1x1 convolution and a norm where the shape changes."""
    if cin == cout and stride == 1:
        return nn.Identity()
    return nn.Sequential(conv1x1(cin, cout, stride), nn.BatchNorm2d(cout))


class PlainLastE(LastE):
    """The same stages and head, of the parts above."""

    make_fusion = StreamFusion
    make_block = Block
