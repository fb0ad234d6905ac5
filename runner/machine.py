"""What machine this is, and which process: enough to tell a live attempt from a dead one, and to say where a run ran."""

from __future__ import annotations

import json
import os
import platform
import re
import socket
import sys
import time
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from last_e.environment import control_groups, cpu_name, fits, gpu_names, usable_cores
from last_e.text import counted
from runner.errors import UsageError
from runner.folders import cache_folder


class HiddenProcessError(Exception):
    """Another user's process, on a system that hides them (``/proc`` with ``hidepid``)."""


@lru_cache(maxsize=1)
def identity() -> str:
    """A name for this boot of this machine, as seen from this process namespace: only here do its pids mean anything."""
    boot = _boot()
    try:
        namespace = str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        namespace = ""
    return f"{socket.gethostname()} {boot} {namespace}".strip()


def same_boot(identity: str) -> bool:
    """Whether an identity is of a process on this machine since it was started, in whatever namespace."""
    return bool(_boot()) and _boot() in identity.split(" ")


def process_identity(pid: int) -> str | None:
    """A text that changes when a pid is used again; None when there is no such process (a zombie counts as none).

    Raises:
        HiddenProcessError: there is one, but the system hides from us which.
    """
    stat = _read(f"/proc/{pid}/stat")
    if stat:
        fields = stat.rpartition(")")[2].split()
        return None if fields[0] in "ZX" else fields[19]
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):  # a record's number is what somebody has written
        return None
    except PermissionError:
        raise HiddenProcessError(pid) from None
    return None if _read("/proc/self/stat") else "alive"  # it has just ended; or there is no /proc, and the pid alone has to do


def uptime() -> float:
    """Seconds on a clock that runs on while the machine sleeps, where the system has one."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()


def describe() -> dict[str, Any]:
    """The hardware, for the attempt's record."""
    system = f"{platform.system()}-{platform.release()}-{platform.machine()}"  # platform.platform() starts a process for it
    return {"system": system, "cores": usable_cores(), "cpu": cpu_name(), "gpus": gpu_names()}


def versions() -> dict[str, str]:
    """Versions that matter for a result, for the attempt's record; read from metadata, without importing."""
    from importlib import metadata

    found = {"python": platform.python_version()}
    for name in ("lastrun", "torch", "numpy", "numba"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


_WAYS = {
    "": "--on HOST for one that ssh reaches, --launcher slurm for a cluster's, --launcher hf for one of Hugging Face's, "
    "--launcher sky for one of a cloud, once SkyPilot is set up: see docs/clouds.md",
    "kaggle": "--launcher kaggle gets one; or in a notebook there, see docs/kaggle.md",
}
"""What gets a profile's machine."""


def see_that_it_fits(env: str, here: bool) -> list[str]:
    """What to say of a profile on this machine.

    Raises:
        UsageError: it is for another kind of machine, and nobody has said that it is meant to be used ``here``.
    """
    fitting, found = fits(env)
    if fitting:
        return []
    if fitting is None or here:
        return [f"warning: env {env} is used on a machine that {found}"]
    raise UsageError(
        f"env {env}: this machine {found}; begin it on one that fits ({_WAYS.get(env, _WAYS[''])}), or say --here to train "
        "here with that profile all the same, or --env auto for the profile that fits here"
    )


def lacks() -> str | None:
    """What this Python has to get before it can train, and how; None: nothing."""
    missing = [name for name in ("torch", "numpy", "safetensors") if find_spec(name) is None]
    words = "training here needs {}, not installed in {}; from a clone of lastrun: pip install '.[train]'"
    return words.format(", ".join(missing), sys.prefix) if missing else None


def how_busy() -> str | None:
    """That others leave this machine little, in words; None: they leave it enough. The load is that of the whole machine, so
    it is held against all of its cores, not those that this process may use."""
    load, cores = os.getloadavg()[0], os.cpu_count() or 1
    return None if load <= cores + 1 else f"busy (load {load:.0f}, {counted(cores, 'core')})"


CONTAINER_VARIABLE = "LASTRUN_CONTAINER"


def container() -> dict[str, str] | None:
    """What its launcher told this process of where it runs (``Attempt.container`` has it); None for a plain process."""
    text = os.environ.get(CONTAINER_VARIABLE)
    return None if text is None else {name: str(value) for name, value in json.loads(text).items()}


def container_scratch() -> Path:
    """The folder of this machine in which attempts in containers keep their files, there and here under the same path."""
    return cache_folder() / "scratch"


def driver_version(root: Path = Path("/")) -> str | None:
    """The version of NVIDIA's kernel driver; None without one."""
    found = re.search(r"Module .*?\b(\d{3}\.\d+(?:\.\d+)?)\b", _read(str(root / "proc/driver/nvidia/version")))
    return found[1] if found else None


def memory_kills(root: Path = Path("/")) -> int:
    """How many processes of this control group the kernel has ended for want of memory (0 where it does not say)."""
    for folder in control_groups("memory", root):
        for file in ("memory.events", "memory.oom_control"):
            if found := re.search(r"^oom_kill (\d+)$", _read(str(folder / file)), re.MULTILINE):
                return int(found[1])
    return 0


def _boot() -> str:
    return _read("/proc/sys/kernel/random/boot_id")


def _read(path: str) -> str:
    try:
        return Path(path).read_text(errors="replace").strip()
    except OSError:
        return ""
