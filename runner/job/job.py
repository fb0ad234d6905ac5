"""A job: its record, and what people read of it. What else the store keeps of it: :mod:`~runner.job.attempts`,
:mod:`~runner.job.requests`, :mod:`~runner.job.checkpoints`."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from itertools import accumulate
from shlex import quote
from typing import Any

from pydantic import BaseModel, Field, ValidationError, field_validator

from last_e.config import is_pinned
from runner.errors import DamagedObjectError, MissingKeyError, NoSuchJobError, Reason, State, StoreError, UsageError
from runner.job.attempts import Attempt, Attempts
from runner.job.checkpoints import Checkpoints
from runner.job.json_objects import dump, read_as, read_json
from runner.job.paths import Paths
from runner.job.requests import Requests
from runner.store.open import default_store
from runner.store.protocol import Entry, Store
from runner.store.uri import StoreUri

FORMAT = 1
_PIECES = 256
"""So many of a log are read at once,"""
_PIECES_BYTES = 64 << 20
"""and no more than these together, or one: a piece has some kilobytes, but a store may hold anything."""


class Membership(BaseModel):
    """Of a job that is a point of a sweep."""

    id: str
    """The group's."""
    index: int = Field(ge=1, le=9999)
    count: int = Field(ge=1, le=9999)
    values: dict[str, Any]
    """What it sets that other points set otherwise."""


class _Record(BaseModel):
    """``job.json``."""

    id: str
    name: str
    created_at: float = Field(ge=0, le=1e11, allow_inf_nan=False)
    config: dict[str, Any]
    origins: dict[str, str]
    group: Membership | None = None
    by: str | None = Field(default=None, max_length=200)
    """Who submitted it; None: it does not say, as jobs of older versions."""

    @field_validator("config")
    @classmethod
    def _complete(cls, config: dict[str, Any]) -> dict[str, Any]:
        for key, kind in {"model.variant": str, "dataset": str, "split_type": str, "env": str, "training.epochs": int}.items():
            if not isinstance(config.get(key), kind):
                raise ValueError(key)
        return config


_LETTERS = "0123456789bcdfghjkmnpqrstvwxz"
"""Without vowels, which make words, and without l and y, which are taken for others."""


def new_id(name: str) -> str:
    """An ID that nothing else has: of twenty jobs that are made in one second, two share theirs once in three million times. No
    store is asked, for not every one can tell the first of two that write at the same time."""
    drawn = "".join(secrets.choice(_LETTERS) for _ in range(6))
    return f"{name}-{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}-{drawn}"


def record_of(
    job_id: str,
    name: str,
    created_at: float,
    version: str,
    config: dict[str, Any],
    origins: dict[str, str],
    group: Membership | None = None,
    by: str | None = None,
) -> dict[str, Any]:
    """What ``job.json`` is to say."""
    record = {
        "format": FORMAT,
        "id": job_id,
        "name": name,
        "created_at": created_at,
        "lastrun": version,
        "config": config,
        "origins": origins,
        **({} if by is None else {"by": by}),
    }
    return record if group is None else {**record, "group": group.model_dump()}


def reference_to(store: Store, name: str) -> str:
    """What a command needs to find a job or a group: its ID, with the store where that is not the default one."""
    return name if _is_default(store) else quote(str(StoreUri.parse(store.uri).child(name)))


def list_of(store: Store) -> str:
    """The command that lists the jobs of a store."""
    return "lastrun list" if _is_default(store) else f"lastrun list --store {quote(store.uri)}"


def _is_default(store: Store) -> bool:
    with suppress(UsageError):  # there may be no default
        return str(StoreUri.typed(default_store())) == store.uri
    return False


class Job:
    """One job in a store."""

    def __init__(self, store: Store, job_id: str) -> None:
        self.store, self.id, self.paths = store, job_id, Paths(job_id)
        self.uri = str(StoreUri.parse(store.uri).child(job_id))
        self.attempts = Attempts(store, self.paths, self.uri)
        self.checkpoints = Checkpoints(store, self.paths, self.attempts)
        self.requests = Requests(store, self.paths)
        self._record: _Record | None = None

    @property
    def reference(self) -> str:
        """What a command needs to find the job: its ID, with the store where that is not the default one."""
        return reference_to(self.store, self.id)

    @classmethod
    def create(
        cls,
        store: Store,
        name: str,
        config: dict[str, Any],
        origins: dict[str, str],
        version: str,
        weights: bytes | None = None,
        by: str | None = None,
    ) -> Job:
        """Write a new job's record, and before it the ``weights`` that it begins with; ``by``: who submits it."""
        job = cls(store, new_id(name))
        store.put(job.paths.index, b"")  # first: an entry without a job is passed over
        if weights is not None:
            store.put(job.paths.init, weights)
        store.put(job.paths.record, dump(record_of(job.id, name, time.time(), version, config, origins, by=by)))
        job.attempts = Attempts(store, job.paths, job.uri, largest=0)
        return job

    def record(self, again: bool = False) -> dict[str, Any]:
        """What ``job.json`` says. It never changes, so it is read once; ``again``, to see that the job is still there.

        Raises:
            NoSuchJobError: there is no such job.
            StoreError: it is unreadable.
        """
        if self._record is None or again:
            self._record = self._read_record()
        return self._record.model_dump()

    def _read_record(self) -> _Record:
        try:
            record = read_json(self.store, self.paths.record)
        except MissingKeyError:
            shows = list_of(self.store)
            raise NoSuchJobError(f"no job {self.id} in {self.store.uri}; {shows} shows those there are") from None
        if record.get("format") != FORMAT:
            raise StoreError(f"{self.uri}: job.json has format {record.get('format')}; this version reads {FORMAT}")
        try:
            return read_as(_Record, dump(record))
        except ValidationError:
            raise StoreError(
                f"{self.uri}: job.json is damaged; put a whole copy of it back, or delete what lies there"
            ) from None

    def settings(self, attempts: list[Attempt] | None = None) -> tuple[dict[str, Any], dict[str, str], list[str]]:
        """The flat configuration that the next attempt after these (default: all) begins with, the origin of each value, and
        which keys differ from the job's record: what decides learning and was changed with ``--allow-change`` stays changed."""
        record = self.record()
        config: dict[str, Any] = record["config"]
        origins: dict[str, str] = record["origins"]
        changed: list[str] = []
        for attempt in self.attempts.all() if attempts is None else attempts:
            for change in attempt.changes:
                key = str(change.get("key"))
                if key in config and is_pinned(key):
                    config[key], origins[key] = change.get("after"), f"attempt {attempt.number}"
                    changed.append(key)
        return config, origins, changed

    def lost(self, attempt: Attempt) -> Reason | None:
        """Why an attempt that runs has the job no more, if so: another has taken it, or somebody has deleted it."""
        taken, gone = self.store.in_parallel([partial(self.attempts.superseded, attempt), self.is_deleted])
        return Reason.JOB_DELETED if gone else Reason.LEASE_LOST if taken else None

    def is_there(self) -> bool:
        """Whether there is such a job, or something in its place that cannot be read."""
        try:
            self.store.get(self.paths.record)
        except MissingKeyError:
            return False
        except DamagedObjectError:
            return True
        return True

    def is_deleted(self) -> bool:
        """Whether somebody has deleted it and said so. That its record is not there proves nothing: a disk that is away shows
        an empty folder, too."""
        try:
            self.store.get(self.paths.tombstone)
        except (MissingKeyError, DamagedObjectError):
            return False
        return True

    def is_gone(self) -> bool:
        """Whether the record that was read before is there no more."""
        with suppress(MissingKeyError):
            if self._record is not None:
                self.store.get(self.paths.record)
            return False
        return True

    def forget(self) -> None:
        """Of a job that was deleted while an attempt ran: delete what has been written since."""
        if self.is_deleted():
            self.store.delete(entry.key for entry in self.store.scan(self.paths.all) if entry.key != self.paths.tombstone)

    def delete(self) -> int:
        """Delete everything; the record goes first, so that what is left of a cut deletion is no job. Where an attempt may come
        back (it is only silent), or somebody has written meanwhile, a word stays for them. Returns how many."""
        try:
            # Done once more, because an answer was lost: the word that is there is for one whose record has gone.
            silent = any(attempt.open for attempt in self.attempts.all()) or self.is_deleted()
        except DamagedObjectError:
            silent = True
        keys = [entry.key for entry in self.store.scan(self.paths.all)]
        self.store.delete([self.paths.record])
        self.store.clear(self.paths.all)
        if silent or next(iter(self.store.scan(self.paths.all)), None) is not None:
            self.store.put(self.paths.tombstone, b"")
        with suppress(ValueError):  # an ID that was not made here
            self.store.delete([self.paths.index])
        return len(keys)

    def state(self) -> tuple[State, Attempt | None, Reason | None]:
        """The job's state as its records tell it, the attempt that decides it, and why that ended; what launchers know
        beyond that, :func:`runner.launch.settle.state_of` asks them first."""
        return self.attempts.state(self.attempts.all())

    def metrics(self, attempts: list[Attempt] | None = None) -> list[dict[str, Any]]:
        """Of these attempts (default: all) a line per epoch; an attempt's replace those of epochs that it trained again."""
        from last_e.metrics import read_metrics

        attempts = self.attempts.all() if attempts is None else attempts
        merged: list[dict[str, Any]] = []
        texts = self.store.in_parallel([partial(self._text, self.paths.metrics(attempt.id)) for attempt in attempts])
        for attempt, text in zip(attempts, texts):
            if text is not None:
                merged = [m for m in merged if m["epoch"] <= attempt.resumed_epoch] + read_metrics(text)
        return merged

    def log(self, seen: set[str] | None = None, last: int | None = None) -> Iterator[str]:
        """The log of all attempts, piece by piece; of those in ``seen`` nothing again, and it is added to. With ``last``, so
        many pieces at most, of which those before count as seen."""
        seen = set() if seen is None else seen
        names = self.attempts.names()
        attempts, *listed = self.store.in_parallel(
            [partial(self.attempts.read, names), *(partial(self._log, n) for n in names)]
        )
        keys = {name: [entry.key for entry in entries] for name, entries in zip(names, listed)}
        sizes = {entry.key: entry.size for entries in listed for entry in entries}
        pieces: list[tuple[str, str | None]] = []
        for attempt in attempts:
            if attempt.phase != "claiming":
                pieces.append((attempt.id, f"--- attempt {attempt.number} on {attempt.host} ({attempt.env or 'starting'})\n"))
            pieces += [(key, None) for key in keys[attempt.id]]
        new = [piece for piece in pieces if piece[0] not in seen]
        if last is not None:
            seen.update(key for key, _ in new[:-last])
            new = new[-last:]
        while new:  # not all at once: a long run has thousands
            sums = accumulate(sizes.get(key, 0) for key, _ in new[:_PIECES])
            count = max(1, sum(size <= _PIECES_BYTES for size in sums))
            some, new = new[:count], new[count:]
            texts = self.store.in_parallel([partial(self._text, key, "[left out: {}]\n") for key, head in some if head is None])
            for key, head in some:
                seen.add(key)
                yield head if head is not None else texts.pop(0) or ""

    def _log(self, attempt_id: str) -> list[Entry]:
        return list(self.store.scan(self.paths.attempt(attempt_id, "log", "")))

    def _text(self, key: str, damaged: str = "") -> str | None:
        """What is under a key, if there is something; instead of what is damaged, a word with the reason."""
        try:
            return self.store.get(key).decode("utf-8", "replace")
        except MissingKeyError:
            return None
        except DamagedObjectError as error:
            return damaged.format(error)
