"""The Docker engine: how to reach it."""

from __future__ import annotations

import os
import re
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from last_e.text import plain
from runner.errors import EngineError
from runner.launch.docker.explain import NO_ENGINE, as_engine_error
from runner.launch.docker.tunnel import open_tunnel
from runner.launch.docker.where import where
from runner.waits import WAITS

if TYPE_CHECKING:
    from docker import DockerClient

SHORT_SECONDS, CALL_SECONDS = WAITS.engine, 60.0
"""How long an engine may take to answer: to whether it is there, and to anything else."""
_ANY_VERSION, _OLDEST = "1.41", "1.40"
"""The version of the interface in which an engine is not yet asked for its own (that question has none), and the first that
hands in GPUs."""
_SETTINGS = "DOCKER_CONFIG"


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
        from docker import DockerClient
        from docker.tls import TLSConfig
    except ImportError:
        raise EngineError("the docker launcher needs Docker's SDK; from a clone of lastrun: pip install '.[docker]'") from None
    meant = where()
    address = open_tunnel(meant.host) if meant.host.startswith("ssh://") else meant.host
    ours = meant.certificates
    tls = False if ours is None else TLSConfig(client_cert=ours.own, ca_cert=ours.ca, verify=True)

    def client(version: str) -> DockerClient:
        with _no_settings():
            made = DockerClient(address, version, tls=tls)
        # Else REQUESTS_CA_BUNDLE, which is about other servers, would stand in for the engine's own certificates.
        made.api.trust_env = False
        made.api.timeout = SHORT_SECONDS
        return made

    with explained():
        first = client(_ANY_VERSION)
        try:
            found = first.version(api_version=False)
        finally:
            first.close()
        chosen = client(spoken(found, meant.host))
    chosen.api.timeout = CALL_SECONDS
    return chosen


def spoken(answer: Any, host: str) -> str:
    """The version of the interface that an engine speaks, by what it says of itself.

    Raises:
        EngineError: it is no engine, or one that is too old.
    """
    version = answer.get("ApiVersion") if isinstance(answer, dict) else None
    if not isinstance(version, str) or not re.fullmatch(r"\d{1,4}\.\d{1,4}", version):
        raise EngineError(NO_ENGINE.format(host))
    if [int(part) for part in version.split(".")] < [int(part) for part in _OLDEST.split(".")]:
        name = plain(str(answer.get("Version"))[:40])
        needed = f"{_OLDEST} is needed, of Docker 19.03 or newer"
        raise EngineError(f"the engine at {host} is too old ({name}, interface {version}): {needed}")
    return version


@contextmanager
def _no_settings() -> Iterator[None]:
    """While a client is made: it would read all of docker's settings, credentials of every registry among them, and stumble
    over what others left there. What is needed of them is read by ``where`` and ``registry``."""
    before = os.environ.get(_SETTINGS)
    with tempfile.TemporaryDirectory(prefix="lastrun-") as folder:
        (Path(folder) / "config.json").write_text("{}")
        os.environ[_SETTINGS] = folder
        try:
            yield
        finally:
            if before is None:
                del os.environ[_SETTINGS]
            else:
                os.environ[_SETTINGS] = before


def is_local(client: DockerClient) -> bool:
    """Whether the engine is on this machine, so that paths mean the same to it."""
    return str(client.api.base_url) == "http+docker://localhost" and not where().host.startswith("ssh://")


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
        raise as_engine_error(error, image) from None
