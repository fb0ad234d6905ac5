"""How long commands take with a store that is far away, for jobs that have moved often.

    python benchmarks/round_trips.py

The store is a folder that answers each call after a while, as a bucket does, however many are asked at once. Prints a table:
seconds for each command, delay and number of attempts, and how many calls that were.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from runner.job.find import list_jobs
from runner.job.job import Job
from runner.view.status import job_status, summaries
from tests.counting.store import CALLS, DELAY, FarStore
from tests.unit.test_round_trips import CONFIG, make_past, vanish

DELAYS = (0.0, 0.05, 0.15)
ATTEMPTS = (1, 5, 20)
JOBS = 50
ROOT = Path(__file__).parents[1]
SPEC = """\
name: tiny
model: {variant: nano_e_v3, stem_channels: 8, channels: [8, 8], num_blocks: [1, 1], depths: [1, 1], strides: [1, 2]}
dataset: synthetic
training: {epochs: 1, batch_size: 40, input_frames: 16, warmup_epochs: 0}
hardware: {cpu_threads: 1}
"""


def show(name: str, attempts: int, calls: int, seconds: list[float]) -> None:
    """A line of the table."""
    print(f"| {name} | {attempts} | {calls} | " + " | ".join(f"{value:.2f} s" for value in seconds) + " |", flush=True)


def attempt(attempts: int, delay: float) -> tuple[float, float, int]:
    """Seconds from a command until its trainer starts, and from the upload of its last step to its end, of a job that has had
    so many attempts; and how many calls that were in all."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        store = FarStore(folder / "store")
        (folder / "job.yaml").write_text(SPEC)
        env = {**os.environ, "HOME": place, "LASTRUN_STORE": str(store.root), "PYTHONPATH": str(ROOT), CALLS: place + "/calls"}
        env["LASTRUN_WAITS"] = "heartbeat=30"
        words = ["submit", "job.yaml"]
        if attempts:
            lastrun(env, *words)
            (job,) = list_jobs(store)
            make_past(job, range(2, attempts + 1), [stored.name for stored in job.checkpoints.all()])
            vanish(store)
            words = ["resume", job.id, "--set", "training.epochs=2", "--allow-change", "training.epochs"]
        began = time.time()
        lastrun({**env, "PYTHONPATH": f"{ROOT / 'tests' / 'counting'}:{ROOT}", DELAY: str(delay)}, *words)
        ended = time.time()
        lines = [line.split(" ", 4) for line in (folder / "calls").read_text().splitlines()]
    trains = next(float(when) for when, _, thread, _, what in lines if thread == "start" and "last_e" in what)
    puts = [
        (what.split("/")[2], float(when)) for when, _, _, _, what in lines if what.startswith("put") and "/checkpoints/" in what
    ]
    last = min(when for name, when in puts if name == max(puts)[0])
    return trains - began, ended - last, sum(line[2] != "start" for line in lines)


def lastrun(env: dict[str, str], *words: str) -> None:
    """As a person calls it."""
    subprocess.run([sys.executable, "-m", "runner", *words], env=env, cwd=env["HOME"], check=True, capture_output=True)


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
                show(name, attempts, calls, seconds)
    for attempts in (0, *ATTEMPTS):
        begins, ends, counts = zip(*(attempt(attempts, delay) for delay in DELAYS))
        name = "resume" if attempts else "submit"
        show(f"{name}, until it trains", attempts, counts[-1], list(begins))
        show(f"{name}, after its last step", attempts, counts[-1], list(ends))


if __name__ == "__main__":
    main()
