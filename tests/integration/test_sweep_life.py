"""A sweep's life through the real commands: killed in the middle, resumed by two at once, stopped, compared."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from runner.job.find import find_group
from tests.conftest import TINY, Cli
from tests.jobs import wait_until

SMALL = ("--set", "training.epochs=2", "training.batch_size=80")


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    path = tmp_path / "sweep.yaml"
    path.write_text(f"{TINY}sweep: {{grid: {{training.lr: [0.1, 0.05]}}, seeds: 2}}\n")
    return path


def states(run: Any) -> list[tuple[str, int]]:
    """Each point's state, and how many attempts have taken it."""
    found = []
    for job in find_group("tiny", run.store.uri).jobs():
        attempts = job.attempts.all()
        found.append((job.attempts.state(attempts)[0].value, len(attempts)))
    return found


@pytest.mark.slow
def test_a_sweep_that_is_killed_goes_on_with_what_is_unfinished_and_two_who_resume_it_share_the_rest(
    run: Any, cli: Cli, sweep: Path
) -> None:
    first = run("submit", sweep, *SMALL)
    wait_until(lambda: first.process.poll() is not None or (len(list(first.store.scan(".index/"))) == 4))
    wait_until(lambda: states(first)[1][0] == "running")
    os.killpg(first.process.pid, signal.SIGKILL)
    first.end()
    group = find_group("tiny", first.store.uri)
    wait_until(lambda: json.loads(cli("status", group.id, "--json").stdout)["states"].get("running") is None)
    assert [state for state, _ in states(first)] == ["succeeded", "lost", "queued", "queued"]

    both = [run("resume", group.id) for _ in range(2)]
    ends = [one.end() for one in both]
    assert {code for code, _ in ends} <= {0, 5}, ends
    assert states(first) == [("succeeded", 1), ("succeeded", 2), ("succeeded", 1), ("succeeded", 1)]
    assert sum(out.count(": succeeded, best top-1") for _, out in ends) >= 3
    again = cli("resume", group.id)
    assert (again.returncode, "is complete" in again.stderr) == (2, True)

    facts = json.loads(cli("compare", group.id, "--json").stdout)
    assert [row["finished"] for row in facts["rows"]] == [2, 2]
    tops = {job.id: max(m["test_top1"] for m in job.metrics()) for job in group.jobs()}
    for row in facts["rows"]:
        assert row["best"] == pytest.approx(sum(tops[name] for name in row["jobs"]) / 2)
    assert len(json.loads(cli("list", "--group", "tiny", "--json").stdout)["jobs"]) == 4
    gone = cli("rm", group.id)
    assert gone.returncode == 0, gone.stderr
    assert list(first.store.scan("")) == []


KILLED = """\
import os, signal, sys
from runner.store.directory import DirectoryStore
put, left = DirectoryStore.put, 6
def puts(self, key, data):
    global left
    left -= 1
    put(self, key, data) if left else os.kill(os.getpid(), signal.SIGKILL)
DirectoryStore.put = puts
from runner.commands.app import main
sys.argv = ["lastrun", *sys.argv[1:]]
main()
"""
"""After the group's record, three entries of the index and one of the three jobs."""


@pytest.mark.slow
def test_a_submit_that_is_killed_while_it_makes_its_jobs_is_gone_on_with(
    cli: Cli, tmp_path: Path, clean_env: dict[str, str]
) -> None:
    path = tmp_path / "sweep.yaml"
    path.write_text(f"{TINY}sweep: {{seeds: 3}}\n")
    words = [sys.executable, "-c", KILLED, "submit", str(path), *SMALL]
    assert subprocess.run(words, env=clean_env, capture_output=True, check=False).returncode == -signal.SIGKILL
    shown = cli("status", "tiny")
    assert "points 3: 1 queued" in shown.stdout, shown.stdout + shown.stderr
    assert "2 points are not made yet" in shown.stdout
    group = find_group("tiny", clean_env["LASTRUN_STORE"])
    done = cli("resume", group.id, "--parallel", "2")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 jobs were missing, since its submit was cut; they are made" in done.stdout
    assert "of 3 points: 3 succeeded" in done.stdout
    row = json.loads(cli("compare", group.id, "--json").stdout)["rows"][0]
    assert (row["finished"], row["unfinished"]) == (3, [])


@pytest.mark.slow
def test_ctrl_c_pauses_all_that_run_and_stop_is_heard_by_a_group_in_the_background(run: Any, cli: Cli, sweep: Path) -> None:
    current = run("submit", sweep, "--parallel", "2", "--set", "training.epochs=400")
    wait_until(lambda: len(list(current.store.scan(".index/"))) == 4 or current.process.poll() is not None)
    wait_until(lambda: [state for state, _ in states(current)][:2] == ["running", "running"])
    wait_until(lambda: all(job.checkpoints.all() for job in find_group("tiny", current.store.uri).jobs()[:2]))
    current.press_ctrl_c()
    code, out = current.end()
    assert code == 75, out
    assert "ended early: interrupted (SIGINT); 2 points were not begun" in out
    assert "stopping: no other point begins, and those that run save a checkpoint first" in out
    assert [state for state, _ in states(current)] == ["paused", "paused", "queued", "queued"]

    group = find_group("tiny", current.store.uri)
    behind = cli("resume", group.id, "--detach")
    assert behind.returncode == 0, behind.stdout + behind.stderr
    assert "4 points run in the background" in behind.stdout
    assert states(current)[0] == ("running", 2)
    stopped = cli("stop", group.id, "--wait")
    assert stopped.returncode == 0, stopped.stderr
    assert [state for state, _ in states(current)] == ["stopped", "paused", "queued", "queued"]
