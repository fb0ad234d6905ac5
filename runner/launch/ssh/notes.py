"""Which attempts this user has started from here on which host: that host is asked later, whatever a store says."""

from __future__ import annotations

import json
import re
import time
from contextlib import suppress
from pathlib import Path

from runner.errors import UsageError
from runner.folders import data_folder

_OLD_SECONDS = 30 * 86400.0


def write(token: str, host: str, folder: str) -> None:
    """Note it, with the folder of the version that it was started with; without a home folder its heartbeat has to do."""
    with suppress(UsageError, OSError):
        _note(token).parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        _note(token).write_text(json.dumps({"host": host, "folder": folder}))


def read(token: str) -> dict[str, str] | None:
    """``host`` and ``folder``; None: it was not started from here."""
    if not re.fullmatch("[0-9a-f]{8}", token):
        return None
    with suppress(UsageError, OSError, ValueError, KeyError, TypeError):
        found = json.loads(_note(token).read_text())
        return {name: str(found[name]) for name in ("host", "folder")}
    return None


def hosts() -> list[str]:
    """The host of each attempt that is noted."""
    with suppress(UsageError, OSError):
        found = [read(note.stem) for note in _note("x").parent.glob("*.json")]
        return [note["host"] for note in found if note is not None]
    return []


def forget(token: str) -> None:
    """Its end is known."""
    with suppress(UsageError, OSError):
        _note(token).unlink(missing_ok=True)


def sweep() -> None:
    """Those of long ago."""
    with suppress(UsageError, OSError):
        for note in _note("x").parent.glob("*.json"):
            if time.time() - note.stat().st_mtime > _OLD_SECONDS:
                note.unlink(missing_ok=True)


def _note(token: str) -> Path:
    return data_folder() / "ssh" / f"{token}.json"
