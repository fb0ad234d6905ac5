"""How often one waits for a store that is far away, one time after the other, whatever a job has gone through."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from last_e.manifest import File, Manifest
from runner import machine
from runner.job.attempts import EXPIRY_SECONDS, Attempt
from runner.job.find import find_job, list_jobs
from runner.job.job import Job
from runner.job.lease import Heart, claim
from runner.job.paths import checkpoint_name
from runner.view.status import job_status, summaries
from tests.counting.store import CountingStore

CONFIG = {"model.variant": "nano_e_v3", "dataset": "synthetic", "split_type": "cross_subject", "env": "local"}
FILES = {name: File(size=2, sha256="0" * 64) for name in ("model.safetensors", "state.pt")}


def make_job(store: CountingStore, attempts: int) -> Job:
    """A job that machines have left in every way: they were told, they vanished, they stepped back."""
    job = Job.create(store, "far", {**CONFIG, "training.epochs": 9}, {}, "0")
    make_past(job, range(1, attempts + 1))
    return job


def make_past(job: Job, numbers: range, kept: list[str] | None = None) -> None:
    """These attempts of it; with checkpoints of their own, unless some are there that they ``kept``."""
    store = job.store
    for number in numbers:
        one = Attempt(f"{number:04d}-aaaaaaaa", "elsewhere", 1, "1", time.time(), phase="running", began=True)
        one.inherited = kept or []
        if number % 3 == 0:
            one.phase, one.began = "withdrawn", False
        elif number % 3 == 1 and number < numbers[-1]:
            one.phase, one.reason, one.scores = "ended", "preempted", {"best_top1": 0.5}
        job.attempts.write(one)
        if one.began:
            job.attempts.write_heartbeat(one, {})
            if kept is None:
                manifest = Manifest(step=number, epoch=1, evaluated=True, files=FILES)
                store.put(job.paths.checkpoint(checkpoint_name(manifest, one.id)), manifest.to_json().encode())
            line = {"epoch": number, "step": number, "lr": 0.1, "train_loss": 1.0, "test_loss": 1.0}
            store.put(job.paths.metrics(one.id), json.dumps({**line, "test_top1": 0.5, "test_top5": 0.9}).encode())
            for piece in (1, 2, 3):
                store.put(job.paths.log(one.id, piece), f"{number} {piece}\n".encode())


def vanish(store: CountingStore) -> None:
    """Nobody has been heard of for long."""
    for path in store.root.rglob("heartbeat.json"):
        os.utime(path, (time.time() - 2 * EXPIRY_SECONDS,) * 2)


COMMANDS: dict[str, Callable[[str, str], object]] = {
    "status": lambda job, store: job_status(find_job(job, store)),
    "logs": lambda job, store: list(find_job(job, store).log()),
}


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CountingStore:
    made = CountingStore(tmp_path / "store")
    monkeypatch.setattr("runner.job.find.open_store", lambda uri: made)
    return made


@pytest.mark.parametrize("state", ["running", "lost"])
@pytest.mark.parametrize("attempts", [1, 2, 20])
@pytest.mark.parametrize("name", ["whole", "begun"])
@pytest.mark.parametrize("command", list(COMMANDS))
def test_six_round_trips_show_a_job(store: CountingStore, command: str, name: str, attempts: int, state: str) -> None:
    job = make_job(store, attempts)
    if state == "lost":
        vanish(store)
    before = store.depth
    found = COMMANDS[command](job.id if name == "whole" else "far", store.uri)
    assert store.depth - before <= 6
    text = json.dumps(found)
    assert state in text or command == "logs"


@pytest.mark.parametrize("state", ["running", "lost"])
@pytest.mark.parametrize("attempts", [1, 2, 20])
def test_six_round_trips_list_a_job(store: CountingStore, attempts: int, state: str) -> None:
    make_job(store, attempts)
    if state == "lost":
        vanish(store)
    before = store.depth
    assert [facts["state"] for facts in summaries(list_jobs(store), 50)[0]] == [state]
    assert store.depth - before <= 6


def test_a_list_of_fifty_jobs_takes_six_round_trips_and_reads_little_of_those_that_have_ended(store: CountingStore) -> None:
    model = make_job(store, 20)
    for number in range(49):
        job = Job.create(store, "far", model.record()["config"], {}, "0")
        shutil.copytree(store.root / model.paths.attempts, store.root / job.paths.attempts)
        done = Attempt("0021-aaaaaaaa", "elsewhere", 1, "1", time.time(), phase="ended", began=True, reason="completed")
        done.scores = {"best_top1": number / 50, "best_epoch": 1}  # as the trainer's last word has it
        job.attempts.write(done)
    store.calls.clear()
    before = store.depth
    jobs, more = summaries(list_jobs(store), 50)
    assert (len(jobs), more) == (50, False)
    assert sorted(facts["best_top1"] for facts in jobs if facts["state"] == "succeeded") == [n / 50 for n in range(49)]
    assert store.depth - before <= 6
    assert len(store.calls) <= 49 * 8 + 80


def test_a_heartbeat_is_a_write_and_two_reads_whatever_has_been_before(store: CountingStore) -> None:
    job = make_job(store, 20)
    vanish(store)
    attempt = claim(job)
    for number in (22, 23):
        job.attempts.write(Attempt(f"{number:04d}-aaaaaaaa", "elsewhere", 1, "1", time.time(), phase="withdrawn"))
    heart = Heart(job, attempt, (), dict, lambda *_: None)
    for number in range(8):
        store.calls.clear()
        assert heart.beat(number)
        kinds = sorted(call.split()[0] for call in store.calls)
        assert kinds in (["list", "list", "put"], ["get", "list", "put"])


def test_what_ended_is_read_once(store: CountingStore) -> None:
    job = make_job(store, 20)
    job.attempts.all()
    store.calls.clear()
    job.attempts.all()
    read = {call.split("/")[2] for call in store.calls if call.startswith("get")}
    ended = {path.parent.name for path in store.root.rglob("*.json") if '"phase": "ended"' in path.read_text()}
    assert len(ended) == 7
    assert not read & ended


def test_a_record_read_before_its_attempt_lost_the_job_is_read_again(store: CountingStore) -> None:
    job = Job(store, "j")
    first = Attempt("0001-aaaaaaaa", "elsewhere", 1, "1", time.time(), phase="running", began=True)
    job.attempts.write(first)
    assert job.attempts.all()[0].inherited is None
    first.inherited = ["00000010-0000-aaaaaaaa"]
    job.attempts.write(first)
    mine = Attempt("0002-aaaaaaaa", machine.identity(), 1, "1", time.time(), phase="running", began=True)
    assert job.attempts.beside(mine)[0].inherited == first.inherited
