"""What a user sets once for all jobs: ``~/.config/lastrun/config.toml`` (on Linux)."""

from __future__ import annotations

import sys
from dataclasses import dataclass, fields
from pathlib import Path

from last_e.problems import nearest
from last_e.redact import secret_in
from last_e.text import UnsetVariable, with_variables
from runner.errors import UsageError
from runner.folders import settings_folder

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


@dataclass(frozen=True)
class Settings:
    """The file's keys, all of them text."""

    store: str | None = None
    """Where jobs live, unless ``--store``, a job file or ``LASTRUN_STORE`` says otherwise."""


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
    except FileNotFoundError:
        return Settings()
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:  # TOMLDecodeError and UnicodeDecodeError are the former
        raise UsageError(f"{path}: not TOML: {error}") from None
    known = [field.name for field in fields(Settings)]
    wrong = [f"{key} is unknown; {nearest(key, known)}" for key in values if key not in known]
    for key in known:
        if secret_in(key, values.get(key)):
            wrong.append(f"{key} holds credentials; boto3 finds them by itself, from its own files or the environment")
        elif not isinstance(values.get(key, ""), str):
            wrong.append(f"{key} has to be text in quotes")
        elif "$" in values.get(key, ""):
            try:
                values[key] = with_variables(values[key])
            except UnsetVariable as error:
                wrong.append(f"{key} is {values[key]!r}: {error}")
        elif "://" not in values.get(key, "://") and not Path(values[key]).expanduser().is_absolute():
            wrong.append(f"{key} is {values[key]!r}: a folder has to be absolute, or it would be another one everywhere")
    if wrong:
        raise UsageError(f"{path}: {'; '.join(wrong)}")
    return Settings(**values)
