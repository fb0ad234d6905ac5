"""Where this user's own files are kept: settings, jobs, copies of data."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from runner.errors import UsageError


def settings_folder() -> Path | None:
    """None: this user has no home, and so no settings."""
    from platformdirs import user_config_path

    try:
        return user_config_path("lastrun")
    except RuntimeError:
        return None


def data_folder(instead: str = "") -> Path:
    """For what is to stay.

    Raises:
        UsageError: this user has no home; what to set, or to do ``instead``.
    """
    from platformdirs import user_data_path

    return _of_home(user_data_path, "XDG_DATA_HOME", instead)


def cache_folder() -> Path:
    """For what can be made again.

    Raises:
        UsageError: as above.
    """
    from platformdirs import user_cache_path

    return _of_home(user_cache_path, "XDG_CACHE_HOME", "")


def _of_home(find: Callable[[str], Path], variable: str, instead: str) -> Path:
    try:
        return find("lastrun")
    except RuntimeError:
        raise UsageError(f"this user has no home folder: set HOME or {variable} to a folder{instead}") from None


def keep(path: Path, values: Mapping[str, Any]) -> None:
    """Write a file of the cache, whole, for this user alone to read; where that cannot be done, it is made again some time."""
    import json
    import secrets

    part = path.with_name(f".part-{secrets.token_hex(4)}")
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        opened = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(opened, "w") as file:
            json.dump(values, file)
        os.replace(part, path)
    part.unlink(missing_ok=True)
