"""From a job to what it takes on each profile: time, sessions, cost."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from last_e.config import ENVIRONMENTS, cuts, effective_batch, most_for, number_format
from last_e.joints import NUM_JOINTS
from last_e.layers import Resolved
from last_e.problems import ConfigError, Problem
from runner.machine import how_busy
from runner.plan.clips import Data, data_of
from runner.plan.figures import Figure, Kind, Plan, Row
from runner.plan.hardware import Gpu, Times, asked_gpu, assumptions, estimate, gpus, known_gpu, memory_bytes, most_rows
from runner.plan.measurements import Found, Machine, Measurement, cpu, find, this_machine
from runner.plan.prices import Prices, load_prices, price_of
from runner.plan.work import Work, work_of
from runner.resolve import resolve_spec
from runner.spec import JobSpec

PROFILE_GPUS = {"kaggle": ("T4", "P100"), "gcp": ("T4",), "lambda": ("A10",), "a100": ("A100 40GB",)}
"""What a machine of a profile has unless ``--gpu`` says otherwise. ``local`` is the machine that one asks on."""
NO_GPU = "no GPU"
TEST_BATCH = {"cpu": 64, "cuda": 256}  # as last_e.set_up
START_SECONDS = 120
"""Assumed: until a session trains (installed packages, torch, the clips, the first slow steps)."""
LOCAL_START_SECONDS = 10
"""The same on a machine where everything is installed already."""
RESUME_SECONDS = 60
"""Assumed, beside that: to fetch the checkpoint and to repeat what was not saved."""
SAME_BODIES = 0.01
ASSUMED_SHARE = 0.05
"""A total of which more is assumed (starts and resumes) is an estimate, however well the training was measured."""


def make_plan(spec: Path, env: str | None, settings: Sequence[str], gpu: str | None = None, prices: Path | None = None) -> Plan:
    """Plan a job for one profile, or for all.

    Args:
        spec: the job's file.
        env: the profile; None: all of them.
        settings: ``KEY=VALUE`` words.
        gpu: the GPU of ``env``, or of gcp.
        prices: the user's table of prices.

    Raises:
        ConfigError: mistakes in the job or in the prices.
        UsageError: nobody knows such a GPU.
    """
    table = load_prices(prices)
    jobs: dict[str, Resolved[JobSpec]] = {}
    for profile in ENVIRONMENTS if env is None else (env,):
        job = resolve_spec(spec, profile, settings)
        jobs.setdefault(job.env, job)
    chosen = None if gpu is None else asked_gpu(gpu)
    measurements, notes = find()
    data = data_of([job.config for job in jobs.values()])
    config = next(iter(jobs.values())).config
    batch = effective_batch(config.training)
    steps = data.counts.train // batch
    if steps == 0:
        allowed = f"at most {data.counts.train} clips, all there are to train with"
        raise ConfigError([Problem(str(spec), "training.batch_size", f"{batch} clips a step", allowed)])
    rows = [
        row_of(profile, machine, job.config, steps, data, measurements, table)
        for profile, job in jobs.items()
        for machine in places_of(profile, job.config, chosen if profile == (env or "gcp") or len(jobs) == 1 else None)
    ]
    if data.note is not None:
        notes.append(data.note)
    notes += [note for job in list(jobs.values())[:1] for note in job.notes if note.startswith(("warning", "note"))]
    return Plan(
        job=str(spec),
        model=config.model.variant,
        dataset=config.dataset,
        split_type=config.split_type,
        epochs=config.training.epochs,
        steps_per_epoch=steps,
        clips={**data.counts._asdict(), "bodies_known": data.bodies_known, "source": data.source},
        rows=rows,
        assumptions=_assumptions(rows),
        notes=notes,
    )


def session_count(seconds: float, limit: int | None, margin: int, start: int = START_SECONDS) -> int | None:
    """Sessions that so much training takes; None where a session leaves no time to train in.

    Each of them ends ``margin`` before its limit and takes ``start`` to begin, all but the first :data:`RESUME_SECONDS` more.
    """
    if limit is None:
        return 1
    first = limit - margin - start
    if seconds <= first:
        return 1
    later = first - RESUME_SECONDS
    return None if later <= 0 else 1 + math.ceil((seconds - first) / later - 1e-9)


# --- machines ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Place:
    """A machine to plan for."""

    name: str
    """Short, for the table."""
    device: str
    gpu: Gpu | None
    machine: Machine | None
    """Where it is this one."""

    def is_of(self, measured: Machine) -> bool:
        """Whether a measurement was made on such a machine."""
        if measured.device != self.device:
            return False
        if self.gpu is not None:
            return known_gpu(measured.name) is self.gpu
        return self.machine is not None and measured.name.casefold() == self.machine.name.casefold()


def places_of(profile: str, config: JobSpec, asked: Gpu | None = None) -> list[Place]:
    """The machines that a profile stands for; ``asked`` is the GPU of which somebody wants to know."""
    without_gpu = config.hardware.device == "cpu" or config.run.gpus == 0
    if asked is not None and not without_gpu:
        return [Place(asked.name, "cuda", asked, None)]
    if profile != "local":
        if without_gpu:
            return [Place("CPU", "cpu", None, None)]
        return [Place(name, "cuda", gpus()[name], None) for name in PROFILE_GPUS[profile]]
    here = this_machine()
    if here.device == "cuda" and without_gpu:
        from runner.machine import describe

        here = cpu(str(describe()["cpu"]), here.cores)
    if here.device == "cpu":
        needs_gpu = config.hardware.device == "cuda" or config.run.gpus not in (None, 0)
        return [Place(NO_GPU, "cuda", None, None) if needs_gpu else Place("CPU", "cpu", None, here)]
    gpu = known_gpu(here.name)
    return [Place(gpu.name if gpu else here.name.removeprefix("NVIDIA ").removeprefix("GeForce "), "cuda", gpu, here)]


# --- one row -------------------------------------------------------------------------------------------------------------


def row_of(
    profile: str, place: Place, config: JobSpec, steps: int, data: Data, measurements: list[Found], prices: Prices
) -> Row:
    """What a job takes on a machine, as far as that is known."""
    training, hardware = config.training, config.hardware
    size = training.batch_size
    machines = config.run.nodes * (_gpus(config, profile, place) if place.device == "cuda" else 1)
    ranks = hardware.ranks or machines
    parts = cuts(size, hardware.micro_batch or (most_for(config, ranks) if ranks > 1 else None))
    micro_batch = -(-size // parts)
    candidates = [found for found in measurements if place.is_of(found.measurement.machine)]
    precision = _precision(place, config, candidates)
    work = work_of(config.model, training.input_frames, config.data.joints)
    row = Row(profile, place.name, place.device, place.gpu.name if place.gpu else None, micro_batch, precision, "")
    row.ranks, row.machines = min(ranks, training.gradient_accumulation_steps * parts), machines
    row.session_limit = hardware.session_limit
    row.price = price_of(prices, profile, row.gpu, "per_hour")
    row.spot_price = price_of(prices, profile, row.gpu, "spot_per_hour")
    if place.gpu is not None:
        _judge_memory(row, place.gpu, work, data)
    times = _times(row, place, config, work, data, candidates)
    if times is None:
        return row
    per_row, kind = times
    row.busy = how_busy() if place.machine is not None and place.device == "cpu" else None
    counts = data.counts
    tests = -(-counts.test // (hardware.micro_batch or TEST_BATCH[place.device]))
    epoch = (
        steps * effective_batch(training) * counts.train_bodies * per_row.train_row
        + steps * training.gradient_accumulation_steps * parts * per_row.train_batch
        + counts.test * counts.test_bodies * per_row.forward_row
        + tests * per_row.forward_batch
    )
    row.seconds_per_epoch = Figure(epoch, kind, row.source)
    row.training_seconds = Figure(epoch * training.epochs, kind, row.source)
    start = LOCAL_START_SECONDS if profile == "local" else START_SECONDS
    number = session_count(epoch * training.epochs, hardware.session_limit, hardware.stop_margin, start)
    if number is None:
        row.warnings.append(
            f"{row.name}: a session of {hardware.session_limit} s leaves no time to train: hardware.stop_margin is "
            f"{hardware.stop_margin} s, and {start + RESUME_SECONDS} s are needed to start and resume"
        )
        return row
    assumed = number * start + (number - 1) * RESUME_SECONDS
    total = epoch * training.epochs + assumed
    row.sessions = Figure(number, kind, row.source)
    if assumed > ASSUMED_SHARE * total:
        kind = Kind.ESTIMATED
    row.total_seconds = Figure(total, kind, f"{row.source}; {assumed} s of it, for starts and resumes, are assumed")
    for market in ("", "spot_"):
        price = getattr(row, f"{market}price")
        if price is not None:
            firm = price.own or price.amount == 0
            of_all = f"{price}" if machines == 1 else f"{machines} times {price}"
            amount = total / 3600 * price.amount * machines
            figure = Figure(amount, kind if firm else Kind.ESTIMATED, f"{row.total_seconds.source}; {of_all}")
            setattr(row, f"{market}cost", figure)
    return row


def _precision(place: Place, config: JobSpec, candidates: list[Found]) -> str:
    if place.device == "cpu" or place.gpu is not None:
        return number_format(config, place.gpu.capability if place.gpu else None)
    old, new = number_format(config, (0, 0)), number_format(config, (8, 0))
    if old == new:
        return old
    known = {found.measurement.precision for found in candidates} & {old, new}  # a GPU that the table does not know
    return known.pop() if len(known) == 1 else f"{new} or {old}"


def _times(
    row: Row, place: Place, config: JobSpec, work: Work, data: Data, candidates: list[Found]
) -> tuple[Times, Kind] | None:
    """How fast the machine is, and what that rests on; says so in ``row.source``."""
    if candidates:
        found = max(candidates, key=lambda one: _nearness(one, row, config, work, data))
        return _converted(row, found, config, work, data)
    if place.gpu is not None:
        gain, words = _gain(row, None)
        row.source = (
            f"estimated from the {place.gpu.source}{words and f', {words}'}; nobody has measured one: lastrun bench does"
        )
        return estimate(place.gpu, work, row.precision).faster(gain), Kind.ESTIMATED
    if place.name == NO_GPU:
        row.source = "the job needs a GPU, and this machine has none of NVIDIA's"
        return None
    here = f"{place.machine.name}: " if place.machine else ""
    row.source = f"{here}nothing is known of its speed; lastrun bench, run there, measures it"
    return None


def _gpus(config: JobSpec, profile: str, place: Place) -> int:
    """How many a machine trains on, as far as the job says; a session of Kaggle has two T4, or one P100."""
    asked = config.run.gpus
    if profile == "kaggle" and place.name == "T4" and asked in (None, "all"):
        return 2
    return max(1, len(asked) if isinstance(asked, list) else asked if isinstance(asked, int) else 1)


def _gain(row: Row, measured: Measurement | None) -> tuple[float, str]:
    """How many times as fast as one the ranks are, and what that rests on, in words: on one machine they share what one has."""
    if row.ranks == 1:
        return 1.0, ""
    found = measured.ranks.by.get(str(row.ranks)) if measured is not None and measured.ranks is not None else None
    if found is not None and row.machines == 1:
        return found.of_one, f"{row.ranks} ranks {found.of_one:.2g} times as fast as one"
    gain = min(row.ranks, row.machines)
    return float(gain), f"{row.ranks} ranks taken to be {'as' if gain == 1 else f'{gain} times as'} fast as one"


def _differences(found: Found, row: Row, config: JobSpec, work: Work, data: Data) -> dict[str, str]:
    """How the work that was measured differs from the job's, each in words."""
    m, frames = found.measurement, config.training.input_frames
    words = {}
    if work_of(m.tables, frames, config.data.joints) != work:
        of = config.model.variant if m.model != config.model.variant else "this job's model"
        words["model"] = f"for the arithmetic of {of}"
    if (joints := config.data.joints or NUM_JOINTS) != NUM_JOINTS:
        words["joints"] = f"for {joints} joints, not {NUM_JOINTS}"
    if m.frames != frames:
        words["frames"] = f"for {frames} frames"
    if m.precision != row.precision:
        words["precision"] = f"{row.precision} taken to be as fast as {m.precision}"
    cores = m.machine.cores
    threads = min(config.hardware.cpu_threads or cores, cores)
    if m.machine.device == "cpu" and m.machine.threads not in (None, threads):
        words["threads"] = f"{threads} threads taken to be as fast as {m.machine.threads}"
    if m.micro_batch != row.micro_batch:
        words["batch"] = f"batches of {row.micro_batch} taken to be as fast"
    if abs(data.counts.train_bodies / m.rows_per_clip - 1) > SAME_BODIES:
        words["bodies"] = f"for {data.counts.train_bodies:.3g} bodies a clip, not {m.rows_per_clip:.3g}"
    if row.ranks > 1:
        words["ranks"] = _gain(row, m)[1]
    return words


def _nearness(found: Found, row: Row, config: JobSpec, work: Work, data: Data) -> tuple[object, ...]:
    """Of two measurements the one of the more similar work counts, of equals one of a machine that did nothing else, then the
    newer one."""
    other = _differences(found, row, config, work, data)
    parts = ("model", "joints", "precision", "frames", "threads", "batch", "bodies")
    ranks = found.measurement.ranks is not None and row.ranks > 1
    return (
        *(part not in other for part in parts),
        ranks,
        not found.measurement.machine.was_busy,
        found.measurement.date,
        str(found.path),
    )


def _converted(row: Row, found: Found, config: JobSpec, work: Work, data: Data) -> tuple[Times, Kind]:
    m = found.measurement
    other = _differences(found, row, config, work, data)
    factor = work.flops / work_of(m.tables, m.frames).flops
    if m.memory_bytes and row.device == "cuda" and not other:
        row.memory_bytes = Figure(m.memory_bytes, Kind.MEASURED, str(found.path))
    busy = "; others used it then, so it is too slow" if m.machine.was_busy else ""
    if not other:
        row.source = f"measured: {found} ({found.path}){busy}"
    else:
        times = f" (x{factor:.3g} time)" if {"model", "joints", "frames"} & other.keys() else ""
        row.source = f"scaled from {found} ({found.path}): {', '.join(other.values())}{times}{busy}"
    kind = Kind.SCALED if other else Kind.MEASURED
    return Times(factor / m.training_rows, 0.0, factor / m.forward_rows, 0.0).faster(_gain(row, m)[0]), kind


def _judge_memory(row: Row, gpu: Gpu, work: Work, data: Data) -> None:
    """Whether the micro-batch fits, should each of its clips have two bodies where some have."""
    bodies = 2 if data.counts.train_bodies > 1 else 1
    needed = memory_bytes(work, bodies * row.micro_batch, row.precision)
    row.memory_bytes = Figure(needed, Kind.ESTIMATED, "what the network keeps for its backward pass")
    most = most_rows(gpu, work, row.precision) // bodies
    row.fits = row.micro_batch <= most
    if not row.fits:
        way = f"hardware.micro_batch of at most {most} would fit" if most >= 2 else "no micro-batch would fit"
        takes = f"training would take about {needed / 1e9:,.0f} GB of its {gpu.memory_gb:g} GB"
        row.warnings.append(f"{row.name}: {takes}; {way} (estimated)")


def _assumptions(rows: list[Row]) -> list[str]:
    lines = []
    if any(row.seconds_per_epoch and row.seconds_per_epoch.kind is Kind.ESTIMATED for row in rows):
        lines.append(f"estimates assume {assumptions()}, and that batches are made as fast as they are used")
    if any(row.sessions for row in rows):
        lines.append(
            f"the total counts {START_SECONDS} s for each session's start ({LOCAL_START_SECONDS} s on local) and "
            f"{RESUME_SECONDS} s more for each resume (assumed)"
        )
    return lines
