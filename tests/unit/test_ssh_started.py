"""What a command does with an attempt that it has started on a host; of a real one it is in tests/integration/test_ssh.py."""

from __future__ import annotations

import os
import pty
import signal
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from runner.errors import EngineError
from runner.job.job import Job
from runner.launch.ssh.setup import Host
from runner.launch.ssh.started import StartedThere
from runner.store.directory import DirectoryStore


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
