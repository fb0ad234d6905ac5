"""LAST-E v3 as a whole: fusion of the streams, stages of blocks, gated pooling, classifier."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from last_e.config import ModelConfig
from last_e.graph import hop_adjacency, hop_distance
from last_e.model import fused_cuda, head
from last_e.model.blocks import Block, Shortcut, SpatialGraphConv, StreamFusion, TemporalConv, full
from last_e.model.formats import converted
from last_e.skeletons import NTU25, Skeleton


class Noise(NamedTuple):
    """Uniform numbers in [0, 1) that decide dropout and drop path, so that a step's are the same on every device."""

    dropout: Tensor
    """(N, C), C the channels of the last stage."""
    path: Tensor
    """(N, B), B the number of blocks."""


class LastE(nn.Module):
    """The network. One body a row: several bodies of a clip go through as several rows.

    Args:
        config: the variant's tables.
        num_classes: width of the classifier.
        skeleton: whose joints and bones; default: NTU's.
    """

    make_fusion: type[nn.Module] = StreamFusion
    make_block: type[nn.Module] = Block

    def __init__(self, config: ModelConfig, num_classes: int, skeleton: Skeleton = NTU25) -> None:
        super().__init__()
        self.config = config
        self.num_classes = num_classes
        self.skeleton = skeleton
        adjacency = hop_adjacency(config.max_hop, skeleton)
        self.fusion = self.make_fusion(config.stem_channels)
        num_blocks = sum(config.num_blocks)
        channels, index = config.stem_channels, 0
        self.stages = nn.ModuleList()
        for stage, width in enumerate(config.channels):
            blocks = nn.ModuleList()
            for position in range(config.num_blocks[stage]):
                block = self.make_block(
                    channels,
                    width,
                    stride=config.strides[stage] if position == 0 else 1,
                    depth=config.depths[stage],
                    expand_ratio=config.expand_ratio,
                    adjacency=adjacency,
                    subset_attention=config.use_subset_att,
                    hybrid_gate=config.gate_type == "hybrid" and stage == len(config.channels) - 1,
                    drop_path_rate=config.drop_path_rate * index / max(1, num_blocks - 1),
                )
                blocks.append(block)
                channels, index = width, index + 1
            self.stages.append(blocks)
        self.pool_gate = nn.Parameter(torch.zeros(1, channels, 1, 1))
        self.head_bn = nn.BatchNorm1d(channels)
        self.fc = nn.Linear(channels, num_classes)
        if config.use_ib_loss:
            self.fc_mu = nn.Linear(channels, min(128, channels))
            self.fc_logvar = nn.Linear(channels, min(128, channels))
        self.noise_shape = (channels, num_blocks)
        self._pointwise = [conv for module in self.stages.modules() for conv in _pointwise_of(module)]
        self.still: list[nn.Module] = []
        """Batch norms that keep to their running statistics, also in training."""
        self.apply(_initialise)
        self.register_load_state_dict_pre_hook(_drop_shared_graph)  # type: ignore[no-untyped-call]

    def forward(
        self, streams: dict[str, Tensor], noise: Noise | None = None, row_weight: Tensor | None = None
    ) -> Tensor | tuple[Tensor, Tensor]:
        """``joint``, ``velocity``, ``bone``, each (N, 3, T, V) -> logits (N, classes).

        In training mode with ``use_ib_loss`` the result is (logits, IB loss), the latter a mean over rows, weighted by
        ``row_weight`` (N,) where several rows are one clip. ``noise`` fixes dropout and drop path; without it they come
        from torch's own generator.
        """
        x = self.fusion(streams)
        blocks = (block for stage in self.stages for block in stage.children())
        with converted(self._pointwise, self.training):
            for index, block in enumerate(blocks):
                x = block(x, None if noise is None else noise.path[:, index])
        if fused_cuda.kernels_for(x) and self.training:
            pooled: Tensor = head.GatedPool.apply(x, self.pool_gate)  # type: ignore[no-untyped-call]
            with torch.autocast(x.device.type, enabled=False):  # so small that formats cost more than they save
                logits: Tensor = self.fc(self._normed(pooled, noise))
        else:
            gate = self.pool_gate.flatten(1).sigmoid()
            pooled = gate * x.mean(dim=(2, 3)) + (1 - gate) * x.amax(dim=(2, 3))
            logits = self.fc(self._dropout(self.head_bn(pooled), noise))
        if not (self.training and self.config.use_ib_loss):
            return logits
        return logits, self._ib_loss(pooled, row_weight)

    def keep_still(self, norms: Iterable[nn.Module]) -> None:
        """Have batch norms keep to their running statistics. Those of the three streams are one norm in three parts."""
        self.still = list(norms)
        streams = list(self.fusion.stream_bn.children()) if isinstance(self.fusion, StreamFusion) else []
        if any(norm in self.still for norm in streams):
            self.still += [norm for norm in streams if norm not in self.still]
        self.train(self.training)

    def train(self, mode: bool = True) -> LastE:
        """As of any module, but for what is kept still."""
        super().train(mode)
        for norm in self.still:
            norm.eval()
        return self

    def _normed(self, pooled: Tensor, noise: Noise | None) -> Tensor:
        """The same as norm and dropout, by a kernel where it can; of a single row torch says what is wrong."""
        norm, rate = self.head_bn, self.config.dropout
        if not norm.training or norm.momentum is None or len(pooled) < 2 or (noise is None and rate > 0):
            return self._dropout(norm(pooled), noise)
        chance = None if noise is None or rate == 0 else noise.dropout.contiguous()
        return head.NormAndDropout.apply(pooled, norm.weight, norm.bias, norm, chance, rate)  # type: ignore[no-any-return,no-untyped-call]

    def _dropout(self, x: Tensor, noise: Noise | None) -> Tensor:
        rate = self.config.dropout
        if noise is None or not self.training or rate == 0:
            return F.dropout(x, rate, self.training)
        return x * (noise.dropout >= rate).to(x.dtype) / (1 - rate)

    def _ib_loss(self, pooled: Tensor, row_weight: Tensor | None) -> Tensor:
        """KL divergence of N(mu, exp(logvar)) from N(0, 1), mean over rows, float32 (InfoGCN, Chi et al., CVPR 2022)."""
        with torch.autocast(pooled.device.type, enabled=False):
            mu, logvar = self.fc_mu(full(pooled)), self.fc_logvar(full(pooled))
            if fused_cuda.used_on(mu.device) and mu.dtype == torch.float32:
                return head.Divergence.apply(mu, logvar, row_weight)  # type: ignore[no-any-return,no-untyped-call]
            divergence: Tensor = -0.5 * (1 + logvar - mu.square() - logvar.exp()).sum(dim=1)
            return divergence.mean() if row_weight is None else (divergence * row_weight).sum() / row_weight.sum()


def receptive_field(model: LastE) -> int:
    """How many bones away a joint can still influence another: the reach of each graph convolution, added up."""
    distance = hop_distance(model.skeleton.bones, len(model.skeleton.joints)).to(model.pool_gate.device)
    layers = [module for module in model.modules() if isinstance(module, SpatialGraphConv)]
    return sum(int(distance[(layer.A * layer.edge != 0).any(dim=0)].max()) for layer in layers)


def _pointwise_of(module: nn.Module) -> list[nn.Conv2d]:
    """The convolutions whose weights are used as they are."""
    if isinstance(module, TemporalConv):
        found = [module.expand_conv[0], module.point_conv[0]]
    else:
        found = [module[0]] if isinstance(module, Shortcut) else []
    return [conv for conv in found if isinstance(conv, nn.Conv2d)]


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    elif isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, std=0.01)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def _drop_shared_graph(module: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """The original code also stored the whole graph at the top; every layer has its own, so that one is not needed."""
    state.pop(prefix + "A", None)
