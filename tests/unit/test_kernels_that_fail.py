"""A kernel that came out right as training began and fails later: torch goes on from the same step, with the same numbers."""

from __future__ import annotations

import re
import subprocess
import weakref
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from last_e import cli, graphs, set_up, step, train
from last_e.config import TrainConfig
from last_e.data import launches
from last_e.data.batches import TrainBatches
from last_e.data.synthetic import synthetic_clips
from last_e.gpu import has_no_memory
from last_e.graphs import Graphs
from last_e.layers import resolve
from last_e.model import LastE, fused_cuda
from last_e.model.agreed import REMEDY, Agreed, KernelFailed
from last_e.model.launches import defined
from last_e.optim import build_optimizer
from last_e.precision import Precision
from last_e.reading import set_layer
from last_e.state import Counters, State
from last_e.step import train_step
from tests.tape import TapeCapture

CLIPS, PLAIN, CPU = synthetic_clips(6, 24), Precision(None, False, ""), torch.device("cpu")
SMALL = ("model.variant=nano", "model.stem_channels=8", "model.channels=[8,8,8]", "model.num_blocks=[1,1,1]")
CLIP = "training.gradient_clip=0"
"""Gradients are as long as they are: the kernel divides by their length where torch changes them."""
BROKEN = "lastrun_kernels_that_fail"
"""An operation whose launch raises what :data:`RAISES` says, made as those of the kernels are."""
RAISES: list[Exception] = []
FAILS = 2
"""The step, from 0 on, in which something does."""


def settings(*words: str) -> TrainConfig:
    layer, problems = set_layer(
        ["dataset=synthetic", "training.input_frames=16", "training.batch_size=4", CLIP, *SMALL, *words]
    )
    return resolve([layer], TrainConfig, problems, detect=lambda: ("local", "")).config


@pytest.fixture(scope="module")
def broken() -> Any:
    def launch(module: Any, x: Tensor, y: Tensor) -> None:
        raise RAISES[-1]

    return getattr(defined({None: {BROKEN: ("(Tensor x) -> Tensor", launch, torch.empty_like)}}), BROKEN)


class Backward(torch.autograd.Function):
    """The sum of x, and the broken operation on the way back."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.sum()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        return getattr(torch.ops.lastrun, BROKEN)(gradient)


@pytest.mark.parametrize("way", ["forward", "backward"])
def test_whatever_a_launch_raises_is_told_with_the_kernel_that_it_was(broken: Any, way: str) -> None:
    """Through torch's dispatcher, and through its autograd."""
    x = torch.ones(2, requires_grad=True)
    for error in (KeyError("no such thing"), RuntimeError("out of resource: shared memory\nRequired: 1"), AssertionError()):
        RAISES.append(error)
        with pytest.raises(KernelFailed, match=f"^{BROKEN}: {type(error).__name__}: .*") as found:
            broken(x.detach()) if way == "forward" else Backward.apply(x).backward()  # type: ignore[no-untyped-call]
        assert "\n" not in str(found.value)
    lost = RuntimeError("Triton Error [CUDA]: unspecified launch failure; the GPU is lost")
    RAISES.append(lost)
    with pytest.raises(RuntimeError) as kept:
        broken(x.detach())
    assert kept.value is lost, "a GPU that has gone is told as one"


class Kernels:
    """Of a step: it goes by torch's operations, as if they were kernels, until one of them fails."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
        self.used, self.at, self.where, self.told, self._part = True, 0, where, list[str](), 0
        monkeypatch.setattr(step.loss_kernel, "fits", lambda logits: self.used)
        monkeypatch.setattr(step, "_by_kernels", self._by_kernels)
        there = SimpleNamespace(used_on=lambda device: self.used)
        for module in (step, graphs):
            monkeypatch.setattr(module, "fused_cuda", there)
        monkeypatch.setattr(Counters, "decide", lambda counters, *given: self._decide(counters, *given))
        monkeypatch.setattr(step, "ops", lambda: SimpleNamespace(settle=self._settle))
        monkeypatch.setattr(REMEDY, "give_up", self._give_up)

    def _give_up(self, error: KernelFailed) -> None:
        self.used = False
        self.told.append(str(error))

    def _fails(self, where: str) -> None:
        if self.where == where and self.at == FAILS:
            raise KernelFailed(f"{where}: OutOfResources: shared memory")

    def _by_kernels(self, state: State, logits: Tensor, ib: Tensor, batch: Any, training: Any, row: Tensor) -> Any:
        """The loss as torch has it."""
        self._part += 1
        if self._part % 2 == 0:
            self._fails("the second part")
        self._fails("on the way there")
        ce = step.loss_of(logits, batch, training.label_smoothing, None)
        ib = ib * len(batch.label)
        row.copy_(torch.stack([ce.detach().double(), ib.detach().double(), (logits.argmax(1) == batch.label).sum().double()]))
        loss = (ce + training.ib_loss_weight * ib) / step.effective_batch(training)
        if self.where == "on the way back" and self.at == FAILS:
            logits.register_hook(lambda gradient: self._fails("on the way back"))
        return loss

    def _decide(self, counters: Counters, rows: Tensor, norm: Tensor, training: Any, scale: Any, scaler: Any) -> Any:
        self._fails("what decides")
        return *counters.judge(rows, norm, training.ib_loss_weight, step.effective_batch(training)), None

    def _settle(self, statistics: Tensor, old: Tensor, good: Tensor, still: Tensor | None) -> None:
        self._fails("what settles")
        statistics.copy_(torch.where(good, statistics, old))


def begun(config: TrainConfig) -> tuple[State, TrainBatches]:
    torch.manual_seed(0)
    model = LastE(config.model, 6)
    state = State(model, build_optimizer(model, config.training), torch.amp.GradScaler("cpu", enabled=False))
    return state, TrainBatches(CLIPS, torch.arange(24), config.training, None, model.noise_shape)


def everything(state: State) -> dict[str, Tensor]:
    """Also what a step that was begun twice would have left."""
    kept = state.to_dict("")
    moved = {f"{i}.{name}": torch.as_tensor(v) for i, one in kept["optimizer"]["state"].items() for name, v in one.items()}
    counted = {name: torch.tensor(number) for name, number in kept["totals"].items()}
    return {**kept["model"], **moved, **counted, "left": torch.tensor(sum(one.grad is not None for one in state.parameters))}


def of_torch(config: TrainConfig) -> dict[str, Tensor]:
    state, train = begun(config)
    for number, given in enumerate(train.epoch(0)):
        train_step(state, given, 0.05 / (1 + number), config, PLAIN)
    return everything(state)


def differing(one: dict[str, Tensor], other: dict[str, Tensor]) -> list[str]:
    assert one.keys() == other.keys()
    return [name for name in one if not torch.equal(one[name], other[name])]


@pytest.mark.parametrize("where", ["on the way there", "the second part", "on the way back", "what decides", "what settles"])
def test_where_a_kernel_fails_torch_goes_on_from_the_same_step(monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    """Nothing of the step is there twice, or not at all."""
    config = settings("training.gradient_accumulation_steps=2", "training.batch_size=3")
    expected = of_torch(config)
    kernels = Kernels(monkeypatch, where)
    state, train = begun(config)
    for kernels.at, given in enumerate(train.epoch(0)):
        train_step(state, given, 0.05 / (1 + kernels.at), config, PLAIN)
    assert kernels.at > FAILS
    assert kernels.told == [f"{where}: OutOfResources: shared memory"], "once"
    assert differing(everything(state), expected) == []


def test_where_nobody_gives_kernels_up_a_step_that_failed_has_changed_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of several ranks: all would have to."""
    config = settings("training.gradient_accumulation_steps=2", "training.batch_size=3")
    kernels = Kernels(monkeypatch, "on the way back")
    monkeypatch.setattr(REMEDY, "give_up", None)
    state, train = begun(config)
    for kernels.at, given in enumerate(train.epoch(0)):
        before = {name: tensor.clone() for name, tensor in everything(state).items()}
        if kernels.at == FAILS:
            with pytest.raises(KernelFailed):
                train_step(state, given, 0.05, config, PLAIN)
            assert differing(everything(state), before) == []
            return
        train_step(state, given, 0.05, config, PLAIN)
    pytest.fail("it is not so many steps")


def test_what_a_failed_kernel_has_left_is_not_held_while_torch_does_the_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would take the memory that torch needs."""
    left: list[weakref.ref[Any]] = []
    alive: list[bool] = []

    class Activations:
        pass

    def begin() -> Any:
        if left:
            alive.append(left[0]() is not None)
            return SimpleNamespace(add_up=lambda group: None)
        made = Activations()
        left.append(weakref.ref(made))
        raise KernelFailed("mix: OutOfResources")

    monkeypatch.setattr(REMEDY, "give_up", lambda error: None)
    monkeypatch.setattr(step, "end_step", lambda *given: None)
    step.whole_step(begun(settings())[0], begin, settings())
    assert alive == [False]


def test_what_is_lacking_to_make_kernels_is_told_by_name(broken: Any) -> None:
    """Also where what was asked for was one of theirs."""
    agreed, gpu = Agreed(), torch.device("cuda", 0)
    RAISES.append(subprocess.CalledProcessError(1, ["/usr/bin/gcc", "x" * 400]))
    why_not = agreed.try_out(gpu, lambda: broken(torch.ones(2)))
    assert why_not is not None
    assert re.fullmatch(rf"{BROKEN}: CalledProcessError: .*; Triton needs a C compiler and Python's headers here: .*", why_not)
    assert not agreed.used_on(gpu)


def test_memory_that_ran_out_is_no_kernel_that_failed(broken: Any) -> None:
    """Torch alone would need more of it."""
    RAISES.append(RuntimeError("Triton Error [CUDA]: out of memory"))
    with pytest.raises(RuntimeError) as found:
        broken(torch.ones(2))
    assert found.value is RAISES[-1]
    assert has_no_memory(found.value)


def recorded(config: TrainConfig, kernels: Kernels | None, order: Sequence[int], fails: int | None = None) -> Recorded:
    """Steps as ``order`` has them, each of the number of rows that it names; ``kernels`` fail in the one of that number."""
    state, train = begun(config)
    state.keep_rate_on_device()
    by_rows = {len(given[0].owner): given for epoch in range(3) for given in train.drafts(epoch)}
    steps, told, counts = [by_rows[rows] for rows in sorted(by_rows)], list[str](), []
    record = Graphs(state, train, config, PLAIN, TapeCapture(), told.append)
    record.working = kernels is not None
    for number, rows in enumerate(order):
        if kernels is not None:
            kernels.at = FAILS if number == fails else 0
        record.step(steps[rows], 0, 0.05)
        counts.append(record.count)
    return Recorded(everything(state), counts, told)


class Recorded(NamedTuple):
    """How a run ended, how many graphs there were after each step, and what was told of them."""

    state: dict[str, Tensor]
    counts: list[int]
    told: list[str]


def test_recorded_steps_are_forgotten_with_the_kernels_that_are_in_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """A step of other rows fails after some were recorded, and later ones of the same rows are torch's, too."""
    monkeypatch.setattr(graphs, "WARM_UP", 1)
    config, order = settings("training.batch_size=6"), (0, 0, 1, 0, 0)
    expected = recorded(config, None, order)
    kernels = Kernels(monkeypatch, "on the way back")
    found = recorded(config, kernels, order, fails=2)
    assert found.counts == [0, 1, 1, 0, 1], "recorded anew, once it was done by torch"
    assert kernels.told == ["on the way back: OutOfResources: shared memory"]
    assert found.told == []
    assert differing(found.state, expected.state) == []


@pytest.mark.parametrize(("where", "counts"), [("on the way back", [0, 0, 0, 1]), ("what settles", [0, 1, 0, 1])])
def test_a_kernel_that_fails_while_a_step_is_recorded_costs_no_step(
    monkeypatch: pytest.MonkeyPatch, where: str, counts: list[int]
) -> None:
    """It is done as it comes, or what failed by torch within a graph, which is forgotten then; later ones are recorded anew."""
    monkeypatch.setattr(graphs, "WARM_UP", 1)
    config, order = settings("training.batch_size=6"), (0, 0, 0, 0)
    expected = recorded(config, None, order)
    kernels = Kernels(monkeypatch, where)
    found = recorded(config, kernels, order, fails=1)
    assert kernels.told == [f"{where}: OutOfResources: shared memory"], "once"
    assert found.told == []
    assert found.counts == counts
    assert differing(found.state, expected.state) == []


def test_batches_that_the_host_asks_for_are_made_by_torch_where_a_kernel_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    made, told = [], list[str]()
    config = settings()
    _, train = begun(config)
    expected, make = list(train.epoch(0)), train.make

    def failing(piece: Any, key: Any) -> Any:
        made.append(piece)
        if len(made) == 2:
            raise KernelFailed("streams: OutOfResources")
        return make(piece, key)

    monkeypatch.setattr(train, "make", failing)
    with pytest.raises(KernelFailed):
        list(train.epoch(0))
    made.clear()
    monkeypatch.setattr(REMEDY, "give_up", lambda error: told.append(str(error)))
    found = list(train.epoch(0))
    assert told == ["streams: OutOfResources"]
    assert len(made) == len(found) + 1
    for one, two in zip(found, expected, strict=True):
        assert torch.equal(one[0].streams["joint"], two[0].streams["joint"])


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_run_of_one_rank_gives_up_all_kernels_and_says_why(monkeypatch: pytest.MonkeyPatch, ranks: int) -> None:
    gpu, told = torch.device("cuda", 0), list[tuple[str, str]]()
    monkeypatch.setattr(REMEDY, "give_up", None)
    for module, trying in ((fused_cuda, set_up.tried), (launches, launches)):
        monkeypatch.setattr(module.AGREED, "_gpus", {0})
        monkeypatch.setattr(trying, "try_out", lambda *given: None)
    sink: Any = SimpleNamespace(emit=lambda message: told.append((message.level, message.text)))
    group: Any = SimpleNamespace(size=ranks, agree=lambda wish: wish)
    set_up.load_kernels(settings(), gpu, None, sink, group)
    error = KernelFailed("mix: OutOfResources: shared memory")
    if ranks > 1:
        with pytest.raises(KernelFailed):
            REMEDY(error)
    else:
        REMEDY(error)
    used = fused_cuda.used_on(gpu), launches.used_on(gpu)
    said = ("warning", "kernels: torch's own alone from here on (mix: OutOfResources: shared memory)")
    assert (used, told) == (((True, True), []) if ranks > 1 else ((False, False), [said]))


def test_a_run_that_cannot_go_on_without_a_kernel_says_how_it_can(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    def failing(*given: Any) -> Any:
        raise KernelFailed("mix: OutOfResources: shared memory")

    monkeypatch.setattr(train, "run", failing)
    args: Any = SimpleNamespace(rank=None, allow_change=[], board=False, supervised=True, init=None)
    nothing: Any = None
    ended = cli._train_here(settings(), tmp_path, None, args, nothing, nothing)
    assert ended == cli.Failed(
        "trainer_error",
        "a kernel of lastrun's own failed (mix: OutOfResources: shared memory); hardware.kernels: off trains without them, and "
        "goes on from the last checkpoint",
    )
