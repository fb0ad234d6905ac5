"""What ``lastrun watch`` tells of jobs, to whom, and that it does so once."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from runner.commands.watch import _seconds, watch
from runner.job.attempts import EXPIRY_SECONDS, Attempt
from runner.job.group import Group, PointRecord
from runner.job.job import Job
from runner.notify.event import loss_of
from runner.notify.notes import Notes
from runner.trust import Trust
from runner.view.console import print_json
from runner.watch import GRACE_SECONDS, NEWS_SECONDS, Watch
from tests.conftest import Cli
from tests.counting.store import CountingStore
from tests.jobs import PATIENCE
from tests.receiver import Receiver

CONFIG = {"model.variant": "nano_e_v3", "dataset": "synthetic", "split_type": "cross_subject", "env": "local"}


@pytest.fixture
def receiver(monkeypatch: pytest.MonkeyPatch) -> Iterator[Receiver]:
    one = Receiver()
    monkeypatch.setenv("HOOK", one.address())
    yield one
    one.close()


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CountingStore:
    """This user has given what the jobs of these tests name."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    monkeypatch.setattr("runner.notify.notes._LOOK_SECONDS", 0.05)  # nobody else is at it
    made = CountingStore(tmp_path / "store")
    Trust(made.uri).remember({"notify.webhook": "HOOK"})
    return made


def make_job(store: CountingStore, ended: str | None = None, silent: float = 0.0, **notify: Any) -> Job:
    """A job whose attempt, elsewhere, was heard of so many seconds ago, or ended then."""
    told = {f"notify.{key}": value for key, value in ({"webhook": "HOOK"} | notify).items()}
    job = Job.create(store, "far", {**CONFIG, "training.epochs": 9, **told}, {}, "0")
    begin(job, 1, ended, silent)
    return job


def begin(job: Job, number: int, ended: str | None = None, silent: float = 0.0, idle: float = 0.0) -> None:
    now = time.time() - silent
    attempt = Attempt(f"{number:04d}-aaaaaaaa", "elsewhere", 1, "1", now, phase="running", began=True, host="far", inherited=[])
    job.attempts.write(attempt)
    beat(job, now, idle, number)
    if ended is not None:
        attempt.phase, attempt.reason, attempt.ended_at, attempt.message = "ended", ended, now, "so it was"
        job.attempts.write(attempt)
    for path in (Path(job.store.uri.removeprefix("file://")) / job.paths.attempts).rglob("*.json"):
        os.utime(path, (now, now))


def beat(job: Job, at: float, idle: float, number: int = 1, step: int = 7) -> None:
    said = {"time": at, "idle_seconds": idle, "step": step, "total_steps": 70}
    job.store.put(job.paths.heartbeat(f"{number:04d}-aaaaaaaa"), json.dumps(said).encode())


def told(watch: Watch, *jobs: Job) -> list[str]:
    return [one.event.news for one in watch.look(jobs)[0] if one.told]


def test_one_that_is_lost_is_told_once_whoever_watches(store: CountingStore, receiver: Receiver) -> None:
    job, alive = make_job(store, silent=2 * EXPIRY_SECONDS), make_job(store)
    first = Watch(1800)
    assert told(first, job, alive) == ["lost"]
    assert told(first, job, alive) == []
    assert told(Watch(1800), Job(store, job.id), Job(store, alive.id)) == []
    [message] = receiver.messages
    about = message.json()["data"]
    assert (about["job"], about["state"], about["host"], about["step"]) == (job.id, "lost", "far", 7)
    assert "ended without a word after" in about["text"]
    assert f"at step 7 of 70; next: lastrun resume {job.reference}" in about["text"]
    begin(job, 2, silent=2 * EXPIRY_SECONDS)  # somebody went on with it, and that was lost as well
    assert told(first, job) == ["lost"]
    assert len({one.headers["webhook-id"] for one in receiver.messages}) == 2


def test_of_several_that_watch_at_the_same_moment_one_tells(store: CountingStore, monkeypatch: pytest.MonkeyPatch) -> None:
    job = make_job(store, silent=2 * EXPIRY_SECONDS)
    notes = Notes(job, loss_of(job, job.attempts.all()[0], {}))
    none_yet, line = notes.read(), threading.Barrier(4)
    monkeypatch.setattr("runner.notify.notes.time.sleep", lambda _: line.wait(PATIENCE))  # until all have written
    with ThreadPoolExecutor(4) as pool:
        assert sorted(pool.map(lambda by: notes.take(none_yet, by), "abcd")) == [False, False, False, True]


def test_one_that_was_killed_over_it_is_followed_by_another_with_the_same_id(store: CountingStore, receiver: Receiver) -> None:
    job = make_job(store, silent=2 * EXPIRY_SECONDS)
    [event] = [one.event for one in Watch(1800).look([job])[0]]
    notes = Notes(job, event)
    store.put(notes.key, notes.content([], by="another"))
    assert told(Watch(1800), Job(store, job.id)) == []  # it may be at it
    path = store.root / notes.key
    os.utime(path, (time.time() - 3600,) * 2)
    assert told(Watch(1800), Job(store, job.id)) == ["lost"]
    assert [one.headers["webhook-id"] for one in receiver.messages] == [event.id] * 2


def test_an_attempt_that_gets_no_further_is_told_once_a_step(store: CountingStore, receiver: Receiver) -> None:
    job, watch = make_job(store), Watch(1800)
    beat(job, time.time(), 1700.0)
    assert told(watch, job) == []
    beat(job, time.time(), 1801.0)
    assert told(watch, job) == ["stalled"]
    beat(job, time.time(), 1900.0)
    assert told(watch, job) == []
    beat(job, time.time(), 1801.0, step=8)
    assert told(watch, job) == ["stalled"]
    text = receiver.messages[0].json()["data"]["text"]
    assert "has not ended, and has made no step since" in text
    assert f"next: lastrun logs {job.reference}" in text


def test_an_end_is_told_when_the_attempt_had_time_to_and_did_not(store: CountingStore, receiver: Receiver) -> None:
    fresh, late = make_job(store, "diverged"), make_job(store, "diverged", silent=GRACE_SECONDS + 5)
    asked = make_job(store, "stop_requested", silent=GRACE_SECONDS + 5)
    old = make_job(store, "diverged", silent=NEWS_SECONDS + 5)
    known = make_job(store, "diverged", silent=GRACE_SECONDS + 5)
    store.put(known.paths.told("0001-aaaaaaaa", "end"), Notes.content(["webhook"]))
    watch = Watch(1800)
    found, goes_on = watch.look([fresh, late, asked, old, known])
    assert [(one.event.news, one.event.facts["job"]) for one in found] == [("diverged", late.id)]
    assert goes_on  # the first may still have to be told
    assert receiver.messages[0].json()["data"]["message"] == "so it was"
    assert watch.look([late, asked, old, known]) == ([], False)
    store.calls.clear()
    assert watch.look([late, asked, old, known]) == ([], False)
    assert len(store.calls) == 4, store.calls  # whether somebody has gone on with it


def test_those_who_could_not_be_told_are_told_later_and_the_others_not_again(
    store: CountingStore, receiver: Receiver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ["sh", "-c", f"test -e {tmp_path}/works"]
    Trust(store.uri).remember({"notify.command": command})
    job, watch = make_job(store, "completed", silent=GRACE_SECONDS + 5, command=command), Watch(1800)
    [one], _ = watch.look([job])
    assert (one.told, one.failed) == (["webhook"], {"command": "sh ended with code 1"})
    assert watch.look([job]) == ([], True)  # not at once
    assert Watch(1800).look([Job(store, job.id)])[0][0].failed == {"command": "sh ended with code 1"}
    (tmp_path / "works").touch()
    monkeypatch.setattr("runner.watch.time.monotonic", lambda: time.perf_counter() + 1e6)
    [one], _ = watch.look([job])
    assert (one.told, one.failed) == (["command"], {})
    assert len(receiver.messages) == 1


def test_a_job_that_others_have_stored_tells_nobody_until_this_user_takes_it(
    store: CountingStore, receiver: Receiver, tmp_path: Path
) -> None:
    command = ["touch", str(tmp_path / "done")]
    job = make_job(store, silent=2 * EXPIRY_SECONDS, command=command)
    watch = Watch(1800)
    assert watch.look([job]) == ([], False)
    [note] = watch.notes
    assert "names whom you alone decide to tell" in note
    assert f"notify.command = {command!r}" in note
    assert "notify.webhook" not in note
    watch = Watch(1800, trust_all=True)
    assert told(watch, Job(store, job.id)) == ["lost"]
    [note] = watch.notes
    assert note.startswith(f"taken from {job.id}, and remembered for {store.uri}:\n  notify.command = {command!r}")
    assert (tmp_path / "done").exists()
    begin(job, 2, silent=2 * EXPIRY_SECONDS)
    assert told(Watch(1800), Job(store, job.id)) == ["lost"]  # it is remembered


@pytest.mark.parametrize("value", [{"webhook": "no name"}, {"on": "lost"}, {"command": [1]}, {"bogus": "x"}], ids=str)
def test_what_a_damaged_job_names_holds_up_no_other(store: CountingStore, receiver: Receiver, value: dict[str, Any]) -> None:
    bad, good = make_job(store, silent=2 * EXPIRY_SECONDS, **value), make_job(store, silent=2 * EXPIRY_SECONDS)
    store.put(Job(store, good.id).paths.told("0001-aaaaaaaa", "lost"), b"\xff{")
    watch = Watch(1800)
    assert told(watch, bad, good) == ["lost"]
    assert any(bad.id in note for note in watch.notes)
    assert len(receiver.messages) == 1


def test_what_is_taken_is_of_the_jobs_that_were_there_when_it_was_said(
    store: CountingStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Somebody who may write to the store writes a job of the group later."""
    points = [
        PointRecord(
            values={}, config={**CONFIG, "training.epochs": 9, "notify.command": ["touch", str(tmp_path / name)]}, origins={}
        )
        for name in ("first", "second")
    ]
    group = Group.create(store, "sw", points, "0")
    group.complete()
    first, second = group.jobs()
    for job in (first, second):
        begin(job, 1, silent=2 * EXPIRY_SECONDS)
    folder, aside = store.root / second.id, tmp_path / "aside"
    folder.rename(aside)

    def wait(_: float) -> None:
        assert not (tmp_path / "second").exists()
        aside.rename(folder)

    monkeypatch.setattr("runner.commands.watch.time", SimpleNamespace(sleep=wait))
    watch([group.id], store=store.uri, trust=True, every="1s", stalled_after="30m")
    said = capsys.readouterr().err
    assert f"taken from {first.id}" in said
    assert f"{second.id} names whom you alone decide to tell" in said
    assert (tmp_path / "first").exists()
    assert not (tmp_path / "second").exists()


@pytest.mark.parametrize("at", [1e17, -1e17, float("nan")], ids=str)
def test_a_time_that_has_no_date_holds_up_no_other(store: CountingStore, receiver: Receiver, at: float) -> None:
    bad, good = make_job(store, silent=2 * EXPIRY_SECONDS), make_job(store, silent=2 * EXPIRY_SECONDS)
    [attempt] = bad.attempts.all()
    attempt.started_at = at
    bad.attempts.write(attempt)
    path = store.root / bad.paths.heartbeat(attempt.id)
    path.write_text("{}")
    os.utime(path, (time.time() - 2 * EXPIRY_SECONDS,) * 2)
    found, _ = Watch(1800).look([Job(store, bad.id), good])
    assert good.id in [one.event.facts["job"] for one in found if one.told]


def test_a_job_that_the_system_cannot_look_at_holds_up_no_other(
    store: CountingStore, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad, good = make_job(store, silent=2 * EXPIRY_SECONDS), make_job(store, silent=2 * EXPIRY_SECONDS)

    def fail() -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(bad.attempts, "names", fail)
    watch = Watch(1800)
    assert told(watch, bad, good) == ["lost"]
    assert watch.notes == [f"{bad.id} cannot be read: [Errno 5] Input/output error"]


def test_a_store_that_can_only_be_read_has_nobody_told_again_and_again(store: CountingStore, receiver: Receiver) -> None:
    job, watch = make_job(store, silent=2 * EXPIRY_SECONDS), Watch(1800)
    store.root.joinpath(job.paths.attempts, "0001-aaaaaaaa", "told").write_text("in the way")
    assert told(watch, job) == []
    assert receiver.messages == []
    assert "who has been told cannot be written down" in watch.notes[0]


def test_the_command_watches_a_store_from_cron_and_stays(cli: Cli, receiver: Receiver, tmp_path: Path) -> None:
    address = os.environ["HOOK"]
    job = make_job(CountingStore(tmp_path / "store"), silent=2 * EXPIRY_SECONDS)
    refused = cli("watch", "--once", "--json", HOOK=address)
    facts = json.loads(refused.stdout)
    assert facts.items() >= {"lastrun": "watch", "jobs": 1, "events": []}.items()
    assert "--trust takes it" in facts["notes"][0]
    assert receiver.messages == []
    done = cli("watch", "--once", "--trust")
    assert done.returncode == 2
    assert "lastrun watch JOB --trust" in done.stderr
    done = cli("watch", "--once", job.id, "--trust")
    assert done.returncode == 1
    assert f"taken from {job.id}, and remembered for" in done.stderr
    assert "notify.webhook was not told: HOOK is not set here" in done.stderr
    done = cli("watch", job.id, "--every", "1s", "--json", HOOK=address)  # it ends when there is nothing left
    assert done.returncode == 0, done.stderr
    [line] = [json.loads(line) for line in done.stdout.splitlines()]
    assert (line["news"], line["told"], line["failed"]) == ("lost", ["webhook"], {})
    assert len(receiver.messages) == 1
    done = cli("watch", "--every", "soon")
    assert (done.returncode, "--every: found soon; allowed: a time such as 30m" in done.stderr) == (2, True)
    assert (_seconds("90"), _seconds("1h30m"), _seconds("31d"), _seconds("0")) == (90, 5400, None, None)


def test_json_of_a_command_that_prints_several_stands_on_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    print_json("watch", {"a": [1, float("nan")]}, line=True)
    assert capsys.readouterr().out == '{"lastrun": "watch", "version": 1, "a": [1, null]}\n'
