"""What is done for GPUs leaves the numbers of a CPU alone: short runs come out as they are stored, of every variant's kind."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from tests.same_bits import KEPT, RUNS, found

ROUNDING = 2e-3
"""Relative, of a loss: after two steps another order of sums is seen in the fifth digit."""


@pytest.mark.slow
def test_short_runs_on_a_cpu_come_out_as_before(record_property: Callable[[str, object], None]):
    """To the last bit where single operations do, as on all CPUs of a kind with the same torch; else within rounding."""
    now, kept = found(), json.loads(KEPT.read_text())
    assert set(now["runs"]) == set(RUNS)
    same = [one for one in kept if one["arithmetic"] == now["arithmetic"]]
    record_property("same bits", "compared to the last bit" if same else f"within rounding: torch {now['torch']}, another CPU")
    for one in same or kept[:1]:
        for variant, run in one["runs"].items():
            if same:
                assert now["runs"][variant] == run, variant
            else:
                assert now["runs"][variant]["losses"] == pytest.approx(run["losses"], rel=ROUNDING), variant
                assert now["runs"][variant]["test_loss"] == pytest.approx(run["test_loss"], rel=ROUNDING), variant
