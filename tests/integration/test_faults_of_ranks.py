"""Bad days of a run that several processes train: it comes out as if there had been none, or says once what was wrong."""

from __future__ import annotations

import math
import multiprocessing
import os
import pty
import random
import re
import select
import shlex
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import distributed as dist

from last_e import train
from last_e.checkpoint import load
from last_e.config import TrainConfig
from last_e.events import Discard
from last_e.layers import resolve
from last_e.manifest import newest_whole, read_manifest
from last_e.process import on_notices
from last_e.ranks.fold import shares
from last_e.ranks.group import ALONE, Group, Joined, RanksDiffer, Seat
from last_e.ranks.lifeline import BEAT_SECONDS
from last_e.ranks.meeting import PREFIX
from last_e.reading import set_layer
from last_e.step import train_step
from last_e.stop import Stop
from runner.store.directory import DirectoryStore
from tests.integration.test_ranks import again, begun, data, finished, ranks_of, result, steps_saved, words  # noqa: F401
from tests.jobs import PATIENCE, Run, assert_same, assert_whole, command_lines, jobs_in, processes_of, wait_until
from tests.jobs import result as result_of
from tests.unit.test_trainer_step import CPU, PLAIN, config, everything, fresh, spoiled, steps, totals

SPAWN = multiprocessing.get_context("spawn")


def together(work: Callable[..., None], *arguments: object) -> None:
    """Run a function as two ranks."""
    processes = [SPAWN.Process(target=work, args=(rank, *arguments)) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(PATIENCE)
    assert [process.exitcode for process in processes] == [0, 0]


# --- steps that are not finite -------------------------------------------------------------------------------------------


def train_three_steps(rank: int, size: int, folder: Path) -> None:
    """Of the second one the last clips are no numbers: those of the last rank alone."""
    torch.set_num_threads(1)
    settings = config("training.batch_size=4", "training.gradient_accumulation_steps=2")
    group: Group = ALONE
    if size > 1:
        group = joined = Joined(Seat(rank, size, folder / "meeting", size))
        joined.meet(CPU)
    state = fresh(settings)
    for number, batches in enumerate(steps(settings)[:3]):
        batches = spoiled(batches, math.nan) if number == 1 else batches
        share = shares(len(batches), size)[rank]
        train_step(state, batches[share.start : share.stop], 0.1, settings, PLAIN, group, len(batches))
    torch.save((everything(state), vars(totals(state))), folder / f"{rank}-of-{size}")
    if isinstance(group, Joined):
        group.leave()


def train_as_one_of_two(rank: int, folder: Path) -> None:
    train_three_steps(rank, 2, folder)


@pytest.mark.slow
def test_a_step_of_which_one_ranks_share_is_not_finite_is_skipped_by_all(tmp_path: Path) -> None:
    together(train_as_one_of_two, tmp_path)
    train_three_steps(0, 1, tmp_path)
    (alone, counted), *others = (torch.load(tmp_path / name) for name in ("0-of-1", "0-of-2", "1-of-2"))
    assert counted["skipped"] == 1
    for values, told in others:
        assert told == counted
        assert all(torch.equal(values[name], alone[name]) for name in alone)


def meet_with_a_gpu_on_one_side(rank: int, folder: Path) -> None:
    group = Joined(Seat(rank, 2, folder / "meeting", 2))
    with pytest.raises(RanksDiffer, match=r"^some ranks have a GPU, and some have none: hardware.device=cpu has all"):
        group.meet(torch.device(("cpu", "cuda")[rank]))
    group.leave()


@pytest.mark.slow
def test_ranks_of_which_one_has_no_gpu_are_told_so_and_do_not_wait_for_each_other(tmp_path: Path) -> None:
    together(meet_with_a_gpu_on_one_side, tmp_path)


@pytest.mark.slow
def test_a_run_that_diverges_says_so_once_and_keeps_what_one_rank_would_keep(tmp_path: Path) -> None:
    wild = ["training.lr=100", "training.gradient_clip=0", "training.warmup_epochs=0", "training.max_bad_steps=3"]
    wild += ["model.use_ib_loss=true", "training.ib_loss_weight=1e6", "checkpoint.every_minutes=1e-7"]
    ends, kept = [], []
    for ranks in (1, 3):
        run = tmp_path / str(ranks)
        with begun(words(run, ranks, *wild)) as process:
            out, err = process.communicate(timeout=PATIENCE)
        assert (process.returncode, err) == (1, "")
        assert out.count("3 steps in a row gave a loss or gradient that is not finite") == 1
        ends.append(re.findall(r"diverged at step \d+ of \d+|step \d+: loss or gradient not finite", out))
        newest = newest_whole(run / "checkpoints", lambda _: None)
        assert newest is not None
        state, about = load(newest)
        assert all(tensor.isfinite().all() for tensor in state["model"].values())
        kept.append(result(run, about.step))
    assert ends[0] == ends[1]
    assert len(ends[0]) > 1
    assert kept[0] == kept[1]


# --- while it tests ------------------------------------------------------------------------------------------------------


class StopsItself(Stop):
    """This process gets SIGTERM as it looks for the n-th time whether to stop: it does before each step and after each batch
    of a test."""

    def __init__(self, look: int) -> None:
        super().__init__()
        self._left = look

    @property
    def reason(self) -> str | None:
        self._left -= 1
        if self._left == 0:
            os.kill(os.getpid(), signal.SIGTERM)
        return super().reason


def train_until(rank: int, told: int, look: int, settings: str, out: Path) -> None:
    stop = StopsItself(look) if rank == told else Stop()
    on_notices(lambda _: stop.ask("preempted"))
    ended = train.run(
        TrainConfig.model_validate_json(settings), out, None, Discard(), stop, seat=Seat(rank, 2, out.parent / "meeting", 2)
    )
    assert ended.reason == "preempted", ended
    dist.destroy_process_group()


@pytest.mark.slow
def test_a_stop_that_one_rank_hears_in_the_middle_of_a_test_is_that_of_all(tmp_path: Path) -> None:
    """Of the six batches of the test each has three; the epoch was two steps."""
    finished(words(tmp_path / "one", 1))
    for told in (0, 1):
        run = tmp_path / str(told) / "run"
        run.parent.mkdir()
        line = words(run, 2)
        layer, problems = set_layer(line[line.index("--set") + 1 :])
        settings = resolve([layer], TrainConfig, problems).config.model_dump_json()
        together(train_until, told, 2 + 2, settings, run)
        newest = newest_whole(run / "checkpoints", lambda _: None)
        assert newest is not None
        assert (read_manifest(newest).step, read_manifest(newest).evaluated) == (2, False)
        finished(again(run, 3))
        assert result(run) == result(tmp_path / "one")


# --- at a terminal -------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_ctrl_z_and_fg_lose_no_rank(tmp_path: Path) -> None:
    """The ranks, which have a session of their own, train on meanwhile; Ctrl-C then saves as ever."""
    run = tmp_path / "run"
    command = words(run, 2, "training.epochs=5000")
    pid, keys = pty.fork()
    if pid == 0:
        os.execvp("bash", ["bash", "--norc", "--noprofile", "-i"])
    shown = b""

    def read_until(words: bytes) -> None:
        nonlocal shown
        deadline = time.monotonic() + PATIENCE
        while words not in shown:
            assert select.select([keys], [], [], max(0.0, deadline - time.monotonic()))[0], shown[-2000:]
            shown += os.read(keys, 4096)
        shown = shown.partition(words)[2]  # what comes next may be there already

    try:
        os.write(keys, f"stty -echo; {shlex.join(command)}; echo it ended with $?\n".encode())
        wait_until(lambda: steps_saved(run))
        ranks = ranks_of(run)
        os.write(keys, b"\x1a")
        read_until(b"Stopped")
        time.sleep(6 * BEAT_SECONDS)  # so long that the first look after it must know that nobody was silent
        before = steps_saved(run)[-1]
        os.write(keys, b"fg; echo it ended with $?\n")
        wait_until(lambda: steps_saved(run)[-1] > before)
        assert ranks_of(run) == ranks
        os.write(keys, b"\x03")
        read_until(b"interrupted at step")
        read_until(b"it ended with 75")
        assert ranks_of(run) == {}
    finally:
        for one, line in command_lines().items():
            if str(run).encode() in line and b"--rank" not in line.split(b"\0"):
                os.kill(one, signal.SIGKILL)
        os.close(keys)
        os.waitpid(pid, 0)


# --- by chance -----------------------------------------------------------------------------------------------------------

KILL, STOP, PAUSE = "killed", "stopped for good", "stopped for seconds"
BLOWS = [
    ("rank", KILL),
    ("agent", KILL),
    ("attempt", KILL),
    ("rank", STOP),
    ("rank", PAUSE),
    ("agent", PAUSE),
    ("attempt", PAUSE),
]
SHARED = ("training.batch_size=10", "hardware.micro_batch=5", "checkpoint.every_minutes=0.0005")


def strike(current: Run, ranks: dict[int, int], who: str, how: str, chance: random.Random) -> None:
    """Of the processes of a run one may have gone by itself a moment before."""
    with suppress(ProcessLookupError, IndexError, FileNotFoundError, ValueError):
        pid = chance.choice(sorted(ranks.values())) if who == "rank" else 0
        attempt, agent = processes_of(current.process.pid)
        pid = {"attempt": attempt, "agent": agent}.get(who, pid)
        os.kill(pid, signal.SIGKILL if how == KILL else signal.SIGSTOP)
        if how == PAUSE:
            time.sleep(8 * chance.random())
            os.kill(pid, signal.SIGCONT)


@pytest.mark.slow
def test_ranks_agent_and_attempt_are_struck_at_random_moments(
    run: Any, tiny: Path, clean_env: dict[str, str], full: bool, figure: Any
) -> None:
    """As often as a job has ended another is begun, until all blows have fallen. When each falls is counted in checkpoints."""
    chance = random.Random(18)
    blows = [chance.choice(BLOWS) for _ in range(20)] if full else BLOWS[:3]
    submit = ("submit", tiny, "--set", *SHARED, "run.max_restarts=1000")
    assert run(*submit).end()[0] == 0
    store = DirectoryStore(Path(clean_env["LASTRUN_STORE"]))
    reference = result_of(jobs_in(store)[0])
    jobs, starts, line = [], 0, submit
    while blows or line is not submit:
        known = len(jobs_in(store))
        current = run(*line, *(() if line is not submit else ("hardware.ranks=2",)))
        starts += 1
        if line is submit:
            wait_until(lambda known=known: len(jobs_in(store)) > known)
            jobs.append(jobs_in(store)[0])
        job = jobs[-1]
        while blows and current.process.poll() is None:
            seen = {stored.name for stored in job.checkpoints.all()}
            number = chance.randint(1, 4)
            wait_until(
                lambda seen=seen, number=number, current=current, job=job: (
                    current.process.poll() is not None
                    or (len({one.name for one in job.checkpoints.all()} - seen) >= number and len(ranks_of(job.id)) == 2)
                )
            )
            if current.process.poll() is None:
                strike(current, ranks_of(job.id), *blows.pop(), chance)
        code, out = current.end()
        if code == 0:
            assert_same(job, reference)
            assert_whole(job)
            line = submit
        else:
            assert code in (1, 143, 137, -9), out
            wait_until(lambda job=job: job.state()[0].value in ("failed", "lost"))
            line = ("resume", job.id)
    assert ranks_of(clean_env["HOME"]) == {}
    assert list(Path(clean_env["TMPDIR"]).glob(f"{PREFIX}*")) == []
    figure("blows to ranks, agents and attempts", f"{20 if full else 3}, {starts} starts, {len(jobs)} jobs of the same bits")
