"""How containers of attempts ended, as the engine knows it, when the attempts could not say so themselves."""

from __future__ import annotations

import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from last_e.redact import redact
from runner import machine
from runner.errors import LastrunError, Reason
from runner.job import Attempt, Job
from runner.store import open_store

if TYPE_CHECKING:
    from docker import DockerClient

JOB_LABEL, STORE_LABEL, USER_LABEL = "lastrun.job", "lastrun.store", "lastrun.user"
ATTEMPT_LABEL = "lastrun.attempt"
"""The token that ends the attempt's ID; the number before it is not known when a container is made."""
_KILLED = 128 + 9


def settle(job: Job, attempts: list[Attempt]) -> list[Attempt]:
    """Write the end of open attempts whose container has ended for certain; returns the attempts as they are now.

    Only the engine that ran the container is believed, and only about the container whose token the attempt carries. A dead
    container writes nothing any more, so what the attempt wrote last is read again and stands if it is an end.
    """
    settled = []
    for attempt in attempts:
        found = attempt
        if attempt.open and attempt.container:
            with suppress(LastrunError):  # no engine, another one, or a store that only lets us read: the heartbeat decides
                found = _settled(job, attempt, attempt.container)
        settled.append(found)
    return settled


def mark_lost(job: Job, attempt: Attempt, message: str) -> None:
    """Write that an attempt is dead beyond doubt, for those who cannot see that themselves."""
    attempt.phase, attempt.ended_at, attempt.message = "lost", time.time(), message
    job.write_attempt(attempt)


def mark_dead_processes(job: Job) -> None:
    """Do so for attempts that were processes of this machine: from inside a container nobody could tell."""
    for attempt in job.attempts():
        if attempt.open and attempt.machine == machine.identity() and not job.alive(attempt):
            mark_lost(job, attempt, "its process is gone")


def sweep(client: DockerClient, user: str) -> None:
    """Remove this user's containers that have ended, once all that they knew is in the store."""
    filters = {"status": ["exited", "dead"], "label": [JOB_LABEL, f"{USER_LABEL}={user}"]}
    for container in client.containers.list(all=True, filters=filters, ignore_removed=True):
        with suppress(LastrunError):
            remove_if_told(Job(open_store(container.labels[STORE_LABEL]), container.labels[JOB_LABEL]), container)


def remove_if_told(job: Job, container: Any) -> None:
    """Remove an ended container if the store knows how its attempt ended; else it stays, for whoever asks next."""
    job.state()  # writes the end of an attempt that could not do so itself
    token = container.labels[ATTEMPT_LABEL]
    if not any(attempt.open and attempt.id.endswith(f"-{token}") for attempt in job.attempts()):
        remove(container)


def remove(container: Any) -> None:
    """Remove an ended container; somebody else may have been faster."""
    from docker.errors import APIError

    with suppress(APIError):
        container.remove(v=True)


def _settled(job: Job, attempt: Attempt, known: dict[str, str]) -> Attempt:
    from runner.engine import connect, explained

    client = connect()
    with explained():
        if client.info()["ID"] != known.get("engine"):
            return attempt
        found = client.containers.list(
            all=True, filters={"label": f"{ATTEMPT_LABEL}={known.get('token')}"}, ignore_removed=True
        )
        if found and found[0].status not in ("exited", "dead"):
            return attempt
        current = next((other for other in job.attempts() if other.id == attempt.id), attempt)
        if not current.open or current.container != known:
            return current
        if not found:  # removed by hand, or on another engine that has the same ID: the heartbeat decides
            return current
        end = found[0].attrs["State"]
        words = found[0].logs(tail=200)
    _keep_log(job, current, words)
    if end["OOMKilled"]:
        current.phase, current.ended_at, current.reason = "ended", time.time(), Reason.OUT_OF_MEMORY.value
        current.message = "the system ended the container: the memory that it may take (run.memory) ran out"
        job.write_attempt(current)
    else:
        how = "was killed" if end["ExitCode"] == _KILLED else f"ended with code {end['ExitCode']}"
        mark_lost(job, current, f"container {known.get('name')} {how}")
    remove(found[0])
    return current


def _keep_log(job: Job, attempt: Attempt, words: bytes) -> None:
    """What a container said last goes into the job's log: the attempt itself may not have come to it."""
    key = job.key("attempts", attempt.id, "log", "container.txt")
    text = redact(words.decode(errors="replace"))
    job.store.put(key, f"--- the last that its container said\n{text}".encode())
