"""The quickstart at its real size, but with two epochs of its five: cut after the first, resumed, and still at least 99%.

The whole of it, uncut, is what ``.ci/run`` has ``make demo`` do.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from runner.job.job import Job
from runner.store.directory import DirectoryStore
from tests.conftest import Cli
from tests.jobs import PATIENCE, jobs_in

ROOT = Path(__file__).parents[2]
EPOCHS = ("--set", "training.epochs=2")


@pytest.mark.slow
def test_the_quickstart_reaches_99_percent_also_when_it_was_cut(cli: Cli, clean_env: dict[str, str]) -> None:
    command = [sys.executable, "-m", "runner", "submit", str(ROOT / "jobs" / "quickstart.yaml"), *EPOCHS]
    process = subprocess.Popen(command, env=clean_env, stdout=subprocess.PIPE, text=True, start_new_session=True)
    store = DirectoryStore(Path(clean_env["LASTRUN_STORE"]))
    deadline = time.monotonic() + PATIENCE
    while not (jobs_in(store) and jobs_in(store)[0].metrics()):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.2)
    os.killpg(process.pid, signal.SIGINT)
    out, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 75, out

    done = cli("resume", jobs_in(store)[0].id, timeout=2 * PATIENCE)
    assert done.returncode == 0, done.stdout + done.stderr
    facts = json.loads(cli("status", "quickstart", "--json").stdout)
    assert facts["state"] == "succeeded"
    assert facts["attempts"] == 2
    assert [m["epoch"] for m in Job(store, facts["id"]).metrics()] == [1, 2]
    assert facts["metrics"]["test_top1"] >= 0.99
    assert f"test top-1 {100 * facts['metrics']['test_top1']:.2f}%" in done.stdout
