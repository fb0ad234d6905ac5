"""Who may run a job: a claim that needs no conditional write, which many stores lack or ignore."""

from __future__ import annotations

import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Collection
from contextlib import suppress
from functools import partial
from itertools import count
from typing import Any

from runner import machine
from runner.errors import ClaimedError, MissingKeyError, NoSuchJobError, PausedError, Reason, StoreError
from runner.job.attempts import EXPIRY_SECONDS, HEARTBEAT_SECONDS, Attempt
from runner.job.job import Job

WATCH_SECONDS = 2 * HEARTBEAT_SECONDS + 2
_POLL_SECONDS = 0.2
_SELDOM = 4
"""So many beats apart an attempt looks, instead of for later ones, for what is rare: whether an old request has undone what its
record says, and the next time whether the job has been deleted."""


def claim(
    job: Job,
    takeover: bool = False,
    token: str | None = None,
    known: list[Attempt] | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> Attempt:
    """Start an attempt, if nobody else is at it; with ``takeover`` also if somebody is, who is then superseded.

    Attempts are in the order of their numbers, and of those that have ever run the last has the job: whoever sees that a later
    one runs has lost it. So there are never two for good, however long a machine or a request takes, and each of these steps
    may come at any time after the one before:

    1. Write the claim, with a number larger than all there are.
    2. Look at the others. Step back if the one that has the job lives. Wait while an earlier claim lives that has not been
       decided, so that of several at the same moment the first runs and the others step back.
    3. Write that this one runs. That takes the job: nobody steps back after it but for a later one that has taken it, or in the
       end nobody would run. Later claims that had looked before may still do so: wait until they have decided.

    ``token`` (eight hexadecimal digits) becomes part of the attempt's ID, so that who started it knows it again; ``known`` are
    the job's attempts, if they have been read just before. When ``stop`` says so, it steps back as long as it may; who has
    taken the job by then ends as one that has.

    Raises:
        ClaimedError: another live attempt has the job.
        PausedError: it was stopped before it had the job.
        NoSuchJobError: somebody has deleted the job since its record was read.
    """
    if known is None:
        known = job.attempts.all()
    attempt = Attempt(
        id=f"{job.attempts.next_number():04d}-{token or secrets.token_hex(4)}",
        machine=machine.identity(),
        pid=os.getpid(),
        process=machine.process_identity(os.getpid()) or "",
        started_at=time.time(),
        host=socket.gethostname(),
        container=machine.container(),
    )
    if not takeover and not job.store.has_a_clock:
        elsewhere = [other for other in known if other.open and not other.is_here and not attempt.began_anew(other)]
        refuse_beating(job, [other for other in elsewhere if not job.attempts.lives(other)], stop)
    job.attempts.write(attempt)
    deadline = time.monotonic() + EXPIRY_SECONDS
    while True:
        others, lives = _look(job, attempt, known)
        if attempt.superseded_by(others):  # they chose later and were faster
            _withdraw(job, attempt)
            return claim(job, takeover, token, stop=stop)
        owner = next((other for other in reversed(others) if other.has_taken_the_job), None)
        if owner is not None and not takeover and not attempt.began_anew(owner) and lives(owner):
            _withdraw(job, attempt)
            raise _taken(job, owner)
        if stop():
            _withdraw(job, attempt)
            raise _stopped(job)
        earlier = [other for other in others if other.phase == "claiming" and other.order < attempt.order]
        if not any(lives(other) for other in earlier if not attempt.began_anew(other)) or time.monotonic() > deadline:
            break
        time.sleep(_POLL_SECONDS)
    attempt.supersedes = [other.id for other in others if other.order < attempt.order and (other.open or other.phase == "lost")]
    attempt.phase, attempt.began = "running", True
    _write_surely(job, attempt, deadline := time.monotonic() + EXPIRY_SECONDS)
    while True:
        try:
            others, lives = _look(job, attempt, others)
        except StoreError:  # it has the job; if another takes it, the heart hears of that
            return attempt
        later = [other for other in others if other.order > attempt.order]
        if owner := next((other for other in later if other.has_taken_the_job), None):
            _withdraw(job, attempt)
            raise _taken(job, owner)
        if not any(map(lives, later)) or time.monotonic() > deadline or stop():
            return attempt
        time.sleep(_POLL_SECONDS)


def _look(job: Job, attempt: Attempt, known: list[Attempt]) -> tuple[list[Attempt], Callable[[Attempt], bool]]:
    """The job's attempts beside this one, and which of them live. Of those that were known to be open, that is found out while
    the others are listed; and whether the job is still there: who deletes it leaves a word only for attempts that it sees."""
    open_ = [other for other in known if other.open and other.order != attempt.order]
    asked = [partial(job.attempts.lives, other) for other in open_]
    try:
        gone, found, *answers = job.store.in_parallel([job.is_gone, partial(job.attempts.beside, attempt), *asked])
    except MissingKeyError:  # one of the others
        if not (gone := job.is_gone()):
            raise
    if gone:
        job.store.delete([job.paths.attempt(attempt.id), job.paths.claim(attempt.id), job.paths.end(attempt.id)])
        raise NoSuchJobError(f"{job.id} is not in {job.store.uri} any more: somebody has deleted it meanwhile")
    alive = {other.id: lives for other, lives in zip(open_, answers)}

    def lives(other: Attempt) -> bool:
        if not other.open:
            return False
        return alive[other.id] if other.id in alive else job.attempts.lives(other)

    return [other for other in found if other.id != attempt.id], lives


def _taken(job: Job, owner: Attempt) -> ClaimedError:
    return ClaimedError(f"{job.id} is being run by {owner}; lastrun status -w {job.reference} follows it")


def _stopped(job: Job) -> PausedError:
    return PausedError(f"{job.id}: stopped before its attempt began; lastrun resume {job.reference} begins it")


def _write_surely(job: Job, attempt: Attempt, deadline: float) -> None:
    """Where a write fails, nobody knows whether it has taken effect. One that may have taken the job does not give up at once:
    who had it before may be told already."""
    while True:
        try:
            job.attempts.write(attempt)
            return
        except StoreError as error:
            if error.lasting or time.monotonic() > deadline:
                raise
        time.sleep(_POLL_SECONDS)


def refuse_beating(job: Job, silent: list[Attempt], stop: Callable[[], bool] = lambda: False) -> None:
    """Clocks of two machines that share a folder may differ by hours, and a copy has other times, so attempts elsewhere are
    watched for a while instead.

    Raises:
        ClaimedError: the heart of one of them beats.
        PausedError: ``stop`` said so before that was known.
    """
    before = {other.id: job.attempts.heartbeat(other) for other in silent}
    deadline = time.monotonic() + WATCH_SECONDS
    while silent and time.monotonic() < deadline:
        if stop():
            raise _stopped(job)
        time.sleep(_POLL_SECONDS)
        for other in silent:
            if job.attempts.heartbeat(other) != before[other.id]:
                raise ClaimedError(f"{job.id} is being run by {other}, whose clock differs from this machine's")


def _withdraw(job: Job, attempt: Attempt) -> None:
    attempt.phase = "withdrawn"
    job.attempts.write(attempt)


def what_is_lost(job: Job, attempt: Attempt, step: int, reason: Reason) -> str:
    """For an attempt that has trained to ``step`` and has the job no more: what of it nobody follows."""
    if reason is Reason.JOB_DELETED:
        return "somebody has deleted the job; nothing of it is kept"
    text, heir = "another attempt has taken the job; nothing more was sent", None
    with suppress(StoreError):
        heir = next((a for a in job.attempts.all() if a.order > attempt.order and a.has_taken_the_job), None)
    if heir is None or heir.inherited is None:
        return text
    first = heir.resumed_step + 1
    lost = f", steps {first} to {step} of this one are not followed" if step >= first else ""
    return f"{text}: {heir} went on from step {heir.resumed_step}{lost}"


class LastLook(threading.Thread):
    """Whether an attempt still has its job, asked when its trainer has said its last word, beside what it sends then: it may
    have lost it since the last beat."""

    def __init__(self, job: Job, attempt: Attempt) -> None:
        super().__init__(name="look", daemon=True)
        self._job, self._attempt = job, attempt
        self._lost: Reason | None = None
        self.start()

    def run(self) -> None:
        """On its thread. A store that does not answer takes nothing away."""
        with suppress(StoreError):
            self._lost = self._job.lost(self._attempt)

    def answer(self, goes_on: Callable[[], bool]) -> Reason | None:
        """Why it has it no more; None also if nobody waits for that any longer."""
        while self.is_alive() and goes_on():
            self.join(_POLL_SECONDS)
        return self._lost


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
        hear: Callable[[str, str], None],
    ) -> None:
        super().__init__(name="heart", daemon=True)
        self._job, self._attempt, self._progress, self._hear = job, attempt, progress, hear
        self._over, self._due = False, threading.Event()
        self._old_requests = set(old_requests)

    def run(self) -> None:
        """``hear`` is called from this thread, with ``heard`` and ``lease_lost``, ``job_deleted``, ``record``, ``stop`` or
        ``stop now``, or with ``note`` and what people should know."""
        for number in count():
            try:
                if self._over or not self.beat(number):
                    return
            except StoreError:
                pass
            except Exception as error:  # whatever it is: who does not beat counts as dead, and hears nothing
                self._hear("note", f"the heartbeat failed ({type(error).__name__}: {error}); it goes on")
            self._due.wait(HEARTBEAT_SECONDS)
            self._due.clear()

    def beat(self, number: int) -> bool:
        """The beat of a number: a write and two reads. Whether there are more to come."""
        self._job.attempts.write_heartbeat(self._attempt, self._progress())
        lost = None
        if number % (2 * _SELDOM) == 2 * _SELDOM - 1:
            lost = Reason.JOB_DELETED if self._job.is_deleted() else None
        elif number % _SELDOM == _SELDOM - 1:
            if not self._job.attempts.stands(self._attempt):
                self._hear("heard", "record")
        elif self._job.attempts.superseded(self._attempt):
            lost = Reason.LEASE_LOST
        if lost is not None:
            self._hear("heard", lost.value)
            return False
        for key, how in self._job.requests.new(known=self._old_requests).items():
            self._old_requests.add(key)
            self._hear("heard", "stop now" if how == "now" else "stop")
        return True

    def stop(self) -> None:
        """No more beats."""
        self._over = True
        self._due.set()

    def beat_soon(self) -> None:
        """There is something to tell that should not wait."""
        self._due.set()
