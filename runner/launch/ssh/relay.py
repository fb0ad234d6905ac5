"""A store that is a folder here, for an attempt on a host that does not have it (``--relay``).

The attempt has a copy of its job there for a store. All that it writes is fetched into the folder here, in the order that
keeps a store's rules: what a checkpoint consists of, its manifest, and the attempt's end when all else is there. Stop requests
and later attempts go the other way. What was cut off is gone on with by the next call, whoever makes it: each compares what is
here with what is there, and nothing has to be remembered.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import re
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from io import BytesIO
from typing import Any

from last_e.manifest import MANIFEST, to_keep
from runner.attempt.outbox import manifests_last
from runner.errors import EngineError, LastrunError, MissingKeyError, UsageError
from runner.job.attempts import Attempt
from runner.job.checkpoints import counted
from runner.job.job import Job
from runner.job.paths import ATTEMPT_ID, END_RECORD, attempt_of, attempt_order
from runner.launch.ssh import notes
from runner.launch.ssh.connection import BEGIN, CUT, SECONDS, CutError, environment, last_error
from runner.launch.ssh.relayed import digest, read_object, write_object
from runner.launch.ssh.setup import Host
from runner.store.directory import DirectoryStore
from runner.store.uri import StoreUri
from runner.waits import WAITS

RECORDS = re.compile(r"[^/]+/attempts/[^/]+/((claim|attempt|end)\.json|metrics\.jsonl)")
OF_AN_ATTEMPT = re.compile(
    r"((claim|attempt|end)\.json|metrics\.jsonl|predictions\.safetensors|report\.html|log/[0-9]{6}\.txt"
    r"|steps/[0-9]{6}\.jsonl|(events|told)/[^/]+)"
)
_AT_ONCE = 8 << 20
_SLOWEST = 20_000
"""Bytes in a second: a network that brings less is given up, and what has come is kept."""
_TRIES, _AGAIN_SECONDS = 5, 2.0
_SILENT_SECONDS = 30.0
GONE = "lastrun sync {job} once it is back; if it is gone for good, lastrun resume {job} --takeover goes on from what is here"
"""What to do about a host that is not reached and keeps a job."""
_silent: dict[str, tuple[float, str]] = {}
"""Hosts that were just not reached: until when they are not asked again by the way, and why."""


@dataclass(frozen=True)
class Relay:
    """Of one attempt.

    Args:
        job: whose it is, in the folder here.
        host: where it runs.
        name: of the copy there (:func:`name_of`).
        token: what the attempt's ID ends with.
    """

    job: Job
    host: Host
    name: str
    token: str

    def push(self) -> StoreUri:
        """Bring what an attempt needs into the copy, before there is one; returns where that is.

        Raises:
            EngineError: the host is not reached, or has no room.
        """
        store, paths = self.job.store, self.job.paths
        found = self._asked("")
        keys = [entry.key for entry in store.scan(paths.attempts) if RECORDS.fullmatch(entry.key)]
        for stored in self.job.checkpoints.all():
            keys += [paths.checkpoint(stored.name, file) for file in [*stored.manifest.files, MANIFEST]]
        self._send([paths.init, paths.record, *keys, *self.job.requests.keys()], found)
        return StoreUri.parse(found["root"])

    def pull(self, *, wait: bool = True) -> int | None:
        """Fetch what has come, and hand on what was asked here; returns how many objects came. None: somebody else is at it
        (with ``wait`` that is waited for), or all of it is here.

        Raises:
            LastrunError: the host is not reached, or the folder here cannot be written; what has come whole stays.
        """
        with _alone(self.token, wait) as alone:
            if not alone:
                return None
            found = self._asked(self.token)
            self._hand_on(found)
            came = 0 if found["id"] is None else self._fetch(found)
            if not found["alive"] and found["known"] and self._is_over(found["id"]):
                self.drop()
            return came

    def drop(self) -> None:
        """Nothing of it is needed any more.

        Raises:
            EngineError: the host is not reached.
        """
        self.host.call("relay-drop", self.name)
        notes.forget(self.token)

    def to_the_end(self) -> None:
        """The same when the attempt has ended, over as many connections as that takes.

        Raises:
            EngineError: not all of it comes.
        """
        for last in [False] * (_TRIES - 1) + [True]:
            try:
                self.pull()
                return
            except EngineError as error:
                if last:
                    fetches = f"what it has kept there is fetched by lastrun sync {self.job.reference}"
                    raise EngineError(f"{error}; {fetches}") from None
                time.sleep(_AGAIN_SECONDS)

    def _asked(self, token: str) -> dict[str, Any]:
        attempt = self.job.attempts.of(token) if token else None
        logs = 0
        if attempt is not None:
            here = {entry.key for entry in self.job.store.scan(self.job.paths.attempt(attempt.id, "log", ""))}
            while self.job.paths.log(attempt.id, logs + 1) in here:
                logs += 1
        found = self.host.ask("relay-tell", self.name, self.job.id, token, str(logs))
        own = found["id"]
        if own is not None and not (ATTEMPT_ID.fullmatch(own) and own.endswith(f"-{token}")):
            raise EngineError(
                f"{self.host.connection.host}: it tells of attempt {own}, which was not begun there; nothing was fetched"
            )
        return found

    def _is_over(self, attempt_id: str | None) -> bool:
        if attempt_id is None:  # it has ended before it had the job
            return True
        attempt = Job(self.job.store, self.job.id).attempts.of(self.token)
        return attempt is None or not attempt.open

    def _hand_on(self, found: dict[str, Any]) -> None:
        """Requests, and attempts that have claimed the job since: it is told by its own heart what they mean."""
        keys = self.job.requests.keys()
        if found["id"] is not None:
            for entry in self.job.store.scan(self.job.paths.attempts):
                if RECORDS.fullmatch(entry.key) and attempt_order(attempt_of(entry.key)) > attempt_order(found["id"]):
                    keys.append(entry.key)
        self._send(keys, found)

    def _send(self, keys: Iterable[str], found: dict[str, Any]) -> None:
        """What is not there yet, some at a time: what has got there stays."""
        there = {key: (size, told) for key, size, told in found["objects"]}
        waiting = BytesIO()
        for key in keys:
            with suppress(MissingKeyError):  # deleted meanwhile
                data = self.job.store.get(key)
                if there.get(key) not in ((len(data), digest(data)), (len(data), None)):
                    write_object(waiting, key, data)
            if waiting.tell() > _AT_ONCE:
                self._give(waiting.getvalue())
                waiting = BytesIO()
        if waiting.tell():
            self._give(waiting.getvalue())

    def _give(self, data: bytes) -> None:
        self.host.call("relay-take", self.name, self.job.id, data=data, seconds=SECONDS + len(data) / _SLOWEST)

    def _fetch(self, found: dict[str, Any]) -> int:
        """What is there and not here, of this attempt alone: a host writes nothing else of the job."""
        job = Job(self.job.store, self.job.id)
        own, paths, store = found["id"], job.paths, job.store
        attempts = job.attempts.all()
        mine = next((attempt for attempt in attempts if attempt.id == own), None)
        follows = mine is None or not mine.superseded_by(attempts)  # else its checkpoints are nobody's
        here = {entry.key: entry.size for top in (paths.attempt(own, ""), paths.checkpoints) for entry in store.scan(top)}
        of_a_checkpoint = re.compile(rf"{re.escape(paths.checkpoints)}([0-9]+e?-{own})/[^/]+")
        keys = []
        for key, size, told in found["objects"]:
            if key.startswith(paths.attempt(own, "")):
                if not OF_AN_ATTEMPT.fullmatch(key.removeprefix(paths.attempt(own, ""))):
                    continue
                if found["alive"] and key.endswith(f"/{END_RECORD}"):  # it is told when it writes nothing more
                    continue
                if here.get(key) != size or (told is not None and digest(store.get(key)) != told):
                    keys.append(key)
            elif (its := of_a_checkpoint.fullmatch(key)) and follows and paths.checkpoint(its[1]) not in here:
                keys += [key] if here.get(key) != size else []
        keys.sort(key=manifests_last)
        if found["alive"]:  # last, since its age says when all was here
            keys.append(paths.heartbeat(own))
        came = self._stream(keys, sum(size for key, size, _ in found["objects"] if key in keys))
        if follows:
            prune(job, own, {key.split("/")[2] for key, _, _ in found["objects"] if key.endswith(f"/{MANIFEST}")})
        return came - int(bool(found["alive"]))

    def _stream(self, keys: list[str], size: int) -> int:
        """Fetch objects in this order, and put each when it is whole."""
        wanted, came = set(keys), 0
        command = self.host.connection.command(self.host.script("relay-give", self.name, self.job.id))
        with tempfile.TemporaryFile() as errors:
            process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                start_new_session=True,
                env=environment(),
            )
            assert process.stdin is not None
            assert process.stdout is not None
            timer = threading.Timer(SECONDS + size / _SLOWEST, process.kill)
            timer.start()
            try:
                with suppress(BrokenPipeError), process.stdin as pipe:
                    pipe.write(json.dumps({"keys": keys}).encode() + b"\n")
                while (line := process.stdout.readline()) and line != BEGIN:
                    pass
                with suppress(UsageError):  # its code says that it broke
                    while (found := read_object(process.stdout)) is not None:
                        if found[0] in wanted:
                            self.job.store.put(*found)
                            came += 1
            finally:
                timer.cancel()
                process.stdout.close()
                code = process.wait()
            errors.seek(0)
            said = errors.read()
        if code == CUT or code < 0:
            raise self.host.connection.explained(said)
        if code != 0:
            raise EngineError(f"{self.host.connection.host}: {last_error(said) or f'it ended with code {code}'}")
        return came


class Fetching(threading.Thread):
    """Fetches what comes as long as an attempt is followed; a connection that breaks is told of by who follows."""

    def __init__(self, relay: Relay) -> None:
        super().__init__(name="relay", daemon=True)
        self._relay, self._over = relay, threading.Event()
        self.start()

    def run(self) -> None:
        """On its thread, until :meth:`stop`."""
        while True:
            with suppress(LastrunError, OSError):
                self._relay.pull(wait=False)
            if self._over.wait(WAITS.heartbeat):
                return

    def stop(self) -> None:
        """No more."""
        self._over.set()
        self.join()


def name_of(job: Job, token: str) -> str:
    """What the copy is called that an attempt has of its job: one of its own, which goes when it has been fetched."""
    return hashlib.sha256(f"{StoreUri.parse(job.store.uri).place} {job.id} {token}".encode()).hexdigest()[:32]


def of(job: Job, attempt: Attempt) -> Relay | None:
    """Of an open attempt that was started from here with one: its host is asked, whatever the store says."""
    token = str((attempt.container or {}).get("token"))
    note = notes.read(token) if attempt.is_relayed else None
    if note is None or not note["relay"]:
        return None
    return Relay(job, Host(note["host"], note["folder"]), note["relay"], token)


def settle(job: Job, attempt: Attempt) -> Attempt | None:
    """What its host has of an open attempt, by the way: one that was just heard of is not asked again, and neither is a host
    that was just not reached.

    Raises:
        LastrunError: it is not reached.
    """
    relay = of(job, attempt)
    if relay is None or job.attempts.gave_a_sign(attempt, WAITS.heartbeat):
        return attempt
    host = relay.host.connection.host
    until, why = _silent.get(host, (0.0, ""))
    if time.monotonic() < until:
        raise CutError(why)
    try:
        relay.pull(wait=False)
        _silent.pop(host, None)
    except CutError as error:
        _silent[host] = (time.monotonic() + _SILENT_SECONDS, str(error))
        raise
    return job.attempts.again(attempt)


def relays(job: Job) -> list[Relay]:
    """Of all open attempts of a job that have one and were started from here."""
    if not isinstance(job.store, DirectoryStore) or not notes.has_relays():
        return []
    return [relay for attempt in job.attempts.all() if attempt.open and (relay := of(job, attempt)) is not None]


def fetch(job: Job) -> None:
    """What hosts have of a job, by the way; :func:`settle` says when."""
    for relay in relays(job):
        attempt = job.attempts.of(relay.token)
        with suppress(LastrunError):
            if attempt is not None:
                settle(job, attempt)


def deliver(job: Job) -> list[str]:
    """Hand on at once what was asked of a job here; returns why it does not get there."""
    told = []
    for relay in relays(job):
        try:
            relay.pull()
        except LastrunError as error:
            told.append(f"{error}; it is told once it is heard of again: {GONE.format(job=job.reference)}")
    return told


def end_all(job: Job) -> list[str]:
    """End what runs with a relay, and fetch all that it had, since somebody takes the job; returns what could not be."""
    told = []
    for relay in relays(job):
        try:
            relay.host.call("end", relay.token)
            relay.pull()
        except LastrunError as error:
            told.append(
                f"{error}; going on from what is here. What is trained there since is not followed, and ends when "
                f"lastrun sync {job.reference} reaches it"
            )
    return told


def last_heard(job: Job, attempt: Attempt) -> float | None:
    """Seconds since all that an open attempt with a relay had was here; None: it has none."""
    if not (attempt.open and attempt.is_relayed):
        return None
    for key in (job.paths.heartbeat(attempt.id), job.paths.attempt(attempt.id), job.paths.claim(attempt.id)):
        with suppress(MissingKeyError):
            return job.store.age(key)
    return None


def why_silent(attempt: Attempt) -> str:
    """Why nothing was heard just now of an attempt with a relay; empty: there is no reason."""
    if attempt.launcher != "ssh":
        return ""
    note = notes.read(str((attempt.container or {}).get("token")))
    return _silent.get(note["host"], (0.0, ""))[1] if note else "it was not started from this machine"


def words(job: Job, attempt: Attempt) -> str:
    """What to say of a job that is kept elsewhere to who would take it; empty where it is not."""
    heard = last_heard(job, attempt)
    if heard is None:
        return ""
    from last_e.text import seconds_text

    why = why_silent(attempt)
    silent = f" ({why})" if why else ""
    return (
        f", which keeps it there and was last heard of {seconds_text(max(0.0, heard))} ago{silent}: what it has trained since "
        f"is not here, and not gone on with if you take it"
    )


@contextmanager
def _alone(token: str, wait: bool) -> Iterator[bool]:
    """One process of this user at a time; False: another is at it, or it is over."""
    try:
        file = notes.place(token).open("rb")
    except FileNotFoundError:
        yield False
        return
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield notes.place(token).exists()  # who had it may have fetched all


def prune(job: Job, attempt_id: str, there: set[str]) -> None:
    """Delete what the attempt has deleted there: what it knows of, what is not there any more, and what no rule keeps here."""
    attempts = job.attempts.all()
    mine = next((attempt for attempt in attempts if attempt.id == attempt_id), None)
    if mine is None or mine.superseded_by(attempts):
        return
    found = counted(job.checkpoints.written(), attempts)
    keeping = zip(found, to_keep([one.manifest for one in found], int(job.record()["config"]["checkpoint.keep_last"])))
    known = {*(mine.inherited or []), *(one.name for one in found if one.attempt == attempt_id)}
    job.checkpoints.delete([one for one, keep in keeping if not keep and one.name in known and one.name not in there])
