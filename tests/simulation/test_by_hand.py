"""Interleavings that chance finds too seldom. Each once lost what was acknowledged, or how a job ended."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from last_e.manifest import File, Manifest
from runner import machine
from runner.attempt.leftovers import send_leftovers
from runner.errors import NoSuchJobError, Reason
from runner.job import attempts, lease
from runner.job.attempts import Attempt
from runner.job.checkpoints import Stored
from runner.job.job import Job
from runner.job.paths import checkpoint_name
from runner.launch.settle import settled
from runner.store.directory import DirectoryStore
from runner.store.protocol import Entry
from tests.simulation.attempts import RECORD

BLOB = b"weights!"
FILES = {"state.pt": File(size=len(BLOB), sha256=hashlib.sha256(BLOB).hexdigest())}


class Shelf(DirectoryStore):
    """A folder whose objects are as old as the test's clock says, and where something may happen after a call."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.now = 1000.0
        self.put_at: dict[str, float] = {}
        self.then: dict[tuple[str, str], Callable[[], None]] = {}

    def put(self, key: str, data: bytes) -> None:
        super().put(key, data)
        self.put_at[key] = self.now
        self._after("put", key)

    def put_file(self, key: str, path: Path) -> None:
        self.put(key, path.read_bytes())

    def scan(self, prefix: str, after: str = "") -> Iterator[Entry]:
        found = super().scan(prefix, after)
        self._after("scan", prefix)
        return found

    def age(self, key: str) -> float:
        super().age(key)
        return self.now - self.put_at[key]

    def _after(self, what: str, key: str) -> None:
        for (call, part), then in list(self.then.items()):
            if call == what and part in key:
                del self.then[call, part]
                then()


class Stage:
    """Machines by name, one of which does what comes next."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.store = Shelf(root)
        self.here = ""
        self._jobs: dict[str, Job] = {}
        self._where: dict[str, str] = {}
        self.dead: set[str] = set()
        clock = SimpleNamespace(
            time=lambda: self.store.now, monotonic=lambda: self.store.now, sleep=lambda seconds: self.passes(seconds)
        )
        monkeypatch.setattr(lease, "time", clock)
        monkeypatch.setattr(attempts, "time", clock)
        monkeypatch.setattr(machine, "identity", lambda: self.here)
        monkeypatch.setattr(machine, "process_identity", lambda _: None if self.here in self.dead else "p")
        monkeypatch.setattr(machine, "container", lambda: None)

    @property
    def job(self) -> Job:
        """As the machine knows it that does something now."""
        return self._jobs.setdefault(self.here, Job(self.store, "j"))

    def passes(self, seconds: float) -> None:
        self.store.now += seconds

    def claim(self, where: str) -> Attempt:
        self.here = where
        attempt = lease.claim(self.job)
        self._where[attempt.id] = where
        return attempt

    def begin(self, attempt: Attempt, folder: Path) -> int:
        """Choose a checkpoint as an attempt does; returns its step."""
        found = self.job.checkpoints.sweep(attempt)
        fetched = self.job.checkpoints.fetch_newest(found, folder / attempt.id, print)
        attempt.resumed_step = fetched[1].manifest.step if fetched else 0
        attempt.inherited = [stored.name for stored in found]
        self.job.attempts.write(attempt)
        return attempt.resumed_step

    def beat(self, attempt: Attempt) -> bool:
        """Whether it still has the job, as far as its heart sees."""
        self.job.attempts.write_heartbeat(attempt, {})
        if self.job.attempts.superseded(attempt):
            return False
        if not self.job.attempts.stands(attempt):
            self.job.attempts.write(attempt)
        return True

    def save(self, attempt: Attempt, step: int) -> None:
        manifest = Manifest(step=step, epoch=step, evaluated=True, files=FILES)
        name = checkpoint_name(manifest, attempt.id)
        self.store.put(self.job.paths.checkpoint(name, "state.pt"), BLOB)
        self.store.put(self.job.paths.checkpoint(name), manifest.to_json().encode())
        if self._where[attempt.id] == self.here:  # else it is sent by another
            self.job.checkpoints.add(Stored(name, manifest))

    def steps(self) -> list[int]:
        return [stored.manifest.step for stored in self.job.checkpoints.all()]


@pytest.fixture
def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stage:
    return Stage(tmp_path / "store", monkeypatch)


def test_a_claim_that_comes_late_does_not_give_the_job_back(stage: Stage, tmp_path: Path) -> None:
    first = stage.claim("x")
    stage.begin(first, tmp_path)
    for step in (8, 9, 10):
        stage.save(first, step)
    stage.passes(90)  # x sleeps
    second = stage.claim("y")
    told: list[bool] = []

    def y_sleeps() -> None:
        stage.job.attempts.write(replace(second, phase="claiming", began=False))  # its old request, once more
        stage.passes(60)
        stage.here = "x"
        told.append(stage.beat(first))
        for step in range(11, 20):
            stage.save(first, step)
            stage.job.checkpoints.prune(3, first)
        stage.here = "y"

    stage.store.then["scan", "j/checkpoints/"] = y_sleeps
    assert stage.begin(second, tmp_path) >= 10
    assert told == [False]
    assert stage.steps()[-1] >= 10


def test_a_record_without_what_is_followed_that_comes_late_lets_nothing_be_deleted(stage: Stage, tmp_path: Path) -> None:
    first = stage.claim("x")
    stage.begin(first, tmp_path)
    for step in (1, 2, 3):
        stage.save(first, step)
    stage.passes(90)  # x has gone on in an outage, and is killed
    second = stage.claim("y")
    running = replace(second)
    assert stage.begin(second, tmp_path) == 3
    stage.job.attempts.write(running)  # once more
    for step in (38, 39, 40):
        stage.save(first, step)  # what x had left is sent
    for step in range(4, 12):
        stage.save(second, step)
        stage.job.checkpoints.prune(3, second)
    assert stage.beat(second)
    assert stage.steps()[-3:] == [9, 10, 11]
    second.phase, second.reason = "ended", "time_limit"
    stage.job.attempts.write(second)
    assert stage.begin(stage.claim("z"), tmp_path) == 11


def test_who_took_the_job_and_was_lost_has_taken_it_all_the_same(stage: Stage, tmp_path: Path) -> None:
    first = stage.claim("x")
    stage.begin(first, tmp_path)
    for step in (1, 2, 3):
        stage.save(first, step)
    stage.passes(90)
    second = stage.claim("y")
    inherited = [stored.name for stored in stage.job.checkpoints.all()]
    ended = replace(second, inherited=inherited, phase="ended", reason="store_unreachable")  # waits in y's outbox
    key, record = stage.job.attempts.entry(ended)
    (tmp_path / "outbox" / key).parent.mkdir(parents=True)
    (tmp_path / "outbox" / key).write_bytes(record)
    stage.dead.add("y")
    assert [attempt.phase for attempt in settled(stage.job)] == ["running", "lost"]
    assert [(attempt.phase, attempt.has_taken_the_job) for attempt in stage.job.attempts.all()] == [
        ("running", True),
        ("lost", True),
    ]
    stage.here = "x"
    assert not stage.beat(first)  # nothing that it would acknowledge now could be lost
    send_leftovers(stage.store, tmp_path / "outbox")
    assert stage.begin(stage.claim("z"), tmp_path) == 3


@pytest.mark.parametrize(
    ("reason", "state"), [("completed", "succeeded"), ("diverged", "failed"), ("stop_requested", "stopped")]
)
def test_a_claim_that_died_does_not_hide_how_a_job_ended(stage: Stage, tmp_path: Path, reason: str, state: str) -> None:
    first = stage.claim("x")
    stage.begin(first, tmp_path)
    stage.here = "y"
    claimed = replace(first, id="0002-aaaaaaaa", machine="y", phase="claiming", began=False, inherited=None)
    stage.job.attempts.write(claimed)
    stage.dead.add("y")
    assert [attempt.phase for attempt in settled(stage.job)] == ["running", "lost"]
    first.phase, first.reason = "ended", reason
    stage.job.attempts.write(first)
    for _ in range(2):
        assert [stage.job.state()[0].value, stage.job.state()[2] and stage.job.state()[2].value] == [state, reason]
        stage.passes(100)


@pytest.mark.parametrize("late", ["claiming", "running", "lost"])
def test_a_record_that_comes_late_does_not_hide_how_an_attempt_ended(stage: Stage, tmp_path: Path, late: str) -> None:
    """An attempt that is over while requests of its beginning are on their way; its heart, which would see them, is still."""
    first = stage.claim("x")
    before = replace(first, phase=late, began=late != "claiming")
    stage.begin(first, tmp_path)
    first.phase, first.reason = "ended", "completed"
    stage.job.attempts.write(first)
    stage.job.attempts.write(before)
    for where in ("x", "y"):
        stage.here = where
        assert [value.value for value in stage.job.state()[::2] if value] == ["succeeded", "completed"]
        assert stage.job.attempts.completed(settled(stage.job))
        stage.dead.add(where)


def test_a_claim_that_comes_late_is_not_alive_again(stage: Stage, tmp_path: Path) -> None:
    """Found by ``attempts`` with seed 200543: who had stepped back for one that then finished the job."""
    first = stage.claim("x")
    stage.begin(first, tmp_path)
    stage.here = "y"
    claimed = replace(first, id="0002-aaaaaaaa", machine="y", phase="claiming", began=False, inherited=None)
    stage.job.attempts.write(replace(claimed, phase="withdrawn"))
    first.phase, first.reason = "ended", "completed"
    stage.job.attempts.write(first)
    stage.job.attempts.write(claimed)
    assert [value.value for value in stage.job.state()[::2] if value] == ["succeeded", "completed"]


def test_an_end_that_an_older_version_wrote_is_one(stage: Stage, tmp_path: Path) -> None:
    first = stage.claim("x")
    stage.begin(first, tmp_path)
    first.phase, first.reason = "ended", "completed"
    stage.store.put(stage.job.paths.attempt(first.id), stage.job.attempts.entry(first)[1])
    assert [value.value for value in stage.job.state()[::2] if value] == ["succeeded", "completed"]
    assert replace(first, id="0000-aaaaaaaa").superseded_by(stage.job.attempts.all())


def test_a_pruning_that_takes_long_deletes_nothing_of_who_has_taken_the_job_meanwhile(
    stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Found by ``attempts`` with seed 243: attempts were read, another took the job, then checkpoints were listed."""
    first = stage.claim("A")
    stage.begin(first, tmp_path)
    for step in range(1, 10):
        stage.save(first, step)
    read = attempts.Attempts.beside
    steps: list[int] = []

    def read_and_sleep(self: attempts.Attempts, own: Attempt) -> list[Attempt]:
        found = read(self, own)
        if own is first and not steps:
            steps.append(0)
            stage.passes(200)
            second = stage.claim("B")
            steps[0] = stage.begin(second, tmp_path)
            stage.save(second, 10)
            stage.here = "A"
            for late in range(10, 30):  # it does not know yet
                stage.save(first, late)
        return found

    monkeypatch.setattr(attempts.Attempts, "beside", read_and_sleep)
    stage.job.checkpoints.prune(1, first)
    assert steps == [9]
    stage.here = "B"
    assert {9, 10} <= set(stage.steps())


@pytest.mark.parametrize("moment", ["before the claim", "after it"])
def test_who_begins_a_job_that_is_deleted_meanwhile_hears_of_it(stage: Stage, moment: str) -> None:
    """Found by ``attempts`` with seed 2000013: the job's record was read, its machine slept, and the job was deleted."""
    made = Job.create(stage.store, "j", dict(RECORD["config"]), {}, "0")
    job, elsewhere = Job(stage.store, made.id), Job(stage.store, made.id)
    job.record()
    if moment == "before the claim":
        elsewhere.delete()
    else:  # who deletes it may see the claim and nothing else
        stage.store.then["put", "claim.json"] = elsewhere.delete
    with pytest.raises(NoSuchJobError, match="deleted it meanwhile"):
        lease.claim(job)
    assert [entry.key for entry in stage.store.scan("") if entry.key.endswith(".json")] == []


def test_a_job_deleted_when_one_has_taken_it_is_heard_of_at_a_beat(stage: Stage) -> None:
    made = Job.create(stage.store, "j", dict(RECORD["config"]), {}, "0")
    job = Job(stage.store, made.id)
    job.record()
    attempt = lease.claim(job)
    Job(stage.store, made.id).delete()
    assert job.lost(attempt) is Reason.JOB_DELETED
