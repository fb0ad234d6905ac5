"""What a command does with a Slurm job behind a login node that is not reached; a real one is in test_slurm_by_ssh."""

from __future__ import annotations

import io
import signal
from pathlib import Path

import pytest

from runner.errors import EngineError, Exit
from runner.job.job import Job
from runner.launch.slurm.login import StartedThere, ThereCluster
from runner.launch.slurm.queue import Queued
from runner.launch.slurm.started import StartedBatch
from runner.launch.ssh.setup import Host
from runner.store.directory import DirectoryStore

RUNS = Queued("7", "lastrun-j", "RUNNING", "None", "N/A")


class Cluster:
    """Of which each look has the next answer."""

    patience = 60.0

    def __init__(self, *answers: Queued | None) -> None:
        self._answers, self.log, self.done = iter(answers), list[bytes](), list[str]()
        self.code = 4

    def follow(self, id: str, log: str) -> None: ...

    def forget(self, id: str) -> None: ...

    def look(self, id: str) -> Queued | None:
        return next(self._answers)

    def exit_code(self, id: str) -> int | None:
        return self.code

    def read(self, id: str) -> bytes:
        return self.log.pop() if self.log else b""

    def look_now(self, id: str) -> Queued | None:
        return RUNS

    def cancel(self, id: str) -> None:
        self.done.append("cancel")

    def send(self, id: str, signal: str) -> None:
        self.done.append(signal)


def test_one_empty_answer_does_not_mean_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor do two; and in between it may have been seen again."""
    monkeypatch.setattr("runner.launch.slurm.started.LOOK_SECONDS", 0.0)
    runs, failed = RUNS, Queued("7", "lastrun-j", "FAILED", "None", "N/A")

    def codes(*answers: Queued | None) -> list[int | None]:
        started = StartedBatch(Cluster(*answers), "7", "x.log", None)  # type: ignore[arg-type]
        return [started.wait(0) for _ in answers]

    assert codes(None, None, runs, None, None, runs) == [None] * 6
    assert codes(runs, None, None, None) == [None, None, None, Exit.FAILED]
    assert codes(None, failed) == [None, 4]


@pytest.mark.parametrize(
    ("state", "code", "meant"),
    [("CANCELLED", 143, Exit.PAUSED), ("CANCELLED", 75, 75), ("FAILED", 143, Exit.PAUSED), ("FAILED", 9, Exit.FAILED)],
)
def test_an_exit_code_is_one_of_ours(monkeypatch: pytest.MonkeyPatch, state: str, code: int, meant: int) -> None:
    """One that a signal ended had not claimed the job yet."""
    cluster = Cluster(Queued("7", "lastrun-j", state, "None", "N/A"))
    cluster.code = code
    assert StartedBatch(cluster, "7", "x.log", None).wait(0) == meant  # type: ignore[arg-type]


def test_who_leaves_before_the_attempt_has_said_a_word_ends_its_slurm_job(monkeypatch: pytest.MonkeyPatch) -> None:
    """A job has its node a second before its batch script is there to hear a signal: until then one is lost."""
    monkeypatch.setattr("runner.launch.slurm.started.LOOK_SECONDS", 0.0)
    monkeypatch.setattr("runner.launch.slurm.started._SHOW_SECONDS", 0.0)
    cluster = Cluster(*[RUNS] * 9)
    started = StartedBatch(cluster, "7", "x.log", io.StringIO())  # type: ignore[arg-type]
    started.wait(0)
    started.hand_on(signal.SIGINT)
    cluster.log.append(b"environment: local\n")
    started.wait(0)
    started.hand_on(signal.SIGINT)
    assert cluster.done == ["cancel", "INT"]


def test_what_the_last_look_brings_of_its_log_is_a_word_too() -> None:
    """At a login node's cluster a look asks for both: the attempt is there, and saves."""
    cluster = Cluster()
    cluster.log.append(b"environment: local\n")
    said = io.StringIO()
    StartedBatch(cluster, "7", "x.log", said).hand_on(signal.SIGINT)  # type: ignore[arg-type]
    assert (cluster.done, said.getvalue()) == (["INT"], "environment: local\n")


def test_a_login_node_that_is_not_reached_is_told_once_and_not_waited_for_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HOME", "XDG_CACHE_HOME", "XDG_DATA_HOME", "XDG_RUNTIME_DIR"):
        monkeypatch.setenv(name, str(tmp_path))
    monkeypatch.setattr("runner.launch.slurm.started.LOOK_SECONDS", 0.0)
    cluster, said = ThereCluster(Host("b.invalid", "x")), io.StringIO()
    job = Job(DirectoryStore(tmp_path / "store"), "tiny-20261129-000000-abcd")
    started = StartedThere(cluster, job, "0123abcd", "7", "x.log", said)
    assert [started.wait(0), started.wait(0)] == [None, None]
    [line] = said.getvalue().splitlines()
    assert line.startswith("b.invalid: no such name is known")
    assert line.endswith("; the attempt goes on")
    cluster.patience = 0.0
    with pytest.raises(EngineError, match=f"^b.invalid: .*lastrun stop {job.reference} has it save and end"):
        started.wait(0)
