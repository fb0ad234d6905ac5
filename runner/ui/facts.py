"""What the pages show of a job, of several, and of what is paid for."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future
from functools import partial
from typing import Any

from runner.job.job import Job
from runner.ui.text import plained
from runner.view.jobs import status_rows
from runner.view.market import rented_facts
from runner.view.report.facts import job_facts
from runner.view.report.gather import gather
from runner.view.report.several import facts_of_several
from runner.view.status import is_at_work, job_status

_OF_REPORT = ("title", "sentence", "attempts", "attempts_left_out", "spec")
_CLOUDS_SECONDS = 20.0
_AHEAD_SECONDS, _MOST_AHEAD = 2.0, 8


def facts_of_job(job: Job) -> dict[str, Any]:
    """Where it is, as ``lastrun status`` tells it, and what its report shows, but for what it is right and wrong in.

    Raises:
        NoSuchJobError, StoreError: it is not there, or cannot be read.
    """
    other = Job(job.store, job.id)  # read by another thread
    status, material = job.store.in_parallel([partial(job_status, job), partial(gather, other, with_predictions=False)])
    shown = job_facts(material)
    found: dict[str, Any] = plained(
        {
            "id": job.id,
            "state": status["state"],
            "group": (status["group"] or {}).get("id"),
            "at_work": is_at_work(status),
            "rows": [[name, text] for name, text in status_rows(status)],
            "step": status["step"],
            "total": status["progress"].get("total_steps") or status["total_steps"],
            **{name: shown[name] for name in _OF_REPORT},
            "charts": shown["data"]["charts"],
            "marks": shown["data"]["marks"],
        }
    )
    return found


def facts_of_jobs(jobs: Sequence[Job], title: str) -> dict[str, Any]:
    """Several side by side, as ``lastrun report`` compares them.

    Raises:
        StoreError: the store cannot be read.
    """
    facts = facts_of_several(jobs, title)
    data = facts.pop("data")
    found: dict[str, Any] = plained({**facts, "charts": data["charts"], "marks": data["marks"]})
    return found


class Clouds:
    """What runs there and what it costs, asked for no more often than is kind: each launcher asks servers of others."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._facts: dict[str, Any] | None = None
        self._asked_at = 0.0

    def facts(self) -> dict[str, Any]:
        """As ``lastrun list --clouds`` tells it."""
        with self._lock:
            if self._facts is None or time.monotonic() - self._asked_at >= _CLOUDS_SECONDS:
                self._facts = plained(rented_facts())
                self._asked_at = time.monotonic()
            return {**self._facts, "now": time.time()}


class Ahead:
    """Facts of a job, begun to be read when its page is asked for: they are there when the page's script wants them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._begun: dict[str, tuple[float, Future[dict[str, Any]]]] = {}

    def begin(self, job: Job) -> None:
        """Read them, on a thread that nobody waits for."""
        future: Future[dict[str, Any]] = Future()
        now = time.monotonic()
        with self._lock:
            self._begun = {name: one for name, one in self._begun.items() if now - one[0] < _AHEAD_SECONDS}
            if len(self._begun) >= _MOST_AHEAD:
                return
            self._begun[job.id] = now, future
        threading.Thread(target=_resolve, args=(future, job), name="ahead", daemon=True).start()

    def take(self, job: Job) -> dict[str, Any]:
        """Those that were begun a moment ago, or new ones.

        Raises:
            NoSuchJobError, StoreError: as of :func:`facts_of_job`.
        """
        with self._lock:
            begun, future = self._begun.pop(job.id, (0.0, None))
        if future is None or time.monotonic() - begun >= _AHEAD_SECONDS:
            return facts_of_job(job)
        return future.result()


def _resolve(future: Future[dict[str, Any]], job: Job) -> None:
    try:
        future.set_result(facts_of_job(job))
    except BaseException as error:  # told to whoever wants them
        future.set_exception(error)
