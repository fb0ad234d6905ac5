"""Which hardware profile this machine calls for, judged by what is really there."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path


def detect_environment(root: Path = Path("/"), environ: Mapping[str, str] | None = None) -> tuple[str, str]:
    """Return the profile's name and the reason for it. Reads a few files below ``root``; asks no network and no driver.

    Kaggle comes first (its limits bind whatever the GPU is), then an A100 (the GPU decides more than the landlord),
    then Google Compute Engine and Lambda, else ``local``.
    """
    environ = os.environ if environ is None else environ
    if environ.get("KAGGLE_KERNEL_RUN_TYPE"):
        return "kaggle", "KAGGLE_KERNEL_RUN_TYPE is set"
    if (root / "kaggle/working").is_dir():
        return "kaggle", "/kaggle/working exists"
    for gpu in gpu_names(root):
        if re.search(r"\bA100\b", gpu):
            return "a100", f"the driver reports {gpu}"
    product = _read(root / "sys/class/dmi/id/product_name")
    if product == "Google Compute Engine":
        return "gcp", f"the machine's product name is {product}"
    for marker in ("var/lib/dpkg/info/lambda-stack-cuda.list", "etc/apt/sources.list.d/lambda-repository.list"):
        if (root / marker).exists():
            return "lambda", f"Lambda Stack is installed (/{marker})"
    return "local", "no sign of Kaggle, an A100, Google Compute Engine or Lambda"


def gpu_names(root: Path = Path("/")) -> list[str]:
    """Names of the NVIDIA GPUs that the kernel driver lists, without starting a process or importing torch."""
    names = []
    for file in sorted((root / "proc/driver/nvidia/gpus").glob("*/information")):
        for line in _read(file).splitlines():
            if line.startswith("Model:"):
                names.append(line.removeprefix("Model:").strip())
    return names


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return ""
