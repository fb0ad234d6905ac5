"""Who may run a job: a claim that needs no conditional write, which many stores lack or ignore."""

from __future__ import annotations

import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Collection
from typing import Any

from runner import machine
from runner.errors import ClaimedError, StoreError
from runner.job.attempts import EXPIRY_SECONDS, HEARTBEAT_SECONDS, Attempt
from runner.job.job import Job

WATCH_SECONDS = 2 * HEARTBEAT_SECONDS + 2
_POLL_SECONDS = 0.2


def claim(job: Job, takeover: bool = False, token: str | None = None) -> Attempt:
    """Start an attempt, if nobody else is at it; with ``takeover`` also if somebody is, who is then superseded.

    Write the claim, list the others, step back if one runs already or claims with a smaller id; then say that this one
    runs and look again. Whoever writes later sees the earlier, so of two at the same moment at least one sees the other.
    The second look waits until a smaller claimer has decided, so that they do not both step back.

    ``token`` (eight hexadecimal digits) becomes part of the attempt's ID, so that who started it knows it again.

    Raises:
        ClaimedError: another live attempt has the job.
    """
    if not takeover:
        _refuse_beating(job)
    attempt = Attempt(
        id=f"{job.attempts.next_number():04d}-{token or secrets.token_hex(4)}",
        machine=machine.identity(),
        pid=os.getpid(),
        process=machine.process_identity(os.getpid()) or "",
        started_at=time.time(),
        host=socket.gethostname(),
        container=machine.container(),
    )
    others = [other for other in job.attempts.all() if other.open or other.phase == "lost"]
    attempt.supersedes = [other.id for other in others if takeover or not job.attempts.alive(other)]
    job.attempts.write(attempt)
    if any(other.number > attempt.number and other.phase != "claiming" for other in job.attempts.all()):
        # Between the choice of the number and now, others came and went: what this one wrote would not be followed.
        attempt.phase = "withdrawn"
        job.attempts.write(attempt)
        return claim(job, takeover, token)
    for other in _others(job, attempt):
        if other.phase == "running" or other.id < attempt.id:
            _step_back(job, attempt, other)
    attempt.phase = "running"
    job.attempts.write(attempt)
    deadline = time.monotonic() + EXPIRY_SECONDS
    while smaller := [other for other in _others(job, attempt) if other.id < attempt.id]:
        if any(other.phase == "running" for other in smaller) or time.monotonic() > deadline:
            _step_back(job, attempt, smaller[0])
        time.sleep(_POLL_SECONDS)
    return attempt


def _refuse_beating(job: Job) -> None:
    """Clocks of two machines may differ by hours, so an attempt elsewhere that seems expired is watched for a while first.

    Raises:
        ClaimedError: its heart beats all the same.
    """
    silent = [other for other in job.attempts.all() if other.open and not job.attempts.alive(other) and not other.is_here]
    before = {other.id: job.attempts.heartbeat(other) for other in silent}
    deadline = time.monotonic() + WATCH_SECONDS
    while silent and time.monotonic() < deadline:
        time.sleep(_POLL_SECONDS)
        for other in silent:
            if job.attempts.heartbeat(other) != before[other.id]:
                raise ClaimedError(f"{job.id} is being run by {other}, whose clock differs from this machine's")


def _others(job: Job, mine: Attempt) -> list[Attempt]:
    return [other for other in job.attempts.all() if other.id not in (mine.id, *mine.supersedes) and job.attempts.alive(other)]


def _step_back(job: Job, attempt: Attempt, other: Attempt) -> None:
    attempt.phase = "withdrawn"
    job.attempts.write(attempt)
    raise ClaimedError(f"{job.id} is being run by {other}; lastrun status {job.reference} follows it")


class Heart(threading.Thread):
    """Tells every few seconds that an attempt lives, and listens: has another taken the job, has somebody asked to stop?

    Args:
        job: the job.
        attempt: the one that lives.
        old_requests: keys of requests from before the attempt, which are not for it.
        progress: what a beat tells.
        hear: told what was heard.

    A store that does not answer is asked again at the next beat; it stops nothing.
    """

    def __init__(
        self,
        job: Job,
        attempt: Attempt,
        old_requests: Collection[str],
        progress: Callable[[], dict[str, Any]],
        hear: Callable[[str], None],
    ) -> None:
        super().__init__(name="heart", daemon=True)
        self._job, self._attempt, self._progress, self._hear = job, attempt, progress, hear
        self._over = threading.Event()
        self._old_requests = set(old_requests)

    def run(self) -> None:
        """``hear`` is called with ``superseded``, ``stop`` or ``stop now``, from this thread."""
        while not self._over.is_set():
            try:
                self._job.attempts.write_heartbeat(self._attempt, self._progress())
                if self._attempt.superseded_by(self._job.attempts.all()):
                    self._hear("superseded")
                    return
                for key, how in self._job.requests.new(known=self._old_requests).items():
                    self._old_requests.add(key)
                    self._hear("stop now" if how == "now" else "stop")
            except StoreError:
                pass
            self._over.wait(HEARTBEAT_SECONDS)

    def stop(self) -> None:
        """No more beats."""
        self._over.set()
