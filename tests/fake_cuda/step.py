"""Batches, training steps and tests on the fake device; prints what the recorder has seen of each as JSON."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensor,
    FakeTensorMode,
)

from last_e import rng
from last_e.config import TrainConfig
from last_e.data import launches
from last_e.data.augment import mirror_of
from last_e.data.batches import Batch, Order, TestBatches, TrainBatches
from last_e.data.clips import TENSORS
from last_e.data.synthetic import synthetic_clips
from last_e.evaluate import evaluate
from last_e.known import mirrored_classes
from last_e.layers import resolve
from last_e.model import LastE, fused_cuda
from last_e.optim import build_optimizer
from last_e.precision import Precision
from last_e.reading import set_layer
from last_e.state import State
from last_e.step import train_step
from tests.fake_cuda.recorder import Recorder

DEVICE = torch.device("cuda", 0)
FAKE = FakeTensorMode(allow_non_fake_inputs=False)
"""One for all, since what is made once is kept."""
FORMATS = {
    "fp16": Precision(torch.float16, True, ""),
    "bf16": Precision(torch.bfloat16, False, ""),
    "fp32": Precision(None, False, ""),
}


def pretend() -> None:
    """Have torch's Python take the fake device for a real one, where it asks."""
    torch.cuda.is_bf16_supported = lambda including_emulation=True: True
    torch.cuda.amp.common.amp_definitely_not_available = lambda: False
    torch.utils._foreach_utils._foreach_supported_types.append(FakeTensor)  # as one kernel, like real ones
    nothing = torch.library.Library("aten", "IMPL")
    for name in ("_fused_sgd_", "_fused_sgd_.tensor_lr", "_fused_adamw_", "_fused_adamw_.tensor_lr"):
        if not torch._C._dispatch_has_kernel_for_dispatch_key(f"aten::{name}", "Meta"):
            nothing.impl(name, lambda *_, **__: None, "Meta")  # in place
    KEPT.append(nothing)


KEPT: list[Any] = []
"""What is undone once nobody has it."""


def onto(tensor: Tensor) -> Tensor:
    """One of its shape on the device."""
    return torch.empty(tensor.shape, dtype=tensor.dtype, device=DEVICE)


def onto_all(thing: Any, names: tuple[str, ...]) -> None:
    """The same for attributes, also of what is frozen."""
    for name in names:
        object.__setattr__(thing, name, onto(getattr(thing, name)))


def network(config: TrainConfig, kind: type[LastE] = LastE) -> LastE:
    """A network on the device."""
    model = kind(config.model, config.data.num_classes)
    for module in model.modules():
        for name, parameter in list(module._parameters.items()):
            if parameter is not None:
                module._parameters[name] = nn.Parameter(onto(parameter))
        for name, buffer in list(module._buffers.items()):
            if buffer is not None:
                module._buffers[name] = onto(buffer)
    return model


def settings(*words: str) -> TrainConfig:
    """Of ntu60, as a GPU of a cloud would have it."""
    layer, problems = set_layer(["dataset=ntu60", "hardware.device=cuda", *words])
    return resolve([layer], TrainConfig, problems, detect=lambda: ("local", "")).config


def seen(words: list[str], precision: str) -> dict[str, Any]:
    """A batch of 32 clips with 38 bodies, a step on it, and a test of 32 clips. AdamW makes its averages in a step before."""
    config = settings(*words)
    for kernels in (fused_cuda.AGREED, launches.AGREED):  # as one that has been found right
        (kernels.take if config.hardware.kernels == "auto" else kernels.leave)(DEVICE)
    clips = synthetic_clips(60, 240)
    start, bodies = clips.start, clips.bodies_on_host
    one, two = (torch.where(bodies == many)[0] for many in (1, 2))
    index = torch.cat([one[:13], two[:3], one[13:26], two[3:6]]).repeat(2)  # two micro-batches of as many
    model = LastE(config.model, config.data.num_classes)
    mirror = mirror_of(clips.skeleton, 60, mirrored_classes("ntu60"))
    train = TrainBatches(clips, index, config.training, config.hardware.micro_batch, model.noise_shape, mirror=mirror)
    test = TestBatches(clips, index[:32], config.training.input_frames, 32)
    order = Order(clips, index)
    recorder = Recorder()
    with FAKE:
        onto_all(clips, TENSORS)
        object.__setattr__(clips, "start", onto(start))
        object.__setattr__(clips, "bodies_on_host", bodies)
        for each in (train, test):
            onto_all(each.placement, ("origin", "turn", "torso"))
        for each in (order, test._order):
            onto_all(each, ("_index", "_owner", "_body"))
        scaler = torch.amp.GradScaler("cuda", enabled=FORMATS[precision].scaled)
        model = network(config)
        state = State(model, build_optimizer(model, config.training), scaler, ema=config.training.ema)
        keys = rng.Keys(DEVICE)

        def made(step: int) -> list[Batch]:
            return [train.make(train._piece(order, 0, step, *part), keys) for part in train._ends(step)]

        batches = made(0)  # with what is made once
        state.scale()
        if config.training.optimizer == "adamw":
            train_step(state, batches, 0.1, config, FORMATS[precision])
        with recorder, recorder.during("batch"):
            batches = made(1)
        with recorder, recorder.during("step"), within(model, recorder):
            train_step(state, batches, None, config, FORMATS[precision])
        state.set_rate(0.05)
        said = torch.zeros(32, 2, device=DEVICE)
        with recorder, recorder.during("test"), within(model, recorder):
            evaluate(model, test, DEVICE, FORMATS[precision], stopped, said=said)
    return {
        "rows": [len(batch.owner) for batch in batches],
        "formats": {phase: sorted(lines) for phase, lines in recorder.formats.items()},
        "kernels": recorder.kernels,
        "bytes": recorder.bytes,
        "wrong": recorder.wrong,
    }


def stopped(done: int) -> bool:
    """A test ends before its scores are asked for."""
    return False


def caught() -> dict[str, list[str]]:
    """What the recorder says of things that a step must not do."""
    with FAKE:
        x, mask, number = (torch.ones(4, dtype=dtype, device=DEVICE) for dtype in (torch.float32, torch.bool, torch.int64))
        host = torch.ones(4)
        bad: dict[str, Callable[[], object]] = {
            "a value": lambda: x.sum().item(),
            "a choice": lambda: bool(x[0] > 0),
            "a list": lambda: x.tolist(),
            "a search": lambda: x.nonzero(),
            "a mask": lambda: x[mask],
            "numbers of the host": lambda: torch.tensor([1.0, 2.0], device=DEVICE),
            "to the host": lambda: x.to("cpu", non_blocking=True),
            "from the host": lambda: x.copy_(host),
            "beside the host": lambda: host + 1,
            "chance": lambda: torch.rand(4, device=DEVICE),
            "dropout": lambda: torch.nn.functional.dropout(x, 0.5),
            "repeated": lambda: torch.repeat_interleave(number),
            "any order": lambda: x.index_add_(0, number, x),
        }
        found = {}
        for name, does in bad.items():
            recorder = Recorder()
            with recorder, suppress(DataDependentOutputException, DynamicOutputShapeException):
                does()
            found[name] = sorted(recorder.wrong)
    return found


class within:
    """A network's own operations have a phase of their own."""

    def __init__(self, model: nn.Module, recorder: Recorder) -> None:
        self.model, self.recorder = model, recorder

    def __enter__(self) -> None:
        forward = self.model.forward

        def recorded(*given: Any, **named: Any) -> Any:
            with self.recorder.during(f"{self.recorder.phase}, network"):
                return forward(*given, **named)

        self.model.forward = recorded

    def __exit__(self, *_: object) -> None:
        del self.model.forward


if __name__ == "__main__":
    torch.set_num_threads(1)
    pretend()
    steps = {name: seen(words, name.split()[1]) for name, words in json.loads(sys.argv[1]).items()}
    print(json.dumps({"steps": steps, "caught": caught()}))
