"""The attempts of a job as the store has them: their records, their signs of life, and what they say of the job's state."""

from __future__ import annotations

import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from typing import Any

from pydantic import BaseModel, FiniteFloat, ValidationError

from runner import machine
from runner.errors import DamagedObjectError, MissingKeyError, Reason, State
from runner.job.json_objects import dump, read_as, read_json
from runner.job.paths import ATTEMPT_ID, Paths, attempt_order
from runner.store.protocol import Store
from runner.waits import WAITS

HEARTBEAT_SECONDS, EXPIRY_SECONDS = WAITS.heartbeat, WAITS.expiry
OPEN_PHASES = ("claiming", "running")
"""Phases of an attempt that has not ended, as far as its record tells."""


@dataclass
class Attempt:
    """One stretch of a job on one machine (``attempt.json``); written by that attempt, and by whoever finds it dead
    beyond doubt before it could write its end (see :mod:`runner.launch.settle`)."""

    id: str
    machine: str
    pid: int
    process: str
    """Tells this process from a later one with the same pid."""
    started_at: float
    phase: str = "claiming"
    """``claiming``, ``running``, ``withdrawn`` (stepped back for another attempt), ``ended`` or ``lost``
    (ended without a word; found by another)."""
    host: str = ""
    container: dict[str, str] | None = None
    """What its launcher told it of where it runs, if it is no plain process. Of a container: ``name``, ``token`` (a label of
    it), ``engine`` and ``image`` (digest); ``device`` ``cuda`` if it was given a GPU; on an engine of the same machine also
    ``scratch``, the folder for its files, and ``data``, where it has the data file. Of others also ``launcher``."""
    env: str = ""
    versions: dict[str, str] = field(default_factory=dict)
    hardware: dict[str, Any] = field(default_factory=dict)
    changes: list[dict[str, Any]] = field(default_factory=list)
    supersedes: list[str] = field(default_factory=list)
    """Attempts that had not ended when this one took the job: for people. What counts is that a later one has taken it."""
    began: bool = False
    """Whether it has ever run."""
    inherited: list[str] | None = None
    """Checkpoints that were there when this one began: of earlier attempts, only these are followed from then on."""
    resumed_from: str | None = None
    resumed_step: int = 0
    resumed_epoch: int = 0
    ended_at: float | None = None
    reason: str | None = None
    message: str | None = None
    scores: dict[str, FiniteFloat | None] = field(default_factory=dict)
    data_fingerprint: str | None = None

    @property
    def number(self) -> int:
        """1 for the first attempt."""
        return self.order[0]

    @property
    def order(self) -> tuple[int, str]:
        """Larger for who claimed later."""
        return attempt_order(self.id)

    @property
    def has_taken_the_job(self) -> bool:
        """Whether it has ever run: then no earlier attempt has the job any more, whatever became of this one."""
        older = self.phase in ("running", "ended") or (self.phase == "lost" and self.inherited is not None)
        return self.began or older  # older versions did not say that one began

    def __str__(self) -> str:
        place = f"process {self.pid}" if self.container is None else f"container {self.container.get('name')}"
        return f"attempt {self.number} on {self.host} ({place})"

    @property
    def open(self) -> bool:
        """Whether it claims the job, or did when it was last heard of."""
        return self.phase in OPEN_PHASES

    @property
    def launcher(self) -> str:
        """The kind of launcher that has started it."""
        return "local" if self.container is None else self.container.get("launcher", "docker")

    @property
    def is_here(self) -> bool:
        """Whether it is, or was, a process of this machine, which tells whether it lives."""
        return self.machine == machine.identity()

    def superseded_by(self, others: Iterable[Attempt]) -> bool:
        """Whether one of the job's attempts has taken the job from this one."""
        return any(other.order > self.order and other.has_taken_the_job for other in others)


class _Beat(BaseModel):
    """``heartbeat.json``."""

    time: float = 0.0
    step: int = 0
    total_steps: int = 0
    seconds_left: float | None = None
    clips_per_second: float | None = None
    loss: float | None = None
    synced_step: int = 0
    local_step: int = 0
    lag_seconds: float = 0.0
    last_epoch: dict[str, FiniteFloat | None] = {}


class Attempts:
    """Those of one job."""

    def __init__(self, store: Store, paths: Paths, uri: str) -> None:
        self._store, self._paths, self._uri = store, paths, uri

    def all(self) -> list[Attempt]:
        """Oldest first; those that withdrew are left out.

        Raises:
            DamagedObjectError: a record is damaged.
        """
        found = []
        for name in self._names():
            try:
                found.append(self._read(name))
            except MissingKeyError:
                continue
        return [attempt for attempt in sorted(found, key=lambda a: a.order) if attempt.phase != "withdrawn"]

    def again(self, attempt: Attempt) -> Attempt | None:
        """An attempt as its record has it now, also one that withdrew; None: it has none any more.

        Raises:
            DamagedObjectError: the record is damaged.
        """
        try:
            return self._read(attempt.id)
        except MissingKeyError:
            return None

    def next_number(self) -> int:
        """The number for a new attempt: one more than the largest, withdrawn ones included."""
        return 1 + max((int(name.split("-")[0]) for name in self._names()), default=0)

    def write(self, attempt: Attempt) -> None:
        """Write an attempt's record."""
        self._store.put(*self.entry(attempt))

    def entry(self, attempt: Attempt) -> tuple[str, bytes]:
        """Key and content of an attempt's record."""
        return self._key(attempt), dump(asdict(attempt))

    def write_lost(self, attempt: Attempt, message: str) -> None:
        """Write that an attempt is dead beyond doubt, for those who cannot see that themselves."""
        attempt.began = attempt.has_taken_the_job
        attempt.phase, attempt.ended_at, attempt.message = "lost", time.time(), message
        self.write(attempt)

    def write_heartbeat(self, attempt: Attempt, progress: dict[str, Any]) -> None:
        """Tell that an attempt lives, and how far it is."""
        self._store.put(self._paths.heartbeat(attempt.id), dump({"time": time.time(), **progress}))

    def look(self, attempt: Attempt) -> str | None:
        """What one that runs should know, by few reads: ``superseded`` (a later one has taken the job), ``record`` (an old
        request of its own has come late, and its record is not what it was), or nothing."""
        for name in self._names():
            if attempt_order(name) > attempt.order:
                try:
                    if self._read(name).has_taken_the_job:
                        return "superseded"
                except MissingKeyError:
                    continue
                except DamagedObjectError:  # whoever has written that was later
                    return "superseded"
        with suppress(MissingKeyError, DamagedObjectError):
            if self._read(attempt.id).inherited == attempt.inherited:
                return None
        return "record"

    def heartbeat(self, attempt: Attempt) -> dict[str, Any]:
        """The last heartbeat of an attempt; empty before the first."""
        try:
            return read_as(_Beat, read_json(self._store, self._paths.heartbeat(attempt.id))).model_dump()
        except (MissingKeyError, ValidationError):
            return {}

    def alive(self, attempt: Attempt) -> bool:
        """Whether an attempt that has not ended is at work: its process if it ran on this machine, else its heartbeat."""
        if not attempt.open:
            return False
        if attempt.is_here:
            with suppress(machine.HiddenProcessError):
                return machine.process_identity(attempt.pid) == attempt.process
        try:
            age = self._store.age(self._paths.heartbeat(attempt.id))
        except MissingKeyError:
            age = self._store.age(self._key(attempt))
        # Far in the future is as telling as far in the past: the clock of a shared folder is wrong. claim() looks closer.
        return abs(age) < EXPIRY_SECONDS

    def state(self, attempts: list[Attempt]) -> tuple[State, Attempt | None, Reason | None]:
        """The job's state, from the newest of its attempts, with the reason for which that ended."""
        if not attempts:
            return State.QUEUED, None, None
        owner = max((n for n, attempt in enumerate(attempts) if attempt.has_taken_the_job), default=-1)
        # Who has died before it took the job has changed nothing.
        attempt = next((a for a in attempts[max(owner, 0) :] if self.alive(a)), attempts[owner])
        if attempt.reason is not None:
            reason = Reason(attempt.reason)
            return reason.ending.state, attempt, reason
        return (State.RUNNING if self.alive(attempt) else State.LOST), attempt, None

    def _names(self) -> Iterable[str]:
        return filter(ATTEMPT_ID.fullmatch, self._store.folders(self._paths.attempts))

    def _read(self, name: str) -> Attempt:
        try:
            record = read_json(self._store, self._paths.attempt(name))
        except MissingKeyError:
            record = read_json(self._store, self._paths.claim(name))
        with suppress(ValidationError):
            attempt = read_as(Attempt, record)
            if attempt.id == name and attempt.reason in (None, *Reason._value2member_map_):
                return attempt
        raise DamagedObjectError(f"{self._uri}: the record of attempt {name} is damaged, or of another version of lastrun")

    def _key(self, attempt: Attempt) -> str:
        return self._paths.attempt(attempt.id) if attempt.has_taken_the_job else self._paths.claim(attempt.id)
