"""What ``lastrun stop`` tells of each job, and of whom does not answer; Slurm's programs are made up."""

from __future__ import annotations

import json
import os
import shlex
from pathlib import Path

import pytest

from runner.job.job import Job
from runner.launch.slurm.batch import job_name
from runner.store.directory import DirectoryStore
from tests import groups
from tests.conftest import Cli

ITEMS = {"model.variant": "nano_e_v3", "dataset": "synthetic", "split_type": "xsub", "env": "local", "training.epochs": 5}
AWAY = "echo 'its controller is away' >&2; exit 1"


@pytest.fixture
def store(clean_env: dict[str, str]) -> DirectoryStore:
    return DirectoryStore(Path(clean_env["LASTRUN_STORE"]))


@pytest.fixture
def programs(tmp_path: Path, clean_env: dict[str, str]) -> Path:
    """A folder for programs, each of which keeps what it was asked."""
    folder = tmp_path / "programs"
    folder.mkdir()
    clean_env["PATH"] = f"{folder}:{os.environ['PATH']}"
    make(folder, "scancel", "")
    return folder


def make(folder: Path, name: str, script: str) -> None:
    (folder / name).write_text(f'#!/bin/sh\necho "$*" >>{folder}/{name}.log\n{script}\n')
    (folder / name).chmod(0o755)


def asked(folder: Path, name: str) -> list[str]:
    return (folder / f"{name}.log").read_text().splitlines()


def rows(*jobs: Job) -> str:
    """What squeue tells of these, which all have one ID, as jobs of two clusters may."""
    return f"printf '%s\\n' {shlex.join(f'7|{job_name(job.id)}|PENDING|Resources|N/A' for job in jobs)}"


def test_two_jobs_of_which_the_same_is_told_are_both_told_of(cli: Cli, store: DirectoryStore, programs: Path) -> None:
    one, other = (Job.create(store, "x", ITEMS, {}, "0") for _ in range(2))
    both = rows(one, other)
    make(programs, "squeue", both)
    done = cli("stop", "--all")
    assert done.returncode == 0, done.stderr
    assert [f"{job.id}: Slurm job 7 was taken out of the queue" in done.stdout for job in (one, other)] == [True, True]
    told = json.loads(cli("stop", "--all", "--json").stdout)["jobs"]
    assert sorted(job["id"] for job in told) == sorted([one.id, other.id])


def test_a_queue_that_does_not_answer_is_asked_once_and_told_of(cli: Cli, store: DirectoryStore, programs: Path) -> None:
    job = Job.create(store, "x", ITEMS, {}, "0")
    make(programs, "squeue", AWAY)
    away = "launcher slurm cannot tell: Slurm: its controller is away"
    done = cli("stop", job.id, "--wait")
    assert done.returncode == 0, done.stderr
    assert done.stdout == (
        f"{job.id}: the request is in the store; what waits there leaves as soon as it has begun, which is not waited for: "
        f"lastrun status {job.id} tells\n"
    )
    assert away in done.stderr
    assert len(asked(programs, "squeue")) == 1
    assert json.loads(cli("stop", job.id, "--json").stdout)["problems"] == [away]
    assert list(job.requests.new([]).values()) == ["save"] * 2


def test_who_does_not_answer_is_told_of_where_a_group_is_stopped(
    cli: Cli, store: DirectoryStore, programs: Path, tmp_path: Path
) -> None:
    group = groups.make(store, tmp_path, 2)
    group.complete()
    make(programs, "squeue", AWAY)
    told = json.loads(cli("stop", group.id, "--json").stdout)
    assert told["problems"] == ["launcher slurm cannot tell what waits: Slurm: its controller is away"]
    assert [len(job.requests.keys()) for job in group.jobs()] == [1, 1]
