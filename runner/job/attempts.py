"""The attempts of a job as the store has them: their records, their signs of life, and what they say of the job's state."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from pydantic import BaseModel, FiniteFloat, ValidationError

from runner import machine
from runner.errors import DamagedObjectError, MissingKeyError, Reason, State
from runner.job.json_objects import dump, read, read_as
from runner.job.paths import ATTEMPT_ID, LARGEST_NUMBER, Paths, attempt_of, attempt_order
from runner.store.protocol import Store
from runner.waits import WAITS

HEARTBEAT_SECONDS, EXPIRY_SECONDS = WAITS.heartbeat, WAITS.expiry
OPEN_PHASES = ("claiming", "running")
"""Phases of an attempt that has not ended, as far as its record tells."""
_FINAL_PHASES = ("ended", "withdrawn")
"""Phases after which a record does not change. One that was found lost may still tell its true end."""


@dataclass
class Attempt:
    """One stretch of a job on one machine (``claim.json``, ``attempt.json``, ``end.json``: the last of them that is there
    counts); written by that attempt, and by whoever finds it dead beyond doubt before it could write its end (see
    :mod:`runner.launch.settle`)."""

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
    ``scratch``, the folder for its files, and ``data``, where it has the data file. Of others also ``launcher``, ``what`` a
    ``name`` names, ``restart``, of what may be started anew under the same name, and ``relay``, of what keeps its job where it
    runs (:mod:`runner.launch.ssh.relay`)."""
    env: str = ""
    epochs: int | None = None
    """How many it trains to; more than the job's record says, where more were allowed."""
    versions: dict[str, str] = field(default_factory=dict)
    hardware: dict[str, Any] = field(default_factory=dict)
    changes: list[dict[str, Any]] = field(default_factory=list)
    is_continued: bool = False
    """Whether who follows it begins another when it is cut (``run.auto_continue``)."""
    supersedes: list[str] = field(default_factory=list)
    """Attempts that had not ended when this one took the job: for people. What counts is that a later one has taken it."""
    began: bool = False
    """Whether it has ever run."""
    inherited: list[str] | None = None
    """Checkpoints that were there when this one began: of earlier attempts, only these are followed from then on."""
    resumed_from: str | None = None
    resumed_step: int = 0
    resumed_epoch: int = 0
    from_epoch: FiniteFloat | None = None
    """Where its trainer began: so many epochs had been trained, one of them in part. Older versions did not say so."""
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
        about = self.container
        place = f"process {self.pid}" if about is None else f"{about.get('what', 'container')} {about.get('name')}"
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

    @property
    def is_relayed(self) -> bool:
        """Whether its job is kept where it runs, and fetched now and then: that its heart was not heard says nothing."""
        return bool((self.container or {}).get("relay"))

    def began_anew(self, other: Attempt) -> bool:
        """Whether ``other`` is an earlier start of what runs this one: a batch system starts its job anew once it has given up
        the start before, of a dead node as well."""
        mine, its = self.container or {}, other.container or {}
        return "restart" in mine and "restart" in its and all(mine.get(key) == its.get(key) for key in ("launcher", "name"))

    def superseded_by(self, others: Iterable[Attempt]) -> bool:
        """Whether one of the job's attempts has taken the job from this one."""
        return any(other.order > self.order and other.has_taken_the_job for other in others)


def from_the_owner(attempts: list[Attempt]) -> list[Attempt]:
    """Of a job's attempts, oldest first, the last one that has had the job, and those that have claimed it since; all, if none
    has had it."""
    owner = max((number for number, attempt in enumerate(attempts) if attempt.has_taken_the_job), default=0)
    return attempts[owner:]


class _Beat(BaseModel):
    """``heartbeat.json``: what :class:`last_e.events.Progress` told last, and how far the store is."""

    time: float = 0.0
    step: int = 0
    total_steps: int = 0
    epoch: int = 0
    epochs: int = 0
    phase: str = "train"
    tested: FiniteFloat | None = None
    seconds: FiniteFloat | None = None
    epoch_seconds_left: FiniteFloat | None = None
    seconds_left: float | None = None
    session_seconds_left: FiniteFloat | None = None
    clips_per_second: float | None = None
    ranks: list[FiniteFloat] | None = None
    of_one: FiniteFloat | None = None
    loss: float | None = None
    smooth_loss: FiniteFloat | None = None
    top1: FiniteFloat | None = None
    lr: FiniteFloat | None = None
    gpus: list[dict[str, FiniteFloat | None]] | None = None
    synced_step: int = 0
    local_step: int = 0
    lag_seconds: float = 0.0
    last_epoch: dict[str, FiniteFloat | None] = {}
    idle_seconds: float | None = None
    """How long it has made no step and tested no clip; None: of a version that does not tell."""
    stopping: str | None = None
    """The reason for which it has been asked to leave."""


class Attempts:
    """Those of one job. What has been read and cannot change any more in what others go by is not read again.

    ``largest``: the number of the last one, where that is known.
    """

    def __init__(self, store: Store, paths: Paths, uri: str, largest: int | None = None) -> None:
        self._store, self._paths, self._uri = store, paths, uri
        self._known: dict[str, Attempt] = {}
        self._settled: set[str] = set()
        self._owner = (0, "")
        self._largest = largest
        self.listed: list[str] | None = None
        """What :meth:`names` found last."""

    def all(self) -> list[Attempt]:
        """Oldest first; those that withdrew are left out.

        Raises:
            DamagedObjectError: a record is damaged.
        """
        return self._all()

    def beside(self, own: Attempt) -> list[Attempt]:
        """All, oldest first, for one of them: of itself it knows better than its record.

        Raises:
            DamagedObjectError: a record is damaged.
        """
        if own.has_taken_the_job:
            self._owner = max(self._owner, own.order)
        return sorted([*self._all(own.id), own], key=lambda attempt: attempt.order)

    def names(self) -> list[str]:
        """The ID of every attempt, oldest first, withdrawn ones included."""
        found = sorted(filter(ATTEMPT_ID.fullmatch, self._store.folders(self._paths.attempts)), key=attempt_order)
        self._largest = max(self._largest or 0, *(attempt_order(name)[0] for name in found[-1:]), 0)
        self.listed = found
        return found

    def read(self, names: Collection[str]) -> list[Attempt]:
        """Those of these names, oldest first, but for those that withdrew or are gone.

        Raises:
            DamagedObjectError: a record is damaged.
        """
        self._fetch([name for name in names if name not in self._settled])
        found = [self._known[name] for name in sorted(names, key=attempt_order) if name in self._known]
        return [attempt for attempt in found if attempt.phase != "withdrawn"]

    def of(self, token: str) -> Attempt | None:
        """The last one whose ID ends with a token; None: it has not claimed the job, or has stepped back.

        Raises:
            DamagedObjectError: a record is damaged.
        """
        likely = f"{self.next_number():04d}-{token}"
        found = self.read([likely]) or self.read([name for name in self.names() if name.endswith(f"-{token}")])
        return found[-1] if found else None

    def newest(self) -> list[Attempt]:
        """The last of :meth:`all`, from the one on that has the job: of the others most need not be read.

        Raises:
            DamagedObjectError: a record is damaged.
        """
        names = self.names()
        found = self.read(names[-2:])
        if any(attempt.has_taken_the_job for attempt in found):
            return found
        return [*self.read(names[:-2]), *found]

    def _all(self, but: str = "") -> list[Attempt]:
        again = [name for name in list(self._known) if name != but and name not in self._settled]
        listed, _ = self._store.in_parallel([self.names, partial(self._fetch, again)])
        names = [name for name in listed if name != but]
        self._fetch([name for name in names if name not in self._known])
        found = [self._known[name] for name in names if name in self._known]
        return [attempt for attempt in found if attempt.phase != "withdrawn"]

    @staticmethod
    def completed(attempts: list[Attempt]) -> bool:
        """Whether the last of these that has had the job has finished it."""
        return any(attempt.reason == Reason.COMPLETED.value for attempt in from_the_owner(attempts)[:1])

    def _fetch(self, names: Sequence[str]) -> None:
        """Read records; one that is gone is forgotten. All places at once: to look into one only where another is empty would
        be another round trip."""
        owner = self._owner
        keys = [key for name in names for key in self._places(name)]
        texts = iter(self._store.in_parallel([partial(self._bytes, key) for key in keys]))
        for name in names:
            record = next((text for text in [next(texts) for _ in self._places(name)] if text is not None), None)
            if record is None:
                self._known.pop(name, None)
                continue
            self._known[name] = attempt = self._parsed(name, record)
            # From one that had lost the job before it was read nothing follows any more.
            if attempt.phase in _FINAL_PHASES or attempt.order < owner:
                self._settled.add(name)
            if attempt.has_taken_the_job:
                self._owner = max(self._owner, attempt.order)

    def again(self, attempt: Attempt) -> Attempt | None:
        """An attempt as its record has it now, also one that withdrew; None: it has none any more.

        Raises:
            DamagedObjectError: the record is damaged.
        """
        self._fetch([attempt.id])
        return self._known.get(attempt.id)

    def next_number(self) -> int:
        """The number for a new attempt: one more than the largest that has been listed, withdrawn ones included.

        Raises:
            DamagedObjectError: there is none left.
        """
        if self._largest is None:
            self.names()
        if (self._largest or 0) >= LARGEST_NUMBER:
            raise DamagedObjectError(f"{self._uri} is damaged: it has an attempt of number {self._largest:,}; delete that one")
        return 1 + (self._largest or 0)

    def write(self, attempt: Attempt) -> None:
        """Write an attempt's record."""
        self._store.put(*self.entry(attempt))

    def entry(self, attempt: Attempt) -> tuple[str, bytes]:
        """Key and content of an attempt's record."""
        return self._key(attempt), dump(vars(attempt))

    def write_lost(self, attempt: Attempt, message: str) -> None:
        """Write that an attempt is dead beyond doubt, for those who cannot see that themselves."""
        attempt.began = attempt.has_taken_the_job
        attempt.phase, attempt.ended_at, attempt.message = "lost", time.time(), message
        self.write(attempt)

    def write_heartbeat(self, attempt: Attempt, progress: dict[str, Any]) -> None:
        """Tell that an attempt lives, and how far it is."""
        self._store.put(self._paths.heartbeat(attempt.id), dump({"time": time.time(), **progress}))

    def superseded(self, attempt: Attempt) -> bool:
        """Whether a later one has taken the job from one that runs: one listing, and a read of each record there that is of a
        later one that has ever run."""
        # Names stand in the order of their numbers up to 9999, and nobody who has slept passes over so many.
        after = self._paths.attempt(attempt.id, "~") if attempt.number < 9999 else ""
        for entry in self._store.scan(self._paths.attempts, after):
            name = attempt_of(entry.key)
            if entry.key == self._paths.attempt(name) and ATTEMPT_ID.fullmatch(name) and attempt_order(name) > attempt.order:
                try:
                    if self._read(name).has_taken_the_job:
                        return True
                except MissingKeyError:
                    continue
                except DamagedObjectError:  # whoever has written that was later
                    return True
        return False

    def stands(self, attempt: Attempt) -> bool:
        """Whether the record of one that runs is what it has written last: no old request of its own has come late, and nobody
        has taken it for dead. That it had the job is in either record, so that nobody goes by another order meanwhile."""
        record = self._bytes(self._paths.attempt(attempt.id))
        with suppress(DamagedObjectError):
            if record is None:
                return False
            written = self._parsed(attempt.id, record)
            return written.inherited == attempt.inherited and written.phase != "lost"
        return False

    def heartbeat(self, attempt: Attempt) -> dict[str, Any]:
        """The last heartbeat of an attempt; empty before the first."""
        try:
            return read_as(_Beat, read(self._store, self._paths.heartbeat(attempt.id))).model_dump()
        except (MissingKeyError, ValidationError):
            return {}

    def alive(self, attempt: Attempt) -> bool:
        """Whether an attempt is at work: one that has not ended, by its process if that is of this machine, else by its
        heartbeat."""
        return attempt.open and self.lives(attempt)

    def lives(self, attempt: Attempt) -> bool:
        """The same of one whose record tells of no end."""
        if attempt.is_relayed:  # what ended a moment ago has said more than has come: its host tells, also if that is this one
            return True
        if attempt.is_here:
            with suppress(machine.HiddenProcessError):
                return machine.process_identity(attempt.pid) == attempt.process
        return self.gave_a_sign(attempt, EXPIRY_SECONDS)

    def gave_a_sign(self, attempt: Attempt, seconds: float) -> bool:
        """Whether its heartbeat, or else its record, was written so few seconds ago.

        Raises:
            MissingKeyError: neither is there any more.
        """
        ages = self._store.in_parallel(
            [partial(self._age, key) for key in (self._paths.heartbeat(attempt.id), self._key(attempt))]
        )
        age = ages[0] if ages[0] is not None else ages[1]
        if age is None:
            raise MissingKeyError(f"{self._uri}: attempt {attempt.id} is gone")
        # Far in the future is as telling as far in the past: the clock of a shared folder is wrong. claim() looks closer.
        return bool(abs(age) < seconds)

    def state(self, attempts: list[Attempt]) -> tuple[State, Attempt | None, Reason | None]:
        """The job's state, from the newest of its attempts, with the reason for which that ended."""
        if not attempts:
            return State.QUEUED, None, None
        last = from_the_owner(attempts)
        alive = self._store.in_parallel([partial(self.alive, attempt) for attempt in last])
        # Who has died before it took the job has changed nothing.
        dead = last[0] if last[0].has_taken_the_job else last[-1]
        attempt = next((attempt for attempt, lives in zip(last, alive) if lives), dead)
        if attempt.reason is not None:
            reason = Reason(attempt.reason)
            return reason.ending.state, attempt, reason
        return (State.RUNNING if any(alive) else State.LOST), attempt, None

    def _read(self, name: str) -> Attempt:
        self._fetch([name])
        if name not in self._known:
            raise MissingKeyError(f"{self._uri}: there is no attempt {name}")
        return self._known[name]

    def _bytes(self, key: str) -> bytes | DamagedObjectError | None:
        try:
            return read(self._store, key)
        except MissingKeyError:
            return None
        except DamagedObjectError as error:
            return error

    def _parsed(self, name: str, record: bytes | DamagedObjectError) -> Attempt:
        with suppress(ValidationError):
            if not isinstance(record, DamagedObjectError):
                attempt = read_as(Attempt, record)
                if attempt.id == name and attempt.reason in (None, *Reason._value2member_map_):
                    return attempt
        raise DamagedObjectError(f"{self._uri}: the record of attempt {name} is damaged, or of another version of lastrun")

    def _age(self, key: str) -> float | None:
        with suppress(MissingKeyError):
            return self._store.age(key)
        return None

    def _places(self, name: str) -> tuple[str, str, str]:
        """Where a record may be, and which of them counts: a request that comes late writes what one has been, never over what
        it has become. Older versions wrote ends to ``attempt.json``."""
        return self._paths.end(name), self._paths.attempt(name), self._paths.claim(name)

    def _key(self, attempt: Attempt) -> str:
        end, record, claim = self._places(attempt.id)
        return end if attempt.phase in _FINAL_PHASES else record if attempt.has_taken_the_job else claim
