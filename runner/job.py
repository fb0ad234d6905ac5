"""Job: all that the store keeps of one job, and every key of it.

.index/<time, backwards>-JOB-ID       empty; so that the newest of many jobs stand first in one listing
JOB-ID/job.json                       the resolved spec with origins; written once
JOB-ID/attempts/0003-<id>/            attempt.json, heartbeat.json, log/000017.txt, metrics.jsonl, events/
JOB-ID/checkpoints/<step>-<attempt>/  files, then MANIFEST.json last
"""

from __future__ import annotations

import contextlib
import json
import re
import secrets
import shlex
import shutil
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field, FiniteFloat, TypeAdapter, ValidationError, field_validator

from last_e.config import is_pinned
from last_e.manifest import MANIFEST, DamagedCheckpoint, Manifest, to_keep, verify
from last_e.metrics import read_metrics
from runner import machine
from runner.errors import DamagedObjectError, MissingKeyError, NoSuchJobError, Reason, State, StoreError, UsageError
from runner.store import Store, StoreUri, default_store, open_store
from runner.sync import ATTEMPT_RECORD, OPEN_PHASES, Outbox
from runner.waits import WAITS

FORMAT = 1
INDEX = ".index/"
HEARTBEAT_SECONDS, EXPIRY_SECONDS = WAITS.heartbeat, WAITS.expiry
_ID = re.compile(r"[a-z0-9][a-z0-9-]{0,80}")


@dataclass
class Attempt:
    """One stretch of a job on one machine (``attempt.json``); written by that attempt, and by whoever finds it dead
    beyond doubt before it could write its end (see :mod:`runner.containers`)."""

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
    """Its container, if it runs in one: ``name``, ``token`` (a label of it), ``engine`` and ``image`` (digest); ``device``
    ``cuda`` if it was given a GPU; on an engine of the same machine also ``scratch``, the folder for its files, and ``data``,
    where it has the data file."""
    env: str = ""
    versions: dict[str, str] = field(default_factory=dict)
    hardware: dict[str, Any] = field(default_factory=dict)
    changes: list[dict[str, Any]] = field(default_factory=list)
    supersedes: list[str] = field(default_factory=list)
    """Attempts that had not ended when this one took the job; whatever they still write is not followed."""
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
        return int(self.id.partition("-")[0])

    def __str__(self) -> str:
        place = f"process {self.pid}" if self.container is None else f"container {self.container.get('name')}"
        return f"attempt {self.number} on {self.host} ({place})"

    @property
    def open(self) -> bool:
        """Whether it claims the job, or did when it was last heard of."""
        return self.phase in OPEN_PHASES

    def superseded_by(self, others: Iterable[Attempt]) -> bool:
        """Whether one of the job's attempts has taken the job from this one."""
        return any(self.id in other.supersedes and other.phase != "claiming" for other in others)


@dataclass(frozen=True)
class Stored:
    """A checkpoint in the store."""

    name: str
    manifest: Manifest

    @property
    def attempt(self) -> str:
        """The attempt that wrote it."""
        return self.name.split("-", 1)[1]

    @property
    def order(self) -> tuple[Any, ...]:
        """Later in training is larger; of equals, the one of the later attempt."""
        return (*self.manifest.order, self.attempt)


class _Record(BaseModel):
    """``job.json``."""

    id: str
    name: str
    created_at: float = Field(ge=0, le=1e11, allow_inf_nan=False)
    config: dict[str, Any]
    origins: dict[str, str]

    @field_validator("config")
    @classmethod
    def _complete(cls, config: dict[str, Any]) -> dict[str, Any]:
        for key, kind in {"model.variant": str, "dataset": str, "split_type": str, "env": str, "training.epochs": int}.items():
            if not isinstance(config.get(key), kind):
                raise ValueError(key)
        return config


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


_ATTEMPT, _BEAT, _RECORD = TypeAdapter(Attempt), TypeAdapter(_Beat), TypeAdapter(_Record)
_ATTEMPT_ID = re.compile(r"[0-9]{4,6}-[0-9a-f]{2,16}")


class Job:
    """One job in a store."""

    def __init__(self, store: Store, job_id: str) -> None:
        self.store, self.id = store, job_id
        self.uri = str(StoreUri.parse(store.uri).child(job_id))

    @property
    def reference(self) -> str:
        """What a command needs to find the job: its ID, with the store where that is not the default one."""
        return self.id if str(StoreUri.parse(default_store())) == self.store.uri else shlex.quote(self.uri)

    @property
    def index_key(self) -> str:
        """Its place in the index: the later it was made, the earlier it stands."""
        day, second = self.id.split("-")[-3:-1]
        return f"{INDEX}{99_999_999_999_999 - int(day + second)}-{self.id}"

    # --- the record ---------------------------------------------------------------------------------------------

    @classmethod
    def create(cls, store: Store, name: str, config: dict[str, Any], origins: dict[str, str], version: str) -> Job:
        """Write a new job's record."""
        stamp = time.strftime("%Y%m%d-%H%M%S", time.gmtime())
        job = cls(store, f"{name}-{stamp}-{secrets.token_hex(2)}")
        record = {
            "format": FORMAT,
            "id": job.id,
            "name": name,
            "created_at": time.time(),
            "lastrun": version,
            "config": config,
            "origins": origins,
        }
        store.put(job.index_key, b"")  # first: an entry without a job is passed over
        store.put(job.key("job.json"), _dump(record))
        return job

    def record(self) -> dict[str, Any]:
        """What ``job.json`` says.

        Raises:
            NoSuchJobError: there is no such job.
            StoreError: it is unreadable.
        """
        try:
            record = self._json("job.json")
        except MissingKeyError:
            raise NoSuchJobError(f"no job {self.id} in {self.store.uri}; lastrun list shows those there are") from None
        if record.get("format") != FORMAT:
            raise StoreError(f"{self.uri}: job.json has format {record.get('format')}; this version reads {FORMAT}")
        try:
            return _RECORD.validate_json(json.dumps(record), strict=True).model_dump()
        except ValidationError:
            raise StoreError(f"{self.uri}: job.json is damaged") from None

    def settings(self) -> tuple[dict[str, Any], dict[str, str], list[str]]:
        """The flat configuration that the next attempt begins with, the origin of each value, and which keys differ from
        the job's record: what decides learning and was changed with ``--allow-change`` stays changed."""
        record = self.record()
        config: dict[str, Any] = record["config"]
        origins: dict[str, str] = record["origins"]
        changed: list[str] = []
        for attempt in self.attempts():
            for change in attempt.changes:
                key = str(change.get("key"))
                if key in config and is_pinned(key):
                    config[key], origins[key] = change.get("after"), f"attempt {attempt.number}"
                    changed.append(key)
        return config, origins, changed

    def key(self, *parts: str) -> str:
        """A key of this job."""
        return "/".join((self.id, *parts))

    def delete(self) -> int:
        """Delete everything; the record goes first, so that what is left of a cut deletion is no job. Returns how many."""
        keys = [entry.key for entry in self.store.scan(f"{self.id}/")]
        self.store.delete([self.key("job.json")])
        self.store.clear(f"{self.id}/")
        with contextlib.suppress(ValueError):  # an ID that was not made here
            self.store.delete([self.index_key])
        return len(keys)

    # --- attempts -------------------------------------------------------------------------------------------------

    def attempts(self) -> list[Attempt]:
        """All attempts, oldest first; those that withdrew are left out."""
        found = []
        for name in filter(_ATTEMPT_ID.fullmatch, self.store.folders(self.key("attempts/"))):
            try:
                found.append(self._attempt(name))
            except MissingKeyError:
                continue
        return [attempt for attempt in sorted(found, key=lambda a: (a.number, a.id)) if attempt.phase != "withdrawn"]

    def _attempt(self, name: str) -> Attempt:
        try:
            attempt = _ATTEMPT.validate_json(json.dumps(self._json("attempts", name, ATTEMPT_RECORD)), strict=True)
            if attempt.id == name and attempt.reason in (None, *Reason._value2member_map_):
                return attempt
        except ValidationError:
            pass
        raise StoreError(f"{self.uri}: the record of attempt {name} is damaged, or of another version of lastrun")

    def next_number(self) -> int:
        """The number for a new attempt: one more than the largest, withdrawn ones included."""
        names = filter(_ATTEMPT_ID.fullmatch, self.store.folders(self.key("attempts/")))
        return 1 + max((int(name.split("-")[0]) for name in names), default=0)

    def write_attempt(self, attempt: Attempt) -> None:
        """Write an attempt's own record."""
        self.store.put(*self.attempt_bytes(attempt))

    def attempt_bytes(self, attempt: Attempt) -> tuple[str, bytes]:
        """Key and content of an attempt's record."""
        return self.key("attempts", attempt.id, ATTEMPT_RECORD), _dump(asdict(attempt))

    def ask_to_stop(self, now: bool) -> None:
        """Ask whoever runs the job to save and leave, or to leave at once."""
        self.store.put(self.key("requests", f"{secrets.token_hex(8)}.json"), _dump({"stop": "now" if now else "save"}))

    def request_keys(self) -> list[str]:
        """The key of every stop request that was ever made."""
        return [entry.key for entry in self.store.scan(self.key("requests") + "/") if entry.key.endswith(".json")]

    def requests(self, known: Collection[str]) -> dict[str, str]:
        """Stop requests but for those that are ``known``: their keys and ``now`` or ``save``; an unreadable one is none."""
        found = {}
        for key in self.request_keys():
            if key not in known:
                with contextlib.suppress(MissingKeyError, DamagedObjectError):
                    found[key] = str(self._json(*key.split("/")[1:]).get("stop"))
        return found

    def write_heartbeat(self, attempt: Attempt, progress: dict[str, Any]) -> None:
        """Tell that an attempt lives, and how far it is."""
        self.store.put(self.key("attempts", attempt.id, "heartbeat.json"), _dump({"time": time.time(), **progress}))

    def heartbeat(self, attempt: Attempt) -> dict[str, Any]:
        """The last heartbeat of an attempt; empty before the first."""
        try:
            beat = self._json("attempts", attempt.id, "heartbeat.json")
            return _BEAT.validate_json(json.dumps(beat), strict=True).model_dump()
        except (MissingKeyError, ValidationError):
            return {}

    def alive(self, attempt: Attempt) -> bool:
        """Whether an attempt that has not ended is at work: its process if it ran on this machine, else its heartbeat."""
        if not attempt.open:
            return False
        if attempt.machine == machine.identity():
            return machine.process_identity(attempt.pid) == attempt.process
        try:
            age = self.store.age(self.key("attempts", attempt.id, "heartbeat.json"))
        except MissingKeyError:
            age = self.store.age(self.key("attempts", attempt.id, ATTEMPT_RECORD))
        # Far in the future is as telling as far in the past: the clock of a shared folder is wrong. claim() looks closer.
        return abs(age) < EXPIRY_SECONDS

    def state(self, attempts: list[Attempt] | None = None) -> tuple[State, Attempt | None, Reason | None]:
        """The job's state, from its newest attempt, with the reason for which that ended.

        ``attempts`` are the job's, where they have been read already.
        """
        attempts = self.attempts() if attempts is None else attempts
        if any(attempt.open and attempt.container for attempt in attempts):
            from runner.containers import settle

            attempts = settle(self, attempts)
        if not attempts:
            return State.QUEUED, None, None
        superseded = {old for attempt in attempts for old in attempt.supersedes}
        attempts = [attempt for attempt in attempts if attempt.id not in superseded]
        attempt = next((a for a in attempts if self.alive(a)), attempts[-1])
        if attempt.reason is not None:
            reason = Reason(attempt.reason)
            return reason.ending.state, attempt, reason
        return (State.RUNNING if self.alive(attempt) else State.LOST), attempt, None

    # --- checkpoints ------------------------------------------------------------------------------------------------

    def checkpoints(self, say: Callable[[str], None] = lambda _: None) -> list[Stored]:
        """Checkpoints that have a readable manifest, oldest first."""
        followed = self._followed()
        return sorted((stored for stored in self._stored(say) if followed(stored)), key=lambda stored: stored.order)

    def _stored(self, say: Callable[[str], None]) -> Iterator[Stored]:
        """Checkpoints that have a readable manifest, whoever wrote them."""
        for name in self.store.folders(self.key("checkpoints/")):
            try:
                manifest = Manifest.from_json(self.store.get(self.key("checkpoints", name, MANIFEST)))
            except MissingKeyError:
                continue  # never finished
            except (DamagedCheckpoint, DamagedObjectError) as error:
                say(f"skipping checkpoint {name}: {error}")
                continue
            if "-" in name:
                yield Stored(name, manifest)

    def _followed(self) -> Callable[[Stored], bool]:
        """Whether a checkpoint counts: an old writer that comes back after another attempt has begun changes nothing."""
        newest = next((a for a in reversed(self.attempts()) if a.inherited is not None and a.phase != "claiming"), None)
        if newest is None:
            return lambda stored: True
        names = set(newest.inherited or [])
        return lambda stored: stored.name in names or stored.attempt >= newest.id

    def post_checkpoint(self, folder: Path, attempt: Attempt, outbox: Outbox) -> Stored:
        """Have a whole checkpoint sent, its manifest last."""
        manifest = verify(folder)
        # An end of epoch may be stored twice by one attempt, before and after its test.
        name = f"{manifest.step:08d}{'e' if manifest.evaluated else ''}-{attempt.id}"
        keys = [self.key("checkpoints", name, file) for file in manifest.files]
        try:
            for key, file in zip(keys, manifest.files):
                outbox.put_file(key, folder / file)
        except FileNotFoundError:
            outbox.drop(keys)
            raise
        outbox.put(self.key("checkpoints", name, MANIFEST), manifest.to_json().encode())
        return Stored(name, manifest)

    def fetch_newest_checkpoint(
        self, folder: Path, say: Callable[[str], None], bad: Collection[str] = ()
    ) -> tuple[Path, Stored] | None:
        """Download the newest checkpoint whose bytes are what was written; a damaged one is skipped with a word.

        ``bad`` names those that the trainer could make nothing of.
        """
        for stored in reversed(self.checkpoints(say)):
            if stored.name in bad:
                continue
            target = folder / f"step-{stored.manifest.step:08d}"
            target.mkdir(parents=True, exist_ok=True)
            prefix = self.key("checkpoints", stored.name) + "/"
            sizes = {entry.key.removeprefix(prefix): entry.size for entry in self.store.scan(prefix)}
            try:
                for file, expected in stored.manifest.files.items():
                    if sizes.get(file) != expected.size:  # before a huge one fills the disk
                        raise DamagedCheckpoint(f"{file} has {sizes.get(file, 'no')} bytes, not {expected.size}")
                    self.store.get_file(prefix + file, target / file)
                (target / MANIFEST).write_text(stored.manifest.to_json())
                verify(target)
            except (DamagedCheckpoint, MissingKeyError, DamagedObjectError) as error:
                say(f"skipping checkpoint {stored.name}: {error}")
                shutil.rmtree(target, ignore_errors=True)
                continue
            return target, stored
        return None

    def sweep_unfinished(self) -> None:
        """Delete what attempts that are gone left to nobody: checkpoints whose manifest never came, or which came too late to
        be followed, and objects half-written."""
        alive = {attempt.id for attempt in self.attempts() if self.alive(attempt)}
        for name, keys in self._without_manifest().items():
            if name.partition("-")[2] not in alive:
                self.store.delete(keys)
        followed = self._followed()
        for stored in self._stored(lambda _: None):
            if stored.attempt not in alive and not followed(stored):
                self._delete_checkpoint(stored)
        self.store.sweep(
            f"{self.id}/", keep=lambda key: any(f"-{attempt}/" in key or f"/{attempt}/" in key for attempt in alive)
        )

    def prune_checkpoints(self, keep_last: int, by: Attempt) -> None:
        """Delete this job's checkpoints that the retention rule does not keep, manifests first.

        The one that an attempt went on from stays as long as the attempt has not ended, whoever prunes. An attempt from which
        another has taken the job deletes nothing, though nobody has told it yet. What an earlier call of this attempt's began
        to delete is deleted too.
        """
        remains = self._without_manifest()
        found, attempts = self.checkpoints(), self.attempts()
        if by.superseded_by(attempts):
            return
        newest = max((stored.name for stored in found if stored.attempt == by.id), default="")
        for name, keys in remains.items():
            if name.partition("-")[2] == by.id and name < newest:  # uploads go in order: a later one is on its way
                self.store.delete(keys)
        origins = {attempt.resumed_from for attempt in attempts if attempt.open}
        for stored, keep in zip(found, to_keep([s.manifest for s in found], keep_last)):
            if not keep and stored.name not in origins:
                self._delete_checkpoint(stored)

    def _without_manifest(self) -> dict[str, list[str]]:
        """The objects of checkpoints that nobody takes for one, by name: on their way, never finished, or partly deleted."""
        parts: dict[str, list[str]] = {}
        for entry in self.store.scan(self.key("checkpoints") + "/"):
            parts.setdefault(entry.key.split("/")[2], []).append(entry.key)
        return {name: keys for name, keys in parts.items() if self.key("checkpoints", name, MANIFEST) not in keys}

    def _delete_checkpoint(self, stored: Stored) -> None:
        """Its manifest first, so that nobody takes what is left for whole."""
        names = [MANIFEST, *stored.manifest.files]
        self.store.delete(self.key("checkpoints", stored.name, name) for name in names)

    # --- what people read ---------------------------------------------------------------------------------------------

    def metrics(self) -> list[dict[str, Any]]:
        """One line per epoch; an attempt's lines replace those of the epochs that it trained again."""
        merged: list[dict[str, Any]] = []
        for attempt in self.attempts():
            try:
                text = self.store.get(self.key("attempts", attempt.id, "metrics.jsonl")).decode("utf-8", "replace")
            except MissingKeyError:
                continue
            lines = read_metrics(text)
            merged = [m for m in merged if m["epoch"] <= attempt.resumed_epoch] + lines
        return merged

    def log(self, seen: set[str] | None = None) -> Iterator[str]:
        """The log of all attempts, piece by piece; of those in ``seen`` nothing again, and it is added to."""
        seen = set() if seen is None else seen
        for attempt in self.attempts():
            if attempt.id not in seen and attempt.phase != "claiming":
                seen.add(attempt.id)
                yield f"--- attempt {attempt.number} on {attempt.host} ({attempt.env or 'starting'})\n"
            for entry in self.store.scan(self.key("attempts", attempt.id, "log") + "/"):
                if entry.key not in seen:
                    seen.add(entry.key)
                    yield self.store.get(entry.key).decode("utf-8", "replace")

    def _json(self, *parts: str) -> dict[str, Any]:
        key = self.key(*parts)
        try:
            values = json.loads(self.store.get(key))
        except (ValueError, RecursionError):
            raise DamagedObjectError(f"{self.store.uri}: {key} is damaged: it is not JSON") from None
        if not isinstance(values, dict):
            raise DamagedObjectError(f"{self.store.uri}: {key} is damaged: it is not a JSON object")
        return values


def find_job(name: str, store_uri: str | None, whole: bool = False) -> Job:
    """The job that a person means: its ID, the unique beginning of one (unless it has to be ``whole``), or ``STORE/JOB-ID``.

    Raises:
        NoSuchJobError: none or several.
    """
    if "/" in name:
        parent, name = StoreUri.parse(name).parent()
        store = open_store(parent)
    else:
        store = open_store(store_uri or default_store())
    if not _ID.fullmatch(name):
        raise UsageError(f"job {name!r}: an ID has lower-case letters, digits and dashes only")
    with contextlib.suppress(NoSuchJobError):  # a whole ID needs no listing of a store that may hold thousands
        Job(store, name).record()
        return Job(store, name)
    names = sorted({job.id for job in list_jobs(store) if job.id.startswith(name)})
    if whole and names:
        raise UsageError(f"{name}: this takes a whole ID, such as {names[0]}")
    if len(names) > 1:
        raise NoSuchJobError(f"{name} could be any of {', '.join(names[:5])}{' ...' if len(names) > 5 else ''}")
    job = Job(store, names[0] if names else name)
    job.record()
    return job


def list_jobs(store: Store) -> Iterator[Job]:
    """All jobs of a store, newest first, by its index; one that is being made or deleted may be among them."""
    ids = (entry.key.partition("-")[2] for entry in store.scan(INDEX))
    return (Job(store, job_id) for job_id in ids if _ID.fullmatch(job_id))


def _dump(value: dict[str, Any]) -> bytes:
    return (json.dumps(value, indent=1) + "\n").encode()
