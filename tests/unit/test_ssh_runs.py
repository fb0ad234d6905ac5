"""The far side's folders of attempts; what they hold of a real one is in tests/integration/test_ssh.py."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from runner import machine
from runner.launch.ssh import runs
from runner.launch.ssh.setup import Host


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


@pytest.mark.parametrize(
    ("words", "given"),
    [
        (("receive", "0" * 64, "x.safetensors", "0", str(8 << 20)), b"x" * (8 << 20)),
        (("relay-take", "0" * 32, "j-1"), b'["j-1/x", 8388608]\n' + b"x" * (8 << 20)),
    ],
    ids=["data", "a job"],
)
def test_a_disk_that_is_full_is_told_in_one_line(
    small_disk: Path, clean_env: dict[str, str], words: tuple[str, ...], given: bytes
) -> None:
    """Also where it fills while something is sent, after it was looked at."""
    command = [sys.executable, "-m", "runner.launch.ssh.far", *words]
    env = {**clean_env, "XDG_CACHE_HOME": str(small_disk)}
    done = subprocess.run(command, input=given, capture_output=True, env=env, check=False)
    assert done.returncode == 1
    [line] = done.stderr.decode().splitlines()
    assert line.startswith("error: ")
    assert "No space left on device" in line, line


def test_a_command_calls_the_version_that_it_has_put_there_whatever_becomes_of_the_clone_meanwhile(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    put = Host("far").folder
    monkeypatch.setattr("runner.launch.ssh.wheel._digest", lambda data: "of other code")
    assert Host("far").folder == put
