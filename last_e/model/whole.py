"""Whether a whole network comes out with the kernels as with torch alone: in the number format of a run, where
:mod:`last_e.model.tried` asks each kernel by itself, of float32."""

from __future__ import annotations

from copy import deepcopy
from math import prod

import torch
from torch import Tensor
from torch.nn import functional as F

from last_e.config import TrainConfig
from last_e.model.blocks import full
from last_e.model.loss import CrossEntropy, fits
from last_e.model.network import LastE, Noise
from last_e.skeletons import NTU25, Skeleton

ROWS, FRAMES = 8, 64
"""Of these at most, or as few frames as a network's strides leave something of: in float64 they take memory."""
SCALE = 16.0
"""By which the loss is multiplied, so that gradients in fp16 do not vanish."""


LOOSE = {"a network's logits": 0.3, "a network's gradients": 0.5, "a network's statistics": 0.02}
"""What :func:`differences` may be in half precision, of float32 a fiftieth: some three times what torch's own are in bf16, of
networks that have not learned anything."""


def too_far(found: dict[str, float], form: torch.dtype | None) -> dict[str, float]:
    """Which of the differences are more than rounding."""
    part = 0.02 if form is None else 1.0
    return {name: value for name, value in found.items() if not value <= part * LOOSE[name]}


def differences(
    device: torch.device, config: TrainConfig, form: torch.dtype | None, skeleton: Skeleton = NTU25, rows: int = ROWS
) -> dict[str, float]:
    """How far a training step of a run's network, not trained yet, is in ``form`` (None: float32) from torch's in float64,
    relative to the length of each as one vector: the logits, the gradients of all weights, the running statistics.

    Nothing in float64 goes through the kernels; the rest does where they are used.
    """
    with torch.random.fork_rng([] if device.type == "cpu" else [device]):
        torch.manual_seed(5)
        network = LastE(config.model, config.data.num_classes, skeleton)
        with torch.no_grad():
            for weight in network.parameters():
                weight.add_(0.05 * torch.randn(weight.shape))  # many begin at 0, and others would do nothing behind them
        frames = min(config.training.input_frames, max(FRAMES, 4 * prod(config.model.strides)))
        shape = rows, 3, frames, len(skeleton.joints)
        streams = {name: torch.randn(shape).to(device) for name in ("joint", "velocity", "bone")}
        noise = Noise(*(torch.rand(rows, width).to(device) for width in network.noise_shape))
    own = network.to(device).train()
    twin = deepcopy(own).double()
    with torch.autocast(device.type, form, enabled=form is not None):
        found = _step(own, streams, noise)
    wanted = _step(twin, {name: one.double() for name, one in streams.items()}, Noise(*(one.double() for one in noise)))
    return {name: float((one - wanted[name]).norm() / wanted[name].norm()) for name, one in found.items()}


def _step(network: LastE, streams: dict[str, Tensor], noise: Noise) -> dict[str, Tensor]:
    """Forward and backward; all in float64."""
    output = network(streams, noise)
    device, rows = noise.dropout.device, len(noise.dropout)
    with torch.autocast(device.type, enabled=False):
        logits, more = output if isinstance(output, tuple) else (output, torch.zeros((), device=device))
        logits, label = full(logits), torch.arange(rows, device=device) % network.num_classes
        if fits(logits):
            loss: Tensor = CrossEntropy.apply(logits, label, 0.1, None)[0]  # type: ignore[no-untyped-call]
        else:
            loss = F.cross_entropy(logits, label, reduction="sum", label_smoothing=0.1)
        loss = SCALE * (loss + more)
    gradients = torch.autograd.grad(loss, list(network.parameters()))
    return {
        "a network's logits": logits.detach().double(),
        "a network's gradients": torch.cat([one.flatten().double() for one in gradients]) / SCALE,
        "a network's statistics": torch.cat([one.flatten().double() for one in network.buffers()]),
    }
