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


def write(token: str, host: str, folder: str, relay: str = "") -> None:
    """Note it, with the folder of the version that it was started with, and what the copy is called that it keeps its job in;
    without a home folder its heartbeat has to do."""
    with suppress(UsageError, OSError):
        place(token).parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        place(token).write_text(json.dumps({"host": host, "folder": folder, "relay": relay}))


def read(token: str) -> dict[str, str] | None:
    """``host``, ``folder`` and ``relay``; None: it was not started from here."""
    if not re.fullmatch("[0-9a-f]{8}", token):
        return None
    with suppress(UsageError, OSError, ValueError, KeyError, TypeError):
        found = json.loads(place(token).read_text())
        return {name: str(found.get(name, "") if name == "relay" else found[name]) for name in ("host", "folder", "relay")}
    return None


def hosts() -> list[str]:
    """The host of each attempt that is noted."""
    with suppress(UsageError, OSError):
        found = [read(note.stem) for note in place("x").parent.glob("*.json")]
        return [note["host"] for note in found if note is not None]
    return []


def forget(token: str) -> None:
    """Its end is known."""
    with suppress(UsageError, OSError):
        place(token).unlink(missing_ok=True)


def sweep() -> None:
    """Those of long ago; not of those that are fetched, for who waits for their end has nothing else."""
    with suppress(UsageError, OSError):
        for note in place("x").parent.glob("*.json"):
            about = read(note.stem)
            if time.time() - note.stat().st_mtime > _OLD_SECONDS and not (about and about["relay"]):
                note.unlink(missing_ok=True)


def place(token: str) -> Path:
    """The file of a note.

    Raises:
        UsageError: there is no home folder.
    """
    return data_folder() / "ssh" / f"{token}.json"
