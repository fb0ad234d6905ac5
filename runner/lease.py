"""Who may run a job: a claim that needs no conditional write, which many stores lack or ignore."""

from __future__ import annotations

import os
import secrets
import socket
import time

from runner import machine
from runner.errors import ClaimedError
from runner.job import EXPIRY_SECONDS, Attempt, Job

_POLL_SECONDS = 0.2


def claim(job: Job) -> Attempt:
    """Start an attempt, if nobody else is at it.

    Write the claim, list the others, step back if one runs already or claims with a smaller id; then say that this one
    runs and look again. Whoever writes later sees the earlier, so of two at the same moment at least one sees the other.
    The second look waits until a smaller claimer has decided, so that they do not both step back.

    Raises:
        ClaimedError: another live attempt has the job.
    """
    attempt = Attempt(
        id=f"{job.next_number():04d}-{secrets.token_hex(4)}",
        machine=machine.identity(),
        pid=os.getpid(),
        process=machine.process_identity(os.getpid()) or "",
        started_at=time.time(),
        host=socket.gethostname(),
    )
    job.write_attempt(attempt)
    for other in _others(job, attempt):
        if other.phase == "running" or other.id < attempt.id:
            _step_back(job, attempt, other)
    attempt.phase = "running"
    job.write_attempt(attempt)
    deadline = time.monotonic() + EXPIRY_SECONDS
    while smaller := [other for other in _others(job, attempt) if other.id < attempt.id]:
        if any(other.phase == "running" for other in smaller) or time.monotonic() > deadline:
            _step_back(job, attempt, smaller[0])
        time.sleep(_POLL_SECONDS)
    return attempt


def _others(job: Job, mine: Attempt) -> list[Attempt]:
    return [other for other in job.attempts() if other.id != mine.id and job.alive(other)]


def _step_back(job: Job, attempt: Attempt, other: Attempt) -> None:
    attempt.phase = "withdrawn"
    job.write_attempt(attempt)
    raise ClaimedError(f"{job.id} is being run by {other}; lastrun status {job.id} follows it")
