"""How long commands take with a store that is far away: status, logs and list, for jobs that have moved often.

    python benchmarks/round_trips.py

The store is a folder that answers each call after a while, as a bucket does, however many are asked at once. Prints a table:
seconds for each command, delay and number of attempts, and how many calls that were.
"""

from __future__ import annotations

import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from runner.job.find import list_jobs
from runner.job.job import Job
from runner.store import parallel
from runner.view.status import job_status, summaries
from tests.counting.store import CountingStore
from tests.unit.test_round_trips import CONFIG, make_past

DELAYS = (0.0, 0.05, 0.15)
ATTEMPTS = (1, 5, 20)
JOBS = 50


class FarStore(CountingStore):
    """Answers after ``delay`` seconds."""

    delay = 0.0

    def in_parallel(self, calls: Sequence[Callable[[], Any]]) -> list[Any]:
        """See :class:`~runner.store.protocol.Store`."""
        return parallel.in_parallel(calls)

    def _wait(self, call: str) -> None:
        time.sleep(self.delay)
        with _LOCK:
            self.calls.append(call)


_LOCK = threading.Lock()


def main() -> None:
    """Measure and print."""
    print("| command | attempts | calls | " + " | ".join(f"{1000 * delay:.0f} ms" for delay in DELAYS) + " |")
    print("|---|---|---|" + "---|" * len(DELAYS))
    for attempts in ATTEMPTS:
        with tempfile.TemporaryDirectory() as folder:
            store = FarStore(Path(folder))
            jobs = [Job.create(store, f"job{number}", {**CONFIG, "training.epochs": 9}, {}, "0") for number in range(JOBS)]
            for job in jobs:
                make_past(job, range(1, attempts + 1))
            commands: dict[str, Callable[[], Any]] = {
                "status": lambda store=store, name=jobs[0].id: job_status(Job(store, name)),
                "logs": lambda store=store, name=jobs[0].id: list(Job(store, name).log()),
                f"list ({JOBS} jobs)": lambda store=store: summaries(list_jobs(store), JOBS),
            }
            for name, command in commands.items():
                seconds = []
                for delay in DELAYS:
                    store.delay = delay
                    store.calls.clear()
                    began = time.monotonic()
                    command()
                    seconds.append(time.monotonic() - began)
                    calls = len(store.calls)
                store.delay = 0.0
                print(
                    f"| {name} | {attempts} | {calls} | " + " | ".join(f"{value:.2f} s" for value in seconds) + " |", flush=True
                )


if __name__ == "__main__":
    main()
