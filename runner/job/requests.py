"""Stop requests: any machine may ask whoever runs a job to save and leave."""

from __future__ import annotations

import secrets
from collections.abc import Collection
from contextlib import suppress

from runner.errors import DamagedObjectError, MissingKeyError
from runner.job.json_objects import dump, read_json
from runner.job.paths import Paths
from runner.store.protocol import Store


class Requests:
    """Those made for one job, ever."""

    def __init__(self, store: Store, paths: Paths) -> None:
        self._store, self._paths = store, paths

    def ask_to_stop(self, now: bool) -> None:
        """Ask to save and leave, or to leave at once."""
        self._store.put(self._paths.request(secrets.token_hex(8)), dump({"stop": "now" if now else "save"}))

    def keys(self) -> list[str]:
        """The key of every request."""
        return [entry.key for entry in self._store.scan(self._paths.requests) if entry.key.endswith(".json")]

    def new(self, known: Collection[str]) -> dict[str, str]:
        """Those that are not ``known``: their keys and ``now`` or ``save``; an unreadable one is none."""
        found = {}
        for key in self.keys():
            if key not in known:
                with suppress(MissingKeyError, DamagedObjectError):
                    found[key] = str(read_json(self._store, key).get("stop"))
        return found
