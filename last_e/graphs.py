"""Training steps as CUDA graphs: a GPU gets a whole step in one call, where to start its kernels one by one takes longer.

A graph is what a step has asked of the GPU once, and is played again with what is in the same memory then. So a step's inputs
(which clips, keys of random numbers, the rate) are put where they were, and all that a step leaves for the next one (weights,
averages, running statistics, counters, the scale of losses) is changed in place. Shapes are fixed: there is a graph for each
number of rows, recorded when it is met again, and nothing is padded, so that batch statistics stay what they are.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Protocol

import torch
from torch import Tensor

from last_e import rng
from last_e.config import TrainConfig
from last_e.data.batches import Piece, TrainBatches
from last_e.gpu import NoGpu, is_lost
from last_e.precision import Precision
from last_e.state import State, train_step
from last_e.text import one_line

WARM_UP = 3
"""Steps of a run before one is recorded: what is made once (handles, plans, averages) must not lie in a graph's memory."""
MOST_GRAPHS = 64
"""Of different numbers of rows; a step of several micro-batches has one for each combination. Others go without."""

Step = Callable[[], None]


class Capture(Protocol):
    """What records steps."""

    def run(self, step: Step) -> None:
        """Do a step where another is to be recorded."""

    def record(self, step: Step) -> Step:
        """Write down what a step asks for, without doing any of it; what is returned does it.

        Raises:
            RuntimeError: the step asks for something that cannot be recorded. Nothing of it has been done.
        """


class CudaCapture:
    """CUDA's own.

    All graphs have one pool of memory. They may be played in any order, as none keeps in it what another, or the same one
    later, would read: what outlives a step was there before.
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


class Graphs:
    """Training steps on batches that are made on the device, recorded as they come.

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
    ) -> None:
        self._state, self._train, self._config, self._precision = state, train, config, precision
        self._capture, self._told = capture, told
        self._met: Counter[tuple[int, ...]] = Counter()
        self._inputs: dict[tuple[int, ...], list[Piece]] = {}
        self._recorded: dict[tuple[int, ...], Step] = {}
        self._keys: dict[int, Tensor] = {}
        self._epoch: int | None = None
        self.working = True
        """False once recording has failed; ``told`` was told why."""

    @property
    def count(self) -> int:
        """How many there are."""
        return len(self._recorded)

    def step(self, pieces: list[Piece], epoch: int, lr: float) -> None:
        """One optimizer step, as :func:`last_e.state.train_step` does it on the batches of ``pieces``, of an epoch from 0."""
        self._state.set_rate(lr)
        rows = tuple(len(piece.owner) for piece in pieces)
        run = partial(self._run, self._put(rows, pieces, epoch))
        if rows not in self._recorded and self._is_due(rows):
            self._record(rows, run)
        if rows in self._recorded:
            self._recorded[rows]()
        elif self.working:
            self._capture.run(run)
        else:
            run()
        self._met[rows] += 1

    def _is_due(self, rows: tuple[int, ...]) -> bool:
        return self.working and self._met[rows] > 0 and self._met.total() >= WARM_UP and self.count < MOST_GRAPHS

    def _put(self, rows: tuple[int, ...], pieces: list[Piece], epoch: int) -> list[Piece]:
        """The inputs, where steps of so many rows look for them."""
        if not self._keys:
            zero = torch.zeros((), dtype=torch.int64, device=self._state.device)
            self._keys = {purpose: zero.clone() for purpose in rng.PURPOSES}
        if epoch != self._epoch:
            for purpose, place in self._keys.items():
                place.fill_(rng.key(self._config.training.seed, purpose, epoch))
            self._epoch = epoch
        if rows not in self._inputs:
            self._inputs[rows] = [Piece(*(tensor.clone() for tensor in piece)) for piece in pieces]
        for inputs, piece in zip(self._inputs[rows], pieces):
            for place, new in zip(inputs, piece):
                place.copy_(new)
        return self._inputs[rows]

    def _run(self, inputs: list[Piece]) -> None:
        batches = [self._train.make(piece, self._keys.__getitem__) for piece in inputs]
        train_step(self._state, batches, None, self._config, self._precision, parts=self._train.parts)

    def _record(self, rows: tuple[int, ...], run: Step) -> None:
        try:
            self._recorded[rows] = self._capture.record(run)
        except RuntimeError as error:
            if is_lost(error):
                raise
            reason = f"recording a step failed: {one_line(error)}"
            if self._config.hardware.cuda_graphs == "on":
                raise NoGpu(f"hardware.cuda_graphs is on, but {reason}") from None
            self.working = False
            self._recorded.clear()
            self._state.forget_step()
            self._told(f"CUDA graphs: off ({reason}); training goes on without")


def graphs_for(
    state: State, train: TrainBatches, config: TrainConfig, precision: Precision, ranks: int, told: Callable[[str], None]
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
    elif ranks > 1:
        reason = "several ranks add their gradients between a step's parts"
    elif train.clips.joints.device.type != "cuda":
        reason = "batches are made by the host"
    elif train.mixes:
        reason = "training.augmentations.mixup has the host choose which clips are mixed"
    else:
        told("CUDA graphs: one for each number of rows, recorded when it is met again")
        return Graphs(state, train, config, precision, CudaCapture(state.device), told)
    if wanted == "on":
        raise NoGpu(f"hardware.cuda_graphs is on, but {reason}")
    if on_gpu:
        told(f"CUDA graphs: off ({reason})")
    return None
