"""Which attempts this user has started from here on which host: that host is asked later, whatever a store says."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

from runner.errors import UsageError
from runner.folders import data_folder

_OLD_SECONDS = 30 * 86400.0


def write(token: str, host: str, folder: str, **more: str) -> None:
    """Note it, with the folder of the version that it was started with; without a home folder its heartbeat has to do. Of a
    batch job, with ``job``, its job's URI, and ``batch``, its ID there once that is known; of one that keeps
    its job there, with ``relay``, what that copy is called."""
    with suppress(UsageError, OSError):
        place(token).parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        place(token).write_text(json.dumps({"host": host, "folder": folder, **more}))


def read(token: str) -> dict[str, str] | None:
    """``host``, ``folder`` and ``relay``; None: it was not started from here."""
    if not re.fullmatch("[0-9a-f]{8}", token):
        return None
    with suppress(UsageError, OSError, ValueError, KeyError, TypeError):
        found = json.loads(place(token).read_text())
        return {
            "relay": "",
            **{name: str(value) for name, value in found.items()},
            "host": str(found["host"]),
            "folder": str(found["folder"]),
        }
    return None


def of_batches(jobs: Collection[str]) -> list[dict[str, str]]:
    """Those of batch jobs that were handed over for jobs with these URIs, the newest last, each with its ``token``."""
    found: list[dict[str, str]] = []
    with suppress(UsageError, OSError):
        for note in sorted(place("x").parent.glob("*.json"), key=lambda path: path.stat().st_mtime):
            one = read(note.stem)
            if one is not None and one.get("job") in jobs:
                found.append({"batch": "", **one, "token": note.stem})
    return found


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
