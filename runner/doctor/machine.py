"""This machine: Python, torch, GPUs that really compute, cores, disk, clock."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from last_e.environment import detect_environment, gpu_names, usable_cores
from last_e.process import run_module
from last_e.text import counted
from runner import machine
from runner.doctor.finding import Finding, State
from runner.launch.docker.look import OLDEST_DRIVERS, driver_fits, why_torch_fails
from runner.machine import driver_version, lacks
from runner.version import lastrun_version
from runner.waits import WAITS

PART = "machine"
_TORCH_SECONDS = 0.9 * WAITS.doctor
_DISK_BYTES, _DISK_SECONDS = 64 << 20, 1.5
_LEAST_FREE = 2 << 30
_SLOW_DISK = 20e6
"""Bytes a second: a checkpoint of the largest network, 12 MB, then takes longer to be written than the next one to come."""


def looks() -> dict[tuple[str, str], Callable[[], list[Finding]]]:
    """By part and name."""
    return {
        (PART, "lastrun"): _lastrun,
        (PART, "torch"): _torch,
        (PART, "cores"): _cores,
        (PART, "disk"): _disk,
        (PART, "clock"): _clock,
    }


def _lastrun() -> list[Finding]:
    env, why = detect_environment()
    said = f"{lastrun_version()}, Python {platform.python_version()} in {sys.prefix}; profile {env}: {why}"
    return [Finding(PART, "lastrun", State.WELL, said)]


def _torch() -> list[Finding]:
    """Torch is started, and each GPU that it finds computes something."""
    if missing := lacks():
        return [Finding(PART, "torch", State.MISSING, missing)]
    try:
        done = subprocess.run(
            run_module("last_e.gpu"), capture_output=True, text=True, errors="replace", timeout=_TORCH_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        words = f"has not started within {_TORCH_SECONDS:.0f} s"
        if busy := how_busy():
            return [Finding(PART, "torch", State.NOTE, f"{words}: {busy}")]
        return [Finding(PART, "torch", State.WRONG, f"{words}: a slow disk, or a driver that hangs (nvidia-smi tells)")]
    lines = done.stdout.splitlines()
    if done.returncode or not lines:
        return [Finding(PART, "torch", State.WRONG, f"does not work: {why_torch_fails(done.returncode, done.stderr)}")]
    return findings_of(json.loads(lines[-1]), driver_version(), gpu_names())


def how_busy() -> str | None:
    """Why what takes long may well work; None: others leave this machine enough."""
    busy = machine.how_busy()
    return None if busy is None else f"not found out, for the machine is {busy}; again once it is not"


def findings_of(torch: dict[str, Any], driver: str | None, names: list[str]) -> list[Finding]:
    """What follows from what torch says of itself.

    Args:
        torch: as ``python -m last_e.gpu`` prints it.
        driver: NVIDIA's, by the kernel; None: there is none.
        names: GPUs that this driver lists.
    """
    cuda = torch["cuda"]
    built = f"{torch['torch']}, " + (f"built for CUDA {cuda}" if cuda else "a build without CUDA")
    said = f"{built}; driver {driver}" if driver else built
    state = State.WELL
    if driver and cuda is None:
        state, said = State.WRONG, f"{said}: install a build for CUDA, as pytorch.org tells for this driver"
    elif driver and not driver_fits(driver, cuda):
        oldest = OLDEST_DRIVERS[int(cuda.split(".")[0])]
        state, said = State.WRONG, f"{said}; that needs {oldest} or newer: update the driver, or take a build for an older CUDA"
    found = [Finding(PART, "torch", state, said)]
    for index, gpu in enumerate(torch["gpus"]):
        major, minor = gpu["capability"]
        well = f"{gpu['name']}, compute capability {major}.{minor}: it computes"
        found.append(Finding(PART, f"GPU {index}", State.WRONG if gpu["problem"] else State.WELL, gpu["problem"] or well))
    if not torch["gpus"]:
        lost = f"{', '.join(names)}, and torch cannot use it: {torch['problem']}"
        found.append(Finding(PART, "GPU", State.WRONG, lost) if names else Finding(PART, "GPU", State.MISSING, _NO_GPU))
    return found


_NO_GPU = "none: attempts here train on the CPU; lastrun gpus tells where there are some"


def _cores() -> list[Finding]:
    usable, there = usable_cores(), os.cpu_count() or 1
    said = counted(usable, "core")
    return [Finding(PART, "cores", State.WELL, said if usable == there else f"{said} of {there}, by a limit of this process")]


def _disk() -> list[Finding]:
    """Where attempts keep their files, unless they are told otherwise: written as a checkpoint is."""
    folder = Path(tempfile.gettempdir())
    free = shutil.disk_usage(folder).free
    hint = "another folder: --set hardware.scratch_root=FOLDER"
    if free < _DISK_BYTES:
        return [Finding(PART, "disk", State.WRONG, f"{folder} is full; {hint}")]
    chunk, done, began = os.urandom(1 << 20), 0, time.monotonic()
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            while done < _DISK_BYTES and time.monotonic() - began < _DISK_SECONDS:
                done += file.write(chunk)
                file.flush()
                os.fsync(file.fileno())
    except OSError as error:
        return [Finding(PART, "disk", State.WRONG, f"{folder} cannot be written ({error.strerror or error}); {hint}")]
    speed = done / max(time.monotonic() - began, 1e-3)
    said = f"{folder}: {free / 1e9:.1f} GB free, writes {speed / 1e6:.0f} MB/s"
    if free < _LEAST_FREE:
        return [Finding(PART, "disk", State.NOTE, f"{said}; that is little: {hint}")]
    return (
        [Finding(PART, "disk", State.NOTE, f"{said}, which is slow; {hint}")]
        if speed < _SLOW_DISK
        else [Finding(PART, "disk", State.WELL, said)]
    )


def _clock() -> list[Finding]:
    """No machine's clock is behind the files that it runs."""
    now, made = time.time(), Path(__file__).stat().st_mtime
    said = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(now))
    if now < made - 60:
        return [Finding(PART, "clock", State.WRONG, f"{said}, which is before lastrun was installed here: set it right")]
    return [Finding(PART, "clock", State.WELL, said)]
