"""What ``lastrun plan`` says: from measurements, from data sheets, from prices, and from nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from last_e.bench.plain import PlainLastE
from last_e.config import VARIANTS, number_format
from last_e.counts import OFFICIAL, WITHOUT_FILE
from last_e.data.datasets import load_clips
from last_e.data.files import read_irds
from last_e.data.splits import parts_of, train_mask
from last_e.data.synthetic import synthetic_clips
from last_e.model import build_model, fused
from last_e.precision import amp_format
from last_e.prepare.synth import synthesize
from last_e.problems import ConfigError
from last_e.set_up import TEST_BATCH
from runner.draft import draft
from runner.errors import UsageError
from runner.plan import measurements, planner
from runner.plan.clips import data_of
from runner.plan.figures import Figure, Kind, Plan, Row
from runner.plan.hardware import asked_gpu, gpus, known_gpu
from runner.plan.measurements import Machine, Measurement, find, this_machine
from runner.plan.planner import LOCAL_START_SECONDS, RESUME_SECONDS, START_SECONDS, make_plan, session_count
from runner.plan.prices import load_prices, price_of, user_prices_path
from runner.plan.sweep import estimate, together
from runner.plan.work import packaged_model, work_of
from runner.resolve import resolve_points, resolve_spec
from runner.view.draft import print_draft
from runner.view.plan import duration, money, print_plan, sweep_text
from tests.conftest import Cli

ROOT = Path(__file__).parents[2]
BASE = ROOT / "jobs" / "base_ntu60_kaggle.yaml"
QUICK = ROOT / "jobs" / "quickstart.yaml"
HERE = Machine(device="cpu", name="Some CPU, 4 cores", cores=4)
T4 = {"device": "cuda", "name": "Tesla T4", "cores": 2}

Keep = Callable[..., Path]


def bench(**changes: Any) -> dict[str, Any]:
    """A measurement as ``lastrun bench`` writes it."""
    return {
        "format": "lastrun-bench-1",
        "date": "2026-11-23",
        "machine": {"device": "cpu", "name": "Some CPU, 4 cores", "cores": 4},
        "versions": {"lastrun": "0.1.0", "torch": "2.9.0", "python": "3.11.2"},
        "model": "nano_e_v3",
        "frames": 64,
        "batch_size": 16,
        "micro_batch": 16,
        "precision": "float32",
        "rows_per_clip": 1.0,
        "train": {"clips_per_second": {"lastrun": 100.0, "plain": 50.0}},
        "forward": {"clips_per_second": {"lastrun": 400.0}},
        "data": {"anything": "else"},
        **changes,
    }


@pytest.fixture(autouse=True)
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is measured, nothing is set, and this machine is one that nobody knows."""
    for name in ("HOME", "XDG_DATA_HOME", "XDG_CONFIG_HOME"):
        monkeypatch.setenv(name, str(tmp_path / name))
    monkeypatch.setattr(measurements, "SHIPPED", tmp_path / "none")
    monkeypatch.setattr(planner, "this_machine", lambda: HERE)


@pytest.fixture
def keep() -> Keep:
    """Keeps a measurement where the user's are."""

    def write(name: str = "one.json", **changes: Any) -> Path:
        path = measurements.user_folder() / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(bench(**changes)))
        return path

    return write


def row_of(plan: Plan, name: str) -> Row:
    return next(row for row in plan.rows if name in (row.name, row.profile))


def value(figure: Figure | None, kind: Kind | None = None) -> float:
    assert figure is not None
    assert kind is None or figure.kind is kind, figure
    return figure.value


# --- the arithmetic ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seconds", "count"),
    [(0, 1), (880, 1), (880.001, 2), (1700, 2), (1700.001, 3), (880 + 820 * 10, 11), (880 + 820 * 10 + 1, 12)],
)
def test_sessions_are_full_before_another_begins(seconds: float, count: int) -> None:
    # 2,000 s with a margin of 1,000: 880 s to train in the first session, 820 in each that resumes
    assert (START_SECONDS, RESUME_SECONDS) == (120, 60)
    assert session_count(seconds, 2000, 1000) == count


def test_without_a_limit_there_is_one_session_and_one_without_time_is_none() -> None:
    assert session_count(1e9, None, 600) == 1
    assert session_count(61, 1300, 1120) is None  # 60 s in the first session, none in the others
    assert session_count(60, 1300, 1120) == 1
    assert session_count(1, 601, 600) is None


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_work_is_what_torch_counts(variant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fused, "LARGE", 1 << 60)  # as on a GPU; the compiled loops of a CPU keep less
    model, streams = build_model(variant), {name: torch.randn(2, 3, 64, 25) for name in ("joint", "velocity", "bone")}
    work = work_of(packaged_model(variant), 64)
    plain = PlainLastE(model.config, 60)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        plain.eval()(streams)
    assert work.flops == pytest.approx(counter.get_total_flops() / 2, rel=0.01)
    sizes: dict[int, tuple[int, torch.Tensor]] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        sizes[storage.data_ptr()] = storage.nbytes(), tensor  # kept alive, so that no address is used twice
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        result = model.train()(streams)
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    assert result is not None
    assert work.kept * 4 == pytest.approx(sum(size for at, (size, _) in sizes.items() if at not in own) / 2, rel=0.04)


def test_work_is_linear_in_frames() -> None:
    model = packaged_model("base_e_v3")
    assert work_of(model, 128).flops == pytest.approx(2 * work_of(model, 64).flops)


def test_the_counts_are_those_of_the_data() -> None:
    for name, clips in (("irds", read_irds()), ("synthetic", synthetic_clips())):
        mask, counts = train_mask(clips, name, "xsub"), WITHOUT_FILE[name, "xsub"]
        assert counts[:2] == (int(mask.sum()), int((~mask).sum()))
        assert list(counts[2:]) == pytest.approx([float(clips.bodies[part].double().mean()) for part in (mask, ~mask)])


def test_clips_that_validate_are_counted_where_they_are_scored() -> None:
    found = data_of([resolve_spec(QUICK, "local", ["data.validation=0.25", "data.validation_by=clip"]).config])
    assert found.counts[:2] == (645, 213)
    assert "645 clips to train and 213 to validate, out of those that would train" in found.source


@pytest.mark.parametrize(
    "settings",
    [
        "dataset=irds data.train_clips=2",
        "dataset=irds data.train_subjects=3 data.train_seed=1",
        "dataset=irds data.train_position=seated data.train_clips=3 data.validation=0.3",
        "dataset=synthetic data.num_classes=5 data.train_clips=4 data.train_subjects=2",
        "dataset=ntu60 data.train_clips=1",
        "dataset=ntu60 data.train_subjects=2",
    ],
)
def test_the_clips_that_are_planned_for_are_those_that_train(tmp_path: Path, settings: str) -> None:
    words = settings.split()
    if "ntu60" in settings:
        synthesize("ntu60", tmp_path / "made.safetensors", clips=600)
        words.append(f"data.uri={tmp_path / 'made.safetensors'}")
    config = resolve_spec(QUICK, "local", words).config
    clips = load_clips(config)
    parts = parts_of(clips, config)
    scored, bodies = parts.test if parts.validation is None else parts.validation, clips.bodies.numpy()
    found = data_of([config])
    assert found.counts == (parts.train.sum(), scored.sum(), bodies[parts.train].mean(), bodies[scored].mean())
    told = [word.replace("=", ": ") for word in words if word.startswith("data.train_") and "seed" not in word]
    assert all(one in found.source for one in told)


def test_fewer_clips_take_less_time_and_a_step_takes_no_more_than_train() -> None:
    few, all_ = (make_plan(QUICK, "gcp", ["training.batch_size=6", *more]) for more in (["data.train_clips=2"], []))
    assert (few.steps_per_epoch, all_.steps_per_epoch) == (3, 143)
    assert value(few.rows[0].seconds_per_epoch) < value(all_.rows[0].seconds_per_epoch)
    with pytest.raises(ConfigError, match=r"training\.batch_size: found 32 clips a step; allowed: at most 18 clips"):
        make_plan(QUICK, "gcp", ["training.batch_size=32", "data.train_clips=2"])
    with pytest.raises(UsageError, match=r"irds: data\.train_subjects: found 9; allowed: at most 8, all that would train"):
        make_plan(QUICK, "gcp", ["data.train_subjects=9"])


def test_how_many_of_a_file_that_is_not_at_hand_train_is_not_guessed(tmp_path: Path) -> None:
    told = r"ntu60: how many clips of it train with data\.train_clips: 2 only its file tells; name a copy with --set data\.uri"
    with pytest.raises(UsageError, match=told):
        make_plan(BASE, "gcp", ["data.train_clips=2"])
    (tmp_path / "sweep.yaml").write_text(
        "model: nano\ndataset: ntu60\ndata: {train_clips: 2}\nsweep: {grid: {training.lr: [0.1, 0.2]}}\n"
    )
    jobs = [point.job for point in resolve_points(tmp_path / "sweep.yaml", "gcp", []).points]
    assert (estimate(jobs, 1).seconds, estimate(jobs, 1).unknown) == (None, 2)  # it may be there, where they run


def test_seeds_that_draw_other_people_have_other_times(tmp_path: Path, keep: Keep) -> None:
    keep()
    (tmp_path / "sweep.yaml").write_text(
        "model: nano\ndataset: irds\ntraining: {batch_size: 4}\ndata: {train_subjects: 1}\n"
        "sweep: {grid: {training.seed: [0, 1, 2, 3]}}\n"
    )
    jobs = [point.job for point in resolve_points(tmp_path / "sweep.yaml", "local", []).points]
    each = [value(estimate([job], 1).seconds) for job in jobs]
    assert len(set(each)) > 1
    assert value(estimate(jobs, 1).seconds) == pytest.approx(sum(each))


def test_a_job_of_more_people_than_there_are_is_no_job(cli: Cli) -> None:
    done = cli("validate", QUICK, "--set", "data.train_subjects=9")
    assert (done.returncode, done.stderr.count("data.train_subjects: found 9; allowed: at most 8")) == (2, 1), done.stderr


@pytest.mark.parametrize("wanted", ["auto", "bf16", "fp16", "fp32"])
@pytest.mark.parametrize("capability", [(6, 0), (7, 5), (8, 0), (8, 9), (9, 0)])
def test_the_format_is_the_one_that_the_trainer_chooses(wanted: str, capability: tuple[int, int]) -> None:
    config = resolve_spec(BASE, "local", [f"hardware.precision={wanted}"]).config
    if wanted == "fp32":
        assert number_format(config, capability) == "float32"
    else:
        dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}[number_format(config, capability)]
        assert dtype is amp_format(wanted, capability, "GPU").dtype
    assert number_format(config, None) == "float32"
    assert number_format(resolve_spec(BASE, "local", ["training.use_amp=false"]).config, capability) == "float32"


def test_the_test_batch_is_the_trainers() -> None:
    assert planner.TEST_BATCH == TEST_BATCH


# --- measured ------------------------------------------------------------------------------------------------------------


def test_a_measurement_of_this_work_on_this_machine_is_multiplied_out(keep: Keep) -> None:
    path = keep()
    row = row_of(make_plan(QUICK, "local", []), "local")
    epoch = 53 * 16 / 100 + 548 / 400
    assert value(row.seconds_per_epoch, Kind.MEASURED) == pytest.approx(epoch)
    assert value(row.training_seconds, Kind.MEASURED) == pytest.approx(5 * epoch)
    assert value(row.total_seconds, Kind.ESTIMATED) == pytest.approx(5 * epoch + LOCAL_START_SECONDS)  # much of it is assumed
    row = row_of(make_plan(QUICK, "local", ["training.epochs=50"]), "local")
    assert value(row.total_seconds, Kind.MEASURED) == pytest.approx(50 * epoch + LOCAL_START_SECONDS)
    assert value(row.sessions, Kind.MEASURED) == 1
    assert (row.precision, row.micro_batch, row.cost) == ("float32", 16, None)
    assert all(word in row.source for word in ("measured: nano_e_v3", "2026-11-23", "Some CPU, 4 cores", str(path)))


def test_of_a_sweep_all_points_are_added_up_and_the_table_is_of_the_first(
    keep: Keep, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    keep()
    spec = tmp_path / "sweep.yaml"
    spec.write_text(QUICK.read_text() + "sweep: {grid: {training.epochs: [50, 100]}, seeds: 2}\n")
    found = together(spec, "local", [])
    epoch = 53 * 16 / 100 + 548 / 400
    assert [(one.count, one.unknown, one.where) for one in found] == [(4, 0, "local CPU")]
    assert value(found[0].seconds) == pytest.approx(2 * (50 + 100) * epoch + 4 * LOCAL_START_SECONDS)
    print_plan(make_plan(spec, "local", []), found)
    out = capsys.readouterr().out
    assert "this is the first: training.epochs=50, training.seed=42" in out
    assert "all 4 points, one after the other, on local CPU: 49.9 min, cost -" in out
    assert [one.where.split()[0] for one in together(spec, None, [])] == ["local", "kaggle", "gcp", "lambda", "a100"]
    assert together(QUICK, "local", []) == []


def test_a_machine_that_is_busy_is_told_beside_what_it_takes(
    keep: Keep, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    keep()
    spec = tmp_path / "sweep.yaml"
    spec.write_text(QUICK.read_text() + "sweep: {seeds: 2}\n")
    told = "busy (load 99, 64 cores)"
    monkeypatch.setattr(os, "cpu_count", lambda: 64)  # the load is that of all, however few this process may use
    for load, there in ((99.0, True), (10.0, False)):
        monkeypatch.setattr(os, "getloadavg", lambda load=load: (load, 0.0, 0.0))
        made = make_plan(QUICK, None, [])
        print_plan(made)
        text = capsys.readouterr().out
        assert (f"local CPU: this machine is {told}: while it is, all takes longer" in text) is there
        assert text.count("all takes longer") == int(there), "it says nothing of the others"
        assert [row.busy for row in made.rows if row.busy] == [told] * there
        (both,) = together(spec, "local", [])
        assert sweep_text(both).endswith(f"; this machine is {told}: while it is, all takes longer") is there
        print_plan(make_plan(spec, "local", []), [both])
        assert capsys.readouterr().out.count("all takes longer") == int(there), "not of each of the sums it is part of"
        print_draft(draft(tmp_path / f"{load}.yaml", data="synthetic", model="nano", epochs="3", name=None, force=False))
        assert ("while it is, all takes longer" in capsys.readouterr().out) is there


def test_an_epoch_that_was_measured_comes_before_bare_steps(keep: Keep) -> None:
    keep(epoch={"clips_per_second": {"lastrun": 50.0}})
    row = row_of(make_plan(QUICK, "local", []), "local")
    assert value(row.seconds_per_epoch) == pytest.approx(53 * 16 / 50 + 548 / 400)


@pytest.mark.parametrize(
    ("settings", "factor", "words"),
    [
        (["model.variant=base_e_v3"], 813.19 / 115.12, "for the arithmetic of base_e_v3"),
        (["training.input_frames=128"], 2.0, "for 128 frames (x2 time)"),
        (["hardware.micro_batch=8"], 1.0, "batches of 8 taken to be as fast"),
        (["model.channels=[32, 48, 128]"], None, "for the arithmetic of this job's model"),
    ],
)
def test_other_work_is_scaled_and_says_from_what(keep: Keep, settings: list[str], factor: float | None, words: str) -> None:
    keep()
    row = row_of(make_plan(QUICK, "local", settings), "local")
    seconds = value(row.seconds_per_epoch, Kind.SCALED)
    epoch = 53 * 16 / 100 + 548 / 400
    assert seconds > epoch if factor is None else seconds == pytest.approx(factor * epoch, rel=0.01)
    assert words in row.source
    assert row.source.startswith("scaled from nano_e_v3, 64 frames, batches of 16, float32, on Some CPU, 4 cores, 2026-11-23")


@pytest.mark.parametrize(
    ("settings", "gain", "micro_batch", "words"),
    [
        (["hardware.ranks=2"], 1.0, 8, "2 ranks taken to be as fast as one"),
        (["run.launcher=slurm", "run.nodes=2"], 2.0, 8, "2 ranks taken to be 2 times as fast as one"),
        (["hardware.ranks=3", "hardware.micro_batch=8"], 1.0, 8, "2 ranks taken to be as fast as one"),
        (["hardware.ranks=4"], 1.5, 4, "4 ranks 1.5 times as fast as one"),
    ],
)
def test_ranks_of_one_machine_share_it_unless_they_were_measured(
    keep: Keep, settings: list[str], gain: float, micro_batch: int, words: str
) -> None:
    keep(ranks={"micro_batch": 4, "micro_batches": 4, "by": {"1": {"of_one": 1.0}, "4": {"of_one": 1.5}}})
    row = row_of(make_plan(QUICK, "local", settings), "local")
    assert value(row.seconds_per_epoch, Kind.SCALED) == pytest.approx((53 * 16 / 100 + 548 / 400) / gain)
    assert words in row.source
    assert row.micro_batch == micro_batch


def test_a_session_of_kaggle_has_two_t4_or_one_p100() -> None:
    plan = make_plan(BASE, "kaggle", [])
    assert [(row_of(plan, name).ranks, row_of(plan, name).micro_batch) for name in ("kaggle T4", "kaggle P100")] == [
        (2, 16),
        (1, 32),
    ]


def test_a_second_gpu_is_taken_to_be_worth_one_and_is_paid_for() -> None:
    one, two = (row_of(make_plan(BASE, "gcp", ["run.launcher=local", f"run.gpus={number}"]), "gcp") for number in (1, 2))
    assert (one.ranks, two.ranks, two.micro_batch) == (1, 2, one.micro_batch // 2)
    assert 0.5 < value(two.seconds_per_epoch) / value(one.seconds_per_epoch) < 0.7, "smaller micro-batches cost more"
    assert "2 ranks taken to be 2 times as fast as one" in two.source
    assert value(two.cost) > value(one.cost)


@pytest.mark.parametrize("ranks", [None, 3, {"by": None}], ids=str)
def test_what_is_no_measurement_of_ranks_does_no_harm(keep: Keep, ranks: Any) -> None:
    keep(ranks=ranks)
    assert value(make_plan(QUICK, "local", []).rows[0].seconds_per_epoch, Kind.MEASURED) == pytest.approx(9.85)


def test_dropout_costs_nothing(keep: Keep) -> None:
    keep()
    row = row_of(make_plan(QUICK, "local", ["model.dropout=0.5", "training.lr=0.01"]), "local")
    assert value(row.seconds_per_epoch, Kind.MEASURED)


def test_what_is_no_speed_of_epochs_does_no_harm(keep: Keep) -> None:
    keep(epoch={"seconds": 3.0}, versions={})
    assert value(make_plan(QUICK, "local", []).rows[0].seconds_per_epoch, Kind.MEASURED) == pytest.approx(9.85)


def test_rates_are_of_bodies(keep: Keep) -> None:
    keep(rows_per_clip=1.25)
    row = row_of(make_plan(QUICK, "local", []), "local")
    assert value(row.seconds_per_epoch, Kind.SCALED) == pytest.approx((53 * 16 / 100 + 548 / 400) / 1.25)
    assert "for 1 bodies a clip, not 1.25" in row.source


def test_the_nearest_measurement_counts_and_of_equals_the_newest(keep: Keep) -> None:
    def measured() -> tuple[str, Kind]:
        row = row_of(make_plan(QUICK, "local", []), "local")
        assert row.seconds_per_epoch is not None
        return row.source.rpartition("/")[2].partition(")")[0].split(":")[0], row.seconds_per_epoch.kind

    keep("other-model.json", model="large_e_v3", date="2026-12-31")
    assert measured() == ("other-model.json", Kind.SCALED)
    keep("old.json", date="2026-01-01")
    keep("new.json", date="2026-02-01T10:00:00")
    keep("older.json", date="2025-02-01")
    assert measured() == ("new.json", Kind.MEASURED)
    # Others used the machine while the newest was made.
    busy = {**bench()["machine"], "load": bench()["machine"]["cores"] / 2 + 0.1}
    keep("busy.json", date="2026-03-01", machine=busy)
    assert measured() == ("new.json", Kind.MEASURED)
    for name in ("old.json", "new.json", "older.json"):
        (measurements.user_folder() / name).unlink()
    assert row_of(make_plan(QUICK, "local", []), "local").source.endswith("; others used it then, so it is too slow")


def test_a_network_whose_tables_were_set_is_not_taken_for_the_one_of_that_name(keep: Keep) -> None:
    tables = packaged_model("nano_e_v3")
    keep("usual.json", shape=tables.model_dump(mode="json"), date="2026-01-01")
    small = tables.model_copy(update={"channels": [8, 8, 8]})
    keep("small.json", shape=small.model_dump(mode="json"), date="2026-12-31")
    assert row_of(make_plan(QUICK, "local", []), "local").source.startswith("measured: ")
    (measurements.user_folder() / "usual.json").unlink()
    row = row_of(make_plan(QUICK, "local", []), "local")
    frames = 64
    factor = work_of(tables, frames).flops / work_of(small, frames).flops
    assert value(row.seconds_per_epoch, Kind.SCALED) == pytest.approx(factor * (53 * 16 / 100 + 548 / 400))
    assert "for the arithmetic of" in row.source


def test_other_threads_than_were_measured_are_told(keep: Keep) -> None:
    machine = {"device": "cpu", "name": "Some CPU, 4 cores", "cores": 4, "threads": 1}
    keep(machine=machine)
    row = row_of(make_plan(QUICK, "local", []), "local")
    assert value(row.seconds_per_epoch, Kind.SCALED)
    assert "4 threads taken to be as fast as 1" in row.source
    row = row_of(make_plan(QUICK, "local", ["hardware.cpu_threads=1"]), "local")
    assert value(row.seconds_per_epoch, Kind.MEASURED)


@pytest.mark.parametrize("change", [{"name": "Some CPU, 2 cores", "cores": 2}, {"name": "Other"}, {"device": "cuda"}])
def test_another_machine_says_nothing_of_this_one(keep: Keep, change: dict[str, Any]) -> None:
    keep(machine={"device": "cpu", "name": "Some CPU, 4 cores", "cores": 4, **change})
    row = row_of(make_plan(QUICK, "local", []), "local")
    assert (row.seconds_per_epoch, row.total_seconds, row.sessions, row.cost) == (None, None, None, None)
    assert row.source == "Some CPU, 4 cores: nothing is known of its speed; lastrun bench, run there, measures it"


def test_a_t4_that_was_measured_speaks_for_kaggle_and_gcp(keep: Keep) -> None:
    keep(machine=T4, model="base_e_v3", batch_size=32, micro_batch=32, precision="fp16", rows_per_clip=1 + 11 / 60)
    plan = make_plan(BASE, None, ["run.gpus=1"])
    train, test = OFFICIAL["ntu60", "xsub"]
    epoch = train // 32 * 32 / 100 + test / 400
    for name in ("kaggle T4", "gcp T4"):
        assert value(row_of(plan, name).seconds_per_epoch, Kind.MEASURED) == pytest.approx(epoch)
    assert value(row_of(plan, "kaggle T4").total_seconds, Kind.MEASURED) == pytest.approx(120 * epoch + 2 * START_SECONDS + 60)
    assert value(row_of(plan, "kaggle T4").sessions, Kind.MEASURED) == 2
    assert value(row_of(plan, "gcp T4").sessions) == 1
    assert value(row_of(plan, "gcp T4").cost, Kind.ESTIMATED) > 0  # the time is measured, the price is only remembered
    assert value(row_of(plan, "kaggle T4").cost, Kind.MEASURED) == 0
    assert value(row_of(plan, "kaggle P100").seconds_per_epoch, Kind.ESTIMATED) > 0


def test_a_gpu_that_no_table_has_is_known_by_its_measurement_alone(keep: Keep, monkeypatch: pytest.MonkeyPatch) -> None:
    here = Machine(device="cuda", name="NVIDIA GeForce RTX 9090", cores=8)
    monkeypatch.setattr(planner, "this_machine", lambda: here)
    row = row_of(make_plan(QUICK, "local", []), "local")
    assert (row.machine, row.precision, row.seconds_per_epoch) == ("RTX 9090", "bf16 or fp16", None)
    assert "NVIDIA GeForce RTX 9090: nothing is known" in row.source
    keep(machine=here.model_dump(), precision="bf16")
    row = row_of(make_plan(QUICK, "local", []), "local")
    assert (row.precision, row.memory_bytes, row.fits) == ("bf16", None, None)
    assert value(row.seconds_per_epoch, Kind.MEASURED)
    row = row_of(make_plan(QUICK, "local", ["hardware.device=cpu"]), "local")
    assert (row.machine, row.seconds_per_epoch) == ("CPU", None)


def test_a_job_that_needs_a_gpu_is_told_that_there_is_none() -> None:
    for setting in ("hardware.device=cuda", "run.gpus=1"):
        row = row_of(make_plan(QUICK, "local", [setting]), "local")
        assert (row.machine, row.source) == ("no GPU", "the job needs a GPU, and this machine has none of NVIDIA's")


def test_measured_memory_is_told(keep: Keep) -> None:
    keep(machine=T4, precision="fp16", memory_bytes=123_456_789)
    assert value(row_of(make_plan(QUICK, "gcp", []), "gcp").memory_bytes, Kind.MEASURED) == 123_456_789


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("", "not JSON"),
        ("{", "not JSON"),
        ("[1]", "not JSON"),
        ('{"format": "other"}', "format"),
        (json.dumps(bench(date="yesterday")), "date"),
        (json.dumps(bench(frames=0)), "frames"),
        (json.dumps(bench(train={"clips_per_second": {"plain": 1.0}})), "clips_per_second.lastrun"),
        (json.dumps(bench(train={"clips_per_second": {"lastrun": -1.0}})), "train.clips_per_second.lastrun"),
        (json.dumps(bench()).replace("100.0", "NaN"), "train.clips_per_second.lastrun"),
        (" " * 1_000_001, "1,000,000 bytes"),
    ],
)
def test_a_file_that_is_no_measurement_is_skipped_with_a_word(keep: Keep, text: str, word: str) -> None:
    keep("good.json").with_name("bad.json").write_text(text)
    keep("good.json").with_name("folder.json").mkdir()
    keep("good.json").with_name("notes.txt").write_text("mine")
    found, skipped = find()
    assert [one.path.name for one in found] == ["good.json"]
    assert ["bad.json: skipped" in skipped[0], word in skipped[0], "folder.json" in skipped[1], len(skipped)] == [True] * 3 + [
        2
    ]
    plan = make_plan(QUICK, "local", [])
    assert plan.notes == skipped
    assert value(plan.rows[0].seconds_per_epoch, Kind.MEASURED)


def test_this_machine_is_named_as_measurements_name_theirs() -> None:
    here = this_machine()
    assert here.device == "cuda" or here.name.endswith((f", {here.cores} cores", ", 1 core"))
    assert Measurement.model_validate(bench(machine=here.model_dump())).machine == here


# --- estimated -----------------------------------------------------------------------------------------------------------


def test_without_measurements_every_gpu_is_estimated_and_no_cpu_is() -> None:
    plan = make_plan(BASE, None, [])
    assert [row.name for row in plan.rows] == [
        "local CPU",
        "kaggle T4",
        "kaggle P100",
        "gcp T4",
        "lambda A10",
        "a100 A100 40GB",
    ]
    assert [row.precision for row in plan.rows] == ["float32", "fp16", "fp16", "fp16", "bf16", "bf16"]
    assert plan.rows[0].seconds_per_epoch is None
    for row in plan.rows[1:]:
        assert 1 < value(row.seconds_per_epoch, Kind.ESTIMATED) < 1000
        assert value(row.memory_bytes, Kind.ESTIMATED) < 4e9
        assert row.fits
        assert "data sheet" in row.source
        assert "nobody has measured one" in row.source
    order = [value(row_of(plan, name).seconds_per_epoch) for name in ("gcp T4", "kaggle T4", "a100")]
    assert order == sorted(order, reverse=True)
    assert not plan.clips["bodies_known"]
    assert "assumed are 1.18 bodies a clip" in plan.clips["source"]


def test_smaller_batches_cost_more_starts_of_kernels() -> None:
    one, many = (row_of(make_plan(BASE, "gcp", [f"hardware.micro_batch={n}"]), "gcp") for n in (32, 8))
    assert value(many.seconds_per_epoch) > value(one.seconds_per_epoch)
    assert (one.micro_batch, many.micro_batch) == (32, 8)


def test_a_batch_that_does_not_fit_is_told_with_one_that_does() -> None:
    row = row_of(make_plan(BASE, "kaggle", ["training.batch_size=1024"]), "kaggle T4")
    assert row.fits is False
    assert "of its 16 GB" in row.warnings[0]
    most = int(row.warnings[0].partition("at most ")[2].split()[0])
    row = row_of(make_plan(BASE, "kaggle", ["training.batch_size=1024", f"hardware.micro_batch={most}"]), "kaggle T4")
    assert row.fits is True
    assert row.micro_batch <= most


def test_a_session_too_short_to_train_in_is_told() -> None:
    row = row_of(make_plan(BASE, "kaggle", ["hardware.session_limit=12m"]), "kaggle T4")
    assert (row.sessions, row.total_seconds, row.cost) == (None, None, None)
    assert value(row.seconds_per_epoch)
    assert "leaves no time to train" in row.warnings[0]


@pytest.mark.parametrize(
    ("told", "name"),
    [
        ("Tesla T4", "T4"),
        ("Tesla P100-PCIE-16GB", "P100"),
        ("Tesla V100-SXM2-16GB", "V100"),
        ("NVIDIA L4", "L4"),
        ("NVIDIA A10", "A10"),
        ("NVIDIA A100-SXM4-40GB", "A100 40GB"),
        ("NVIDIA A100-SXM4-80GB", "A100 80GB"),
        ("NVIDIA A100 80GB PCIe", "A100 80GB"),
        ("NVIDIA H100 80GB HBM3", "H100 SXM"),
        ("NVIDIA H100 PCIe", "H100 PCIe"),
        ("NVIDIA H200", "H200"),
        ("NVIDIA L40S", None),
        ("NVIDIA A10G", None),
        ("NVIDIA GH200 480GB", None),
        ("NVIDIA T400 4GB", None),
    ],
)
def test_gpus_are_known_by_the_names_of_their_drivers(told: str, name: str | None) -> None:
    gpu = known_gpu(told)
    assert (gpu and gpu.name) == name


def test_a_gpu_may_be_asked_for() -> None:
    assert [asked_gpu(name).name for name in ("l4", "A10", "a100 40gb", "A100 8", "h200")] == [
        "L4",
        "A10",
        "A100 40GB",
        "A100 80GB",
        "H200",
    ]
    plan = make_plan(BASE, None, [], "L4")
    assert [row.name for row in plan.rows if row.profile in ("gcp", "lambda")] == ["gcp L4", "lambda A10"]
    assert [row.name for row in make_plan(BASE, "lambda", [], "H100 PCIe").rows] == ["lambda H100 PCIe"]
    for name, allowed in (("A100", "allowed: one of A100 80GB, A100 40GB"), ("T5", "T4, P100, V100"), ("", "H200")):
        with pytest.raises(UsageError, match=allowed):
            make_plan(BASE, "gcp", [], name)


# --- clips ---------------------------------------------------------------------------------------------------------------


def test_a_prepared_file_at_hand_is_counted(tmp_path: Path) -> None:
    file = tmp_path / "made.safetensors"
    synthesize("ntu60", file, clips=600)
    plan = make_plan(BASE, "gcp", [f"data.uri={file}"])
    assert plan.clips["bodies_known"]
    assert plan.clips["train"] + plan.clips["test"] == 600
    assert 1 < plan.clips["train_bodies"] < 1.5
    assert str(file) in plan.clips["source"]
    assert plan.steps_per_epoch == plan.clips["train"] // 32


def test_a_damaged_file_is_told_and_the_official_numbers_count(tmp_path: Path) -> None:
    file = tmp_path / "made.safetensors"
    file.write_bytes(b"no")
    plan = make_plan(BASE, None, [f"data.uri={file}"])
    assert (plan.clips["train"], plan.clips["bodies_known"]) == (40_091, False)
    assert len(plan.notes) == 1
    assert str(file) in plan.notes[0]


def test_more_clips_a_step_than_there_are_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"training\.batch_size: found 2000 clips a step; allowed: at most 858 clips"):
        make_plan(QUICK, None, ["training.batch_size=1000", "training.gradient_accumulation_steps=2"])


@pytest.mark.parametrize(
    ("kind", "word"), [("device", "found no regular file"), ("pipe", "found no regular file"), ("huge", "bytes, more than")]
)
def test_prices_come_from_a_file_that_has_an_end(tmp_path: Path, kind: str, word: str) -> None:
    file = Path("/dev/zero") if kind == "device" else tmp_path / "prices.toml"
    if kind == "pipe":
        os.mkfifo(file)
    elif kind == "huge":
        with file.open("wb") as opened:
            opened.truncate(1 << 40)
    with pytest.raises(ConfigError, match=word):
        load_prices(file)


# --- prices --------------------------------------------------------------------------------------------------------------


def test_every_profile_that_is_rented_has_a_price_with_date_and_source() -> None:
    prices = load_prices()
    for profile, names in planner.PROFILE_GPUS.items():
        for name in names:
            price = price_of(prices, profile, name, "per_hour")
            assert price is not None
            assert price.as_of
            assert len(price.source) > 10
            assert not price.own
    assert price_of(prices, "local", None, "per_hour") is None


def test_the_user_overrides_a_part_and_a_file_on_the_command_line_overrides_that(tmp_path: Path) -> None:
    own = user_prices_path()
    own.parent.mkdir(parents=True)
    own.write_text('[gcp.T4]\nper_hour = 1\n[lambda.A10]\nper_hour = 2.5\nas_of = 2026-11-23\nsource = "our contract"\n')
    rows = {row.name: row for row in make_plan(BASE, None, []).rows}
    assert str(rows["gcp T4"].price) == f"1 USD an hour, no date given ({own})"
    assert rows["gcp T4"].spot_price is not None
    assert not rows["gcp T4"].spot_price.own
    assert str(rows["lambda A10"].price) == "2.5 USD an hour, as of 2026-11-23 (our contract)"
    total = value(rows["gcp T4"].total_seconds)
    assert value(rows["gcp T4"].cost, Kind.ESTIMATED) == pytest.approx(total / 3600)
    file = tmp_path / "prices.toml"
    file.write_text('currency = "USD"\n[gcp.any]\nper_hour = 7\n[local.any]\nper_hour = 0.05\n')
    rows = {row.name: row for row in make_plan(BASE, None, [], prices=file).rows}
    assert str(rows["gcp T4"].price).startswith("1 USD")  # the user's, of this GPU
    assert str(rows["local CPU"].price).startswith("0.05 USD")
    rows = {row.name: row for row in make_plan(BASE, "gcp", [], "V100", prices=file).rows}
    assert str(rows["gcp V100"].price).startswith("7 USD")  # not the package's


def test_a_users_price_keeps_a_measured_time_measured(keep: Keep, tmp_path: Path) -> None:
    keep()
    file = tmp_path / "prices.toml"
    file.write_text("[local.any]\nper_hour = 3.6\n")
    row = row_of(make_plan(QUICK, "local", ["training.epochs=500"], prices=file), "local")
    assert value(row.cost, Kind.MEASURED) == pytest.approx(value(row.total_seconds) / 1000)


def test_all_that_is_wrong_with_prices_is_told_at_once(tmp_path: Path) -> None:
    own, file = user_prices_path(), tmp_path / "prices.toml"
    own.parent.mkdir(parents=True)
    own.write_text('[kagle.T4]\nper_hour = 0\n[gcp]\nT4 = 3\nlambda = "x"\n')
    file.write_text(
        'currency = "EUR"\na100 = 3\n[gcp.T5]\n[gcp.T4]\nper_hour = -1\nspot_per_hour = "a"\n'
        'as_of = "May"\nsource = ""\nper_our = 1\n'
    )
    with pytest.raises(ConfigError) as caught:
        make_plan(BASE, None, [], prices=file)
    told = [str(problem) for problem in caught.value.problems]
    assert told == [
        f"{own}: gcp.T4: found 3; allowed: keys per_hour, spot_per_hour, as_of, source",
        f"{own}: gcp.lambda: found an unknown GPU; allowed: one of {', '.join(gpus())}, any",
        f"{own}: kagle: found an unknown profile; allowed: known keys only; did you mean kaggle?",
        f"{file}: a100: found 3; allowed: tables such as [a100.any]",
        f"{file}: currency: found 'EUR'; allowed: USD",
        f"{file}: gcp.T4.as_of: found 'May'; allowed: a date such as 2026-11-23, 2026-11 or 2026",
        f"{file}: gcp.T4.per_hour: found -1; allowed: a number of USD, at least 0",
        f"{file}: gcp.T4.per_our: found an unknown key (= 1); allowed: known keys only; did you mean per_hour?",
        f"{file}: gcp.T4.source: found ''; allowed: text of 1 to 300 characters",
        f"{file}: gcp.T4.spot_per_hour: found 'a'; allowed: a number of USD, at least 0",
        f"{file}: gcp.T5: found an unknown GPU; allowed: one of {', '.join(gpus())}, any",
    ]
    for content, word in ((b"[a", "valid TOML"), (b"\xff", "UTF-8")):
        own.unlink(missing_ok=True)
        file.write_bytes(content)
        with pytest.raises(ConfigError, match=word):
            load_prices(file)
    with pytest.raises(ConfigError, match="No such file"):
        load_prices(tmp_path / "none.toml")


# --- what is shown -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seconds", "texts"),
    [
        (0.5, ("0.500 s", "~0.50 s", "~0.50 s?")),
        (95.44, ("95.4 s", "~95 s", "~95 s?")),
        (119.96, ("2.00 min", "~2.0 min", "~2.0 min?")),
        (2100, ("35.0 min", "~35 min", "~35 min?")),
        (7199.9, ("2.00 h", "~2.0 h", "~2.0 h?")),
        (123_456, ("34.3 h", "~34 h", "~34 h?")),
        (12_345_678, ("3,430 h", "~3,400 h", "~3,400 h?")),
    ],
)
def test_times_are_rounded_to_what_is_known(seconds: float, texts: tuple[str, ...]) -> None:
    assert tuple(duration(Figure(seconds, kind, "")) for kind in Kind) == texts


def test_what_is_not_known_is_a_dash() -> None:
    assert (duration(None), money(None), money(Figure(0.0, Kind.ESTIMATED, ""))) == ("-", "-", "free")
    assert [money(Figure(12.345, kind, "")) for kind in Kind] == ["$12.3", "~$12", "~$12?"]


def test_the_command_shows_a_table_and_what_it_rests_on(cli: Cli, tmp_path: Path) -> None:
    folder = tmp_path / ".local/share/lastrun/benchmarks"
    folder.mkdir(parents=True)
    measured = {"machine": T4, "model": "base_e_v3", "batch_size": 32, "micro_batch": 32, "precision": "fp16"}
    (folder / "t4.json").write_text(json.dumps(bench(**measured, date="2099-01-01", rows_per_clip=1 + 11 / 60)))
    (folder / "bad.json").write_text("{}")
    done = cli("plan", BASE, "--set", "run.gpus=1")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    rows = {" ".join(line.split()[:2]): line for line in lines}
    assert lines[0] == "base_e_v3 on ntu60 xsub, 120 epochs of 1,252 steps"
    assert rows["kaggle T4"].split()[2:] == ["32", "fp16", "7.36", "min", "14.8", "h", "2", "free"]
    assert rows["lambda A10"].split()[2:4] == ["32", "bf16"]
    assert "~" in rows["lambda A10"]
    assert max(len(line.rstrip()) for line in lines[1 : 3 + 6]) <= 80
    text = done.stdout
    assert all(
        word in text for word in ("no mark: measured", "t4.json", "bad.json: skipped", "as of 2025", "kaggle: a session")
    )
    assert "kaggle T4, gcp T4: measured: base_e_v3, 64 frames" in text


def test_the_command_on_a_narrow_terminal_folds_nothing_at_80_columns(cli: Cli) -> None:
    done = cli("plan", BASE, FORCE_COLOR="1", COLUMNS="80", TERM="xterm")
    assert done.returncode == 0
    assert any("A100 40GB" in line and "bf16" in line and "~" in line for line in done.stdout.splitlines())


def test_as_json_every_figure_has_its_kind_and_source(cli: Cli) -> None:
    done = cli("plan", BASE, "--env", "gcp", "--gpu", "L4", "--set", "training.epochs=10", "training.seed=7", "--json")
    facts = json.loads(done.stdout)
    assert (facts["lastrun"], facts["version"], facts["epochs"], facts["currency"]) == ("plan", 1, 10, "USD")
    (row,) = facts["rows"]
    assert (row["profile"], row["gpu"], row["precision"], row["fits"]) == ("gcp", "L4", "bf16", True)
    for key in ("seconds_per_epoch", "training_seconds", "total_seconds", "sessions", "cost", "spot_cost", "memory_bytes"):
        assert row[key]["kind"] == "estimated"
        assert row[key]["source"]
        assert row[key]["value"] > 0
    assert row["price"]["as_of"]


@pytest.mark.parametrize("at_hand", [False, True])
def test_the_command_never_imports_torch(tmp_path: Path, at_hand: bool) -> None:
    file = tmp_path / "made.safetensors"
    if at_hand:
        synthesize("ntu60", file, clips=300)
    code = (
        "import sys; from runner.commands.app import main\n"
        "try: main()\n"
        "except SystemExit as e: assert not e.code, e.code\n"
        f"heavy = {{'torch', 'boto3', 'numba'{'' if at_hand else ', ' + repr('numpy')}}} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    command = [sys.executable, "-c", code, "plan", str(BASE), "--set", f"data.uri={file}"]
    done = subprocess.run(command, check=True, cwd=ROOT, capture_output=True, text=True)
    assert ("official" in done.stdout) is not at_hand


def test_the_profile_may_come_from_what_is_set_or_be_found() -> None:
    assert {row.profile for row in make_plan(BASE, None, ["env=lambda"]).rows} == {"lambda"}
    assert len({row.profile for row in make_plan(BASE, "auto", []).rows}) == 1


def test_data_in_a_bucket_are_not_fetched() -> None:
    plan = make_plan(BASE, "gcp", ["data.uri=s3://bucket/ntu60.safetensors"])
    assert (plan.clips["train"], plan.notes) == (40_091, [])


@pytest.mark.slow
def test_mistakes_end_in_lines_and_code_2(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "prices.toml").write_text("[gcp.T4]\nper_hour = -1\nas_of = 3\n")
    for words, count in (
        (["--prices", tmp_path / "prices.toml"], 2),
        (["--gpu", "T5"], 1),
        (["--env", "moon", "--set", "training.lr=fast"], 2),
        (["--prices", tmp_path], 1),
    ):
        done = cli("plan", BASE, *words)
        assert done.returncode == 2, done.stderr
        assert len(done.stderr.splitlines()) == count, done.stderr
        assert all(line.startswith("error: ") for line in done.stderr.splitlines())
        assert done.stdout == ""
