"""What might be faster: a training step as a CUDA graph, the network through ``torch.compile``. The trainer uses neither."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from itertools import cycle
from typing import Any

import torch

from benchmarks.sections.common import Task, relative, some_clips
from last_e.bench.contenders import Own, synchronize
from last_e.data.batches import Batch
from last_e.model.network import Noise
from last_e.state import train_step

STEPS, FEW_STEPS = 40, 6


def graph(task: Task) -> dict[str, Any]:
    """A step recorded once and replayed with other batches of as many rows, and another learning rate each time.

    Gives back clips per second of both, and the largest relative difference of a loss from that of the same steps without a
    graph. ``row_numbers``: how many graphs an epoch would need. On a CPU, which has no graphs, the step itself takes its place.
    """
    batches, row_numbers = _of_one_size(task, FEW_STEPS if task.quick else STEPS)
    expected, eager, _ = _trained(task, batches, recorded=False)
    found, replayed, seconds = _trained(task, batches, recorded=True)
    worst = max(relative(a, b) for a, b in zip(found, expected))
    # Atomic additions come in another order each time, and training makes much of little: no bit may be counted on.
    allowed = 0.05 if task.device.type == "cuda" else 0.0
    assert worst <= allowed, f"losses differ by {worst:.1%}"
    return {
        "eager_clips_per_second": eager,
        "graph_clips_per_second": replayed,
        "ratio": replayed / eager,
        "largest_relative_difference": worst,
        "steps": len(batches),
        "rows": len(batches[0].owner),
        "row_numbers": row_numbers,
        "seconds_to_record": seconds,
    }


def compiled(task: Task, mode: str) -> dict[str, Any]:
    """Training steps on one batch, with the network compiled in this ``mode``: clips per second, seconds to compile."""
    if task.quick and mode != "default":
        return {"not_there": "without a compiler's back end all modes are one"}
    own = Own(task.config, some_clips(task), task.device)
    step = next(own.batches.epoch(0))

    def train() -> None:
        train_step(own.state, step, 0.01, task.config, own.precision)

    eager = rate(train, own.batches.batch, task)
    begin = time.perf_counter()
    # Compiling on a CPU takes minutes: there only what leads to the compiler is tried.
    own.state.model.compile(**({"backend": "eager"} if task.quick else {"mode": mode}))
    train()
    synchronize(task.device)
    seconds = time.perf_counter() - begin
    after = rate(train, own.batches.batch, task)
    return {
        "eager_clips_per_second": eager,
        "compiled_clips_per_second": after,
        "ratio": after / eager,
        "seconds_to_compile": seconds,
    }


def rate(run: Callable[[], None], clips: int, task: Task) -> float:
    """Clips per second of ``run``, which does so many at a time."""
    for _ in range(1 if task.quick else 3):
        run()
    synchronize(task.device)
    begin, times = time.perf_counter(), 0
    while time.perf_counter() - begin < task.seconds:
        for _ in range(1 if task.quick else 5):
            run()
            times += 1
        synchronize(task.device)
    return times * clips / (time.perf_counter() - begin)


def _of_one_size(task: Task, count: int) -> tuple[list[Batch], int]:
    """So many different batches of the commonest number of rows, and how many numbers of rows were seen on the way."""
    own = Own(task.config, some_clips(task), task.device)
    by_rows: dict[int, list[Batch]] = defaultdict(list)
    epoch = 0
    while True:
        for (batch,) in own.batches.epoch(epoch):
            same = by_rows[len(batch.owner)]
            same.append(batch.to(task.device))
            if len(same) == count:
                return same, len(by_rows)
        epoch += 1


def _trained(task: Task, batches: list[Batch], *, recorded: bool) -> tuple[list[float], float, float]:
    """The loss of one step on each batch, clips per second of such steps, and the seconds that recording took."""
    own = Own(task.config, some_clips(task), task.device)
    # A graph reads its inputs where they were when it was recorded: batches and the rate are copied there.
    inputs = _copy_of(batches[0])
    lr = torch.full((), 0.01, device=task.device)
    step = partial(train_step, own.state, [inputs], lr, task.config, own.precision)
    synchronize(task.device)
    begin = time.perf_counter()
    run = _recorded(step, task.device, recorded)
    synchronize(task.device)
    seconds = time.perf_counter() - begin

    def train_on(batch: Batch, number: int) -> None:
        for there, new in zip(_tensors(inputs), _tensors(batch), strict=True):
            there.copy_(new)
        lr.fill_(0.01 + 0.0005 * (number % len(batches)))
        run()

    losses = []
    for number, batch in enumerate(batches):
        train_on(batch, number)
        losses.append(own.state.counters.read().loss)
    numbered = cycle(list(enumerate(batches)))

    def next_step() -> None:
        number, batch = next(numbered)
        train_on(batch, number)

    return losses, rate(next_step, own.batches.batch, task), seconds


def _recorded(step: Callable[[], None], device: torch.device, recorded: bool) -> Callable[[], None]:
    """``step``, after three of them, so that all that is made at first is there; as a graph if it is to be ``recorded``."""
    if device.type != "cuda":
        for _ in range(3):
            step()
        return step
    # As torch's documentation asks: not on the stream that everything else waits for. Recording runs nothing.
    stream = torch.cuda.Stream(device)
    stream.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(stream):
        for _ in range(3):
            step()
    torch.cuda.current_stream(device).wait_stream(stream)
    if not recorded:
        return step
    made = torch.cuda.CUDAGraph()
    with torch.cuda.graph(made, stream=stream):
        step()
    return made.replay


def _copy_of(batch: Batch) -> Batch:
    weight = None if batch.row_weight is None else batch.row_weight.clone()
    noise = None if batch.noise is None else Noise(*(tensor.clone() for tensor in batch.noise))
    streams = {name: stream.clone() for name, stream in batch.streams.items()}
    return Batch(streams, batch.owner.clone(), batch.label.clone(), weight, noise)


def _tensors(batch: Batch) -> list[torch.Tensor]:
    """All that a batch holds."""
    weight = [] if batch.row_weight is None else [batch.row_weight]
    return [*batch.streams.values(), batch.owner, batch.label, *weight, *(batch.noise or ())]
