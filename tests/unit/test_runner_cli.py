"""What the command line does by itself."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from runner.commands.run import start
from runner.errors import PausedError
from runner.job.job import Job
from runner.launch.local import LocalLauncher
from runner.resolve import resolve_spec
from runner.signals import LEAVING
from runner.store.directory import DirectoryStore

QUICKSTART = resolve_spec(Path(__file__).parents[2] / "jobs" / "quickstart.yaml", "local", []).config


@pytest.mark.parametrize("detach", [False, True])
@pytest.mark.parametrize("signum", LEAVING)
def test_who_leaves_before_the_launcher_listens_is_told_how_the_job_goes_on(
    tmp_path: Path, signum: signal.Signals, detach: bool
) -> None:
    class Slow(LocalLauncher):
        @staticmethod
        def clean() -> None:
            os.kill(os.getpid(), signum)
            time.sleep(60)
            raise AssertionError("the signal was not heard")

    handlers = [signal.getsignal(each) for each in LEAVING]
    with pytest.raises(PausedError, match=r"interrupted before its attempt began; lastrun resume .*j begins it"):
        start(lambda: Job(DirectoryStore(tmp_path), "j"), [], detach, True, "resume", Slow(QUICKSTART))
    assert [signal.getsignal(each) for each in LEAVING] == handlers


@pytest.mark.parametrize("signum", LEAVING)
def test_a_job_is_made_whole_before_its_command_is_left_unless_that_is_asked_twice(
    tmp_path: Path, signum: signal.Signals
) -> None:
    made: list[str] = []

    def make(times: int) -> Job:
        made.append("begun")
        for _ in range(times):
            os.kill(os.getpid(), signum)
            time.sleep(0.01)  # where a signal is heard
        made.append("whole")
        return Job(DirectoryStore(tmp_path), "j")

    launcher: Any = None  # none is asked
    with pytest.raises(PausedError, match=r"interrupted; lastrun resume .*j goes on with it"):
        start(lambda: make(1), [], False, True, "submit", launcher)
    assert made == ["begun", "whole"]
    with pytest.raises(KeyboardInterrupt):
        start(lambda: make(2), [], False, True, "submit", launcher)
    assert made == ["begun", "whole", "begun"]
