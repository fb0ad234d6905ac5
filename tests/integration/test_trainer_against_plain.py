"""The trainer against one written straight down, and ``lastrun bench``, which measures the two."""

import dataclasses
import json
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from last_e.bench.contenders import typical
from last_e.bench.measure import machine_rates
from last_e.bench.plain import PlainLastE
from last_e.config import TrainConfig
from last_e.data.batches import Batch, TrainBatches, average_bodies
from last_e.data.synthetic import synthetic_clips
from last_e.layers import resolve
from last_e.model import LastE
from last_e.optim import build_optimizer, parameter_groups
from last_e.precision import Precision
from last_e.reading import set_layer
from last_e.schedule import learning_rate
from last_e.state import State
from last_e.step import train_step
from runner.plan.measurements import read
from tests.conftest import Cli
from tests.jobs import PATIENCE

STEPS = 200
A_SAMPLE = 60
"""Of the steps of the larger networks: with ``--full`` all of them."""
CPU = torch.device("cpu")


def settings(variant: str) -> TrainConfig:
    words = [f"model.variant={variant}", "model.stem_channels=8", "model.channels=[8,12,16]", "model.num_blocks=[1,1,1]"]
    recipe = ["dataset=synthetic", "training.input_frames=16", "training.batch_size=8", "training.epochs=20"]
    layer, problems = set_layer([*words, *recipe, "model.drop_path_rate=0.1"])
    return resolve([layer], TrainConfig, problems, detect=lambda: ("local", "")).config


def plain_losses(
    config: TrainConfig, batches: list[Batch], rates: list[float], weights: dict[str, torch.Tensor]
) -> list[float]:
    """Straight module code: torch's own optimizer one parameter at a time, every number fetched from every batch."""
    training = config.training
    model = PlainLastE(config.model, 6).to(weights["fc.weight"].dtype)
    model.load_state_dict(weights)
    groups = parameter_groups(model, training.weight_decay)
    optimizer = torch.optim.SGD(groups, lr=0.1, momentum=training.momentum, nesterov=True, foreach=False)
    model.train()
    losses = []
    for batch, rate in zip(batches, rates):
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.zero_grad()
        output = model(batch.streams, batch.noise, batch.row_weight)
        rows, ib_loss = output if isinstance(output, tuple) else (output, 0.0)
        logits = average_bodies(rows, batch)
        loss = F.cross_entropy(logits, batch.label, label_smoothing=training.label_smoothing)
        loss = loss + training.ib_loss_weight * ib_loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), training.gradient_clip)
        optimizer.step()
        losses.append(loss.item())
    return losses


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Two threads each in two tests at once would wait for each other most of the time."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def double(batch: Batch) -> Batch:
    """The same numbers in float64."""
    return dataclasses.replace(batch, streams={name: stream.double() for name, stream in batch.streams.items()})


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize(
    ("variant", "number", "early", "all_along"),
    [
        ("nano", torch.float32, 1e-4, None),
        ("base", torch.float64, 1e-12, 1e-6),
        pytest.param("large", torch.float64, 1e-12, 1e-6, marks=pytest.mark.full),
    ],
)
def test_the_losses_of_200_steps_are_those_of_the_plain_path(
    variant: str, number: torch.dtype, early: float, all_along: float | None, full: bool
) -> None:
    """Rounding grows in any two programs, at the recipe's learning rate tenfold every few steps: on some CPUs it has used up
    float64's room after 160. At a quarter of it the network learns as well, and 200 steps bring 1e-16 to some 1e-12.

    In float32, at the whole rate, the first steps agree to rounding, and the runs end alike.
    """
    config = settings(variant)
    steps = STEPS if full or variant == "nano" else A_SAMPLE
    clips = synthetic_clips(6, 160)
    made = TrainBatches(clips, torch.arange(160), config.training, None, (16, 3))
    batches = [batch for epoch in range(10) for (batch,) in made.epoch(epoch)][:steps]
    if number is torch.float64:
        batches = [double(batch) for batch in batches]
    share = 0.25 if number is torch.float64 else 1.0
    rates = [share * learning_rate(config.training, step / made.steps) for step in range(steps)]
    torch.manual_seed(0)
    model = LastE(config.model, 6).to(number)
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state = State(model, build_optimizer(model, config.training), torch.amp.GradScaler("cpu", enabled=False))
    own = []
    for batch, rate in zip(batches, rates, strict=True):
        train_step(state, [batch], rate, config, Precision(None, False, ""))
        own.append(state.counters.read().loss)
    plain = plain_losses(config, batches, rates, weights)
    assert len(own) == len(plain) == steps
    assert sum(plain[-5:]) / 5 < plain[0] - 0.2, "it learns, so mistakes would add up"
    assert own[:15] == pytest.approx(plain[:15], rel=early)
    if all_along is None:
        assert sum(own[-40:]) == pytest.approx(sum(plain[-40:]), rel=0.3)
    else:
        assert own == pytest.approx(plain, rel=all_along)


def test_bench_measures_both_and_keeps_what_plan_reads(cli: Cli, tmp_path: Path) -> None:
    shape = ["--set", "model.channels=[8,8,8]", "model.stem_channels=8", "training.input_frames=16", "training.batch_size=8"]
    words = [
        "--model",
        "nano",
        "--rounds",
        "1",
        "--seconds",
        "0.1",
        "--json",
        *shape,
        "hardware.num_workers=0",
        "hardware.cpu_threads=1",
    ]
    done = cli("bench", *words, timeout=2 * PATIENCE)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    file = Path(told["file"])
    assert file.parent == tmp_path / ".local/share/lastrun/benchmarks"
    assert json.loads(file.read_text()) == {k: v for k, v in told.items() if k not in ("lastrun", "version", "file")} | {
        "versions": told["versions"]
    }
    measured = read(file)
    assert measured.machine.device == "cpu"
    assert measured.machine.cores >= 1
    for part in ("data", "forward", "train", "epoch"):
        assert set(told[part]["clips_per_second"]) == {"lastrun", "plain"}
        assert all(math.isfinite(rate) and rate > 0 for rate in told[part]["clips_per_second"].values())
        assert told[part]["ratio"] > 0
    assert measured.epoch is not None
    assert "of_peak" not in told["data"]
    for part in ("forward", "train", "epoch"):
        assert 0 < told[part]["of_peak"]["matrix"] < 1
        assert told[part]["of_peak"]["copy"] > 0
    assert told["checkpoint_stall_ms"] == sorted(told["checkpoint_stall_ms"])
    assert told["ceilings"]["copy_bytes_per_second"] > 1e8
    assert told["rows_per_clip"] == pytest.approx(4 / 3, abs=0.01)


def test_bench_of_one_part_alone_is_readable_and_nothing_is_left_behind(cli: Cli, tmp_path: Path) -> None:
    shape = ["--set", "model.channels=[8,8,8]", "model.stem_channels=8", "training.input_frames=16", "training.batch_size=8"]
    out = tmp_path / "mine" / "bench.json"
    out.parent.mkdir()
    words = ["--model", "nano", "--rounds", "1", "--seconds", "0.1", "--part", "forward", "--alone", "--out", str(out)]
    done = cli("bench", *words, "--ranks", "2", *shape)
    assert done.returncode == 0, done.stderr
    assert "forward passes" in done.stdout
    assert "training steps  " not in done.stdout
    assert "a step has 2 micro-batches, whoever does them" in done.stdout
    ranks = json.loads(out.read_text())["ranks"]
    assert (ranks["micro_batch"], ranks["micro_batches"], list(ranks["by"])) == (4, 2, ["1", "2"])
    assert ranks["by"]["1"]["of_one"] == 1.0
    assert [len(of["each"]) for of in ranks["by"].values()] == [1, 2]
    assert all(rate > 0 for of in ranks["by"].values() for rate in (of["clips_per_second"], of["of_one"], *of["each"]))
    assert 0 <= ranks["by"]["2"]["waiting"] < 1
    assert str(out) in done.stdout
    machine = json.loads(out.read_text())["machine"]
    assert ("others used it as this began" in done.stdout) is (machine["load"] > machine["cores"] / 2)
    assert [path.name for path in out.parent.iterdir()] == ["bench.json"]
    left = [path.name for path in (tmp_path / "tmp").iterdir() if not path.name.startswith("torchinductor_")]
    assert left == []


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--part", "trian"], "--part: found 'trian'; allowed: data, forward, train, epoch"),
        (["--model", "bsae"], "base_e_v3"),
        (["--set", "training.batchsize=8"], "training.batch_size"),
        (["--out", "."], "a folder; name a file in it"),
        (["--data", "nowhere.safetensors"], "nowhere.safetensors: no such file"),
        (["--set", "hardware.device=cuda"], "torch"),
        (["--ranks", "2,x"], "--ranks: found '2,x'; allowed: numbers from 1 to 64 with commas between, such as 1,2,4"),
        (["--ranks", "17"], "--ranks 17: a step of 32 clips cannot be shared by so many"),
        (
            ["--ranks", "3", "--set", "hardware.micro_batch=16"],
            "--ranks 3: a step has 2 micro-batches; a smaller hardware.micro_batch makes more",
        ),
        (
            ["--out", "/dev/null/x/y.json", "--alone", "--part", "data", "--seconds", "0.1", "--rounds", "1"],
            "/dev/null/x/y.json",
        ),
    ],
)
def test_bench_tells_what_is_wrong(cli: Cli, words: list[str], told: str) -> None:
    done = cli("bench", *words)
    assert done.returncode in (1, 2, 6)
    assert told in done.stderr
    assert "Traceback" not in done.stderr


def test_what_plan_cannot_use_is_not_put_where_plan_looks(cli: Cli, tmp_path: Path) -> None:
    shape = ["--set", "model.channels=[8,8,8]", "model.stem_channels=8", "training.input_frames=16", "training.batch_size=8"]
    done = cli("bench", "--model", "nano", "--rounds", "1", "--seconds", "0.1", "--part", "data", "--alone", *shape)
    assert done.returncode == 0, done.stderr
    assert "not kept: plan needs training steps and forward passes" in done.stdout
    assert "1 measurement of 0.1 s, in turns: at least 15s, longer where a step is slow\n" in done.stderr
    assert not (tmp_path / ".local/share/lastrun").exists()


def test_both_train_on_the_same_clips_with_as_many_bodies_as_there_are() -> None:
    clips = synthetic_clips(60, 1020)
    chosen = typical(clips, 32)
    assert len(chosen.unique()) == 32
    assert clips.bodies[chosen].double().mean() == pytest.approx(float(clips.bodies.double().mean()), abs=1 / 32)


def test_a_measurement_that_is_ended_leaves_nothing(run: Any, tmp_path: Path) -> None:
    words = ["--model", "nano", "--seconds", "100", "--part", "train", "--alone", "--set", "hardware.cpu_threads=1"]
    current = run("bench", *words)
    deadline = time.monotonic() + PATIENCE
    while not list((tmp_path / "tmp").rglob("joints.npy")):
        assert time.monotonic() < deadline
        assert current.process.poll() is None
        time.sleep(0.05)
    current.process.terminate()
    code, out = current.end()
    assert code == 130, out
    assert "Traceback" not in out
    assert not list((tmp_path / "tmp").rglob("joints.npy"))
    deadline = time.monotonic() + 50  # each goes as soon as the one that made it has gone, long before it has measured
    while [pid for pid in Path("/proc").glob("[0-9]*") if group_of(pid) == current.process.pid]:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def group_of(process: Path) -> int | None:
    """The process group of an entry of /proc that is no zombie."""
    try:
        state, _, group = (process / "stat").read_text().rpartition(")")[2].split()[:3]
    except OSError:
        return None
    return None if state == "Z" else int(group)


@pytest.mark.parametrize("precision", ["float32", "bf16", "fp16"])
def test_the_share_of_a_format_that_was_asked_for_is_of_its_own_peak(precision: str) -> None:
    peaks = machine_rates("cpu", precision, edge=64)
    products = {f"matrix_{name}_flops_per_second" for name in ("float32", precision)}
    assert set(peaks) == {"copy_bytes_per_second", *products}
    assert all(peak > 1e6 for peak in peaks.values())
