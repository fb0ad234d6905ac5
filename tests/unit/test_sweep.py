"""What a job file says of a sweep: which points come of it, and what is told when it cannot be."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from last_e.problems import ConfigError
from runner.commands.app import main
from runner.halving import Halving
from runner.resolve import Points, resolve_points, resolve_spec

BASE = "model: nano\ndataset: synthetic\ntraining: {epochs: 9, warmup_epochs: 1}\n"
File = Callable[..., Points]


@pytest.fixture
def points(tmp_path: Path) -> File:
    def resolve(sweep: str, *settings: str, base: str = BASE) -> Points:
        (tmp_path / "job.yaml").write_text(f"{base}sweep: {sweep}\n")
        return resolve_points(tmp_path / "job.yaml", "local", settings)

    return resolve


@pytest.fixture
def problems(points: File, tmp_path: Path) -> Callable[..., list[str]]:
    def told(sweep: str, *settings: str, base: str = BASE) -> list[str]:
        with pytest.raises(ConfigError) as caught:
            points(sweep, *settings, base=base)
        return [str(problem).removeprefix(f"{tmp_path}/") for problem in caught.value.problems]

    return told


def test_a_grid_has_every_combination_and_each_point_is_resolved_whole(points: File) -> None:
    found = points("{grid: {training.lr: [0.1, 0.05], model: [nano, small_e_v3]}}")
    assert [point.values for point in found.points] == [
        {"training.lr": lr, "model.variant": model} for lr in (0.1, 0.05) for model in ("nano_e_v3", "small_e_v3")
    ]
    nano, small = (found.points[number].job.config for number in (0, 1))
    assert (nano.training.lr, nano.model.channels, small.model.channels) == (0.1, [32, 48, 64], [48, 64, 96])
    assert str(found.points[0].job.origins["training.lr"]).endswith("job.yaml:4")
    assert "sweep" not in repr(found.points[0].job.items())


def test_zip_takes_values_side_by_side(points: File) -> None:
    found = points("{zip: {training.lr: [0.1, 0.05], training: {weight_decay: [0.1, 0.2]}}}")
    assert [list(point.values.values()) for point in found.points] == [[0.1, 0.1], [0.05, 0.2]]


def test_points_may_differ_in_other_keys_each_and_may_be_the_job_as_it_is(points: File) -> None:
    found = points("{points: [{}, {training: {lr: 0.5}}, {training.dropout: 0.1}]}")
    assert [point.values for point in found.points] == [{}, {"training.lr": 0.5}, {"model.dropout": 0.1}]
    assert str(found.points[0]) == "the job as it is"


def test_seeds_count_on_from_the_seed_that_the_job_has(points: File) -> None:
    found = points("{grid: {training.lr: [0.1, 0.2]}, seeds: 3}", "training.seed=7")
    assert [(point.values["training.lr"], point.job.config.training.seed) for point in found.points] == [
        (lr, seed) for lr in (0.1, 0.2) for seed in (7, 8, 9)
    ]
    assert [point.values for point in points("{seeds: 2}").points] == [{"training.seed": 42}, {"training.seed": 43}]


def test_a_list_is_a_value_where_the_key_has_lists(points: File) -> None:
    found = points("{zip: {model.channels: [[8, 8], [16, 16]], model.strides: [[1, 2], [1, 1]]}}", "model.num_blocks=[1,1]",
                   "model.depths=[1,1]")  # fmt: skip
    assert [point.job.config.model.channels for point in found.points] == [[8, 8], [16, 16]]


def test_a_file_without_a_sweep_is_one_point_and_set_can_take_a_sweep_away(points: File, tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text(BASE)
    plain = resolve_points(tmp_path / "job.yaml", "local", [])
    without = points("{seeds: 3}", "sweep=null")
    assert [(found.is_sweep, len(found.points)) for found in (plain, without)] == [(False, 1)] * 2
    assert resolve_points(tmp_path / "job.yaml", "local", ["sweep.seeds=2"]).is_sweep


@pytest.mark.parametrize(
    ("of_file", "sets", "told"),
    [
        ("{points: [{training.lr: 1}, {}, {}]}", ["sweep.points=[{training.dropout: 0.1}]"], ["model.dropout=0.1"]),
        ("{points: [{training.lr: 1}, {}]}", ["sweep={points: [{training.lr: 2}]}"], ["training.lr=2.0"]),
        ("{points: [{}, {training.lr: 1}]}", ["sweep.grid.training.lr=[3]"], ["training.lr=3.0"]),
        ("{grid: {training.lr: [1]}}", ["sweep.points=[{training.dropout: 0.1}]"], ["model.dropout=0.1"]),
        ("{grid: {training.lr: [1], split_type: [x]}}", ["sweep.grid.split_type=[xsub]"],
            ["split_type=xsub, training.lr=1.0"]),
        ("{points: [{}, {training.lr: 1}], seeds: 2}", ["sweep.points=null"], ["training.seed=42", "training.seed=43"]),
        ("{points: [{training.lr: 1}]}", ["sweep=null", "sweep.seeds=2"], ["training.seed=42", "training.seed=43"]),
        ("{grid: {training.lr: [1]}}", ["sweep=null", "sweep.points=[{training.lr: 2}]"], ["training.lr=2.0"]),
    ],
)  # fmt: skip
def test_points_that_are_set_stand_in_place_of_the_files(points: File, of_file: str, sets: list[str], told: list[str]) -> None:
    """Not beside them, nor mixed with them by their numbers; of a grid single keys can be set."""
    found = points(of_file, *sets)
    said = [", ".join(f"{key}={value}" for key, value in sorted(point.values.items())) for point in found.points]
    assert said == told
    assert found.is_sweep


def test_all_mistakes_of_all_points_are_told_at_once_with_their_lines(problems: Callable[..., list[str]]) -> None:
    sweep = """
  grid:
    training.lr: [0.1, fast]
    training.epocs: [3]
    model: [nano, smal]
    name: [a]
    env: local
  seeds: '3'
  sed: 1"""
    assert problems(sweep, base=BASE.replace("}", ", momentum: 2}") + "split_type: xsub\n") == [
        "job.yaml:3: training.momentum: found 2; allowed: a number at least 0, < 1",
        "job.yaml:7: training.lr: found 'fast'; allowed: a number > 0, at most 100",
        "job.yaml:8: training.epocs: found an unknown key (= 3); allowed: known keys only; did you mean training.epochs?",
        "job.yaml:9: model.variant: found 'smal'; allowed: one of nano_e_v3, small_e_v3, base_e_v3, large_e_v3; "
        "did you mean small_e_v3?",
        "job.yaml:10: name: found a key that all points share; allowed: any other key: a group has one name",
        "job.yaml:11: sweep.grid.env: found 'local'; allowed: a list of values, such as ['local']",
        "job.yaml:12: sweep.seeds: found '3'; allowed: a whole number at least 1, at most 1000, without quotes",
        "job.yaml:13: sweep.sed: found an unknown key (= 1); allowed: known keys only; did you mean sweep.seeds?",
    ]


@pytest.mark.parametrize(
    ("sweep", "told"),
    [
        ("{grid: {}}", "sweep.grid: found {}; allowed: keys, each with a list of values"),
        ("{grid: {training.lr: []}}", "sweep.grid.training.lr: found []; allowed: a list of values"),
        ("{zip: {training.lr: [1, 2], training.seed: [1]}}", "sweep.zip.training.seed: found 1 values; allowed: 2, as"),
        ("{points: {training.lr: 1}}", "sweep.points: found the key training.lr; allowed: a list of mappings"),
        ("{points: [0.1]}", "sweep.points: found [0.1]; allowed: a list of mappings"),
        ("{points: [{}, {training.lr: 200}]}", "training.lr: found 200; allowed: a number > 0, at most 100"),
        ("{grid: {training.lr: [1]}, zip: {training.lr: [1]}}", "sweep: found grid and zip; allowed: one of grid, zip"),
        ("{seeds: 1}", "sweep: found no points; allowed: grid, zip, points, search, or seeds of more than 1"),
        ("{}", "sweep: found {}; allowed: a mapping with grid, zip, points or search, and seeds"),
        ("[1]", "sweep: found [1]; allowed: a mapping with grid, zip, points or search, and seeds"),
        ("{grid: {training.lr: [0.1, 0.2, 0.1]}}", "sweep: found points that are the same: 1 and 3 (training.lr=0.1)"),
        ("{grid: {training.seed: [1, 2]}, seeds: 2}", "points that are the same: 2 and 3 (training.seed=2)"),
        ("{grid: {model: [nano], model.variant: [small]}}", "model.variant: found model.variant twice; allowed: each key once"),
        (
            "{grid: {store.uri: [/a]}}",
            "store.uri: found a key that all points share; allowed: any other key: a group has one store",
        ),
        (
            "{points: [{}, {run.launcher: docker}]}",
            "run.launcher: found a key that all points share; allowed: any other key: all",
        ),
        ("{grid: {training.lr: [0.1], sweep.seeds: [1]}}", "sweep.seeds: found an unknown key"),
        (f"{{grid: {{training.seed: {list(range(501))}}}, seeds: 2}}", "sweep: found 1,002 points; allowed: at most 1,000"),
    ],
)
def test_what_is_no_sweep_is_told_with_what_is_allowed(problems: Callable[..., list[str]], sweep: str, told: str) -> None:
    found = problems(sweep)
    assert len(found) == 1, found
    assert told in found[0]
    assert found[0].startswith("job.yaml:4: ")


def test_a_flag_does_not_decide_in_silence_what_the_sweep_varies(problems: Callable[..., list[str]]) -> None:
    assert problems("{grid: {training.lr: [0.1, 0.2]}}", "training.lr=0.3") == [
        "--set: training.lr: found 0.3; allowed: a key that the sweep does not vary: leave it out here or there"
    ]


def test_a_secret_in_a_point_is_refused_and_not_shown(problems: Callable[..., list[str]]) -> None:
    key = "AKIA" + "ABCDEFGHIJKLMNOP"
    for sweep in (f"{{grid: {{data.uri: [{key}]}}}}", f"{{points: [{{data.uri: {key}}}]}}", f"{{points: [{key}]}}"):
        found = "\n".join(problems(sweep))
        assert "what seems to be an AWS or Google access key" in found
        assert key not in found


def test_a_word_that_is_nearly_sweep_is_asked_about(points: File, tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text(BASE + "sweeps: {seeds: 3}\n")
    with pytest.raises(ConfigError, match=r"4: sweeps.seeds: found an unknown key; .* did you mean sweep.seeds\?"):
        resolve_spec(tmp_path / "job.yaml", None, [])


def test_commands_that_look_at_a_file_say_that_it_is_a_sweep(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "job.yaml").write_text(BASE + "sweep: {grid: {training.lr: [0.1, 0.2]}}\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    for words, told in (
        (["validate", "--deep"], "is valid: a sweep of 2 points, the first with training.lr=0.1"),
        (["explain"], "is a sweep of 2 points; this is the first: training.lr=0.1"),
        (["plan"], "is a sweep of 2 points; this is the first: training.lr=0.1"),
    ):
        monkeypatch.setattr(sys, "argv", ["lastrun", words[0], str(tmp_path / "job.yaml"), *words[1:]])
        with pytest.raises(SystemExit):
            main()
        assert told in capsys.readouterr().out


SEARCH = (
    "{search: {training.lr: {low: 0.01, high: 0.3, log: true}, training.batch_size: {low: 16, high: 64, step: 16}, "
    "model: [nano, small_e_v3]}, trials: 20%s}"
)


def test_a_search_draws_points_from_ranges_and_lists(points: File) -> None:
    found = [point.values for point in points(SEARCH % "").points]
    assert len(found) == 20
    assert list(found[0]) == ["training.lr", "training.batch_size", "model.variant"]
    rates = sorted(values["training.lr"] for values in found)
    assert 0.01 <= rates[0] < rates[-1] <= 0.3
    assert rates[9] < 0.1  # half of them below the middle of the logarithms, about
    assert {values["training.batch_size"] for values in found} == {16, 32, 48, 64}
    assert {values["model.variant"] for values in found} == {"nano_e_v3", "small_e_v3"}
    assert all(len(str(rate)) <= len("0.01234") for rate in rates)


def test_what_is_drawn_follows_from_a_seed_alone(points: File) -> None:
    first, again, other = ([point.values for point in points(SEARCH % more).points] for more in ("", "", ", draw_seed: 1"))
    assert first == again != other
    assert [point.values for point in points(SEARCH % "", "sweep.trials=5").points] == first[:5]


def test_what_is_drawn_in_steps_is_as_a_person_would_write_it(points: File) -> None:
    found = points("{search: {training.lr: {low: 0.1, high: 0.9, step: 0.1}}, trials: 9}").points
    assert sorted(point.values["training.lr"] for point in found) == [n / 10 for n in range(1, 10)]


def test_a_small_space_is_drawn_empty_and_each_point_comes_once_for_each_seed(points: File) -> None:
    found = points("{search: {model: [nano, small_e_v3], training.label_smoothing: [0, 0.1]}, trials: 50, seeds: 2}").points
    assert len(found) == len({str(point.values) for point in found}) == 8


@pytest.mark.parametrize(
    ("sweep", "told"),
    [
        ("{search: {model: [nano, small_e_v3]}}", "sweep.trials: found nothing; allowed: how many points to draw, such as 20"),
        ("{search: {training.lr: {low: 0.1, high: 0.9, step: 0.3}}, trials: 2}", "allowed: a step that leads from 0.1 to 0.9"),
        ("{seeds: 2, trials: 3}", "sweep.trials: found 3; allowed: beside search only"),
        ("{search: {training.lr: 0.1}, trials: 2}", "allowed: a list of values, or a range such as {low: 0.01, high: 0.3"),
        ("{search: {training.lr: {low: 0.1, high: 0.01}}, trials: 2}", "allowed: low and high, low below high"),
        ("{search: {training.lr: {low: 0, high: 0.1, log: true}}, trials: 2}", "with log: true (low above 0)"),
        ("{search: {training.lr: {low: .nan, high: 0.1}}, trials: 2}", "allowed: low and high, low below high"),
        ("{search: {training.batch_size: {low: 2, high: 9, step: 0.5}}, trials: 2}", "allowed: whole numbers, as the key has"),
        ("{search: {training.label_smoothing: {low: 0, high: 2}}, trials: 2}", "training.label_smoothing: found 2"),
        (
            "{search: {training.lr: [0.1]}, grid: {training.lr: [0.2]}, trials: 2}",
            "allowed: one of grid, zip, points and search",
        ),
        ("{search: {run.gpus: [0, 1]}, trials: 2}", "run.gpus: found a key that all points share"),
        ("{search: {training.lr: {low: 0.1, high: 0.2}}, trials: 501, seeds: 2}", "found 1,002 points"),
    ],
)
def test_a_search_that_makes_no_sense_is_told_with_what_is_allowed(
    problems: Callable[..., list[str]], sweep: str, told: str
) -> None:
    found = problems(sweep)
    assert len(found) == 1, found
    assert told in found[0]


def test_a_search_without_optuna_names_what_to_install(
    problems: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runner.search.find_spec", lambda name: None)
    assert (
        "optuna is not installed; from a clone of lastrun: pip install '.[search]'; allowed: grid" in problems(SEARCH % "")[0]
    )


def test_weak_points_are_left_early_if_it_is_said_from_when_on(points: File, problems: Callable[..., list[str]]) -> None:
    assert points("{seeds: 4}").halving is None
    assert points("{seeds: 4, halving: {first: 2}}").halving == Halving(2, 3)
    assert points("{seeds: 4}", "sweep.halving.first=1", "sweep.halving.factor=2").halving == Halving(1, 2)
    assert points("{seeds: 4, halving: {first: 2}}", "sweep.halving.first=null").halving is None
    assert "sweep.trials: found nothing" in problems(SEARCH % "", "sweep.trials=null")[0]
    for sweep, told in (
        ("{seeds: 4, halving: {first: 9}}", "sweep.halving.first: found 9; allowed: fewer than training.epochs, which is 9"),
        ("{seeds: 4, halving: {factor: 2}}", "sweep.halving.factor: found 2; allowed: beside halving.first"),
        ("{seeds: 4, halving: {first: 2, factor: 1}}", "sweep.halving.factor: found 1; allowed: a whole number at least 2"),
        ("{seeds: 4, halving: 2}", "sweep.halving: found"),
    ):
        (found,) = problems(sweep)
        assert told in found
