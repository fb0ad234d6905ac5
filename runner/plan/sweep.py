"""What the points of a sweep take together, each on the profile that it has."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from last_e.config import ENVIRONMENTS, effective_batch
from last_e.datafile import drawn_by
from last_e.layers import Resolved
from runner.plan.clips import Data, UnknownClipsError, data_of
from runner.plan.figures import Figure, Kind, Row
from runner.plan.hardware import Gpu, asked_gpu
from runner.plan.measurements import find
from runner.plan.planner import places_of, row_of
from runner.plan.prices import load_prices
from runner.resolve import resolve_points
from runner.spec import JobSpec

_SAME_WORK = ("training.lr", "training.seed", "training.weight_decay", "training.momentum", "training.label_smoothing")
"""Keys that change no arithmetic: points that differ in these alone are estimated once."""


@dataclass(frozen=True)
class Estimate:
    """Of a sweep. Sums are of those points of which something is known."""

    count: int
    at_once: int
    seconds: Figure | None
    """One point after the other."""
    cost: Figure | None
    unknown: int
    """Points of which nobody knows how long they take."""
    where: str
    """Profile and machine of the first point."""
    busy: str | None
    """As a row has it."""

    def to_dict(self) -> dict[str, Any]:
        """For ``--json``."""
        figures = {"seconds": self.seconds, "cost": self.cost}
        shown = {name: figure.to_dict() if figure else None for name, figure in figures.items()}
        return {
            "count": self.count,
            "at_once": self.at_once,
            "unknown": self.unknown,
            "where": self.where,
            "busy": self.busy,
            **shown,
        }


def estimate(
    jobs: Sequence[Resolved[JobSpec]], at_once: int, asked: Gpu | None = None, own_prices: Path | None = None
) -> Estimate:
    """Add up the points of a sweep, ``at_once`` of which run side by side; on the GPU that was ``asked`` for, if one was."""
    measurements, prices = find()[0], load_prices(own_prices)
    data: dict[str, Data | None] = {}
    rows: dict[str, Row | None] = {}
    found: list[Row | None] = []
    for job in jobs:
        items = job.items()
        config = job.config
        by = drawn_by(config) if config.data.train_subjects else None  # of whom each has another number of clips
        work = repr(({key: value for key, value in items.items() if key not in _SAME_WORK}, by))
        if work not in rows:
            of = repr(([items[key] for key in items if key.startswith(("data", "split_type", "hardware.data_root"))], by))
            if of not in data:
                try:
                    data[of] = data_of([config])
                except UnknownClipsError:  # it lies elsewhere, where the job may run
                    data[of] = None
            clips, place = data[of], places_of(job.env, config, asked)[0]
            steps = clips.counts.train // effective_batch(config.training) if clips else 0
            rows[work] = row_of(job.env, place, config, steps, clips, measurements, prices) if clips and steps else None
        found.append(rows[work])
    return Estimate(
        count=len(jobs),
        at_once=min(at_once, len(jobs)),
        seconds=_sum([row.total_seconds for row in found if row]),
        cost=_sum([row.cost for row in found if row]),
        unknown=sum(row is None or row.total_seconds is None for row in found),
        where=found[0].name if found[0] else jobs[0].env,
        busy=found[0].busy if found[0] else None,
    )


def together(
    spec: Path, env: str | None, settings: Sequence[str], gpu: str | None = None, prices: Path | None = None
) -> list[Estimate]:
    """What all points of a file's sweep take one after the other, on each profile that is planned for (as
    :func:`~runner.plan.planner.make_plan`); empty: it is no sweep."""
    found: dict[str, Estimate] = {}
    for profile in ENVIRONMENTS if env is None else (env,):
        points = resolve_points(spec, profile, settings).points
        if len(points) > 1:
            is_asked = gpu is not None and profile == (env or "gcp")
            one = estimate([point.job for point in points], 1, asked_gpu(str(gpu)) if is_asked else None, prices)
            found.setdefault(one.where, one)
    return list(found.values())


def _sum(figures: Sequence[Figure | None]) -> Figure | None:
    known = [figure for figure in figures if figure is not None]
    if not known:
        return None
    kind = Kind(max(figure.kind for figure in known))
    return Figure(sum(figure.value for figure in known), kind, "; ".join(dict.fromkeys(figure.source for figure in known)))
