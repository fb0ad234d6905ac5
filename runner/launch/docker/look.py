"""What is in an image, and whether it fits this code and the engine's machine."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from last_e.process import run_module
from last_e.text import plain
from runner import machine
from runner.errors import EngineError
from runner.gpus import FOLDER, Asked, BusyError, make_folder, taken
from runner.launch.docker import gpus
from runner.launch.docker.containers import Trial, logs, trial
from runner.launch.docker.engine import connect, explained, is_local
from runner.launch.docker.given import LOOK_VARIABLE, look_around
from runner.launch.docker.image import BUILD, code_digest, default_image
from runner.launch.docker.locks import ABOVE
from runner.version import lastrun_version

if TYPE_CHECKING:
    from docker import DockerClient

ASKED_VARIABLE = "LASTRUN_ASKED"
"""What a job asks for (:class:`runner.gpus.Asked`), as JSON."""
SHM_BYTES = 60 << 20
"""The least shared memory: what Docker itself gives a container that asks for none is 64 MiB, with Podman it is 62.5."""
OLDEST_DRIVERS = {11: "450.80.02", 12: "525.60.13", 13: "580.65.06"}
"""For each major version of CUDA the oldest driver that runs all of its minor versions (NVIDIA's compatibility tables)."""


def check(name: str | None) -> dict[str, Any]:
    """What is in an image, and what of it does not fit the code and the host; each misfit is a line in ``problems``.

    Raises:
        EngineError: it cannot be looked into.
    """
    name = name or default_image()
    client = connect()
    with explained(name):
        image = client.images.get(name)
    found = _look_into(client, image.id, name)
    labels = image.labels or {}
    facts = {
        "image": name,
        "id": image.id,
        "digests": image.attrs.get("RepoDigests") or [],
        "size": image.attrs["Size"],
        "base": labels.get("org.opencontainers.image.base.name"),
        "revision": labels.get("org.opencontainers.image.revision"),
        "driver": None,
        **found,
    }
    facts["problems"] = list(_problems(facts, lastrun_version(), code_digest()))
    return facts


def probe(torch: bool) -> dict[str, Any]:
    """What an image says of itself, from inside; with ``torch`` also of that and of the GPUs. Whoever has started it may want a
    look at what the container was given (:data:`~runner.launch.docker.given.LOOK_VARIABLE`), whether a job could have the GPUs
    that it asks for (:data:`ASKED_VARIABLE`), and the folder of their locks made.

    Raises:
        EngineError: this container has too little shared memory.
    """
    with suppress(OSError):
        shm = os.statvfs("/dev/shm")  # noqa: S108
        if shm.f_bavail * shm.f_frsize < SHM_BYTES:
            raise EngineError(
                f"not enough shared memory in the container ({shm.f_bavail * shm.f_frsize >> 10} KiB): at least "
                "64m is needed; set run.shm_size"
            )
    # The kernel's /proc tells of the driver in every container, whether it was given a GPU or not.
    found: dict[str, Any] = {"version": lastrun_version(), "code": code_digest(), "driver": machine.driver_version()}
    found["gpu_files"] = len(list(Path("/dev").glob("nvidia[0-9]*"))) + Path("/dev/dxg").exists()  # the latter below Windows
    if text := os.environ.get(LOOK_VARIABLE):
        found["seen"] = look_around(text)
    if text := os.environ.get(ASKED_VARIABLE):
        found["lacks"], found["busy"] = _lacks(Asked(*json.loads(text)))
    if Path(ABOVE).is_dir():
        make_folder(Path(ABOVE) / FOLDER.name)
    if torch:
        done = subprocess.run(run_module("last_e.gpu"), capture_output=True, text=True, check=False)
        lines = done.stdout.splitlines()
        told = json.loads(lines[-1]) if lines and not done.returncode else None
        found |= told or {"torch": None, "problem": why_torch_fails(done.returncode, done.stderr)}
    return found


def _lacks(asked: Asked) -> tuple[str | None, list[str] | None]:
    """Why nobody can have these GPUs, and the jobs that are at work on them, if that is why."""
    try:
        with taken(asked, ""):
            return None, None
    except BusyError as error:
        return str(error), error.jobs
    except EngineError as error:
        return str(error), None


def why_torch_fails(code: int, errors: str) -> str:
    """What to say of a torch whose process ended with a code, or by a signal (then it is negative)."""
    words = errors.strip().rpartition("\n")[2]
    if code >= 0:
        return words or f"it ended with code {code}"
    name = signal.Signals(-code).name if -code in signal.Signals._value2member_map_ else f"signal {-code}"
    hint = {
        "SIGILL": "this CPU lacks instructions that this build uses: another one with lastrun image build --torch",
        "SIGKILL": "the system ended it, as a rule for want of memory",
        "SIGSEGV": "libraries of the image that do not fit each other, as a rule: build it anew",
    }.get(name, words)
    return f"it was ended by {name}" + (f" ({hint})" if hint else "")


def driver_fits(driver: str, cuda: str) -> bool:
    """Whether a driver is new enough for what was built for a version of CUDA; what is unknown here is not in the way."""
    oldest = OLDEST_DRIVERS.get(int(cuda.split(".")[0]))
    return oldest is None or [int(part) for part in driver.split(".")] >= [int(part) for part in oldest.split(".")]


def _problems(facts: dict[str, Any], version: str, code: str) -> Iterator[str]:
    if facts.get("version") != version:
        yield f"it holds lastrun {facts.get('version')}, this is {version}: {BUILD}"
    elif facts.get("code") != code:
        yield f"it was built from other code than this: {BUILD}"
    if not facts.get("torch"):
        yield f"torch does not work in it: {facts.get('problem')}"
    driver, cuda = facts.get("driver"), facts.get("cuda")
    if driver and cuda and not driver_fits(driver, cuda):
        oldest = OLDEST_DRIVERS[int(cuda.split(".")[0])]
        yield f"its torch is built for CUDA {cuda}, which needs driver {oldest} or newer; this host has {driver}"
    if driver and facts.get("torch") and not cuda:
        yield "its torch is a build without CUDA, but this host has an NVIDIA driver"
    for gpu in facts.get("gpus") or []:
        if gpu["problem"]:
            yield gpu["problem"]


def _look_into(client: DockerClient, image: str, name: str) -> dict[str, Any]:
    with explained():
        info = client.info()
    gpu = gpus.has_gpus(info) or (is_local(client) and machine.driver_version() is not None)

    def look(way: str) -> Trial:
        asked, variables = gpus.request(way, "all") if gpu else ({}, {})
        host = client.api.create_host_config(
            network_mode="none",
            cap_drop=["ALL"],
            security_opt=["no-new-privileges:true"],
            shm_size="1g",  # an engine's own default may be less than is needed
            log_config=logs(),
            **asked,
        )
        words = ["probe", "--torch"]
        with explained(image):
            return trial(client, image, words, host_config=host, environment=variables, use_config_proxy=False)

    done, _ = gpus.first_that_works(gpus.ways(gpus.AUTO, info) if gpu else [""], look)
    return understood(done, name)


def understood(done: Trial, image: str) -> dict[str, Any]:
    """What ``lastrun probe`` says in a container.

    Raises:
        EngineError: it says something else; what that is.
    """
    with suppress(ValueError):
        found = json.loads(done.out)
        if isinstance(found, dict) and {"version", "code"} <= found.keys():
            return found
    words = plain(done.errors.decode(errors="replace")).strip().splitlines()
    last = words[-1] if words else ""
    if last.startswith("error: "):
        raise EngineError(last.removeprefix("error: "))
    if "exec format error" in last.lower():
        raise EngineError(
            f"image {image} is for another kind of processor than the engine's machine has: {BUILD} makes one for it"
        )
    if "No module named runner" in last:
        raise EngineError(f"image {image} holds no lastrun ({last}): {BUILD} makes one that does")
    if "exec python" in last:
        raise EngineError(
            f"image {image} has no Python that can be started ({last}), so no lastrun: {BUILD} makes one that does"
        )
    number = done.code - 128
    if number in signal.Signals._value2member_map_:
        raise EngineError(f"in image {image} Python does not work: {why_torch_fails(-number, last)}")
    said = f"it says: {last[:200]}" if last else "it says nothing"
    raise EngineError(
        f"image {image} does not answer as lastrun's does (code {done.code}; {said}): {BUILD} makes one that does"
    )
