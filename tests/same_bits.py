"""Short runs of the trainer on a CPU, as hashes: a change that is to leave a CPU's numbers alone must not change one.

    python -m tests.same_bits           # what comes out here, as JSON
    python -m tests.same_bits --keep    # put it among what is stored, for a change that means to change numbers

Which bits come out of an operation depends on the CPU and on torch. So the runs are made in a process whose kernels are those
that every CPU of a kind has (:data:`PORTABLE`), and a hash of single operations (``arithmetic``) says whose numbers are
compared: where it is the same, so must be the runs, to the last bit.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

KEPT = Path(__file__).parent / "data" / "same_bits.json"
PORTABLE = {
    "ATEN_CPU_CAPABILITY": "default",
    "MKL_CBWR": "COMPATIBLE",
    "GLIBC_TUNABLES": "glibc.cpu.hwcaps=-AVX2,-FMA,-FMA4,-AVX512F",
    "OMP_NUM_THREADS": "1",
}
"""torch's, MKL's and the C library's ways that need no extension of a CPU; oneDNN, which has none, is left out by :func:`main`.
numba's loops are compiled for the CPU, but multiply, add and divide one after the other on all of them."""
RUNS = {
    "nano": ("training.batch_size=7", "model.drop_path_rate=0.1"),
    "base": (
        "training.batch_size=3",
        "training.input_frames=24",
        "training.gradient_accumulation_steps=2",
        "model.drop_path_rate=0.1",
    ),
    "large": ("training.batch_size=3", "training.input_frames=16", "training.optimizer=adamw"),
}
"""Of each variant, what else is set."""
LARGE = {"nano": 3 << 18, "base": 1 << 14, "large": 3 << 18}
"""From how many numbers on activations go through the compiled loops: of base nearly all do, of large none."""
STEPS = 2


def found() -> dict[str, Any]:
    """What comes out on this machine, of a process of its own."""
    command = [sys.executable, "-m", "tests.same_bits"]
    done = subprocess.run(command, env={**os.environ, **PORTABLE}, stdout=subprocess.PIPE, check=True)
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def main() -> None:
    """Print what comes out, or keep it."""
    if "--keep" in sys.argv:
        new = found()
        kept = json.loads(KEPT.read_text()) if KEPT.exists() else []
        others = [one for one in kept if one["arithmetic"] != new["arithmetic"]]
        KEPT.write_text(json.dumps([*others, new], indent=1) + "\n")
        return
    import torch

    torch.set_num_threads(1)
    torch.backends.mkldnn.set_flags(False)
    result = {"arithmetic": arithmetic(), "torch": torch.__version__, "runs": {name: trained(name) for name in RUNS}}
    print(json.dumps(result, indent=1))


def arithmetic() -> str:
    """The sha256 of what single operations of torch give for the same numbers."""
    import torch
    from torch.nn import functional as F

    def spread(*shape: int, at: int) -> torch.Tensor:
        count = torch.Size(shape).numel()
        return ((torch.arange(count) * 7919 + 104729 * at) % 4093).float().view(shape) / 2048 - 1

    def of(dtype: torch.dtype) -> Iterator[torch.Tensor]:
        x, y = spread(3, 40, 16, 25, at=1).to(dtype), spread(3, 40, 16, 25, at=2).to(dtype)
        last = x.contiguous(memory_format=torch.channels_last)
        yield from (x.exp(), x.sigmoid(), x.sin(), x.abs().rsqrt(), x / y.abs().add(1), F.hardswish(x), x.log_softmax(1))
        yield from (torch.lerp(x, y, 0.3), torch.addcmul(x, x, y), x.norm(), x.sum(dim=1), x.mean(dim=(2, 3)))
        yield from torch.var_mean(last, dim=(0, 2, 3), correction=0)
        yield from (torch.atan2(x, y), F.linear(x, spread(12, 25, at=3).to(dtype)), torch.bmm(x[0], y[0].mT), x.square().sum())
        yield torch.einsum("nctv,nkv->nkct", x, y[:, :4, 0])
        for weight, groups, pad in ((spread(24, 40, 1, 1, at=4), 1, 0), (spread(40, 1, 5, 1, at=5), 40, 2)):
            kernel = weight.to(dtype).requires_grad_()
            given = last.clone().requires_grad_()
            out = F.conv2d(given, kernel, padding=(pad, 0), groups=groups)
            yield from (out.detach(), *torch.autograd.grad(out.square().sum(), (given, kernel)))
        given = last.clone().requires_grad_()
        out = F.batch_norm(given, None, None, training=True)
        yield from (out.detach(), *torch.autograd.grad(out.sigmoid().sum(), (given,)))

    everything = [*of(torch.float32), *of(torch.float64), torch.view_as_real(torch.fft.rfft(spread(4, 32, 5, at=6), dim=1))]
    return digest(everything)


def digest(tensors: Iterable[Any]) -> str:
    """The sha256 of all their bytes."""
    made = hashlib.sha256()
    for tensor in tensors:
        made.update(tensor.detach().contiguous().numpy().tobytes())
    return made.hexdigest()


def trained(variant: str) -> dict[str, Any]:
    """Some steps and a test of a variant: losses, and hashes of batches, of all that training changes, and of what is said."""
    import torch

    from last_e.config import TrainConfig
    from last_e.data.batches import TestBatches, TrainBatches
    from last_e.data.synthetic import synthetic_clips
    from last_e.evaluate import evaluate
    from last_e.layers import resolve
    from last_e.model import LastE, fused
    from last_e.optim import build_optimizer
    from last_e.precision import Precision
    from last_e.reading import set_layer
    from last_e.state import State
    from last_e.step import train_step

    layer, problems = set_layer(["dataset=synthetic", f"model.variant={variant}", *RUNS[variant]])
    config = resolve([layer], TrainConfig, problems, detect=lambda: ("local", "")).config
    plain = Precision(None, False, "")
    fused.LARGE = LARGE[variant]
    torch.manual_seed(0)
    model = LastE(config.model, 6)
    state = State(model, build_optimizer(model, config.training), torch.amp.GradScaler("cpu", enabled=False))
    clips, index = synthetic_clips(6, 36), torch.arange(36)
    result: dict[str, Any] = {"losses": [], "batches": [], "states": []}
    train = TrainBatches(clips, index[:30], config.training, None, model.noise_shape)
    for number, batches in zip(range(STEPS), train.epoch(0)):
        rate = 0.05 if config.training.optimizer == "sgd" else 0.001
        train_step(state, batches, rate / (1 + number), config, plain)
        loss = state.counters.read().loss
        assert loss == loss, "a bad step changes nothing"
        result["losses"].append(loss)
        result["batches"].append(digest(stream for batch in batches for stream in batch.streams.values()))
        moved = [entry[name] for entry in state.optimizer.state_dict()["state"].values() for name in sorted(entry)]
        result["states"].append(digest([*model.state_dict().values(), *moved]))
    said = torch.zeros(6, 2)
    test = TestBatches(clips, index[30:], config.training.input_frames, 4)
    scores = evaluate(model, test, state.device, plain, bool, said=said)
    assert scores is not None
    return {**result, "test_loss": scores.loss, "said": digest([said])}


if __name__ == "__main__":
    main()
