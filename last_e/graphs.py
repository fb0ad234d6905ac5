"""Training steps as CUDA graphs: a GPU gets a whole step in one call, where to start its kernels one by one takes longer.

A graph is what a step has asked of the GPU once, and is played again with what is in the same memory then. So a step's inputs
(which clips, keys of random numbers, the rate) are put where they were, and all that a step leaves for the next one (weights,
averages, running statistics, counters, the scale of losses) is changed in place. Shapes are fixed: there is a graph for each
number of rows, recorded when it is met again, and nothing is padded, so that batch statistics stay what they are.

Of several ranks each has its own, in two stretches: its share of a step, and the step's end. Between them, each time, they add
up what they have.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Protocol

import torch
from torch import Tensor

from last_e import rng
from last_e.config import TrainConfig
from last_e.data import launches
from last_e.data.batches import Batch, Piece, TrainBatches
from last_e.gpu import NoGpu, is_lost
from last_e.model import fused_cuda
from last_e.model.agreed import REMEDY, KernelFailed
from last_e.precision import Precision
from last_e.ranks.group import ALONE, Group
from last_e.state import State
from last_e.step import Begun, begin_step, end_step, whole_step
from last_e.text import one_line

WARM_UP = 3
"""Steps of a run before one is recorded: what is made once (handles, plans, averages) must not lie in a graph's memory."""
MOST_GRAPHS = 64
"""Of different numbers of rows; a step of several micro-batches has one for each combination. Others go without."""

Step = Callable[[], None]
Parts = Sequence[Piece | Batch]
"""Of a step: what batches are made of on the device, or batches that the host has made."""


class Capture(Protocol):
    """What records steps."""

    def run(self, step: Step) -> None:
        """Do a step where another is to be recorded."""

    def record(self, step: Step) -> Step:
        """Write down what a step asks for, without doing any of it; what is returned does it.

        Raises:
            RuntimeError: the step asks for something that cannot be recorded. Nothing of it has been done.
        """

    def forget(self) -> None:
        """What was recorded so far is played no more."""


class CudaCapture:
    """CUDA's own.

    All graphs have one pool of memory. They may be played in any order, as none keeps in it what another step would read: what
    outlives a step was there before. What the first stretch of a step leaves for its second is held by whoever plays both, so
    that no other graph is given that memory.
    """

    def __init__(self, device: torch.device) -> None:
        self._device, self._stream = device, torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._pool = torch.cuda.graph_pool_handle()

    def run(self, step: Step) -> None:
        """On the stream on which is recorded: what a stream gets of its own (workspaces) is there then."""
        self._stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(self._stream):
            step()
        torch.cuda.current_stream(self._device).wait_stream(self._stream)

    def record(self, step: Step) -> Step:
        """A graph that is played on the stream that is current then."""
        graph = torch.cuda.CUDAGraph()
        # Other threads (one writes checkpoints) may wait for the device meanwhile.
        with torch.cuda.graph(graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"):
            step()
        return graph.replay

    def forget(self) -> None:
        """See :class:`Capture`. A pool whose graphs have all gone takes no other."""
        self._pool = torch.cuda.graph_pool_handle()


class Graphs:
    """Training steps, recorded as they come: with the making of their batches where the device has the clips.

    A step of rows that were not met before is done as ever; when they are met again it is recorded, and played from then on. So
    every step is done once, whichever way, and in no other order.
    """

    def __init__(
        self,
        state: State,
        train: TrainBatches,
        config: TrainConfig,
        precision: Precision,
        capture: Capture,
        told: Callable[[str], None],
        group: Group = ALONE,
    ) -> None:
        self._state, self._train, self._config, self._precision = state, train, config, precision
        self._capture, self._told, self._group = capture, told, group
        self._met: Counter[tuple[int, ...]] = Counter()
        self._inputs: dict[tuple[int, ...], Parts] = {}
        self._recorded: dict[tuple[int, ...], Step] = {}
        self._keys: rng.Keys | None = None
        self._epoch: int | None = None
        self._kernels = self._used()
        self.working = True
        """False once recording has failed; ``told`` was told why."""

    @property
    def count(self) -> int:
        """How many there are."""
        return len(self._recorded)

    def parts(self, epoch: int, first_step: int = 0) -> Iterator[Parts]:
        """What the steps of an epoch are given, from ``first_step`` on."""
        there = self._train.clips.joints.device.type == self._state.device.type
        return (self._train.drafts if there else self._train.epoch)(epoch, first_step)

    def step(self, parts: Parts, epoch: int, lr: float) -> None:
        """One optimizer step, as :func:`last_e.step.train_step` does it on the batches of ``parts``, of an epoch from 0."""
        self._state.set_rate(lr)
        self._set_keys(epoch)
        self._forget_kernels()
        rows = tuple(len(part.owner) for part in parts)
        # A place is kept for what recorded steps are given, and for no other: of steps in parts hardly two have the same rows.
        if rows not in self._recorded and self._is_due(rows):
            self._record(rows, self._put(rows, parts))
        elif rows in self._recorded:
            self._put(rows, parts)
        if rows in self._recorded:
            self._recorded[rows]()
        else:
            begin = partial(self._begin, parts)
            step = partial(whole_step, self._state, begin, self._config, self._group)
            self._capture.run(step) if self.working else step()
        self._met[rows] += 1

    def _used(self) -> tuple[bool, bool]:
        """Whether steps, and their batches, go through kernels of our own."""
        device = self._state.device
        return fused_cuda.used_on(device), launches.used_on(device)

    def _forget_kernels(self) -> None:
        """Of recorded steps, where kernels have been given up since: all are torch's from then on."""
        if self._kernels != (now := self._used()):
            self._kernels = now
            for forgotten in (self._recorded, self._inputs, self._met):
                forgotten.clear()
            self._capture.forget()

    def _is_due(self, rows: tuple[int, ...]) -> bool:
        return self.working and self._met[rows] > 0 and self._met.total() >= WARM_UP and self.count < MOST_GRAPHS

    def _set_keys(self, epoch: int) -> None:
        if self._keys is None:
            self._keys = rng.Keys(self._state.device)
        if epoch != self._epoch:
            self._keys.set(self._config.training.seed, epoch)
            self._epoch = epoch

    def _put(self, rows: tuple[int, ...], parts: Parts) -> Parts:
        """The inputs, where a recorded step of so many rows looks for them."""
        device = self._state.device
        if rows not in self._inputs:
            self._inputs[rows] = [part.of(partial(torch.empty_like, device=device)) for part in parts]
        pins = self._config.hardware.pin_memory and device.type == "cuda"
        for inputs, part in zip(self._inputs[rows], parts):
            for place, new in zip(_tensors(inputs), _tensors(part)):
                # Page-locked memory is not used anew before the device has it, so nobody waits.
                place.copy_(new.pin_memory() if pins and new.device.type == "cpu" else new, non_blocking=True)
        return self._inputs[rows]

    def _run(self, inputs: Parts) -> None:
        begun = self._begin(inputs)
        begun.add_up(self._group)
        end_step(self._state, begun, self._config)

    def _begin(self, inputs: Parts) -> Begun:
        keys = self._keys
        assert keys is not None
        batches = [part if isinstance(part, Batch) else self._train.make(part, keys) for part in inputs]
        return begin_step(self._state, batches, self._config, self._precision, self._train.parts, self._group)

    def _record(self, rows: tuple[int, ...], inputs: Parts) -> None:
        try:
            alone = self._group.size == 1
            self._recorded[rows] = self._capture.record(partial(self._run, inputs)) if alone else self._in_two(inputs)
        except KernelFailed as error:  # the step is done by torch then, as it comes
            self._state.forget_step()
            REMEDY(error)
        except RuntimeError as error:
            if is_lost(error):
                raise
            reason = f"recording a step failed: {one_line(error)}"
            if self._config.hardware.cuda_graphs == "on":
                raise NoGpu(f"hardware.cuda_graphs is on, but {reason}") from None
            self.working = False
            self._recorded.clear()
            self._inputs.clear()
            self._state.forget_step()
            self._told(f"CUDA graphs: off ({reason}); training goes on without")

    def _in_two(self, inputs: Parts) -> Step:
        """What others are asked for cannot be recorded."""
        kept: list[Begun] = []
        begin = self._capture.record(lambda: kept.append(self._begin(inputs)))
        (begun,) = kept
        assert begun.sums is not None, "each rank has a part"
        begun.sums.make_room()
        end = self._capture.record(partial(end_step, self._state, begun, self._config))

        def step() -> None:
            begin()  # into the memory that begun, which is held here, has in the graphs' pool
            begun.add_up(self._group)
            end()

        return step


def _tensors(part: Piece | Batch) -> list[Tensor]:
    """All that a part has, in the same order each time."""
    found: list[Tensor] = []

    def seen(tensor: Tensor) -> Tensor:
        found.append(tensor)
        return tensor

    part.of(seen)
    return found


def graphs_for(
    state: State, train: TrainBatches, config: TrainConfig, precision: Precision, group: Group, told: Callable[[str], None]
) -> Graphs | None:
    """Graphs for the steps of a run, where it may have some; else ``told`` is told why not.

    Raises:
        NoGpu: ``hardware.cuda_graphs`` is ``on`` and it may have none.
    """
    wanted, on_gpu = config.hardware.cuda_graphs, state.device.type == "cuda"
    if wanted == "off":
        reason = "hardware.cuda_graphs is off"
    elif not on_gpu:
        reason = "training on a CPU"
    else:
        told("CUDA graphs: one for each number of rows, recorded when it is met again")
        return Graphs(state, train, config, precision, CudaCapture(state.device), told, group)
    if wanted == "on":
        raise NoGpu(f"hardware.cuda_graphs is on, but {reason}")
    if on_gpu:
        told(f"CUDA graphs: off ({reason})")
    return None
