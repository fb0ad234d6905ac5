"""Which of a store's jobs a list shows: those of some states, made since a time, submitted by somebody. What an ID tells is
asked of nothing else, and what a job's record tells before anything that changes is read."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from runner.errors import State
from runner.job.job import Job
from runner.job.paths import made_at

STOPPING = "stopping"
"""Shown of a job that runs, but has been asked to leave."""
STATES = (*(state.value for state in State), STOPPING)
_MOMENT = re.compile(r"\d{4}-\d\d-\d\d(?:[T ]\d\d:\d\d(?::\d\d)?)?(?:Z|[+-]\d\d:\d\d)?")


@dataclass(frozen=True)
class Wanted:
    """What is asked of a job; by default nothing."""

    states: frozenset[str] = frozenset()
    since: float | None = None
    """Seconds since 1970."""
    by: str | None = None
    """Who has submitted it (:func:`runner.submitter.submitter`)."""
    unsaid: list[str] = field(default_factory=list, compare=False)
    """Those whose records did not say who has."""

    def of(self, jobs: Iterable[Job]) -> Iterator[Job]:
        """Those whose ID does not tell that they are older; whoever can write into a store can list them in any order."""
        for job in jobs:
            made = made_at(job.id)
            if self.since is not None and made is not None and made < self.since:
                continue
            yield job

    def has_right_record(self, job: Job) -> bool:
        """Whether a job's record, which never changes, speaks against it.

        Raises:
            LastrunError: it cannot be read.
        """
        if self.by is None:
            return True
        by = job.record()["by"]
        if by is None:
            self.unsaid.append(job.id)
        return bool(by == self.by)

    def takes(self, facts: dict[str, Any]) -> bool:
        """Whether a job is one of those, by all that a list shows of it. One that cannot be read may be."""
        if "error" in facts:
            return True
        is_young = self.since is None or facts["created_at"] >= self.since
        return is_young and (not self.states or facts["state"] in self.states)

    def __bool__(self) -> bool:
        return self != ALL


ALL = Wanted()


def moment(text: str) -> float | None:
    """``2h``, ``3d`` or ``1d12h`` ago, or a date or time of this machine's zone (``2026-11-30``, ``2026-11-30T14:00``, with
    ``Z`` or ``+01:00`` of another), in seconds since 1970; None: neither."""
    from last_e.config import parse_duration

    try:
        ago = parse_duration(text)
        if isinstance(ago, int):
            return time.time() - ago
        if not _MOMENT.fullmatch(text):
            return None
        return datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()
    except (ValueError, OverflowError, OSError):
        return None
