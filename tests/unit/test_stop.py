"""What ``lastrun stop`` tells of each job, and of whom does not answer; Slurm's programs are made up."""

from __future__ import annotations

import json
import os
import shlex
import time
from pathlib import Path

import pytest

from runner.job.attempts import Attempt
from runner.job.job import Job
from runner.launch.slurm.batch import job_name
from runner.store.directory import DirectoryStore
from tests import groups
from tests.conftest import Cli

ITEMS = {"model.variant": "nano_e_v3", "dataset": "synthetic", "split_type": "xsub", "env": "local", "training.epochs": 5}
AWAY = "echo 'its controller is away' >&2; exit 1"
TOLD = "launcher slurm cannot tell what waits: Slurm: its controller is away"


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
    done = cli("stop", job.id, "--wait")
    assert done.returncode == 0, done.stderr
    assert done.stdout == (
        f"{job.id}: the request is in the store; what waits there leaves as soon as it has begun, which is not waited for: "
        f"lastrun status {job.id} tells\n"
    )
    assert done.stderr == f"{TOLD}\n"
    assert len(asked(programs, "squeue")) == 1
    assert json.loads(cli("stop", job.id, "--json").stdout)["problems"] == [TOLD]
    assert list(job.requests.new([]).values()) == ["save"] * 2


@pytest.mark.parametrize("whole_store", [True, False])
def test_each_of_many_is_asked_in_the_store_where_a_queue_does_not_answer(
    cli: Cli, store: DirectoryStore, programs: Path, tmp_path: Path, whole_store: bool
) -> None:
    """Any may wait there that has not reached its end: each is named, and leaves once it begins."""
    group = groups.make(store, tmp_path)
    group.complete()
    ended, paused, waits = group.jobs()
    for job, reason in ((ended, "completed"), (paused, "interrupted")):
        one = Attempt("0001-aaaaaaaa", "elsewhere", 1, "1", time.time(), phase="ended", began=True, reason=reason)
        job.attempts.write(one)
    make(programs, "squeue", AWAY)
    command = ("stop", "--all" if whole_store else group.id)
    done = cli(*command)
    assert (done.returncode, done.stderr) == (0, f"{TOLD}\n")
    assert sorted(done.stdout.splitlines()) == [
        f"{job.id}: the request is in the store; what waits there leaves as soon as it has begun, "
        f"which lastrun status {job.id} tells"
        for job in (paused, waits)
    ]
    assert [len(one.requests.keys()) for one in (ended, paused, waits, group)] == [0, 1, 1, 1]
    assert len(asked(programs, "squeue")) == 1
    told = json.loads(cli(*command, "--json").stdout)
    states = {(one["id"], one["asked"], one["state"]) for one in told["jobs"]}
    assert states == {(paused.id, "save", "paused"), (waits.id, "save", "queued")}
    assert told["problems"] == [TOLD]


def test_what_the_queue_does_not_give_back_is_asked_in_the_store(cli: Cli, store: DirectoryStore, programs: Path) -> None:
    """The others leave the queue."""
    free, stuck = (Job.create(store, "x", ITEMS, {}, "0") for _ in range(2))
    row = "echo '{}|{}|PENDING|Resources|N/A'"
    one, other = (row.format(id, job_name(job.id)) for id, job in ((7, free), (8, stuck)))
    cases = f"*--name={job_name(free.id)}*) {one};;\n*--name={job_name(stuck.id)}*) {other};;\n*) {one}; {other};;"
    make(programs, "squeue", f'case "$*" in\n{cases}\nesac')
    make(programs, "scancel", "[ $1 = 7 ] || { echo 'Access/permission denied' >&2; exit 1; }")
    kept = f"{stuck.id}: launcher slurm does not take it back: Slurm: Access/permission denied"
    told = json.loads(cli("stop", "--all", "--json").stdout)
    assert {one["id"]: one["asked"] for one in told["jobs"]} == {free.id: None, stuck.id: "save"}
    assert told["problems"] == [kept]
    assert [len(one.requests.keys()) for one in (free, stuck)] == [0, 1]
    done = cli("stop", stuck.id)
    assert (done.returncode, done.stderr) == (0, f"{kept}\n")
    assert f"{stuck.id}: Slurm job 8 waits: no node with what it asks for is free; what waits there leaves as" in done.stdout


def test_of_many_that_may_wait_in_a_queue_the_number_is_told(cli: Cli, store: DirectoryStore, programs: Path) -> None:
    jobs = [Job.create(store, "x", ITEMS, {}, "0") for _ in range(11)]
    make(programs, "squeue", AWAY)
    done = cli("stop", "--all")
    assert (done.returncode, done.stderr) == (0, f"{TOLD}\n")
    assert done.stdout == (
        "11 jobs that do not run: the request is in the store of each; what waits there leaves as soon as it has begun, "
        "which lastrun list tells\n"
    )
    assert [len(job.requests.keys()) for job in jobs] == [1] * 11
    assert len(json.loads(cli("stop", "--all", "--json").stdout)["jobs"]) == 11


def test_only_what_was_started_there_may_wait_where_a_note_tells_of_it(
    cli: Cli, store: DirectoryStore, clean_env: dict[str, str]
) -> None:
    """Hugging Face is away, and knows nothing of a job that was never sent there, or whose attempt there is over."""
    waits, over, another = (Job.create(store, "x", ITEMS, {}, "0") for _ in range(3))
    ended = Attempt("0001-1123abcd", "elsewhere", 1, "1", time.time(), phase="ended", began=True, reason="interrupted")
    over.attempts.write(ended)
    notes = Path(clean_env["HOME"]) / ".local/share/lastrun/hf"
    notes.mkdir(parents=True)
    for token, job in (("0123abcd", waits), ("1123abcd", over)):
        (notes / f"{token}.json").write_text(json.dumps({"job": job.id, "id": "7", "namespace": "me"}))
    clean_env.update(HF_ENDPOINT="http://127.0.0.1:1", HF_TOKEN="hf_x")
    done = cli("stop", "--all")
    assert done.returncode == 0, done.stdout + done.stderr
    assert [line.partition(":")[0] for line in done.stdout.splitlines()] == [waits.id]
    assert "launcher hf cannot tell what waits: Hugging Face does not answer" in done.stderr
    assert [len(job.requests.keys()) for job in (waits, over, another)] == [1, 0, 0]
    assert cli("stop", another.id).returncode == 2
