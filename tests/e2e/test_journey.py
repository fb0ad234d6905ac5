"""One job through all launchers that have a stand-in or the real thing here, each of which trains a part of it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from runner.job.find import find_job
from tests.conftest import Cli
from tests.docker_engine import Engine
from tests.jobs import Run, assert_same, has_saved, result, wait_until
from tests.slurm import Slurm

if TYPE_CHECKING:
    from tests.kaggle_server import KaggleServer

PLACES = {
    "local": (),
    "docker": ("--set", "run.network=host", "run.gpus=0"),
    "slurm": ("--set", "run.gpus=0"),
    "kaggle": ("--yes-private-dataset", "--set", "run.gpus=0"),
}

LONG = ("--set", "training.batch_size=4", "training.epochs=8")  # 480 steps: some for each, also where the store is slow


@pytest.mark.slow
@pytest.mark.xdist_group("containers")
@pytest.mark.usefixtures("clean_engine")
def test_a_job_goes_from_place_to_place_to_the_bits_of_one_that_stays(
    bucket: str,
    engine: Engine,
    slurm: Slurm,
    kaggle_server: KaggleServer,
    run: Any,
    cli: Cli,
    tiny: Path,
    clean_env: dict[str, str],
    tmp_path: Path,
) -> None:
    """Its store is a real bucket, which all of them reach."""
    of_kaggle = kaggle_server.environment()
    for name in of_kaggle:
        clean_env.pop(name, None)
    clean_env["NO_PROXY"] = "127.0.0.1"
    current: Run | None = None
    for launcher, words in PLACES.items():
        begin = ["submit", str(tiny), *LONG] if current is None else ["resume", current.job.id]
        if launcher == "kaggle":
            clean_env.update(of_kaggle)
        current = run(*begin, "--launcher", launcher, *words)
        with current.held(lambda job, launcher=launcher: is_at_work(job, launcher) and has_saved(job)):
            asked = cli("stop", current.job.id)
            assert asked.returncode == 0, asked.stderr
            job = current.job
            wait_until(lambda job=job: job.attempts.heartbeat(job.attempts.all()[-1]).get("stopping"))
        code, out = current.end()
        assert code == 75, out
    assert current is not None
    job = current.job
    done = cli("resume", job.id, "--launcher", "local")
    assert done.returncode == 0, done.stdout + done.stderr
    attempts = job.attempts.all()
    assert [attempt.launcher for attempt in attempts] == [*PLACES, "local"]
    assert [attempt.reason for attempt in attempts] == ["stop_requested"] * len(PLACES) + ["completed"]
    steps = [attempt.resumed_step for attempt in attempts]
    assert steps == sorted(set(steps)), "each has trained a part"
    assert cli("submit", tiny, *LONG, "--launcher", "local", "--store", tmp_path / "stays").returncode == 0
    assert_same(job, result(find_job("tiny", str(tmp_path / "stays"))))


def is_at_work(job: Any, launcher: str) -> bool:
    attempts = job.attempts.all()
    return bool(attempts) and attempts[-1].launcher == launcher
