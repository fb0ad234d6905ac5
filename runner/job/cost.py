"""What attempts have cost on machines that were rented for them, as their own records tell."""

from __future__ import annotations

import math
import time
from contextlib import suppress
from functools import partial

from runner.job.attempts import Attempt
from runner.job.job import Job

DOLLARS, PAID_SINCE = "dollars", "paid_since"
"""What a launcher tells an attempt of its machine (``Attempt.container``): USD an hour, and since when (seconds since 1970)."""
_MOST = 1e5


def rented_cost(attempt: Attempt, seconds: float) -> float | None:
    """Of an attempt that ran for so many seconds, in USD, with what came before it on that machine; None: nobody is paid for it
    by the hour."""
    about = attempt.container or {}
    with suppress(KeyError, ValueError):
        dollars = float(about[DOLLARS])
        before = attempt.started_at - float(about.get(PAID_SINCE, attempt.started_at))
        if 0 <= dollars < _MOST and math.isfinite(before):
            return dollars * (seconds + max(0.0, before)) / 3600
    return None


def spent(job: Job) -> float:
    """What the job's attempts have cost so far in all, in USD; of one that has not ended, until now if it lives."""
    attempts = job.attempts.all()
    costs: list[float] = job.store.in_parallel([partial(_cost_so_far, job, attempt) for attempt in attempts])
    return sum(costs)


def _cost_so_far(job: Job, attempt: Attempt) -> float:
    if rented_cost(attempt, 0.0) is None:
        return 0.0
    end = attempt.ended_at
    if end is None and job.attempts.alive(attempt):
        end = time.time()
    elif end is None or attempt.phase == "lost":  # when that was noticed says nothing
        end = float(job.attempts.heartbeat(attempt).get("time", 0.0))
    return rented_cost(attempt, max(0.0, end - attempt.started_at)) or 0.0
