"""What a run sets up before its first step: torch, loops and kernels, batches, the weights that it begins with."""

from __future__ import annotations

import sys
import threading
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from last_e.config import TrainConfig
from last_e.data import launches
from last_e.data.augment import Mirror
from last_e.data.balance import weights_of
from last_e.data.batches import TestBatches, TrainBatches
from last_e.data.clips import Clips
from last_e.data.splits import parts_of
from last_e.datafile import DataError
from last_e.described import Description
from last_e.environment import usable_cores
from last_e.evaluate import mirror_for
from last_e.events import Message, Sink
from last_e.init.fit import begin_with, freeze
from last_e.init.read import read_weights
from last_e.known import description_of
from last_e.model import fused, fused_cuda, tried
from last_e.model.agreed import REMEDY, KernelFailed
from last_e.model.network import LastE
from last_e.precision import cpu_threads, keep_memory
from last_e.ranks.group import ALONE, Group
from last_e.skeletons import NTU25

TEST_BATCH = {"cpu": 64, "cuda": 256}
"""Clips in a batch when testing."""
COMPILING = {5.0: "numba compiles loops for this CPU, once: up to a minute on a slow one ..."}
COMPILING |= {seconds: f"numba still compiles ({seconds:.0f}s)" for seconds in (20.0, 40.0, 80.0, 160.0)}
"""What is told of loops that are not there yet, after so many seconds: loading them takes less than the first."""
ELSEWHERE = "another rank cannot use them"
"""Why kernels are not used that came out right here."""
GPU_SHARE = 0.5
"""Most of a GPU's free memory that the clips may take."""


def set_up_torch(config: TrainConfig, device: torch.device, sink: Sink, ranks: int = 1) -> int:
    """Threads and determinism. Returns how many worker threads prepare batches."""
    threads = cpu_threads(config.hardware, ranks)
    torch.set_num_threads(threads)
    # The same as torch.use_deterministic_algorithms, without inductor, which that imports: as long as importing torch.
    torch.set_deterministic_debug_mode("error" if device.type == "cpu" else "default")
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # a pass over every new tensor
    torch.backends.cudnn.benchmark = False  # batches vary in their number of bodies: it would search anew for each
    torch.backends.cudnn.deterministic = True  # some of its gradients of weights are added in another order each time
    torch.backends.cudnn.allow_tf32 = False  # float32 means float32
    # Checkpoints are written by a thread of this process: it must give the interpreter back in less than Python's 5 ms.
    sys.setswitchinterval(0.0005)
    if device.type == "cpu":
        keep_memory()
        sink.emit(Message(f"threads: {threads}; workers: 0 (training on the CPU itself, they would compete for its cores)"))
        return 0
    cores = max(1, usable_cores() // ranks)
    workers = min(config.hardware.num_workers, cores)
    capped = (
        f" (of {config.hardware.num_workers}: the machine has {cores} cores)" if workers < config.hardware.num_workers else ""
    )
    sink.emit(Message(f"workers: {workers}{capped}"))
    return workers


def load_loops(config: TrainConfig, device: torch.device, sink: Sink) -> None:
    """Load the compiled loops now, where this run's activations are large enough for them, and not in its first step."""
    rows = config.hardware.micro_batch or config.training.batch_size
    channels = max(config.model.stem_channels, config.model.channels[0] * config.model.expand_ratio)
    joints = config.data.joints or len(NTU25.joints)
    if device.type != "cpu" or rows * config.training.input_frames * joints * channels < fused.LARGE:
        return
    slow = [threading.Timer(seconds, sink.emit, [Message(text)]) for seconds, text in COMPILING.items()]
    for each in slow:
        each.start()
    try:
        there = fused.loops()
    finally:
        for each in slow:
            each.cancel()
    if there is None:
        sink.emit(Message("numba: none that works here; training takes about 1.2 times as long with torch alone"))


def load_kernels(config: TrainConfig, device: torch.device, form: torch.dtype | None, sink: Sink, group: Group = ALONE) -> None:
    """Have the kernels for a GPU compute a little, also in the run's format ``form`` (None: float32), which Triton makes for it
    then, and say so where they are not used: they are by all ranks or by none."""
    if device.type != "cuda":
        return
    REMEDY.give_up = None
    if config.hardware.kernels == "off":
        _leave_kernels(device)
        return
    slow = threading.Timer(5.0, sink.emit, [Message("Triton makes kernels for this GPU, once (a minute or two) ...")])
    slow.start()
    try:
        why_not = tried.try_out(device, config, form)
        why_no_batches = why_not or launches.try_out(device)
    finally:
        slow.cancel()
    missing = group.agree((why_not is not None) + (why_no_batches is not None))

    def give_up(error: KernelFailed) -> None:
        _leave_kernels(device)
        sink.emit(Message(f"kernels: torch's own alone from here on ({error})", "warning"))

    if group.size == 1:  # of several ranks all would have to, at the same step: what their end gives must be the same bits
        REMEDY.give_up = give_up
    if missing > 1:
        _leave_kernels(device)
        sink.emit(Message(f"kernels: torch's own alone ({why_not or ELSEWHERE})"))
    elif missing:
        launches.AGREED.leave(device)
        sink.emit(Message(f"kernels: batches are made by torch's own ({why_no_batches or ELSEWHERE})"))


def _leave_kernels(device: torch.device) -> None:
    fused_cuda.AGREED.leave(device)
    launches.AGREED.leave(device)


def batches_of(
    clips: Clips, config: TrainConfig, device: torch.device, workers: int, sink: Sink, group: Group
) -> tuple[TrainBatches, TestBatches, TestBatches | None]:
    """Those that train, those that are scored after each epoch, and those that are only at the end, if there are some."""
    parts = parts_of(clips, config)
    if not parts.train.any() or not parts.test.any():
        raise DataError(
            f"{config.dataset} {config.split_type}: of {len(clips):,} clips {int(parts.train.sum()):,} train and "
            f"{int(parts.test.sum()):,} test; both are needed: choose another split"
        )
    for note in parts.notes:
        sink.emit(Message(note, "warning"))
    chosen = parts.test if parts.validation is None else parts.validation
    train, scored = make_batches(clips, _index(parts.train), _index(chosen), config, device, workers, sink, group)
    return train, scored, None if parts.validation is None else scored.of(_index(parts.test))


def make_batches(
    clips: Clips,
    train_index: Tensor,
    test_index: Tensor,
    config: TrainConfig,
    device: torch.device,
    workers: int,
    sink: Sink,
    group: Group = ALONE,
) -> tuple[TrainBatches, TestBatches]:
    """Batches of the clips that train and of those that test, made on the device where it has room for the data set."""
    if device.type == "cuda":
        size, (free, _) = clips.nbytes, torch.cuda.mem_get_info(device)
        share = GPU_SHARE / -(-group.here // max(1, torch.cuda.device_count()))  # where there are fewer GPUs, ranks share one
        if not group.agree(int(size > share * free)):  # made elsewhere, a batch may differ in its last digits
            clips, workers = clips.to(device), 0
            sink.emit(Message(f"data: {size / 2**20:,.0f} MiB, held by the GPU, which makes the batches itself"))
        else:
            room = f"{size / 2**20:,.0f} MiB, more than {share:.0%} of the GPU's {free / 2**20:,.0f} MiB that are free"
            sink.emit(Message(f"data: {room}: batches are made by the host, with {workers} workers"))
    channels, blocks = config.model.channels[-1], sum(config.model.num_blocks)
    micro_batch = config.hardware.micro_batch
    seat = group.rank, group.size
    mirror = _mirror(clips, config)
    train = TrainBatches(clips, train_index, config.training, micro_batch, (channels, blocks), workers, *seat, mirror)
    test = TestBatches(clips, test_index, config.training.input_frames, micro_batch or TEST_BATCH[device.type], workers, *seat)
    return train, test


def _mirror(clips: Clips, config: TrainConfig) -> Mirror | None:
    """What changes places in a mirror, where clips are mirrored."""
    if config.training.augmentations.mirror is None:
        return None
    return mirror_for(config, clips.description or description_of(config.dataset, config.data.num_classes))


def _index(mask: Any) -> Tensor:
    return torch.from_numpy(mask).nonzero()[:, 0]


def class_weights(config: TrainConfig, clips: Clips, train: TrainBatches, device: torch.device) -> Tensor | None:
    """(classes,) by how much clips of each class count in the loss; None: all alike."""
    names = (clips.description or description_of(config.dataset, config.data.num_classes)).classes
    try:
        weights = weights_of(config.training, clips.label[train.index], config.data.num_classes, names)
    except ValueError as error:
        raise DataError(f"{config.dataset}: {error}", missing=True) from None
    return None if weights is None else weights.to(device)


def begin_with_weights(
    model: LastE, config: TrainConfig, description: Description | None, init: Path | None, resume: Path | None, sink: Sink
) -> None:
    """Take over the weights of ``model.init``, where the run goes on from no checkpoint, and keep still what ``model.freeze``
    names; say so."""
    if config.model.init is None:
        return
    told = []
    if resume is None:
        if init is None:
            raise DataError(
                "model.init: the weights that the job begins with are not kept with it; submit it anew", missing=True
            )
        known = description or description_of(config.dataset, config.data.num_classes)
        told = begin_with(model, read_weights(init), config, known.classes)
    for text in [*told, *freeze(model, config.model.freeze or ())]:
        sink.emit(Message(text))
