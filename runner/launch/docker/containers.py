"""How containers of attempts ended, as the engine knows it, when the attempts could not say so themselves; and containers for
a look into an image."""

from __future__ import annotations

import os
import re
import secrets
import time
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from last_e.redact import redact
from runner import machine
from runner.errors import LastrunError, NoSuchJobError, Reason, UsageError
from runner.job.attempts import Attempt
from runner.job.job import Job
from runner.launch.docker.engine import SHORT_SECONDS, connect, explained, is_local, patience
from runner.launch.docker.gpus import is_podman
from runner.signals import handled, interrupt
from runner.store.open import open_store
from runner.store.uri import StoreUri

if TYPE_CHECKING:
    from docker import DockerClient
    from docker.types import LogConfig

JOB_LABEL, STORE_LABEL, USER_LABEL = "lastrun.job", "lastrun.store", "lastrun.user"
ATTEMPT_LABEL = "lastrun.attempt"
"""The token that ends the attempt's ID; the number before it is not known when a container is made."""
TRIAL_LABEL = "lastrun.trial"
PROGRAM = ["python", "-m", "runner"]
TRIAL_SECONDS = 300.0
FORGOTTEN_SECONDS = 3600.0
"""A trial, or a container that was never started, is nobody's any more after this time."""
ABANDONED_SECONDS = 7 * 24 * 3600.0
"""An ended container whose job nobody knows any more is kept for so long."""
OVER = ("exited", "dead", "stopped")
"""States of a container that has ended."""
KILLED = 128 + 9
REMOVED = "removed while it ran, by somebody or by a clean-up (docker rm -f, docker system prune)"


@dataclass(frozen=True)
class Trial:
    """How a trial container ended, and what it said."""

    code: int
    out_of_memory: bool
    out: bytes
    errors: bytes


def engine_id(info: dict[str, Any]) -> str:
    """What tells an engine from others; Podman makes up another at each call, so it is known by where it keeps things."""
    return f"podman {info.get('Name')} {info.get('DockerRootDir')}" if is_podman(info) else str(info["ID"])


def logs() -> LogConfig:
    """Kept by the engine itself, whatever its default is: what a container says has to be read again."""
    from docker.types import LogConfig

    return LogConfig(type="json-file", config={"max-size": "10m", "max-file": "2"})


def trial(client: DockerClient, image: str, words: list[str], **options: Any) -> Trial:
    """Run ``lastrun WORDS`` in a container of which nothing stays, also when this is interrupted.

    Raises:
        docker.errors.DockerException, requests.RequestException: the engine's; see ``engine.explained``.
    """
    from docker.errors import DockerException
    from requests import RequestException

    user = f"{USER_LABEL}={os.getuid()}"
    _sweep_forgotten(client, user)
    token = secrets.token_hex(8)
    labels = {TRIAL_LABEL: token, USER_LABEL: str(os.getuid())}
    with handled(interrupt):
        try:
            made = client.api.create_container(image, words, entrypoint=PROGRAM, labels=labels, **options)
            container = client.containers.get(made["Id"])
            container.start()
            code = int(container.wait(timeout=TRIAL_SECONDS)["StatusCode"])
            container.reload()
            killed = bool(container.attrs["State"]["OOMKilled"])
            return Trial(code, killed, container.logs(stderr=False), container.logs(stdout=False))
        finally:  # by its label: it may be there although we have not heard of it
            with handled(lambda _: None), patience(client, SHORT_SECONDS), suppress(DockerException, RequestException):
                discard(client, f"{TRIAL_LABEL}={token}")


def settle(job: Job, attempt: Attempt) -> Attempt | None:
    """Write the end of an open attempt whose container has ended for certain; returns the attempt as it is now.

    Only the engine that ran the container is believed, and only about the container whose token the attempt carries. A dead
    container writes nothing any more, so what the attempt wrote last is read again and stands if it is an end.

    Raises:
        LastrunError: no engine answers, or the store does not take it.
    """
    known = attempt.container or {}
    client = connect()
    with patience(client, SHORT_SECONDS), explained():
        if engine_id(client.info()) != known.get("engine"):
            return attempt
        labels = [f"{ATTEMPT_LABEL}={known.get('token')}", f"{JOB_LABEL}={job.id}"]
        found = client.containers.list(all=True, filters={"label": labels}, ignore_removed=True)
        found = [container for container in found if _is_of(container, job)]
        if found and found[0].status not in OVER:
            return attempt
        current = job.attempts.again(attempt)
        if current is None or not current.open or current.container != known:
            return current
        if not found:
            if is_local(client) and machine.same_boot(current.machine):
                return write_removed(job, current, str(known.get("name")))
            return current  # a copied machine's engine has the same ID: the heartbeat decides
        end = found[0].attrs["State"]
        words = found[0].logs(tail=200)
    _keep_log(job, current, words)
    if end["OOMKilled"]:
        current.phase, current.ended_at, current.reason = "ended", time.time(), Reason.OUT_OF_MEMORY.value
        current.message = "the system ended the container: the memory that it may take (run.memory) ran out"
        job.attempts.write(current)
    else:
        how = "was killed" if end["ExitCode"] == KILLED else f"ended with code {end['ExitCode']}"
        job.attempts.write_lost(current, f"container {known.get('name')} {how}")
    remove(found[0])
    return current


def is_removed(container: Any) -> bool:
    """Whether somebody has removed a container, as its engine says; one that is being removed just now is waited for a while.

    Raises:
        docker.errors.DockerException, requests.RequestException: the engine's; see ``engine.explained``.
    """
    from docker.errors import NotFound

    deadline = time.monotonic() + SHORT_SECONDS
    while True:
        try:
            container.reload()
        except NotFound:
            return True
        if container.status != "removing" or time.monotonic() > deadline:
            return False
        time.sleep(0.1)


def write_removed(job: Job, attempt: Attempt, name: str) -> Attempt | None:
    """Write the end of an attempt whose container somebody has removed; what it wrote last stands if it is an end."""
    current = job.attempts.again(attempt)
    if current is not None and current.open:
        job.attempts.write_lost(current, f"container {name} was {REMOVED}")
    return current


def _is_of(container: Any, job: Job) -> bool:
    """Whether a container is one of the very job: another store may hold one of the same name, with its token, and would get
    its last words."""
    with suppress(UsageError, KeyError):
        return StoreUri.parse(container.labels[STORE_LABEL]).place == StoreUri.parse(job.store.uri).place
    return False


def sweep(client: DockerClient, user: str) -> None:
    """Remove this user's containers that have ended, once all that they knew is in the store, and what was forgotten."""
    label = f"{USER_LABEL}={user}"
    for container in client.containers.list(all=True, filters={"label": [JOB_LABEL, label]}, ignore_removed=True):
        if container.status not in OVER:  # no filter: engines know other names of states
            continue
        with suppress(LastrunError):
            remove_if_told(Job(open_store(container.labels[STORE_LABEL]), container.labels[JOB_LABEL]), container)
    _sweep_forgotten(client, label)


def _sweep_forgotten(client: DockerClient, user: str) -> None:
    """Remove what commands that were killed left behind: trials, and containers that were never started."""
    now = _time(client.info()["SystemTime"])
    for label, states in ((TRIAL_LABEL, None), (JOB_LABEL, ("created", "initialized"))):
        for container in client.containers.list(all=True, filters={"label": [label, user]}, ignore_removed=True):
            forgotten = states is None or container.status in states
            if forgotten and now - _time(container.attrs["Created"]) > FORGOTTEN_SECONDS:
                remove(container, force=True)


def _time(text: str) -> float:
    """An engine's time, to the second: containers' are in UTC, its own clock has the zone of its machine."""
    zone = re.search(r"[+-]\d\d:\d\d$", text)
    return datetime.fromisoformat(f"{text[:19]}{zone[0] if zone else '+00:00'}").timestamp()


def discard(client: DockerClient, label: str) -> None:
    """Remove all that carries a label, whatever it does."""
    for container in client.containers.list(all=True, filters={"label": label}, ignore_removed=True):
        remove(container, force=True)


def remove_if_told(job: Job, container: Any) -> None:
    """Remove an ended container if the store knows how its attempt ended; else it stays, for whoever asks next."""
    token = container.labels[ATTEMPT_LABEL]
    own = [attempt for attempt in job.attempts.all() if attempt.id.endswith(f"-{token}")]
    for attempt in [attempt for attempt in own if attempt.open]:
        with suppress(LastrunError):  # a store that only lets us read
            settled = settle(job, attempt)
            own = [one for one in own if one is not attempt] + ([] if settled is None else [settled])
    if not own:  # it withdrew or never began; or the job was deleted; or its store is away, a disk that is not mounted now
        try:
            job.record(again=True)
        except NoSuchJobError:
            now = _time(container.client.info()["SystemTime"])
            if now - _time(container.attrs["Created"]) < ABANDONED_SECONDS:
                return
    if not any(attempt.open for attempt in own):
        remove(container)


def remove(container: Any, force: bool = False) -> None:
    """Remove a container that has ended, or by ``force`` any; somebody else may have been faster."""
    from docker.errors import APIError

    with suppress(APIError):
        container.remove(v=True, force=force)


def _keep_log(job: Job, attempt: Attempt, words: bytes) -> None:
    """What a container said last goes into the job's log: the attempt itself may not have come to it."""
    key = job.paths.log(attempt.id, "container")
    text = redact(words.decode(errors="replace"))
    job.store.put(key, f"--- the last that its container said\n{text}".encode())
