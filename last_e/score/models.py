"""What checkpoints say of clips."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from last_e import checkpoint
from last_e.config import TrainConfig
from last_e.data.batches import TestBatches
from last_e.data.clips import Clips
from last_e.data.datasets import load_clips
from last_e.data.splits import parts_of
from last_e.data.transform import TEST_CROP
from last_e.datafile import DataError
from last_e.evaluate import logits_of
from last_e.events import Event
from last_e.manifest import DamagedCheckpoint
from last_e.model.network import LastE
from last_e.precision import choose_device, choose_precision
from last_e.score.figures import figures
from last_e.text import one_line
from last_e.train import TEST_BATCH, load_loops, set_up_torch

AMONG = 5


class _Silent:
    def emit(self, event: Event) -> None:
        """What training would say of this machine."""


_SILENT = _Silent()


class Asked(NamedTuple):
    """A checkpoint to be heard."""

    folder: Path
    config: TrainConfig
    """As this machine has it."""
    weight: float
    """Of its probabilities, where there are several."""


def score(
    asked: list[Asked], part: str, crops: int, progress: Callable[[int, int, str], None]
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """All figures of one checkpoint, or of several whose probabilities are added; and what is said of each clip.

    Args:
        asked: all of them on the same clips.
        part: ``test``, ``train``, or ``validation`` where the split has one.
        crops: how many pieces of each clip, spread evenly over it; 1 is the middle, as in training.
        progress: told clips done, of how many, and what comes next.

    Raises:
        DataError: the clips are missing or damaged, or not the same for all.
        DamagedCheckpoint: one is not whole, or holds no such network.
    """
    total: Tensor | None = None
    same: tuple[str, list[int]] | None = None
    loss = 0.0
    for number, one in enumerate(asked):
        clips = load_clips(one.config)
        index = _chosen(clips, one.config, part)
        if not len(index):
            raise DataError(f"{one.config.dataset}: split {one.config.split_type} has no clips for {part}", missing=True)
        this = clips.fingerprint(), index.tolist()
        if same is not None and this != same:
            found = f"{len(index)} and {len(same[1])} of them"
            raise DataError(f"{one.folder}: its clips are not those of the first ({found})", missing=True)
        same = this
        whose = f"model {number + 1} of {len(asked)}" if len(asked) > 1 else ""
        logits = _logits(one, clips, index, crops, partial(_told, progress, whose))
        loss = float(F.cross_entropy(logits[0], clips.label[index], reduction="sum").double() / len(index))
        probabilities = torch.stack([one_crop.double().softmax(1) for one_crop in logits]).mean(0)
        if total is not None and total.shape != probabilities.shape:
            raise DataError(
                f"{one.folder}: it knows {probabilities.shape[1]} classes, the first {total.shape[1]}", missing=True
            )
        total = one.weight * probabilities if total is None else total + one.weight * probabilities
    assert total is not None
    total = total / sum(one.weight for one in asked)
    label, people = clips.label[index], clips.performer[index]
    ranks = logits[0] if len(asked) == crops == 1 else total  # softmax may make two that differ the same
    among = ranks.topk(min(AMONG, ranks.shape[1]), dim=1).indices
    hits = among == label[:, None]
    result = {
        "top1": float(hits[:, 0].double().mean()),
        "top5": float(hits.any(1).double().mean()),
        "names": None if clips.description is None else list(clips.description.classes),
        "loss": loss if len(asked) == crops == 1 else float(F.nll_loss(total.clamp_min(1e-300).log(), label)),
        **figures(total.numpy(), label.numpy(), people.numpy()),
    }
    said = [
        {"clip": clip, "label": int(label[row]), "said": int(among[row, 0]), "probability": float(total[row, among[row, 0]])}
        for row, clip in enumerate(index.tolist())
    ]
    return result, said


def _chosen(clips: Clips, config: TrainConfig, part: str) -> Tensor:
    """The clips of a part, by their numbers."""
    parts = parts_of(clips, config)
    if part == "validation" and parts.validation is None:  # what an own set's file keeps for it, and no job has asked for
        return clips.validation.get(config.split_type, torch.zeros(0)).nonzero()[:, 0]
    return torch.from_numpy(getattr(parts, part)).nonzero()[:, 0]


def _told(progress: Callable[[int, int, str], None], whose: str, done: int, total: int) -> None:
    progress(done, total, whose)


@torch.no_grad()
def _logits(one: Asked, clips: Clips, index: Tensor, crops: int, progress: Callable[[int, int], None]) -> list[Tensor]:
    """(n, C) float32 for each crop, on the CPU."""
    config = one.config
    device, _ = choose_device(config.hardware)
    precision = choose_precision(config, device)
    workers = set_up_torch(config, device, _SILENT)
    load_loops(config, device, _SILENT)
    model = LastE(config.model, config.data.num_classes, clips.skeleton)
    state, _ = checkpoint.load(one.folder)
    try:
        model.load_state_dict(state["model"])
    except (KeyError, RuntimeError) as error:
        raise DamagedCheckpoint(f"its weights do not fit {config.model.variant} ({one_line(error)})") from None
    model = model.to(device).eval()
    size = config.hardware.micro_batch or TEST_BATCH[device.type]
    found = []
    for crop in range(crops):
        begin = None if crops == 1 else (1 - TEST_CROP) * crop / (crops - 1)
        batches = TestBatches(clips, index, config.training.input_frames, size, workers, begin=begin)
        rows = []
        for number, batch in enumerate(batches):
            rows.append(logits_of(model, batch.to(device), precision).cpu())
            progress(crop * len(index) + min((number + 1) * size, len(index)), crops * len(index))
        found.append(torch.cat(rows))
    return found
