"""What was read of jobs at rest, for the next time that pages are shown: reading a thousand anew takes seconds."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from runner.errors import UsageError
from runner.folders import cache_folder, keep
from runner.version import lastrun_version

Rested = tuple[dict[str, Any], list[str]]
"""A job's facts, and the names of the attempts that it had then: it is at rest as long as it has no others."""


class Kept:
    """Of one store, in a file that only this user can read; without a place for it nothing is kept."""

    def __init__(self, uri: str) -> None:
        self._file: Path | None = None
        with suppress(UsageError):
            self._file = cache_folder() / "ui" / f"{hashlib.sha256(uri.encode()).hexdigest()[:32]}.json"

    def read(self) -> dict[str, Rested]:
        """Of each job; nothing where another version wrote it, or it is damaged."""
        try:
            found = json.loads(self._file.read_bytes()) if self._file else {}
            if found["version"] != lastrun_version():
                return {}
            jobs = {name: (dict(facts), [str(one) for one in attempts]) for name, (facts, attempts) in found["jobs"].items()}
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            return {}
        return {name: one for name, one in jobs.items() if one[0].get("id") == name}

    def write(self, jobs: Mapping[str, Rested]) -> None:
        """All of it anew; a disk that is full keeps what there was."""
        if self._file is not None:
            keep(self._file, {"version": lastrun_version(), "jobs": jobs})
