"""Which hardware profile this machine calls for, judged by what is really there."""

from __future__ import annotations

import math
import os
import platform
import re
from collections.abc import Mapping
from pathlib import Path


def detect_environment(root: Path = Path("/"), environ: Mapping[str, str] | None = None) -> tuple[str, str]:
    """Return the profile's name and the reason for it. Reads a few files below ``root``; asks no network and no driver.

    Kaggle comes first (its limits bind whatever the GPU is), then an A100 (the GPU decides more than the landlord),
    then Google Compute Engine and Lambda, else ``local``.
    """
    if sign := kaggle_sign(root, environ):
        return "kaggle", sign
    for gpu in gpu_names(root):
        if _A100.search(gpu):
            return "a100", f"the driver reports {gpu}"
    if _is_google(root):
        return "gcp", f"the machine's product name is {_GOOGLE}"
    if marker := _lambda_marker(root):
        return "lambda", f"Lambda Stack is installed (/{marker})"
    return "local", "no sign of Kaggle, an A100, Google Compute Engine or Lambda"


def kaggle_sign(root: Path = Path("/"), environ: Mapping[str, str] | None = None) -> str | None:
    """By what this is known to be a session on Kaggle; None: it is none."""
    if (os.environ if environ is None else environ).get("KAGGLE_KERNEL_RUN_TYPE"):
        return "KAGGLE_KERNEL_RUN_TYPE is set"
    return "/kaggle/working exists" if (root / "kaggle/working").is_dir() else None


def in_a_notebook(environ: Mapping[str, str] | None = None) -> bool:
    """Whether a notebook's cell shows what this process prints. A cell gives commands a terminal, and says that colours are
    welcome, but bars that move through a terminal become thousands of lines in it."""
    environ = os.environ if environ is None else environ
    return bool(environ.get("JPY_PARENT_PID") or environ.get("KAGGLE_KERNEL_RUN_TYPE"))


_GOOGLE = "Google Compute Engine"
_A100 = re.compile(r"\bA100[DX]?\b")
_A100_GB = 40
_VIRTUAL = re.compile(r"\bA100D?X?-(?:\d+-)?(\d+)C")
"""A part of one that a hypervisor gives: ``GRID A100-10C``, ``NVIDIA A100D-2-20C``, with so many gigabytes."""
_LIKE_A100 = re.compile(r"\b(?:A800|H100|H200|H800|GH200|B100|B200|GB200)\b")


def _is_google(root: Path) -> bool:
    return _read(root / "sys/class/dmi/id/product_name") == _GOOGLE


def _lambda_marker(root: Path) -> str | None:
    markers = ("var/lib/dpkg/info/lambda-stack-cuda.list", "etc/apt/sources.list.d/lambda-repository.list")
    return next((marker for marker in markers if (root / marker).exists()), None)


def fits(env: str, root: Path = Path("/"), environ: Mapping[str, str] | None = None) -> tuple[bool | None, str]:
    """Whether this machine is one that a profile is for (None: nearly, a GPU of that class, or less of one), and what it is."""
    found, why = detect_environment(root, environ)
    if env == "a100" and (less := _less_than_an_a100(root)):
        return None, less
    if env in ("local", found) or (env == "gcp" and _is_google(root)) or (env == "lambda" and _lambda_marker(root)):
        return True, found
    like = next((name for name in gpu_names(root) if _LIKE_A100.search(name)), None) if env == "a100" else None
    return (None, f"has {like}") if like else (False, f"is {found} ({why})")


def _less_than_an_a100(root: Path) -> str | None:
    """What of an A100 is there, if it is a part of one with less memory. Its name tells, or that the driver divides it."""
    names = [name for name in gpu_names(root) if _A100.search(name)]
    for name in names:
        part = _VIRTUAL.search(name)
        if part and int(part[1]) < _A100_GB:
            return f"has a part of an A100 ({name}) with {part[1]} GB; the profile is for {_A100_GB} and more"
    divided = next((root / "proc/driver/nvidia/capabilities").glob("gpu*/mig/gi*"), None)
    if names and divided is not None:
        return f"has {names[0]}, divided by MIG: a part has less than the {_A100_GB} GB that the profile is for"
    return None


def gpu_names(root: Path = Path("/")) -> list[str]:
    """Names of the NVIDIA GPUs that the kernel driver lists, without starting a process or importing torch."""
    names = []
    for file in sorted((root / "proc/driver/nvidia/gpus").glob("*/information")):
        for line in _read(file).splitlines():
            if line.startswith("Model:"):
                names.append(line.removeprefix("Model:").strip())
    return names


def cpu_name(root: Path = Path("/")) -> str:
    """The CPU as the kernel names it, else its architecture.

    A hypervisor may leave the model out (``AMD EPYC``). Generations differ several times in speed, so then the family and the
    widest vectors are added: ``AMD EPYC (family 25, AVX2)``.
    """
    first: dict[str, str] = {}
    for line in _read(root / "proc/cpuinfo").splitlines():
        key, _, value = line.partition(":")
        first.setdefault(key.strip(), value.strip())
    name = first.get("model name")
    if not name:
        return platform.machine()
    if any(letter.isdigit() for letter in name) or "cpu family" not in first:
        return name
    flags = set(first.get("flags", "").split())
    vectors = next((word for flag, word in (("avx512f", ", AVX-512"), ("avx2", ", AVX2")) if flag in flags), "")
    return f"{name} (family {first['cpu family']}{vectors})"


def usable_cores(root: Path = Path("/")) -> int:
    """Cores that this process may use: those it may run on, and of their time what its control group is given.

    A container with ``--cpus 2``, or a pod with such a limit, still sees every core; a thread for each would only wait.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quotas = [quota for folder in control_groups("cpu", root) if (quota := _cpu_quota(folder)) is not None]
    return max(1, min([cores, *map(math.ceil, quotas)]))


def control_groups(controller: str, root: Path = Path("/")) -> list[Path]:
    """Folders of the control groups of this process, version 2 first, and in each the innermost first."""
    paths = {"": "", controller: ""}
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        for name in controllers.split(","):
            paths[name] = path.strip("/")
    top = root / "sys/fs/cgroup"
    found = []
    for place, path in ((top, paths[""]), (top / controller, paths[controller])):
        # In a container the group's own files are at the top, whatever the path says.
        found += [place / path, *(place / path).parents] if path else [place]
    return [folder for folder in dict.fromkeys(found) if folder.is_relative_to(top)]


def _cpu_quota(folder: Path) -> float | None:
    """Cores' worth of time that a control group is given; None: as much as there is."""
    quota, _, period = _read(folder / "cpu.max").partition(" ")
    if not quota:
        quota, period = _read(folder / "cpu.cfs_quota_us"), _read(folder / "cpu.cfs_period_us")
    if not (quota.isdecimal() and period.isdecimal() and int(period)):  # "max", and -1
        return None
    return int(quota) / int(period)


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return ""


def share_cores() -> None:
    """Have threads that wait for each other give up their cores soon. To be called before torch is imported.

    GNU's OpenMP, which torch uses on Linux, lets them spin for a millisecond and more. Where other processes want the same
    cores, that made training two to four times slower here, and nothing faster.
    """
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
