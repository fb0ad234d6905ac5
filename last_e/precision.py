"""Which device and which number format, each with the reason."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

import torch

from last_e import gpu
from last_e.config import HardwareConfig, TrainConfig
from last_e.environment import gpu_names, usable_cores

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""Options of glibc's mallopt (malloc.h)."""


@dataclass(frozen=True)
class Precision:
    """A number format for autocast (None: plain float32), whether losses are scaled, and why."""

    dtype: torch.dtype | None
    scaled: bool
    reason: str


def choose_device(config: HardwareConfig, rank: int = 0) -> tuple[torch.device, str]:
    """The device of a rank and the reason for it. Where there are fewer GPUs than ranks, some share one.

    Raises:
        NoGpu: ``hardware.device`` is ``cuda`` and torch finds no GPU, or the GPU that it finds cannot be used.
    """
    if config.device == "cpu":
        return torch.device("cpu"), "asked for"
    if torch.cuda.is_available():
        device = torch.device("cuda", rank % torch.cuda.device_count())
        gpu.check(device)
        return device, torch.cuda.get_device_name(device)
    if config.device == "cuda":
        raise gpu.NoGpu(f"hardware.device is cuda, but {gpu.why_none()}")
    # Where there is one all the same, the reason is worth a word.
    return torch.device("cpu"), gpu.why_none() if gpu_names() else "torch finds no GPU"


def choose_precision(config: TrainConfig, device: torch.device) -> Precision:
    """bf16 where the compute capability is 8.0 or more, else fp16 with a scaler; float32 on a CPU or without AMP."""
    wanted = config.hardware.precision
    if device.type != "cuda":
        return Precision(None, False, "float32 (CPU: mixed precision is for GPUs)")
    if not config.training.use_amp:
        return Precision(None, False, "float32 (training.use_amp is false)")
    if wanted == "fp32":
        return Precision(None, False, "float32 (hardware.precision is fp32)")
    name = torch.cuda.get_device_name(device)
    return amp_format(wanted, torch.cuda.get_device_capability(device), name)


def amp_format(wanted: str, capability: tuple[int, int], name: str) -> Precision:
    """The format for a GPU of this compute capability; ``wanted`` is auto, bf16 or fp16."""
    has = f"{name}, compute capability {capability[0]}.{capability[1]}"
    if wanted == "fp16":
        return Precision(torch.float16, True, f"fp16 with loss scaling ({has}; hardware.precision is fp16)")
    if capability >= (8, 0):
        return Precision(torch.bfloat16, False, f"bf16 ({has})")
    return Precision(torch.float16, True, f"fp16 with loss scaling ({has}: bf16 needs 8.0)")


def cpu_threads(config: HardwareConfig, ranks: int = 1) -> int:
    """Threads of a rank that compute on the CPU: as many as asked for, else its part of the cores, never more than all."""
    cores = usable_cores()
    return min(config.cpu_threads or max(1, cores // ranks), cores)


def keep_memory() -> None:
    """Have the C library keep what is freed, for the next tensor of that size.

    glibc asks the kernel for each block beyond 32 MiB anew, and the kernel clears it page by page: a third of a training step's
    time on a CPU. Other C libraries are left alone.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return
    # Before 2.35 glibc allows 32 MiB at most; and a threshold that is refused must not be followed by the other option, which
    # would fix it at 128 KiB.
    if mallopt(_MMAP_THRESHOLD, 2**31 - 1) == 1 or mallopt(_MMAP_THRESHOLD, 32 * 2**20) == 1:
        mallopt(_TRIM_THRESHOLD, -1)  # never
