"""Curves in TensorBoard, as its own reader sees them."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest

from runner.errors import UsageError
from runner.job.attempts import Attempt
from runner.job.job import Job, record_of
from runner.store.directory import DirectoryStore
from runner.view.board import clock, make_boards, shown, write
from tests.board import curves
from tests.jobs import PATIENCE, wait_until
from tests.unit.test_steps import lines

PER_EPOCH = 6


def attempt(job: Job, number: int, from_epoch: float, **more: Any) -> Attempt:
    began = 1e9 + 1000 * number
    one = Attempt(f"{number:04d}-aaaaaaaa", "elsewhere", 1, "1", began, phase="ended", began=True, from_epoch=from_epoch)
    one.ended_at, one.resumed_epoch = began + 600, int(from_epoch)
    job.attempts.write(one)
    return one


def trained(job: Job, number: int, first: int, last: int, loss: float = 1.0) -> None:
    """Its steps, and each epoch that has ended by then."""
    one = attempt(job, number, (first - 1) / PER_EPOCH)
    job.store.put(job.paths.steps(one.id, 1), lines(first, last, PER_EPOCH, loss))
    ends = range(-(-first // PER_EPOCH), last // PER_EPOCH + 1)
    text = "".join(json.dumps(epoch(number)) + "\n" for number in ends)
    job.store.put(job.paths.metrics(one.id), text.encode())


def epoch(number: int) -> dict[str, float]:
    return {"epoch": number, "step": number * PER_EPOCH, "lr": 0.1, "test_top1": 0.25 * number, "test_top5": 0.5}


@pytest.fixture
def job(tmp_path: Path) -> Job:
    config = {"model.variant": "nano_e_v3", "dataset": "irds", "split_type": "xsub", "env": "local", "training.epochs": 3}
    job = Job(DirectoryStore(tmp_path / "store"), "j")
    job.store.put(job.paths.record, json.dumps(record_of("j", "j", 1e9, "1", config, {})).encode())
    return job


def test_a_job_that_was_cut_has_the_curves_of_one_that_was_not(job: Job, tmp_path: Path) -> None:
    whole = Job(job.store, "whole")
    trained(whole, 1, 1, 13)
    trained(job, 1, 1, 9)
    trained(job, 2, 8, 8)
    trained(job, 3, 8, 13)
    write([job, whole], tmp_path / "out")
    found, expected = curves(tmp_path / "out" / "j"), curves(tmp_path / "out" / "whole")
    assert found == expected
    assert found["step/loss"] == [(step, 1.0) for step in range(1, 14)]
    assert found["epoch/test_top1"] == [(1, 0.25), (2, 0.5)]
    assert found["step/test_top1"] == [(6, 0.25), (12, 0.5)]
    assert {tag.partition("/")[0] for tag in found} == {"step", "epoch"}
    with pytest.raises(UsageError, match="out is there already: name a new or empty folder"):
        write([job], tmp_path / "out")
    assert {path.name for path in tmp_path.iterdir()} == {"store", "out"}


def test_a_cut_while_it_is_followed_is_forgotten_by_who_reads(job: Job, tmp_path: Path) -> None:
    trained(job, 1, 1, 9)
    [board] = make_boards([job], tmp_path)
    board.refresh()
    assert curves(tmp_path / "j")["step/loss"] == [(step, 1.0) for step in range(1, 10)]
    trained(job, 2, 8, 9, loss=2.0)
    board.refresh()
    trained(job, 2, 8, 12, loss=2.0)
    board.refresh()
    found = curves(tmp_path / "j")
    assert found["step/loss"] == [*((step, 1.0) for step in range(1, 8)), *((step, 2.0) for step in range(8, 13))]
    assert found["epoch/test_top1"] == [(1, 0.25), (2, 0.5)]
    assert board.counted == (12, 2)
    board.close()


def test_names_that_are_no_text_are_shown_all_the_same(job: Job, tmp_path: Path) -> None:
    one = attempt(job, 1, 0.0)
    job.store.put(job.paths.steps(one.id, 1), b'{"step": 1, "epoch": 0.5, "\\ud800": 1, "\\u001b[2J": 2, "loss": 3}\n')
    write([job], tmp_path / "out")
    found = curves(tmp_path / "out" / "j")
    assert found == {"step/\\ud800": [(1, 1.0)], "step/\\x1b[2J": [(1, 2.0)], "step/loss": [(1, 3.0)]}


def test_steps_are_spread_over_the_time_of_their_attempt(job: Job) -> None:
    at = clock([attempt(job, 1, 0.0), attempt(job, 2, 2.0)], [{"epoch": 6.0}])
    assert [at(epoch) - 1e9 for epoch in (1.0, 2.0, 3.0, 6.0)] == [1300.0, 1600.0, 2150.0, 2600.0]


@pytest.mark.slow  # the lowest versions have no server that starts
def test_a_port_that_somebody_has_is_told(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(UsageError, match=f"--port {port} is not to be had; name another one"), shown(tmp_path, port):
            pass


@pytest.mark.slow
def test_tensorboard_shows_a_job_as_it_grows_and_leaves_nothing(job: Job, tmp_path: Path, clean_env: dict[str, str]) -> None:
    trained(job, 1, 1, 4)
    (tmp_path / "board").mkdir()
    clean_env.update(TMPDIR=str(tmp_path / "board"), LASTRUN_WAITS="heartbeat=0.2")
    command = [sys.executable, "-m", "runner", "tensorboard", job.uri, "--port", "0", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=clean_env) as process:
        assert process.stdout is not None
        told = json.loads(process.stdout.readline())
        assert told.get("jobs") == [{"id": "j", "steps": 4, "epochs": 0}], process.communicate()

        def points() -> list[list[float]]:
            with urlopen(f"{told['address']}data/plugin/scalars/scalars?run=j&tag=step%2Floss", timeout=PATIENCE) as answer:
                return json.load(answer)

        wait_until(lambda: len(points()) == 4)
        trained(job, 1, 1, 5)
        wait_until(lambda: len(points()) == 5)
        assert told["address"].startswith("http://127.0.0.1:")
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=PATIENCE) == ("", "")
    assert process.returncode == 0
    assert list((tmp_path / "board").iterdir()) == []
