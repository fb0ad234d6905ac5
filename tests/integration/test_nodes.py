"""One run on the two machines of a real Slurm: the bits of one, and what becomes of it when one of them goes."""

from __future__ import annotations

import os
import re
import signal
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from last_e.ranks.lifeline import BEAT_SECONDS
from runner.job.job import Job
from tests.conftest import Cli
from tests.jobs import Run, assert_same, command_lines, has_saved, jobs_in, result, stand_still, wait_until
from tests.slurm import Slurm

pytestmark = [pytest.mark.xdist_group("slurm"), pytest.mark.slow]
ALONE = ("--set", "training.epochs=3", "hardware.micro_batch=20")


@pytest.fixture
def nodes(slurm: Slurm, tmp_path: Path) -> tuple[str, ...]:
    (tmp_path / "shared").mkdir()
    of_slurm = ("run.nodes=2", "run.gpus=0", "run.slurm.partition=all", f"hardware.scratch_root={tmp_path / 'shared'}")
    return (*ALONE, "--launcher", "slurm", "--set", *of_slurm)


def ranks_of(job: Job) -> dict[str, int]:
    """The process of each rank, by the machine that Slurm has started it on."""
    found = {}
    for pid, line in command_lines().items():
        if b"\0--rank\0" in line and job.id.encode() in line and not line.startswith(b"srun"):
            with suppress(OSError):
                variables = dict(one.partition("=")[::2] for one in Path(f"/proc/{pid}/environ").read_text().split("\0"))
                found[variables["SLURMD_NODENAME"]] = pid
    return found


def slurm_id(job: Job) -> str:
    return str((job.attempts.all()[-1].container or {})["name"])


def saves(job: Job) -> bool:
    return bool(job.attempts.all()) and has_saved(job)


def test_two_machines_train_one_run_to_the_bits_of_one_though_one_of_them_is_cut_off(
    run: Any, cli: Cli, tiny: Path, nodes: tuple[str, ...]
) -> None:
    current: Run = run("submit", tiny, *nodes, "training.epochs=10")
    current.wait_for(saves)
    ranks = ranks_of(current.job)
    assert len(ranks) == 2
    (there,) = current.job.attempts.all()[0].hardware["further_nodes"]
    os.kill(ranks[there], signal.SIGKILL)
    code, out = current.end()
    assert code == 0, out
    assert re.search(r"warning: rank 1 has gone \(srun: .*\); .*; going on from step \d+ \(1 of run.max_restarts 3\)", out), out
    assert "ranks: 2, each with 1 of the 2 micro-batches of a step" in out
    assert cli("submit", tiny, *ALONE, "training.epochs=10").returncode == 0
    assert_same(current.job, result(jobs_in(current.store)[-1]))


def test_one_that_stands_still_is_gone_on_without_and_what_is_cancelled_is_paused(
    run: Any, tiny: Path, slurm: Slurm, nodes: tuple[str, ...]
) -> None:
    current: Run = run("submit", tiny, *nodes, "training.epochs=5000")
    current.wait_for(saves)
    (there,) = current.job.attempts.all()[0].hardware["further_nodes"]
    first = ranks_of(current.job)[there]
    time.sleep(3 * BEAT_SECONDS)  # until its first step has been heard of; before, it would have more time
    stand_still(first)
    wait_until(lambda: ranks_of(current.job).get(there, first) != first and len(ranks_of(current.job)) == 2)
    before = current.job.checkpoints.all()[-1].manifest.step
    current.wait_for(lambda job: job.checkpoints.all()[-1].manifest.step > before)
    slurm.call("scancel", slurm_id(current.job))
    code, out = current.end()
    assert code == 75, out
    assert "rank 1 did not answer for 15 s" in out
    wait_until(lambda: ranks_of(current.job) == {} and not Path(f"/proc/{first}").exists())
    (attempt,) = current.job.attempts.all()
    assert attempt.reason == "preempted"
