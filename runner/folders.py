"""Where this user's own files are kept: settings, jobs, copies of data."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

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
