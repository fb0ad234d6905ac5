"""The jobs of a store as they were read last. A thread reads them again while somebody looks: often those that run, seldom
those that have ended, whose figures change only when somebody goes on with one."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from itertools import islice
from typing import Any

from last_e.redact import redact
from runner.errors import LastrunError, NoSuchJobError, State
from runner.job.find import list_jobs
from runner.job.group import Group
from runner.job.job import Job
from runner.job.paths import GROUP_ID, JOB_ID
from runner.store.protocol import Store
from runner.ui.kept import Kept
from runner.ui.text import plained
from runner.view.status import FOLLOW_SECONDS, summary_or_error
from runner.view.wanted import STOPPING

LOOKS_FOR = 60.0
"""Seconds after a request in which somebody still looks."""
_AT_ONCE, _ON_A_SCREEN = 64, 20
"""Read together, and first of all, before anything is known."""
_RECENT, _RECENT_SECONDS, _OLD_SECONDS = 50, 15.0, 300.0
"""The newest that have ended are read again after so long, the others seldom."""
_MOVING_AT_ONCE = 32
"""Of more jobs that run each is read again less often."""
_MOVING = {State.RUNNING.value, State.QUEUED.value, STOPPING}
_AT_REST = {State.SUCCEEDED.value, State.FAILED.value, State.PAUSED.value, State.STOPPED.value}
"""Nothing changes until there is another attempt."""


@dataclass
class _Known:
    """Of one job."""

    job: Job
    listed_at: float
    facts: dict[str, Any] | None = None
    read_at: float | None = None
    version: int = 0
    attempts: list[str] | None = None
    """Their names, as they were before its facts were read; None: they have not been."""
    asked: int = 0
    """How often it was to be read at once."""

    @property
    def is_there(self) -> bool:
        """Whether it is, as far as is known; its place in the index is older, and may outlive it."""
        return self.facts is not None or self.read_at is None

    @property
    def moves(self) -> bool:
        """Whether its figures change by themselves."""
        return self.facts is not None and self.facts.get("state") in _MOVING

    def is_due(self, now: float, pace: float, recent: bool) -> bool:
        """Whether it is time to read it again; those that move, at this ``pace``."""
        if self.read_at is None:
            return True
        is_new = self.facts is None and now - self.listed_at < 2 * _RECENT_SECONDS  # it may be in the making
        recent = recent or self.facts is None or "error" in self.facts
        return now - self.read_at >= (pace if self.moves or is_new else _RECENT_SECONDS if recent else _OLD_SECONDS)

    def read(self) -> dict[str, Any] | None:
        """Its facts now; of one at rest nothing but the names of its attempts, where these are the same."""
        if self.facts is not None and self.facts.get("state") in _AT_REST:
            try:
                names = self.job.attempts.names()
            except LastrunError:  # that it cannot be listed, the next list of jobs tells
                return self.facts
            if names == self.attempts:
                return self.facts
        facts = plained(summary_or_error(self.job)) or None
        self.attempts = self.job.attempts.listed
        return facts


class Jobs:
    """Those of a store, the newest ``limit`` of them."""

    def __init__(self, store: Store, limit: int) -> None:
        self.store, self._limit = store, limit
        self._kept = Kept(store.uri)
        self._from_before = self._kept.read()
        self._kept_at = 0  # version
        self._known: dict[str, _Known] = {}
        self._order: list[str] = []
        self._more, self._problem = False, ""
        self._version = self._listed_at = 0
        self._lock, self._due = threading.Lock(), threading.Event()
        self._looked, self._asked, self._over = time.monotonic(), False, False  # somebody is about to
        self._first = threading.Event()
        self._thread = threading.Thread(target=self._run, name="jobs", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Nothing is read any more; a store that does not answer is not waited for."""
        self._over = True
        self._due.set()
        self._keep()

    def named(self, name: str) -> Job:
        """A job of the store.

        Raises:
            NoSuchJobError: there is none of that very ID.
        """
        job = self.called(name)
        with self._lock:
            known = self._known.get(name)
        if known is None or known.facts is None:
            job.record()
        return job

    def called(self, name: str) -> Job:
        """The same, without a look whether it is there: every key of it is one of a job's.

        Raises:
            NoSuchJobError: no job can be called so.
        """
        if not JOB_ID.fullmatch(name):
            raise NoSuchJobError(f"no job {name[:80]!r} in {self.store.uri}")
        return Job(self.store, name)

    def group(self, name: str) -> Group:
        """A group of the store.

        Raises:
            NoSuchJobError: there is none of that very ID.
        """
        if not GROUP_ID.fullmatch(name):
            raise NoSuchJobError(f"no group {name[:80]!r} in {self.store.uri}")
        group = Group(self.store, name)
        group.record()
        return group

    def again(self, name: str) -> None:
        """Something was done about a job, or a group: it is read at once."""
        with self._lock:
            for job_id, known in self._known.items():
                if job_id == name or job_id.startswith(f"{name}p"):
                    known.read_at, known.asked = None, known.asked + 1
        self._due.set()

    def since(self, version: int) -> dict[str, Any]:
        """What is other than it was at a ``version`` that was told before; at 0 all. ``ids``: of all jobs, the newest first,
        where those have changed."""
        was_away = not self._asked or time.monotonic() - self._looked >= LOOKS_FOR
        self._first.wait(5.0)
        self._looked, self._asked = time.monotonic(), True
        if was_away:
            self._due.set()
        with self._lock:
            known = [one for name in self._order if (one := self._known[name]).is_there]
            return {
                "version": self._version,
                "ids": [one.job.id for one in known] if self._listed_at > version or not version else None,
                "jobs": [one.facts for one in known if one.facts is not None and one.version > version],
                "unread": sum(one.facts is None for one in known),
                "more": self._more,
                "problem": plained(redact(self._problem)),
            }

    def _run(self) -> None:
        """On its thread."""
        while not self._over:
            if time.monotonic() - self._looked >= LOOKS_FOR:
                self._due.wait()
            else:
                self._due.wait(0.0 if self._look() else FOLLOW_SECONDS)
            self._due.clear()

    def _look(self) -> bool:
        """Read what is due; whether there is more of that."""
        try:
            self._list()
            left = self._read() if self._asked else False  # what is listed is shown first
        except LastrunError as error:
            self._problem, left = str(error), False
        except Exception as error:  # whatever it is: a thread that ends would leave an old page that looks live
            self._problem, left = f"{type(error).__name__}: {error}", False
        else:
            self._problem = ""
        self._first.set()
        if not left and self._asked and not self._over:
            self._keep()
        return left

    def _list(self) -> None:
        if any(known.read_at is None for known in self._known.values()):
            return  # first what is known to be there
        found = list(islice(list_jobs(self.store), self._limit + 1))
        names = [job.id for job in found[: self._limit]]
        with self._lock:
            self._more = len(found) > self._limit
            if names == self._order:
                return
            now = time.monotonic()
            self._version += 1
            self._known = {job.id: self._known.get(job.id) or self._new(job, now) for job in found[: self._limit]}
            self._order = names
            self._listed_at = self._version
        self._first.set()

    def _new(self, job: Job, now: float) -> _Known:
        facts, attempts = self._from_before.get(job.id, (None, None))
        return _Known(job, now, facts, version=self._version, attempts=attempts)

    def _keep(self) -> None:
        with self._lock:
            if self._version == self._kept_at or not self._known:
                return
            self._kept_at = self._version
            rested = {
                name: (known.facts, known.attempts)
                for name, known in self._known.items()
                if known.facts is not None and known.attempts is not None and known.facts.get("state") in _AT_REST
            }
        self._kept.write(rested)

    def _read(self) -> bool:
        now = time.monotonic()
        ordered = [self._known[name] for name in self._order]
        pace = FOLLOW_SECONDS * max(1.0, sum(known.moves for known in ordered) / _MOVING_AT_ONCE)
        due = [known for place, known in enumerate(ordered) if known.is_due(now, pace, place < _RECENT)]
        due.sort(key=lambda known: known.read_at is None)  # those that move before those that are new, which may be many
        some = due[: _AT_ONCE if any(known.facts for known in ordered[:_ON_A_SCREEN]) else _ON_A_SCREEN]
        if some:
            asked = [known.asked for known in some]
            told = self.store.in_parallel([known.read for known in some])
            with self._lock:
                self._version += 1
                for known, facts, count in zip(some, told, asked):
                    was_there = known.is_there
                    known.read_at = now if known.asked == count else None  # what was read may be older than what was asked
                    if facts != known.facts:
                        known.facts, known.version = facts, self._version
                    if known.is_there is not was_there:
                        self._listed_at = self._version
        return len(due) > len(some)
