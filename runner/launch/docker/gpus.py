"""How an engine is asked for GPUs: machines are set up for one of three ways, and their engines say little of which."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from runner.errors import EngineError
from runner.launch.docker.explain import NoWayError

WAYS = ("device", "cdi", "runtime")
"""``device``: as ``docker run --gpus``; ``cdi``: by names in the machine's CDI files; ``runtime``: as ``--runtime=nvidia``."""
AUTO = "auto"
_KIND = "nvidia.com/gpu"
Made = TypeVar("Made")


def has_gpus(info: dict[str, Any]) -> bool:
    """Whether an engine says that it can hand in NVIDIA's GPUs. Many that can say nothing."""
    found = [device.get("ID") for device in info.get("DiscoveredDevices") or [] if isinstance(device, dict)]
    return "nvidia" in (info.get("Runtimes") or {}) or any(str(name).startswith(f"{_KIND}=") for name in found)


def ways(asked: str, info: dict[str, Any]) -> list[str]:
    """Those to be tried, in this order."""
    if asked != AUTO:
        return [asked]
    if is_podman(info):  # through this interface it passes over the others without a word
        return ["cdi"]
    runtime = ["runtime"] if "nvidia" in (info.get("Runtimes") or {}) else []
    cdi = ["cdi"] if info.get("CDISpecDirs") or has_gpus({"DiscoveredDevices": info.get("DiscoveredDevices")}) else []
    return ["device", *cdi, *runtime]


def is_podman(info: dict[str, Any]) -> bool:
    """Whether it is Podman that answers as an engine would."""
    return "BuildahVersion" in info


def request(way: str, gpus: Any) -> tuple[dict[str, Any], dict[str, str]]:
    """A container's options and variables that ask for ``gpus``: a number, ``all``, or a list of indices and UUIDs."""
    from docker.types import DeviceRequest

    names = gpus if isinstance(gpus, list) else ["all"] if gpus == "all" else list(range(gpus))
    which = [str(name) for name in names]
    if way == "runtime":
        return {"runtime": "nvidia"}, {"NVIDIA_VISIBLE_DEVICES": ",".join(which)}
    if way == "cdi":
        return {"device_requests": [DeviceRequest(driver="cdi", device_ids=[f"{_KIND}={name}" for name in which])]}, {}
    listed = {"device_ids": which} if isinstance(gpus, list) else {"count": -1 if gpus == "all" else gpus}
    return {"device_requests": [DeviceRequest(capabilities=[["gpu"]], **listed)]}, {}


def first_that_works(tried: list[str], make: Callable[[str], Made]) -> tuple[Made, str]:
    """What ``make`` makes with the first way that the engine takes, and which that is.

    Raises:
        EngineError: it takes none; what it said of each.
    """
    failed: list[NoWayError] = []
    for way in tried:
        try:
            return make(way), way
        except NoWayError as error:
            failed.append(error)
    others = "; ".join(f"as {way}: {error.reason}" for way, error in list(zip(tried, failed))[1:])
    raise EngineError(f"{failed[0]} ({others})" if others else str(failed[0]))
