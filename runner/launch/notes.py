"""What this user has started elsewhere from here: that is asked about later, whatever a store says."""

from __future__ import annotations

import json
import re
import time
from contextlib import suppress
from pathlib import Path

from runner.errors import UsageError
from runner.folders import data_folder

_OLD_SECONDS = 30 * 86400.0


class Notes:
    """Of one kind of launcher, one for each attempt, by what its ID ends with. Without a home folder there are none, and
    heartbeats have to do."""

    def __init__(self, kind: str) -> None:
        self._kind = kind

    def write(self, token: str, **values: str) -> None:
        """Note it."""
        with suppress(UsageError, OSError):
            self._note(token).parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._note(token).write_text(json.dumps(values))

    def read(self, token: str, *names: str) -> dict[str, str] | None:
        """These values; None: it was not started from here."""
        if not re.fullmatch("[0-9a-f]{8}", token):
            return None
        with suppress(UsageError, OSError, ValueError, KeyError, TypeError):
            found = json.loads(self._note(token).read_text())
            return {name: str(found[name]) for name in names}
        return None

    def all(self, *names: str) -> list[dict[str, str]]:
        """These values of each."""
        with suppress(UsageError, OSError):
            found = [self.read(note.stem, *names) for note in self._note("x").parent.glob("*.json")]
            return [note for note in found if note is not None]
        return []

    def forget(self, token: str) -> None:
        """Its end is known."""
        with suppress(UsageError, OSError):
            self._note(token).unlink(missing_ok=True)

    def sweep(self) -> None:
        """Those of long ago."""
        with suppress(UsageError, OSError):
            for note in self._note("x").parent.glob("*.json"):
                if time.time() - note.stat().st_mtime > _OLD_SECONDS:
                    note.unlink(missing_ok=True)

    def _note(self, token: str) -> Path:
        return data_folder() / self._kind / f"{token}.json"
