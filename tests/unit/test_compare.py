"""What compare says of jobs whose numbers are known."""

from __future__ import annotations

import json
import os
import statistics
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from runner.job.attempts import Attempt
from runner.job.cost import spent
from runner.job.group import Group
from runner.job.job import Job
from runner.store.directory import DirectoryStore
from runner.view.compare import compare, comparison_csv, print_comparison
from tests import groups
from tests.counting.store import CountingStore


def group_of(store: DirectoryStore, folder: Path, sweep: str) -> Group:
    group = groups.group_of(store, folder, sweep)
    group.complete()
    return group


def trained(
    group: Group, number: int, top1: list[float], state: str = "completed", hours: float = 1.0, about: Any = None
) -> None:
    job = group.jobs()[number - 1]
    one = Attempt("0001-aaaaaaaa", "elsewhere", 1, "1", 1000.0, phase="ended", began=True, reason=state)
    one.container = about
    one.env, one.ended_at, one.hardware = "gcp", 1000.0 + 3600 * hours, {"gpus": ["Tesla T4"]}
    job.attempts.write(one)
    line = {"lr": 0.1, "train_loss": 1.0, "test_loss": 1.0, "test_top5": 0.9}
    text = "".join(json.dumps({"epoch": n, "step": n, "test_top1": value, **line}) + "\n" for n, value in enumerate(top1, 1))
    job.store.put(job.paths.metrics(one.id), text.encode())


def test_one_seed_twice_has_no_spread(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = DirectoryStore(tmp_path / "store")
    groups_of_one = [group_of(store, tmp_path, "{points: [{}]}") for _ in range(2)]
    for group in groups_of_one:
        trained(group, 1, [0.5])
    facts = compare([group.jobs()[0] for group in groups_of_one])
    [row] = facts["rows"]
    assert (row["finished"], row["seeds"], row["last"], row["last_spread"]) == (2, 1, 0.5, None)
    print_comparison(facts)
    out = capsys.readouterr().out
    assert "2 (1 seed)" in out
    assert "standard deviation" not in out


def test_a_rented_machine_costs_what_its_attempt_was_told_from_when_it_is_paid_for(tmp_path: Path) -> None:
    group = group_of(DirectoryStore(tmp_path / "store"), tmp_path, "{seeds: 6}")
    told = [
        {"dollars": "2.5", "paid_since": "100.0"},  # a quarter of an hour before it began
        {"dollars": "2.5"},
        {"dollars": "nan"},
        {"dollars": "-1", "paid_since": "100.0"},
        {"dollars": "1", "paid_since": "-inf"},
        {"dollars": "a lot"},
    ]
    jobs = group.jobs()
    for number, about in enumerate(told, 1):
        trained(group, number, [0.5], about=about)
    assert [spent(job) for job in jobs] == [pytest.approx(3.125), pytest.approx(2.5), 0, 0, 0, 0]
    [row] = compare(jobs)["rows"]
    assert row["cost"] == pytest.approx(3.125 + 2.5 + 4 * 0.5)  # by the table where a record tells nothing that can be
    lost = replace(jobs[1].attempts.all()[0], id="0002-bbbbbbbb", phase="running", ended_at=None, reason=None)
    jobs[1].attempts.write(lost)
    beat = jobs[1].paths.heartbeat(lost.id)
    jobs[1].store.put(beat, json.dumps({"time": 1000.0 + 1800}).encode())
    os.utime(tmp_path / "store" / beat, (2800.0, 2800.0))
    assert spent(jobs[1]) == pytest.approx(2.5 + 1.25)
    jobs[1].attempts.write(replace(lost, phase="lost", ended_at=1000.0 + 20 * 3600))  # noticed the next day
    assert spent(Job(jobs[1].store, jobs[1].id)) == pytest.approx(2.5 + 1.25)


@pytest.fixture(autouse=True)
def own_place(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    (tmp_path / "config" / "lastrun").mkdir(parents=True)
    (tmp_path / "config" / "lastrun" / "prices.toml").write_text("[gcp.any]\nper_hour = 0.5\n")


def test_means_and_spreads_are_over_finished_seeds_and_the_best_comes_first(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = CountingStore(tmp_path / "store")
    group = group_of(store, tmp_path, "{grid: {training.lr: [0.1, 0.05, 0.01]}, seeds: 3}")
    for number, top1 in (
        (1, [0.2, 0.5, 0.4]),
        (2, [0.1, 0.2, 0.6]),
        (3, [0.3, 0.4, 0.5]),
        (4, [0.9, 0.8]),
        (5, [0.7, 0.7, 0.7]),
    ):
        trained(group, number, top1)
    trained(group, 6, [0.99], "preempted", hours=0.5)
    before = store.depth
    facts = compare(group.jobs())
    assert store.depth - before <= 9
    assert (facts["keys"], facts["seeds"], facts["jobs"]) == (["training.lr"], 3, 9)
    first, second, third = facts["rows"]
    assert [row["values"]["training.lr"] for row in facts["rows"]] == [0.05, 0.1, 0.01]
    assert second["finished"] == 3
    assert second["last"] == pytest.approx(0.5)
    assert second["best"] == pytest.approx((0.5 + 0.6 + 0.5) / 3)
    assert second["best_spread"] == pytest.approx(statistics.stdev([0.5, 0.6, 0.5]))
    assert (second["seconds"], second["cost"]) == (3 * 3600, 1.5)
    assert (first["finished"], first["best"], first["cost"]) == (2, pytest.approx(0.8), pytest.approx(1.25))
    assert first["best_spread"] == pytest.approx(statistics.stdev([0.9, 0.7]))
    assert [(one["state"], one["epoch"], one["best"]) for one in first["unfinished"]] == [("paused", 1, 0.99)]
    assert (third["finished"], third["best"], len(third["unfinished"])) == (0, None, 3)
    print_comparison(facts)
    shown = capsys.readouterr().out
    assert "53.33% ± 5.77" in shown
    assert "2 of 3" in shown
    assert "paused 1/9, best 99.00%" in shown
    assert "what is unfinished is in no mean" in shown
    assert f"of the first line: {', '.join(first['jobs'])}" in shown
    lines = comparison_csv(facts).splitlines()
    assert lines[0].startswith("training.lr,finished,seeds,last,")
    assert lines[1].startswith("0.05,2,")
    assert len(lines) == 4


def test_only_what_somebody_chose_is_a_difference(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    group = group_of(DirectoryStore(tmp_path / "store"), tmp_path, "{zip: {model: [nano, small], training.lr: [0.1, 0.00001]}}")
    facts = compare(group.jobs())
    assert facts["keys"] == ["model.variant", "training.lr"]  # no tables of a variant, no floor that comes down with the peak
    assert [row["cost"] for row in facts["rows"]] == [None, None]
    print_comparison(facts)
    shown = capsys.readouterr().out
    assert all(f" {job.id} " in shown for job in group.jobs()), "one can be named in the next command"
