"""A random search whose weak points are left early, through the real commands."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from runner.job.find import find_group
from tests.conftest import TINY, Cli
from tests.jobs import wait_until

SEARCH = """\
sweep:
  search: {training.lr: {low: 0.001, high: 0.3, log: true}, training.label_smoothing: [0, 0.1]}
  trials: 3
  halving: {first: 1, factor: 2}
"""


@pytest.mark.slow
def test_a_search_that_is_killed_goes_on_to_the_end_of_its_best_point_and_leaves_the_weak_ones(
    run: Any, cli: Cli, tmp_path: Path
) -> None:
    spec = tmp_path / "search.yaml"
    spec.write_text(TINY + SEARCH)
    small = ("--set", "training.epochs=2", "training.batch_size=80")
    first = run("submit", spec, *small)
    wait_until(lambda: len(list(first.store.scan(".index/"))) == 3)
    second_point = find_group("tiny", first.store.uri).jobs()[1]
    wait_until(lambda: second_point.state()[0].value == "running")
    os.killpg(first.process.pid, signal.SIGKILL)
    first.end()
    group = find_group("tiny", first.store.uri)
    wait_until(lambda: json.loads(cli("status", group.id, "--json").stdout)["states"].get("running") is None)

    code, out = run("resume", group.id).end()
    assert code == 0, out
    metrics = {int(job.id[-1]): job.metrics() for job in group.jobs()}
    reached = {number: [epoch["epoch"] for epoch in epochs][-1] for number, epochs in metrics.items()}
    at_first = {number: epochs[0]["test_top1"] for number, epochs in metrics.items()}
    best, *weak = sorted(at_first, key=lambda number: (-at_first[number], number))
    ends = {number: group.jobs()[number - 1].state()[::2] for number in reached}
    assert (ends[best][0].value, reached[best]) == ("succeeded", 2)
    for number in weak:
        state, reason = ends[number]
        assert (state.value, reason and reason.value) == ("paused", "epoch_reached")

    facts = json.loads(cli("status", group.id, "--json").stdout)
    assert facts["next"] == f"lastrun compare {facts['reference']}"
    again = cli("resume", group.id)
    assert (again.returncode, "its search is over" in again.stderr) == (2, True), again.stderr
    rows = json.loads(cli("compare", group.id, "--json").stdout)["rows"]
    assert len(rows) == 3
    assert rows[0]["finished"] == 1
