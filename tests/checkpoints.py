"""Checkpoints of networks that nobody has trained: what is asked of them is that they say the same, not that they are right."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from last_e import checkpoint
from last_e.config import TrainConfig
from last_e.data.batches import TestBatches
from last_e.data.synthetic import synthetic_clips
from last_e.described import DESCRIPTION, Description
from last_e.layers import resolve
from last_e.manifest import Manifest
from last_e.model.network import LastE
from last_e.problems import Origin
from last_e.reading import Entry
from last_e.skeletons import NTU25

SMALL = {
    "model.variant": "nano_e_v3",
    "model.stem_channels": 8,
    "model.channels": [8, 8],
    "model.num_blocks": [1, 1],
    "model.depths": [1, 1],
    "model.strides": [1, 2],
    "training.input_frames": 16,
    "hardware.cpu_threads": 1,
}


def config_of(dataset: str = "synthetic", **values: Any) -> TrainConfig:
    layer = {key: Entry(value, Origin("test")) for key, value in {**SMALL, "dataset": dataset, **values}.items()}
    return resolve([layer], TrainConfig, detect=lambda: ("local", "")).config


def untrained(folder: Path, config: TrainConfig, description: Description | None = None, seed: int = 0) -> Path:
    """A whole checkpoint with random weights, whose classes differ from clip to clip."""
    torch.manual_seed(seed)
    skeleton = NTU25 if description is None else description.skeleton
    model = LastE(config.model, config.data.num_classes, skeleton)
    torch.nn.init.normal_(model.fc.weight)
    _fit_last_norm(model.eval(), config.training.input_frames)
    state: dict[str, Any] = {"model": model.state_dict()}
    if description is not None:
        state[DESCRIPTION] = description.to_json()
    folder.mkdir(parents=True, exist_ok=True)
    about = Manifest(step=1, epoch=1, evaluated=True, milestone=True, test_top1=0.5)
    return checkpoint.save(folder, state, json.dumps(config.model_dump(mode="json")), about)


def _fit_last_norm(model: LastE, frames: int) -> None:
    """To what it is given of clips, here made-up ones: else all would look alike to it."""
    clips = synthetic_clips(num_clips=60)
    streams = next(iter(TestBatches(clips, torch.arange(60), frames, 60))).streams
    given: list[torch.Tensor] = []
    hook = model.head_bn.register_forward_pre_hook(lambda _, inputs: given.append(inputs[0]))
    with torch.no_grad():
        model({name: stream[..., : len(model.skeleton.joints)] for name, stream in streams.items()})
    hook.remove()
    model.head_bn.running_mean, model.head_bn.running_var = given[0].mean(0), given[0].var(0)
