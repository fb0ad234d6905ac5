"""The Docker engine: how to reach it, and its failures as one line with the remedy."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from last_e.text import one_line
from runner.errors import EngineError

if TYPE_CHECKING:
    from docker import DockerClient

_RENEW = "lastrun image build makes one"
_REMEDIES = (
    (
        r"could not select device driver|unknown or invalid runtime name",
        "the engine has no NVIDIA runtime: install nvidia-container-toolkit, then: sudo nvidia-ctk runtime configure "
        "--runtime=docker && sudo systemctl restart docker; or train on the CPU with --set run.gpus=0",
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
    (r"Range of CPUs is from [^,\n]*", "run.cpus: {0}"),
    (r"Minimum memory limit allowed is (\w+)", "run.memory: at least {0} is needed"),
    (
        r"executable file not found|no such file or directory: unknown|unable to find user",
        "the image holds no lastrun: " + _RENEW,
    ),
    (r"no space left on device", "the engine's disk is full: docker system prune frees some"),
    (r"bind source path does not exist: (\S+)", "the engine's machine has no {0}"),
)


def connect() -> DockerClient:
    """The engine that ``DOCKER_HOST`` or docker's current context names, else this machine's.

    Raises:
        EngineError: the SDK is not installed, or no engine answers (which is asked once).
    """
    found = _connected()
    if isinstance(found, EngineError):
        raise found
    return found


@lru_cache(maxsize=1)
def _connected() -> DockerClient | EngineError:
    try:
        return _connect()
    except EngineError as error:
        return error


def _connect() -> DockerClient:
    try:
        from docker import from_env
        from docker.context import ContextAPI
    except ImportError:
        raise EngineError("the docker launcher needs Docker's SDK: pip install 'lastrun[docker]'") from None
    context = os.environ.get("DOCKER_CONTEXT")
    if context and not os.environ.get("DOCKER_HOST") and ContextAPI.get_context(context) is None:
        raise EngineError(f"no docker context {context} (DOCKER_CONTEXT): docker context ls lists them")
    with explained():
        client: DockerClient = from_env(use_ssh_client=True)
        client.ping()
        return client


def is_local(client: DockerClient) -> bool:
    """Whether the engine is on this machine, so that paths mean the same to it."""
    return str(client.api.base_url) == "http+docker://localhost"


@contextmanager
def explained(image: str = "") -> Iterator[None]:
    """Turns the SDK's errors into an :class:`EngineError` of one line."""
    from docker.errors import DockerException
    from requests import RequestException

    try:
        yield
    except (DockerException, RequestException) as error:
        raise EngineError(explain(error, image)) from None


def explain(error: BaseException, image: str = "") -> str:
    """What went wrong and what to do."""
    from docker.errors import APIError, ImageNotFound

    if isinstance(error, ImageNotFound) or (isinstance(error, APIError) and "No such image" in str(error.explanation)):
        return f"no image {image}: lastrun image build makes it, docker pull fetches one from a registry; run.image names it"
    if isinstance(error, APIError):
        text = str(error.explanation or error)
        for pattern, remedy in _REMEDIES:
            if found := re.search(pattern, text):
                return remedy.format(*(found.groups() or [found[0]]))
        return f"the engine refuses: {text.strip().splitlines()[0]}"
    number = _errno(error)
    where = _where()
    if number in (errno.EACCES, errno.EPERM):
        return (
            f"this user may not use the engine at {where}: sudo usermod -aG docker $USER and log in again, or set up rootless "
            "Docker"
        )
    why = f" ({errno.errorcode.get(number, number)})" if number is not None else f" ({one_line(error)[:200]})"
    return f"no Docker engine answers at {where}{why}: start it (sudo systemctl start docker), or name another with DOCKER_HOST"


def _where() -> str:
    from docker.constants import DEFAULT_UNIX_SOCKET
    from docker.context import ContextAPI

    context: Any = ContextAPI.get_context(os.environ.get("DOCKER_CONTEXT"))
    return os.environ.get("DOCKER_HOST") or (context and context.Host) or DEFAULT_UNIX_SOCKET.replace("http+", "")


def _errno(error: object) -> int | None:
    """The number of the system's error at the bottom of a chain of wrapped ones."""
    seen: set[int] = set()
    waiting = [error]
    while waiting:
        one = waiting.pop()
        if not isinstance(one, BaseException) or id(one) in seen:
            continue
        seen.add(id(one))
        if isinstance(one, OSError) and isinstance(one.errno, int):
            return one.errno
        waiting += [*one.args, one.__cause__, one.__context__]
    return None
