"""Which checkpoints of a job count."""

from __future__ import annotations

import hashlib
import os
import queue
import shutil
import subprocess
import time
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from last_e.manifest import File, Manifest
from runner import machine
from runner.attempt.run import scores_at_the_end
from runner.attempt.trainer import Trainer
from runner.errors import PausedError, Reason, StoreError, UsageError
from runner.job import lease
from runner.job.attempts import EXPIRY_SECONDS, Attempt, Attempts
from runner.job.find import list_jobs
from runner.job.job import Job
from runner.job.lease import Heart, claim
from runner.job.pull import pull_checkpoint
from runner.launch.settle import settled
from runner.store.directory import DirectoryStore
from runner.store.protocol import MOST_BYTES, Entry
from runner.view.status import job_status, summaries


def store_checkpoint(job: Job, step: int, attempt: str) -> str:
    name = f"{step:08d}-{attempt}"
    files = {"state.pt": File(size=1, sha256="0" * 64)}
    manifest = Manifest(step=step, epoch=0, evaluated=False, files=files)
    job.store.put(job.paths.checkpoint(name), manifest.to_json().encode())
    return name


def test_what_an_old_writer_sends_after_another_attempt_has_begun_is_not_followed(tmp_path: Path) -> None:
    job = Job(DirectoryStore(tmp_path), "j")
    old = Attempt("0001-aaaaaaaa", "elsewhere", 1, "1", time.time(), phase="running")
    job.attempts.write(old)
    early = store_checkpoint(job, 10, old.id)
    assert [stored.name for stored in job.checkpoints.all()] == [early]

    new = Attempt("0002-bbbbbbbb", "here", 1, "1", time.time(), phase="running", supersedes=[old.id], inherited=[early])
    job.attempts.write(new)
    store_checkpoint(job, 99, old.id)
    own = store_checkpoint(job, 12, new.id)
    assert [stored.name for stored in job.checkpoints.all()] == [early, own]


def test_a_checkpoint_that_an_attempt_went_on_from_stays_until_there_are_newer_ones(tmp_path: Path) -> None:
    job = Job(DirectoryStore(tmp_path), "j")
    old = Attempt("0001-aaaaaaaa", "elsewhere", 1, "1", time.time(), phase="ended", reason="preempted")
    job.attempts.write(old)
    names = [store_checkpoint(job, step, old.id) for step in (10, 20)]
    new = Attempt("0002-bbbbbbbb", "here", 1, "1", time.time(), phase="running", inherited=names, resumed_from=names[0])
    job.attempts.write(new)
    job.checkpoints.pass_over(names[1])  # it was damaged
    for kept in ([names[0]], [30], [40]):
        if kept != [names[0]]:
            kept = [store_checkpoint(job, *kept, new.id)]
        job.checkpoints.all()
        job.checkpoints.prune(keep_last=1, by=new)
        assert [stored.name for stored in job.checkpoints.all() if stored.name != names[1]] == kept


def test_an_attempt_whose_job_was_taken_prunes_nothing_though_nobody_has_told_it(tmp_path: Path) -> None:
    job = Job(DirectoryStore(tmp_path), "j")
    old = Attempt("0001-aaaaaaaa", "elsewhere", 1, "1", time.time(), phase="running")
    job.attempts.write(old)
    names = [store_checkpoint(job, step, old.id) for step in (10, 20)]
    new = Attempt("0002-bbbbbbbb", "here", 1, "1", time.time(), supersedes=[old.id], inherited=names, resumed_from=names[0])
    new.phase, new.reason = "ended", "completed"
    job.attempts.write(new)
    job.checkpoints.all()
    job.checkpoints.prune(keep_last=1, by=old)
    assert [stored.name for stored in job.checkpoints.all()] == names


class BrittleStore(DirectoryStore):
    """A store that fails once, after it has deleted so many objects."""

    left = 1

    def delete(self, keys: Iterable[str]) -> None:
        for key in keys:
            if self.left == 0:
                self.left = -1
                raise StoreError("the connection broke")
            self.left -= 1
            super().delete([key])


def test_what_a_broken_pruning_left_goes_with_the_next_and_what_is_on_its_way_stays(tmp_path: Path) -> None:
    job = Job(BrittleStore(tmp_path), "j")
    attempt = Attempt("0001-aaaaaaaa", "here", 1, "1", time.time(), phase="running")
    job.attempts.write(attempt)
    names = [store_checkpoint(job, step, attempt.id) for step in (10, 20, 30)]
    others = job.paths.checkpoint("00000005-0002-bbbbbbbb", "state.pt")
    for key in [job.paths.checkpoint(name, "state.pt") for name in (*names, f"00000040-{attempt.id}")] + [others]:
        job.store.put(key, b"x")
    job.checkpoints.all()
    with pytest.raises(StoreError):
        job.checkpoints.prune(keep_last=1, by=attempt)
    assert [entry.key for entry in job.store.scan(job.paths.checkpoint(names[0], ""))] == [
        job.paths.checkpoint(names[0], "state.pt")
    ]
    job.checkpoints.prune(keep_last=1, by=attempt)
    assert job.store.folders("j/checkpoints/") == ["00000005-0002-bbbbbbbb", names[2], f"00000040-{attempt.id}"]


def test_a_damaged_manifest_is_told_and_passed_over(tmp_path: Path) -> None:
    job = Job(DirectoryStore(tmp_path), "j")
    whole, damaged = (store_checkpoint(job, step, "0001-aaaaaaaa") for step in (10, 20))
    key = job.paths.checkpoint(damaged)
    job.store.put(key, job.store.get(key).replace(b'"step": 20', b'"step": 21'))
    said: list[str] = []
    assert [stored.name for stored in job.checkpoints.all(said.append)] == [whole]
    assert [line for line in said if damaged in line]


def test_jobs_are_listed_newest_first_and_one_that_is_half_made_or_deleted_is_passed_over(tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path)
    for name in ("b-20260102-000000-aaaa", "a-20260103-000000-aaaa", "c-20260101-235959-aaaa"):
        store.put(Job(store, name).paths.index, b"")
        if not name.startswith("a"):
            store.put(f"{name}/job.json", b"damaged")
    assert [job.id[0] for job in list_jobs(store)] == ["a", "b", "c"]
    found, more = summaries(list_jobs(store), 1)
    assert ([facts["id"][0] for facts in found], more) == (["b"], True)
    found, more = summaries(list_jobs(store), 5)
    assert ([facts["id"][0] for facts in found], more) == (["b", "c"], False)
    Job(store, "b-20260102-000000-aaaa").delete()
    assert [job.id[0] for job in list_jobs(store)] == ["a", "c"]


def test_checkpoints_that_nobody_follows_are_swept_when_their_attempt_is_gone(tmp_path: Path) -> None:
    job = Job(DirectoryStore(tmp_path), "j")
    old = Attempt("0001-aaaaaaaa", machine.identity(), 1, "gone", time.time(), phase="running")
    job.attempts.write(old)
    early = store_checkpoint(job, 10, old.id)
    new = Attempt("0002-bbbbbbbb", "here", 1, "1", time.time(), phase="running", supersedes=[old.id], inherited=[early])
    job.attempts.write(new)
    late, own = store_checkpoint(job, 99, old.id), store_checkpoint(job, 12, new.id)
    begun = job.paths.checkpoint(f"00000013-{new.id}", "state.pt")
    job.store.put(begun, b"x")
    job.checkpoints.sweep(old)  # one that slept while another took the job takes nothing from it
    assert job.store.folders("j/checkpoints/") == sorted([early, late, own, f"00000013-{new.id}"])
    job.checkpoints.sweep(new)
    assert job.store.folders("j/checkpoints/") == sorted([early, own, f"00000013-{new.id}"])
    assert late not in [stored.name for stored in job.checkpoints.all()]


def test_what_has_no_manifest_may_be_on_its_way_from_the_machine_of_a_dead_attempt(tmp_path: Path) -> None:
    """Who sleeps while another command sends it takes nothing from under its manifest."""
    job = Job(DirectoryStore(tmp_path), "j")
    dead, new = "0001-aaaaaaaa", Attempt("0002-bbbbbbbb", "here", 1, "1", time.time(), phase="running")
    job.attempts.write(Attempt(dead, machine.identity(), 1, "gone", time.time(), phase="running", began=True))
    job.attempts.write(new)
    keys = [job.paths.checkpoint(f"{step:08d}-{dead}", "state.pt") for step in (10, 20)]
    for key in keys:
        job.store.put(key, b"x")
    os.utime(tmp_path / keys[0], (time.time() - 90_000, time.time() - 90_000))
    job.checkpoints.sweep(new)
    assert [entry.key for entry in job.store.scan(job.paths.checkpoints)] == keys[1:]


def test_an_attempt_that_chose_its_number_before_others_came_and_went_chooses_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = Job(DirectoryStore(tmp_path), "j")
    stale = iter([1])
    right = Attempts.next_number
    monkeypatch.setattr(Attempts, "next_number", lambda self: next(stale, None) or right(self))
    for number in (1, 2):
        ended = Attempt(f"000{number}-aaaaaaaa", "elsewhere", 1, "1", time.time(), phase="ended", reason="preempted")
        job.attempts.write(ended)
    assert claim(job).number == 3


def test_the_last_attempt_that_ever_ran_has_the_job_whatever_became_of_it_and_whoever_claims(tmp_path: Path) -> None:
    job = Job(DirectoryStore(tmp_path), "j")
    first = Attempt("0001-aaaaaaaa", "elsewhere", 1, "1", time.time(), phase="running")
    second = Attempt("0002-aaaaaaaa", "elsewhere", 1, "1", time.time())
    tenth = Attempt("10000-aaaaaaaa", "elsewhere", 1, "1", time.time())
    for phase, taken in (("claiming", False), ("withdrawn", False), ("lost", False), ("running", True), ("ended", True)):
        second.phase = phase
        assert (phase, first.superseded_by([first, second])) == (phase, taken)
        assert not second.superseded_by([first, second])
    second.phase, second.began = "lost", True  # it had begun before it was lost
    assert first.superseded_by([first, second])
    tenth.phase = "running"
    assert second.superseded_by([tenth])
    assert not tenth.superseded_by([first, second])
    for attempt in (first, second, tenth):
        job.attempts.write(attempt)
    assert [attempt.number for attempt in job.attempts.all()] == [1, 2, 10000]


def test_a_heart_hears_who_has_lost_the_job_and_whose_record_an_old_request_has_replaced(tmp_path: Path) -> None:
    def heard() -> list[str]:
        words: list[str] = []
        heart = Heart(job, attempt, (), dict, lambda _, word: words.append(word))
        beats = [heart.beat(number) for number in range(8)]
        assert beats.count(False) == ("lease_lost" in words) * 6 + ("job_deleted" in words)
        return sorted(set(words))

    job = Job(DirectoryStore(tmp_path), "j")
    claimed = replace(attempt := claim(job), phase="claiming", began=False)
    job.attempts.write(claimed)  # late: it lies apart
    assert [one.phase for one in job.attempts.all()] == ["running"]
    assert heard() == []
    running = replace(attempt)
    attempt.inherited = ["00000010-0001-aaaaaaaa"]
    job.attempts.write(attempt)
    assert heard() == []
    job.attempts.write(running)  # late, over the one that says what is followed
    assert heard() == ["record"]
    job.attempts.write_lost(replace(attempt), "its process is gone")  # so it seemed to somebody
    assert heard() == ["record"]
    job.attempts.write(attempt)
    assert heard() == []
    job.attempts.write(running)
    later = Attempt("0002-aaaaaaaa", "elsewhere", 1, "1", time.time())
    job.attempts.write(later)
    assert heard() == ["record"]
    job.attempts.write(replace(later, phase="running", began=True))
    assert heard() == ["lease_lost", "record"]
    job.delete()
    assert "job_deleted" in heard()


def test_a_later_record_that_nobody_can_read_does_not_leave_two_at_work(tmp_path: Path) -> None:
    job = Job(DirectoryStore(tmp_path), "j")
    attempt = claim(job)
    job.store.put(job.paths.attempt("0002-aaaaaaaa"), b'{"reason": "of a later version"}')
    assert job.attempts.superseded(attempt)


def test_a_claim_whose_last_write_got_no_answer_is_written_again(tmp_path: Path) -> None:
    class Silent(DirectoryStore):
        left = 3

        def put(self, key: str, data: bytes) -> None:
            super().put(key, data)
            if b'"running"' in data and self.left:
                self.left -= 1
                raise StoreError("no answer")

    store = Silent(tmp_path)
    assert claim(Job(store, "j")).phase == "running"
    assert store.left == 0


@pytest.mark.parametrize(("looks", "state"), [(0, "queued"), (1, "running")])
def test_who_is_stopped_while_it_claims_steps_back_as_long_as_it_may(tmp_path: Path, looks: int, state: str) -> None:
    job = Job(DirectoryStore(tmp_path), "j")
    asked = iter([False] * looks)
    if looks:  # it has taken the job by then, and ends as one that has
        assert claim(job, stop=lambda: next(asked, True)).phase == "running"
    else:
        with pytest.raises(PausedError, match="stopped before its attempt began; lastrun resume"):
            claim(job, stop=lambda: True)
    assert Job(job.store, "j").state()[0].value == state


def test_a_stop_is_heard_while_a_silent_attempt_elsewhere_is_watched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "WATCH_SECONDS", 120)
    job = Job(DirectoryStore(tmp_path), "j")
    silent = Attempt("0001-aaaaaaaa", "elsewhere", 1, "1", time.time(), phase="running", began=True)
    job.attempts.write(silent)
    os.utime(tmp_path / job.paths.attempt(silent.id), (1, 1))
    began = time.monotonic()
    with pytest.raises(PausedError, match="stopped before its attempt began; lastrun resume"):
        claim(job, stop=lambda: True)
    assert time.monotonic() - began < 60
    assert job.attempts.names() == [silent.id]  # nothing of its own is left


def test_an_end_without_the_trainers_last_word_tells_what_was_heard_before(tmp_path: Path) -> None:
    config = {"model.variant": "nano_e_v3", "dataset": "synthetic", "split_type": "xsub", "env": "local", "training.epochs": 9}
    job = Job.create(DirectoryStore(tmp_path), "x", config, {}, "0")
    end = {"phase": "ended", "began": True, "reason": "preempted"}
    first = Attempt("0001-aaaaaaaa", "elsewhere", 1, "1", time.time(), **end)  # type: ignore[arg-type]
    first.scores = {"best_top1": 0.9, "best_epoch": 1, "epoch": 2}
    cut = replace(first, id="0002-aaaaaaaa", reason="stop_requested")
    progress = {"step": 79, "total_steps": 90, "local_step": 70, "seconds_left": 5.0}
    progress |= {"last_epoch": {"epoch": 7, "test_top1": 0.5, "test_top5": 0.6}, "best": {"epoch": 6, "test_top1": 0.8}}
    cut.scores = scores_at_the_end(None, progress, 2)
    assert (cut.scores["step"], cut.scores["total_steps"]) == (70, 90)
    for attempt in (first, cut):
        job.attempts.write(attempt)
    (facts,), _ = summaries(list_jobs(job.store), 1)
    assert (facts["epoch"], facts["best_top1"]) == (7, 0.9)
    assert scores_at_the_end(None, {}, 2) == {}


def test_a_killed_attempt_is_shown_with_the_total_that_it_told(tmp_path: Path) -> None:
    config = {"model.variant": "nano_e_v3", "dataset": "synthetic", "split_type": "xsub", "env": "local", "training.epochs": 9}
    job = Job.create(DirectoryStore(tmp_path), "x", config, {}, "0")
    attempt = Attempt("0001-aaaaaaaa", "elsewhere", 1, "1", time.time(), phase="running", began=True)
    job.attempts.write(attempt)
    job.attempts.write_heartbeat(attempt, {"step": 16, "total_steps": 90})
    for path in (tmp_path / job.paths.attempt(attempt.id), tmp_path / job.paths.heartbeat(attempt.id)):
        os.utime(path, (1, 1))
    facts = job_status(job)
    assert (facts["state"], facts["total_steps"], facts["env"]) == ("lost", 90, "local")
    assert facts["attempt"]["env"] == "local"  # of one that has not said so itself yet, the job's


def test_a_stop_is_heard_from_the_moment_of_the_claim_on_and_what_is_unreadable_is_none(tmp_path: Path) -> None:
    job = Job(DirectoryStore(tmp_path), "j")
    job.requests.ask_to_stop(now=False)
    before = job.requests.keys()
    attempt = claim(job)
    (tmp_path / "j" / "requests" / ".DS_Store").write_bytes(b"\0")
    (tmp_path / "j" / "requests" / "odd.json").write_bytes(b"\0")
    job.requests.ask_to_stop(now=True)
    heard: queue.Queue[str] = queue.Queue()
    heart = Heart(job, attempt, before, dict, lambda kind, word: heard.put(f"{kind} {word}"))
    heart.start()
    try:
        assert heard.get(timeout=10) == "heard stop now"
        assert heard.empty()
    finally:
        heart.stop()
        heart.join()


def test_a_request_that_cannot_be_read_for_a_while_is_heard_later(tmp_path: Path) -> None:
    class Busy(DirectoryStore):
        failing = ""

        def get(self, key: str, most: int = MOST_BYTES) -> bytes:
            if self.failing == "get" and "/requests/" in key:
                raise StoreError("503")
            return super().get(key, most)

        def scan(self, prefix: str, after: str = "") -> Iterator[Entry]:
            if self.failing == "scan":
                raise StoreError("503")
            return super().scan(prefix, after)

    job = Job(store := Busy(tmp_path), "j")
    attempt = claim(job)
    heard: list[str] = []
    heart = Heart(job, attempt, (), dict, lambda _, word: heard.append(word))
    job.requests.ask_to_stop(now=False)
    for failing in ("get", "scan"):
        store.failing = failing
        with pytest.raises(StoreError):  # which its thread passes over
            heart.beat(0)
    assert heard == []
    store.failing = ""
    assert heart.beat(1)
    assert heard == ["stop"]


def test_what_others_put_into_a_job_does_no_harm_and_goes_with_it(tmp_path: Path) -> None:
    job = Job(DirectoryStore(tmp_path), "a-20260101-000000-aaaa")
    job.store.put(job.paths.record, b"{}")
    job.store.put(job.paths.attempt("20261123145647-x", "foo"), b"")
    assert (job.attempts.all(), job.attempts.next_number()) == ([], 1)
    keep = tmp_path / "keep"
    keep.mkdir()
    (keep / "me").touch()
    (tmp_path / job.id / "link").symlink_to(keep)
    (tmp_path / job.id / ".part-x").touch()
    job.delete()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["keep"]
    assert (keep / "me").exists()


def test_an_attempt_that_withdrew_or_is_gone_is_not_written_as_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = Job(DirectoryStore(tmp_path), "j")
    done = Attempt("0001-aaaaaaaa", "elsewhere", 1, "1", time.time(), phase="ended", reason="completed")
    dead = Attempt("0002-aaaaaaaa", machine.identity(), 1, "gone", time.time())
    job.attempts.write(done)
    for phase in ("withdrawn", None):  # between the look and the moment in which its process is seen to be gone
        job.store.delete([job.paths.end(dead.id)])
        job.attempts.write(dead)

        def then(_: int, phase: str | None = phase) -> None:
            if phase is None:
                job.store.delete([job.paths.claim(dead.id)])
            else:
                job.attempts.write(replace(dead, phase=phase))

        monkeypatch.setattr(machine, "process_identity", then)
        assert [attempt.id for attempt in settled(job)] == [done.id]
        assert [attempt.id for attempt in job.attempts.all()] == [done.id]
    monkeypatch.setattr(machine, "process_identity", lambda _: None)
    job = Job(job.store, "j")
    job.attempts.write(dead)
    assert [attempt.phase for attempt in settled(job)] == ["ended", "lost"]


def test_a_process_that_the_system_hides_is_not_taken_for_dead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def hidden(_: int) -> None:
        raise machine.HiddenProcessError

    job = Job(DirectoryStore(tmp_path), "j")
    other = Attempt("0001-aaaaaaaa", machine.identity(), 1, "1", time.time(), phase="running")
    job.attempts.write(other)
    monkeypatch.setattr(machine, "process_identity", hidden)
    assert [attempt.phase for attempt in settled(job)] == ["running"]
    assert job.state()[0].value == "running"  # by its heartbeat
    written = time.time() - EXPIRY_SECONDS - 1
    os.utime(tmp_path / job.paths.attempt(other.id), (written, written))
    assert job.state()[0].value == "lost"


def test_a_disk_that_is_away_is_no_deleted_job(tmp_path: Path) -> None:
    job = Job.create(DirectoryStore(tmp_path / "mnt" / "store"), "j", {}, {}, "0")
    attempt = claim(job)
    (tmp_path / "mnt").rename(tmp_path / "away")
    words: list[str] = []
    heart = Heart(job, attempt, (), dict, lambda _, word: words.append(word))
    for number in range(8):
        heart.beat(number)
    assert "job_deleted" not in words
    job.forget()
    shutil.rmtree(tmp_path / "mnt")
    (tmp_path / "away").rename(tmp_path / "mnt")
    assert job.store.get(job.paths.record)


def test_of_a_job_whose_attempts_have_ended_nothing_stays_and_a_silent_one_finds_a_word(tmp_path: Path) -> None:
    job = Job.create(DirectoryStore(tmp_path), "j", {}, {}, "0")
    attempt = claim(job)
    for _ in range(2):  # once more, because the answer to the first was lost
        job.delete()
        assert [entry.key for entry in job.store.scan("")] == [job.paths.tombstone]
    job.attempts.write(attempt)
    assert job.lost(attempt) is Reason.JOB_DELETED
    job.forget()
    assert [entry.key for entry in job.store.scan("")] == [job.paths.tombstone]
    other = Job.create(DirectoryStore(tmp_path / "other"), "j", {}, {}, "0")
    attempt = claim(other)
    attempt.phase, attempt.reason = "ended", "completed"
    other.attempts.write(attempt)
    other.delete()
    assert list(other.store.scan("")) == []


def test_a_checkpoint_that_cannot_be_gone_on_from_does_not_cost_one_that_can(tmp_path: Path) -> None:
    job = Job(DirectoryStore(tmp_path), "j")
    attempt = Attempt("0001-aaaaaaaa", "here", 1, "1", time.time(), phase="running")
    job.attempts.write(attempt)
    good, damaged, later = (store_checkpoint(job, step, attempt.id) for step in (30, 50, 40))
    found = job.checkpoints.all()
    job.checkpoints.pass_over(damaged)
    job.checkpoints.prune(keep_last=1, by=attempt)
    assert [stored.name for stored in found if job.store.folders("j/checkpoints/").count(stored.name)] == [later, damaged]
    assert good not in job.store.folders("j/checkpoints/")


def test_a_checkpoint_that_is_pruned_while_it_is_pulled_gives_way_to_a_newer_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = Job(DirectoryStore(tmp_path / "store"), "j")
    attempt = Attempt("0001-aaaaaaaa", "here", 1, "1", time.time(), phase="running", began=True)
    job.attempts.write(attempt)

    def store_whole(step: int) -> str:
        file = File(size=1, sha256=hashlib.sha256(b"x").hexdigest())
        manifest = Manifest(step=step, epoch=0, evaluated=False, files={"a.pt": file, "b.pt": file})
        for name in manifest.files:
            job.store.put(job.paths.checkpoint(f"{step:08d}-{attempt.id}", name), b"x")
        job.store.put(job.paths.checkpoint(f"{step:08d}-{attempt.id}"), manifest.to_json().encode())
        return f"{step:08d}-{attempt.id}"

    store_whole(10)
    right = DirectoryStore.get_file

    def get_file(self: DirectoryStore, key: str, path: Path, size: int | None = None, most: int | None = None) -> None:
        right(self, key, path, size, most)
        if "00000010-" in key:  # between one file and the next
            store_whole(20)
            training.checkpoints.all()
            training.checkpoints.prune(1, attempt)

    training = Job(DirectoryStore(tmp_path / "store"), "j")
    monkeypatch.setattr(DirectoryStore, "get_file", get_file)
    assert pull_checkpoint(job, tmp_path / "model", best=False, step=None) == f"00000020-{attempt.id}"
    assert sorted(path.name for path in (tmp_path / "model").iterdir()) == ["MANIFEST.json", "a.pt", "b.pt"]
    with pytest.raises(UsageError, match="no such checkpoint; its steps are: 20"):
        pull_checkpoint(job, tmp_path / "other", best=False, step=10)
    with pytest.raises(UsageError, match="has no checkpoint that was tested yet; --step 20 takes the newest"):
        pull_checkpoint(job, tmp_path / "other", best=True, step=None)
    name = f"00000020-{attempt.id}"
    job.store.put(job.paths.checkpoint(name, "a.pt"), b"?")
    with pytest.raises(StoreError, match=rf"^checkpoint {name}: a.pt .*; j has no other$"):
        pull_checkpoint(job, tmp_path / "other", best=False, step=None)
    for step in (30, 40):
        store_checkpoint(job, step, attempt.id)
    job.store.put(job.paths.checkpoint(f"00000040-{attempt.id}", "state.pt"), b"?")
    with pytest.raises(StoreError, match=r"sha256 differs\); --step N takes another one, of step 30, 20$"):
        pull_checkpoint(job, tmp_path / "other", best=False, step=None)
    assert not (tmp_path / "other").exists()
    job.store.clear(job.paths.checkpoints)
    with pytest.raises(UsageError, match=r"has no checkpoint yet; lastrun status .* tells what becomes of it"):
        pull_checkpoint(job, tmp_path / "other", best=True, step=None)


@pytest.mark.parametrize(
    ("reached", "lost"), [(25, ", steps 11 to 25 of this one are not followed"), (11, ", steps 11 to 11 of"), (10, "step 10")]
)
def test_who_has_lost_the_job_is_told_which_of_its_steps_are_not_followed(tmp_path: Path, reached: int, lost: str) -> None:
    job = Job(DirectoryStore(tmp_path), "j")
    old = Attempt("0001-aaaaaaaa", "here", 1, "1", time.time(), phase="running", began=True)
    heir = Attempt("0002-bbbbbbbb", "elsewhere", 1, "1", time.time(), phase="running", began=True)
    job.attempts.write(old)
    assert lease.what_is_lost(job, old, reached, Reason.LEASE_LOST).endswith("nothing more was sent")  # nobody knows by whom
    heir.inherited, heir.resumed_step = [f"00000010-{old.id}"], 10
    job.attempts.write(heir)
    told = lease.what_is_lost(job, old, reached, Reason.LEASE_LOST)
    assert str(heir) in told
    assert "went on from step 10" in told
    assert lost in told
    assert ("not followed" in told) is (reached > 10)


def test_an_empty_folder_takes_a_checkpoint_where_one_stands_and_behind_a_link(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = Job(DirectoryStore(tmp_path / "store"), "j")
    job.attempts.write(Attempt("0001-aaaaaaaa", "here", 1, "1", time.time(), phase="running", began=True))
    manifest = Manifest(step=1, epoch=0, evaluated=False, files={"a.pt": File(size=1, sha256=hashlib.sha256(b"x").hexdigest())})
    for name, content in (("a.pt", b"x"), ("MANIFEST.json", manifest.to_json().encode())):
        job.store.put(job.paths.checkpoint("00000001-0001-aaaaaaaa", name), content)
    here, link = tmp_path / "here", tmp_path / "link"
    for folder in (here, tmp_path / "far"):
        folder.mkdir()
    link.symlink_to(tmp_path / "far")
    monkeypatch.chdir(here)
    for place in (Path(), link):
        pull_checkpoint(job, place, best=False, step=None)
        assert sorted(path.name for path in place.iterdir()) == ["MANIFEST.json", "a.pt"]
        with pytest.raises(UsageError, match="is there already: name a new or empty folder"):
            pull_checkpoint(job, place, best=False, step=None)
    assert link.is_symlink()
    assert Path.cwd().samefile(here)


@pytest.mark.parametrize(
    ("saved", "told"), [(True, "the last checkpoint stands"), (False, "there is no checkpoint yet: it will begin at step 0")]
)
def test_a_trainer_that_was_ended_before_it_could_save_leaves_what_there_is(saved: bool, told: str) -> None:
    trainer = Trainer(queue.Queue())
    trainer._process = subprocess.Popen(["sleep", "60"], text=True)  # without pipes, which end with the attempt's process
    trainer.kill()
    assert trainer.verdict(Reason.PREEMPTED, saved=saved) == (
        Reason.PREEMPTED,
        f"the trainer was ended before it could save; {told}",
    )
