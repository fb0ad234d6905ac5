"""What ``lastrun bench`` has measured: the format of its files, and where they are found."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from last_e.config import ModelConfig
from runner.errors import UsageError
from runner.folders import data_folder
from runner.plan.work import packaged_model

FORMAT = "lastrun-bench-1"
SHIPPED = Path(__file__).parent / "measured"
MAX_BYTES = 1_000_000

Rate = Annotated[float, Field(gt=0, lt=1e9)]
Count = Annotated[int, Field(ge=1, lt=1e9)]


class Part(BaseModel):
    """Base of a measurement's parts: what this version does not know is left alone."""

    model_config = ConfigDict(extra="ignore", frozen=True, allow_inf_nan=False, protected_namespaces=())


class Machine(Part):
    """What was measured on."""

    device: Literal["cpu", "cuda"]
    name: Annotated[str, Field(min_length=1, max_length=200)]
    """A GPU's as its driver tells it (``Tesla T4``); a CPU's with its cores (``AMD EPYC, 2 cores``)."""
    cores: Count
    threads: Count | None = None
    """With how many a CPU trained."""
    load: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    """How many processes wanted its cores as the measurement began."""

    @property
    def was_busy(self) -> bool:
        """Whether others used it: rates are too low."""
        return self.load is not None and self.load > self.cores / 2


class Speed(Part):
    """Clips per second, by what ran them: ``lastrun`` and, to compare, ``plain``."""

    clips_per_second: dict[str, Rate]

    @property
    def own(self) -> float | None:
        """That of lastrun."""
        return self.clips_per_second.get("lastrun")


def _speed_or_none(value: Any) -> Any:
    """What is no speed of clips is as good as absent."""
    return value if isinstance(value, dict) and isinstance(value.get("clips_per_second"), dict) else None


class Gain(Part):
    """Of several ranks."""

    of_one: Rate
    """How many times as fast as one they took training steps."""


class Ranks(Part):
    """Training steps of several ranks, by how many they were."""

    by: dict[str, Gain]


def _ranks_or_none(value: Any) -> Any:
    """The same for ranks."""
    return value if isinstance(value, dict) and isinstance(value.get("by"), dict) else None


class Measurement(Part):
    """One file."""

    format: Literal["lastrun-bench-1"]
    date: Annotated[str, Field(pattern=r"^\d{4}-\d{2}-\d{2}")]
    machine: Machine
    versions: dict[str, str] = {}
    model: Literal["nano_e_v3", "small_e_v3", "base_e_v3", "large_e_v3"]
    shape: ModelConfig | None = None
    """Its tables, which may have been set; None: as they come with the package."""
    frames: Count
    batch_size: Count
    micro_batch: Count
    precision: Literal["float32", "bf16", "fp16"]
    rows_per_clip: Annotated[float, Field(ge=1, le=100)] = 1.0
    """Mean number of bodies of a clip."""
    train: Speed
    """Training steps on batches that are already there."""
    forward: Speed
    """Forward passes in evaluation mode."""
    epoch: Annotated[Speed | None, BeforeValidator(_speed_or_none)] = None
    """Training with the batches being made, as an epoch does it, where that was measured as well."""
    memory_bytes: Annotated[int, Field(ge=0)] | None = None
    """Most memory that training took: a GPU's, or the process's."""

    ranks: Annotated[Ranks | None, BeforeValidator(_ranks_or_none)] = None

    @property
    def tables(self) -> ModelConfig:
        """The network that was measured."""
        return self.shape or packaged_model(self.model)

    @property
    def training_rows(self) -> float:
        """Bodies per second in training: of an epoch where one was measured, else of bare steps."""
        told = (self.epoch.own if self.epoch else None) or self.train.own
        assert told is not None  # see read
        return told * self.rows_per_clip

    @property
    def forward_rows(self) -> float:
        """Bodies per second in testing."""
        assert self.forward.own is not None
        return self.forward.own * self.rows_per_clip


@dataclass(frozen=True)
class Found:
    """A measurement and where it stands."""

    path: Path
    measurement: Measurement

    def __str__(self) -> str:
        m = self.measurement
        return f"{m.model}, {m.frames} frames, batches of {m.micro_batch}, {m.precision}, on {m.machine.name}, {m.date[:10]}"


def user_folder() -> Path:
    """Where ``lastrun bench`` keeps what it measured.

    Raises:
        UsageError: this user has no home folder.
    """
    return data_folder() / "benchmarks"


def _folders() -> list[Path]:
    try:
        return [user_folder(), SHIPPED]
    except UsageError:
        return [SHIPPED]


def read(path: Path) -> Measurement:
    """One file.

    Raises:
        ValueError: it is not a measurement; in one line.
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        data = file.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise ValueError(f"more than {MAX_BYTES:,} bytes")
    try:
        measurement = Measurement.model_validate_json(data)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(str(part) for part in first["loc"])
        raise ValueError(f"{key}: {first['msg']}" if key else "not JSON") from None
    if measurement.train.own is None or measurement.forward.own is None:
        raise ValueError("train or forward has no clips_per_second.lastrun")
    return measurement


def find(folders: tuple[Path, ...] | None = None) -> tuple[list[Found], list[str]]:
    """All measurements, and a word on each file that is none.

    Args:
        folders: default: the user's, then those that come with the package.
    """
    found, skipped = [], []
    for folder in _folders() if folders is None else folders:
        for path in sorted(folder.glob("*.json")):
            try:
                found.append(Found(path, read(path)))
            except ValueError as error:
                skipped.append(f"{path}: skipped, not a measurement of lastrun bench ({error})")
            except OSError as error:
                skipped.append(f"{path}: skipped ({error.strerror})")
    return found, skipped


def this_machine() -> Machine:
    """The machine that this process runs on, named as a measurement names it, without torch: its first GPU, else its CPU."""
    from runner.machine import describe

    facts = describe()
    cores = int(facts["cores"] or 1)
    if facts["gpus"]:
        return Machine(device="cuda", name=facts["gpus"][0], cores=cores)
    return cpu(str(facts["cpu"]), cores)


def cpu(model: str, cores: int) -> Machine:
    """A CPU of which a process may use so many cores."""
    name = re.sub(r"\s+", " ", model).strip() or os.uname().machine
    return Machine(device="cpu", name=f"{name}, {cores} core{'s' if cores > 1 else ''}", cores=cores)
