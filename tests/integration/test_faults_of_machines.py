"""Machines that die, wake up, start at the same moment or have another idea of the time, with jobs on a real Ceph gateway."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from runner.job.job import Job
from runner.store.open import open_store
from runner.store.protocol import Store
from tests.ceph import SECRET_KEY, Ceph
from tests.conftest import Cli, Figures
from tests.jobs import (
    LONGER,
    PATIENCE,
    assert_same,
    assert_whole,
    at_rest,
    has_pending,
    jobs_in,
    processes_of,
    some_step_is_stored,
    wait_until,
)

ON_CEPH = pytest.mark.xdist_group("ceph")
VICTIMS = ("trainer", "agent", "both", "everything")


@ON_CEPH
def test_sigkill_at_random_moments_loses_nothing(
    bucket: str, run: Any, cli: Cli, tiny: Path, uninterrupted: Any, full: bool, figure: Figures
) -> None:
    chance = random.Random(2)
    kills = jobs = resumed = 0
    words: list[str | Path] = ["submit", tiny, *LONGER]
    while kills < (50 if full else 5):
        current = run(*words)
        before = {} if words[0] == "submit" else {stored.name: stored for stored in current.job.checkpoints.all()}
        while kills % 2 and current.process.poll() is None:  # every other one once it trains
            if jobs_in(current.store) and {stored.name for stored in current.job.checkpoints.all()} - set(before):
                break
            time.sleep(0.05)
        time.sleep(chance.uniform(0.0, 4.0 if full else 2.0))
        acknowledged = current.job.checkpoints.all() if jobs_in(current.store) else []
        victim = VICTIMS[kills % len(VICTIMS)]
        if current.process.poll() is None:
            kill(current.process.pid, victim)
            kills += 1
        code, out = current.end()
        if not jobs_in(current.store):  # the blow came before there was a job
            continue
        job = current.job
        assert code in (0, 1, -9, 137), out
        assert_whole(job)
        left = job.checkpoints.all()
        assert not (before or acknowledged) or left, "all checkpoints are gone"
        assert not acknowledged or left[-1].order >= acknowledged[-1].order, "the newest acknowledged checkpoint is gone"
        if job.state()[0].value == "succeeded":
            assert_same(job, uninterrupted)
            job.delete()
            words, jobs = ["submit", tiny, *LONGER], jobs + 1
        else:
            words, resumed = ["resume", job.id], resumed + 1
    if words[0] == "resume":
        last = cli(*words)
        assert last.returncode == 0, last.stdout + last.stderr
        assert_same(current.job, uninterrupted)
        jobs += 1
        for entry in current.job.store.scan(""):
            assert SECRET_KEY.encode() not in current.job.store.get(entry.key)
        assert SECRET_KEY not in last.stdout + last.stderr
    figure("kill -9 at random moments", f"{kills} kills, {resumed} resumes, {jobs} jobs, each bit-identical to an uncut one")


def kill(submit: int, victim: str) -> None:
    """SIGKILL to a part of a run, as far as it has been started."""
    try:
        agent, trainer = processes_of(submit)
    except (IndexError, FileNotFoundError):
        agent = trainer = 0
    for pid in {"trainer": [trainer], "agent": [agent], "both": [agent, trainer], "everything": [trainer]}[victim]:
        if pid:
            os.kill(pid, signal.SIGKILL)
    if victim == "everything" or not trainer:
        os.killpg(submit, signal.SIGKILL)


@ON_CEPH
def test_a_spot_machines_notice_is_time_enough_to_save_and_upload(bucket: str, run: Any, tiny: Path, figure: Figures) -> None:
    current = run("submit", tiny, *LONGER)
    with current.held(some_step_is_stored) as trainer:
        before = current.job.checkpoints.all()[-1].manifest.step
        began = time.monotonic()
        current.process.send_signal(signal.SIGTERM)
        wait_until(lambda: has_pending(trainer, signal.SIGTERM))
    code, out = current.end()
    seconds = time.monotonic() - began
    state, attempt, reason = current.job.state()
    assert (code, state.value, reason and reason.value) == (75, "paused", "preempted"), out
    assert attempt is not None
    newest = current.job.checkpoints.all()[-1].manifest
    assert newest.step == attempt.scores["step"] > before
    assert_whole(current.job)
    assert seconds < 30
    figure("SIGTERM to the end, checkpoint and last log line in the store", f"{seconds:.1f} s")


RACER = """
import sys
from pathlib import Path
from runner.errors import ClaimedError
from runner.job.job import Job
from runner.job.lease import claim
from runner.store.open import open_store
from runner.store.protocol import Store

store, starts, rounds, me = open_store(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
for n in range(rounds):
    (starts / f"ready-{n}-{me}").touch()
    while len(list(starts.glob(f"ready-{n}-*"))) < 2:
        pass
    try:
        claim(Job(store, f"j{n}"))
        (starts / f"won-{n}-{me}").touch()
    except ClaimedError:
        (starts / f"lost-{n}-{me}").touch()
print("done", flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("place", ["folder", pytest.param("bucket", marks=ON_CEPH)])
def test_of_two_attempts_that_start_at_the_same_moment_one_runs(
    request: pytest.FixtureRequest, clean_env: dict[str, str], tmp_path: Path, place: str, full: bool, figure: Figures
) -> None:
    if place == "bucket":
        request.getfixturevalue("bucket")
    rounds = 200 if full else 25
    starts = tmp_path / "starts"
    starts.mkdir()
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    racers = []
    try:
        for name in "ab":
            command = [sys.executable, "-c", RACER, clean_env["LASTRUN_STORE"], str(starts), str(rounds), name]
            racers.append(subprocess.Popen(command, env={**clean_env, "PYTHONPATH": str(Path.cwd())}, **pipes))
        assert [racer.stdout and racer.stdout.readline() for racer in racers] == [b"done\n"] * 2
        store = open_store(clean_env["LASTRUN_STORE"])
        phases = [[attempt.phase for attempt in Job(store, f"j{n}").attempts.all()] for n in range(rounds)]
    finally:
        for racer in racers:
            racer.kill()
            racer.communicate()
    assert [len(list(starts.glob(f"won-{n}-*"))) for n in range(rounds)] == [1] * rounds
    assert phases == [["running"]] * rounds
    figure(f"two attempts at the same moment, in a {place}", f"{rounds} times, one ran each time")


@ON_CEPH
def test_machines_whose_clocks_are_two_hours_apart_follow_and_resume_each_other(
    bucket: str, ceph: Ceph, cli: Cli, tiny: Path, faketime: str, clean_env: dict[str, str]
) -> None:
    clean_env["LASTRUN_STORE"] = ceph.uri(bucket, tls=False)  # the tests' certificate is younger than an hour
    clean_env["LASTRUN_WAITS"] += " expiry=60"  # on a busy machine a heart may miss some beats

    def elsewhere(hours: str, *words: str | Path) -> list[str]:
        """On a machine of another name, where no process of this one is to be seen, with a clock that is wrong."""
        inside = f'mount -t tmpfs tmpfs /dev/shm && hostname {hours.strip("+-")}-elsewhere && exec "$@"'
        own = ["unshare", "--uts", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c", inside, "sh"]
        return [*own, faketime, "-f", hours, sys.executable, "-m", "runner", *map(str, words)]

    if subprocess.run(elsewhere("+1h", "--version"), capture_output=True, check=False).returncode != 0:
        pytest.skip("this machine lets nobody make namespaces")
    early = subprocess.Popen(
        elsewhere("+1h", "submit", tiny, *LONGER, "--set", "training.epochs=50000"),
        env=clean_env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        store = open_store(clean_env["LASTRUN_STORE"])
        deadline = time.monotonic() + PATIENCE
        while not (jobs_in(store) and some_step_is_stored(jobs_in(store)[0])):
            assert time.monotonic() < deadline, early.communicate(timeout=1)
            time.sleep(0.1)
        job = jobs_in(store)[0]
        with at_rest(job):
            assert job.state()[0].value == "running"
            refused = cli("resume", job.id)
            assert refused.returncode == 5, refused.stderr
            late = subprocess.run(
                elsewhere("-1h", "resume", job.id), env=clean_env, capture_output=True, text=True, timeout=PATIENCE, check=False
            )
            assert late.returncode == 5, late.stdout + late.stderr
    finally:
        early.kill()  # unshare takes all that it started with it
        early.communicate()
    late = subprocess.run(
        elsewhere("-1h", "resume", job.id, "--takeover", "--set", "training.epochs=2", "--allow-change", "training.epochs"),
        env=clean_env,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert late.returncode == 0, late.stdout + late.stderr
    assert [job.state()[0].value, len(job.attempts.all())] == ["succeeded", 2]


@ON_CEPH
def test_a_list_shows_the_newest_of_many_jobs(
    bucket: str, cli: Cli, tiny: Path, full: bool, figure: Figures, clean_env: Any
) -> None:
    done = cli("submit", tiny)
    assert done.returncode == 0, done.stdout + done.stderr
    store = open_store(clean_env["LASTRUN_STORE"])
    model = jobs_in(store)[0].id
    objects = {entry.key.removeprefix(model): store.get(entry.key) for entry in store.scan(f"{model}/")}
    count = 10_000 if full else 120
    names = [f"many-20260101-{n:06d}-abcd" for n in range(count)]
    with ThreadPoolExecutor(16) as writers:
        list(writers.map(lambda name: copy_job(store, objects, model, name), names))
    began = time.monotonic()
    listed = cli("list", "--json", "--store", clean_env["LASTRUN_STORE"])
    seconds = time.monotonic() - began
    answer = json.loads(listed.stdout)
    assert answer["more"]
    assert [job["id"] for job in answer["jobs"]] == [model, *reversed(names[-49:])]
    assert all(job["state"] == "succeeded" for job in answer["jobs"])
    figure("lastrun list, newest 50", f"{seconds:.2f} s with {count + 1:,} jobs of {len(objects)} objects")


def copy_job(store: Store, objects: dict[str, bytes], model: str, name: str) -> None:
    store.put(Job(store, name).paths.index, b"")
    for rest, data in objects.items():
        if rest.endswith(
            ("/job.json", "/attempt.json", "/end.json", "/heartbeat.json", "/metrics.jsonl", "/MANIFEST.json", ".txt")
        ):
            store.put(name + rest, data.replace(model.encode(), name.encode()))
