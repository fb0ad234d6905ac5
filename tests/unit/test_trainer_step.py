"""One optimizer step, what happens to a bad one, number formats, scoring."""

import copy
import dataclasses
import itertools
import math
from types import MethodType

import numpy as np
import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from last_e.config import TrainConfig
from last_e.data.batches import Batch, TestBatches, TrainBatches
from last_e.data.synthetic import synthetic_clips
from last_e.evaluate import evaluate
from last_e.gpu import NoGpu
from last_e.layers import resolve
from last_e.manifest import DamagedCheckpoint
from last_e.model import LastE
from last_e.optim import build_optimizer
from last_e.precision import Precision, amp_format, choose_device, choose_precision
from last_e.reading import set_layer
from last_e.state import Counters, State, Totals
from last_e.step import train_step

CPU = torch.device("cpu")
PLAIN = Precision(None, False, "float32")
CLIPS = synthetic_clips(6, 48)


def config(*assignments: str, variant: str = "nano") -> TrainConfig:
    words = [f"model.variant={variant}", "dataset=synthetic", "training.input_frames=16", "training.batch_size=8"]
    small = ["model.stem_channels=8", "model.channels=[8,12,16]", "model.num_blocks=[1,1,1]"]
    layer, problems = set_layer([*words, *small, *assignments])
    return resolve([layer], TrainConfig, problems, detect=lambda: ("local", "")).config


def fresh(settings: TrainConfig, seed: int = 0) -> State:
    torch.manual_seed(seed)
    model = LastE(settings.model, 6)
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    return State(model, build_optimizer(model, settings.training), scaler, ema=settings.training.ema)


def steps(settings: TrainConfig, micro: int | None = None) -> list[list[Batch]]:
    shape = (settings.model.channels[-1], sum(settings.model.num_blocks))
    return list(TrainBatches(CLIPS, torch.arange(48), settings.training, micro, shape).epoch(0))


def step(state: State, batches: list[Batch], settings: TrainConfig, lr: float = 0.1) -> tuple[float, bool]:
    """The step's loss, and whether it was a good one."""
    skipped = totals(state).skipped
    train_step(state, batches, lr, settings, PLAIN)
    return state.counters.read().loss, totals(state).skipped == skipped


def totals(state: State) -> Totals:
    return state.counters.read().totals


def freeze_norms(model: LastE) -> None:
    """Norms keep to their running statistics, so that clips do not influence each other."""
    for module in model.modules():
        if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
            module.eval()
            module.train = MethodType(lambda self, mode=True: self, module)


def everything(state: State) -> dict[str, torch.Tensor]:
    momentum = state.optimizer.state_dict()["state"]
    return {
        **{f"model.{name}": tensor.clone() for name, tensor in state.model.state_dict().items()},
        **{f"optimizer.{i}.{name}": torch.as_tensor(v).clone() for i, entry in momentum.items() for name, v in entry.items()},
    }


def spoiled(batches: list[Batch], value: float) -> list[Batch]:
    batches = copy.deepcopy(batches)
    batches[-1].streams["velocity"][0, 0, 3, 7] = value
    return batches


# --- a good step -------------------------------------------------------------------------------------------------------


def test_steps_learn():
    settings = config("training.gradient_clip=0", "training.label_smoothing=0", "model.dropout=0")
    state = fresh(settings)
    batches = steps(settings)[0]
    losses = [step(state, batches, settings, lr=0.05)[0] for _ in range(8)]
    assert losses[-1] < losses[0]
    assert all(map(math.isfinite, losses))


def test_what_is_stored_is_what_the_model_has_also_after_steps_and_a_restoration():
    settings = config()
    state, other = fresh(settings), fresh(settings, seed=1)
    for batches in steps(settings)[:2]:
        step(state, batches, settings)
    assert other.restore(copy.deepcopy(state.to_dict(""))) is None
    step(other, steps(settings)[2], settings)
    for each in (state, other):
        stored, has = each.to_dict("")["model"], each.model.state_dict()
        assert list(stored) == list(has)
        assert all(stored[name].data_ptr() == tensor.data_ptr() for name, tensor in has.items())
    assert not all(torch.equal(a, b) for a, b in zip(state.to_dict("")["model"].values(), other.to_dict("")["model"].values()))


def test_a_step_is_the_same_every_time():
    settings = config("model.drop_path_rate=0.3")
    results = []
    for noise in (1, 2):
        state = fresh(settings)
        torch.manual_seed(noise)  # whatever torch's own generator says
        for batches in steps(settings)[:2]:
            step(state, batches, settings)
        results.append(everything(state))
    assert all(torch.equal(results[0][name], results[1][name]) for name in results[0])


def test_the_loss_is_the_smoothed_cross_entropy():
    settings = config("training.label_smoothing=0.2")
    state = fresh(settings)
    (batch,) = steps(settings)[0]
    model = copy.deepcopy(state.model).train()
    with torch.no_grad():
        rows = model(batch.streams, batch.noise)
    logits = torch.stack([rows[batch.owner == clip].mean(dim=0) for clip in range(8)])
    log_p = logits.log_softmax(dim=1)
    own = -log_p[torch.arange(8), batch.label]
    expected = (0.8 * own + 0.2 * -log_p.mean(dim=1)).mean()
    loss, good = step(state, [batch], settings)
    assert good
    assert loss == pytest.approx(float(expected), rel=1e-5)
    assert totals(state).loss == pytest.approx(8 * float(expected), rel=1e-5)
    assert totals(state).hits == int((logits.argmax(1) == batch.label).sum())
    assert (totals(state).clips, totals(state).skipped) == (8, 0)


def test_the_ib_loss_is_added_with_its_weight():
    settings = config("training.ib_loss_weight=0.5", variant="base")
    without = config("training.ib_loss_weight=0", variant="base")
    batches = steps(settings)[0]
    state, other = fresh(settings), fresh(without)
    with_ib, _ = step(state, batches, settings)
    plain, _ = step(other, batches, without)
    assert totals(state).ib_loss > 0
    assert totals(state).ib_loss == pytest.approx(totals(other).ib_loss, rel=1e-6)
    assert with_ib - plain == pytest.approx(0.5 * totals(state).ib_loss / 8, rel=1e-3)


@pytest.mark.parametrize(("clip", "expected"), [(0.05, 0.05), (1e5, None), (0, None)])
def test_the_gradient_is_clipped_to_its_largest_norm(clip, expected):
    words = ["training.momentum=0", "training.nesterov=false", "training.weight_decay=0", f"training.gradient_clip={clip}"]
    settings = config(*words)
    state = fresh(settings)
    before = [p.detach().clone() for p in state.model.parameters()]
    step(state, steps(settings)[0], settings, lr=1.0)
    moved = torch.cat([(p.detach() - old).flatten() for p, old in zip(state.model.parameters(), before)]).norm().item()
    if expected is None:
        assert moved > 0.2
    else:
        assert moved == pytest.approx(expected, rel=1e-3)


def test_the_learning_rate_of_the_step_is_used():
    settings = config("training.momentum=0", "training.nesterov=false")
    state = fresh(settings)
    before = everything(state)
    step(state, steps(settings)[0], settings, lr=0.0)
    changed = {n for n, t in everything(state).items() if not torch.equal(t, before[n])}
    assert changed
    assert all(".running_" in n or n.endswith("num_batches_tracked") for n in changed)


def test_no_gradient_is_left_for_the_next_step():
    settings = config()
    state = fresh(settings)
    step(state, steps(settings)[0], settings)
    assert all(p.grad is None for p in state.model.parameters())


# --- the same step in pieces -------------------------------------------------------------------------------------------


def change_of(settings: TrainConfig, micro: int | None) -> tuple[dict[str, torch.Tensor], float, State]:
    state = fresh(settings)
    freeze_norms(state.model)
    loss, _ = step(state, steps(settings, micro)[0], settings)
    return everything(state), loss, state


@pytest.mark.parametrize("variant", ["nano", "base"])
@pytest.mark.parametrize("micro", [1, 3, 5])
def test_micro_batches_add_up_to_the_whole_batch(variant, micro):
    """Norms frozen; some of the clips have two bodies, so pieces differ in rows."""
    settings = config("training.ib_loss_weight=1", "training.batch_size=16", variant=variant)
    whole, loss, state = change_of(settings, None)
    pieces, piece_loss, piece_state = change_of(settings, micro)
    assert piece_loss == pytest.approx(loss, rel=1e-5)
    assert totals(piece_state).hits == totals(state).hits
    assert totals(piece_state).ib_loss == pytest.approx(totals(state).ib_loss, rel=1e-4, abs=1e-6)
    for name, tensor in whole.items():
        torch.testing.assert_close(pieces[name], tensor, rtol=1e-3, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}")


def test_accumulation_is_the_same_as_a_larger_batch():
    large, loss, _ = change_of(config("training.batch_size=16"), None)
    split, split_loss, _ = change_of(config("training.batch_size=4", "training.gradient_accumulation_steps=4"), None)
    assert split_loss == pytest.approx(loss, rel=1e-5)
    for name, tensor in large.items():
        torch.testing.assert_close(split[name], tensor, rtol=1e-3, atol=1e-5)


# --- a bad step --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_step_that_is_not_finite_changes_nothing_and_is_counted(value, optimizer):
    settings = config(f"training.optimizer={optimizer}", "training.batch_size=4", "training.gradient_accumulation_steps=2")
    state = fresh(settings)
    first, second, *_ = steps(settings)
    assert step(state, first, settings)[1]
    before, loss_before = everything(state), totals(state)
    _, good = step(state, spoiled(second, value), settings)
    after = everything(state)
    assert not good
    assert before.keys() == after.keys()
    assert [name for name in before if not torch.equal(before[name], after[name])] == []
    assert totals(state) == dataclasses.replace(loss_before, skipped=1)


def test_the_average_of_the_weights_is_what_plain_numpy_makes_of_it():
    settings = config("training.ema=0.5")
    state, other = fresh(settings), fresh(settings, seed=1)
    assert state.average is not None
    wanted = {name: tensor.double().numpy() for name, tensor in state.model.state_dict().items()}
    good = 0
    for number, batches in enumerate(steps(settings)):
        bad = number == 2
        step(state, spoiled(batches, math.nan) if bad else batches, settings)
        good += not bad
        kept = 1.0 if bad else min(0.5, (1 + good) / (10 + good))
        now = {name: tensor.double().numpy() for name, tensor in state.model.state_dict().items()}
        wanted = {name: kept * wanted[name] + (1 - kept) * now[name] for name in wanted}
    assert good == 5
    stored = copy.deepcopy(state.to_dict(""))
    for name, tensor in stored["ema_model"].items():
        if tensor.is_floating_point():
            np.testing.assert_allclose(tensor.numpy(), wanted[name], rtol=1e-4, atol=1e-6)
        else:
            assert torch.equal(tensor, state.model.state_dict()[name])
    # Stored and taken up again it goes on to the same bits; it is shown for as long as one asks.
    assert other.restore(stored) is None
    assert other.average is not None
    for each in (state, other):
        step(each, steps(settings)[0], settings)
    assert all(torch.equal(tensor, other.average.weights[name]) for name, tensor in state.average.weights.items())
    now = everything(state)
    with state.as_the_average():
        assert all(torch.equal(tensor, stored) for tensor, stored in zip(
            state.model.state_dict().values(), other.average.weights.values()))  # fmt: skip
        assert not all(torch.equal(now[name], tensor) for name, tensor in everything(state).items())
    assert all(torch.equal(now[name], tensor) for name, tensor in everything(state).items())


def test_a_run_without_an_average_stores_none_and_one_that_begins_late_says_so():
    settings = config("training.ema=0.9")
    plain, averaged = fresh(config()), fresh(settings)
    assert not {key for key in plain.to_dict("") if key.startswith("ema")}
    step(plain, steps(settings)[0], settings)
    assert averaged.restore(copy.deepcopy(plain.to_dict(""))) == "no average of the weights is kept so far: it begins here"
    assert averaged.average is not None
    assert all(torch.equal(tensor, averaged.average.weights[name]) for name, tensor in averaged.model.state_dict().items())
    stored = {**copy.deepcopy(averaged.to_dict("")), "ema_model": {"other": torch.zeros(1)}}
    with pytest.raises(DamagedCheckpoint, match="the average of the weights is of another model"):
        averaged.restore(stored)


def test_training_goes_on_after_a_bad_step_as_if_it_had_not_been():
    settings = config()
    first, second, third, *_ = steps(settings)
    state, other = fresh(settings), fresh(settings)
    for batches in (first, spoiled(second, math.nan), third):
        step(state, batches, settings)
    for batches in (first, third):
        step(other, batches, settings)
    a, b = everything(state), everything(other)
    assert all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_first_step_that_is_not_finite_leaves_nothing_for_the_second(optimizer):
    settings = config(f"training.optimizer={optimizer}")
    first, second, *_ = steps(settings)
    state, other = fresh(settings), fresh(settings)
    assert not step(state, spoiled(first, math.nan), settings)[1]
    step(state, second, settings)
    step(other, second, settings)
    a, b = everything(state), everything(other)
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_momentum_that_a_checkpoint_lacks_begins_at_nothing():
    """A run without momentum goes on with it; its first step is left out."""
    without = config("training.momentum=0", "training.nesterov=false")
    first, second, third, *_ = steps(without)
    before = fresh(without)
    step(before, first, without)
    settings = config()
    results = []
    for batches in ([spoiled(second, math.nan), third], [third]):
        state = fresh(settings, seed=1)
        assert state.restore(copy.deepcopy(before.to_dict(""))) is None
        for batch in batches:
            step(state, batch, settings)
        results.append(everything(state))
    assert all(torch.equal(results[0][name], results[1][name]) for name in results[1])
    assert all(tensor.isfinite().all() for tensor in results[0].values())


def test_bad_steps_in_a_row_are_counted_until_a_good_one():
    settings = config()
    state = fresh(settings)
    good, other, *_ = steps(settings)
    seen = []
    for batches in (good, spoiled(other, math.inf), spoiled(good, math.nan), other, spoiled(other, math.nan)):
        step(state, batches, settings)
        counted = state.counters.read()
        seen.append((counted.totals.skipped, counted.bad_in_a_row, counted.worst))
    assert seen == [(0, 0, 0), (1, 1, 1), (2, 2, 2), (2, 0, 2), (3, 1, 2)]


# --- not waiting -------------------------------------------------------------------------------------------------------


BF16 = Precision(torch.bfloat16, False, "")


@pytest.mark.parametrize(
    ("variant", "optimizer", "precision"),
    [
        pytest.param("nano", "sgd", PLAIN),
        pytest.param("base", "adamw", BF16, marks=pytest.mark.slow),
        *(
            pytest.param(variant, optimizer, precision, marks=[pytest.mark.slow, pytest.mark.full])
            for variant, optimizer, precision in itertools.product(["nano", "base", "large"], ["sgd", "adamw"], [PLAIN, BF16])
            if (variant, optimizer, precision) not in (("nano", "sgd", PLAIN), ("base", "adamw", BF16))
        ),
    ],
)
def test_a_step_asks_for_no_value(variant, optimizer, precision):
    """On tensors that have shapes but no values: a step that asked for one would make the host wait for a GPU."""
    words = ["training.batch_size=4", "training.gradient_accumulation_steps=2", "model.drop_path_rate=0.1", "model.dropout=0.2"]
    words += ["training.ema=0.9", "training.augmentations.mixup=0.3"]
    settings = config(f"training.optimizer={optimizer}", *words, variant=variant)
    batches = steps(settings)[0]
    assert any(batch.row_weight is not None for batch in batches), "clips with two bodies are among them"
    with FakeTensorMode(allow_non_fake_inputs=True):
        state = fresh(settings)
        train_step(state, batches, 0.1, settings, precision)
        assert isinstance(state.statistics[0], FakeTensor)
        state.counters.mark()
        with pytest.raises(DataDependentOutputException):
            state.counters.read()


# --- number formats ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wanted", "capability", "dtype", "scaled", "reason"),
    [
        ("auto", (8, 0), torch.bfloat16, False, "bf16 (GPU X, compute capability 8.0)"),
        ("auto", (9, 0), torch.bfloat16, False, "bf16 (GPU X, compute capability 9.0)"),
        ("bf16", (8, 6), torch.bfloat16, False, "bf16 (GPU X, compute capability 8.6)"),
        ("auto", (7, 5), torch.float16, True, "fp16 with loss scaling (GPU X, compute capability 7.5: bf16 needs 8.0)"),
        ("bf16", (7, 5), torch.float16, True, "fp16 with loss scaling (GPU X, compute capability 7.5: bf16 needs 8.0)"),
        ("auto", (6, 0), torch.float16, True, "fp16 with loss scaling (GPU X, compute capability 6.0: bf16 needs 8.0)"),
        (
            "fp16",
            (8, 0),
            torch.float16,
            True,
            "fp16 with loss scaling (GPU X, compute capability 8.0; hardware.precision is fp16)",
        ),
    ],
)
def test_the_format_follows_from_the_compute_capability_and_says_why(wanted, capability, dtype, scaled, reason):
    assert amp_format(wanted, capability, "GPU X") == Precision(dtype, scaled, reason)


@pytest.mark.parametrize("precision", ["auto", "bf16", "fp16", "fp32"])
def test_a_cpu_always_computes_in_float32(precision):
    chosen = choose_precision(config(f"hardware.precision={precision}"), CPU)
    assert (chosen.dtype, chosen.scaled) == (None, False)
    assert "CPU" in chosen.reason


@pytest.mark.parametrize(
    ("word", "reason"), [("training.use_amp=false", "training.use_amp is false"), ("hardware.precision=fp32", "is fp32")]
)
def test_mixed_precision_can_be_turned_off(word, reason):
    chosen = choose_precision(config(word), torch.device("cuda"))
    assert (chosen.dtype, chosen.scaled) == (None, False)
    assert reason in chosen.reason


def test_the_device_can_be_asked_for():
    assert choose_device(config("hardware.device=cpu").hardware) == (CPU, "asked for")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_an_error_and_auto_takes_the_cpu():
    assert choose_device(config().hardware)[0] == CPU
    with pytest.raises(NoGpu, match=r"hardware\.device is cuda, but torch .* finds no GPU"):
        choose_device(config("hardware.device=cuda").hardware)


# --- scoring -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("classes", [3, 6])
def test_scores_are_means_over_clips_with_bodies_averaged(classes):
    clips = synthetic_clips(classes, 24)
    settings = config(f"data.num_classes={classes}")
    torch.manual_seed(0)
    model = LastE(settings.model, classes)
    nn.init.normal_(model.fc.weight)
    said = torch.zeros(24, 2)
    scores = evaluate(model, TestBatches(clips, torch.arange(24), 16, 7), CPU, PLAIN, lambda done: True, said=said)
    (batch,) = list(TestBatches(clips, torch.arange(24), 16, 24))
    with torch.no_grad():
        rows = model.eval()(batch.streams)
    logits = torch.stack([rows[batch.owner == clip].mean(dim=0) for clip in range(24)])
    better = (logits > logits[torch.arange(24), batch.label][:, None]).sum(dim=1)
    assert scores.top1 == pytest.approx(float((better < 1).double().mean()))
    assert scores.top5 == pytest.approx(float((better < min(5, classes)).double().mean()))
    own = logits.double().log_softmax(1)[torch.arange(24), batch.label]
    assert scores.loss == pytest.approx(-float(own.mean()), rel=1e-5)
    probability, chosen = logits.softmax(1).max(1)
    assert said[:, 0].tolist() == chosen.tolist()
    torch.testing.assert_close(said[:, 1], probability)


def test_scoring_changes_nothing_and_can_be_stopped():
    settings = config()
    state = fresh(settings)
    before = everything(state)
    told = []
    assert (
        evaluate(state.model, TestBatches(CLIPS, torch.arange(48), 16, 10), CPU, PLAIN, lambda d: told.append(d) or d < 20)
        is None
    )
    assert told == [10, 20]
    after = everything(state)
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize("variant", ["nano", "small", "base", "large"])
def test_packed_statistics_keep_their_values_and_begin_where_a_kernel_may_read_16_bytes(variant: str) -> None:
    settings = resolve([set_layer([f"model.variant={variant}"])[0]], TrainConfig, [], detect=lambda: ("local", "")).config
    torch.manual_seed(0)
    model = LastE(settings.model, 6)
    for name, buffer in model.named_buffers():
        if "running" in name:
            buffer.uniform_()
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    packed = State(model, build_optimizer(model, settings.training), torch.amp.GradScaler("cpu", enabled=False)).statistics
    assert len(packed) == 2
    storages = {tensor.untyped_storage().data_ptr() for tensor in packed}
    for name, buffer in model.named_buffers():
        assert torch.equal(buffer, before[name])
        if "running" in name or "num_batches" in name:
            assert buffer.data_ptr() % 16 == 0
            assert buffer.untyped_storage().data_ptr() in storages


class Counted(TorchDispatchMode):
    """How often torch is asked for an operation."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name, self.count = name, 0

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        self.count += operation._schema.name == self.name
        return operation(*args, **(kwargs or {}))


def test_a_test_puts_norms_into_weights_once_and_the_next_one_anew():
    settings = config()
    state, test = fresh(settings), TestBatches(CLIPS, torch.arange(48), 16, 8)
    norms = sum(isinstance(module, nn.BatchNorm2d) for module in state.model.modules()) - 2  # three streams have one together
    counted = []
    for _ in range(2):
        with Counted("aten::rsqrt") as roots:
            first = evaluate(state.model, test, CPU, PLAIN, lambda done: True)
        counted.append(roots.count)
        with torch.no_grad():
            for module in state.model.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.running_var.mul_(2)
    assert len(test) == 6
    assert counted == [norms, norms]
    assert evaluate(state.model, test, CPU, PLAIN, lambda done: True) != first, "weights have changed since"


def test_what_is_remembered_of_a_step_is_read_later_as_it_was_then():
    counters, then = Counters(torch.device("cpu")), []
    for step in range(5):
        counters.add(torch.tensor(step != 2), torch.tensor(step + 0.1).double(), torch.tensor([step, 0, 1, 4]).double())
        counters.mark()
        then.append(counters.read())
    assert counters.read_marked() == then
    assert [reading.totals.skipped for reading in then] == [0, 0, 1, 1, 1]
    assert counters.read_marked() == []
