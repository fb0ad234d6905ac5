"""The far side's folders of attempts; what they hold of a real one is in tests/integration/test_ssh.py."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from runner import machine
from runner.launch.ssh import runs


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """One over which somebody watches who lives."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folder = tmp_path / "lastrun" / "ssh" / "runs" / "0123abcd"
    folder.mkdir(parents=True)
    (folder / "pids").write_text(json.dumps({str(os.getpid()): machine.process_identity(os.getpid())}))
    return folder


def test_what_has_ended_is_removed_though_its_watcher_is_still_leaving(run: Path) -> None:
    (run / "exit").write_text("0")
    runs.remove("0123abcd")
    assert not run.exists()


def test_what_is_at_work_is_not_removed(run: Path) -> None:
    runs.remove("0123abcd")
    assert run.exists()
