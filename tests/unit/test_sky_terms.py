"""Which machines a job gets through SkyPilot, where its catalogue is made up and nobody is asked."""

from __future__ import annotations

from pathlib import Path

import pytest

from last_e.problems import ConfigError
from runner.errors import UsageError
from runner.launch.sky import terms
from runner.launch.sky.engine import Seen
from runner.launch.sky.terms import Machine, machines
from runner.resolve import resolve_spec
from runner.spec import JobSpec
from tests.conftest import TINY

THERE = [
    Machine("gcp", "n1", "T4", 16, True, 0.19),
    Machine("gcp", "n1", "T4", 16, False, 0.73),
    Machine("aws", "g4", "T4", 16, True, 0.2),
    Machine("lambda", "a10", "A10", 24, False, 0.75),
    Machine("aws", "p4", "A100", 40, True, 1.1),
    Machine("lambda", "a100", "A100", 40, False, 1.29),
    Machine("gcp", "a2", "A100", 40, False, 3.64),
    Machine("gcp", "n1-highmem", "T4", 16, True, 0.32, 2),
    Machine("gcp", "n1-highmem", "T4", 16, False, 1.17, 2),
    Machine("aws", "g4-12", "T4", 16, False, 3.9, 4),
]


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(terms, "everything", lambda: sorted(THERE, key=lambda one: one.dollars))
    path = tmp_path / "job.yaml"
    path.write_text(TINY)
    return path


def config(job: Path, env: str | None, *settings: str) -> JobSpec:
    return resolve_spec(job, env, list(settings), "sky").config


@pytest.mark.parametrize(
    ("env", "settings", "expected"),
    [
        ("gcp", (), [THERE[0]]),
        ("gcp", ("run.resources.gpu=T4", "run.resources.spot=false"), [THERE[1]]),
        ("gcp", ("run.resources.cloud=aws", "run.auto_continue=1"), [THERE[2], THERE[4]]),
        ("lambda", (), [THERE[3], THERE[5]]),
        ("a100", (), [THERE[5], THERE[6]]),
        ("a100", ("run.auto_continue=3",), [THERE[4], THERE[5], THERE[6]]),
        ("a100", ("run.auto_continue=3", "run.max_price=1.2"), [THERE[4]]),
        ("a100", ("run.max_cost=1",), [THERE[5]]),
        ("local", ("run.resources.gpu=t4",), [THERE[1]]),
        ("gcp", ("run.gpus=2",), [THERE[7]]),
        ("gcp", ("run.gpus=all",), [THERE[0]]),
        ("kaggle", ("run.gpus=2", "run.max_price=2"), [THERE[8]]),
        ("kaggle", ("run.gpus=4",), [THERE[9]]),
    ],
)
def test_a_profile_gets_what_comes_next_to_it_the_cheapest_first(
    job: Path, env: str, settings: tuple[str, ...], expected: list[Machine]
) -> None:
    assert machines(config(job, env, *settings)) == expected


def test_what_is_not_there_is_told_with_the_nearest(job: Path) -> None:
    with pytest.raises(UsageError, match=r"spot machine with A10 or A100 on lambda; .* nearest are lambda a10 .*, lambda a100"):
        machines(config(job, "lambda", "run.resources.spot=true"))
    with pytest.raises(UsageError, match=r"with A10 on gcp; .* nearest are lambda a10 \(1 x A10, 24 GB\), 0\.75 USD an hour$"):
        machines(config(job, "gcp", "run.resources.gpu=A10"))
    with pytest.raises(UsageError, match=r"max_price: found 0\.5 USD an hour, and lambda a10 .*; for that there is gcp n1"):
        machines(config(job, "lambda", "run.max_price=0.5"))
    near = r"with 4 x A10 or A100 on lambda; .* nearest are lambda a10 \(1 x A10, 24 GB\), 0\.75 USD an hour, lambda a100 .*$"
    with pytest.raises(UsageError, match=near):
        machines(config(job, "lambda", "run.gpus=4"))
    with pytest.raises(UsageError, match=r"with 8 x T4; .* nearest are aws g4-12 \(4 x T4, 16 GB\), 3\.90 USD an hour, gcp"):
        machines(config(job, "kaggle", "run.gpus=8"))
    with pytest.raises(UsageError, match=r"max_price: found 1 USD an hour, and gcp .*\(2 x T4, .* there is gcp n1-highmem"):
        machines(config(job, "kaggle", "run.gpus=2", "run.max_price=1"))
    with pytest.raises(UsageError, match=r"and aws g4-12 \(4 x T4, 16 GB\), 3\.90 USD an hour; no 4 GPUs are to be had"):
        machines(config(job, "kaggle", "run.gpus=4", "run.max_price=1"))


def test_all_of_a_machine_is_asked_for_and_certain_gpus_are_not(job: Path) -> None:
    [two] = machines(config(job, "gcp", "run.gpus=2"))
    assert str(two) == "gcp n1-highmem (2 x T4, 16 GB, spot), 0.32 USD an hour"
    assert two.resources(config(job, "gcp", "run.gpus=2"))["accelerators"] == "T4:2"
    with pytest.raises(ConfigError) as refused:
        config(job, "gcp", "run.gpus=[0,1]")
    assert "allowed: how many, or all with launcher sky" in str(refused.value.problems[0])


@pytest.mark.parametrize(
    ("state", "of_it", "waits", "runs"),
    [
        ("INIT", None, True, True),
        ("UP", None, True, True),
        ("UP", "SETTING_UP", True, True),
        ("UP", "RUNNING", False, True),
        ("UP", "FAILED", False, False),
        ("UP", "SUCCEEDED", False, False),
        ("STOPPED", None, False, False),
        ("UNHEALTHY", None, False, False),
        ("gone", None, False, False),
    ],
)
def test_its_states_are_ours(state: str, of_it: str | None, waits: bool, runs: bool) -> None:
    seen = Seen("lastrun-x-00000000", state, of_it, False)
    assert (seen.waits, seen.runs) == (waits, runs)
