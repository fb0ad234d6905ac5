"""What the pages show of a job, of several, and of what is paid for."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from functools import partial
from typing import Any

from last_e.text import percent, plain, seconds_text
from runner.job.job import Job
from runner.view.jobs import status_rows
from runner.view.market import rented_facts
from runner.view.report.facts import job_facts
from runner.view.report.gather import gather
from runner.view.report.several import facts_of_several
from runner.view.status import is_at_work, job_status

_OF_REPORT = ("title", "sentence", "notes", "attempts", "attempts_left_out", "moves", "spec", "machines", "data_hashes")
_CLOUDS_SECONDS = 20.0


def facts_of_job(job: Job) -> dict[str, Any]:
    """Where it is, as ``lastrun status`` tells it, and what its report shows, but for what it is right and wrong in.

    Raises:
        NoSuchJobError, StoreError: it is not there, or cannot be read.
    """
    other = Job(job.store, job.id)  # read by another thread
    status, material = job.store.in_parallel([partial(job_status, job), partial(gather, other, with_predictions=False)])
    shown = job_facts(material)
    progress = status["progress"]
    total = progress.get("total_steps") or status["total_steps"]
    found: dict[str, Any] = plained(
        {
            "id": job.id,
            "state": status["state"],
            "group": (status["group"] or {}).get("id"),
            "at_work": is_at_work(status),
            "reference": job.reference,
            "rows": [[name, text] for name, text in status_rows(status)],
            "step": status["step"],
            "total": total,
            "left": seconds_text(progress.get("seconds_left")) if progress else None,
            "best": percent(status["best_top1"]),
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


def plained(value: Any) -> Any:
    """With control characters made visible in all text, whoever has written it."""
    if isinstance(value, dict):
        return {key: plained(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plained(item) for item in value]
    return plain(value) if isinstance(value, str) else value
