"""Steps that are recorded and played: on a CPU, by tapes of torch's operations, which go wrong where a CUDA graph would."""

from __future__ import annotations

import math
import multiprocessing
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from last_e.bench import contenders
from last_e.config import TrainConfig
from last_e.data.batches import TrainBatches
from last_e.data.synthetic import synthetic_clips
from last_e.events import Discard
from last_e.gpu import NoGpu
from last_e.graphs import Capture, CudaCapture, Graphs, Step, _tensors, graphs_for
from last_e.layers import resolve
from last_e.model import LastE
from last_e.optim import build_optimizer
from last_e.precision import Precision
from last_e.ranks.group import ALONE, Alone, Group, Joined, Seat
from last_e.reading import set_layer
from last_e.set_up import load_kernels, set_up_torch
from last_e.state import Counters, State, Totals
from last_e.step import train_step
from tests.jobs import PATIENCE
from tests.tape import TapeCapture

CLIPS = synthetic_clips(6, 36)
ALL, SINGLE = torch.arange(len(CLIPS)), (CLIPS.bodies == 1).nonzero()[:, 0]
PLAIN = Precision(None, False, "")
CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)
DEVICES = [pytest.param(CPU, PLAIN, id="cpu")]
if torch.cuda.is_available():
    DEVICES += [pytest.param(GPU, PLAIN, id="cuda"), pytest.param(GPU, Precision(torch.float16, True, ""), id="cuda fp16")]
SMALL = ("model.stem_channels=8", "model.channels=[8,8,8]", "model.num_blocks=[1,1,1]", "training.input_frames=16")


def settings(*words: str) -> TrainConfig:
    layer, problems = set_layer(["dataset=synthetic", "training.batch_size=4", *SMALL, *words])
    return resolve([layer], TrainConfig, problems, detect=lambda: ("local", "")).config


class Counted:
    """What records on a device, and how often it was asked. ``fails``: the number of the record, from 1 on, in which a step
    asks for a value, in :func:`failing`."""

    def __init__(self, device: torch.device = CPU, fails: int | None = None) -> None:
        self.ran = self.records = self.plays = 0
        self.steps = ""
        """What became of each: ``e`` done as it came, ``r`` recorded and played, ``p`` played."""
        self._capture: Capture = TapeCapture() if device.type == "cpu" else CudaCapture(device)
        self._fails = fails
        self.failing = False

    def run(self, step: Step) -> None:
        self.ran += 1
        self._capture.run(step)

    def does(self, step: Step) -> None:
        """A step of a run."""
        records, plays = self.records, self.plays
        step()
        self.steps += "e" if self.plays == plays else "p" if self.records == records else "r"

    def record(self, step: Step) -> Step:
        self.records += 1
        self.failing = self.records == self._fails
        try:
            play = self._capture.record(step)
        finally:
            self.failing = False

        def counted() -> None:
            self.plays += 1
            play()

        return counted


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> Callable[[Counted], None]:
    """Have a step fail in its middle, after gradients and before the optimizer, where its capture says so."""
    clip = torch.nn.utils.clip_grad_norm_

    def of(capture: Counted) -> None:
        def clip_grad_norm(*given: Any) -> torch.Tensor:
            if capture.failing:
                torch.ones(1).item()
            return clip(*given)

        monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", clip_grad_norm)

    return of


def begun(
    config: TrainConfig, device: torch.device = CPU, by_host: bool = False, group: Group = ALONE, among: torch.Tensor = ALL
) -> tuple[State, TrainBatches]:
    """A run that reads its rate where a GPU's does; its batches are made there, or ``by_host``."""
    torch.manual_seed(0)
    model = LastE(config.model, 6).to(device)
    scaler = torch.amp.GradScaler(device.type, init_scale=256.0, growth_interval=5)
    state = State(model, build_optimizer(model, config.training), scaler)
    state.keep_rate_on_device()
    micro, clips = config.hardware.micro_batch, CLIPS if by_host else CLIPS.to(device)
    seat = {"rank": group.rank, "ranks": group.size}
    return state, TrainBatches(clips, among, config.training, micro, model.noise_shape, **seat)


def rate(number: int) -> float:
    return 0.05 / (1 + number)


def everything(state: State) -> dict[str, torch.Tensor]:
    stored = state.to_dict("")
    moved = {f"{i}.{name}": torch.as_tensor(v) for i, one in stored["optimizer"]["state"].items() for name, v in one.items()}
    scale = {"scale": torch.tensor(state.scaler.get_scale())}
    return {name: tensor.clone() for name, tensor in {**stored["model"], **moved, **scale}.items()}


def plain_run(
    config: TrainConfig,
    epochs: int,
    device: torch.device = CPU,
    precision: Precision = PLAIN,
    by_host: bool = False,
    among: torch.Tensor = ALL,
) -> tuple[dict[str, torch.Tensor], list[float], Totals]:
    state, train = begun(config, device, by_host, among=among)
    losses, number = [], 0
    for epoch in range(epochs):
        state.new_epoch()
        for batches in train.epoch(epoch):
            train_step(state, batches, rate(number), config, precision, parts=train.parts)
            losses.append(state.counters.read().loss)
            number += 1
    return everything(state), losses, state.counters.read().totals


def recorded_run(
    config: TrainConfig,
    epochs: int,
    capture: Counted,
    device: torch.device = CPU,
    precision: Precision = PLAIN,
    by_host: bool = False,
    group: Group = ALONE,
    among: torch.Tensor = ALL,
) -> tuple[dict[str, torch.Tensor], list[float], Totals, Graphs, list[str]]:
    state, train = begun(config, device, by_host, group, among)
    told: list[str] = []
    graphs = Graphs(state, train, config, precision, capture, told.append, group)
    losses, number = [], 0
    for epoch in range(epochs):
        state.new_epoch()
        for parts in train.epoch(epoch) if by_host else graphs.parts(epoch):
            capture.does(partial(graphs.step, parts, epoch, rate(number)))
            losses.append(state.counters.read().loss)
            number += 1
    return everything(state), losses, state.counters.read().totals, graphs, told


@pytest.mark.slow
@pytest.mark.parametrize(("device", "precision"), DEVICES)
@pytest.mark.parametrize(
    "words",
    [
        ("model.variant=base", "model.drop_path_rate=0.2"),
        ("model.variant=large", "training.optimizer=adamw"),
        ("model.variant=nano", "training.batch_size=2", "training.gradient_accumulation_steps=2", "training.gradient_clip=0.5"),
    ],
    ids=["base", "large with AdamW", "nano in parts"],
)
def test_recorded_steps_are_those_of_a_run_without(words, device, precision):
    """Other clips, rows, rates and epochs each time; many of them played. To the last bit, on a GPU as well."""
    config, capture = settings(*words), Counted(device)
    if device.type == "cuda":
        set_up_torch(config, device, Discard())
        load_kernels(config, device, precision.dtype, Discard())
    expected, losses, totals = plain_run(config, 2, device, precision)
    found, its_losses, its_totals, graphs, told = recorded_run(config, 2, capture, device, precision)
    assert its_losses == losses
    assert its_totals == totals
    assert [name for name in expected if not torch.equal(found[name], expected[name])] == []
    assert told == []
    assert graphs.working
    assert graphs.count == capture.records > 1, "of several numbers of rows"
    assert capture.plays + capture.ran == len(losses)
    assert capture.plays >= len(losses) / 4


@pytest.mark.slow
@pytest.mark.parametrize(("device", "precision"), DEVICES)
@pytest.mark.parametrize(
    ("words", "by_host"),
    [
        ((), True),
        (("training.augmentations.mixup=0.4",), False),
        (("training.augmentations.mixup=0.4", "hardware.micro_batch=2"), True),
    ],
    ids=["made by the host", "mixed", "mixed by the host, in parts"],
)
def test_recorded_steps_take_batches_that_the_host_made_and_clips_that_are_mixed(words, by_host, device, precision):
    """Which is the same run, however and wherever its batches are made."""
    config, capture = settings("model.variant=nano", *words), Counted(device)
    if device.type == "cuda":
        set_up_torch(config, device, Discard())
        load_kernels(config, device, precision.dtype, Discard())
    expected, losses, totals = plain_run(config, 2, device, precision, by_host)
    found, its_losses, its_totals, _, told = recorded_run(config, 2, capture, device, precision, by_host)
    assert its_losses == losses
    assert its_totals == totals
    assert [name for name in expected if not torch.equal(found[name], expected[name])] == []
    assert told == []
    assert capture.plays >= len(losses) / 4


IN_PARTS = settings("model.variant=nano", "training.batch_size=2", "training.gradient_accumulation_steps=5", "training.seed=17")
"""Five parts a step: shares of three and of two, of which neither's sum is a node of the tree over all."""
ONE_STEP = torch.cat([SINGLE[:9], (CLIPS.bodies == 2).nonzero()[:1, 0]]).sort()[0]
"""Clips of an epoch of one step. One of them has two bodies: the seed decides in which of the parts that is, epoch by epoch."""
WAYS = ("eeereerpr", "eeerrpprp")
"""What comes of nine such steps, of each rank: both record three numbers of rows, and meet one for the first time, or record
one, while the other plays what it has."""


def failing_judge(capture: Counted) -> Callable[..., Any]:
    """Of a step's second stretch."""
    judge = Counters.judge
    return lambda *given: (capture.failing and torch.ones(1).item(), judge(*given))[1]


def recorded_as_one_of_two(rank: int, folder: Path) -> None:
    """Once by both, once by the first alone."""
    torch.set_num_threads(1)
    group = Joined(Seat(rank, 2, folder / "meeting", 2))
    group.meet(CPU)
    for name, fails in (("both", None), ("one", 2 if rank else None)):
        capture = Counted(fails=fails)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Counters, "judge", failing_judge(capture))
            found, losses, totals, graphs, told = recorded_run(IN_PARTS, len(WAYS[0]), capture, group=group, among=ONE_STEP)
        torch.save((found, losses, vars(totals), graphs.count, capture.records, capture.steps, told), folder / f"{name}.{rank}")
    group.leave()


@pytest.mark.slow
def test_recorded_steps_of_several_ranks_are_those_of_a_run_of_one_without(tmp_path):
    """Each records what it does before and after they add up, for each number of rows and whatever the other does in that step.
    What they add is there anew each time. Who cannot record goes on without, beside others who can."""
    spawn = multiprocessing.get_context("spawn")
    ranks = [spawn.Process(target=recorded_as_one_of_two, args=(rank, tmp_path), daemon=True) for rank in range(2)]
    for one in ranks:
        one.start()
    try:
        expected, losses, totals = plain_run(IN_PARTS, len(WAYS[0]), among=ONE_STEP)
        for one in ranks:
            one.join(PATIENCE)
    finally:
        for one in ranks:
            one.kill()
    assert [one.exitcode for one in ranks] == [0, 0]
    assert len(losses) == len(WAYS[0])
    for name in ("both.0", "both.1", "one.0", "one.1"):
        found, its_losses, its_totals, count, records, steps, told = torch.load(tmp_path / name)
        assert (its_losses, its_totals) == (losses, vars(totals)), name
        assert [key for key in expected if not torch.equal(found[key], expected[key])] == [], name
        if name == "one.1":
            (said,) = told
            assert "operation not permitted when stream is capturing" in said
            assert (count, records, steps) == (0, 2, "e" * len(losses))
        else:
            assert (told, count, records, steps) == ([], 3, 6, WAYS[int(name[-1])]), name


@pytest.mark.slow
@pytest.mark.parametrize(("device", "precision"), DEVICES)
def test_a_run_of_recorded_steps_that_is_cut_goes_on_with_the_same_bits(tmp_path, device, precision):
    """Its graphs are recorded anew, from other steps. On a GPU two runs that are not cut are alike, too."""
    config = settings("model.variant=nano", "training.batch_size=6")
    if device.type == "cuda":
        set_up_torch(config, device, Discard())
        load_kernels(config, device, precision.dtype, Discard())
    wholes = [recorded_run(config, 2, Counted(device), device, precision) for _ in range(1 if device.type == "cpu" else 2)]
    for resumed in (False, True):
        state, train = begun(config, device)
        if resumed:
            state.restore(torch.load(tmp_path / "state.pt", weights_only=True))
        capture, told = Counted(device), list[str]()
        graphs = Graphs(state, train, config, precision, capture, told.append)
        if not resumed:
            state.new_epoch()
        for step, parts in list(enumerate(graphs.parts(0)))[3 if resumed else 0 : None if resumed else 3]:
            capture.does(partial(graphs.step, parts, 0, rate(step)))
        torch.save(state.to_dict(""), tmp_path / "state.pt")
    state.new_epoch()
    for step, parts in enumerate(graphs.parts(1), train.steps):
        capture.does(partial(graphs.step, parts, 1, rate(step)))
    assert "p" in capture.steps
    assert told == []
    found = everything(state)
    for expected, *_ in wholes:
        assert [name for name in expected if not torch.equal(found[name], expected[name])] == []


class Watched(Alone):
    """How many clips are said to have been worked on."""

    clips = 0

    def work(self, clips: int) -> AbstractContextManager[None]:
        self.clips += clips
        return nullcontext()


def test_a_benchmark_of_ranks_sees_what_each_does_in_recorded_steps_too(monkeypatch):
    monkeypatch.setattr(
        contenders, "graphs_for", lambda *given: Graphs(*given[:4], TapeCapture(), told=given[5], group=given[4])
    )
    group = Watched()
    own = contenders.Own(settings("model.variant=nano"), CLIPS, CPU, group)
    steps = own.train()
    assert sum(next(steps) for _ in range(5)) == group.clips == 20


def test_a_step_reads_what_it_is_given_where_it_was_recorded():
    """And nothing of it stays what it was, neither of batches of the host nor of what the device makes them of."""
    config = settings("model.variant=nano", "training.augmentations.mixup=0.4")
    state, train = begun(config)
    graphs = Graphs(state, train, config, PLAIN, Counted(), print)
    for given in (list(train.epoch(0)), list(train.drafts(0))):
        for parts in given:
            there = graphs._put((len(parts[0].owner),), parts)
            for place, new in zip(_tensors(there[0]), _tensors(parts[0]), strict=True):
                assert torch.equal(place, new)
                assert place.data_ptr() != new.data_ptr()
        graphs._inputs.clear()


@pytest.mark.parametrize("by_host", [False, True])
def test_only_steps_that_are_recorded_keep_memory_for_what_they_are_given(monkeypatch, by_host):
    """Of steps in parts each has other numbers of rows, for as long as a run lasts."""
    monkeypatch.setattr("last_e.graphs.MOST_GRAPHS", 1)
    config, capture = settings("model.variant=nano", "training.batch_size=6"), Counted()
    _, losses, _, graphs, _ = recorded_run(config, 2, capture, by_host=by_host)
    assert len(graphs._met) > 1, "of several numbers of rows"
    assert graphs._inputs.keys() == graphs._recorded.keys()
    assert (graphs.count, capture.plays + capture.ran) == (1, len(losses))


@pytest.mark.slow
def test_where_recording_fails_training_goes_on_without_and_says_so_once(failing):
    config, capture = settings("model.variant=base"), Counted(fails=2)
    failing(capture)
    expected, losses, _ = plain_run(config, 2)
    found, its_losses, _, graphs, told = recorded_run(config, 2, capture)
    assert its_losses == losses
    assert [name for name in expected if not torch.equal(found[name], expected[name])] == []
    assert told == [
        "CUDA graphs: off (recording a step failed: operation not permitted when stream is capturing); training goes on without"
    ]
    assert not graphs.working
    assert graphs.count == 0
    assert graphs._inputs == {}, "nothing is kept for steps that are never recorded"
    assert capture.records == 2


def test_a_run_that_wants_graphs_ends_where_recording_fails(failing):
    capture = Counted(fails=1)
    failing(capture)
    with pytest.raises(NoGpu, match="cuda_graphs is on, but recording a step failed: operation not permitted"):
        recorded_run(settings("model.variant=nano", "hardware.cuda_graphs=on"), 2, capture)


def test_a_played_step_that_is_not_finite_changes_nothing_and_is_counted():
    config, capture = settings("model.variant=nano", "training.batch_size=6"), Counted()
    state, train = begun(config)
    graphs = Graphs(state, train, config, PLAIN, capture, print)
    steps = list(train.drafts(0))
    for _ in range(5):
        graphs.step(steps[0], 0, 0.05)
    assert capture.plays == 2
    before = everything(state)
    state.scaler._scale.fill_(math.inf)
    graphs.step(steps[0], 0, 0.05)
    after = everything(state)
    assert [name for name in before if name != "scale" and not torch.equal(before[name], after[name])] == []
    counted = state.counters.read()
    assert (counted.totals.skipped, counted.bad_in_a_row) == (1, 1)


@pytest.mark.parametrize(("said", "read"), [("on", "on"), ("off", "off"), ("auto", "auto"), ("true", "on"), ("false", "off")])
def test_words_for_cuda_graphs_are_those_of_yaml_too(said, read):
    assert settings(f"training.cuda_graphs={said}").hardware.cuda_graphs == read


def test_a_cpu_has_no_graphs_and_says_so_where_they_are_wanted():
    told: list[str] = []
    for word in ("auto", "off"):
        config = settings(f"hardware.cuda_graphs={word}")
        state, train = begun(config)
        assert graphs_for(state, train, config, PLAIN, ALONE, told.append) is None
    assert told == [], "nobody expects them there"
    config = settings("hardware.cuda_graphs=on")
    with pytest.raises(NoGpu, match="cuda_graphs is on, but training on a CPU"):
        graphs_for(state, train, config, PLAIN, ALONE, told.append)


def test_a_gpu_that_has_no_graphs_says_why():
    state: Any = SimpleNamespace(device=GPU)
    train: Any = SimpleNamespace()
    told: list[str] = []
    assert graphs_for(state, train, settings("hardware.cuda_graphs=off"), PLAIN, ALONE, told.append) is None
    assert told == ["CUDA graphs: off (hardware.cuda_graphs is off)"]


def test_batches_of_mixed_clips_are_said_to_be_mixed():
    assert begun(settings("training.augmentations.mixup=0.2"))[1].mixes
    assert not begun(settings())[1].mixes
