"""What is known of GPUs that nobody has measured: a table of data sheets, and a roofline estimate by what bounds the work."""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from last_e.problems import show
from runner.errors import UsageError
from runner.plan.work import Work

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

TABLE = Path(__file__).parent / "gpus.toml"
BYTES = {"float32": 4, "fp16": 2, "bf16": 2}


@dataclass(frozen=True)
class Gpu:
    """A row of the table."""

    name: str
    match: str
    """What is found in the names that drivers give it."""
    memory_gb: float
    bandwidth_gb_s: float
    fp32_tflops: float
    fp16_tflops: float
    capability: tuple[int, int]
    source: str
    bf16_tflops: float | None = None

    def flops_per_second(self, precision: str) -> float:
        """The peak, in a number format."""
        rates = {"float32": self.fp32_tflops, "fp16": self.fp16_tflops, "bf16": self.bf16_tflops}
        return 1e12 * (rates[precision] or self.fp32_tflops)


@dataclass(frozen=True)
class Assumptions:
    """What the table assumes about the work; see there."""

    train_flops: float
    peak_share: float
    bandwidth_share: float
    train_moves: float
    forward_moves: float
    launches_train: int
    launches_forward: int
    launch_seconds: float
    memory_factor: float
    memory_base_gb: float
    memory_share: float

    def __str__(self) -> str:
        return (
            f"{self.peak_share:.0%} of the data sheet's peak rate or {self.bandwidth_share:.0%} of its bandwidth, whichever "
            f"takes longer, and {self.launch_seconds * 1e6:.0f} us for each kernel's start"
        )


@cache
def _table() -> dict[str, Any]:
    table: dict[str, Any] = tomllib.loads(TABLE.read_text("utf-8"))
    return table


@cache
def assumptions() -> Assumptions:
    """Those of the table."""
    return Assumptions(**_table()["assumptions"])


@cache
def gpus() -> dict[str, Gpu]:
    """The table, by name."""
    rows = _table()["gpu"].items()
    return {name: Gpu(name, **{**row, "capability": tuple(row["capability"])}) for name, row in rows}


def known_gpu(told: str) -> Gpu | None:
    """The row for the name that a driver gives (``Tesla T4``), or that the table has; None where there is none."""
    return next((gpu for gpu in gpus().values() if told == gpu.name or re.search(gpu.match, told)), None)


def asked_gpu(told: str) -> Gpu:
    """The row for a name that the user gave, in any case, or the beginning of one.

    Raises:
        UsageError: the table has no such GPU, or several.
    """
    rows = {_bare(name): gpu for name, gpu in gpus().items()}
    wanted = _bare(told)
    found = [rows[wanted]] if wanted in rows else [gpu for name, gpu in rows.items() if wanted and name.startswith(wanted)]
    if len(found) != 1:
        names = [gpu.name for gpu in found] or list(gpus())
        raise UsageError(f"--gpu: found {show(told)}; allowed: one of {', '.join(names)}")
    return found[0]


def _bare(name: str) -> str:
    return "".join(name.split()).casefold()


@dataclass(frozen=True)
class Times:
    """Seconds: of a body, and of a batch however small it is."""

    train_row: float
    train_batch: float
    forward_row: float
    forward_batch: float

    def faster(self, gain: float) -> Times:
        """So many times as fast."""
        return Times(*(seconds / gain for seconds in vars(self).values()))


def estimate(gpu: Gpu, work: Work, precision: str) -> Times:
    """How long the work takes if nothing but arithmetic, memory and the starts of kernels takes time."""
    a = assumptions()
    rate, bandwidth = gpu.flops_per_second(precision) * a.peak_share, gpu.bandwidth_gb_s * 1e9 * a.bandwidth_share
    size = BYTES[precision] * work.kept
    return Times(
        train_row=max(a.train_flops * work.flops / rate, a.train_moves * size / bandwidth),
        train_batch=a.launches_train * work.blocks * a.launch_seconds,
        forward_row=max(work.flops / rate, a.forward_moves * size / bandwidth),
        forward_batch=a.launches_forward * work.blocks * a.launch_seconds,
    )


def memory_bytes(work: Work, rows: float, precision: str) -> float:
    """What training a batch of so many bodies takes of a GPU's memory."""
    a = assumptions()
    return a.memory_base_gb * 1e9 + a.memory_factor * BYTES[precision] * work.kept * rows


def most_rows(gpu: Gpu, work: Work, precision: str) -> int:
    """The most bodies that a batch may have to fit."""
    a = assumptions()
    free = (a.memory_share * gpu.memory_gb - a.memory_base_gb) * 1e9
    return max(0, int(free / (a.memory_factor * BYTES[precision] * work.kept)))
