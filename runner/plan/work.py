"""What one body of a clip costs the network: arithmetic, what is kept for the backward pass, kernels. From the tables alone.

Without torch, so in closed form; a test compares it with what torch counts.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from last_e.config import ModelConfig
from last_e.joints import NUM_JOINTS
from last_e.layers import nest, package_layer

STREAM_CHANNELS = 9  # joint, velocity and bone, x y z each
KERNEL = 5


@dataclass(frozen=True)
class Work:
    """Of one body."""

    flops: float
    """Multiplications and additions of a forward pass. A training step has three times as many."""
    kept: float
    """Numbers that a training step keeps from its forward pass for its backward pass."""
    blocks: int


def work_of(model: ModelConfig, frames: int, joints: int | None = None) -> Work:
    """The work for clips of so many frames and joints (default: NTU's)."""
    joints = joints or NUM_JOINTS
    subsets = model.max_hop + 1
    places = frames * joints
    macs = STREAM_CHANNELS * model.stem_channels * places
    kept = (STREAM_CHANNELS + 2 * model.stem_channels) * places
    before = model.stem_channels
    for stage, width in enumerate(model.channels):
        for position in range(model.num_blocks[stage]):
            stride = model.strides[stage] if position == 0 else 1
            after = -(-frames // stride)
            a, b = frames * joints, after * joints
            wide = width * model.expand_ratio
            # graph convolution: mix channels for each subset, then joints; sum, norm, activation
            macs += before * subsets * width * a + subsets * width * a * joints
            kept += (
                subsets * (before + (joints if model.use_subset_att else 0)) + 3 * width
            ) * a  # what each joint gathers, by what adjacency; the output
            # temporal convolutions: expand, over frames, contract
            for depth in range(model.depths[stage]):
                begin, shrinks = (a, stride != 1) if depth == 0 else (b, False)
                macs += width * wide * begin + KERNEL * wide * b + wide * width * b + (width * width * b if shrinks else 0)
                kept += 3 * wide * begin + 3 * wide * b + (4 if shrinks else 2) * width * b
            # gates, attention, shortcut
            shaped = before != width or stride != 1
            macs += before * width * b if shaped else 0
            kept += ((2 if shaped else 1) * width + (before if stride != 1 else 0)) * b
            before, frames = width, after
    return Work(2.0 * macs, float(kept), sum(model.num_blocks))


@cache
def packaged_model(variant: str) -> ModelConfig:
    """The tables of a variant as it comes with the package."""
    values = nest({key: entry.value for key, entry in package_layer(variant, "ntu60", "local").items()})
    return ModelConfig.model_validate(values["model"])
