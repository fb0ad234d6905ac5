"""A bad network between a run and a real Ceph gateway: training never waits for it, and nothing is lost.

``make figures`` runs these, and those of the kills and the races, at the lengths that docs/faults.md tells of.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from runner.job.job import Job
from runner.store.s3_calls import DOWNLOAD_TRIES
from tests.ceph import Ceph
from tests.conftest import Cli
from tests.faultproxy import FaultProxy, Faults, fault_proxy
from tests.jobs import LONGER, assert_same, assert_whole, command_lines, some_step_is_stored

pytestmark = pytest.mark.xdist_group("ceph")

FLIP_AT = 20_000
"""Beyond the end of every object but a checkpoint's state."""
OUTAGES = {
    "503 SlowDown": Faults("slow_down"),
    "refused": Faults("refuse"),
    "black hole": Faults("blackhole"),
    "stalled up": Faults(stall_up=30_000),
    "stalled down": Faults(stall_down=100),  # within the first answer's header: else small answers come through
}
BROKEN = {
    "cut up": Faults(cut_up=30_000, share=0.5),
    "cut down": Faults(cut_down=2_000, share=0.5),
}


@pytest.fixture
def proxy(ceph: Ceph) -> Iterator[FaultProxy]:
    with fault_proxy(ceph.port) as running:
        yield running


@pytest.fixture
def through_proxy(proxy: FaultProxy, ceph: Ceph, bucket: str) -> str:
    """The store's URI as the run has it; the test looks at the store without the proxy."""
    return ceph.uri(bucket, tls=False, port=proxy.port)


def assert_nothing_half(job: Job) -> None:
    """What is there is whole, and nothing else is there."""
    assert_whole(job)
    listed = {stored.name for stored in job.checkpoints.all()}
    assert {entry.key.split("/")[2] for entry in job.store.scan(job.paths.checkpoints)} == listed


@pytest.mark.parametrize(
    "outage",
    [pytest.param(name, marks=[pytest.mark.full] if name in ("refused", "stalled down") else []) for name in OUTAGES],
)
def test_training_never_waits_for_an_outage_and_all_is_synced_in_the_end(
    proxy: FaultProxy, through_proxy: str, run: Any, tiny: Path, uninterrupted: Any, outage: str, full: bool
) -> None:
    current = run("submit", tiny, *LONGER, "--store", through_proxy)
    with current.held(some_step_is_stored) as trainer:
        began = time.monotonic()
        proxy.set(OUTAGES[outage])
    while command_lines().get(trainer):
        assert time.monotonic() - began < 120, "the trainer waits"
        time.sleep(0.1)
    assert current.job.state()[0].value == "running"
    behind = current.job.checkpoints.all()[-1].manifest.step
    time.sleep(max(0.0, (60.0 if full else 14.0) - (time.monotonic() - began)))  # the first try has been given up by then
    proxy.set(Faults())
    code, out = current.end()
    assert code == 0, out
    assert "uploads wait" in out or "waiting for uploads" in out
    assert current.job.checkpoints.all()[-1].manifest.step > behind
    assert_same(current.job, uninterrupted)
    assert_nothing_half(current.job)
    assert proxy.seen.total() > proxy.seen["connections"]


@pytest.mark.parametrize("fault", ["cut up", pytest.param("cut down", marks=pytest.mark.full)])
def test_a_run_ends_well_over_a_network_that_breaks_half_of_its_connections(
    proxy: FaultProxy, through_proxy: str, run: Any, cli: Cli, tiny: Path, uninterrupted: Any, fault: str
) -> None:
    current = run("submit", tiny, *LONGER, "--store", through_proxy)
    with current.held(some_step_is_stored):
        proxy.set(BROKEN[fault])
        seen = current.job.checkpoints.all()[-1].manifest.step
    with current.held(lambda job: any(stored.manifest.step > seen for stored in job.checkpoints.all())):
        current.press_ctrl_c()
    code, out = current.end()
    assert code == 75, out
    resumed = cli("resume", f"{through_proxy.partition('?')[0]}/{current.job.id}?{through_proxy.partition('?')[2]}")
    assert resumed.returncode == 0, resumed.stdout + resumed.stderr
    assert proxy.seen["cut"] >= 1
    assert_same(current.job, uninterrupted)
    assert_nothing_half(current.job)


@pytest.mark.parametrize(("flips", "skipped"), [pytest.param(1, False, marks=pytest.mark.full), (DOWNLOAD_TRIES, True)])
def test_a_bit_flipped_on_download_is_noticed(
    proxy: FaultProxy, through_proxy: str, run: Any, cli: Cli, tiny: Path, uninterrupted: Any, flips: int, skipped: bool
) -> None:
    current = run("submit", tiny, *LONGER, "--store", through_proxy)
    with current.held(lambda job: len(job.checkpoints.all()) >= 2):
        current.press_ctrl_c()
    assert current.end()[0] == 75
    before = [stored.name for stored in current.job.checkpoints.all()]
    proxy.set(Faults(flip_down=FLIP_AT, flips=flips))
    resumed = cli("resume", f"{through_proxy.partition('?')[0]}/{current.job.id}?{through_proxy.partition('?')[2]}")
    assert resumed.returncode == 0, resumed.stdout + resumed.stderr
    assert proxy.seen["flipped"] == flips
    assert (f"skipping checkpoint {before[-1]}" in resumed.stdout) is skipped
    assert f"going on from checkpoint {before[-2 if skipped else -1]} " in resumed.stdout
    assert_same(current.job, uninterrupted)


@pytest.mark.parametrize("outage", ["refused", "black hole", "503 SlowDown"])
def test_a_store_that_does_not_answer_at_the_start_is_told_within_half_a_minute(
    proxy: FaultProxy, through_proxy: str, cli: Cli, tiny: Path, outage: str
) -> None:
    proxy.set(OUTAGES[outage])
    began = time.monotonic()
    # With the waits that users have where that is the longest: a server that is silent.
    waits = {"LASTRUN_WAITS": ""} if outage == "black hole" else {}
    done = cli("submit", tiny, "--store", through_proxy, **waits)
    assert done.returncode == 4
    assert time.monotonic() - began < 30
    assert [line[:12] for line in done.stderr.splitlines()] == ["error: s3://"]
