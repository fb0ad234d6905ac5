"""The report that is made when an attempt ends, and kept in the store. It is a matter of a second, beside the last uploads;
whatever goes wrong with it, the attempt ends as it would have."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from last_e.redact import redact
from last_e.text import one_line
from runner.job.attempts import Attempt
from runner.job.job import Job
from runner.waits import WAITS


class Own(NamedTuple):
    """What an attempt that ends has itself: the store may not have all of it yet."""

    attempt: Attempt
    beat: dict[str, Any]
    """What its last heartbeat would tell."""
    metrics: str
    predictions: bytes | None


MakeReport = Callable[[Job, Own], str]
"""The page of a job. It is given from above: what people see is no matter of an attempt's."""


class KeptReport(threading.Thread):
    """Makes it and stores it, on a thread of its own; nothing where nobody ``make``s one."""

    def __init__(self, job: Job, own: Own, make: MakeReport | None) -> None:
        super().__init__(name="report", daemon=True)
        self._job, self._own, self._make = Job(job.store, job.id), own, make
        self._why = ""
        self._given_up = threading.Event()
        try:
            self.start()
        except RuntimeError as error:  # no thread to be had: the attempt ends all the same
            self._why = str(error)

    def run(self) -> None:
        """On its thread."""
        if self._make is None:
            return
        try:
            page = self._make(self._job, self._own)
            key = self._job.paths.report(self._own.attempt.id)
            if not self._given_up.is_set():
                self._job.store.put(key, page.encode())
            if self._given_up.is_set():  # the job may be another's by now, or deleted
                self._job.store.delete([key])
        except Exception as error:  # of a library, of a store, of what somebody has written there: none of it is the attempt's
            self._why = f"{type(error).__name__}: {redact(one_line(error))}"

    def wait(self, until: float) -> str:
        """Wait for it, but not long, and not beyond ``until`` (:func:`time.monotonic`). What to say where there is none; empty
        where there is one."""
        if self.ident is not None:
            self.join(max(0.0, min(WAITS.report, until - time.monotonic())))
        self._given_up.set()
        why = "it takes too long" if self.is_alive() else self._why
        return f"no report is kept of this attempt ({why}); lastrun report {self._job.reference} makes one" if why else ""
