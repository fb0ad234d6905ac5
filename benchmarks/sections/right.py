"""Is it right? Each section raises where it is not, and gives back how far from exact it was."""

from __future__ import annotations

import os
import platform
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from benchmarks.sections.common import ROOT, Task, relative, settings, some_clips
from last_e.bench.contenders import Own
from last_e.bench.plain import PlainLastE
from last_e.checkpoint import snapshot
from last_e.config import TrainConfig
from last_e.data.batches import Batch, TrainBatches, average_bodies
from last_e.data.synthetic import synthetic_clips
from last_e.environment import cpu_name, usable_cores
from last_e.model import LastE
from last_e.optim import build_optimizer
from last_e.precision import Precision
from last_e.state import State
from last_e.step import train_step
from last_e.text import one_line

FLOAT32 = Precision(None, False, "")
STEPS, FEW_STEPS = 200, 5
WINDOW = 20
"""Steps whose mean loss is compared between number formats."""


def machine(task: Task) -> dict[str, Any]:
    """What this was measured on."""
    facts: dict[str, Any] = {
        "cpu": cpu_name(),
        "cores": usable_cores(),
        "load": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }
    if task.device.type == "cuda":
        about, (free, total) = torch.cuda.get_device_properties(task.device), torch.cuda.mem_get_info(task.device)
        facts |= {
            "gpu": about.name,
            "capability": f"{about.major}.{about.minor}",
            "free_bytes": free,
            "total_bytes": total,
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),
        }
    return facts


def same_batches(task: Task) -> dict[str, Any]:
    """Batches made on the device are those that the CPU makes: the largest difference of a coordinate, in torsos."""
    clips, recipe = some_clips(task), settings("training.batch_size=16").training
    index = torch.arange(len(clips))
    here = TrainBatches(clips, index, recipe, None, (8, 6))
    there = TrainBatches(clips.to(task.device), index, recipe, None, (8, 6))
    worst = 0.0
    for epoch in (0, 7):
        for (a,), (b,) in zip(here.epoch(epoch), there.epoch(epoch), strict=True):
            assert torch.equal(a.label, b.label.cpu()), "other clips"
            assert torch.equal(a.owner, b.owner.cpu()), "other rows"
            assert a.noise is not None
            assert b.noise is not None
            assert all(torch.equal(x, y.cpu()) for x, y in zip(a.noise, b.noise)), "other dropout"
            worst = max(worst, *(float((a.streams[name] - b.streams[name].cpu()).abs().max()) for name in a.streams))
    assert worst < 1e-4, f"coordinates differ by {worst:.1e}"
    return {"largest_difference": worst}


def stored_logits(task: Task) -> dict[str, Any]:
    """The reference's weights give the reference's logits: the largest difference, as a share of the largest logit."""
    torch.backends.cudnn.allow_tf32 = False
    worst = 0.0
    for variant in ("nano", "base"):
        with np.load(ROOT / "tests" / "data" / f"{variant}.npz") as stored:
            state = {key.removeprefix("state/"): torch.from_numpy(stored[key]) for key in stored if key.startswith("state/")}
            names = ("joint", "velocity", "bone")
            inputs = {name: torch.from_numpy(stored[f"input/{name}"]).to(task.device) for name in names}
            expected = torch.from_numpy(stored["logits"])
        model = LastE(settings(f"model.variant={variant}").model, expected.shape[1])
        model.load_state_dict(state)
        with torch.no_grad():
            logits = model.eval().to(task.device)(inputs)
        worst = max(worst, float((logits.cpu() - expected).abs().max() / expected.abs().max()))
    assert worst < 1e-4, f"they differ by {worst:.1e} of the largest"
    return {"largest_difference": worst}


def plain_losses(task: Task) -> dict[str, Any]:
    """200 steps in float64 lose what the plain network loses: the largest relative difference of a step's loss."""
    device = task.device
    shape = ["model.stem_channels=8", "model.channels=[8,12,16]", "model.num_blocks=[1,1,1]", "training.input_frames=16"]
    config = settings("model.variant=base", *shape, "training.batch_size=8", "data.num_classes=6")
    made = TrainBatches(synthetic_clips(6, 160).to(device), torch.arange(160), config.training, None, (16, 3))
    steps = _first_batches(made, FEW_STEPS if task.quick else STEPS)
    steps = [replace(batch, streams={name: stream.double() for name, stream in batch.streams.items()}) for batch in steps]
    torch.manual_seed(0)
    own = LastE(config.model, 6).double().to(device)
    plain = PlainLastE(config.model, 6).double().to(device)
    plain.load_state_dict(own.state_dict())
    state = State(own, build_optimizer(own, config.training), torch.amp.GradScaler(device.type, enabled=False))
    optimizer = build_optimizer(plain, config.training)
    plain.train()
    worst = 0.0
    for batch in steps:
        train_step(state, [batch], 0.02, config, FLOAT32)
        for group in optimizer.param_groups:
            group["lr"] = 0.02
        optimizer.zero_grad()
        output = plain(batch.streams, batch.noise, batch.row_weight)
        assert isinstance(output, tuple)
        logits = average_bodies(output[0], batch)
        loss = torch.nn.functional.cross_entropy(logits, batch.label, label_smoothing=config.training.label_smoothing)
        loss = loss + config.training.ib_loss_weight * output[1]
        loss.backward()
        torch.nn.utils.clip_grad_norm_(plain.parameters(), config.training.gradient_clip)
        optimizer.step()
        worst = max(worst, relative(state.counters.read().loss, float(loss.detach())))
    assert worst < 1e-3, f"losses differ by {worst:.1e}"
    return {"steps": len(steps), "largest_relative_difference": worst}


def number_formats(task: Task) -> dict[str, Any]:
    """fp16 and bf16 lose what float32 loses over 200 steps: same start, same batches, same rate.

    Gives back, for each format, how far its mean losses of :data:`WINDOW` steps are from float32's at the most, as a share of
    the first of those (:data:`ALLOWED`), and how many steps were skipped.
    """
    device = task.device
    # Of six classes something is learned in so few steps; by torch's own, as kernels for three formats take long to make.
    data, hardware = task.config.data.model_copy(update={"num_classes": 6}), {"kernels": "off"}
    config = task.config.model_copy(update={"data": data, "hardware": task.config.hardware.model_copy(update=hardware)})
    own = Own(config, some_clips(task, 6), device)
    batches = [batch.to(device) for batch in _first_batches(own.batches, FEW_STEPS if task.quick else STEPS)]
    losses, _ = _losses(config, device, FLOAT32, batches)
    expected = _means(losses)
    learned = (expected[0] - expected[-1]) / expected[0]
    # Where float32 learns little, a format that learns nothing would pass.
    assert task.quick or learned > 2 * ALLOWED, f"float32 learned too little to compare with: {learned:.1%} of its loss"
    result: dict[str, Any] = {"steps": len(batches), "float32": {"begin": expected[0], "end": expected[-1]}}
    for name, dtype in (("bf16", torch.bfloat16), ("fp16", torch.float16)):
        if name == "bf16" and device.type == "cuda" and torch.cuda.get_device_capability(device) < (8, 0):
            result[name] = "not there: it needs compute capability 8.0"
            continue
        try:
            losses, skipped = _losses(config, device, Precision(dtype, name == "fp16", ""), batches)
        except RuntimeError as error:
            if device.type == "cuda":
                raise
            result[name] = f"not there on a CPU: {one_line(error)}"
            continue
        worst = max(relative(a, b) * b / expected[0] for a, b in zip(_means(losses), expected))
        assert worst < ALLOWED, f"{name}: mean losses of {WINDOW} steps differ by {worst:.1%} of the first"
        result[name] = {"largest_difference": worst, "skipped_steps": skipped}
    return result


ALLOWED = 0.1
"""No loss of a single step can be held against float32's: training makes much of little, so that weights which differ by 1e-6
lose up to 1.3% more or less within 200 steps (at a rate of 0.05 instead of 0.02, 9%). On a CPU, with a small network, bf16 was
off by 3.8% and fp16 by 2.4% at the most, while float32 learned 43%. So a format that does not train is far outside of 10%, and
one that only rounds is well within."""


def _losses(config: TrainConfig, device: torch.device, precision: Precision, batches: list[Batch]) -> tuple[list[float], int]:
    """The loss of each step, and how many were skipped."""
    torch.manual_seed(config.training.seed)
    model = LastE(config.model, config.data.num_classes).to(device)
    scaler = torch.amp.GradScaler(device.type, enabled=precision.scaled)
    state = State(model, build_optimizer(model, config.training), scaler)
    losses = []
    for batch in batches:
        train_step(state, [batch], 0.02, config, precision)
        losses.append(state.counters.read().loss)
    return losses, state.counters.read().totals.skipped


def _means(losses: list[float]) -> list[float]:
    windows = [losses[at : at + WINDOW] for at in range(0, len(losses), WINDOW)]
    return [sum(window) / len(window) for window in windows]


def _first_batches(made: TrainBatches, count: int) -> list[Batch]:
    """So many batches, of as many epochs as it takes; each step has one."""
    return [batch for epoch in range(-(-count // made.steps)) for (batch,) in made.epoch(epoch)][:count]


def no_waiting(task: Task) -> dict[str, Any]:
    """Neither a batch nor a step makes the host wait for the device, other than to record a graph."""
    hardware = task.config.hardware.model_copy(update={"cuda_graphs": "off"})
    own = Own(task.config.model_copy(update={"hardware": hardware}), some_clips(task), task.device)
    steps = own.epoch()
    for _ in range(3):
        next(steps)
    if task.device.type != "cuda":
        return {"not_there": "a CPU is not waited for"}
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(3):
            next(steps)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return {"operations_that_waited": 0}


def checkpoint(task: Task) -> dict[str, Any]:
    """What a checkpoint's thread gets is the state of its moment, whatever the device has been given since."""
    own = Own(task.config, some_clips(task), task.device)
    steps = own.epoch()
    for _ in range(3):
        next(steps)
    expected = {name: tensor.cpu().clone() for name, tensor in own.state.model.state_dict().items()}
    on_host = snapshot(own.state.to_dict(""))
    for _ in range(3):
        next(steps)
    found = on_host()["model"]
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items()), "they differ"
    moved = sum(not torch.equal(tensor.cpu(), expected[name]) for name, tensor in own.state.model.state_dict().items())
    assert moved, "nothing was trained meanwhile"
    return {"tensors": len(found), "moved_on_since": moved}
