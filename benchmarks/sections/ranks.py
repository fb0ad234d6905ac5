"""One run as several processes: whether it comes out as from one, and what they gain."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from benchmarks.sections.common import ROOT, Task, compared
from last_e.bench.ranks import measure_ranks
from last_e.manifest import newest_whole

PATIENCE = 100.0
"""Seconds that one run may take."""
ROUNDS = 3
_STEP = ("training.batch_size=16", "training.gradient_accumulation_steps=2", "hardware.micro_batch=4", "hardware.cpu_threads=1")
_SMALL = ("model.stem_channels=8", "model.channels=[8,8,16]", "training.input_frames=16", "training.epochs=1")


def several_ranks(task: Task) -> dict[str, Any]:
    """A run of one rank, of two, and of as many as there are GPUs, on the same micro-batches; then how fast their steps are.

    Where there is a GPU for each, they meet through NCCL; two share one otherwise, through gloo. On a CPU the result has
    to be the same to the last bit; a GPU adds in another order each time.
    """
    gpus = torch.cuda.device_count() if task.device.type == "cuda" else 0
    numbers = sorted({1, 2, max(1, gpus)})
    with TemporaryDirectory() as name:
        first, *others = ((number, _trained(task, Path(name) / f"{number}", number)) for number in numbers)
        found = {number: compared(state, first[1]) for number, state in others}
    wrong = {number: one for number, one in found.items() if task.device.type == "cpu" and not one["identical"]}
    assert not wrong, f"other results than from one: {wrong}"
    by = measure_ranks(task.config, None, numbers, 1 if task.quick else ROUNDS, task.seconds, lambda what: None)["by"]
    return {
        "gpus": gpus,
        "through": {str(number): "nccl" if gpus >= number else "gloo" for number in numbers[1:]},
        "identical": {str(number): one["identical"] for number, one in found.items()},
        "largest_difference": {str(number): one["largest_difference"] for number, one in found.items()},
        **{kind: {number: of[kind] for number, of in by.items()} for kind in ("clips_per_second", "of_one", "waiting")},
    }


def _trained(task: Task, folder: Path, ranks: int) -> dict[str, Any]:
    """What a run of some steps ends with: weights, momentum, running statistics and scores."""
    words = [
        "env=local",
        "dataset=synthetic",
        "model.variant=nano_e_v3",
        "training.epochs=3",
        "training.warmup_epochs=0",
        *_STEP,
    ]
    words += [f"hardware.device={task.device.type}", f"hardware.ranks={ranks}", *_STEP, *(_SMALL if task.quick else ())]
    command = [sys.executable, "-m", "last_e", "--out", str(folder), "--set", *words]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.returncode == 0, f"{ranks} ranks: {(done.stderr.strip() or done.stdout.strip())[-300:]}"
    newest = newest_whole(folder / "checkpoints", lambda _: None)
    assert newest is not None, f"{ranks} ranks: no checkpoint"
    state: dict[str, Any] = torch.load(newest / "state.pt", map_location="cpu", weights_only=True)
    metrics = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    kept = {name: state[name] for name in ("model", "optimizer")}
    return {**kept, "scores": torch.tensor([[one["test_loss"], one["train_loss"]] for one in metrics], dtype=torch.float64)}
