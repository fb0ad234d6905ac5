"""Who has been told what: a note in the store for each news of an attempt, so that it is told once.

There are no conditional writes. Who is about to tell something writes that down, waits for others to do the same, and looks
whose word stands: the last one's. Only if somebody is held up for longer than that is it told twice; then under the same ID.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ValidationError

from runner.errors import DamagedObjectError, MissingKeyError
from runner.job.job import Job
from runner.job.json_objects import dump, read, read_as
from runner.notify.event import Event
from runner.waits import WAITS

_LOOK_SECONDS = min(1.0, WAITS.heartbeat)
"""After which whoever wrote at the same moment has written."""


class Note(BaseModel):
    """What it says."""

    told: list[str] = []
    """Keys of ``notify`` that name those who know."""
    by: str = ""
    """Who is at it; empty when nobody is."""


@dataclass(frozen=True)
class Notes:
    """Of some news."""

    job: Job
    event: Event

    @property
    def key(self) -> str:
        """Where the note lies."""
        return self.job.paths.told(self.event.facts["attempt"], self.event.key)

    def read(self) -> Note:
        """What it says; nothing before there is one."""
        with suppress(MissingKeyError, DamagedObjectError, ValidationError):
            return read_as(Note, read(self.job.store, self.key))
        return Note()

    def is_at_work(self, note: Note) -> bool:
        """Whether somebody is telling it just now: one that has begun long ago was ended over it."""
        with suppress(MissingKeyError):
            return bool(note.by) and self.job.store.age(self.key) < 2 * WAITS.notify + WAITS.expiry
        return False

    def take(self, note: Note, by: str) -> bool:
        """Write that somebody is about to tell the rest; whether it is theirs.

        Raises:
            StoreError: it cannot be written.
        """
        self.job.store.put(self.key, self.content(note.told, by))
        time.sleep(_LOOK_SECONDS)
        return self.read().by == by

    @staticmethod
    def content(told: Iterable[str], by: str = "") -> bytes:
        """What a note is to say."""
        values: dict[str, Any] = Note(told=sorted(told), by=by).model_dump()
        return dump(values)
