"""Sweeps over several hosts, each with an sshd and a home folder of its own; the store is a folder that all of them have."""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from runner.job.find import find_group
from runner.job.job import Job
from runner.store.directory import DirectoryStore
from runner.view.groups import group_status
from tests.conftest import TINY, Cli, close_connections
from tests.jobs import Run, jobs_in, stand_still, trainer_of, wait_until
from tests.sshd import Sshd

pytestmark = [pytest.mark.xdist_group("ssh"), pytest.mark.slow]

SOME_STEPS = ("--set", "training.epochs=1", "training.warmup_epochs=0", "training.batch_size=20")
_HOST = """\
Host {name}
  HostName 127.0.0.1
  Port {port}
  User root
  IdentitiesOnly yes
  IdentityFile {folder}/user
  UserKnownHostsFile {folder}/known
"""


@pytest.fixture
def other(far: Sshd, clean_env: dict[str, str]) -> Iterator[Sshd]:
    """A second machine, ``other`` beside ``far``, on which lastrun has been set up already."""
    folder = Path(tempfile.mkdtemp(prefix="ssh-", dir="/tmp"))
    own = Path(".cache/lastrun/ssh")
    shutil.copytree(far.folder / "home" / own, folder / "home" / own, symlinks=True, ignore=shutil.ignore_patterns("runs"))
    server = Sshd(folder, HOME=str(folder / "home"), PATH=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    hosts = [("other", server), ("far", far)]
    config = "".join(_HOST.format(name=name, port=one.port, folder=one.folder) for name, one in hosts)
    (folder / "both").write_text(config + (far.folder / "config").read_text())
    (server.bin / "ssh").write_text(f'#!/bin/sh\nexec {shutil.which("ssh")} -F {folder}/both "$@"\n')
    clean_env["PATH"] = f"{server.bin}:{os.environ['PATH']}"
    yield server
    close_connections(Path(clean_env["XDG_RUNTIME_DIR"]))
    if server.process.poll() is None:
        server.die()
    shutil.rmtree(folder, ignore_errors=True)


def sweep_of(count: int, folder: Path) -> Path:
    path = folder / "sweep.yaml"
    path.write_text(f"{TINY}sweep: {{grid: {{training.lr: {[round(0.02 * n, 2) for n in range(1, count + 1)]}}}}}\n")
    return path


def dies_in_the_middle(host: Sshd, name: str, run: Run) -> Job:
    """Of one of the points there, which it returns."""
    found: list[Job] = []

    def some_are_stored() -> bool:
        assert run.process.poll() is None, run.process.communicate()[0]
        for job in jobs_in(run.store):
            attempts = job.attempts.all()
            there = [one for one in attempts if one.phase == "running" and (one.container or {})["name"] == name]
            if there and job.checkpoints.all():
                found.append(job)
        return bool(found)

    wait_until(some_are_stored)
    stand_still(trainer_of(found[0]))
    host.die()
    return found[0]


def test_a_host_that_dies_gives_its_point_back_and_another_goes_on_with_it(
    run: Any, cli: Cli, other: Sshd, tmp_path: Path
) -> None:
    current: Run = run("submit", sweep_of(6, tmp_path), "--on", "far,other", *SOME_STEPS)
    lost = dies_in_the_middle(other, "other", current)
    code, out = current.end()
    assert code == 0, out
    number = int(lost.id[-4:])
    assert f"point {number} of 6 begins on other: training.lr=" in out
    assert f"point {number} of 6 was lost and is in line again: other: nothing listens there" in out
    assert f"point {number} of 6: succeeded on far, best top-1" in out
    assert "of 6 points: 6 succeeded" in out
    group = find_group("tiny", current.store.uri)
    attempts = {job.id: job.attempts.all() for job in group.jobs()}
    assert [len(some) for job, some in attempts.items() if job != lost.id] == [1] * 5
    first, second = attempts[lost.id]
    assert [(one.container or {})["name"] for one in (first, second)] == ["other", "far"]
    assert (first.reason, second.reason, second.resumed_step > 0) == (None, "completed", True)

    rows = json.loads(cli("compare", group.id, "--json").stdout)["rows"]
    best = {job.id: max(m["test_top1"] for m in job.metrics()) for job in group.jobs()}
    assert [row["unfinished"] for row in rows] == [[]] * 6
    assert [row["best"] for row in rows] == sorted(best.values(), reverse=True)
    assert {row["jobs"][0]: row["best"] for row in rows} == pytest.approx(best)


def test_data_of_this_machine_go_to_each_host_once(cli: Cli, far: Sshd, other: Sshd, tmp_path: Path) -> None:
    """To one of them they take their time, and the other begins meanwhile."""
    data = tmp_path / "made-up.safetensors"
    assert cli("data", "synth", "--like", "ntu60", "--clips", "240", "--out", data).returncode == 0
    slow = f'case "$BASH_EXECUTION_STRING" in *" receive "*) until [ -e {tmp_path}/other ]; do sleep 0.1; done;; esac\n'
    (far.folder / "home" / "rc").write_text(slow)
    hears = f'case "$BASH_EXECUTION_STRING" in *" start"*) touch {tmp_path}/other;; esac\n'
    (other.folder / "home" / ".bashrc").write_text(hears)
    given = ("dataset=ntu60", f"data.uri={data}")
    done = cli("submit", sweep_of(4, tmp_path), "--on", "far,other", *SOME_STEPS, *given)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "of 4 points: 4 succeeded" in done.stdout
    assert sorted(line.partition(",")[0] for line in done.stderr.splitlines() if ": sending" in line) == [
        "far: sending made-up.safetensors",
        "other: sending made-up.safetensors",
    ]


def test_without_any_host_left_the_group_ends_and_goes_on_elsewhere(
    run: Any, cli: Cli, other: Sshd, tmp_path: Path, clean_env: dict[str, str]
) -> None:
    current: Run = run("submit", sweep_of(2, tmp_path), "--on", "other", *SOME_STEPS)
    lost = dies_in_the_middle(other, "other", current)
    code, out = current.end()
    assert code == 6, out
    group = find_group("tiny", current.store.uri)
    assert "ended early: no host is left: other: nothing listens there" in out
    assert f"2 points are left: lastrun resume {group.id} --on HOST,... goes on with them" in out

    # Those that it was begun on are asked where nobody says otherwise.
    again = cli("resume", group.id)
    assert again.returncode == 6, again.stdout + again.stderr
    assert again.stderr.startswith("error: other: nothing listens there")
    stranger = cli("resume", group.id, XDG_DATA_HOME=str(tmp_path / "stranger"))
    assert stranger.returncode == 2, stranger.stdout + stranger.stderr
    assert "was begun on other, as the store says; you have not named other from here" in stranger.stderr

    behind = cli("resume", group.id, "--on", "far", "--detach")
    assert behind.returncode == 0, behind.stdout + behind.stderr
    wait_until(lambda: group_status(group)["states"] == {"succeeded": 2})
    assert [len(job.attempts.all()) for job in group.jobs()] == [2, 1]
    assert lost.attempts.all()[-1].resumed_step > 0


def test_all_that_is_wrong_with_hosts_is_told_before_there_is_a_job(
    cli: Cli, far: Sshd, tmp_path: Path, clean_env: dict[str, str]
) -> None:
    refused = cli("submit", sweep_of(2, tmp_path), "--on", "far,closed,refused", *SOME_STEPS)
    assert refused.returncode == 6, refused.stdout + refused.stderr
    assert "closed: nothing listens there" in refused.stderr
    assert "refused: it does not let you in" in refused.stderr
    assert len(refused.stderr.splitlines()) == 2
    assert jobs_in(DirectoryStore(Path(clean_env["LASTRUN_STORE"]))) == []
    twice = cli("submit", sweep_of(2, tmp_path), "--on", "far,far,-x")
    assert twice.returncode == 2
    assert "found '-x'; allowed: a host as ssh knows it" in twice.stderr
    assert "far is named twice" in twice.stderr
