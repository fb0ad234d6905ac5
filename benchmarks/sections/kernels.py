"""The trainer's own kernels on a GPU: whether they are right there, and what they bring."""

from __future__ import annotations

import time
from itertools import chain, count
from typing import Any

from benchmarks.sections.common import Task, relative, some_clips
from benchmarks.sections.experiments import FEW_STEPS, STEPS, rate
from last_e.bench.contenders import Own
from last_e.data import launches
from last_e.model import fused_cuda, tried, whole
from last_e.precision import choose_precision
from last_e.step import train_step


def kernels(task: Task) -> dict[str, Any]:
    """Training steps with the kernels and without, and batches by themselves: clips per second of both, the largest relative
    difference of a loss, and how long Triton took at first. Raises where two runs with them do not come out alike. On a CPU,
    which has none, both are the same."""
    found: dict[str, Any] = {}
    if task.device.type == "cuda":
        begin = time.perf_counter()
        found["differences"] = {**tried.differences(task.device), **launches.differences(task.device)}
        form = choose_precision(task.config, task.device).dtype
        found["differences"] |= whole.differences(task.device, task.config, form)
        why_not = tried.try_out(task.device, task.config, form) or launches.try_out(task.device)
        assert why_not is None, why_not
        found["seconds_to_try_out"] = time.perf_counter() - begin
    losses, speed, made, digests = {}, {}, {}, {}
    for name in ("auto", "auto again", "off"):
        config = task.config.model_copy(
            update={"hardware": task.config.hardware.model_copy(update={"kernels": name.partition(" ")[0]})}
        )
        own = Own(config, some_clips(task), task.device)
        used = {fused_cuda.used_on(task.device), launches.used_on(task.device)}
        assert used == {task.device.type == "cuda" and name != "off"}, f"kernels: {name}, and they are used: {used}"
        batches = chain.from_iterable(map(own.batches.epoch, count()))
        begin = time.perf_counter()
        losses[name] = []
        for _ in range(FEW_STEPS if task.quick else STEPS):
            step = [batch.to(task.device) for batch in next(batches)]
            train_step(own.state, step, 0.01, config, own.precision)
            losses[name].append(own.state.counters.read().loss)
            if len(losses[name]) == 1 and name == "auto":
                found["seconds_of_first_step"] = time.perf_counter() - begin
        digests[name] = own.state.digest()
        made[name] = rate(lambda: next(batches), own.batches.batch, task)  # noqa: B023
        speed[name] = rate(lambda: train_step(own.state, step, 0.01, config, own.precision), own.batches.batch, task)  # noqa: B023
    worst = max(relative(a, b) for a, b in zip(losses["auto"], losses["off"]))
    assert worst <= 0.05, f"losses differ by {worst:.1%}"
    assert losses["auto"] == losses["auto again"], "two runs with the kernels differ"
    assert digests["auto"] == digests["auto again"], "two runs with the kernels have other weights"
    return {
        **found,
        "clips_per_second": speed["auto"],
        "clips_per_second_without": speed["off"],
        "ratio": speed["auto"] / speed["off"],
        "batches": {"clips_per_second": made["auto"], "clips_per_second_without": made["off"]},
        "largest_relative_difference": worst,
    }
