"""What the command line does by itself."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from runner.cli import _run
from runner.errors import PausedError
from runner.job import Job
from runner.signals import LEAVING
from runner.store.directory import DirectoryStore


@pytest.mark.parametrize("detach", [False, True])
@pytest.mark.parametrize("signum", LEAVING)
def test_who_leaves_before_the_launcher_listens_is_told_how_the_job_goes_on(
    tmp_path: Path, signum: signal.Signals, detach: bool
) -> None:
    class Slow:
        def run(self, *_: Any, **__: Any) -> int:
            os.kill(os.getpid(), signum)
            time.sleep(60)
            raise AssertionError("the signal was not heard")

        detach = run

    handlers = [signal.getsignal(each) for each in LEAVING]
    with pytest.raises(PausedError, match=r"interrupted; lastrun resume .*j goes on with it"):
        _run(lambda: Job(DirectoryStore(tmp_path), "j"), [], detach, True, "resume", Slow())
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

    launcher = None  # none is asked
    with pytest.raises(PausedError, match=r"interrupted; lastrun resume .*j goes on with it"):
        _run(lambda: make(1), [], False, True, "submit", launcher)
    assert made == ["begun", "whole"]
    with pytest.raises(KeyboardInterrupt):
        _run(lambda: make(2), [], False, True, "submit", launcher)
    assert made == ["begun", "whole", "begun"]
