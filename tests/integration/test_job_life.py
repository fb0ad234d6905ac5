"""A job's life through the real commands: run, cut in every way, go on, end with what an uninterrupted run gives."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from last_e.console import ConsoleSink
from last_e.environment import detect_environment
from last_e.manifest import MANIFEST, verify
from runner.attempt.report import Own
from runner.attempt.run import run_attempt
from runner.errors import ClaimedError, Reason
from runner.job.attempts import EXPIRY_SECONDS, Attempt
from runner.job.find import find_job, list_jobs
from runner.job.job import Job
from runner.job.lease import LastLook, claim
from runner.resolve import resolve_spec
from runner.signals import LEAVING
from runner.store.directory import DirectoryStore
from runner.store.open import open_store
from runner.view.report.page import page_at_the_end
from tests.board import curves
from tests.conftest import TINY, Cli
from tests.jobs import (
    LONGER,
    PATIENCE,
    Result,
    assert_same,
    has_pending,
    jobs_in,
    processes_of,
    some_step_is_stored,
    wait_until,
)


def test_submit_runs_a_job_to_its_end_and_says_what_came_out(cli: Cli, tiny: Path, clean_env: dict[str, str]) -> None:
    done = cli("submit", tiny)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].startswith("job: file://")
    assert "test top-1" in lines[-3]
    assert "top-5" in lines[-3]
    assert lines[-2].startswith(f"job:  file://{clean_env['LASTRUN_STORE']}/tiny-")
    assert lines[-1] == f"next: lastrun pull {lines[0].rpartition('/')[2]} FOLDER --best"
    job = find_job("tiny", clean_env["LASTRUN_STORE"])
    assert [m["epoch"] for m in job.metrics()] == [1, 2, 3]
    kept = [stored.manifest.step for stored in job.checkpoints.all()]
    assert kept[-1] == 18
    assert len(kept) <= 4
    keys = {entry.key.split("/", 3)[-1].split("/")[0] for entry in job.store.scan(job.paths.attempts)}
    records = {"claim.json", "attempt.json", "end.json", "heartbeat.json"}
    assert keys == {*records, "metrics.jsonl", "log", "steps", "predictions.safetensors", "report.html"}
    assert not list((tiny.parent / "tmp").glob("lastrun-*"))

    again = cli("resume", job.id)
    assert again.returncode == 2
    assert "is complete" in again.stderr
    assert "epoch 3/3" in cli("logs", "tiny").stdout
    assert "succeeded" in cli("list").stdout
    status = json.loads(cli("status", job.id, "--json").stdout)
    assert (status["state"], status["epoch"], status["attempts"], status["reason"]) == ("succeeded", 3, 1, "completed")
    assert status["best_top1"] == max(m["test_top1"] for m in job.metrics())


def test_ctrl_c_pauses_and_resume_gives_the_uninterrupted_result(
    run: Any, cli: Cli, tiny: Path, uninterrupted: Result, tmp_path: Path
) -> None:
    first = run("submit", tiny, *LONGER)
    code, out = first.interrupt()
    assert code == 75, out
    assert "lastrun resume tiny-" in out.splitlines()[-1]
    job = first.job
    assert [value.value for value in (job.state()[0], job.state()[2])] == ["paused", "interrupted"]
    resumed = cli("resume", job.id)
    assert resumed.returncode == 0, resumed.stdout + resumed.stderr
    assert "going on from checkpoint" in resumed.stdout
    assert_same(job, uninterrupted)
    assert json.loads(cli("tensorboard", job.id, "--out", tmp_path / "board", "--json").stdout)["jobs"] == [
        {"id": job.id, "steps": 72 // 5, "epochs": 3}
    ]
    found, (_, epochs, steps) = curves(tmp_path / "board" / job.id), uninterrupted
    for name in ("loss", "lr", "train_top1"):
        assert found[f"step/{name}"] == [(line["step"], pytest.approx(line[name])) for line in steps]
    for name in ("train_loss", "test_top1"):
        assert found[f"epoch/{name}"] == [(line["epoch"], pytest.approx(line[name])) for line in epochs]


@pytest.mark.parametrize(
    "victim", ["agent", "everything", *(pytest.param(one, marks=pytest.mark.full) for one in ("trainer", "both"))]
)
def test_sigkill_at_random_moments_loses_nothing(
    run: Any, cli: Cli, tiny: Path, uninterrupted: Any, victim: str, full: bool
) -> None:
    chance = random.Random(victim)
    words: list[str | Path] = ["submit", tiny, *LONGER]
    for _ in range(4 if full else 1):
        current = run(*words)
        known = 0 if words[0] == "submit" else len(current.job.checkpoints.all())
        before = {s.name for s in current.job.checkpoints.all()} if known else set()
        current.wait_for(lambda job, old=before: {s.name for s in job.checkpoints.all()} - old)
        time.sleep(chance.random() * 0.3)
        acknowledged = current.job.checkpoints.all()[-1]
        agent, trainer = processes_of(current.process.pid)
        for pid in {"trainer": [trainer], "agent": [agent], "both": [agent, trainer]}.get(victim, []):
            os.kill(pid, signal.SIGKILL)
        if victim == "everything":
            os.kill(trainer, signal.SIGKILL)
            os.killpg(current.process.pid, signal.SIGKILL)
        code, _ = current.end()
        if code == 0:  # the blow came too late
            break
        current.settles_as("failed" if victim == "trainer" else "lost")
        assert current.job.checkpoints.all()[-1].order >= acknowledged.order
        words = ["resume", current.job.id]
    else:
        assert cli(*words).returncode == 0
    assert_same(current.job, uninterrupted)


def test_a_second_ctrl_c_leaves_at_once(run: Any, tiny: Path) -> None:
    current = run("submit", tiny, "--set", "training.epochs=50")
    with current.held(lambda job: job.checkpoints.all()) as trainer:  # a trainer that cannot save
        current.press_ctrl_c()
        wait_until(lambda: has_pending(trainer, signal.SIGTERM))
        assert current.process.poll() is None
        current.press_ctrl_c()
        code, out = current.end()
        assert code == 130
    assert out.splitlines()[-2:] == [f"job:  {current.job.uri}", f"next: lastrun resume {current.job.id}"]
    assert "Traceback" not in out
    assert [value.value for value in (current.job.state()[0], current.job.state()[2])] == ["paused", "interrupted"]
    assert not Path(f"/proc/{trainer}").exists() or "Z" in Path(f"/proc/{trainer}/stat").read_text().split()[2]


def test_a_session_limit_pauses_in_time(cli: Cli, tiny: Path, clean_env: dict[str, str]) -> None:
    limit = ("run.time_limit=60s", "hardware.stop_margin=52", "training.epochs=50000")
    done = cli("submit", tiny, "--set", *limit)
    assert done.returncode == 75, done.stdout + done.stderr
    job = find_job("tiny", clean_env["LASTRUN_STORE"])
    attempt = job.attempts.all()[-1]
    assert attempt.reason == "time_limit"
    assert attempt.ended_at is not None
    assert attempt.ended_at - attempt.started_at < 60


def test_a_detached_job_lives_on_and_can_be_followed(cli: Cli, tiny: Path, clean_env: dict[str, str]) -> None:
    started = cli("submit", tiny, "--detach", "--json")
    assert started.returncode == 0, started.stderr
    facts = json.loads(started.stdout)
    assert facts["state"] in ("running", "succeeded")
    job = find_job(facts["id"], clean_env["LASTRUN_STORE"])
    followed = cli("logs", job.id, "--follow").stdout
    assert followed.count("epoch 3/3  lr ") == 1
    assert followed.count("completed at step 18") == 1
    assert "succeeded" in cli("status", job.id, "-w").stdout
    assert json.loads(cli("status", job.id, "--json").stdout)["state"] == "succeeded"


def test_a_detached_start_that_fails_says_why(cli: Cli, tiny: Path, clean_env: dict[str, str], run: Any) -> None:
    current = run("submit", tiny, "--set", "training.epochs=500")
    with current.held(lambda job: job.checkpoints.all()):
        second = cli("resume", current.job.id, "--detach")
    assert second.returncode == 5
    assert "being run by attempt 1" in second.stderr


def test_a_damaged_checkpoint_is_skipped_for_the_one_before(run: Any, cli: Cli, tiny: Path, uninterrupted: Any) -> None:
    current = run("submit", tiny, *LONGER)
    with current.held(lambda job: len(job.checkpoints.all()) >= 3):
        current.press_ctrl_c()
    current.end()
    job = current.job
    stored = job.checkpoints.all()
    root = Path(job.store.uri.removeprefix("file://")) / job.paths.checkpoints.rstrip("/")
    damaged = root / stored[-1].name / "state.pt"
    data = bytearray(damaged.read_bytes())
    data[len(data) // 2] ^= 1
    damaged.write_bytes(data)
    (root / stored[-2].name / MANIFEST).write_text("{")
    resumed = cli("resume", job.id)
    assert resumed.returncode == 0, resumed.stdout + resumed.stderr
    assert f"skipping checkpoint {stored[-1].name}" in resumed.stdout
    assert f"skipping checkpoint {stored[-2].name}" in resumed.stdout
    assert f"going on from checkpoint {stored[-3].name}" in resumed.stdout
    assert_same(job, uninterrupted)


def test_a_missing_data_file_ends_in_one_clear_line(cli: Cli, tiny: Path, clean_env: dict[str, str]) -> None:
    done = cli("submit", tiny, "--set", "dataset=ntu60", "hardware.data_root=/nowhere")
    assert done.returncode == 2
    assert "/nowhere" in done.stderr
    assert "ntu60.safetensors" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not Path(clean_env["LASTRUN_STORE"]).exists()


@pytest.mark.parametrize(("words", "code"), [(("status", "nope"), 3), (("resume", "nope"), 3), (("logs", "NOPE!"), 2)])
def test_jobs_that_are_not_there(cli: Cli, words: tuple[str, ...], code: int) -> None:
    done = cli(*words)
    assert done.returncode == code
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("error: ")


def test_a_store_that_cannot_be_written(cli: Cli, tiny: Path) -> None:
    (tiny.parent / "file").write_text("not a folder")
    done = cli("submit", tiny, "--store", tiny.parent / "file" / "store")
    assert done.returncode == 4
    assert done.stderr.startswith("error: file://")
    assert len(done.stderr.splitlines()) == 1


def fill(disk: Path, room: int) -> None:
    """Leave so many bytes."""
    (disk / "filler").write_bytes(bytes(os.statvfs(disk).f_bavail * 4096 - room))


def test_a_full_store_loses_nothing(cli: Cli, tiny: Path, small_disk: Path, uninterrupted: Any) -> None:
    """Training goes on; what the store had no room for is kept, and sent once there is some."""
    fill(small_disk, 300_000)  # a few checkpoints
    done = cli("submit", tiny, *LONGER, "--store", small_disk / "store", "--set", "checkpoint.keep_last=100")
    assert done.returncode == 4, done.stdout + done.stderr
    assert "No space left" in done.stdout
    assert "completed at step 72" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr
    store = DirectoryStore(small_disk / "store")
    job = jobs_in(store)[0]
    assert done.stdout.splitlines()[-1] == f"next: lastrun sync {job.reference}"
    newest = job.checkpoints.fetch_newest(job.checkpoints.all(), tiny.parent / "fetched", print)
    assert newest is not None

    command = next(line for line in done.stdout.splitlines() if "lastrun sync" in line).partition("lastrun ")[2]
    subprocess.run(["mount", "-o", "remount,size=100m", str(small_disk)], check=True)
    sent = cli(*command.removesuffix(" sends it").split(), "--store", small_disk / "store")
    assert sent.returncode == 0, sent.stderr
    assert job.state()[0].value == "succeeded"
    assert_same(job, uninterrupted)


def test_a_disk_that_is_full_while_a_checkpoint_is_fetched_costs_nothing(
    run: Any, cli: Cli, tiny: Path, small_disk: Path, uninterrupted: Any
) -> None:
    current = run("submit", tiny, *LONGER)
    assert current.interrupt()[0] == 75
    before = [stored.name for stored in current.job.checkpoints.all()]
    fill(small_disk, 20_000)  # for the attempt's small files, not for a checkpoint
    full = cli("resume", current.job.id, "--set", f"hardware.scratch_root={small_disk}")
    assert full.returncode == 1, full.stdout + full.stderr
    state, _, reason = current.job.state()
    assert (state.value, reason and reason.value) == ("failed", "out_of_disk")
    assert "free some space" in full.stdout
    assert [stored.name for stored in current.job.checkpoints.all()] == before
    assert cli("resume", current.job.id).returncode == 0
    assert_same(current.job, uninterrupted)


def test_status_shows_how_far_the_store_is_and_warns_of_a_lag(cli: Cli, tiny: Path, clean_env: dict[str, str]) -> None:
    assert cli("submit", tiny).returncode == 0
    store = open_store(clean_env["LASTRUN_STORE"])
    job = jobs_in(store)[0]
    attempt = Attempt("0002-aa", "another machine", 1, "1", time.time(), phase="running", host="other", env="local")
    attempt.inherited = [stored.name for stored in job.checkpoints.all()]
    job.attempts.write(attempt)
    last = job.checkpoints.all()[-1].manifest.step
    for lag, words in ((0.0, f"synced to step {last}\n"), (75.0, f"warning: synced to step {last}, the oldest of the rest")):
        job.attempts.write_heartbeat(attempt, {"step": 50, "lag_seconds": lag, "total_steps": 100, "seconds_left": 9.0})
        assert words in cli("status", job.id).stdout
        assert json.loads(cli("status", job.id, "--json").stdout)["synced_step"] == last


def test_an_attempt_elsewhere_is_lost_when_its_heart_stops(tmp_path: Path) -> None:
    job = Job(DirectoryStore(tmp_path), "j")
    attempt = Attempt("0001-aa", "another machine", 1, "1", time.time(), phase="running", host="other")
    job.attempts.write(attempt)
    assert job.state()[0].value == "running"
    written = time.time() - EXPIRY_SECONDS - 1
    os.utime(tmp_path / "j" / "attempts" / attempt.id / "attempt.json", (written, written))
    assert job.state()[0].value == "lost"
    job.attempts.write_heartbeat(attempt, {})
    assert job.state()[0].value == "running"


def test_stop_from_elsewhere_saves_and_pauses(run: Any, cli: Cli, tiny: Path, uninterrupted: Any) -> None:
    current = run("submit", tiny, *LONGER)
    with current.held(some_step_is_stored) as trainer:
        asked = cli("stop", current.job.id)
        assert asked.returncode == 0, asked.stderr
        wait_until(lambda: has_pending(trainer, signal.SIGTERM))
        current.press_ctrl_c()  # the first: it saves all the same
    code, out = current.end()
    assert code == 75, out
    state, _, reason = current.job.state()
    assert (state.value, reason and reason.value) == ("stopped", "stop_requested")
    assert cli("stop", current.job.id).returncode == 2
    assert cli("resume", current.job.id).returncode == 0
    assert_same(current.job, uninterrupted)


@pytest.mark.parametrize(
    "place", [pytest.param("folder", marks=pytest.mark.full), pytest.param("bucket", marks=pytest.mark.xdist_group("ceph"))]
)
def test_an_attempt_that_comes_back_after_a_takeover_changes_nothing(
    request: pytest.FixtureRequest, place: str, run: Any, cli: Cli, tiny: Path, uninterrupted: Any
) -> None:
    if place == "bucket":
        request.getfixturevalue("bucket")
    old = run("submit", tiny, *LONGER)
    with old.held(some_step_is_stored):
        agent, _ = processes_of(old.process.pid)
        os.kill(agent, signal.SIGSTOP)
    refused = cli("resume", old.job.id)
    assert refused.returncode == 5
    assert "--takeover" in refused.stderr
    taken = cli("resume", old.job.id, "--takeover")
    assert taken.returncode == 0, taken.stdout + taken.stderr
    before = [(stored.name, stored.manifest) for stored in old.job.checkpoints.all()]
    os.kill(agent, signal.SIGCONT)
    code, out = old.end()
    assert code == 5, out
    assert "another attempt has taken the job" in out
    state, attempt, _ = old.job.state()
    assert (state.value, attempt and attempt.number) == ("succeeded", 2)
    assert [(stored.name, stored.manifest) for stored in old.job.checkpoints.all()] == before
    assert_same(old.job, uninterrupted)


def test_checkpoints_are_pulled_whole_and_a_job_is_removed_whole(cli: Cli, tiny: Path, clean_env: dict[str, str]) -> None:
    assert cli("submit", tiny).returncode == 0
    job = find_job("tiny", clean_env["LASTRUN_STORE"])
    stored = job.checkpoints.all()
    assert cli("pull", job.id, "newest").returncode == 0
    assert verify(tiny.parent / "newest") == stored[-1].manifest
    best = max(m.manifest.test_top1 or 0 for m in stored)
    assert cli("pull", job.id, "best", "--best").returncode == 0
    assert verify(tiny.parent / "best").test_top1 == best
    assert cli("pull", job.id, "step", "--step", str(stored[0].manifest.step)).returncode == 0
    assert verify(tiny.parent / "step").step == stored[0].manifest.step
    for words in (["newest"], ["other", "--step", "999"]):
        assert cli("pull", job.id, *words).returncode == 2
    refused = cli("rm", job.id[:-2])
    assert refused.returncode == 2
    assert job.id in refused.stderr
    assert cli("rm", job.id).returncode == 0
    assert list(job.store.scan("")) == []
    assert cli("status", job.id).returncode == 3


def test_sync_sends_and_deletes_nothing_but_an_outbox_of_the_job(
    cli: Cli, tiny: Path, clean_env: dict[str, str], tmp_path: Path
) -> None:
    assert cli("submit", tiny, "--set", "training.epochs=1").returncode == 0
    [job] = jobs_in(open_store(clean_env["LASTRUN_STORE"]))
    before = [entry.key for entry in job.store.scan("")]
    mine = tmp_path / "mine"
    (mine / "thesis").mkdir(parents=True)
    (mine / "thesis" / "chapter.txt").write_text("all there is")
    linked = tmp_path / "linked"
    (linked / job.id).mkdir(parents=True)
    (linked / job.id / "attempts").symlink_to(mine)
    other = tmp_path / "other"
    (other / "other-20260101-000000-aaaa" / "attempts" / "0001-aa").mkdir(parents=True)
    for folder in (mine, linked, other, clean_env["LASTRUN_STORE"]):
        refused = cli("sync", job.id, "--from", folder)
        assert refused.returncode == 2, refused.stdout
        assert "nothing was sent" in refused.stderr
    assert (mine / "thesis" / "chapter.txt").read_text() == "all there is"
    assert [entry.key for entry in job.store.scan("")] == before


@pytest.mark.slow
@pytest.mark.parametrize("taken", [False, True])
def test_a_job_deleted_while_its_last_uploads_are_on_their_way_leaves_nothing(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, taken: bool
) -> None:
    """Found by ``tests.simulation.attempts`` with seeds 2010319 and, where another attempt had ``taken`` it before, 7202640."""

    class Busy(DirectoryStore):
        def put_file(self, key: str, path: Path) -> None:
            if not taken and b'"ended"' in path.read_bytes():  # its end is on its way; the store still says that it runs
                assert Job(DirectoryStore(self.root), key.split("/")[0]).delete()
            super().put_file(key, path)

    resolved = resolve_spec(tiny, "local", ["training.epochs=1", f"hardware.scratch_root={tmp_path}"])
    origins = {key: str(origin) for key, origin in resolved.origins.items()}
    job = Job.create(store := Busy(tmp_path / "store"), "tiny", resolved.items(), origins, "0")
    if taken:
        monkeypatch.setattr(LastLook, "answer", lambda *_: Job(job.store, job.id).delete() and Reason.LEASE_LOST)
    handlers = {each: signal.getsignal(each) for each in (signal.SIGINT, *LEAVING)}
    with ConsoleSink() as sink:
        code = run_attempt(job, None, [], [], sink, report=page_at_the_end)
    for each, handler in handlers.items():
        signal.signal(each, handler)
    assert code == Reason.JOB_DELETED.ending.exit_code
    assert [entry.key for entry in store.scan("")] == [job.paths.tombstone]


@pytest.mark.slow
def test_an_attempt_whose_report_cannot_be_made_ends_as_it_would_have(tiny: Path, tmp_path: Path) -> None:
    resolved = resolve_spec(tiny, "local", ["training.epochs=1", f"hardware.scratch_root={tmp_path}"])
    origins = {key: str(origin) for key, origin in resolved.origins.items()}
    job = Job.create(DirectoryStore(tmp_path / "store"), "tiny", resolved.items(), origins, "0")

    def broken(job: Job, own: Own) -> str:
        raise ZeroDivisionError("a page of no size")

    handlers = {each: signal.getsignal(each) for each in (signal.SIGINT, *LEAVING)}
    with ConsoleSink() as sink:
        code = run_attempt(job, None, [], [], sink, report=broken)
    for each, handler in handlers.items():
        signal.signal(each, handler)
    assert code == 0
    assert job.state()[0].value == "succeeded"
    *_, last = "".join(job.log()).splitlines()
    assert "no report is kept of this attempt (ZeroDivisionError: a page of no size); lastrun report " in last
    assert not [entry for entry in job.store.scan(job.paths.attempts) if entry.key.endswith(".html")]


@pytest.fixture(scope="module")
def two_jobs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with two jobs that have ended."""
    folder = tmp_path_factory.mktemp("two")
    (folder / "tiny.yaml").write_text(TINY)
    command = [sys.executable, "-m", "runner", "submit", str(folder / "tiny.yaml"), "--store", str(folder / "store")]
    for _ in range(2):
        done = subprocess.run([*command, "--set", "training.epochs=1"], capture_output=True, timeout=PATIENCE, check=False)
        assert done.returncode == 0, done.stderr
    return folder / "store"


@pytest.mark.parametrize("file", ["job.json", "attempt.json", "heartbeat.json", "metrics.jsonl"])
def test_damaged_records_are_told_and_hide_no_other_job(cli: Cli, two_jobs: Path, clean_env: dict[str, str], file: str) -> None:
    shutil.copytree(two_jobs, clean_env["LASTRUN_STORE"])
    first, second = list_jobs(DirectoryStore(Path(clean_env["LASTRUN_STORE"])))
    key = next(entry.key for entry in first.store.scan(first.id) if entry.key.endswith(file))
    for damage in (
        b"",
        b"[1]",
        b'{"created_at": 1e300}',
        b'{"epoch": "\\u001b[2J", "time": "x", "last_epoch": [1]}',
        b"\xff\x00",
    ):
        first.store.put(key, damage)
        listed = cli("list", "--json")
        assert listed.returncode == 0, listed.stderr
        rows = {row["id"]: row for row in json.loads(listed.stdout)["jobs"]}
        assert rows[second.id]["state"] == "succeeded"
        shown = cli("status", first.id)
        assert shown.returncode in (0, 4)
        assert "Traceback" not in shown.stderr
        assert "\x1b" not in shown.stdout + shown.stderr


@pytest.mark.parametrize("skew", [-3600, 3600])
def test_an_attempt_whose_clock_is_an_hour_off_is_not_taken_for_dead_while_its_heart_beats(tmp_path: Path, skew: int) -> None:
    job = Job(DirectoryStore(tmp_path), "j")
    other = Attempt("0001-aa", "another machine", 1, "1", time.time() + skew, phase="running", host="other")
    job.attempts.write(other)
    folder = tmp_path / "j" / "attempts" / other.id
    over = threading.Event()

    def beat() -> None:
        """As a folder has it on a file server whose clock is off."""
        now = time.time() + skew
        (folder / "new").write_text(json.dumps({"time": now}))
        os.utime(folder / "new", (now, now))
        os.replace(folder / "new", folder / "heartbeat.json")

    def keep_beating() -> None:
        while not over.wait(1):
            beat()

    beat()
    heart = threading.Thread(target=keep_beating)
    heart.start()
    try:
        with pytest.raises(ClaimedError, match="clock differs"):
            claim(job)
    finally:
        over.set()
        heart.join()
    assert claim(job).supersedes == [other.id]  # now it is dead


def test_resume_refuses_what_decides_learning_and_what_was_allowed_stays(run: Any, cli: Cli, tiny: Path) -> None:
    current = run("submit", tiny, *LONGER)
    assert current.interrupt()[0] == 75
    refused = cli("resume", current.job.id, "--set", "training.lr=0.2", "training.seed=1")
    assert refused.returncode == 2
    assert [line.split(": ")[2] for line in refused.stderr.splitlines()] == ["training.lr", "training.seed"]
    assert len(current.job.attempts.all()) == 1

    elsewhere = cli("resume", current.job.id, "--env", "a100")
    assert elsewhere.returncode == 2
    assert f"env a100: this machine is {detect_environment()[0]} (" in elsewhere.stderr
    assert "--here to train here with that profile all the same" in elsewhere.stderr
    assert "(--on HOST for one that ssh reaches, --launcher slurm for a cluster's, --launcher hf " in elsewhere.stderr
    assert len(current.job.attempts.all()) == 1
    again = run(
        "resume", current.job.id, "--env", "a100", "--here", "--set", "training.lr=0.013", "--allow-change", "training.lr"
    )
    with again.held(lambda job: job.checkpoints.all()[-1].attempt.startswith("0002")):
        again.press_ctrl_c()
    code, out = again.end()
    assert code == 75, out
    assert "hardware.num_workers" in out
    assert "decides learning; allowed" in out
    attempt = current.job.attempts.all()[-1]
    assert f"warning: env a100 is used on a machine that is {detect_environment()[0]} (" in out
    assert attempt.env == detect_environment()[0]  # where it ran, not what was asked
    assert {change["key"] for change in attempt.changes} >= {"training.lr", "hardware.num_workers"}

    last = cli("resume", current.job.id)
    assert last.returncode == 0, last.stdout + last.stderr
    assert "training.lr" not in last.stdout  # nothing changes any more
    with_change = [
        line["lr"] for line in current.job.metrics() if line["epoch"] > again.job.attempts.all()[1].resumed_epoch + 1
    ]
    assert max(with_change) <= 0.013
    config, origins, changed = current.job.settings()
    assert (config["training.lr"], origins["training.lr"], changed) == (0.013, "attempt 2", ["training.lr"])


def test_an_allowed_change_of_the_batch_trains_every_epoch(run: Any, cli: Cli, tiny: Path) -> None:
    current = run("submit", tiny, *LONGER)
    with current.held(lambda job: any(stored.manifest.step > 24 for stored in job.checkpoints.all())):
        current.press_ctrl_c()
    assert current.end()[0] == 75
    assert current.job.checkpoints.all()[-1].manifest.step % 24
    done = cli("resume", current.job.id, "--set", "training.batch_size=20", "--allow-change", "training.batch_size")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "an epoch has 12 steps now" in done.stdout
    assert [m["epoch"] for m in current.job.metrics()] == [1, 2, 3]
    assert current.job.metrics()[-1]["step"] == 36


@pytest.mark.parametrize("words", [["list"], ["validate", "tiny.yaml"], ["explain", "tiny.yaml"]])
def test_output_that_cannot_be_written_is_one_line(tiny: Path, clean_env: dict[str, str], words: list[str]) -> None:
    command = [sys.executable, "-m", "runner", *words]
    buffered = {**clean_env, "PYTHONUNBUFFERED": ""}  # as on most machines: the error comes when the buffer is flushed
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            command,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            env=buffered,
            cwd=tiny.parent,
            timeout=PATIENCE,
            check=False,
        )
    assert done.returncode == 1
    assert "No space left on device" in done.stderr
    assert "Traceback" not in done.stderr
