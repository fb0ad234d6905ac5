"""Kernels for GPUs, without one: what Triton's interpreter computes, and what compiling them for each kind of GPU tells."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from last_e.model import agreed, formats, fused_cuda, spatial, tried, whole
from last_e.model.functions import mix_joints
from tests.conftest import Figures

pytestmark = pytest.mark.slow  # of other Pythons and the lowest versions there is no Triton

ARCHITECTURES = {75: 64, 80: 163, 86: 99, 89: 99, 90: 227}
"""KiB of shared memory that a program may have: CUDA C++ Programming Guide, Technical Specifications per Compute Capability."""
KERNELS = {"fp16": 62, "bf16": 62, "fp32": 58}
STACK = 16
"""Bytes of the stack that gates of up to 16 hidden channels take on some chips, and others in float32: registers to spare."""
BOUNDS = {"float32": 2e-5, "float16": 8 * 2**-11}
"""Of the largest number: of float32 what is left of sums of some hundred, of the other eight roundings."""


def told(module: str, *words: str, **env: object) -> Any:
    command = [sys.executable, "-m", f"tests.kernels.{module}", *words]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        env={**os.environ, **{name: str(value) for name, value in env.items()}},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("form", sorted(BOUNDS))
def test_kernels_compute_what_torch_does_in_float64(form: str) -> None:
    found = told("numbers", form, TRITON_INTERPRET="1")
    assert len(found["cases"]) == {"float32": 44, "float16": 34}[form]
    off = {case: {name: by for name, by in one.items() if not by <= BOUNDS[form]} for case, one in found["cases"].items()}
    assert {case: one for case, one in off.items() if one} == {}
    assert len(found["as it is called"]) == 5
    assert all(by < 1e-4 for by in found["as it is called"].values()), found["as it is called"]
    assert all(by < 1e-4 for by in found["tried out"].values()), f"what is tried at a run's begin: {found['tried out']}"


def test_steps_through_kernels_are_recorded_and_played_as_those_that_are_not() -> None:
    """Of a small network, batches and all: one step as it comes and one that is played are those of torch's operations, within
    rounding. So is one of base with its attention in fp16."""
    found = told("recorded", TRITON_INTERPRET="1")
    assert found["graphs"] == 1
    assert found["losses"][0] == pytest.approx(found["losses"][1], rel=1e-4)
    assert found["from torch"] < 1e-4, "weights move by a few hundredths"
    in_half = found["in half precision"]
    assert in_half.keys() == whole.LOOSE.keys()
    assert all(by < 0.02 for by in in_half.values()), f"torch's are 0.004 at most: {in_half}"


def test_kernels_fit_each_kind_of_gpu_without_spilling(full: bool, figure: Figures, tmp_path: Path) -> None:
    """Of every kind with ``--full``, else of the oldest and the newest. In bf16 from sm_80 on: an older one, which would only
    emulate it, trains in fp16 (:func:`last_e.precision.amp_format`)."""
    for form in ("fp16", "bf16", "fp32") if full else ("fp16",):
        asked = [one for one in sorted(ARCHITECTURES) if form != "bf16" or one >= 80] if full else [75, 90]
        found = told("resources", form, *map(str, asked), TRITON_CACHE_DIR=tmp_path)
        assert len(found) == KERNELS[form] * len(asked)
        for one in found:
            said = f"{one['kernel']} {form} on sm_{one['sm']}: {one['registers']} registers, {one['shared']} bytes shared"
            assert one["stack"] <= (STACK if one.get("H") == 16 or form == "fp32" else 0), f"{said}, spilt: {one}"
            assert one["local"] == 0, f"{said}, spilt: {one}"
            assert one["shared"] <= 1024 * ARCHITECTURES[one["sm"]], said
            assert one["atomics"] == 0, f"{said}, with sums in any order"
            if full:
                figure("kernel", said)
        most = max(found, key=lambda one: one["registers"])
        seconds = sum(one["seconds"] for one in found) / len(asked)
        figure(f"kernels in {form}", f"at most {most['registers']} registers, none spilt; {seconds:.0f} s to compile for a GPU")


@pytest.mark.parametrize(("joints", "subsets", "by_kernel"), [(25, 3, True), (33, 3, False), (25, 4, False)])
def test_joints_are_mixed_by_a_kernel_where_it_fits_each_gpu(
    monkeypatch: pytest.MonkeyPatch, joints: int, subsets: int, by_kernel: bool
) -> None:
    """As many as :func:`test_kernels_fit_each_kind_of_gpu_without_spilling` has compiled; MediaPipe's 33 took 104 KiB."""
    called = []
    monkeypatch.setattr(fused_cuda, "kernels_for", lambda *of: True)
    monkeypatch.setattr(fused_cuda.Mix, "apply", lambda *given: called.append(given))
    x = torch.zeros(1, 2, 3, joints).contiguous(memory_format=torch.channels_last)
    adjacency = torch.zeros(subsets, joints, joints)
    mix_joints(x, adjacency, adjacency, None)
    assert bool(called) is by_kernel


@pytest.mark.parametrize(("joints", "subsets", "by_kernel"), [(25, 3, True), (16, 5, True), (13, 6, False), (20, 4, False)])
def test_attention_goes_through_kernels_for_as_many_subsets_as_were_compiled(
    monkeypatch: pytest.MonkeyPatch, joints: int, subsets: int, by_kernel: bool
) -> None:
    monkeypatch.setattr(spatial, "kernels_for", lambda x: True)
    assert spatial.fits(torch.zeros(1, 2, 3, joints), subsets) is by_kernel


class Halved(torch.autograd.Function):
    """x / 2 of x and y, with a gradient by y that is not a number."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return x / 2

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return gradient / 2, gradient * float("nan")


def test_a_gradient_that_is_not_a_number_is_as_far_from_torchs_as_can_be() -> None:
    given = [torch.arange(1.0, 9.0).view(1, 2, 2, 2).requires_grad_() for _ in range(2)]
    own = Halved.apply(*given)  # type: ignore[no-untyped-call]
    assert not tried.apart(own, given, lambda x, y: x / 2 + 0 * y) <= 1e-4
    assert tried.apart(given[0] / 2 + given[1], given, lambda x, y: x / 2 + y) <= 1e-4


class Gpu:
    """As :mod:`torch.cuda` tells of one."""

    def __init__(self, patch: pytest.MonkeyPatch, capability: tuple[int, int]) -> None:
        patch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
        patch.setattr(fused_cuda.AGREED, "_gpus", set())


FITS = dict.fromkeys(whole.LOOSE, 1e-3)
NO_COMPILER = "Failed to find C compiler. Please specify via CC environment variable"


@pytest.mark.parametrize(
    ("capability", "found", "network", "why"),
    [
        ((6, 0), {}, FITS, "they need a GPU of compute capability 7.5, and this one has 6.0"),
        ((7, 5), {"the norm": 0.5, "the mixing": 1e-6}, FITS, "the norm differs from torch's by 5.0e-01"),
        ((7, 5), {"the norm": float("nan")}, FITS, "the norm differs from torch's by nan"),
        ((9, 0), RuntimeError("PTXAS error: unknown\nmore"), FITS, "RuntimeError: PTXAS error: unknown"),
        ((9, 0), RuntimeError(NO_COMPILER), FITS, f"RuntimeError: {NO_COMPILER}; {agreed.NEEDS}"),
        ((9, 0), {"the norm": 1e-6}, FITS, None),
        (
            *((9, 0), {"the norm": 1e-6}, FITS | {"a network's gradients": float("nan")}),
            "a network's gradients differs from torch's by nan",
        ),
        (
            *((9, 0), {"the norm": 1e-6}, FITS | {"a network's statistics": 0.1}),
            "a network's statistics differs from torch's by 1.0e-01",
        ),
        ((9, 0), {"the norm": 1e-6}, FITS | {"a network's logits": 0.7}, None),  # as far as torch's
        ((9, 0), {"the norm": 1e-6}, RuntimeError("out of resource"), "RuntimeError: out of resource"),
    ],
)
def test_kernels_are_used_where_they_came_out_as_torch(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], found: Any, network: Any, why: str | None
) -> None:
    Gpu(monkeypatch, capability)
    gpu = torch.device("cuda", 1)

    def given(one: Any) -> dict[str, float]:
        if isinstance(one, Exception):
            raise one
        return dict(one)

    def of_network(*asked: Any) -> dict[str, float]:
        assert asked == (gpu, None, torch.float16)
        return given(network) if fused_cuda.used_on(gpu) else FITS | {"a network's logits": 0.6}

    monkeypatch.setattr(tried, "differences", lambda device: given(found))
    monkeypatch.setattr(whole, "differences", of_network)
    monkeypatch.setattr(tried, "ops", lambda: None)
    nothing: Any = None
    assert tried.try_out(gpu, nothing, torch.float16) == why
    assert fused_cuda.used_on(gpu) is (why is None)
    assert not fused_cuda.used_on(torch.device("cuda", 0))
    fused_cuda.AGREED.leave(gpu)
    assert not fused_cuda.used_on(gpu)


@pytest.mark.parametrize("learned", [0, 1, 3])
def test_weights_that_are_kept_still_stay_so_in_half_precision(monkeypatch: pytest.MonkeyPatch, learned: int) -> None:
    """Else all that comes before the first weight that learns would have a gradient computed for nobody."""
    monkeypatch.setattr(fused_cuda, "used_on", lambda device: True)
    convolutions = [torch.nn.Conv2d(4, 4, 1, bias=False) for _ in range(3)]
    for number, one in enumerate(convolutions):
        one.requires_grad_(number < learned)
    with torch.autocast("cpu", torch.bfloat16), formats.converted(convolutions, training=True):
        weights = [formats.weight_of(one) for one in convolutions]
    assert [one.requires_grad for one in weights] == [number < learned for number in range(3)]
    for weight, one in zip(weights, convolutions):
        assert torch.equal(weight, one.weight.bfloat16())


def test_kernels_take_no_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which whoever compares with it on a GPU means."""
    monkeypatch.setattr(fused_cuda, "used_on", lambda device: True)
    for form, taken in ((torch.float32, True), (torch.float16, True), (torch.bfloat16, True), (torch.float64, False)):
        x = torch.zeros(1, 2, 3, 4, dtype=form).contiguous(memory_format=torch.channels_last).requires_grad_()
        assert fused_cuda.kernels_for(x) is taken


def test_without_triton_torch_does_it(monkeypatch: pytest.MonkeyPatch) -> None:
    Gpu(monkeypatch, (8, 0))

    def ops() -> None:
        raise ModuleNotFoundError("No module named 'triton'")

    monkeypatch.setattr(tried, "ops", ops)
    nothing: Any = None
    why = tried.try_out(torch.device("cuda"), nothing, None)
    told = "ModuleNotFoundError: No module named 'triton'"
    assert why == f"triton is not installed here, or does not work ({told}); torch's own builds for CUDA bring it"
    x = torch.zeros(1, 2, 3, 4, requires_grad=True).contiguous(memory_format=torch.channels_last)
    assert not fused_cuda.kernels_for(x)
