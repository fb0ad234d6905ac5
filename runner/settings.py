"""What a user sets once for all jobs: ``~/.config/lastrun/config.toml`` (on Linux)."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from last_e.problems import nearest
from last_e.redact import secret_in
from last_e.text import UnsetVariable, with_variables
from runner.errors import UsageError
from runner.folders import settings_folder
from runner.launchers import HOST, HOST_MEANING

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


@dataclass(frozen=True)
class HostSettings:
    """A machine that ``--on NAME`` means."""

    ssh: str
    """As ssh knows it."""
    env: str | None = None
    """Profile that fits it, for jobs that are sent there without ``--env``."""


@dataclass(frozen=True)
class Settings:
    """The file's keys."""

    store: str | None = None
    """Where jobs live, unless ``--store``, a job file or ``LASTRUN_STORE`` says otherwise."""
    trusted: tuple[str, ...] = ()
    """Stores to which nobody else writes, or whose jobs may decide what they like here all the same."""
    submitter: str | None = None
    """What jobs say of who submitted them, instead of ``USER@HOST``; empty: nothing."""
    hosts: Mapping[str, HostSettings] = field(default_factory=dict)
    """Machines by a name of one's own."""

    def host(self, name: str) -> HostSettings:
        """What a name stands for: itself, as ssh knows it, where the file does not say more."""
        return self.hosts.get(name, HostSettings(name))


def settings_path() -> Path | None:
    """Where the file would be, if this user has a home."""
    folder = settings_folder()
    return None if folder is None else folder / "config.toml"


def read_settings() -> Settings:
    """What the file says; nothing where there is none.

    Raises:
        UsageError: it is not TOML, or has unknown keys or values.
    """
    path = settings_path()
    if path is None:
        return Settings()
    try:
        values = tomllib.loads(path.read_text("utf-8"))
    except (FileNotFoundError, NotADirectoryError):  # a home that is /dev/null, as those of a system's own users
        return Settings()
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UsageError(f"{path}: bytes that are not UTF-8; allowed: TOML text in UTF-8") from None
    except (ValueError, RecursionError) as error:  # TOMLDecodeError is the former
        raise UsageError(f"{path}: not TOML: {error}") from None
    known = [one.name for one in fields(Settings)]
    wrong = [f"{key} is unknown; {nearest(key, known)}" for key in values if key not in known]
    if not isinstance(values.get("store", ""), str):
        wrong.append("store has to be text in quotes")
    elif "store" in values:
        values["store"], problem = _place("store", values["store"])
        wrong += problem
    if not isinstance(values.get("submitter", ""), str):
        wrong.append("submitter has to be text in quotes")
    trusted = values.get("trusted", [])
    if not isinstance(trusted, list) or not all(isinstance(uri, str) for uri in trusted):
        wrong.append('trusted has to be a list of stores in quotes, such as ["s3://my-bucket/lastrun"]')
    else:
        places = [_place("trusted", uri) for uri in trusted]
        values["trusted"] = tuple(place for place, _ in places)
        wrong += [problem for _, problems in places for problem in problems]
    values["hosts"], problems = _hosts(values.get("hosts", {}))
    wrong += problems
    if wrong:
        raise UsageError(f"{path}: {'; '.join(wrong)}".replace("?; ", "? "))
    return Settings(**values)


def _hosts(values: Any) -> tuple[dict[str, HostSettings], list[str]]:
    """The machines of the file, and what is wrong with them."""
    found: dict[str, HostSettings] = {}
    wrong: list[str] = []
    known = [one.name for one in fields(HostSettings)]
    for name, about in values.items() if isinstance(values, dict) else [("", None)]:
        if not isinstance(about, dict) or not all(isinstance(value, str) for value in about.values()):
            wrong.append('hosts has to be tables such as [hosts.gpubox] with ssh = "me@192.0.2.7" and env = "lambda"')
            continue
        wrong += [f"hosts.{name}.{key} is unknown; {nearest(key, known)}" for key in about if key not in known]
        ssh = str(about.get("ssh", name))
        wrong += [f"hosts.{name}: {text!r} is not {HOST_MEANING}" for text in {name, ssh} if not re.fullmatch(HOST, text)]
        found[name] = HostSettings(ssh, about.get("env"))
    return found, wrong


def _place(key: str, uri: str) -> tuple[str, list[str]]:
    """The name of a store with its variables replaced, and what is wrong with it."""
    if secret_in(key, uri):
        return uri, [f"{key} holds credentials; boto3 finds them by itself, from its own files or the environment"]
    try:
        uri = with_variables(uri)
    except UnsetVariable as error:
        return uri, [f"{key} is {uri!r}: {error}"]
    if "://" not in uri and not Path(uri).expanduser().is_absolute():
        return uri, [f"{key} is {uri!r}: a folder has to be absolute, or it would be another one everywhere"]
    return uri, []
