"""Several processes train one run, and it comes out as that of one; and what happens when one of them does not."""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from last_e.checkpoint import load
from last_e.data import write_clips
from last_e.data.synthetic import synthetic_clips
from last_e.manifest import newest_whole
from last_e.predictions import FILE as PREDICTIONS
from last_e.ranks.lifeline import BEAT_SECONDS
from runner.job.job import Job
from tests.conftest import Cli
from tests.jobs import PATIENCE, Run, assert_same, command_lines, has_pending, has_saved, jobs_in, stand_still, wait_until
from tests.jobs import result as result_of

STEPS, EPOCHS = 2, 8  # an epoch: 48 training clips, 22 a step
AUGMENTED = (
    "training.augmentations.motion=0.7",
    "training.augmentations.limbs=0.1",
    "training.augmentations.pose=0.05",
    "training.augmentations.lean=10.0",
    "training.augmentations.drift=0.2",
    "training.augmentations.rotation=45.0",
    "training.augmentations.speed=0.3",
    "training.augmentations.mask_joints=0.1",
    "training.augmentations.mask_frames=0.2",
    "training.augmentations.mixup=0.2",
    "training.ema=0.9",
)
"""All augmentations but mirroring, which made-up clips do not know; and an average of the weights."""
NANO = (
    "model.variant=nano_e_v3",
    "model.stem_channels=8",
    "model.channels=[8,8]",
    "model.num_blocks=[1,1]",
    "model.depths=[1,1]",
    "model.strides=[1,2]",
    *AUGMENTED,
)
BASE = ("model.variant=base_e_v3", "model.use_ib_loss=true", "model.drop_path_rate=0.2", "training.gradient_clip=0.5")
RECIPE = (
    "dataset=synthetic",
    "env=local",
    f"training.epochs={EPOCHS}",
    "training.input_frames=16",
    "training.warmup_epochs=1",
    "hardware.cpu_threads=1",
    "checkpoint.every_minutes=0.0005",
    "checkpoint.log_every_steps=3",
    "checkpoint.keep_last=20",
)
PARTS = ("training.batch_size=11", "training.gradient_accumulation_steps=2", "hardware.micro_batch=4")
"""Six micro-batches a step: 4, 4 and 3 clips, twice."""


def words(run: Path, ranks: int, *settings: str, model: tuple[str, ...] = NANO) -> list[str]:
    return [
        sys.executable,
        "-m",
        "last_e",
        "--out",
        str(run),
        "--set",
        *RECIPE,
        *PARTS,
        *model,
        f"hardware.ranks={ranks}",
        *settings,
    ]


def again(run: Path, ranks: int) -> list[str]:
    kept = [one for one in (*RECIPE, *PARTS) if one.startswith(("hardware", "checkpoint"))]
    return [sys.executable, "-m", "last_e", "--resume", str(run), "--env", "local", "--set", *kept, f"hardware.ranks={ranks}"]


def finished(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    return done.stdout


def result(run: Path, steps: int = STEPS * EPOCHS) -> tuple[str, str]:
    """The figures of epochs and steps with what is said of each clip, and everything that training changes, by their sha256."""
    newest = newest_whole(run / "checkpoints", lambda word: None)
    assert newest is not None
    assert load(newest)[1].step == steps
    told = b"".join((run / name).read_bytes() for name in ("metrics.jsonl", "steps.jsonl", PREDICTIONS))
    return hashlib.sha256(told).hexdigest(), hashlib.sha256((newest / "state.pt").read_bytes()).hexdigest()


TUNES = (
    "training.sampler=balanced",
    "training.class_weights=[1.0, 2.0, 0.5, 1.0, 1.0, 3.0]",
    "data.validation=0.3",
    "training.patience=2",
    "training.body_lr_factor=0.3",
    "model.freeze=[fusion.*]",
    "training.epochs=3",
)


@pytest.fixture(scope="module")
def of_one(data: None, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    run = tmp_path_factory.mktemp("ranks") / "one"
    finished(words(run, 1))
    return result(run)


@pytest.fixture(scope="module", autouse=True)
def data(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Few clips, where a job looks for them."""
    file = tmp_path_factory.mktemp("data") / "synthetic.safetensors"
    write_clips(synthetic_clips(6, 72), file)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tests.integration.test_ranks.RECIPE", (*RECIPE, f"data.uri={file}"))
        yield


@contextmanager
def begun(command: list[str]) -> Iterator[subprocess.Popen[str]]:
    """A run in a session of its own, of which nothing is left."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def ranks_of(run: Path | str) -> dict[int, int]:
    """Process numbers of the ranks of a run, or of a job."""
    found = {}
    for pid, line in command_lines().items():
        parts = line.split(b"\0")
        if b"--rank" in parts and str(run).encode() in line:
            found[int(parts[parts.index(b"--rank") + 1])] = pid
    return found


def saves(job: Job) -> bool:
    return bool(job.attempts.all()) and has_saved(job)


def steps_saved(run: Path) -> list[int]:
    return sorted(int(path.name[5:]) for path in (run / "checkpoints").glob("step-*") if path.name[5:].isdigit())


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [2, 3, 4])
def test_the_result_does_not_depend_on_how_many_train(ranks: int, of_one: tuple[str, str], tmp_path: Path) -> None:
    """Weights, statistics, momentum, counters and scores: the very same files. Four share six parts unevenly."""
    out = finished(words(tmp_path / "run", ranks))
    each = {2: "3", 3: "2", 4: "1 or 2"}[ranks]
    assert f"ranks: {ranks}, each with {each} of the 6 micro-batches of a step" in out
    assert result(tmp_path / "run") == of_one


@pytest.mark.slow
def test_of_a_large_network_with_all_that_is_random_too(tmp_path: Path) -> None:
    """Base, with dropout, drop path, IB loss and clipping."""
    for ranks in (1, 2, 3, 4):
        finished(words(tmp_path / f"{ranks}", ranks, "training.epochs=2", model=BASE))
    assert len({result(tmp_path / f"{ranks}", 2 * STEPS) for ranks in (1, 2, 3, 4)}) == 1


@pytest.mark.slow
def test_what_is_tuned_on_clips_that_validate_does_not_depend_on_ranks_either(tmp_path: Path) -> None:
    first = tmp_path / "first"
    finished(words(first, 1, "training.epochs=1"))
    found = []
    for ranks in (1, 2):
        run = tmp_path / f"ranks-{ranks}"
        said = finished(words(run, ranks, f"model.init={first}", *TUNES))
        assert "parameters taken over" in said
        assert "of epoch" in said
        found.append(result(run, 3))
    assert found[0] == found[1]


@pytest.mark.slow
def test_cut_on_two_and_gone_on_with_on_four_and_on_one(of_one: tuple[str, str], tmp_path: Path) -> None:
    run = tmp_path / "run"
    for number, ranks in enumerate((2, 4)):
        with begun(words(run, 2) if number == 0 else again(run, ranks)) as process:
            before = steps_saved(run)[-1] if number else 0
            wait_until(lambda before=before: (steps_saved(run) or [0])[-1] > before or process.poll() is not None)
            process.send_signal(signal.SIGTERM)
            out, err = process.communicate(timeout=PATIENCE)
        assert (process.returncode, err) == (75, ""), out + err
        assert "preempted at step" in out
        assert ranks_of(run) == {}
    assert steps_saved(run)[-1] < STEPS * EPOCHS
    finished(again(run, 1))
    assert result(run) == of_one


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1, 2])
def test_a_rank_that_is_killed_ends_all_with_its_reason(rank: int, of_one: tuple[str, str], tmp_path: Path) -> None:
    run = tmp_path / "run"
    with begun(words(run, 3)) as process:
        wait_until(lambda: steps_saved(run) or process.poll() is not None)
        os.kill(ranks_of(run)[rank], signal.SIGKILL)
        out, err = process.communicate(timeout=20)
    assert process.returncode == 1, out + err
    assert f"error: rank {rank} was ended by SIGKILL (by the system, when memory runs out, or by hand); the last" in err
    assert ranks_of(run) == {}
    if rank == 1:
        finished(again(run, 2))
        assert result(run) == of_one


@pytest.mark.slow
def test_an_attempt_goes_on_by_itself_as_often_as_the_job_says_and_a_stop_reaches_all(run: Any, tiny: Path) -> None:
    """While it makes progress: not when nothing was saved since."""
    shared = ("training.batch_size=20", "training.gradient_accumulation_steps=2", "hardware.micro_batch=10")
    settings = ("--set", *shared, "training.epochs=2", "checkpoint.every_minutes=0.0005")
    assert run("submit", tiny, *settings).end()[0] == 0
    current = run("submit", tiny, *settings, "hardware.ranks=2", "run.max_restarts=1")
    reference = result_of(jobs_in(current.store)[-1])
    current.wait_for(lambda job: len(jobs_in(current.store)) == 2 and saves(job))
    os.kill(ranks_of(current.job.id)[1], signal.SIGKILL)
    code, out = current.end()
    assert code == 0, out
    assert re.search(r"warning: rank 1 was ended by SIGKILL .*; going on from step \d+ \(1 of run.max_restarts 1\)", out), out
    assert [one.reason for one in current.job.attempts.all()] == ["completed"]
    assert_same(current.job, reference)

    first = current.job.id
    current = run("submit", tiny, *settings, "hardware.ranks=2", "training.epochs=5000", "run.max_restarts=1")
    for rank in (0, 1):
        current.wait_for(lambda job, rank=rank: job.id != first and len(ranks_of(job.id)) == 2 and saves(job))
        before = current.job.checkpoints.all()[-1].manifest.step
        current.wait_for(lambda job, before=before: job.checkpoints.all()[-1].manifest.step > before)
        os.kill(ranks_of(current.job.id)[rank], signal.SIGKILL)
        wait_until(lambda: len(ranks_of(current.job.id)) < 2)
    code, out = current.end()
    assert code == 1, out
    assert current.job.attempts.all()[-1].reason == "rank_lost"
    current = run("resume", current.job.id)
    current.wait_for(lambda job: len(job.attempts.all()) == 2 and has_saved(job))
    assert len(ranks_of(current.job.id)) == 2
    current.job.requests.ask_to_stop(now=False)
    code, out = current.end()
    assert code == 75, out
    assert ranks_of(current.job.id) == {}


TWO_GPUS = """
import runner.gpus
runner.gpus.gpu_names = lambda: ["Tesla T4", "Tesla T4"]
runner.gpus.detect_environment = lambda: ("kaggle", "a session there")
"""


@pytest.mark.slow
def test_an_attempt_trains_on_each_gpu_that_it_has_alone_and_goes_on_with_the_same_parts(
    request: pytest.FixtureRequest, cli: Cli, clean_env: dict[str, str], tiny: Path, tmp_path: Path
) -> None:
    """It takes the two of a session of Kaggle, which are not there: torch trains on the CPU, as where it finds none."""
    (tmp_path / "said").mkdir()
    (tmp_path / "said" / "sitecustomize.py").write_text(TWO_GPUS)
    names = [f"GPU-{uuid.uuid4()}" for _ in range(2)]
    for name in names:  # where all users of a machine lock them
        request.addfinalizer(partial(Path(f"/tmp/lastrun-gpus/{name}.lock").unlink, missing_ok=True))
    path = os.pathsep.join(filter(None, [str(tmp_path / "said"), os.environ.get("PYTHONPATH")]))
    there = {"PYTHONPATH": path, "CUDA_VISIBLE_DEVICES": ",".join(names)}
    length = ("--set", "training.epochs=6")
    words = ("submit", tiny, "--env", "local", "--here", *length)
    current = Run({**clean_env, **there}, *words)
    current.wait_for(saves)
    ranks = list(ranks_of(current.job.id).values())
    for rank in ranks:
        stand_still(rank)
    refused = cli(*words, **there)
    assert refused.returncode == 6, refused.stdout + refused.stderr
    assert f"2 GPUs wanted, none of 2 GPUs ({', '.join(names)}) is free: {names[0]} is used by job tiny-" in refused.stderr
    current.job.requests.ask_to_stop(now=False)
    wait_until(lambda: any(has_pending(rank, signal.SIGTERM) for rank in ranks))
    for rank in ranks:
        os.kill(rank, signal.SIGCONT)
    code, out = current.end()
    assert code == 75, out
    assert "micro-batches of at most 20 clips, not 40, so that each rank has some; the run keeps to that" in out
    assert "ranks: 2, each with 1 of the 2 micro-batches of a step" in out
    (job,) = jobs_in(current.store)
    assert job.attempts.all()[0].hardware["used_gpus"] == names

    done = cli("resume", job.id)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "micro-batches of at most 20 clips, as the run began" in done.stdout
    assert cli("submit", tiny, *length, "hardware.micro_batch=20").returncode == 0
    assert_same(job, result_of(jobs_in(current.store)[-1]))


@pytest.mark.slow
def test_nothing_trains_on_when_the_one_that_started_them_is_killed(tmp_path: Path) -> None:
    run = tmp_path / "run"
    with begun(words(run, 2, "training.epochs=1000")) as process:
        wait_until(lambda: steps_saved(run) or process.poll() is not None)
        process.kill()
        wait_until(lambda: ranks_of(run) == {}, seconds=20)


@pytest.mark.slow
def test_a_rank_that_hangs_ends_all(tmp_path: Path) -> None:
    """Stopped, it keeps its connections open, and the others wait for it. In its first step it would have more time."""
    run = tmp_path / "run"
    with begun(words(run, 2, "training.epochs=1000")) as process:
        wait_until(lambda: steps_saved(run) or process.poll() is not None)
        time.sleep(3 * BEAT_SECONDS)  # until that has been heard
        os.kill(ranks_of(run)[1], signal.SIGSTOP)
        _, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 1
    assert "error: rank 1 did not answer for 15 s; the last checkpoint stands" in err


@pytest.mark.slow
def test_why_a_rank_failed_is_its_own_word(tmp_path: Path) -> None:
    """Not what the others say then, whose connections it has closed: here all find the same, and it is told once."""
    clips = tmp_path / "clips.safetensors"
    clips.write_bytes(b"no data")
    done = subprocess.run(words(tmp_path / "run", 2, f"data.uri={clips}"), capture_output=True, text=True, check=False)
    assert done.returncode in (1, 2)
    assert done.stderr.count("error:") == 1
    assert "clips.safetensors" in done.stderr


def test_more_ranks_than_micro_batches_are_told(tmp_path: Path) -> None:
    """A batch in one part cannot be shared."""
    settings = (
        "training.batch_size=24",
        "training.gradient_accumulation_steps=1",
        "hardware.micro_batch=24",
        "training.epochs=1",
    )
    out = finished(words(tmp_path / "run", 2, *settings))
    assert "warning: ranks: 1 instead of 2, for a step has 1 micro-batch; hardware.micro_batch=12 makes enough" in out


@pytest.mark.slow
def test_more_ranks_than_cores_are_told(tmp_path: Path) -> None:
    """They train all the same: so several ranks are tried on a small machine."""
    one = str(min(os.sched_getaffinity(0)))
    out = finished(["taskset", "-c", one, *words(tmp_path / "run", 2, "training.epochs=1")])
    assert "warning: ranks: 2 share 1 core, and hold each other up" in out


@pytest.mark.slow
def test_a_rank_that_holds_the_others_up_is_named_while_it_runs(run: Any, cli: Any, tiny: Path) -> None:
    """One is made to stand still now and then, most often while it computes: it is what the other waits for."""
    settings = ("training.batch_size=10", "training.epochs=50000", "checkpoint.every_minutes=60", "hardware.ranks=2")
    current = run("submit", tiny, "--set", *settings)
    current.wait_for(lambda job: len(ranks_of(job.id)) == 2 and job.metrics())
    slow, shown = ranks_of(current.job.id)[1], ""

    def hold_up(over: threading.Event) -> None:
        while not over.wait(0.1):
            os.kill(slow, signal.SIGSTOP)
            over.wait(0.2)
            os.kill(slow, signal.SIGCONT)

    def named() -> bool:
        nonlocal shown
        shown = cli("status", current.job.id).stdout
        return "; rank 1 is" in shown

    by_ranks = r" by 2 ranks, \d\.\d\d times one \([\d,]+ - [\d,]+ each; rank 1 is \d+% behind\)"
    over = threading.Event()
    holds_up = threading.Thread(target=hold_up, args=(over,))
    holds_up.start()
    try:
        wait_until(named)
        wait_until(lambda: re.search(rf"epoch \d+/50000  lr .*{by_ranks}", cli("logs", current.job.id).stdout))
        wait_until(named)
        progress = json.loads(cli("status", current.job.id, "--json").stdout)["progress"]
    finally:
        over.set()
        holds_up.join()
    assert re.search(rf"speed +[\d,]+ clips/s{by_ranks}\n", shown), shown
    first, second = progress["ranks"]
    assert second < 0.9 * first
    assert 0 < progress["of_one"] < 2
    current.job.requests.ask_to_stop(now=False)
    code, out = current.end()
    assert code == 75, out
    assert re.search(rf"epoch \d+/50000  lr .*{by_ranks}", out), out[-3000:]
