"""What checkpoints say of clips."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from last_e.config import TrainConfig
from last_e.data.batches import TestBatches
from last_e.data.clips import Clips
from last_e.data.datasets import load_clips
from last_e.data.shown import Spoil
from last_e.data.splits import parts_of
from last_e.datafile import DataError, data_path
from last_e.described import Description
from last_e.evaluate import Views, logits_of, mirror_for, of_view
from last_e.events import Discard
from last_e.load import load_network
from last_e.model.folding import folded_once
from last_e.precision import choose_device, choose_precision
from last_e.prepare.clipfile import names_of, read_columns
from last_e.score.figures import figures
from last_e.set_up import TEST_BATCH, load_loops, set_up_torch

AMONG = 5
_MOST_ROUNDS = 1000


class Asked(NamedTuple):
    """A checkpoint to be heard."""

    folder: Path
    config: TrainConfig
    """As this machine has it."""
    weight: float
    """Of its probabilities, where there are several."""
    ema: bool = False
    """The average of its weights."""


def score(
    asked: list[Asked],
    part: str,
    crops: int,
    progress: Callable[[int, int, str], None],
    weigh_on: str | None = None,
    mirror: bool = False,
    spoil: Spoil | None = None,
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """All figures of one checkpoint, or of several whose probabilities are added; and what is said of each clip.

    Args:
        asked: all of them on the same clips.
        part: ``test``, ``train``, or ``validation`` where the split has one.
        crops: how many pieces of each clip, spread evenly over it; 1 is the middle, as in training.
        progress: told clips done, of how many, and what comes next.
        mirror: each piece also in a mirror.
        spoil: what is wrong with the clips; default: nothing.
        weigh_on: another part, on which the weights of several are chosen; default: as they were asked.

    Raises:
        DataError: the clips are missing or damaged, or not the same for all.
        DamagedCheckpoint: one is not whole, or holds no such network.
    """
    heard: list[_Heard] = []
    parts = [part] if weigh_on is None else [part, weigh_on]
    same: tuple[str, list[list[int]]] | None = None
    for number, one in enumerate(asked):
        whose = f"model {number + 1} of {len(asked)}" if len(asked) > 1 else ""
        progress(0, 0, f"reading the clips of {one.config.dataset}")
        clips = load_clips(one.config)
        index = [_chosen(clips, one.config, name) for name in parts]
        if empty := [name for name, clips_of_it in zip(parts, index) if not len(clips_of_it)]:
            raise DataError(f"{one.config.dataset}: split {one.config.split_type} has no clips for {empty[0]}", missing=True)
        this = clips.fingerprint(), [clips_of_it.tolist() for clips_of_it in index]
        if same is not None and this != same:
            found = f"{len(this[1][0])} and {len(same[1][0])} of them"
            raise DataError(f"{one.folder}: its clips are not those of the first ({found})", missing=True)
        same = this
        heard.append(_heard(one, clips, index, crops, mirror, spoil, partial(_told, progress, whose)))
        width, first = heard[-1].probabilities[0].shape[1], heard[0].probabilities[0].shape[1]
        if width != first:
            raise DataError(f"{one.folder}: it knows {width} classes, the first {first}", missing=True)
    label, people = clips.label[index[0]], clips.performer[index[0]]
    chosen: dict[str, Any] = {}
    weights = torch.tensor([one.weight for one in asked], dtype=torch.float64)
    if weigh_on is not None:
        weights, losses = best_weights([one.probabilities[1] for one in heard], clips.label[index[1]])
        chosen = {"weighed_on": {"part": weigh_on, "clips": len(index[1]), **losses}}
    weights = weights / weights.sum()
    total = torch.stack([weight * one.probabilities[0] for weight, one in zip(weights, heard)]).sum(0)
    is_plain = len(asked) == crops == 1 and not mirror
    ranks = heard[0].logits if is_plain else total  # softmax may make two that differ the same
    among = ranks.topk(min(AMONG, ranks.shape[1]), dim=1).indices
    hits = among == label[:, None]
    exact = float(F.cross_entropy(heard[0].logits, label, reduction="sum").double() / len(label))
    names = heard[0].description.classes
    result = {
        "top1": float(hits[:, 0].double().mean()),
        "top5": float(hits.any(1).double().mean()),
        "names": list(names),
        "weights": weights.tolist(),
        **chosen,
        "loss": exact if is_plain else _loss(total, label),
        **figures(total.numpy(), label.numpy(), people.numpy()),
    }
    called = _names_of_clips(asked[0].config)
    said = [
        {
            "clip": clip,
            "name": called[clip] if called else str(clip),
            "label": int(label[row]),
            "said": int(among[row, 0]),
            "label_name": names[int(label[row])],
            "said_name": names[int(among[row, 0])],
            "probability": float(total[row, among[row, 0]]),
            "probability_of_label": float(total[row, label[row]]),
        }
        for row, clip in enumerate(index[0].tolist())
    ]
    return result, said


def best_weights(probabilities: list[Tensor], label: Tensor) -> tuple[Tensor, dict[str, Any]]:
    """Weights (K,) of K models, which add up to 1, with which the mean of what they say (n, C) each has the least loss on clips
    with these labels (n,); and that loss, and each one's own.

    The loss of a mixture is convex in its weights, so expectation maximisation, begun at equal ones, finds the best there are.
    """
    hits = torch.stack([one.gather(1, label[:, None])[:, 0] for one in probabilities]).clamp_min(1e-300)  # (K, n)
    weights = torch.full((len(hits),), 1 / len(hits), dtype=torch.float64)
    for _ in range(_MOST_ROUNDS):
        shares = weights[:, None] * hits
        before, weights = weights, (shares / shares.sum(0)).mean(1)
        if (weights - before).abs().max() < 1e-7:
            break
    total = (weights[:, None] * hits).sum(0)
    return weights, {"loss": float(-total.log().mean()), "losses": (-hits.log().mean(1)).tolist()}


def _loss(probabilities: Tensor, label: Tensor) -> float:
    return float(F.nll_loss(probabilities.clamp_min(1e-300).log(), label))


def _names_of_clips(config: TrainConfig) -> list[str]:
    """What the clips are called in their file; none of a set that has no file."""
    path = data_path(config)
    return [] if path is None else names_of(read_columns(path)[0])


def _chosen(clips: Clips, config: TrainConfig, part: str) -> Tensor:
    """The clips of a part, by their numbers."""
    parts = parts_of(clips, config)
    if part == "validation" and parts.validation is None:  # what an own set's file keeps for it, and no job has asked for
        return clips.validation.get(config.split_type, torch.zeros(0)).nonzero()[:, 0]
    return torch.from_numpy(getattr(parts, part)).nonzero()[:, 0]


def _told(progress: Callable[[int, int, str], None], whose: str, done: int, total: int) -> None:
    progress(done, total, whose if total else "getting the network ready (once for each CPU up to a minute)")


class _Heard(NamedTuple):
    """What one checkpoint says."""

    logits: Tensor
    """(n, C) float32 of the first part's last view, on the CPU."""
    probabilities: list[Tensor]
    """For each part (n, C) float64, the mean over the views."""
    description: Description


@torch.no_grad()
@folded_once()
def _heard(
    one: Asked,
    clips: Clips,
    index: list[Tensor],
    crops: int,
    mirrored: bool,
    spoil: Spoil | None,
    progress: Callable[[int, int], None],
) -> _Heard:
    """What a checkpoint says of each part, whose clips are ``index``."""
    config = one.config
    device, _ = choose_device(config.hardware)
    precision = choose_precision(config, device)
    workers = set_up_torch(config, device, Discard())
    progress(0, 0)  # what is compiled for this CPU is so once, and may take a minute
    load_loops(config, device, Discard())
    model, description = load_network(one.folder, config, one.ema)
    views = Views(crops, mirror_for(config, description) if mirrored else None)
    model = model.to(device)
    size = config.hardware.micro_batch or TEST_BATCH[device.type]
    total, done = views.count * sum(map(len, index)), 0
    logits: list[Tensor] = []
    probabilities = []
    for clips_of_it in index:
        found = []
        for begin, mirror in views.each():
            rows = []
            frames = config.training.input_frames
            for batch in TestBatches(clips, clips_of_it, frames, size, workers, begin=begin, mirror=mirror, spoil=spoil):
                rows.append(logits_of(model, batch.to(device), precision).cpu())
                done += len(batch.label)
                progress(done, total)
            logits.append(torch.cat(rows))
            found.append(of_view(logits[-1].double().softmax(1), mirror))
        probabilities.append(torch.stack(found).mean(0))
    return _Heard(logits[0], probabilities, description)
