"""The image that the docker launcher runs: building it from a clone, and looking into one."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any
from urllib.parse import urlsplit

from last_e.process import run_module
from last_e.text import plain
from runner import machine
from runner.errors import EngineError, UsageError
from runner.launch.docker.containers import trial
from runner.launch.docker.engine import connect, explained, is_local
from runner.launch.docker.given import LOOK_VARIABLE, look_around
from runner.launch.docker.registry import NoCredentials, credentials
from runner.version import lastrun_version

if TYPE_CHECKING:
    from docker import DockerClient

BUILD = "lastrun image build"
PACKAGES = ("last_e", "runner")
SHM_BYTES = 64 << 20
"""The least shared memory: what Docker itself gives a container that asks for none."""
OLDEST_DRIVERS = {11: "450.80.02", 12: "525.60.13", 13: "580.65.06"}
"""For each major version of CUDA the oldest driver that runs all of its minor versions (NVIDIA's compatibility tables)."""
_ROOT = Path(__file__).resolve().parents[3]
_CONTEXT = ("LICENSE", "README.md", "constraints.txt", "pyproject.toml", "docker/Dockerfile", "docker/extra", *PACKAGES)
_PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy")
_INDEXES = ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL")
_CERTIFICATES = ("PIP_CERT", "REQUESTS_CA_BUNDLE", "SSL_CERT_FILE")


def default_image() -> str:
    """The image of this version."""
    return f"lastrun:{lastrun_version()}"


def code_digest(root: Path = _ROOT) -> str:
    """What the code of both packages comes to: the same in a clone, in an installation and in an image of it."""
    digest = hashlib.sha256()
    for name, path in _files(root, PACKAGES):
        digest.update(f"{name}\0{hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return digest.hexdigest()


def build(
    say: Callable[[str], None],
    *,
    tag: str | None = None,
    base: str | None = None,
    torch: str | None = None,
    wheels: Path | None = None,
    ca_bundle: Path | None = None,
    network: str | None = None,
) -> dict[str, Any]:
    """Build the image of the clone that lastrun runs from, or that is the current folder.

    Args:
        say: told what the builder says.
        tag: its name; default: that of this version.
        base: the image to build on.
        torch: the build of torch, as pip takes it.
        wheels: a folder to take packages from, and from nowhere else.
        ca_bundle: certificates that pip shall trust; default: what pip is told by its own variables here.
        network: the network of the build.

    Raises:
        EngineError, UsageError: it cannot be built.
    """
    tag = tag or default_image()
    clone = next((path for path in (_ROOT, Path.cwd()) if (path / "docker" / "Dockerfile").is_file()), None)
    if clone is None:
        raise UsageError("an image is built in a clone of lastrun, and here is none; run.image names one that is there already")
    if wheels is not None and not list(wheels.glob("*.whl")):
        raise UsageError(f"--wheels: no *.whl in {wheels}: pip download -d {wheels} -c constraints.txt '.[train]' hatchling")
    if ca_bundle is not None and not ca_bundle.is_file():
        raise UsageError(f"--ca-bundle: no file {ca_bundle}")
    for name in _INDEXES:  # the builder keeps what it is told of these, but for a proxy's
        if any(urlsplit(url).username is not None for url in os.environ.get(name, "").split()):
            raise UsageError(
                f"{name} holds a user's name, token or password, which the builder would keep: build without it, from a folder "
                "of packages (pip download -d DIR -c constraints.txt '.[train]' hatchling, then --wheels DIR)"
            )
    files = [Path(os.environ[name]) for name in _CERTIFICATES if os.environ.get(name)]
    certificates = ca_bundle or next((file for file in files if file.is_file()), None)  # some take a folder as well
    arguments = {"VERSION": lastrun_version(), "REVISION": _revision(clone)}
    arguments |= {name: os.environ[name] for name in _PROXIES if os.environ.get(name)}
    arguments |= {name: os.environ[name] for name in _INDEXES if os.environ.get(name, "").startswith("http")}
    for name, value in {"BASE_IMAGE": base, "TORCH": torch, "PIP_NO_INDEX": "1" if wheels else None}.items():
        if value is not None:
            arguments[name] = value
    client = connect()
    unknown = _sign_in(client, base or _default_base(clone))
    with tempfile.TemporaryFile() as context:
        _pack(context, clone, wheels, certificates)
        with explained(base or ""):
            lines = client.api.build(
                fileobj=context,
                custom_context=True,
                dockerfile="docker/Dockerfile",
                tag=tag,
                buildargs=arguments,
                network_mode=network,
                rm=True,
                forcerm=True,
                decode=True,
                timeout=3600,
            )
            last = ""
            for line in lines:
                if "error" in line:
                    raise EngineError(_build_error(str(line["error"]), last, arguments, unknown))
                for part in re.sub(r"\x1b\[[0-9;]*m", "", str(line.get("stream") or "")).splitlines():
                    last = part if part.strip() and not part.startswith(("Step ", " --->", "Removing ")) else last
                    if part.strip():
                        say(plain(part))
    with explained(tag):
        found = client.images.get(tag)
    return {"image": tag, "id": found.id, "size": found.attrs["Size"], "revision": arguments["REVISION"]}


def check(name: str | None) -> dict[str, Any]:
    """What is in an image, and what of it does not fit the code and the host; each misfit is a line in ``problems``.

    Raises:
        EngineError: it cannot be looked into.
    """
    name = name or default_image()
    client = connect()
    with explained(name):
        image = client.images.get(name)
        found = _look_into(client, image.id)
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
    """What an image says of itself, from inside; with ``torch`` also of that and of the GPUs.

    Raises:
        EngineError: this container has too little shared memory.
    """
    with suppress(OSError):
        shm = os.statvfs("/dev/shm")  # noqa: S108
        if shm.f_bavail * shm.f_frsize < SHM_BYTES:
            raise EngineError(
                f"not enough shared memory in the container ({shm.f_bavail * shm.f_frsize >> 10} KiB): at least "
                f"{SHM_BYTES >> 20}m is needed; set run.shm_size"
            )
    # The kernel's /proc tells of the driver in every container, whether it was given a GPU or not.
    found: dict[str, Any] = {"version": lastrun_version(), "code": code_digest(), "driver": machine.driver_version()}
    if text := os.environ.get(LOOK_VARIABLE):
        found["seen"] = look_around(text)
    if torch:
        done = subprocess.run(run_module("last_e.gpu"), capture_output=True, text=True, check=False)
        lines = done.stdout.splitlines()
        found |= json.loads(lines[-1]) if lines else {"torch": None, "problem": done.stderr.strip().rpartition("\n")[2]}
    return found


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


def _look_into(client: DockerClient, image: str) -> dict[str, Any]:
    from docker.types import DeviceRequest

    gpu = "nvidia" in client.info().get("Runtimes", {}) or (is_local(client) and machine.driver_version() is not None)
    host = client.api.create_host_config(
        network_mode="none",
        cap_drop=["ALL"],
        security_opt=["no-new-privileges:true"],
        device_requests=[DeviceRequest(count=-1, capabilities=[["gpu"]])] if gpu else None,
    )
    done = trial(client, image, ["probe", "--torch"], host_config=host, use_config_proxy=False)
    try:
        return dict(json.loads(done.out))
    except ValueError:
        words = plain(done.errors.decode(errors="replace")).strip().splitlines() or ["it says nothing"]
        raise EngineError(f"the image holds no lastrun ({words[-1]}): {BUILD} makes one that does") from None


def _pack(context: IO[bytes], clone: Path, wheels: Path | None, certificates: Path | None) -> None:
    """The build's context. Owners, times and modes are left out, so that the builder's cache knows unchanged files again."""

    def neutral(entry: tarfile.TarInfo) -> tarfile.TarInfo:
        entry.uid = entry.gid = entry.mtime = 0
        entry.uname = entry.gname = ""
        entry.mode = 0o644
        return entry

    with tarfile.open(fileobj=context, mode="w") as tar:
        for name, path in _files(clone, _CONTEXT):
            tar.add(path, name, recursive=False, filter=neutral)
        for path in sorted(wheels.glob("*.whl")) if wheels else ():
            tar.add(path.resolve(), f"docker/extra/{path.name}", recursive=False, filter=neutral)
        if certificates is not None:
            tar.add(certificates.resolve(), "docker/extra/ca-bundle.crt", recursive=False, filter=neutral)
    context.seek(0)


def _files(root: Path, names: tuple[str, ...]) -> Iterator[tuple[str, Path]]:
    """Files below ``root``, with their names relative to it, in order; compiled ones are left out."""
    for name in names:
        top = root / name
        for path in [top] if top.is_file() else sorted(top.rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts:
                yield path.relative_to(root).as_posix(), path


def _revision(clone: Path) -> str:
    """The clone's commit, marked where files differ from it."""
    try:
        command = ["git", "-C", str(clone), "describe", "--always", "--dirty", "--abbrev=40", "--match="]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _default_base(clone: Path) -> str:
    found = re.search(r"^ARG BASE_IMAGE=(\S+)", (clone / "docker" / "Dockerfile").read_text(), re.MULTILINE)
    return found[1] if found else ""


def _sign_in(client: DockerClient, base: str) -> str:
    """Hand the builder what is kept for the registry of an image that is not here yet, not all that docker's settings hold;
    returns why it cannot be had, if so: most registries give without."""
    from docker.auth import AuthConfig
    from docker.errors import ImageNotFound

    found, unknown = None, ""
    with explained(base):
        try:
            client.images.get(base)
        except ImageNotFound:
            try:
                found = credentials(base)
            except NoCredentials as error:
                unknown = str(error)
    registry, given = found or ("none", {})  # of an empty list the SDK would make one of everything
    client.api._auth_configs = AuthConfig({"auths": {registry: {**given, "ServerAddress": registry}}})
    return unknown


def _build_error(error: str, last: str, arguments: dict[str, str], unknown: str) -> str:
    """One line of what the builder says, with the word of the failing command."""
    if re.search("pull access denied|manifest|dial tcp|lookup |unauthorized|no basic auth", error):
        base = arguments.get("BASE_IMAGE", "the default base")
        why = unknown or error.strip()[:120]
        return f"{base} is neither here nor can it be fetched: name another base with --base ({why})"
    if "CERTIFICATE_VERIFY_FAILED" in last or "certificate" in last.lower():
        return f"pip does not trust its index: name your CA bundle with --ca-bundle ({last.strip()[:160]})"
    return f"the build failed: {plain((last or error).strip())[:300]}"
