"""The image that the docker launcher runs, built from a clone."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import tarfile
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any
from urllib.parse import urlsplit

from last_e.text import plain
from runner.errors import EngineError, UsageError
from runner.launch.docker.engine import connect, explained
from runner.launch.docker.registry import NoCredentials, credentials
from runner.version import lastrun_version

if TYPE_CHECKING:
    from docker import DockerClient

BUILD = "lastrun image build"
PACKAGES = ("last_e", "runner")
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
    return digest_of((name, path.read_bytes()) for name, path in _files(root, PACKAGES))


def digest_of(files: Iterable[tuple[str, bytes]]) -> str:
    """The same of files that have been read, with their names below that root, in order."""
    digest = hashlib.sha256()
    for name, data in files:
        digest.update(f"{name}\0{hashlib.sha256(data).hexdigest()}\n".encode())
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
