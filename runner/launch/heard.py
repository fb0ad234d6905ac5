"""Which stop requests are not meant for an attempt that is to begin somewhere else, and later."""

from __future__ import annotations

from collections.abc import Iterable

from runner.job.job import Job


def heard(keys: Iterable[str]) -> list[str]:
    """What an attempt is told of requests from before it was handed over; without it, it takes for such all that it finds when
    it begins."""
    return [word for key in ("", *keys) for word in ("--heard", key)]


def with_heard(job: Job, arguments: list[str]) -> list[str]:
    """What an attempt is told that is handed over now: who asks it while it waits, or is set up, means it. Who begins it after
    another knows himself what was asked of that one.

    Raises:
        StoreError: what has been asked cannot be read.
    """
    return arguments if "--heard" in arguments else [*heard(job.requests.keys()), *arguments]
