"""How often an attempt waits for a store that is far away: until its trainer starts, and after its last step."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.conftest import Cli
from tests.counting.store import CALLS, CountingStore
from tests.docker_engine import ROOT
from tests.jobs import jobs_in
from tests.unit.test_round_trips import make_job, make_past, vanish


@dataclass(frozen=True)
class Call:
    """A call of the store, or the start of a process."""

    pid: str
    thread: str
    depth: int
    what: str


def calls(path: Path) -> list[Call]:
    lines = [line.split(" ", 4)[1:] for line in path.read_text().splitlines()]
    return [Call(pid, thread, int(depth), what) for pid, thread, depth, what in lines]


def depths(made: list[Call]) -> dict[str, int]:
    """Round trips of each thread, in all processes together; the heart is beside the way."""
    first: dict[tuple[str, str], int] = {}
    last: dict[tuple[str, str], int] = {}
    for call in made:
        if call.thread not in ("start", "heart"):
            first.setdefault((call.thread, call.pid), call.depth - 1)
            last[call.thread, call.pid] = max(call.depth, last.get((call.thread, call.pid), 0))
    found: Counter[str] = Counter()
    for each in last:
        found[each[0]] += last[each] - first[each]
    return dict(found)


def until_the_trainer(made: list[Call]) -> list[Call]:
    return made[: next(number for number, call in enumerate(made) if call.thread == "start" and "last_e" in call.what)]


def after_the_last_step(made: list[Call]) -> list[Call]:
    """From the upload of the newest checkpoint on."""
    newest = max(call.what.split("/")[2] for call in made if "/checkpoints/" in call.what and call.what.startswith("put"))
    return made[next(number for number, call in enumerate(made) if call.what.startswith("put") and newest in call.what) :]


@pytest.mark.parametrize("attempts", [1, 20])
def test_six_round_trips_show_a_job_to_who_calls_the_commands(
    cli: Cli, tmp_path: Path, clean_env: dict[str, str], attempts: int
) -> None:
    """With all that a command does beside."""
    job = make_job(CountingStore(Path(clean_env["LASTRUN_STORE"])), attempts)
    for number, words in enumerate((["status", "far"], ["status", job.id, "--json"], ["logs", "far"], ["list"])):
        path = tmp_path / f"calls{number}"
        done = cli(*words, PYTHONPATH=f"{ROOT / 'tests' / 'counting'}:{ROOT}", **{CALLS: str(path)})
        assert done.returncode == 0, done.stderr
        assert 3 <= sum(depths(calls(path)).values()) <= 6, words


@pytest.mark.parametrize("attempts", [0, 1, 20])
def test_fifteen_round_trips_begin_an_attempt_and_six_end_it(
    cli: Cli, tiny: Path, tmp_path: Path, clean_env: dict[str, str], attempts: int
) -> None:
    clean_env["LASTRUN_WAITS"] += " heartbeat=30"
    store = CountingStore(Path(clean_env["LASTRUN_STORE"]))
    words: list[str | Path] = ["submit", tiny, "--set", "training.epochs=1"]
    if attempts:
        assert cli(*words).returncode == 0
        (job,) = jobs_in(store)
        make_past(job, range(2, attempts + 1), [stored.name for stored in job.checkpoints.all()])
        vanish(store)
        words = ["resume", job.id, "--set", "training.epochs=2", "--allow-change", "training.epochs"]
    done = cli(*words, PYTHONPATH=f"{ROOT / 'tests' / 'counting'}:{ROOT}", **{CALLS: str(tmp_path / "calls")})
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].startswith("next: lastrun pull")
    made = calls(tmp_path / "calls")
    assert len({call.pid for call in made}) == 3  # the command, the attempt, the trainer
    assert sum(depths(until_the_trainer(made)).values()) <= 15
    by_thread = depths(after_the_last_step(made))
    assert by_thread.pop("pruner") <= 3  # beside the others
    assert by_thread.pop("report") <= 5  # beside the others, too
    assert by_thread.pop("look", 0) <= 1  # whether another has the job: beside the checkpoint's files
    # The checkpoint's files, its manifest, log and events, the end. One look whether there still is a job; what to do next.
    assert by_thread["outbox"] <= 4
    assert sum(by_thread.values()) <= 6
