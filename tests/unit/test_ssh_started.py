"""What a command does with an attempt that it has started on a host; of a real one it is in tests/integration/test_ssh.py."""

from __future__ import annotations

import os
import pty
import signal
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from runner.errors import EngineError, Exit, PausedError, StoreError
from runner.job.attempts import Attempt
from runner.job.job import Job
from runner.launch.ssh import notes
from runner.launch.ssh.connection import CutError
from runner.launch.ssh.launcher import SshLauncher, _gpus
from runner.launch.ssh.runs import GONE
from runner.launch.ssh.setup import Host
from runner.launch.ssh.started import StartedThere
from runner.resolve import resolve_spec
from runner.store.directory import DirectoryStore

TOKEN = "0123abcd"


def test_who_runs_points_side_by_side_is_not_asked_what_ctrl_c_means(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also at a terminal: no thread but the main one could be answered, and the group's points are all meant."""
    for name in ("HOME", "XDG_CACHE_HOME", "XDG_RUNTIME_DIR"):
        monkeypatch.setenv(name, str(tmp_path))
    end, other = pty.openpty()
    with os.fdopen(end, "rb"), os.fdopen(other) as terminal, os.fdopen(os.dup(other), "w") as written:
        monkeypatch.setattr(sys, "stdin", terminal)
        monkeypatch.setattr(sys, "stderr", written)
        job = Job(DirectoryStore(tmp_path / "store"), "tiny-20261129-000000-abcd")
        started = StartedThere(job, Host("b.invalid", "x"), "0123abcd", None)
        with ThreadPoolExecutor() as pool:
            error = pool.submit(started.hand_on, signal.SIGINT).exception()
    assert isinstance(error, EngineError)
    assert str(error).startswith("b.invalid: ")


class There:
    """A host as who follows an attempt calls it, where that ends with a code."""

    def __init__(self, code: int, **known: Any) -> None:
        self.connection, self.host, self._code, self._known = self, "far", code, known
        self.called: list[str] = []

    def command(self, script: str) -> list[str]:
        return ["/bin/sh", "-c", f"echo lastrun-begins; exit {self._code}"]

    def script(self, verb: str, *words: str) -> str:
        return verb

    def call(self, verb: str, *words: str) -> None:
        self.called.append(verb)

    def ask(self, verb: str, *words: str) -> dict[str, Any]:
        return self._known


class Mute(DirectoryStore):
    """Takes nothing."""

    def put(self, key: str, data: bytes) -> None:
        raise StoreError("it does not answer")


def followed(
    there: There, folder: Path, kind: type[DirectoryStore] = DirectoryStore, reason: str | None = None
) -> tuple[int, Attempt]:
    """An attempt that has just been heard of, until its end."""
    job = Job(DirectoryStore(folder / "store"), "tiny-20261129-000000-abcd")
    one = Attempt(f"0001-{TOKEN}", "elsewhere", 1, "1", time.time(), phase="running", began=True)
    job.attempts.write(one)
    job.attempts.write_heartbeat(one, {})
    if reason is not None:
        one.phase, one.reason = "ended", reason
        job.attempts.write(one)
    notes.write(TOKEN, "far", "x")
    started = StartedThere(Job(kind(folder / "store"), job.id), there, TOKEN, sys.stdout)  # type: ignore[arg-type]
    code = started.wait(60)
    assert code is not None
    return code, job.attempts.all()[0]


@pytest.mark.usefixtures("own_place")
@pytest.mark.parametrize(("code", "how"), [(137, "was killed"), (1, "ended with code 1"), (GONE, "is gone")])
def test_the_end_of_one_that_was_killed_is_written_by_who_has_seen_it(tmp_path: Path, code: int, how: str) -> None:
    """Its heart beat a moment ago: to everybody else it would be at work for a minute. After a restart of its machine nobody
    is left there who knows its code."""
    there = There(code, known=True, alive=False)
    ended, attempt = followed(there, tmp_path)
    assert (ended, attempt.phase, attempt.message) == (Exit.FAILED, "lost", f"its process on far {how}")
    assert there.called == ["remove"]
    assert notes.hosts() == []


@pytest.mark.usefixtures("own_place")
def test_one_whose_code_was_lost_has_ended_as_the_store_says(tmp_path: Path) -> None:
    """Its disk was full, or it ended just before its machine did."""
    there = There(GONE, known=True, alive=False)
    ended, attempt = followed(there, tmp_path, reason="completed")
    assert (ended, attempt.reason) == (Exit.DONE, "completed")
    assert (there.called, notes.hosts()) == (["remove"], [])


@pytest.mark.usefixtures("own_place")
def test_while_the_store_does_not_hear_of_its_end_the_host_can_be_asked(tmp_path: Path) -> None:
    there = There(137)
    ended, attempt = followed(there, tmp_path, Mute)
    assert (ended, attempt.phase) == (Exit.FAILED, "running")
    assert (there.called, notes.hosts()) == ([], ["far"])


@pytest.mark.usefixtures("own_place")
def test_what_the_host_knows_nothing_of_is_not_dead_by_that(tmp_path: Path) -> None:
    there = There(GONE, known=False, alive=False)
    with pytest.raises(EngineError, match=r"far: the attempt is gone and has left no word\. lastrun status"):
        followed(there, tmp_path)
    assert notes.hosts() == ["far"]


@pytest.mark.usefixtures("own_place")
@pytest.mark.parametrize("answers", [True, False])
def test_what_was_taken_back_before_it_began_is_noted_only_where_the_host_may_not_know(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answers: bool
) -> None:
    class Left(There):
        folder = "x"

        def call(self, verb: str, *words: str, **how: Any) -> None:
            if verb == "start":
                raise KeyboardInterrupt
            if not answers:
                raise CutError("far: it does not answer")

    config = resolve_spec(Path(__file__).parents[2] / "jobs" / "quickstart.yaml", "local", ["run.host=far"]).config
    launcher = SshLauncher(config)
    monkeypatch.setattr(launcher, "_host", lambda: Left(0))
    monkeypatch.setitem(_gpus, "far", False)
    job = Job(DirectoryStore(tmp_path / "store"), "tiny-20261129-000000-abcd")
    with pytest.raises(PausedError, match="interrupted before its attempt began; lastrun resume"):
        launcher.start(job, [], TOKEN, output=None)
    assert notes.hosts() == ([] if answers else ["far"])
