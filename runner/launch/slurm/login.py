"""The Slurm of a login node that ssh reaches: the launcher of that machine, called there by this very version."""

from __future__ import annotations

import base64
import math
import os
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from typing import Any, TextIO

from last_e.text import plain
from runner.errors import ClaimedError, EngineError, PausedError
from runner.job.attempts import Attempt
from runner.job.job import Job
from runner.launch.slurm.cluster import LOOK_SECONDS, PIECE_BYTES
from runner.launch.slurm.launcher import how_it_waits, settled_by
from runner.launch.slurm.queue import Queued
from runner.launch.slurm.started import StartedBatch
from runner.launch.ssh import notes
from runner.launch.ssh.connection import CutError
from runner.launch.ssh.launcher import look, say_of_host
from runner.launch.ssh.send import send
from runner.launch.ssh.sent import of_this_machine
from runner.launch.ssh.setup import Host
from runner.launch.ssh.started import only_looks_away
from runner.launch.variables import authority, see_that_they_are_set, values_elsewhere, wants_cpu
from runner.signals import interruptible
from runner.spec import JobSpec
from runner.store.uri import StoreUri
from runner.waits import VARIABLE, WAITS

_FAR = "runner.launch.slurm.far"
_SECONDS = 2 * WAITS.engine + 10
"""For what is asked beside something else."""
_HAND_OVER_SECONDS = 180.0


class LoginLauncher:
    """Has the login node hand attempts to its Slurm. See :class:`~runner.launch.protocol.Launcher`."""

    runs_here = False

    def __init__(self, config: JobSpec) -> None:
        assert config.run.host is not None
        self._config, self._cluster = config, _cluster(config.run.host, not wants_cpu(config))

    def preflight(self, store: str) -> None:
        """The login node says itself whether its Slurm takes the job, and whether the store and the data can be reached."""
        see_that_they_are_set(self._config)
        host = self._cluster.host
        if problems := look(host, store, self._config)["problems"]:
            raise EngineError("\n".join(f"{host.connection.host}: {problem}" for problem in problems))
        self._cluster.is_set_up = True

    def order(self, store: str, name: str) -> dict[str, str]:
        """It asks its own Slurm, by what it has itself."""
        return {"login node": self._cluster.host.connection.host}

    def start(self, job: Job, arguments: list[str], token: str, *, output: TextIO | None) -> StartedThere:
        """In the queue there."""
        handed = self._hand_over(job, arguments, token, None)
        return StartedThere(self._cluster, job, token, handed["id"], handed["log"], output)

    def line_up(self, job: Job, arguments: list[str], token: str, after: str | None) -> str:
        """The same, and nobody follows it."""
        return str(self._hand_over(job, arguments, token, after)["id"])

    def _hand_over(self, job: Job, arguments: list[str], token: str, after: str | None) -> dict[str, Any]:
        uri, _ = StoreUri.parse(job.uri).parent()
        if not self._cluster.is_set_up:  # the command that has seen it is another one
            self.preflight(str(uri))
        host = self._cluster.host
        given: dict[str, Any] = {
            "uri": job.uri,
            "config": self._config.model_dump(mode="json"),
            "arguments": arguments,
            "token": token,
            "after": after,
            "plain": {VARIABLE: os.environ[VARIABLE]} if os.environ.get(VARIABLE) else {},
            "given": values_elsewhere(uri, self._config),
            **authority(uri),
        }
        if (data := of_this_machine(self._config)) is not None:
            told = f"{job.id}: interrupted before it was in the queue; lastrun resume {job.reference} begins it"
            with interruptible(told):
                given["data"] = send(host, data, say_of_host)
        note = {"job": job.uri, "batch": ""}
        notes.write(token, host.connection.host, host.folder, **note)
        try:
            handed = host.ask("line_up", given=given, seconds=_HAND_OVER_SECONDS)
        except CutError as error:  # it may be in the queue all the same
            raise CutError(f"{error}; lastrun status {job.reference} tells whether it is in the queue all the same") from None
        except EngineError:
            notes.forget(token)
            raise
        if "claimed" in handed:
            notes.forget(token)
            raise ClaimedError(handed["claimed"])
        notes.write(token, host.connection.host, host.folder, **{**note, "batch": str(handed["id"])})
        return handed


def settle(job: Job, attempt: Attempt, note: dict[str, str]) -> Attempt | None:
    """Only of one that gives no sign is the login node asked."""
    if job.attempts.alive(attempt) and job.attempts.gave_a_sign(attempt, 3 * WAITS.heartbeat):
        return attempt
    found = settled_by(ThereCluster(_host(note)).look_now(note["batch"]), job, attempt)
    if found is not attempt:
        notes.forget(note["token"])
    return found


def waits(jobs: Sequence[Job]) -> dict[str, str]:
    """Why those of these jobs wait that do, by ID, or that one's Slurm job has started and its attempt has not. A login node is
    asked only where this user has handed a job over from here, and no more once that is over."""
    found: dict[str, str] = {}
    by_id = {job.id: job for job in jobs}
    for known in _by_host(jobs):
        asked: dict[str, list[str]] = {}
        for note in known:
            asked.setdefault(_id(note), []).extend([note["batch"]] if note["batch"] else [])
        host = _host(known[-1])
        told = host.ask("wait", given={"jobs": asked}, seconds=_SECONDS)
        found |= {str(job): plain(str(why)) for job, why in told["waits"].items()}
        for job, about in told.get("started", {}).items():  # what handed it over may be of a version that says no such thing
            restarts = partial(_restarts, host)
            if job in by_id and (words := how_it_waits(_queued(about), by_id[job], restarts)) is not None:
                found[job] = words
        for note in known:
            if note["batch"] in told["over"]:
                notes.forget(note["token"])
    return found


def _restarts(host: Host, id: str) -> int | None:
    told = host.ask("restarts", id, seconds=_SECONDS)["restarts"]
    return None if told is None else int(told)


def _queued(found: dict[str, Any]) -> Queued:
    return Queued(**{name: plain(str(value)) for name, value in found.items()})


def withdraw(job: Job) -> str | None:
    """Take what has not started out of the queues there."""
    taken = [_host(known[-1]).ask("withdraw", job.id, seconds=_SECONDS)["taken"] for known in _by_host([job])]
    return next((plain(str(one)) for one in taken if one), None)


def note_of(job: Job, attempt: Attempt) -> dict[str, str] | None:
    """What is noted of an attempt's Slurm job, if it was handed over from here."""
    name = (attempt.container or {}).get("name")
    return next((note for note in notes.of_batches({job.uri}) if note["batch"] and note["batch"] == name), None)


class ThereCluster:
    """The cluster, asked through its login node: of all Slurm jobs that are followed there at once, for their logs as well. See
    :class:`~runner.launch.slurm.cluster.Cluster`."""

    patience = 600.0

    def __init__(self, host: Host) -> None:
        self.host, self.is_set_up = host, False
        self._lock = threading.RLock()  # signals are handed on by other threads
        self._logs: dict[str, tuple[str, int]] = {}
        self._new: dict[str, bytes] = {}
        self._ids: set[str] = set()
        self._told: dict[str, dict[str, Any]] = {}
        self._error: str | None = None
        self._more: set[str] = set()
        self._asked = -math.inf

    def follow(self, id: str, log: str) -> None:
        """From the beginning of its log on."""
        self._ids.add(id)
        self._logs[id] = (log, 0)

    def forget(self, id: str) -> None:
        """Its log can still be read."""
        self._ids.discard(id)

    def look(self, id: str) -> Queued | None:
        """Of all at once."""
        with self._lock:
            if id not in self._told or time.monotonic() - self._asked >= LOOK_SECONDS:
                self._asked = time.monotonic()
                self._ask(self._ids)
            return self._found(id)

    def look_now(self, id: str) -> Queued | None:
        """Of this one."""
        with self._lock:
            self._ask({id})
            return self._found(id)

    def exit_code(self, id: str) -> int | None:
        """As of the last look."""
        code = self._told.get(id, {}).get("code")
        return None if code is None else int(code)

    def read(self, id: str) -> bytes:
        """What the last look has brought, and the rest of what is long."""
        with self._lock:
            if id in self._more and not self._new.get(id):
                with suppress(EngineError):  # the next look tells
                    self._ask({id})
            return self._new.pop(id, b"")

    def cancel(self, id: str) -> None:
        """At once."""
        self.host.call("cancel", id)

    def send(self, id: str, signal: str) -> None:
        """At once."""
        self.host.call("send", id, signal)

    def _ask(self, ids: set[str]) -> None:
        told = self.host.ask("look", given={"jobs": {id: self._logs.get(id, ("", 0)) for id in ids}})
        self._error = plain(told["error"]) if "error" in told else None
        for id, one in told["jobs"].items():
            new = base64.b64decode(one["new"])
            log, offset = self._logs.get(id, ("", 0))
            self._logs[id] = (log, offset + len(new))
            self._new[id] = self._new.get(id, b"") + new
            (self._more.add if len(new) == PIECE_BYTES else self._more.discard)(id)
            self._told[id] = one

    def _found(self, id: str) -> Queued | None:
        if self._error is not None:
            raise EngineError(f"{self.host.connection.host}: {self._error}")
        found = self._told.get(id, {}).get("found")
        return None if found is None else _queued(found)


class StartedThere(StartedBatch):
    """See :class:`~runner.launch.protocol.Started`."""

    def __init__(self, cluster: ThereCluster, job: Job, token: str, id: str, log: str, output: TextIO | None) -> None:
        super().__init__(cluster, id, log, output)
        self._job, self._token, self._host = job, token, cluster.host.connection.host

    def wait(self, seconds: float) -> int | None:
        """Nobody has to be asked about it any more once it has ended."""
        try:
            code = super().wait(seconds)
        except EngineError as error:
            raise EngineError(f"{error}. {self._how_it_goes_on()}") from None
        if code is not None:
            notes.forget(self._token)
        return code

    def hand_on(self, signum: int) -> None:
        """Ctrl-C at a terminal may mean the attempt, or the looking on."""
        if only_looks_away(signum, self._output):
            raise PausedError(f"{self._job.id} goes on in the Slurm of {self._host}. {self._how_it_goes_on()}")
        try:
            super().hand_on(signum)
        except EngineError as error:
            raise EngineError(f"{error}. {self._how_it_goes_on()}") from None

    def _how_it_goes_on(self) -> str:
        job = self._job.reference
        return f"lastrun status {job} tells what becomes of it; lastrun stop {job} has it save and end"


_clusters: dict[tuple[str, bool], ThereCluster] = {}


def _cluster(name: str, for_gpus: bool) -> ThereCluster:
    """The same for all jobs of this command."""
    if (name, for_gpus) not in _clusters:
        _clusters[name, for_gpus] = ThereCluster(Host(name, far=_FAR, for_gpus=for_gpus))
    return _clusters[name, for_gpus]


def _host(note: dict[str, str]) -> Host:
    return Host(note["host"], note["folder"], _FAR)


def _by_host(jobs: Sequence[Job]) -> list[list[dict[str, str]]]:
    """What is noted of Slurm jobs of these jobs, a list for each login node; the newest last, whose version is still there."""
    found: dict[str, list[dict[str, str]]] = {}
    for note in notes.of_batches({job.uri for job in jobs}):
        found.setdefault(note["host"], []).append(note)
    return list(found.values())


def _id(note: dict[str, str]) -> str:
    return StoreUri.parse(note["job"]).parent()[1]
