"""Debian's Chromium, without a window: a page is opened as a user's browser would, and what it shows comes back."""

from __future__ import annotations

import http.server
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests import debian
from tests.jobs import PATIENCE

PROGRAM = "chromium"


def why_not() -> str | None:
    """Why there is no browser here; as root it is installed where it is missing."""
    return debian.why_not([PROGRAM], [PROGRAM])


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
