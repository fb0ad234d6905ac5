"""Signs of those points that run, looked for on threads of their own: how far they are, whether the group is asked to stop, and
which attempts on hosts have fallen silent."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TextIO

from runner.errors import LastrunError, StoreError
from runner.job.group import Group
from runner.job.job import Job
from runner.launch.away import Away, Verdict, verdict
from runner.launch.points import Task
from runner.launch.protocol import Queue, Started
from runner.launch.slots import Slot
from runner.waits import WAITS


@dataclass
class Running:
    """An attempt at a point."""

    task: Task
    slot: Slot
    started: Started
    token: str
    output: TextIO | None
    asked: bool = False
    """Whether a stop request to the group has been passed on to it."""
    began: float = field(default_factory=time.monotonic)
    heard: float = field(default_factory=time.monotonic)
    """When its last sign of life was seen, by this machine's clock."""
    sign: float = 0.0
    """The time of that sign by its own."""
    is_asked_about: bool = False
    verdict: Verdict | None = None
    """What was found out of it when it had been silent."""


class Signs:
    """See above.

    Args:
        group: whose points run.
        running: those that do, changed by who owns it.
        leave: is told why no more are to begin.
    """

    def __init__(self, group: Group, running: list[Running], leave: Callable[[str], None]) -> None:
        self._group, self._running, self._leave = group, running, leave
        self._old_requests = set(group.requests.keys())
        self._over = threading.Event()
        self.beats: dict[int, dict[str, Any]] = {}
        """How far they are, by their numbers."""

    def start(self) -> None:
        """Look until :meth:`end`."""
        threading.Thread(target=self._look_around, daemon=True).start()

    def end(self) -> None:
        """Look no more."""
        self._over.set()

    def _look_around(self) -> None:
        store = self._group.store
        jobs: dict[str, Job] = {}
        while not self._over.wait(WAITS.follow):
            with suppress(LastrunError):
                running = list(self._running)
                here = [jobs.setdefault(one.token, Job(store, one.task.job.id)) for one in running]
                asked: list[Callable[[], Any]] = [partial(_beat, job, one.token) for job, one in zip(here, running)]
                requests, *found = store.in_parallel([self._requests, *asked])
                self.beats = {one.task.number: beat for one, beat in zip(running, found) if beat is not None}
                if requests:
                    self._leave("asked to stop from another terminal or machine")
                for one, job, beat in zip(running, here, found):
                    if one.slot.host is not None:
                        self._listen(one, beat)
                    if beat is not None and isinstance(one.started, Away) and one.started.asked and not one.asked:
                        one.asked = True  # a request from before it had the job would not be its own
                        job.requests.ask_to_stop(False)
                    if requests and beat is not None and not one.asked:  # an attempt hears what comes after it has the job
                        one.asked = True
                        job.requests.ask_to_stop("now" in requests.values())
                    elif requests and not one.asked and one.task.go and isinstance(one.task.go.launcher, Queue):
                        one.asked = True  # it may be hours until it begins
                        one.started.hand_on(signal.SIGTERM)

    def _requests(self) -> dict[str, str]:
        with suppress(StoreError):
            return self._group.requests.new(self._old_requests)
        return {}

    def _listen(self, one: Running, beat: dict[str, Any] | None) -> None:
        """One on a host that gives no sign is asked about, without keeping the others waiting."""
        now, sign = time.monotonic(), (beat or {}).get("time", 0.0)
        if sign != one.sign:
            one.sign, one.heard = sign, now
        elif now - one.heard > 3 * WAITS.heartbeat and not one.is_asked_about:
            one.is_asked_about = True
            threading.Thread(target=self._ask, args=(one,), daemon=True).start()

    def _ask(self, one: Running) -> None:
        try:
            with suppress(LastrunError):  # the store does not answer: nobody is dead by that
                job = Job(self._group.store, one.task.job.id)
                found = verdict(job, one.token, str(one.slot.host), time.monotonic() - one.began)
                if found != Verdict():
                    one.verdict = found
        finally:
            one.is_asked_about = False


def _beat(job: Job, token: str) -> dict[str, Any] | None:
    """The last sign of life of an attempt; None: it has not taken the job yet, or its record cannot be read now."""
    with suppress(StoreError):
        attempt = job.attempts.of(token)
        return job.attempts.heartbeat(attempt) if attempt is not None and attempt.phase == "running" else None
    return None
