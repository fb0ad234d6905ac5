"""Everything that wants a GPU, in one command of less than eight minutes: first whether it is right, then how fast it is.

    taskset -c 0,1 python benchmarks/gpu.py --out gpu.json        # with as many cores as a Kaggle session has

Prints what was checked, the figures of ``lastrun bench`` on a set of ntu60's size, the time of whole epochs, and experiments
(``torch.compile``, CUDA graphs), each as it is done, so that a session which ends early leaves what it found. Exit code 1: a
check failed. ``--device cpu --clips 600 --quick`` tries the script itself where there is no GPU.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from last_e.bench.contenders import Own, synchronize
from last_e.bench.measure import measure
from last_e.bench.plain import PlainLastE
from last_e.checkpoint import snapshot
from last_e.config import TrainConfig
from last_e.data.batches import TrainBatches, average_bodies
from last_e.data.clips import TENSORS, Clips
from last_e.data.files import write_clips
from last_e.data.synthetic import synthetic_clips
from last_e.evaluate import evaluate
from last_e.layers import resolve
from last_e.model import LastE
from last_e.optim import build_optimizer
from last_e.precision import Precision
from last_e.reading import set_layer
from last_e.state import State, train_step
from runner.plan.bench import add_shares

REFERENCE = Path(__file__).parents[1] / "tests" / "data"
FLOAT32 = Precision(None, False, "")
NTU60_TRAIN, NTU60_TEST = 40_091, 16_487
EPOCHS = 120


def settings(*words: str) -> TrainConfig:
    """A configuration of ntu60 with these keys set."""
    layer, problems = set_layer(["dataset=ntu60", *words])
    return resolve([layer], TrainConfig, problems).config


def many_clips(count: int) -> Clips:
    """So many clips of ntu60's lengths and classes; a thousand are made, the others repeat them."""
    few = synthetic_clips(60, min(count, 1020))
    times = math.ceil(count / len(few))
    return Clips(**{name: torch.cat([getattr(few, name)] * times) for name in TENSORS})


# --- right? ------------------------------------------------------------------------------------------------------------


def same_batches(device: torch.device) -> str:
    """Batches made on the device are those that the CPU makes."""
    clips, recipe = synthetic_clips(60, 240), settings("training.batch_size=16").training
    here = TrainBatches(clips, torch.arange(240), recipe, None, (8, 6))
    there = TrainBatches(clips.to(device), torch.arange(240), recipe, None, (8, 6))
    worst = 0.0
    for epoch in (0, 7):
        for (a,), (b,) in zip(here.epoch(epoch), there.epoch(epoch), strict=True):
            assert torch.equal(a.label, b.label.cpu()), "other clips"
            assert torch.equal(a.owner, b.owner.cpu()), "other rows"
            assert a.noise is not None
            assert b.noise is not None
            assert all(torch.equal(x, y.cpu()) for x, y in zip(a.noise, b.noise)), "other dropout"
            worst = max(worst, *(float((a.streams[name] - b.streams[name].cpu()).abs().max()) for name in a.streams))
    assert worst < 1e-4, f"they differ by {worst:.1e}"
    return f"largest difference {worst:.1e}"


def stored_logits(device: torch.device) -> str:
    """The reference's weights give the reference's logits."""
    torch.backends.cudnn.allow_tf32 = False
    worst = 0.0
    for variant in ("nano", "base"):
        with np.load(REFERENCE / f"{variant}.npz") as stored:
            state = {key.removeprefix("state/"): torch.from_numpy(stored[key]) for key in stored if key.startswith("state/")}
            inputs = {name: torch.from_numpy(stored[f"input/{name}"]).to(device) for name in ("joint", "velocity", "bone")}
            expected = torch.from_numpy(stored["logits"])
        model = LastE(settings(f"model.variant={variant}").model, expected.shape[1])
        model.load_state_dict(state)
        with torch.no_grad():
            logits = model.eval().to(device)(inputs)
        worst = max(worst, float((logits.cpu() - expected).abs().max() / expected.abs().max()))
    assert worst < 1e-4, f"they differ by {worst:.1e} of the largest"
    return f"largest relative difference {worst:.1e}"


def plain_losses(device: torch.device) -> str:
    """200 steps in float64 lose what the plain network loses."""
    shape = ["model.stem_channels=8", "model.channels=[8,12,16]", "model.num_blocks=[1,1,1]", "training.input_frames=16"]
    config = settings("model.variant=base", *shape, "training.batch_size=8", "data.num_classes=6")
    made = TrainBatches(synthetic_clips(6, 160).to(device), torch.arange(160), config.training, None, (16, 3))
    steps = [batch for epoch in range(10) for (batch,) in made.epoch(epoch)]
    steps = [replace(batch, streams={name: stream.double() for name, stream in batch.streams.items()}) for batch in steps]
    torch.manual_seed(0)
    own = LastE(config.model, 6).double().to(device)
    plain = PlainLastE(config.model, 6).double().to(device)
    plain.load_state_dict(own.state_dict())
    state = State(own, build_optimizer(own, config.training), torch.amp.GradScaler(device.type, enabled=False))
    optimizer = build_optimizer(plain, config.training)
    plain.train()
    worst = 0.0
    for batch in steps:
        train_step(state, [batch], 0.02, config, FLOAT32)
        for group in optimizer.param_groups:
            group["lr"] = 0.02
        optimizer.zero_grad()
        output = plain(batch.streams, batch.noise, batch.row_weight)
        assert isinstance(output, tuple)
        logits = average_bodies(output[0], batch)
        loss = torch.nn.functional.cross_entropy(logits, batch.label, label_smoothing=config.training.label_smoothing)
        loss = loss + config.training.ib_loss_weight * output[1]
        loss.backward()
        torch.nn.utils.clip_grad_norm_(plain.parameters(), config.training.gradient_clip)
        optimizer.step()
        told = float(loss.detach())
        worst = max(worst, abs(state.counters.read().loss - told) / told)
    assert worst < 1e-3, f"they differ by {worst:.1e}"
    return f"largest relative difference {worst:.1e}"


def no_waiting(device: torch.device) -> str:
    """Neither a batch nor a step makes the host wait for the device."""
    config = settings("model.variant=base")
    own = Own(config, synthetic_clips(60, 240), device)
    steps = own.epoch()
    for _ in range(3):
        next(steps)
    if device.type != "cuda":
        return "not checked: no GPU"
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(3):
            next(steps)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return "no operation waited"


def snapshots(device: torch.device) -> str:
    """What a checkpoint's thread gets is the state of its moment, whatever the device has been given since."""
    own = Own(settings("model.variant=nano"), synthetic_clips(60, 240), device)
    steps = own.epoch()
    for _ in range(3):
        next(steps)
    expected = own.state.model.state_dict()
    expected = {name: tensor.cpu().clone() for name, tensor in expected.items()}
    on_host = snapshot(own.state.to_dict(""))
    for _ in range(3):
        next(steps)
    found = on_host()["model"]
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items()), "they differ"
    moved = sum(not torch.equal(tensor.cpu(), expected[name]) for name, tensor in own.state.model.state_dict().items())
    assert moved, "nothing was trained meanwhile"
    return f"{len(found)} tensors, {moved} of which had moved on"


CHECKS: dict[str, Callable[[torch.device], str]] = {
    "batches of the device are those of the CPU": same_batches,
    "stored logits": stored_logits,
    "losses of 200 steps": plain_losses,
    "nothing waits for the device": no_waiting,
    "a checkpoint is of its moment": snapshots,
}


# --- fast? -------------------------------------------------------------------------------------------------------------


def whole_epochs(clips: Clips, config: TrainConfig, device: torch.device, count: int) -> dict[str, Any]:
    """Seconds of whole epochs on ``clips``, and of a test of the size of ntu60's."""
    own = Own(config, clips, device)
    took = []
    for epoch in range(count):
        synchronize(device)
        begin = time.perf_counter()
        for step in own.batches.epoch(epoch):
            train_step(own.state, step, 0.01, config, own.precision)
        synchronize(device)
        took.append(time.perf_counter() - begin)
    begin = time.perf_counter()
    evaluate(own.state.model, own.tests, device, own.precision, lambda done: True)
    tested = (time.perf_counter() - begin) * NTU60_TEST / len(clips)
    per_epoch = min(took) * NTU60_TRAIN / (own.batches.steps * own.batches.batch)
    return {
        "clips": len(clips),
        "seconds_each": [round(x, 3) for x in took],
        "seconds_of_an_ntu60_epoch": round(per_epoch, 3),
        "seconds_of_an_ntu60_test": round(tested, 3),
        f"minutes_of_{EPOCHS}_epochs": round(EPOCHS * (per_epoch + tested) / 60, 2),
    }


def step_rate(run: Callable[[], None], clips: int, device: torch.device, seconds: float) -> float:
    """Clips per second of ``run``."""
    for _ in range(3):
        run()
    synchronize(device)
    begin, times = time.perf_counter(), 0
    while time.perf_counter() - begin < seconds:
        for _ in range(5):
            run()
        times += 5
        synchronize(device)
    return times * clips / (time.perf_counter() - begin)


def experiments(
    config: TrainConfig, device: torch.device, seconds: float, left: Callable[[], float]
) -> Iterator[tuple[str, Any]]:
    """Training steps on one batch: as they are, compiled, and as a CUDA graph."""

    def contender() -> tuple[Own, list[Any]]:
        own = Own(config, synthetic_clips(60, 240), device)
        return own, next(own.batches.epoch(0))

    own, batches = contender()
    yield (
        "eager",
        step_rate(lambda: train_step(own.state, batches, 0.01, config, own.precision), own.batches.batch, device, seconds),
    )
    if device.type == "cuda":
        try:
            stream = torch.cuda.Stream()
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                for _ in range(3):
                    train_step(own.state, batches, 0.01, config, own.precision)
            torch.cuda.current_stream().wait_stream(stream)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                train_step(own.state, batches, 0.01, config, own.precision)
            yield "CUDA graph of the step", step_rate(graph.replay, own.batches.batch, device, seconds)
        except RuntimeError as error:
            yield "CUDA graph of the step", f"failed: {str(error).splitlines()[0]}"
    for mode in ("default", "reduce-overhead"):
        if left() < 60:
            yield f"torch.compile, {mode}", "left out: no time"
            continue
        try:
            torch._dynamo.reset()
            own, batches = contender()
            begin = time.perf_counter()
            own.state.model.compile(mode=mode)
            train_step(own.state, batches, 0.01, config, own.precision)
            synchronize(device)
            compiled = time.perf_counter() - begin
            rate = step_rate(
                lambda own=own, b=batches: train_step(own.state, b, 0.01, config, own.precision),  # type: ignore[misc]
                own.batches.batch,
                device,
                seconds,
            )
            yield f"torch.compile, {mode}", {"clips_per_second": rate, "seconds_to_compile": round(compiled, 1)}
        except Exception as error:  # an experiment: what it does is what is to be found out
            yield (
                f"torch.compile, {mode}",
                f"failed: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}",
            )


# --- all of it ---------------------------------------------------------------------------------------------------------


def main() -> int:
    """Check, measure, print; what is found is kept as it is found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--model", default="base_e_v3")
    parser.add_argument("--clips", type=int, default=NTU60_TRAIN)
    parser.add_argument("--minutes", type=float, default=7.5, help="begin nothing that would end later than this")
    parser.add_argument("--quick", action="store_true", help="short measurements of a small network, to try the script")
    parser.add_argument("--out", type=Path, help="keep everything as JSON here")
    options = parser.parse_args()
    began = time.monotonic()
    device = torch.device(options.device, 0) if options.device == "cuda" else torch.device("cpu")
    small = ["model.stem_channels=8", "model.channels=[8,8,8]", "training.input_frames=16"] if options.quick else []
    config = settings(f"model.variant={options.model}", f"hardware.device={options.device}", *small)
    seconds = 0.2 if options.quick else 3.0
    found: dict[str, Any] = {"machine": torch.cuda.get_device_name(0) if options.device == "cuda" else "cpu", "checks": {}}

    def left() -> float:
        return 60 * options.minutes - (time.monotonic() - began)

    @contextmanager
    def kept() -> Iterator[None]:
        yield
        if options.out is not None:
            options.out.write_text(json.dumps(found, indent=1) + "\n")

    failed = False
    for name, check in CHECKS.items():
        with kept():
            try:
                text, good = check(device), True
            except Exception as error:  # whatever it is, the other checks go on
                text, good = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}", False
            found["checks"][name] = {"good": good, "detail": text}
            failed = failed or not good
            print(f"{'right' if good else 'WRONG'}  {name}: {text}", flush=True)
    clips = many_clips(options.clips)
    with kept():
        found["epochs"] = whole_epochs(clips, config, device, 1 if options.quick else 3)
        print(f"epochs: {found['epochs']}", flush=True)
    with kept(), TemporaryDirectory() as folder:
        path = Path(folder) / "clips.safetensors"
        write_clips(clips, path)
        rounds = 1 if options.quick else 3
        found["bench"] = measure(
            config, path, ["data", "forward", "train", "epoch"], ["lastrun", "plain"], rounds, seconds, lambda *_: None
        )
        add_shares(found["bench"], config)
        for part in ("data", "forward", "train", "epoch"):
            rates = found["bench"][part]["clips_per_second"]
            ratio = found["bench"][part]["ratio"]
            shares = found["bench"][part].get("of_peak", {})
            of = "".join(f", {share:.0%} of the {kind} rate" for kind, share in shares.items())
            print(f"{part}: {rates['lastrun']:,.0f} clips/s, plain {rates['plain']:,.0f}, ratio {ratio:.1f}{of}", flush=True)
        print(f"ceilings: {found['bench']['ceilings']}; memory: {found['bench']['memory']}", flush=True)
    found["experiments"] = {}
    for name, result in experiments(config, device, seconds, left):
        with kept():
            found["experiments"][name] = result
            print(f"{name}: {result}", flush=True)
    print(f"{time.monotonic() - began:.0f} s in all", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
