"""A checkpoint to a folder that holds its model in a format, what it says of itself, and its card."""

from __future__ import annotations

import json
import platform
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from last_e import manifest
from last_e.config import TrainConfig
from last_e.data.clips import Clips
from last_e.data.datasets import load_clips
from last_e.data.splits import parts_of
from last_e.datafile import DataError, data_path
from last_e.described import Description
from last_e.environment import cpu_name, usable_cores
from last_e.export import check, formats, quantized
from last_e.export.about import ABOUT, CARD, about_model
from last_e.export.card import card
from last_e.export.network import Recogniser
from last_e.load import load_network


class Asked(NamedTuple):
    """What is to be exported, and how."""

    folder: Path
    """A checkpoint."""
    config: TrainConfig
    """As this machine has it."""
    kind: str
    """A key of :data:`last_e.export.formats.FILES`."""
    into: Path
    """A folder that is empty."""
    name: str
    """What people call the model."""
    licence: str
    clips: int
    """Most clips of test that it is compared on."""
    int8: bool


def export(asked: Asked, progress: Callable[[int, int, str], None]) -> dict[str, Any]:
    """Write an export; returns what it says of itself.

    Raises:
        DataError: the clips are missing or damaged.
        DamagedCheckpoint: it is not whole.
        Differs: what was exported does not say what the network says.
        OSError: there is no room.
    """
    config = asked.config
    progress(0, 0, f"reading the clips of {config.dataset}")
    clips = load_clips(config)
    progress(0, 0, "getting the network ready")
    model, description = load_network(asked.folder, config)
    if clips.skeleton.joints != description.skeleton.joints:
        has, wants = (
            f"{len(one.joints)} joints ({', '.join(one.joints[:3])}, ...)" for one in (clips.skeleton, description.skeleton)
        )
        raise DataError(f"{data_path(config)}: has {has}; the model was trained with {wants}", other=True)
    parts = parts_of(clips, config)
    test, train = (torch.from_numpy(part).nonzero()[:, 0] for part in (parts.test, parts.train))
    index = check.spread(test, asked.clips)
    if not len(index):
        raise DataError(f"{config.dataset}: split {config.split_type} has no clips for test", missing=True)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    told = about_model(config, description, manifest.read_manifest(asked.folder), asked.name, asked.licence, parameters)
    phases = _Phases(progress, 7 if asked.int8 else 4)
    wanted = check.expected(
        model, clips, index, config.training.input_frames, phases.next("the trainer's network, to compare with")
    )
    path = asked.into / formats.FILES[asked.kind]
    recogniser = Recogniser(model, description, config.training.input_frames)
    phases.next(f"writing {path.name}")
    formats.write(asked.kind, recogniser, model, told, path)
    measured = _Measured(clips, description, index, phases)
    found, run = measured.said(asked.kind, path)
    off = check.see_that_it_is_the_same(found, wanted, asked.kind)
    told["file"] = {"name": path.name, "format": asked.kind, "bytes": path.stat().st_size}
    told["checked"] = {
        "clips": len(index),
        "off": off,
        "allowed": check.CLOSE,
        "top1": _top1(found, clips.label[index]),
        "milliseconds": measured.milliseconds(run, path),
        "on": f"{cpu_name()}, {usable_cores()} threads, {platform.system()}, one clip of the middle length",
    }
    if asked.int8:
        told["int8"] = measured.int8(path, asked.into / quantized.FILE, train, found)
    (asked.into / ABOUT).write_text(json.dumps(told, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    (asked.into / CARD).write_text(card(told), encoding="utf-8")
    return told


class _Phases:
    """What is done one after the other. Each counts its own clips, or none: how long one takes says nothing about the next."""

    def __init__(self, progress: Callable[[int, int, str], None], count: int) -> None:
        self._progress, self._count, self._at = progress, count, 0

    def next(self, what: str) -> check.Counted:
        """The next one begins; what is told how far it is, if it counts clips."""
        self._at += 1
        named = f"phase {self._at} of {self._count}: {what}"
        self._progress(0, 0, named)
        return lambda done, total: self._progress(done, total, named)


@dataclass(frozen=True)
class _Measured:
    """The clips that it is compared on."""

    clips: Clips
    description: Description
    index: Tensor
    phases: _Phases

    def said(self, kind: str, path: Path) -> tuple[Tensor, formats.Run]:
        """What the model of a file says of them, and what runs it."""
        counted = self.phases.next(f"{path.name}, compared")
        run = formats.open_to_run(kind, path)
        return check.said(run, self.clips, self.description, self.index, counted, kind), run

    def milliseconds(self, run: formats.Run, path: Path) -> float:
        """What it takes for one of them."""
        self.phases.next(f"{path.name}, timed")
        return round(check.milliseconds(run, self.clips, self.description, self.index), 3)

    def int8(self, path: Path, out: Path, train: Tensor, full: Tensor) -> dict[str, Any]:
        """Write an ONNX model in eight bits, and see what it costs on the same clips."""
        shown = check.spread(train, quantized.MOST_CLIPS)
        self.phases.next(f"writing {out.name}")
        quantized.quantize(path, out, self.clips, self.description, shown)
        found, run = self.said("onnx", out)
        label = self.clips.label[self.index]
        return {
            "name": out.name,
            "bytes": out.stat().st_size,
            "ranges_from": len(shown),
            "top1": _top1(found, label),
            "lost": _top1(full, label) - _top1(found, label),
            "says_the_same": float((found.argmax(1) == full.argmax(1)).double().mean()),
            "milliseconds": self.milliseconds(run, out),
        }


def _top1(logits: Tensor, label: Tensor) -> float:
    return float((logits.argmax(1) == label).double().mean())
