"""What a plan is made of: figures that know what they rest on."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

from runner.plan.prices import Price


class Kind(IntEnum):
    """What a figure rests on, the firmest first."""

    MEASURED = 0
    """A measurement of this work on such a machine, multiplied out."""
    SCALED = 1
    """A measurement of other work on such a machine, converted."""
    ESTIMATED = 2
    """No measurement, but data sheets and assumptions; or one to which much is added that is assumed."""

    def __str__(self) -> str:
        return self.name.lower()


@dataclass(frozen=True)
class Figure:
    """A number, and where it comes from."""

    value: float
    kind: Kind
    source: str

    def to_dict(self) -> dict[str, Any]:
        """For ``--json``."""
        return {"value": self.value, "kind": str(self.kind), "source": self.source}


@dataclass(frozen=True)
class Offered:
    """A machine that can be had now, for a row."""

    launcher: str
    machine: str
    price: Price
    cost: Figure | None

    def to_dict(self) -> dict[str, Any]:
        """For ``--json``."""
        return {**vars(self), "price": vars(self.price), "cost": self.cost and self.cost.to_dict()}


@dataclass
class Row:
    """A job on one machine. What is not known is None."""

    profile: str
    machine: str
    device: str
    gpu: str | None
    """Its name in the table of GPUs."""
    micro_batch: int
    precision: str
    source: str
    """What the times rest on, or why there are none."""
    ranks: int = 1
    machines: int = 1
    """GPUs, or machines without one, that the ranks train on."""
    seconds_per_epoch: Figure | None = None
    training_seconds: Figure | None = None
    """All epochs."""
    total_seconds: Figure | None = None
    """With the starts of the sessions."""
    sessions: Figure | None = None
    session_limit: int | None = None
    price: Price | None = None
    spot_price: Price | None = None
    cost: Figure | None = None
    spot_cost: Figure | None = None
    memory_bytes: Figure | None = None
    fits: bool | None = None
    """Whether the GPU's memory has room for the micro-batch."""
    busy: str | None = None
    """Of this machine: that others use it now, in words; the times are those without them."""
    warnings: list[str] = field(default_factory=list)
    offers: list[Offered] = field(default_factory=list)
    """With ``--live``."""

    @property
    def name(self) -> str:
        """Profile and machine."""
        return f"{self.profile} {self.machine}"

    def to_dict(self) -> dict[str, Any]:
        """For ``--json``."""
        return {
            key: value.to_dict() if isinstance(value, Figure) else vars(value) if isinstance(value, Price) else value
            for key, value in {**vars(self), "offers": [one.to_dict() for one in self.offers]}.items()
        }


@dataclass
class Plan:
    """A job on all the machines that were asked about."""

    job: str
    model: str
    dataset: str
    split_type: str
    epochs: int
    steps_per_epoch: int
    clips: dict[str, Any]
    rows: list[Row]
    assumptions: list[str]
    notes: list[str]
    """Files that were skipped, and warnings of the job's file."""

    def to_dict(self) -> dict[str, Any]:
        """For ``--json``."""
        return {**vars(self), "currency": "USD", "rows": [row.to_dict() for row in self.rows]}
