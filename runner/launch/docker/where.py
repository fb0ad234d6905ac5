"""Which engine is meant, and with what certificates it is spoken to: ``DOCKER_HOST``, docker's context, or this machine's own.

docker's files are read here, and no more of them than is needed: the SDK looks for contexts beside a ``config.json`` that need
not be there, speaks to an engine without seeing whose it is, and stumbles over credentials that nobody wants from it.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from last_e.text import expand, one_line
from runner.errors import EngineError

SOCKET = "unix:///var/run/docker.sock"
_ALLOWED = "allowed: unix:///PATH/OF/docker.sock, ssh://[USER@]HOST[:PORT] or tcp://HOST:PORT"
_FILES = ("ca.pem", "cert.pem", "key.pem")
_MOST_BYTES = 1 << 22


@dataclass(frozen=True)
class Certificates:
    """To speak TLS with an engine, which is always verified."""

    ca: str | None
    """Whom to believe about the engine; None: the authorities that everybody believes."""
    own: tuple[str, str] | None
    """Certificate and key that the engine may ask for."""


@dataclass(frozen=True)
class Where:
    """An engine's address, and what names it."""

    host: str
    named: str
    certificates: Certificates | None = None


def where() -> Where:
    """The engine that is meant.

    Raises:
        EngineError: what names it cannot be followed.
    """
    if host := os.environ.get("DOCKER_HOST", "").strip():
        return _address(host, "DOCKER_HOST", _certificates_of_the_environment(host))
    name, named = os.environ.get("DOCKER_CONTEXT", ""), "DOCKER_CONTEXT"
    if not name:
        file = settings_file()
        found = settings().get("currentContext") or "default"
        if not isinstance(found, str):
            raise EngineError(f"{file}: currentContext: not what docker writes there")
        name, named = found, f"currentContext in {file}"
    if name == "default":
        return Where(SOCKET, "this machine's")
    return _context(name, f"docker context {name} ({named})")


def settings_file() -> Path:
    """Where docker keeps its settings; it need not be there."""
    return expand(os.environ.get("DOCKER_CONFIG") or "~/.docker") / "config.json"


def settings() -> dict[str, Any]:
    """docker's settings; none where there are none.

    Raises:
        EngineError: they cannot be read.
    """
    file = settings_file()
    found = _read(file, f"{file}: docker's settings cannot be read")
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise EngineError(f"{file}: docker's settings are a JSON object, this is another: put it right or move it away")
    return found


def _context(name: str, named: str) -> Where:
    digest = sha256(name.encode()).hexdigest()
    folder = settings_file().parent / "contexts"
    found = _read(folder / "meta" / digest / "meta.json", f"{named} cannot be read")
    if found is None:
        raise EngineError(f"no {named}: docker context ls lists them")
    try:
        endpoint = found["Endpoints"]["docker"]
        host, unverified = str(endpoint["Host"]).strip(), bool(endpoint.get("SkipTLSVerify"))
    except (AttributeError, KeyError, TypeError) as error:
        raise EngineError(f"{named} cannot be read: not what docker writes there ({one_line(error)})") from None
    if not host.startswith("tcp://"):
        return _address(host or SOCKET, named, None)
    if unverified:
        raise EngineError(
            f"{named} takes whoever answers for its engine (SkipTLSVerify), and that one would be given your keys: docker "
            f"context update {name} --docker host={host},ca=ca.pem,cert=cert.pem,key=key.pem"
        )
    ca, cert, key = (folder / "tls" / digest / "docker" / file for file in _FILES)
    if not any(file.is_file() for file in (ca, cert, key)):
        return _address(host, named, None)
    if cert.is_file() != key.is_file():
        raise EngineError(f"{named}: {'key.pem' if cert.is_file() else 'cert.pem'} is missing in {ca.parent}")
    own = (str(cert), str(key)) if cert.is_file() else None
    return _address(host, named, Certificates(str(ca) if ca.is_file() else None, own))


def _certificates_of_the_environment(host: str) -> Certificates | None:
    if not host.startswith("tcp://"):
        return None
    folder = os.environ.get("DOCKER_CERT_PATH")
    if not os.environ.get("DOCKER_TLS_VERIFY"):
        if folder:
            raise EngineError(
                f"DOCKER_CERT_PATH names certificates for {host}, but without DOCKER_TLS_VERIFY=1 whoever answers there would "
                "be taken for the engine, and given your keys: set it"
            )
        return None
    place = expand(folder) if folder else settings_file().parent
    missing = [name for name in _FILES if not (place / name).is_file()]
    if missing:
        lacks = f"no {', '.join(missing)} in {place}"
        raise EngineError(f"DOCKER_TLS_VERIFY: {lacks}: DOCKER_CERT_PATH names a folder with {', '.join(_FILES)}")
    ca, cert, key = (str(place / name) for name in _FILES)
    return Certificates(ca, (cert, key))


def _address(host: str, named: str, certificates: Certificates | None) -> Where:
    """With docker's own ports, where a TCP address has none."""
    kind, separator, rest = host.partition("://")
    if kind in ("unix", "ssh") and separator:  # the tunnel looks at its own addresses
        return Where(host, named, certificates)
    if kind != "tcp" or not separator:
        hint = f"; did you mean unix://{host}?" if host.startswith("/") else ""
        raise EngineError(f"{named}: {host}; {_ALLOWED}{hint}")
    try:
        parts = urlsplit(host)
        port = parts.port
    except ValueError as error:  # a port out of range, brackets that do not close
        raise EngineError(f"{named}: {host}: {one_line(error)}; {_ALLOWED}") from None
    if not parts.hostname or parts.path.strip("/") or parts.query or parts.fragment or port == 0:
        raise EngineError(f"{named}: {host}; {_ALLOWED}")
    if port is None:
        host = f"tcp://{rest.rstrip('/').rstrip(':')}:{2375 if certificates is None else 2376}"
    return Where(host, named, certificates)


def _read(file: Path, what: str) -> Any:
    """A JSON file; None where there is none."""
    try:
        with file.open("rb") as opened:
            return json.loads(opened.read(_MOST_BYTES))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise EngineError(f"{what} ({one_line(error)})") from None
