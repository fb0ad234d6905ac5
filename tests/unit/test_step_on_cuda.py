"""A training step and a test on CUDA, as far as a machine without a GPU can tell: on tensors that have all but numbers."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from tests import debian
from tests.conftest import Figures

pytestmark = [pytest.mark.xdist_group("fake CUDA"), pytest.mark.slow]  # one worker: what they look at takes a minute to make

SOURCE = Path(__file__).parents[1] / "fake_cuda" / "device.cpp"
TABLE = Path(__file__).parents[1] / "data" / "step_on_cuda.txt"
"""The formats of every operation. Where a change is meant: ``LASTRUN_KEEP_TABLE=1`` has the test write it anew."""

FEW = "model.num_blocks=[1,1,1]"
PARTS = ("training.batch_size=16", "training.gradient_accumulation_steps=2")
MORE = (
    "training.ema=0.999",
    *(
        f"training.augmentations.{word}"
        for word in (
            *("mirror=0.5", "motion=0.7", "limbs=0.1", "pose=0.1", "lean=10.0", "drift=0.1", "rotation=45.0", "speed=0.3"),
            *("noise=0.02", "mask_joints=0.1", "mask_frames=0.2", "mixup=0.2"),
        )
    ),
)
OFF = "hardware.kernels=off"
STEPS = {
    "base fp16": ("model.variant=base", OFF),
    "base fp16 with kernels": ("model.variant=base",),
    "base bf16 in two parts": ("model.variant=base", FEW, *PARTS, OFF),
    "large fp16 in two parts": ("model.variant=large", FEW, *PARTS, OFF),
    "nano fp32 with AdamW": ("model.variant=nano", FEW, "training.optimizer=adamw", OFF),
    "nano fp32 in two parts with more augmentation": ("model.variant=nano", FEW, *PARTS, *MORE),
    "base bf16 in two parts with kernels": ("model.variant=base", FEW, *PARTS),
    "large fp16 in two parts with kernels": ("model.variant=large", FEW, *PARTS),
}
"""32 clips with 38 bodies, 64 frames; but for those of base in fp16 with a block for each stage."""

MOST = {
    "base fp16": {"batch": (356, 0.21), "step": (1539, 6.88), "test": (564, 2.47)},
    "base fp16 with kernels": {"batch": (4, 0.01), "step": (400, 4.41)},
}
"""Kernels, about as many as torch starts, and GB that they read and write, if no cache held anything: of a batch, of a step on
it, and of a batch of a test."""


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the process with the fake device has to say."""
    debian.need("a compiler", lambda: debian.why_not(["g++"], ["g++"]))
    assert torch.version.cuda is None, "a build for CUDA has a device of its own, or none"
    torch_folder, library = Path(torch.__file__).parent, tmp_path_factory.mktemp("device") / "device.so"
    search = [f"-I{torch_folder}/include", f"-L{torch_folder}/lib", f"-Wl,-rpath,{torch_folder}/lib", "-lc10", "-ltorch_cpu"]
    subprocess.run(["g++", "-std=c++20", "-O0", "-shared", "-fPIC", SOURCE, "-o", library, *search], check=True)
    command = [sys.executable, "-W", "ignore", "-m", "tests.fake_cuda.step", json.dumps(STEPS)]
    done = subprocess.run(command, env={**os.environ, "LD_PRELOAD": str(library)}, stdout=subprocess.PIPE, check=True)
    result: dict[str, Any] = json.loads(done.stdout)
    return result


@pytest.fixture(scope="module")
def seen(found: dict[str, Any]) -> dict[str, Any]:
    """What was asked of the device in each of the steps."""
    steps: dict[str, Any] = found["steps"]
    return steps


def test_what_holds_a_gpu_up_would_be_seen(found):
    kinds = {
        name: sorted({line.split(" ", 1)[1].rsplit(" (", 1)[0] for line in lines}) for name, lines in found["caught"].items()
    }
    value, shape, copied = "asks for a value", "has a shape that depends on values", "copies between host and device"
    assert kinds == {
        "a value": [value],
        "a choice": [value],
        "a list": [value],
        "a search": [shape],
        "a mask": [shape],
        "numbers of the host": [copied, "is done by the host"],
        "to the host": [copied],
        "from the host": [copied],
        "beside the host": ["is done by the host"],
        "chance": ["draws of a generator"],
        "dropout": ["draws of a generator"],
        "repeated": [shape],
        "any order": ["adds in no order"],
    }


def test_a_step_and_a_test_have_nothing_that_a_gpu_would_be_held_up_by(seen):
    """No tensor of the host, no value that the host asks for, nothing that a graph cannot hold, no sum without an order."""
    assert {name: step["wrong"] for name, step in seen.items()} == {name: {} for name in STEPS}


def test_every_operation_on_a_gpu_has_the_formats_that_are_stored(seen):
    lines = [f"torch {torch.__version__.split('+')[0]}", *(f"{number}: {name}" for number, name in enumerate(seen, 1))]
    for phase in dict.fromkeys(phase for step in seen.values() for phase in step["formats"]):
        lines += ["", phase]
        for line in sorted({line for step in seen.values() for line in step["formats"].get(phase, [])}):
            where = (str(n) if line in step["formats"].get(phase, []) else "." for n, step in enumerate(seen.values(), 1))
            lines.append(f"  {''.join(where)}  {line}")
    if os.environ.get("LASTRUN_KEEP_TABLE"):
        TABLE.write_text("\n".join(lines) + "\n")
    assert lines == TABLE.read_text().splitlines()


@pytest.mark.parametrize("name", sorted(MOST))
def test_a_step_on_a_gpu_takes_no_more_kernels_and_bytes_than_before(seen, name: str, figure: Figures):
    step = seen[name]
    assert step["rows"] == [38]
    found = {}
    for part in MOST[name]:
        kernels, moved = (sum(n for one, n in step[key].items() if one.split(",")[0] == part) for key in ("kernels", "bytes"))
        figure(f"{part} of {name} on a GPU, by counting", f"{kernels} kernels, {moved / 1e9:.2f} GB")
        found[part] = kernels, math.ceil(moved / 1e7) / 100
    assert all(one <= most for part in found for one, most in zip(found[part], MOST[name][part])), found
