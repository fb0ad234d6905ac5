"""The copy of a job on a host: what it tells, and what of its word is taken."""

from __future__ import annotations

import io
import json
import time
from pathlib import Path

import pytest

from runner import machine
from runner.errors import State, UsageError
from runner.job.attempts import Attempt
from runner.job.job import Job
from runner.launch.ssh import relayed
from runner.store.directory import DirectoryStore

NAME, TOKEN = "0" * 32, "0123abcd"


@pytest.fixture
def copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Job:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    job = Job(DirectoryStore(relayed.root() / NAME), "j")
    job.store.put(job.paths.record, b"{}")
    attempt = Attempt(f"0001-{TOKEN}", "elsewhere", 1, "1", time.time(), phase="running", began=True)
    job.attempts.write(attempt)
    job.attempts.write_heartbeat(attempt, {})
    for number in range(1, 5):
        job.store.put(job.paths.log(attempt.id, number), b"a line\n")
    job.store.put(job.paths.attempt(attempt.id, "events", "a.json"), b"[]")
    job.store.put(job.paths.checkpoint(f"00000001-{attempt.id}", "state.pt"), b"bytes")
    return job


def told(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, list[object]]:
    relayed.tell(NAME, "j", *words)
    return {key: [size, digest] for key, size, digest in json.loads(capsys.readouterr().out)["objects"]}


def test_pieces_of_the_log_that_are_here_are_not_told_again(copy: Job, capsys: pytest.CaptureFixture[str]) -> None:
    """And only what is written anew is told with what it holds."""
    objects = told(capsys, TOKEN, "3")
    own = f"0001-{TOKEN}"
    assert [key for key in objects if "/log/" in key] == [copy.paths.log(own, 4)]
    assert objects[copy.paths.log(own, 4)] == [7, None]
    assert objects[copy.paths.checkpoint(f"00000001-{own}", "state.pt")] == [5, None]
    for key in (copy.paths.attempt(own), copy.paths.heartbeat(own), copy.paths.record):
        assert objects[key][1] == relayed.digest(copy.store.get(key))
    assert len([key for key in told(capsys, "", "0") if "/log/" in key]) == 4


def test_objects_come_whole_or_not_at_all_and_only_those_of_the_job(copy: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.BytesIO()
    relayed.write_object(out, "j/requests/a.json", b"{}")
    relayed.write_object(out, "j/requests/b.json", b"{}")
    cut = io.BytesIO(out.getvalue()[:-1])
    assert relayed.read_object(cut) == ("j/requests/a.json", b"{}")
    with pytest.raises(UsageError, match="the connection broke on the way"):
        relayed.read_object(cut)
    assert relayed.read_object(io.BytesIO()) is None
    with pytest.raises(UsageError, match="that is nothing of a job"):
        relayed.read_object(io.BytesIO(b'["j/x", 99999999999]\n'))

    class Input:
        buffer = io.BytesIO(b'["other/job.json", 2]\n{}')

    monkeypatch.setattr("sys.stdin", Input)
    with pytest.raises(UsageError, match=r"other/job\.json is nothing of j"):
        relayed.take(NAME, "j")
    for name, job_id in (("../x", "j"), (NAME, "../j"), (NAME, "")):
        with pytest.raises(UsageError, match="can be kept here"):
            relayed.tell(name, job_id, "", "0")


def test_of_an_attempt_whose_run_is_forgotten_there_the_end_is_written_all_the_same(
    copy: Job, capsys: pytest.CaptureFixture[str]
) -> None:
    """As after a week, on a machine that was started anew meanwhile: else its job would be 'running' for ever."""
    told(capsys, TOKEN, "3")
    [attempt] = Job(copy.store, "j").attempts.all()
    assert attempt.phase == "lost"


def test_a_host_that_is_this_very_machine_tells_of_an_end_all_the_same(tmp_path: Path) -> None:
    """Its process is gone before what it has said last is here: until then the job was 'lost'."""
    job = Job(DirectoryStore(tmp_path / "store"), "j")
    job.store.put(job.paths.record, b"{}")
    attempt = Attempt(f"0001-{TOKEN}", machine.identity(), 1, "another", time.time(), phase="running", began=True)
    attempt.container = {"launcher": "ssh", "token": TOKEN, "relay": NAME}
    job.attempts.write(attempt)
    assert job.attempts.state(job.attempts.all())[0] is State.RUNNING
    attempt.container = {"launcher": "ssh", "token": TOKEN}
    job.attempts.write(attempt)
    assert Job(job.store, "j").attempts.state([attempt])[0] is State.LOST
