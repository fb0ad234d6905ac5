"""The two that are measured: the trainer itself, and a plain one. Each runs in a process of its own, in turns.

A part of the work is a method that yields the number of clips of each step that it has done.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

from last_e import checkpoint
from last_e.bench.loader import PlainClips, collate, forever
from last_e.bench.plain import PlainLastE
from last_e.config import TrainConfig
from last_e.data.batches import Batch, TestBatches, TrainBatches
from last_e.data.clips import Clips
from last_e.data.files import read_clips
from last_e.data.synthetic import synthetic_clips
from last_e.environment import usable_cores
from last_e.events import Discard
from last_e.graphs import Graphs, graphs_for
from last_e.manifest import Manifest
from last_e.model.agreed import REMEDY
from last_e.model.network import LastE
from last_e.optim import build_optimizer, parameter_groups
from last_e.precision import Precision, choose_precision, cpu_threads
from last_e.ranks.group import ALONE, Group
from last_e.set_up import TEST_BATCH, load_kernels, make_batches, set_up_torch
from last_e.state import State
from last_e.step import train_step

CLIPS = 1024


def bench_clips(config: TrainConfig, data: Path | None) -> Clips:
    """Those of a prepared file, or made-up ones."""
    return synthetic_clips(config.data.num_classes, CLIPS) if data is None else read_clips(data, config.data.num_classes)


class Own:
    """lastrun's trainer."""

    def __init__(self, config: TrainConfig, clips: Clips, device: torch.device, group: Group = ALONE) -> None:
        workers = set_up_torch(config, device, Discard(), group.here)
        self.config, self.device, self.group = config, device, group
        self.precision = choose_precision(config, device)
        load_kernels(config, device, self.precision.dtype, Discard(), group)
        REMEDY.give_up = None  # what is measured must not become something else on the way
        everything = torch.arange(len(clips))
        self.batches, self.tests = make_batches(clips, everything, everything, config, device, workers, Discard(), group)
        torch.manual_seed(config.training.seed)
        model = LastE(config.model, config.data.num_classes).to(device)
        scaler = torch.amp.GradScaler(device.type, enabled=self.precision.scaled)
        self.state = State(model, build_optimizer(model, config.training), scaler)
        self.graphs = self._graphs(self.batches)

    def _graphs(self, batches: TrainBatches) -> Graphs | None:
        return graphs_for(self.state, batches, self.config, self.precision, self.group, lambda text: None)

    def _forever(self) -> Iterator[list[Batch]]:
        epoch = 0
        while True:
            yield from self.batches.epoch(epoch)
            epoch += 1

    def data(self) -> Iterator[int]:
        """Training batches on the device, and nothing done with them."""
        for step in self._forever():
            for batch in step:
                batch.to(self.device, pin=self.config.hardware.pin_memory and self.device.type == "cuda")
            yield self.batches.batch

    @torch.no_grad()
    def forward(self) -> Iterator[int]:
        """Forward passes in evaluation mode, as the test after an epoch has them, on one batch that is there."""
        batch = next(iter(self.tests)).to(self.device)
        while True:
            self.state.model.eval()
            with torch.autocast(self.device.type, self.precision.dtype, enabled=self.precision.dtype is not None):
                self.state.model(batch.streams)
            yield len(batch.label)

    def train(self) -> Iterator[int]:
        """Training steps on batches that are there; of CUDA graphs, of which making them is a part, always on the same one."""
        index = typical(self.batches.clips, self.batches.batch)
        noise, group = self.state.model.noise_shape, self.group
        micro_batch = self.config.hardware.micro_batch
        there = TrainBatches(
            self.batches.clips, index, self.config.training, micro_batch, noise, rank=group.rank, ranks=group.size
        )
        if (graphs := self._graphs(there)) is not None:
            parts = next(graphs.parts(0))
            while True:
                with group.work(there.own):
                    graphs.step(parts, 0, 0.01)
                yield self.batches.batch
        step = [batch.to(self.device) for batch in next(there.epoch(0))]
        while True:
            with group.work(there.own):
                train_step(self.state, step, 0.01, self.config, self.precision, group, there.parts)
            yield self.batches.batch

    def epoch(self) -> Iterator[int]:
        """Training steps on batches as they are made, as an epoch goes."""
        if self.graphs is not None:
            for number in count():
                for parts in self.graphs.parts(number):
                    self.graphs.step(parts, number, 0.01)
                    yield self.batches.batch
        for step in self._forever():
            train_step(self.state, step, 0.01, self.config, self.precision)
            if self.device.type == "cpu":
                self.state.counters.read()
            yield self.batches.batch

    def stalls(self, count: int) -> list[float]:
        """How long training stands still for a checkpoint, in seconds, each after a step and written by the next."""
        steps = self.train()
        took = []
        with TemporaryDirectory() as folder:
            writer = checkpoint.Writer(Path(folder), 3, lambda path, about: None)
            for number in range(count):
                for _ in range(3):
                    next(steps)
                synchronize(self.device)
                writer.wait()  # three steps are less than the minutes that usually lie between
                about = Manifest(step=number, epoch=0, evaluated=False, milestone=False)
                begin = time.perf_counter()
                writer.submit(self.state.to_dict(""), "{}", about)
                took.append(time.perf_counter() - begin)
            writer.wait()
            writer.close()
        return took


class Plain:
    """A trainer as they are usually written: straight module code, a DataLoader, a number fetched from every batch."""

    def __init__(self, config: TrainConfig, clips: Clips, device: torch.device, file: Path) -> None:
        torch.manual_seed(config.training.seed)
        torch.set_num_threads(cpu_threads(config.hardware))
        self.config, self.device = config, device
        self.precision: Precision = choose_precision(config, device)
        training = config.training
        self.clips = clips
        self.batch = training.batch_size
        workers = min(config.hardware.num_workers, usable_cores())
        self.prepared = PlainClips(clips, file, training.input_frames)
        self.loader = DataLoader(
            self.prepared,
            batch_size=self.batch,
            shuffle=True,
            drop_last=True,
            collate_fn=collate,
            num_workers=workers,
            persistent_workers=workers > 0,
            pin_memory=device.type == "cuda",
        )
        self.tests = TestBatches(clips, torch.arange(len(clips)), training.input_frames, TEST_BATCH[device.type])
        self.model = PlainLastE(config.model, config.data.num_classes).to(device)
        groups = parameter_groups(self.model, training.weight_decay)
        self.optimizer = torch.optim.SGD(groups, lr=0.01, momentum=training.momentum or 0.9, nesterov=True)
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.precision.scaled)
        self.loss_sum, self.hits = 0.0, 0

    def data(self) -> Iterator[int]:
        """Training batches on the device, and nothing done with them."""
        for streams, owner, label in forever(self.loader):
            self._moved(streams, owner, label)
            yield len(label)

    @torch.no_grad()
    def forward(self) -> Iterator[int]:
        """Forward passes in evaluation mode, on one batch that is there."""
        batch = next(iter(self.tests)).to(self.device)
        while True:
            self.model.eval()
            with torch.autocast(self.device.type, self.precision.dtype, enabled=self.precision.dtype is not None):
                self.model(batch.streams)
            yield len(batch.label)

    def train(self) -> Iterator[int]:
        """Training steps on a batch that is there."""
        batch = self._moved(*collate([self.prepared[index] for index in typical(self.clips, self.batch).tolist()]))
        while True:
            yield self._step(*batch)

    def epoch(self) -> Iterator[int]:
        """Training steps on batches as they are made."""
        for batch in forever(self.loader):
            yield self._step(*self._moved(*batch))

    def _moved(self, streams: dict[str, Tensor], owner: Tensor, label: Tensor) -> tuple[dict[str, Tensor], Tensor, Tensor]:
        device = self.device
        moved = {name: stream.to(device, non_blocking=True) for name, stream in streams.items()}
        return moved, owner.to(device, non_blocking=True), label.to(device, non_blocking=True)

    def _step(self, streams: dict[str, Tensor], owner: Tensor, label: Tensor) -> int:
        training = self.config.training
        self.model.train()
        self.optimizer.zero_grad()
        with torch.autocast(self.device.type, self.precision.dtype, enabled=self.precision.dtype is not None):
            output = self.model(streams)
        rows, ib_loss = output if isinstance(output, tuple) else (output, torch.zeros((), device=self.device))
        logits = torch.zeros(len(label), rows.shape[1], device=self.device).index_add_(0, owner, rows.float())
        logits = logits / torch.bincount(owner, minlength=len(label))[:, None]
        loss = F.cross_entropy(logits, label, label_smoothing=training.label_smoothing) + training.ib_loss_weight * ib_loss
        self.scaler.scale(loss).backward()
        self.scaler.unscale_(self.optimizer)
        nn.utils.clip_grad_norm_(self.model.parameters(), training.gradient_clip or float("inf"))
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.loss_sum += loss.item() * len(label)
        self.hits += int((logits.argmax(dim=1) == label).sum().item())
        return len(label)


def typical(clips: Clips, count: int) -> Tensor:
    """So many clips, of which as large a part has two bodies as of all; the same ones for both contenders."""
    by_bodies = clips.bodies_on_host.argsort(stable=True)
    return by_bodies[((torch.arange(count) + 0.5) / count * len(by_bodies)).long()]


def write_joints(clips: Clips, folder: Path) -> Path:
    """The joints as a file to be mapped."""
    path = folder / "joints.npy"
    np.save(path, clips.joints.numpy())
    return path


def synchronize(device: torch.device) -> None:
    """Until the device has done all that it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
