"""What this user has started elsewhere from here: that is asked about later, whatever a store says."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from runner.errors import LastrunError, UsageError
from runner.folders import data_folder

if TYPE_CHECKING:
    from runner.job.job import Job

_OLD_SECONDS = 30 * 86400.0


class Notes:
    """Of one kind of launcher, one for each attempt, by what its ID ends with. Without a home folder there are none, and
    heartbeats have to do.

    Args:
        kind: of launcher.
        names: of the values that each has.
    """

    def __init__(self, kind: str, *names: str) -> None:
        self._kind, self._names = kind, names

    def write(self, token: str, **values: str) -> None:
        """Note it."""
        with suppress(UsageError, OSError):
            self.place(token).parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            self.place(token).write_text(json.dumps(values))

    def read(self, token: str) -> dict[str, str] | None:
        """Its values; None: it was not started from here."""
        if not re.fullmatch("[0-9a-f]{8}", token):
            return None
        with suppress(UsageError, OSError, ValueError, AttributeError):
            found = {name: str(value) for name, value in json.loads(self.place(token).read_text()).items()}
            return found if found.keys() >= set(self._names) else None
        return None

    def all(self) -> list[dict[str, str]]:
        """The values of each, the newest last, and its ``token``."""
        with suppress(UsageError, OSError):
            places = sorted(self.place("x").parent.glob("*.json"), key=lambda path: path.stat().st_mtime)
            found = [(path.stem, self.read(path.stem)) for path in places]
            return [{**note, "token": token} for token, note in found if note is not None]
        return []

    def of(self, jobs: Sequence[Job]) -> list[dict[str, str]]:
        """Those of these jobs of which the store tells no end."""
        by_id = {job.id: job for job in jobs}
        return [note for note in self.all() if note["job"] in by_id and not _has_ended(by_id[note["job"]], note["token"])]

    def forget(self, token: str) -> None:
        """Its end is known."""
        with suppress(UsageError, OSError):
            self.place(token).unlink(missing_ok=True)

    def sweep(self, keep: Callable[[dict[str, str]], bool] = lambda note: False) -> None:
        """Forget those of long ago, but for those to ``keep``."""
        with suppress(UsageError, OSError):
            for path in self.place("x").parent.glob("*.json"):
                if time.time() - path.stat().st_mtime > _OLD_SECONDS and not keep(self.read(path.stem) or {}):
                    path.unlink(missing_ok=True)

    def place(self, token: str) -> Path:
        """The file of a note.

        Raises:
            UsageError: there is no home folder.
        """
        return data_folder() / self._kind / f"{token}.json"


def _has_ended(job: Job, token: str) -> bool:
    with suppress(LastrunError):  # who cannot read that does not know
        attempt = job.attempts.of(token)
        return attempt is not None and not attempt.open
    return False
