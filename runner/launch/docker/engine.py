"""The Docker engine: how to reach it, and its failures as one line with the remedy."""

from __future__ import annotations

import errno
import json
import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from last_e.text import one_line
from runner.errors import EngineError
from runner.launch.docker.tunnel import open_tunnel
from runner.waits import WAITS

if TYPE_CHECKING:
    from docker import DockerClient

SHORT_SECONDS, CALL_SECONDS = WAITS.engine, 60.0
"""How long an engine may take to answer: to whether it is there, and to anything else."""
_ANY_VERSION = "1.41"
"""The version of the interface in which an engine is not yet asked for its own: that question has none."""
_RENEW = "lastrun image build makes one"
NO_RUNTIME = (
    "install nvidia-container-toolkit, then: sudo nvidia-ctk runtime configure --runtime=docker && sudo systemctl restart "
    "docker; or train on the CPU with --set run.gpus=0"
)
_REMEDIES = (
    (
        r"(?i)could not select device driver|unknown or invalid runtime name|failed to discover GPU vendor|no known GPU vendor",
        f"the engine has no NVIDIA runtime: {NO_RUNTIME}",
    ),
    (
        r"unresolvable CDI devices? ([^\n]*)",
        "the engine's machine has no such GPU ({0}): nvidia-smi -L lists them; set run.gpus",
    ),
    (
        r"exec: \\?\"(docker-init|nvidia-container-runtime[a-z.-]*)",
        "the engine lacks its own {0}: install it (docker's package brings docker-init, nvidia-container-toolkit the others)",
    ),
    (
        r"unsatisfied condition: ((?:cuda|driver)[^,\n]*)",
        "the host's NVIDIA driver is too old for the image's CUDA ({0}): update it, or build an image for an older CUDA with "
        "lastrun image build --base BASE --torch TORCH",
    ),
    (
        r"nvidia-container-cli: ([^\n]*)",
        "NVIDIA's container runtime cannot hand in the GPU ({0}): see that nvidia-smi works on the host and that run.gpus "
        "names GPUs that it lists",
    ),
    (
        r'container name "/?(\S+)" is already in use',
        "a container {0} is there already: another attempt is being started; if it is not, docker rm {0}",
    ),
    (r"network (\S+) not found", "the engine knows no network {0}: docker network ls lists them; set run.network"),
    (r"(?i)Range of CPUs is from [^,\n]*", "run.cpus: {0}"),
    (r"Minimum memory limit allowed is (\w+)", "run.memory: at least {0} is needed"),
    (
        r"exec: \\?\"python|exec python failed|unable to find user|no users found",
        "the image holds no lastrun: " + _RENEW,
    ),
    (r"no space left on device", "the engine's disk is full: docker system prune frees some"),
    (
        r"HTTP request to an HTTPS server",
        "the engine wants TLS: set DOCKER_TLS_VERIFY=1 and DOCKER_CERT_PATH, a folder with ca.pem, cert.pem and key.pem",
    ),
    (r"No such container: (\S+)", "container {0} is gone: somebody has removed it"),
    (
        r"bind source path does not exist: ([^\n]*)|statfs (/[^\n:]*): no such file",
        "the engine's machine has no {0}: it is another one, or this command in a container itself. Give both the same folder "
        "under the same path (docker run -v FOLDER:FOLDER), or take a bucket",
    ),
)


def connect() -> DockerClient:
    """The engine that ``DOCKER_HOST`` or docker's current context names, else this machine's.

    Raises:
        EngineError: the SDK is not installed, or no engine answers (which is asked once).
    """
    with _one_at_a_time:  # each that asks at the same moment would open a tunnel of its own
        found = _connected()
    if isinstance(found, EngineError):
        raise found
    return found


_one_at_a_time = threading.Lock()


@lru_cache(maxsize=1)
def _connected() -> DockerClient | EngineError:
    try:
        return _connect()
    except EngineError as error:
        return error


def _connect() -> DockerClient:
    try:
        from docker import DockerClient, from_env
    except ImportError:
        raise EngineError("the docker launcher needs Docker's SDK; from a clone of lastrun: pip install '.[docker]'") from None
    _see_to_the_settings()
    where = _where()
    tunnel = open_tunnel(where) if where.startswith("ssh://") else None

    def client(version: str) -> DockerClient:
        made = DockerClient(tunnel, version) if tunnel is not None else from_env(version=version)
        # Else REQUESTS_CA_BUNDLE, which is about other servers, would stand in for the engine's own certificates.
        made.api.trust_env = False
        made.api.timeout = SHORT_SECONDS
        return made

    with explained():
        try:
            first = client(_ANY_VERSION)
        except (AttributeError, KeyError, TypeError, ValueError) as error:  # the SDK takes docker's files as they are
            from docker.utils.config import find_config_file

            raise EngineError(f"{find_config_file()}: not what docker writes there ({one_line(error)})") from None
        try:
            found = first.version(api_version=False)["ApiVersion"]
        finally:
            first.close()
        chosen = client(str(found))
    chosen.api.timeout = CALL_SECONDS
    return chosen


def _see_to_the_settings() -> None:
    """What the SDK passes over in silence, and then takes another engine.

    Raises:
        EngineError: docker's own settings cannot be read, or name a context that is not there.
    """
    from docker.context import ContextAPI
    from docker.context.config import get_current_context_name
    from docker.utils.config import DOCKER_CONFIG_FILENAME, find_config_file

    file = find_config_file()
    if file is not None and file.endswith(Path(DOCKER_CONFIG_FILENAME).name):
        try:
            found = json.loads(Path(file).read_text())
        except (OSError, ValueError) as error:
            raise EngineError(f"{file}: docker's settings cannot be read ({one_line(error)})") from None
        if not isinstance(found, dict):
            raise EngineError(f"{file}: docker's settings are a JSON object, this is another: put it right or move it away")
    if os.environ.get("DOCKER_HOST"):
        return
    given = os.environ.get("DOCKER_CONTEXT")
    name, why = given or get_current_context_name(), "DOCKER_CONTEXT" if given else f"currentContext in {file}"
    try:
        context = ContextAPI.get_context(name)
    except Exception as error:  # the SDK raises no kind of its own
        raise EngineError(f"docker context {name} ({why}) cannot be read: {one_line(error)}") from None
    if context is None:
        raise EngineError(f"no docker context {name} ({why}): docker context ls lists them")


def is_local(client: DockerClient) -> bool:
    """Whether the engine is on this machine, so that paths mean the same to it."""
    return str(client.api.base_url) == "http+docker://localhost" and not _where().startswith("ssh://")


@contextmanager
def patience(client: DockerClient, seconds: float) -> Iterator[None]:
    """For a while, an engine that does not answer is given up after so many seconds."""
    before, client.api.timeout = client.api.timeout, seconds
    try:
        yield
    finally:
        client.api.timeout = before


@contextmanager
def explained(image: str = "") -> Iterator[None]:
    """Turns the SDK's errors into an :class:`EngineError` of one line."""
    from docker.errors import DockerException
    from requests import RequestException
    from urllib3.exceptions import HTTPError

    try:
        yield
    except (DockerException, RequestException, HTTPError) as error:
        raise EngineError(explain(error, image)) from None


def explain(error: BaseException, image: str = "") -> str:
    """What went wrong and what to do."""
    from docker.errors import APIError, ImageNotFound
    from requests import Timeout

    if isinstance(error, ImageNotFound) or (isinstance(error, APIError) and "No such image" in str(error.explanation)):
        return f"no image {image}: lastrun image build makes it, docker pull fetches one from a registry; run.image names it"
    if isinstance(error, APIError):
        text = str(error.explanation or error)
        for pattern, remedy in _REMEDIES:
            if found := re.search(pattern, text):
                return remedy.format(*([group for group in found.groups() if group is not None] or [found[0]]))
        return f"the engine refuses: {text.strip().splitlines()[0]}"
    causes = list(_causes(error))
    number = next((one.errno for one in causes if isinstance(one, OSError) and isinstance(one.errno, int)), None)
    where = _where()
    if number in (errno.EACCES, errno.EPERM):
        return (
            f"this user may not use the engine at {where}: sudo usermod -aG docker $USER and log in again, or set up rootless "
            "Docker"
        )
    if number is None and any(isinstance(one, (Timeout, TimeoutError)) for one in causes):
        return f"the engine at {where} does not answer in time: does docker ps? Else sudo systemctl restart docker there"
    why = f" ({errno.errorcode.get(number, number)})" if number is not None else f" ({one_line(error)[:200]})"
    return f"no Docker engine answers at {where}{why}: start it (sudo systemctl start docker), or name another with DOCKER_HOST"


def _where() -> str:
    from docker.constants import DEFAULT_UNIX_SOCKET
    from docker.context import ContextAPI

    if host := os.environ.get("DOCKER_HOST"):
        return host
    context: Any = ContextAPI.get_context(os.environ.get("DOCKER_CONTEXT"))
    return str((context and context.Host) or DEFAULT_UNIX_SOCKET.replace("http+", ""))


def _causes(error: object) -> Iterator[BaseException]:
    """An error and all that are wrapped in it."""
    seen: set[int] = set()
    waiting = [error]
    while waiting:
        one = waiting.pop()
        if not isinstance(one, BaseException) or id(one) in seen:
            continue
        seen.add(id(one))
        yield one
        waiting += [*one.args, one.__cause__, one.__context__]
