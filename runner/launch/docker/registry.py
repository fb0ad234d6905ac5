"""What docker's settings hold for the registry of one image: asked only where one has to be fetched, and no more of them."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
from typing import Any

from last_e.text import one_line, plain
from runner.errors import EngineError
from runner.launch.docker.where import settings, settings_file

HELPER_SECONDS = 30.0
"""What a helper may take; one that asks for a password on a terminal never ends."""
_HUB = "https://index.docker.io/v1/"
_NOTHING_KEPT = "credentials not found"
_TOKEN = "<token>"  # noqa: S105 -- what a helper names as the user of one


class NoCredentials(Exception):
    """There are some, by docker's settings, but they cannot be had; with whom to ask."""


def credentials(image: str) -> tuple[str, dict[str, str]] | None:
    """The registry of an image as docker's files name it, and what it wants to know of us; None where nothing is kept for it.

    Raises:
        NoCredentials: something is kept, but cannot be read.
    """
    registry = registry_of(image)
    try:
        found = settings()
    except EngineError as error:
        raise NoCredentials(str(error)) from None
    helpers, kept = found.get("credHelpers"), found.get("auths")
    named = helpers.get(registry) if isinstance(helpers, dict) else None
    helper = named or found.get("credsStore")
    if isinstance(helper, str) and helper:
        given = _ask(helper, registry, "credHelpers" if named else "credsStore")
        return None if given is None else (registry, given)
    entry = kept.get(registry) or kept.get(f"https://{registry}") if isinstance(kept, dict) else None
    if not entry:
        return None
    try:
        return registry, _entry(entry)
    except (AttributeError, KeyError, TypeError, ValueError):
        what = f"{settings_file()}: auths of {registry}: not what docker writes there"
        raise NoCredentials(f"{what}: docker login {_words(registry)}".rstrip()) from None


def registry_of(image: str) -> str:
    """As docker's files name it: the first part of the name, where that is a host's."""
    host, slash, _ = image.partition("/")
    if not slash or not ("." in host or ":" in host or host == "localhost") or host in ("docker.io", "index.docker.io"):
        return _HUB
    return host


def _entry(entry: dict[str, Any]) -> dict[str, str]:
    if entry.get("identitytoken"):
        return {"IdentityToken": str(entry["identitytoken"])}
    user, colon, password = base64.b64decode(entry["auth"]).decode().partition(":")
    if not colon:
        raise ValueError("no password")
    return {"Username": user, "Password": password.rstrip("\0")}


def _ask(helper: str, registry: str, key: str) -> dict[str, str] | None:
    """What a helper of docker's (``docker-credential-NAME get``) says; None where it keeps nothing for the registry."""
    program = f"docker-credential-{helper}"
    why = f"{settings_file()} has {program} keep the credentials of {registry} ({key}), but it "
    login = f"docker login {_words(registry)}".rstrip()
    remedy = f": {login}, or take {key} out of that file"
    found = shutil.which(program)
    if found is None:
        raise NoCredentials(f"{why}is not installed{remedy}")
    try:
        done = subprocess.run([found, "get"], input=registry.encode(), capture_output=True, timeout=HELPER_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        raise NoCredentials(f"{why}does not answer{remedy}") from None
    except OSError as error:
        raise NoCredentials(f"{why}cannot be started ({one_line(error)}){remedy}") from None
    said = plain((done.stdout + b"\n" + done.stderr).decode(errors="replace")).strip() if done.returncode else ""
    if done.returncode and _NOTHING_KEPT in said:
        return None
    try:
        answer = json.loads(b"" if done.returncode else done.stdout)
        user, secret = str(answer["Username"]), str(answer["Secret"])
    except (KeyError, TypeError, ValueError):
        words = said.splitlines()[0][:200] if said else "it says nothing that can be read"
        raise NoCredentials(f"{why}fails ({words}){remedy}") from None
    if not user and not secret:
        return None
    return {"IdentityToken": secret} if user == _TOKEN else {"Username": user, "Password": secret}


def _words(registry: str) -> str:
    """The registry as ``docker login`` takes it; Docker's own has no name there."""
    return "" if registry == _HUB else registry
