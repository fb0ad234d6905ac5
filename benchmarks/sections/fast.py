"""How fast? Whole epochs of ntu60's size, and what ``lastrun bench`` measures."""

from __future__ import annotations

import resource
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from benchmarks.sections.common import NTU60_TEST, NTU60_TRAIN, Task, epoch_of_clips, some_clips
from last_e.bench.contenders import Own, Plain, synchronize, write_joints
from last_e.bench.measure import FORMATS, machine_rates, measure
from last_e.data.files import write_clips
from last_e.evaluate import evaluate
from runner.plan.bench import add_shares

EPOCHS = 120
LOOK = 20
"""Steps from one look at the clock to the next, which waits for the device."""
SMALL_EDGE = 256
"""Of the matrices whose products are timed, where nothing but the script is tried."""


def own_epochs(task: Task) -> dict[str, Any]:
    """Seconds of an epoch and of a test of ntu60's size with lastrun, and its shares of the device's measured rates.

    ``measured_share``: how much of the epoch was done; the rest, where it took too long, is extrapolated.
    """
    clips = epoch_of_clips(task)
    own = Own(task.config, clips, task.device)
    whole = own.batches.steps * own.batches.batch
    steps = own.epoch()
    for _ in range(3):  # first batches, choice of algorithms
        next(steps)
    timed = [_epoch(steps, whole, 10 * task.seconds, task.device) for _ in range(1 if task.quick else 3)]
    each = [took * NTU60_TRAIN / done for took, done in timed]
    epoch, test = min(each), _test(own, 10 * task.seconds)
    result = {
        "seconds_of_an_epoch": epoch,
        "each": each,
        "measured_share": _share(task, max(done for _, done in timed)),
        "seconds_of_a_test": test,
        f"minutes_of_{EPOCHS}_epochs": EPOCHS * (epoch + test) / 60,
        "peak_memory_bytes": _peak_memory(task.device),
    }
    precision = FORMATS[own.precision.dtype]
    rates: dict[str, Any] = {
        "frames": task.config.training.input_frames,
        "precision": precision,
        "rows_per_clip": float(clips.bodies.double().mean()),
        "epoch": {"clips_per_second": {"lastrun": NTU60_TRAIN / epoch}},
        "ceilings": machine_rates(task.device.type, precision, edge=SMALL_EDGE if task.quick else None),
    }
    add_shares(rates, task.config)
    return {**result, "clips_per_second": NTU60_TRAIN / epoch, "of_peak": rates["epoch"]["of_peak"]}


def plain_epoch(task: Task) -> dict[str, Any]:
    """Seconds of an epoch of ntu60's size with the plain trainer, and how many times as fast lastrun is.

    An epoch's number of steps, from the fourth on: the loader's workers are at work by then, as after a first epoch.
    """
    clips = epoch_of_clips(task)
    with TemporaryDirectory() as folder:
        plain = Plain(task.config, clips, task.device, write_joints(clips, Path(folder)))
        steps = plain.epoch()
        for _ in range(3):
            next(steps)
        took, done = _epoch(steps, len(plain.loader) * plain.batch, 40 * task.seconds, task.device)
    epoch = took * NTU60_TRAIN / done
    own = task.found.get("epoch")
    return {
        "seconds_of_an_epoch": epoch,
        "measured_share": _share(task, done),
        "ratio": None if own is None else epoch / own["seconds_of_an_epoch"],
        "workers": plain.loader.num_workers,
        "peak_memory_bytes": _peak_memory(task.device),
    }


def bench(task: Task) -> dict[str, Any]:
    """What ``lastrun bench`` finds, in short and (``details``) whole: clips per second, bytes, milliseconds."""
    parts = ["data", "forward", "train", "epoch"]
    with TemporaryDirectory() as folder:
        path = Path(folder) / "clips.safetensors"
        write_clips(some_clips(task), path)
        rounds, edge = (1, SMALL_EDGE) if task.quick else (3, None)
        found = measure(task.config, path, parts, ["lastrun", "plain"], rounds, task.seconds, lambda *_: None, edge)
    add_shares(found, task.config)
    short = {
        part: {**found[part]["clips_per_second"], "ratio": found[part]["ratio"], **found[part].get("of_peak", {})}
        for part in parts
    }
    stalls = found["checkpoint_stall_ms"]
    return {
        **short,
        "ceilings": found["ceilings"],
        "memory_bytes": found["memory"],
        "checkpoint_stall_ms": {"median": stalls[len(stalls) // 2], "most": stalls[-1]},
        "details": found,
    }


def _epoch(steps: Iterator[int], whole: int, at_most: float, device: torch.device) -> tuple[float, int]:
    """Seconds, and the clips done in them: ``whole``, or fewer where that takes longer than ``at_most`` seconds."""
    synchronize(device)
    begin, done, number = time.perf_counter(), 0, 0
    while done < whole:
        done += next(steps)
        number += 1
        if number % LOOK == 0:
            synchronize(device)
            if time.perf_counter() - begin > at_most:
                break
    synchronize(device)
    return time.perf_counter() - begin, done


def _test(own: Own, at_most: float) -> float:
    """Seconds of a test of ntu60's size; extrapolated where all clips take longer than ``at_most`` seconds."""
    clips = 0
    synchronize(own.device)
    begin = time.perf_counter()

    def going_on(done: int) -> bool:
        nonlocal clips
        clips = done
        synchronize(own.device)
        return done < NTU60_TEST and time.perf_counter() - begin < at_most

    evaluate(own.state.model, own.tests, own.device, own.precision, going_on)
    synchronize(own.device)
    return (time.perf_counter() - begin) * NTU60_TEST / clips


def _share(task: Task, done: int) -> float:
    """How much of an epoch of ntu60 was done. Its last, incomplete batch is left out of every epoch."""
    batch = task.config.training.batch_size
    return min(1.0, done / (NTU60_TRAIN // batch * batch))


def _peak_memory(device: torch.device) -> int:
    """The most that the device has held so far; on a CPU, this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
