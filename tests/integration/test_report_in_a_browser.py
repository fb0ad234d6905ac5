"""Reports in a real browser: what is drawn is there, answers, fetches nothing, and can be used by everybody."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from PIL import Image, ImageChops

from runner.job.job import Job
from runner.store.directory import DirectoryStore
from runner.view.report.page import page_of
from tests import browser, debian, groups
from tests.jobs import PATIENCE
from tests.reports import made_up
from tests.unit.test_report import HOSTILE, trained

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Locator, LocatorAssertions

pytestmark = [pytest.mark.xdist_group("browser"), pytest.mark.slow]
CHARTS = {"whole": 4, "hostile": 4, "older": 4, "begun": 0, "several": 5}
LOOKS: dict[str, dict[str, Any]] = {
    "light": {"reduced_motion": "reduce"},
    "dark": {"color_scheme": "dark"},
    "phone": {"viewport": {"width": 360, "height": 740}, "device_scale_factor": 2, "is_mobile": True, "has_touch": True},
}


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A report of each kind, in a file."""
    folder = tmp_path_factory.mktemp("reports")
    store = DirectoryStore(folder / "store")
    foreign = {name: "".join(HOSTILE[:-1]) for name in ("name", "host", "message", "origin")}
    older, begun = made_up(store, folder), made_up(store, folder)
    store.delete([older.paths.predictions(older.attempts.names()[-1])])
    for attempt in begun.attempts.names():
        store.clear(begun.paths.attempt(attempt, ""))
    group = groups.group_of(store, folder, "{grid: {training.lr: [0.1, 0.2]}, seeds: 2}")
    group.complete()
    for number, job in enumerate(group.jobs()):
        trained(job, number, -0.05 * number)
    jobs: dict[str, list[Job]] = {
        "whole": [made_up(store, folder)],
        "hostile": [made_up(store, folder, **foreign, classes=[f"{HOSTILE[n % 4]}{n}" for n in range(12)])],
        "older": [older],
        "begun": [Job(store, begun.id)],
        "several": group.jobs(),
    }
    found = {kind: folder / f"{kind}.html" for kind in CHARTS}
    for kind, path in found.items():
        path.write_text(page_of(jobs[kind], group.id)[0], encoding="utf-8")
    return found


def seen(of: Locator) -> LocatorAssertions:
    """What is to be there, sooner or later. (``wait_for_function`` would need ``eval``, which the page does not admit.)"""
    from playwright.sync_api import Expect

    expect = Expect()
    expect.set_options(timeout=1000 * PATIENCE)
    return expect(of)


BLUE, BLUE_BY_NIGHT, BAND = (11, 98, 196), (88, 166, 255), (206, 223, 243)
"""Of the first line, and of the band around it, a fifth of that on white."""


def shows(of: Locator, *wanted: tuple[int, int, int]) -> bool:
    """Whether many points of something have each of these colours, or as good as."""
    with Image.open(io.BytesIO(of.screenshot())) as picture:
        found = [colour for count, colour in picture.convert("RGB").getcolors(2**20) or [] if count > 40]
    return all(any(max(abs(a - b) for a, b in zip(one, colour)) <= 3 for one in found) for colour in wanted)


@pytest.mark.parametrize(
    ("kind", "how"),
    [*((kind, "light") for kind in CHARTS), *((kind, how) for kind in ("whole", "several") for how in ("dark", "phone"))],
)
def test_a_report_fetches_nothing_says_nothing_and_keeps_nobody_out(
    chromium: Browser, pages: dict[str, Path], kind: str, how: str
) -> None:
    with browser.look_at(chromium, pages[kind].as_uri(), **LOOKS[how]) as look:
        seen(look.page.locator(".chart canvas")).to_have_count(CHARTS[kind])
        assert look.page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "nothing hangs out at the side"
        assert browser.barriers(look.page) == []
        assert look.page.locator("main img, main iframe, main script").count() == 0
        assert look.said == []
        assert look.asked == [pages[kind].as_uri()]


def test_reports_are_valid_html(pages: dict[str, Path]) -> None:
    debian.need("Java", browser.why_no_checker)
    assert browser.mistakes(*pages.values()) == []


def test_curves_matrix_and_clips_answer(chromium: Browser, pages: dict[str, Path]) -> None:
    with browser.look_at(chromium, pages["whole"].as_uri()) as look:
        page = look.page
        charts = page.locator(".chart")
        assert [one.split("\n")[0] for one in charts.all_inner_texts()] == ["Loss", "Top-1", "Top-5", "Learning rate"]
        for chart in charts.all():  # curves are there, not an empty frame
            assert shows(chart.locator("canvas"), BLUE)
        epochs = page.locator(".chart .u-legend tr:first-child .u-value")
        assert epochs.all_inner_texts() == ["12"] * 4, "the last epoch, until somebody points"
        told = charts.first.locator("canvas").get_attribute("aria-label")
        assert "; after 2.0 epochs from laptop (local) to kaggle-7 (kaggle, 2 x Tesla T4), since time_limit (" in str(told)
        over = charts.first.locator(".u-over")
        box = over.bounding_box()
        assert box is not None
        over.hover(position={"x": box["width"] * 5 / 11, "y": 50})
        assert epochs.all_inner_texts() == ["6"] * 4, "all charts tell of the epoch that one is pointed at in"
        words = charts.first.locator(".u-legend").locator(".u-label:visible, .u-value:visible").all_inner_texts()
        # 0.2 + 2 exp(-1.5), and two thousandths: of the attempt that trained it.
        assert words == ["epoch", "6", "training", "0.6483", "test", "0.7463"]

        told = page.locator("#matrix figcaption")
        assert told.inner_text() == "Point at a cell."
        page.locator("#matrix canvas").hover(position={"x": 3, "y": 3})
        assert re.fullmatch(r"drink water: [0-4] of 4 found", told.inner_text())

        clip = page.locator(".clip").first
        clip.scroll_into_view_if_needed()
        shown, button = clip.locator("output"), clip.locator("button")
        seen(shown).not_to_have_text(shown.inner_text())
        button.click()
        assert button.inner_text() == "Play"
        stands = shown.inner_text()
        clip.locator("input").fill("5")
        assert shown.inner_text() == "6 / 45" != stands
        assert shows(clip.locator("canvas"), (43, 123, 214), (18, 63, 115)), "left limbs in blue, right ones dark"
        with_mouse = clip.locator("canvas").screenshot()
        place = clip.locator("canvas").bounding_box()
        assert place is not None
        page.mouse.move(place["x"] + 50, place["y"] + 50)
        page.mouse.down()
        page.mouse.move(place["x"] + 150, place["y"] + 60)
        page.mouse.up()
        pictures = [Image.open(io.BytesIO(data)).convert("RGB") for data in (with_mouse, clip.locator("canvas").screenshot())]
        assert ImageChops.difference(*pictures).getbbox() is not None, "dragged, it turns"
        assert look.said == []


def test_whoever_wants_no_motion_sees_none_until_asked(chromium: Browser, pages: dict[str, Path]) -> None:
    with browser.look_at(chromium, pages["whole"].as_uri(), reduced_motion="reduce") as look:
        clip = look.page.locator(".clip").first
        clip.scroll_into_view_if_needed()
        assert clip.locator("button").inner_text() == "Play"
        assert clip.locator("output").inner_text() == "23 / 45"
        clip.locator("button").click()
        seen(clip.locator("output")).not_to_have_text("23 / 45")


def test_dark_by_day_and_light_on_paper(chromium: Browser, pages: dict[str, Path], tmp_path: Path) -> None:
    with browser.look_at(chromium, pages["whole"].as_uri(), color_scheme="dark") as look:
        page, chart = look.page, look.page.locator(".chart canvas").nth(1)
        ground = "getComputedStyle(document.body).backgroundColor"
        assert page.evaluate(ground) == "rgb(13, 17, 23)"
        assert shows(chart, BLUE_BY_NIGHT)
        page.emulate_media(color_scheme="light")
        assert page.evaluate(ground) == "rgb(255, 255, 255)"
        page.wait_for_timeout(100)
        assert shows(chart, BLUE), "drawn anew"
        page.emulate_media(color_scheme="dark", media="print")
        assert page.evaluate(ground) == "rgb(255, 255, 255)"
        page.wait_for_timeout(100)
        assert shows(chart, BLUE)
        assert not page.locator(".controls").first.is_visible()
        page.set_viewport_size({"width": 718, "height": 1000})  # A4 with margins
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "nothing is cut off at the side"
        wide = "Math.max(...[...document.querySelectorAll('.wide, .tall')].map(one => one.scrollHeight - one.clientHeight))"
        assert page.evaluate(wide) <= 1, "what scrolls on a screen is whole on paper"
        assert page.pdf().startswith(b"%PDF")
        assert look.said == []


def test_several_jobs_are_compared(chromium: Browser, pages: dict[str, Path]) -> None:
    with browser.look_at(chromium, pages["several"].as_uri()) as look:
        chart = look.page.locator(".chart").first
        assert chart.locator("figcaption").inner_text() == "Top-1, test"
        legend = chart.locator(".u-legend .u-label:visible").all_inner_texts()
        assert legend == ["epoch", "lr 0.1", "lr 0.2"], "no line for the edges of a band"
        assert shows(chart.locator("canvas"), BLUE, BAND)
        assert look.page.locator("#compared ~ .wide tbody tr").count() == 2
