"""``lastrun ui`` in a real browser: a job is followed, stopped and resumed from its page, and everybody can use the pages."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from runner.job.job import Job
from runner.store.directory import DirectoryStore
from tests import browser, debian, groups
from tests.integration.test_film import GESTURES
from tests.integration.test_report_in_a_browser import LOOKS, seen, shows
from tests.jobs import wait_until
from tests.reports import made_up
from tests.ui import Ui, ui
from tests.unit.test_report import HOSTILE, trained

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = [pytest.mark.xdist_group("browser"), pytest.mark.slow]
BLUE = (11, 98, 196)
PAGES = ("list", "job", "compare", "clouds")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def jobs(home: Path) -> list[Job]:
    """A job with names that somebody else has chosen, and a group of four that have ended."""
    store = DirectoryStore(home / "store")
    hostile = made_up(store, home, **{name: "".join(HOSTILE) for name in ("name", "host", "message", "origin")})
    group = groups.group_of(store, home, "{grid: {training.lr: [0.1, 0.2]}, seeds: 2}")
    group.complete()
    for number, job in enumerate(group.jobs()):
        trained(job, number, -0.05 * number)
    return [hostile, *group.jobs()]


@pytest.fixture(scope="module")
def pages(
    chromium: Browser, home: Path, jobs: list[Job], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Ui, Path]]:
    """Of these jobs, and a file with the cookie of a browser that has come in."""
    kept = {
        name: os.environ[name] for name in ("PATH", "PYTHONPATH", "LASTRUN_WAITS", "LASTRUN_SHUTDOWN") if name in os.environ
    }
    state = tmp_path_factory.mktemp("browser") / "state.json"
    with ui({**kept, "HOME": str(home), "LASTRUN_STORE": str(home / "store")}) as one:
        with browser.look_at(chromium, one.address) as look:
            seen(look.page.locator("#jobs tbody tr")).to_have_count(5)
            assert look.page.url == f"http://{one.host}{one.root}/", "without the token"
            look.page.context.storage_state(path=state)
        yield one, state


def address(one: Ui, kind: str, jobs: list[Job]) -> str:
    group = jobs[1].id.partition("p0")[0]
    paths = {"list": "", "job": f"job/{jobs[0].id}", "compare": f"compare?group={group}", "clouds": "clouds"}
    return f"http://{one.host}{one.root}/{paths[kind]}"


def is_filled(page: Page, kind: str) -> None:
    if kind == "list":
        seen(page.locator("#jobs .succeeded")).to_have_count(5)
    elif kind == "clouds":
        seen(page.locator("#told")).to_contain_text("No machine")
    else:
        seen(page.locator(".chart canvas")).to_have_count(4 if kind == "job" else 5)


@pytest.mark.parametrize(
    ("kind", "how"),
    [*((kind, "light") for kind in PAGES), ("list", "dark"), ("job", "dark"), ("list", "phone"), ("job", "phone")],
)
def test_a_page_asks_nobody_else_and_keeps_nobody_out(
    chromium: Browser, pages: tuple[Ui, Path], jobs: list[Job], kind: str, how: str
) -> None:
    one, state = pages
    with browser.look_at(chromium, address(one, kind, jobs), storage_state=state, **LOOKS[how]) as look:
        is_filled(look.page, kind)
        assert look.page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "nothing hangs out at the side"
        assert browser.barriers(look.page) == []
        assert look.page.locator("main img, main iframe, main script").count() == 0
        assert look.said == []
        assert all(asked.startswith(f"http://{one.host}{one.root}/") for asked in look.asked)


def test_pages_are_valid_html(chromium: Browser, pages: tuple[Ui, Path], jobs: list[Job], tmp_path: Path) -> None:
    """As they are sent, and as their scripts have filled them."""
    debian.need("Java", browser.why_no_checker)
    one, state = pages
    files = []
    for kind in PAGES:
        with browser.look_at(chromium, address(one, kind, jobs), storage_state=state) as look:
            is_filled(look.page, kind)
            for name, text in (("sent", look.page.request.get(look.page.url).text()), ("filled", look.page.content())):
                assert "<main" in text
                files.append(tmp_path / f"{kind}-{name}.html")
                files[-1].write_text(text)
    assert browser.mistakes(*files) == []


def test_jobs_are_found_marked_and_compared_by_keyboard(chromium: Browser, pages: tuple[Ui, Path], jobs: list[Job]) -> None:
    one, state = pages
    with browser.look_at(chromium, address(one, "list", jobs), storage_state=state) as look:
        page = look.page
        rows = page.locator("#jobs tbody tr:visible")
        is_filled(page, "list")
        page.keyboard.press("Tab")
        assert page.locator(":focus").inner_text() == "To the content"
        page.locator("#search").focus()
        page.keyboard.type("MADE-up NANO")
        seen(rows).to_have_count(1)
        assert page.locator("#count").inner_text().startswith("1 of 5 jobs")
        page.keyboard.press("Control+a")
        page.keyboard.press("Delete")
        page.locator("#group").select_option(index=1)
        seen(rows).to_have_count(4)
        assert page.locator("#count").inner_text() == "4 of 5 jobs; of the group 4 succeeded"
        page.locator("#state").select_option("succeeded")
        page.reload()
        seen(rows).to_have_count(4)
        assert page.locator("#state").input_value() == "succeeded", "what was looked for stays in the address"
        for number in (0, 3):
            rows.nth(number).locator("input").focus()
            page.keyboard.press("Space")
        page.locator("#compare").focus()
        page.keyboard.press("Enter")
        seen(page.locator(".chart canvas")).to_have_count(5)
        assert page.locator("#jobs tr").count() == 2
        assert page.locator("#keys").inner_text().split("\t")[1] == "training.lr"
        assert shows(page.locator(".chart canvas").first, BLUE)
        page.locator("#jobs a").first.click()
        seen(page.locator("#to-group")).to_be_visible()
        page.locator("#to-group").click()
        seen(rows).to_have_count(4)
        assert look.said == []


def test_a_report_is_shown_where_it_can_do_nothing(chromium: Browser, pages: tuple[Ui, Path], jobs: list[Job]) -> None:
    one, state = pages
    with browser.look_at(chromium, address(one, "job", jobs), storage_state=state) as look:
        page = look.page
        page.get_by_role("link", name="Report, whole").click()
        seen(page.locator(".chart canvas")).to_have_count(4)
        assert page.locator(".clip").count() == 8
        assert page.evaluate("self.origin") == "null"
        assert look.said == []


def test_whoever_has_no_cookie_is_told_what_to_do(chromium: Browser, pages: tuple[Ui, Path], jobs: list[Job]) -> None:
    one, _ = pages
    with browser.look_at(chromium, address(one, "list", jobs)) as look:
        assert "open the address that lastrun ui shows" in look.page.inner_text("body")
    with browser.look_at(chromium, one.address) as look:
        assert "this token was used" in look.page.inner_text("body")


def test_a_job_that_runs_is_followed_stopped_and_resumed(
    chromium: Browser, run: Any, clean_env: dict[str, str], tmp_path: Path, picture: Any, request: pytest.FixtureRequest
) -> None:
    """Trained for real; docs/ui.md shows what is seen here."""
    store = Path(tempfile.mkdtemp(prefix="jobs-", dir="/tmp"))  # a name that a picture may show
    request.addfinalizer(lambda: shutil.rmtree(store, ignore_errors=True))
    clean_env["LASTRUN_STORE"] = str(store)
    (tmp_path / "gestures.yaml").write_text(GESTURES)
    earlier = made_up(DirectoryStore(store), tmp_path)
    started = run("submit", "gestures.yaml", "--set", "training.epochs=6")
    wait_until(lambda: started.job.id != earlier.id)

    def epochs(count: int) -> Any:
        return lambda job: job.id != earlier.id and len(job.metrics()) >= count

    with ui(clean_env) as one, browser.look_at(chromium, one.address) as look:
        page, job = look.page, started.job
        with started.held(epochs(1)):
            seen(page.locator("#jobs tbody tr")).to_have_count(2)
            seen(page.locator(f"tr:has-text('{job.id}')")).to_contain_text(re.compile("[123]/6"))
            page.get_by_role("link", name=job.id).click()
            last = page.locator(".chart .u-legend tr:first-child .u-value").first
            seen(page.locator("#state")).to_have_text("running")
            seen(last).to_have_text(re.compile("[123]"))
            seen(page.locator("#log")).to_contain_text("epoch 1/6")
            first = int(last.inner_text())
        with started.held(epochs(first + 1)):
            seen(last).not_to_have_text(str(first))
            seen(page.locator("#log")).to_contain_text(f"epoch {first + 1}/6")
            picture(page, "ui")
            page.get_by_role("button", name="Stop ...").click()
            seen(page.locator("#order-command")).to_have_text(f"lastrun stop {job.id}")
            page.keyboard.press("Escape")
            seen(page.locator("#order")).to_be_hidden()
            assert job.requests.keys() == [], "it was shown, and not run"
            page.get_by_role("button", name="Stop ...").click()
            page.get_by_role("button", name="Run it").click()
            seen(page.locator("#order-state")).to_have_text("Done (exit code 0).")
            seen(page.locator("#order-output")).to_contain_text(f"{job.id} is stopping")
            assert browser.barriers(page) == []
            page.get_by_role("button", name="Close").click()
            seen(page.locator("#state")).to_have_text("stopping")
        seen(page.locator("#state")).to_have_text("stopped")
        assert started.end()[0] == 75

        page.get_by_role("button", name="Resume ...").click()
        seen(page.locator("#order-command")).to_have_text(f"lastrun resume {job.id} --detach")
        page.locator("#env").select_option("local")
        seen(page.locator("#order-command")).to_have_text(f"lastrun resume {job.id} --detach --env local")
        page.get_by_role("button", name="Run it").click()
        seen(page.locator("#order-state")).to_have_text("Done (exit code 0).")
        page.get_by_role("button", name="Close").click()
        seen(page.locator("#state")).to_have_text("succeeded")
        seen(last).to_have_text("6")
        seen(page.locator("#log")).to_contain_text("--- attempt 2")
        assert page.locator("#attempts tr").count() == 2
        assert look.said == []

        one.process.kill()
        page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")  # as when somebody comes back to it
        seen(page.locator("#problem")).to_contain_text("lastrun ui does not answer")
