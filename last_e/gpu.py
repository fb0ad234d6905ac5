"""Whether torch can really use the GPU it finds, and which failures are the GPU's own. ``python -m last_e.gpu`` tells."""

from __future__ import annotations

import json
import platform
import re
import threading
import time
import warnings
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any

import torch

from last_e.refusal import NO_GPU
from last_e.text import one_line

_LOST = re.compile(
    r"uncorrectable|fallen off the bus|gpu is lost|device is lost|launch timed out|hardware stack error|nvlink error"
    r"|no cuda-capable device|driver shutting down|unknown error|system not yet initialized",
    re.IGNORECASE,
)
"""What CUDA says when the device or its driver fails; wrong memory accesses and the like are the program's own faults."""


_SINCE_CUDA_12_6, _SINCE_CUDA_13 = (5, 0), (7, 5)
_WITHOUT_CUDA_12_6 = (2, 15)
"""PyTorch's builds (its RELEASE.md): from which compute capability on, and from which version on none is for CUDA 12.6."""

USAGE_SECONDS = 5.0
"""From one look at what GPUs are at to the next."""


class NoGpu(RuntimeError):
    """A GPU was asked for and none can be used."""

    whose = NO_GPU


def build_architectures() -> list[str]:
    """What this build of torch was compiled for: ``sm_80`` (machine code), ``compute_90`` (PTX); empty for a CPU build."""
    flags = getattr(torch._C, "_cuda_getArchFlags", None)  # torch.cuda.get_arch_list answers only where there is a GPU
    return str(flags() or "").split() if flags is not None else []


def runs_on(capability: tuple[int, int], architectures: Iterable[str]) -> bool:
    """Whether code for these architectures runs on a GPU of a compute capability.

    Machine code runs on the same major version from its own minor version on; PTX on everything newer.
    """
    for name in architectures:
        found = re.fullmatch(r"(sm|compute)_(\d+)(\d)([af]?)", name)
        if found is None:
            continue
        built = int(found[2]), int(found[3])
        if found[4] == "a" and built != capability:  # features of this very chip
            continue
        if built <= capability and ((found[1] == "compute" and not found[4]) or built[0] == capability[0]):
            return True
    return False


def check(device: torch.device) -> None:
    """Have the GPU compute something.

    Raises:
        NoGpu: it is none that this torch was built for, or it does not compute.
    """
    name, capability = torch.cuda.get_device_name(device), torch.cuda.get_device_capability(device)
    architectures = build_architectures()
    if architectures and not runs_on(capability, architectures):
        has, built = f"{name} (sm_{capability[0]}{capability[1]})", " ".join(architectures)
        raise NoGpu(f"torch {torch.__version__} is not built for {has} but for {built}: {_build_for(capability)}")
    try:
        ones = torch.ones(64, 64, device=device)
        total = float((ones @ ones).sum())
    except RuntimeError as error:
        raise NoGpu(f"{name} does not compute: {one_line(error)}") from None
    if total != 64.0**3:
        raise NoGpu(f"{name} computes wrongly: {total:g} instead of {64**3}")


def _build_for(capability: tuple[int, int]) -> str:
    """Which build of torch to take for a GPU that this one is not for."""
    if capability >= _SINCE_CUDA_13:
        return "take a newer one, for an image with lastrun image build --torch"
    if capability < _SINCE_CUDA_12_6:
        return "no build of the torch that this needs is (those for CUDA 12.6 begin with sm_50): take another GPU"
    release = torch.__version__.split("+")[0]
    version = release if _numbers(release) < _WITHOUT_CUDA_12_6 else "2.14.0"
    build = f"torch=={version}+cu126"
    return (
        f"the builds for CUDA 12.6, up to torch 2.14, are: {build}, from PyTorch's index cu126; "
        f"for an image lastrun image build --torch {build}, with --base (docs/docker.md)"
    )


def _numbers(release: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", release)[:2])


def why_none() -> str:
    """Why torch finds no GPU, as the driver says it."""
    if torch.version.cuda is None:
        return f"torch {torch.__version__} (a build without CUDA) finds no GPU"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.cuda.init()  # type: ignore[no-untyped-call]
    except (RuntimeError, AssertionError) as error:
        text = one_line(error)
        if "driver" in text and "too old" in text:
            text = f"the driver is too old for CUDA {torch.version.cuda}: update it, or take a torch built for an older CUDA"
        return f"torch {torch.__version__} (built for CUDA {torch.version.cuda}) finds no GPU: {text}"
    return f"torch {torch.__version__} (built for CUDA {torch.version.cuda}) finds no GPU"


def is_lost(error: BaseException) -> bool:
    """Whether an error tells that the GPU or its driver failed, so that the same run may go on elsewhere."""
    return isinstance(error, RuntimeError) and "CUDA" in str(error) and _LOST.search(str(error)) is not None


def figures(index: int) -> dict[str, Any] | None:
    """Memory of a GPU that is ``used`` and in ``total``, in bytes, and its ``use`` over the last moment, from 0 to 1; None:
    nobody tells. What NVIDIA's library tells holds for all programs; without it (the package nvidia-ml-py) the memory is
    torch's alone and the use is not known."""
    try:
        total = torch.cuda.get_device_properties(index).total_memory
        used, use = torch.cuda.memory_reserved(index), None
        with suppress(Exception):  # whatever a driver, or a package of that name, has: it is only shown
            use = torch.cuda.utilization(index) / 100
            used = torch.cuda.device_memory_used(index)
    except (RuntimeError, AssertionError):
        return None
    return {"used": used, "total": total, "use": use}


class Usage:
    """What the first GPUs of this process are at, asked by a thread now and then: no step waits for a driver.

    Args:
        count: how many.
    """

    def __init__(self, count: int, ask: Callable[[int], dict[str, Any] | None] = figures) -> None:
        self.figures: list[dict[str, Any]] | None = None
        """Of each, as :func:`figures` has them; None: not known, or not yet."""
        self._count, self._ask = count, ask
        threading.Thread(target=self._run, name="gpus", daemon=True).start()

    def _run(self) -> None:
        while True:
            found = [self._ask(index) for index in range(self._count)]
            self.figures = [one for one in found if one is not None] or None
            time.sleep(USAGE_SECONDS)


def has_no_memory(error: BaseException) -> bool:
    """Whether an error tells that memory ran out: the GPU's, which Triton tells in words alone, or the machine's, for which
    torch has no kind of its own."""
    told = "DefaultCPUAllocator", "Triton Error [CUDA]: out of memory"
    return isinstance(error, torch.cuda.OutOfMemoryError) or any(words in str(error) for words in told)


def describe() -> dict[str, Any]:
    """torch and the GPUs it finds, each with what keeps it from being used."""
    gpus = []
    for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        try:
            check(torch.device("cuda", index))
            problem = None
        except NoGpu as error:
            problem = str(error)
        gpus.append(
            {
                "name": torch.cuda.get_device_name(index),
                "capability": list(torch.cuda.get_device_capability(index)),
                "problem": problem,
            }
        )
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "architectures": build_architectures(),
        "gpus": gpus,
        "problem": None if gpus else why_none(),
    }


if __name__ == "__main__":
    print(json.dumps(describe()))
