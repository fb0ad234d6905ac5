"""``lastrun ui`` of a bucket with many jobs: how long somebody waits."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from runner.job.attempts import Attempt
from runner.job.job import Job
from runner.resolve import resolve_spec
from runner.store.open import open_store
from tests import browser
from tests.conftest import TINY, Figures
from tests.integration.test_report_in_a_browser import seen
from tests.reports import epoch
from tests.ui import ui

if TYPE_CHECKING:
    from playwright.sync_api import Browser

pytestmark = [pytest.mark.xdist_group("ceph"), pytest.mark.slow]
EPOCHS = 120
LAST, WHOLE = "#jobs tbody tr:nth-child({})", "#jobs tbody:not(:has(td.missing)) tr:nth-child({})"
"""The last row of so many; the same once each has its figures. Waited for frame by frame: a count is looked at each second."""


def fill(uri: str, folder: Path, count: int) -> list[Job]:
    """So many jobs that have trained to their end."""
    store = open_store(uri)
    (folder / "job.yaml").write_text(TINY)
    resolved = resolve_spec(folder / "job.yaml", None, [f"training.epochs={EPOCHS}"])
    origins = {key: str(origin) for key, origin in resolved.origins.items()}
    metrics = "".join(json.dumps(epoch(number, EPOCHS)) + "\n" for number in range(1, EPOCHS + 1)).encode()

    def make() -> Job:
        job = Job.create(store, "many", resolved.items(), origins, "0")
        done = Attempt("0001-aaaaaaaa", "elsewhere", 1, "1", time.time(), phase="ended", began=True, reason="completed")
        done.scores = {"best_top1": 0.9, "best_epoch": EPOCHS, "epoch": EPOCHS, "step": 10 * EPOCHS}
        done.ended_at, done.epochs, done.inherited = time.time(), EPOCHS, []
        job.attempts.write(done)
        job.attempts.write_heartbeat(done, {})
        store.put(job.paths.metrics(done.id), metrics)
        for piece in range(1, 4):
            store.put(job.paths.log(done.id, piece), b"a line of the log\n" * 100)
        return job

    made: list[Job] = store.in_parallel([make for _ in range(count)])
    return made


@pytest.mark.parametrize("count", [30, pytest.param(1000, marks=pytest.mark.full)])
def test_many_jobs_are_listed_and_curves_drawn_at_once(
    chromium: Browser, bucket: str, clean_env: dict[str, str], tmp_path: Path, figure: Figures, count: int
) -> None:
    uri = clean_env["LASTRUN_STORE"]
    jobs = fill(uri, tmp_path, count)
    began = 0.0

    def told(what: str) -> None:
        figure(f"lastrun ui, {count} jobs of {EPOCHS} epochs in Ceph: {what}", f"{time.monotonic() - began:.2f} s")

    with ui(clean_env) as one, browser.look_at(chromium, "about:blank") as look:
        page, began = look.page, time.monotonic()
        page.goto(one.address, wait_until="commit")
        page.wait_for_selector(LAST.format(count))
        told("the list after its start, with all names")
        page.wait_for_selector("#jobs .succeeded")
        told("with the first figures")
        page.wait_for_selector(WHOLE.format(count))
        told("with the figures of all")
        seen(page.locator("#jobs .succeeded")).to_have_count(count)
        for what, path, shown in (
            ("the list, again", "", "#jobs .succeeded"),
            ("curves", "job/{}", ".chart:nth-child(4) canvas"),
        ):
            times = []
            for job in jobs[:7]:
                began = time.monotonic()
                page.goto(f"http://{one.host}{one.root}/{path.format(job.id)}", wait_until="commit")
                page.wait_for_selector(shown)
                times.append(time.monotonic() - began)
            figure(
                f"lastrun ui, {count} jobs of {EPOCHS} epochs in Ceph: {what}",
                f"{sorted(times)[3]:.2f} s (at most {max(times):.2f} s)",
            )
        assert look.said == []
    with ui(clean_env) as one, browser.look_at(chromium, "about:blank") as look:
        page, began = look.page, time.monotonic()
        page.goto(one.address, wait_until="commit")
        page.wait_for_selector(WHOLE.format(count))
        told("started again, the list with the figures of all")
        seen(page.locator("#jobs .succeeded")).to_have_count(count)
