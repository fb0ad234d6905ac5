"""Training steps as the trainer's CUDA graphs against those without; and the network through ``torch.compile``, which it does
not use."""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import count
from typing import Any

from benchmarks.sections.common import Task, relative, some_clips
from last_e.bench.contenders import Own, synchronize
from last_e.graphs import CudaCapture, Graphs, Step
from last_e.step import train_step

STEPS, FEW_STEPS = 120, 8


def graph(task: Task) -> dict[str, Any]:
    """The trainer's own graphs against the same steps without: other batches, rows and rates each time.

    Gives back clips per second of both, how many graphs there were, and seconds of the first pass, in which they are recorded.
    Raises where a loss differs in any bit. A CPU, which has no graphs, takes each step as it is.
    """
    expected, eager, _, _ = _trained(task, recorded=False)
    found, played, graphs, seconds = _trained(task, recorded=True)
    different = sum(a != b for a, b in zip(found, expected, strict=True))
    worst = max(relative(a, b) for a, b in zip(found, expected))
    assert not different, f"{different} of {len(expected)} losses differ, by {worst:.1e} at the most"
    return {
        "eager_clips_per_second": eager,
        "graph_clips_per_second": played,
        "ratio": played / eager,
        "steps": len(expected),
        "graphs": graphs,
        "seconds_of_first_pass": seconds,
    }


def compiled(task: Task, mode: str) -> dict[str, Any]:
    """Training steps on one batch, with the network compiled in this ``mode``: clips per second, seconds to compile."""
    if task.quick and mode != "default":
        return {"not_there": "without a compiler's back end all modes are one"}
    hardware = task.config.hardware.model_copy(update={"kernels": "off"})  # what it is to be instead of
    own = Own(task.config.model_copy(update={"hardware": hardware}), some_clips(task), task.device)
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


class _Eager:
    """In place of CUDA's recording, on a CPU: a step that is played is done."""

    def run(self, step: Step) -> None:
        step()

    def record(self, step: Step) -> Step:
        return step


def _trained(task: Task, *, recorded: bool) -> tuple[list[float], float, int, float]:
    """The losses of some steps; clips per second after those; how many graphs there are, and the seconds of the first steps."""
    own, told = Own(task.config, some_clips(task), task.device), list[str]()
    own.state.keep_rate_on_device()
    capture = CudaCapture(task.device) if task.device.type == "cuda" else _Eager()
    graphs = Graphs(own.state, own.batches, task.config, own.precision, capture, told.append)
    steps = graphs.parts if recorded else own.batches.epoch
    numbered = enumerate((epoch, parts) for epoch in count() for parts in steps(epoch))

    def train() -> None:
        number, (epoch, parts) = next(numbered)
        lr = 0.01 + 0.0005 * (number % 7)
        if recorded:
            graphs.step(parts, epoch, lr)
        else:
            train_step(own.state, parts, lr, task.config, own.precision, parts=own.batches.parts)

    begin, losses = time.perf_counter(), []
    for _ in range(FEW_STEPS if task.quick else STEPS):
        train()
        losses.append(own.state.counters.read().loss)
    seconds = time.perf_counter() - begin
    speed = rate(train, own.batches.batch, task)
    assert not told, told[0]
    return losses, speed, graphs.count, seconds
