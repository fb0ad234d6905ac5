"""A job's attempts as one run in a tracker, by the trackers' own libraries; and what a tracker cannot do to a job."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from runner.job.steps import Steps
from runner.tracking.clients import TRACKERS, run_id
from tests.conftest import Cli
from tests.jobs import LONGER, command_lines, wait_until
from tests.receiver import HANG, Receiver

KEY = "0123456789abcdef0123456789abcdef01234567"


def loss(step: int) -> float:
    """As no other figure in a file."""
    return step + 0.123456


def points_of_trackio(folder: Path) -> tuple[set[str], list[dict[str, Any]]]:
    """Names of its runs, and the points of all of them, in the order in which they came."""
    rows = sqlite3.connect(folder / "lastrun.db").execute("SELECT run_name, step, metrics FROM metrics ORDER BY id").fetchall()
    return {name for name, _, _ in rows}, [{"step": step, **json.loads(metrics)} for _, step, metrics in rows]


def points_of_mlflow(folder: Path) -> tuple[set[str], list[dict[str, Any]]]:
    code = """
import json, sys
from mlflow import MlflowClient
client = MlflowClient()
runs = client.search_runs([client.get_experiment_by_name("lastrun").experiment_id])
points = [{"step": m.step, m.key: m.value} for run in runs for m in client.get_metric_history(run.info.run_id, "loss")]
print(json.dumps([[run.info.run_name for run in runs], points]))
[run] = runs
assert (run.info.status, run.data.tags["lastrun.reason"], run.data.params["a"]) == ("FINISHED", "completed", "1"), run
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=offline(folder), check=True)
    names, points = json.loads(done.stdout)
    return set(names), points


def points_of_wandb(folder: Path) -> tuple[set[str], list[dict[str, Any]]]:
    """By what its files hold: only its server reads them."""
    written = sorted((folder / "wandb").glob(f"offline-run-*/run-{run_id('j-1')}.wandb"))
    whole = [path.read_bytes() for path in written]
    assert [b'"completed"' in data for data in whole] == [False, True]
    found = [{"step": s, "loss": loss(s)} for data in whole for s in (1, 2, 4) if f"{loss(s)}".encode() in data]
    return {"j-1"} if all(b"j-1" in data for data in whole) else set(), found


READ = {"trackio": points_of_trackio, "mlflow": points_of_mlflow, "wandb": points_of_wandb}


def offline(folder: Path) -> dict[str, str]:
    places = {"MLFLOW_TRACKING_URI": f"file://{folder}/mlflow", "MLFLOW_ALLOW_FILE_STORE": "true"}
    return {**os.environ, **places, "WANDB_MODE": "offline", "WANDB_DIR": str(folder), "TRACKIO_DIR": str(folder)}


def feed(tracking: str, folder: Path, steps: tuple[int, ...], end: dict[str, Any] | None, **env: str) -> dict[str, str]:
    """What the child says that is told of these steps; without an ``end`` it is left without a word."""
    lines: list[dict[str, Any]] = [{"tracking": tracking, "job": "j-1", "config": {"a": 1, "b": [1]}, "folder": str(folder)}]
    lines += [{"step": step, "values": {"loss": loss(step)}} for step in steps]
    text = "".join(f"{json.dumps(line)}\n" for line in [*lines, *([end] if end else [])])
    command = [sys.executable, "-m", "runner.tracking"]
    env = {**offline(folder), **env}
    done = subprocess.run(command, input=text, capture_output=True, text=True, env=env, check=False)
    assert done.stderr.strip() == "" or "Traceback" not in done.stderr
    return dict(pair for line in done.stdout.splitlines() for pair in json.loads(line).items())


@pytest.mark.parametrize("tracking", sorted(TRACKERS))
def test_attempts_are_one_run_of_each_tracker(tracking: str, tmp_path: Path) -> None:
    first = feed(tracking, tmp_path, (1, 2), {"reason": "preempted", "failed": False})
    then = feed(tracking, tmp_path, (2, 4), {"reason": "completed", "failed": False})
    assert first == then
    assert first["where"].startswith(f"tracked by {tracking}: ")
    names, points = READ[tracking](tmp_path)
    assert names == {"j-1"}
    assert sorted((point["step"], point["loss"]) for point in points) == [(step, loss(step)) for step in (1, 2, 2, 4)]


def test_a_tracker_that_cannot_be_reached_or_is_not_there_says_so_without_its_key(tmp_path: Path) -> None:
    address = f"http://user:{KEY}@127.0.0.1:9"
    said = feed("mlflow", tmp_path, (), None, MLFLOW_TRACKING_URI=address, MLFLOW_HTTP_REQUEST_MAX_RETRIES="0")
    assert said["note"].startswith("nothing is tracked any more (MlflowException: ")
    assert said["note"].endswith("); training goes on")
    assert KEY not in said["note"]
    assert feed("mlflow", tmp_path, (), None, MLFLOW_TRACKING_URI="")["note"] == (
        "nothing is tracked any more (MLFLOW_TRACKING_URI is not set here); training goes on"
    )
    (tmp_path / "trackio.py").write_text("raise ModuleNotFoundError(\"No module named 'trackio'\", name='trackio')\n")
    said = feed("trackio", tmp_path, (), None, PYTHONPATH=os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    assert said["note"] == (
        "nothing is tracked any more (trackio is not installed here; from a clone of lastrun: pip install '.[trackio]'); "
        "training goes on"
    )


def test_a_job_that_is_cut_and_resumed_is_one_run(
    run: Any, cli: Cli, tiny: Path, clean_env: dict[str, str], tmp_path: Path
) -> None:
    clean_env["TRACKIO_DIR"] = str(tmp_path / "trackio")
    told = f"[sh, -c, 'echo \"$0\" >> {tmp_path}/told', '{{news}}']"
    tiny.write_text(f"{tiny.read_text()}tracking: trackio\nnotify: {{command: {told}}}\n")
    current = run("submit", tiny, *LONGER)
    code, out = current.interrupt()
    assert not (tmp_path / "told").exists()  # what the user has done himself
    assert code == 75, out
    job = current.job
    done = cli("resume", job.id)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "tracked by trackio: project lastrun in " in out
    assert (tmp_path / "told").read_text() == "completed\n"
    names, points = points_of_trackio(tmp_path / "trackio")
    assert names == {job.id}
    epochs = [point for point in points if "test_top1" in point]
    assert [(point["step"], point["test_top1"]) for point in epochs] == [(m["step"], m["test_top1"]) for m in job.metrics()]
    steps = {line["step"]: line["loss"] for line in Steps(job).read()}
    of_steps = [point for point in points if "loss" in point]
    assert {point["step"]: point["loss"] for point in of_steps} == steps
    assert [*steps] == [*range(5, 73, 5)]
    assert all(point["clips_per_second"] > 0 and point["lr"] > 0 for point in of_steps)


def test_a_tracker_that_hangs_neither_stops_nor_holds_up_training(
    run: Any, tiny: Path, clean_env: dict[str, str], tmp_path: Path
) -> None:
    server = Receiver()
    server.answers = [HANG] * 100
    clean_env.update(WANDB_API_KEY=KEY, WANDB_BASE_URL=server.address(""))
    clean_env["LASTRUN_WAITS"] += " track=2"
    tiny.write_text(f"{tiny.read_text()}tracking: wandb\n")
    try:
        current = run("submit", tiny, *LONGER)
        wait_until(lambda: server.messages)
        code, out = current.end()
        ended = time.time()
    finally:
        server.close()
    assert code == 0, out
    assert "the tracker did not take all of it within 2 s" in out
    assert ended - current.job.attempts.all()[-1].ended_at < 60
    assert KEY not in out
    wait_until(
        lambda: not [line for line in command_lines().values() if b"wandb-core" in line and str(tmp_path).encode() in line]
    )


def test_a_child_whose_attempt_was_killed_ends_by_itself(tmp_path: Path) -> None:
    assert feed("trackio", tmp_path, (1,), None).keys() == {"where"}
    assert points_of_trackio(tmp_path)[1] == [{"step": 1, "loss": loss(1)}]
    pipe = subprocess.PIPE
    command = [sys.executable, "-m", "runner.tracking"]
    child = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=offline(tmp_path))
    assert child.stdin is not None
    assert child.stdout is not None

    def tell(**told: Any) -> None:
        assert child.stdin is not None
        child.stdin.write(f"{json.dumps(told)}\n")
        child.stdin.flush()

    tell(tracking="trackio", job="j-2", config={}, folder=str(tmp_path))
    child.stdout.readline()
    child.send_signal(signal.SIGTERM)  # as a batch system sends it to all: who feeds it says when it is over
    tell(step=5, values={"loss": 5.0})
    tell(reason="preempted", failed=False)
    assert child.wait(60) == 0
    child.stdin.close()
    child.stdout.close()
    assert points_of_trackio(tmp_path)[1][-1] == {"step": 5, "loss": 5.0}
