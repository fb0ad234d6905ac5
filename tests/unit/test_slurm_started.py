"""What a command does with a Slurm job behind a login node that is not reached; a real one is in test_slurm_by_ssh."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from runner.errors import EngineError
from runner.job.job import Job
from runner.launch.slurm.login import StartedThere, ThereCluster
from runner.launch.ssh.setup import Host
from runner.store.directory import DirectoryStore


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
