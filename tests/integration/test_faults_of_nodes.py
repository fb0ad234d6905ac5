"""One run on the two machines of a real Slurm, with a network of their own: the bits of one, and what becomes of it when one of
them goes, and comes back."""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from last_e.ranks.lifeline import BEAT_SECONDS
from runner.job.job import Job
from runner.store.directory import DirectoryStore
from tests import debian, network, slurm
from tests.conftest import TINY
from tests.jobs import PATIENCE, Run, assert_same, assert_whole, command_lines, has_saved, jobs_in, stand_still, wait_until
from tests.jobs import result as result_of
from tests.network import BETWEEN, Network
from tests.slurm import NODES, Slurm

pytestmark = [pytest.mark.xdist_group("nodes"), pytest.mark.slow]
ALONE = ("--set", "training.epochs=20", "hardware.micro_batch=20")
Result = tuple[dict[str, Any], list[dict[str, Any]]]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Slurm]:
    """A Slurm whose two nodes have a network of their own."""
    debian.need("Slurm", slurm.why_not)
    debian.need("a network", network.why_not)
    folder = Path(tempfile.mkdtemp(prefix="slurm-", dir="/tmp"))
    machines = Network(folder, NODES)
    one = Slurm(folder, machines)
    try:
        machines.start(socket.gethostname())
        one.start()
        yield one
    finally:
        one.stop()
        machines.stop()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def machines(cluster: Slurm) -> Iterator[Network]:
    """All cables are in their places before and after a test."""
    assert cluster.network is not None
    yield cluster.network
    cluster.network.plug_in_all()


@pytest.fixture
def nodes(slurm: Slurm, machines: Network, tmp_path: Path) -> tuple[str, ...]:
    (tmp_path / "shared").mkdir()
    of_slurm = ("run.nodes=2", "run.gpus=0", "run.slurm.partition=all", f"hardware.scratch_root={tmp_path / 'shared'}")
    return (*ALONE, "--launcher", "slurm", "--set", *of_slurm)


@pytest.fixture(scope="module")
def of_one(tmp_path_factory: pytest.TempPathFactory) -> Result:
    """What one process makes of it."""
    folder = tmp_path_factory.mktemp("of_one")
    (folder / "tiny.yaml").write_text(TINY)
    command = [sys.executable, "-m", "runner", "submit", str(folder / "tiny.yaml"), "--store", str(folder / "store"), *ALONE]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return result_of(jobs_in(DirectoryStore(folder / "store"))[0])


def ranks_of(job: Job) -> dict[str, int]:
    """The process of each rank, by the machine that Slurm has started it on."""
    found = {}
    for pid, line in command_lines().items():
        if b"\0--rank\0" in line and job.id.encode() in line and not line.startswith(b"srun"):
            with suppress(OSError, KeyError):  # it ends meanwhile
                variables = dict(one.partition("=")[::2] for one in Path(f"/proc/{pid}/environ").read_text().split("\0"))
                found[variables["SLURMD_NODENAME"]] = pid
    return found


def slurm_id(job: Job) -> str:
    return str((job.attempts.all()[-1].container or {})["name"])


def saves(job: Job) -> bool:
    return bool(job.attempts.all()) and has_saved(job)


def until_it_trains(current: Run) -> tuple[str, str]:
    """Until its first step has been heard of, before which ranks have more time; the machine of the attempt, and the other."""
    current.wait_for(saves)
    time.sleep(3 * BEAT_SECONDS)
    (there,) = current.job.attempts.all()[0].hardware["further_nodes"]
    (here,) = set(NODES) - {there}
    return here, there


def is_gone(pid: int) -> bool:
    return not Path(f"/proc/{pid}").exists()


def until_begun_anew(job: Job, here: str, before: int) -> int:
    """The process of the rank on the machine of the attempt, once there is another than ``before``."""
    wait_until(lambda: ranks_of(job).get(here, before) != before)
    return ranks_of(job)[here]


def test_two_machines_train_one_run_to_the_bits_of_one_though_a_rank_is_killed(
    run: Any, tiny: Path, nodes: tuple[str, ...], of_one: Result
) -> None:
    current: Run = run("submit", tiny, *nodes)
    current.wait_for(saves)
    ranks = ranks_of(current.job)
    assert len(ranks) == 2
    (there,) = current.job.attempts.all()[0].hardware["further_nodes"]
    os.kill(ranks[there], signal.SIGKILL)
    code, out = current.end()
    assert code == 0, out
    gone = rf"warning: rank 1 on {there} has gone \(srun: .*\); .*; going on from step \d+ \(1 of run.max_restarts 3\)"
    assert re.search(gone, out), out
    assert "ranks: 2, each with 1 of the 2 micro-batches of a step" in out
    assert_same(current.job, of_one)


def test_one_that_stands_still_is_gone_on_without_and_what_is_cancelled_is_paused(
    run: Any, tiny: Path, slurm: Slurm, nodes: tuple[str, ...]
) -> None:
    current: Run = run("submit", tiny, *nodes, "training.epochs=5000")
    _, there = until_it_trains(current)
    first = ranks_of(current.job)[there]
    stand_still(first)
    wait_until(lambda: ranks_of(current.job).get(there, first) != first and len(ranks_of(current.job)) == 2)
    before = current.job.checkpoints.all()[-1].manifest.step
    current.wait_for(lambda job: job.checkpoints.all()[-1].manifest.step > before)
    slurm.call("scancel", slurm_id(current.job))
    code, out = current.end()
    assert code == 75, out
    assert f"rank 1 on {there} did not answer for 15 s" in out
    wait_until(lambda: ranks_of(current.job) == {} and is_gone(first))
    (attempt,) = current.job.attempts.all()
    assert attempt.reason == "preempted"


def test_a_machine_that_is_cut_off_is_named_and_tried_until_it_is_back_and_who_comes_late_is_refused(
    run: Any, tiny: Path, nodes: tuple[str, ...], machines: Network, clean_env: dict[str, str], of_one: Result
) -> None:
    current: Run = run("submit", tiny, *nodes)
    here, there = until_it_trains(current)
    first = ranks_of(current.job)
    words = command_lines()[first[there]].decode().rstrip("\0").split("\0")
    machines.pull_out(there)
    second = until_begun_anew(current.job, here, first[here])
    wait_until(lambda: is_gone(first[there]))  # by itself: nobody gets there
    third = until_begun_anew(current.job, here, second)
    machines.plug_in(there)
    if here not in ranks_of(current.job):
        until_begun_anew(current.job, here, third)
    late = subprocess.run([*machines.on(there), *words], capture_output=True, text=True, env=clean_env, check=False)
    assert (late.returncode, late.stdout) == (1, "")
    assert late.stderr == "error: rank 1 comes too late: that start of the run is over; what goes on does so without it\n"
    code, out = current.end()
    assert code == 0, out
    lost = f"warning: rank 1 on {there} did not answer for 15 s; the last checkpoint stands; going on from step "
    assert out.count(lost) == 1, out
    away = rf"warning: rank 1 on {there} has gone \(srun: .*\); .*; tried again for 15 minutes, or until the cluster gives"
    assert len(re.findall(away, out)) == 1, out
    assert [one.reason for one in current.job.attempts.all()] == ["completed"]
    assert_same(current.job, of_one)
    assert_whole(current.job)


def test_ranks_that_do_not_reach_each_other_are_not_waited_for(
    run: Any, tiny: Path, nodes: tuple[str, ...], machines: Network, clean_env: dict[str, str], of_one: Result
) -> None:
    """Slurm reaches both, and both say that they live."""
    clean_env["GLOO_SOCKET_IFNAME"] = BETWEEN
    current: Run = run("submit", tiny, *nodes, "run.pass_env=[GLOO_SOCKET_IFNAME]")
    here, there = until_it_trains(current)
    first = ranks_of(current.job)[here]
    machines.pull_out_between()
    wait_until(lambda: is_gone(first))
    machines.plug_in_between()
    code, out = current.end()
    assert code == 0, out
    stuck = rf"warning: nothing gets from one rank to another: all have waited for 18 s \(the network between {here}, {there}; "
    assert re.search(stuck, out), out
    assert_same(current.job, of_one)


@pytest.mark.full
def test_the_machine_of_the_attempt_is_lost_to_slurm_and_comes_back_with_it(
    run: Any, tiny: Path, slurm: Slurm, nodes: tuple[str, ...], machines: Network, of_one: Result
) -> None:
    """It trains on there, alone, for nobody: what it does counts for nothing once another attempt has the job."""
    current: Run = run("submit", tiny, *nodes)
    here, there = until_it_trains(current)
    old = ranks_of(current.job)
    attempt = current.job.attempts.all()[0]
    machines.pull_out(here)
    slurm.call("scontrol", "update", f"NodeName={here}", "State=DOWN", "Reason=its cable is out")
    wait_until(lambda: is_gone(old[there]))
    wait_until(lambda: "PENDING" in slurm.call("squeue", "-h", "-o", "%T"))
    machines.plug_in(here)
    slurm.call("scontrol", "update", f"NodeName={here}", "State=RESUME")
    code, out = current.end()
    assert code == 0, out
    assert len(current.job.attempts.all()) > 1
    assert current.job.attempts.all()[-1].id != attempt.id
    assert_same(current.job, of_one)
    assert_whole(current.job)
    wait_until(lambda: ranks_of(current.job) == {})


# --- by chance -----------------------------------------------------------------------------------------------------------

Blow = Callable[[Job, Network, random.Random], None]


def a_rank(signum: signal.Signals) -> Blow:
    def strike(job: Job, _: Network, chance: random.Random) -> None:
        os.kill(chance.choice(sorted(ranks_of(job).values())), signum)

    strike.__name__ = f"a rank gets {signum.name}"
    return strike


def a_cable(shortest: float, longest: float) -> Blow:
    def strike(_: Job, machines: Network, chance: random.Random) -> None:
        name = chance.choice(NODES)
        machines.pull_out(name)
        time.sleep(chance.uniform(shortest, longest))
        machines.plug_in(name)

    strike.__name__ = f"a cable is out for {shortest:.0f} to {longest:.0f} s"
    return strike


QUICK = [a_rank(signal.SIGTERM), a_cable(1, 5)]
BLOWS = [*QUICK, a_rank(signal.SIGKILL), a_rank(signal.SIGSTOP), a_cable(5, 60)]


def test_two_machines_are_struck_at_random_moments(
    run: Any, tiny: Path, nodes: tuple[str, ...], machines: Network, of_one: Result, full: bool, figure: Any
) -> None:
    """As often as a job has ended another is begun, until all blows have fallen. When each falls is counted in checkpoints."""
    chance = random.Random(18)
    blows = [chance.choice(BLOWS) for _ in range(20)] if full else list(QUICK)
    fallen, jobs, starts = len(blows), [], 0
    submit = ("submit", tiny, *nodes, "run.max_restarts=1000")
    line: tuple[str | Path, ...] = submit
    while blows or line is not submit:
        current: Run = run(*line)
        starts += 1
        if line is submit:
            wait_until(lambda current=current: len(jobs_in(current.store)) > len(jobs))
            jobs.append(jobs_in(current.store)[0])
        job = jobs[-1]
        while blows and current.process.poll() is None:
            seen = {stored.name for stored in job.checkpoints.all()}
            number = chance.randint(1, 4)
            wait_until(
                lambda seen=seen, number=number, current=current, job=job: (
                    current.process.poll() is not None
                    or (len({one.name for one in job.checkpoints.all()} - seen) >= number and len(ranks_of(job)) == 2)
                )
            )
            if current.process.poll() is None:
                with suppress(ProcessLookupError, IndexError):  # one may have gone by itself a moment before
                    blows.pop()(job, machines, chance)
        code, out = current.end()
        if code == 0:
            assert_same(job, of_one)
            assert_whole(job)
            line = submit
        else:
            assert code in (1, 75), out
            line = ("resume", job.id)
    assert all(ranks_of(job) == {} for job in jobs)
    figure("blows to ranks and cables of two machines", f"{fallen}, {starts} starts, {len(jobs)} jobs of the same bits")
