"""A group: the jobs of a sweep. What becomes of it is what its jobs say; its own record says only which jobs it has.

The record holds every point and is one object, so a group is there whole or not at all. Its jobs are written after it, with IDs
and contents that follow from it alone: whoever finds some missing (the submit was killed) writes them, and two who do so write
the same. That all have been there is marked; from then on a job that is missing was deleted, and is not made again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

from pydantic import BaseModel, Field, ValidationError

from runner.errors import DamagedObjectError, MissingKeyError, NoSuchJobError, StoreError, UsageError
from runner.halving import Halving
from runner.job.job import FORMAT, Job, Membership, new_id, record_of, reference_to
from runner.job.json_objects import MOST_BYTES, dump, read_as, read_json
from runner.job.paths import GroupPaths, Paths
from runner.job.requests import Requests
from runner.spec import HostName
from runner.store.protocol import Store
from runner.store.uri import StoreUri

_MADE = b"{}\n"
"""Not empty: some ways to copy a folder leave empty files out."""
_MOST_TOGETHER = 64 << 20
"""So many bytes the records of all its jobs may have: each has what is common to all, which others may have written."""
MOST_HOSTS = 100


class PointRecord(BaseModel):
    """A job of the group: what of it is not common to all."""

    values: dict[str, Any]
    config: dict[str, Any]
    origins: dict[str, str]


class _HalvingRecord(BaseModel):
    """How its weak points are left early."""

    first: int = Field(ge=1, le=1_000_000)
    factor: int = Field(ge=2, le=100)


class _Record(BaseModel):
    """``group.json``."""

    id: str
    name: str
    created_at: float = Field(ge=0, le=1e11, allow_inf_nan=False)
    lastrun: str
    config: dict[str, Any]
    origins: dict[str, str]
    points: list[PointRecord] = Field(min_length=1, max_length=9999)
    hosts: list[HostName] = Field(default=[], max_length=MOST_HOSTS)
    """Those that it was begun on, if they were given for the group as a whole."""
    halving: _HalvingRecord | None = None
    by: str | None = Field(default=None, max_length=200)
    """Who submitted it."""


class Group:
    """One group in a store."""

    def __init__(self, store: Store, group_id: str) -> None:
        self.store, self.id, self.paths = store, group_id, GroupPaths(group_id)
        self.uri = str(StoreUri.parse(store.uri).child(group_id))
        self.requests = Requests(store, Paths(group_id))
        self._record: _Record | None = None

    @property
    def reference(self) -> str:
        """What a command needs to find it."""
        return reference_to(self.store, self.id)

    @classmethod
    def create(
        cls,
        store: Store,
        name: str,
        points: Sequence[PointRecord],
        version: str,
        hosts: Sequence[str] = (),
        halving: Halving | None = None,
        weights: Sequence[bytes | None] = (),
        by: str | None = None,
    ) -> Group:
        """Write a new group's record; its jobs come with :meth:`complete`. Before it the ``weights`` that they begin with, in
        the order of the points: who completes the group writes records alone. ``by``: who submits it.

        Raises:
            UsageError: too much for one record.
        """
        group = cls(store, new_id(name))
        common, origins = _common([point.config for point in points]), _common([point.origins for point in points])
        record = {
            "format": FORMAT,
            "id": group.id,
            "name": name,
            "created_at": time.time(),
            "lastrun": version,
            "config": common,
            "origins": origins,
            "points": [
                {"values": p.values, "config": _without(p.config, common), "origins": _without(p.origins, origins)}
                for p in points
            ],
            **({"hosts": list(hosts)} if hosts else {}),
            **({} if halving is None else {"halving": asdict(halving)}),
            **({} if by is None else {"by": by}),
        }
        text = dump(record)
        group._record = read_as(_Record, text)
        if len(text) > MOST_BYTES or _together(group._record) > _MOST_TOGETHER:
            raise UsageError(f"a sweep of {len(points):,} points that differ so much is too large; make two of it")
        store.in_parallel(
            [
                partial(store.put, Paths(group.paths.point(number)).init, one)
                for number, one in enumerate(weights, 1)
                if one is not None
            ]
        )
        store.put(group.paths.record, text)
        return group

    def record(self) -> dict[str, Any]:
        """What ``group.json`` says. It never changes.

        Raises:
            NoSuchJobError: there is no such group.
            StoreError: it is unreadable.
        """
        return self._read().model_dump()

    def hosts(self) -> tuple[str, ...]:
        """Those that it was begun on: the store's word."""
        return tuple(self._read().hosts)

    def halving(self) -> Halving | None:
        """How its weak points are left early; None: all are trained to their end."""
        said = self._read().halving
        return None if said is None else Halving(said.first, said.factor)

    def jobs(self) -> list[Job]:
        """Those that it has by its record, in the order of the points; some may have been deleted, or not been made yet."""
        return [Job(self.store, self.paths.point(number)) for number in range(1, len(self._read().points) + 1)]

    def complete(self) -> int:
        """Write those jobs that a submit which was cut has not; how many."""
        if self.is_made():
            return 0
        record = self._read()
        # An entry in the index comes before its job, and one without a job is passed over.
        indexed = {entry.key.partition("-")[2] for entry in self.store.scan(self.paths.index)}
        ids = [self.paths.point(number) for number in range(1, len(record.points) + 1)]
        unwritten = [job_id for job_id in ids if job_id not in indexed or not self._has_record(job_id)]
        self.store.in_parallel([partial(self.store.put, Paths(job_id).index, b"") for job_id in unwritten])
        self.store.in_parallel(
            [self._writer(record, number) for number, job_id in enumerate(ids, 1) if job_id in set(unwritten)]
        )
        self.store.put(self.paths.made, _MADE)
        return len(unwritten)

    def delete(self) -> int:
        """Delete it with all its jobs, its record last: a deletion that is cut is gone on with by the same command, and none of
        the jobs is made again. Returns how much."""
        jobs = self.jobs()
        self.store.put(self.paths.made, _MADE)
        keys = [entry.key for entry in self.store.scan(self.paths.all)]
        count = sum(int(deleted) for deleted in self.store.in_parallel([partial(_delete, job) for job in jobs]))
        self.store.delete([key for key in keys if key not in (self.paths.record, self.paths.made)])
        self.store.delete([self.paths.record])
        self.store.clear(self.paths.all)
        return count + len(keys)

    def _writer(self, record: _Record, number: int) -> Callable[[], None]:
        point, job_id = record.points[number - 1], self.paths.point(number)
        member = Membership(id=self.id, index=number, count=len(record.points), values=point.values)
        config, origins = {**record.config, **point.config}, {**record.origins, **point.origins}
        text = dump(record_of(job_id, record.name, record.created_at, record.lastrun, config, origins, member, record.by))
        return partial(self.store.put, Paths(job_id).record, text)

    def _has_record(self, job_id: str) -> bool:
        return next(iter(self.store.scan(Paths(job_id).record)), None) is not None

    def is_made(self) -> bool:
        """Whether all jobs have been there."""
        try:
            self.store.get(self.paths.made)
        except MissingKeyError:
            return False
        except DamagedObjectError:
            return True
        return True

    def _read(self) -> _Record:
        if self._record is None:
            try:
                values = read_json(self.store, self.paths.record)
            except MissingKeyError:
                raise NoSuchJobError(f"no group {self.id} in {self.store.uri}; lastrun list shows what there is") from None
            if values.get("format") != FORMAT:
                raise StoreError(f"{self.uri}: group.json has format {values.get('format')}; this version reads {FORMAT}")
            try:
                self._record = read_as(_Record, dump(values))
            except ValidationError:
                raise StoreError(
                    f"{self.uri}: group.json is damaged; put a whole copy of it back, or delete what lies there"
                ) from None
            if _together(self._record) > _MOST_TOGETHER:
                raise StoreError(f"{self.uri}: group.json is damaged: its jobs would be larger than any")
            if self._record.id != self.id:
                raise StoreError(f"{self.uri}: group.json is that of {self._record.id}")
        return self._record


def _delete(job: Job) -> int:
    return 0 if job.is_deleted() else job.delete()  # what was left for an attempt that may come back stays


def _together(record: _Record) -> int:
    """Bytes that are the same in each job of a group, for all its jobs."""
    return len(dump({"config": record.config, "origins": record.origins})) * len(record.points)


def _common(parts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What all of them have."""
    first = parts[0]
    return {key: value for key, value in first.items() if all(key in one and one[key] == value for one in parts)}


def _without(values: dict[str, Any], common: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if key not in common}
