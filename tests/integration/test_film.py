"""The way of a job that is cut, from ``submit`` to its report, as people see it at a terminal and in a browser: the pictures of
the README and of docs/report.md."""

from __future__ import annotations

import base64
import os
import re
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import jinja2
import pytest

from runner.job.job import Job
from runner.store.directory import DirectoryStore
from tests import browser
from tests.jobs import PATIENCE, has_pending, jobs_in, stand_still, trainer_of, wait_until
from tests.terminals import Terminal

if TYPE_CHECKING:
    from playwright.sync_api import Browser

pytestmark = [pytest.mark.xdist_group("browser"), pytest.mark.slow]

GESTURES = """\
name: gestures
model: {variant: nano_e_v3, stem_channels: 8, channels: [8, 8], num_blocks: [1, 1], depths: [1, 1], strides: [1, 2]}
dataset: irds
training: {epochs: 5, batch_size: 16, input_frames: 16, warmup_epochs: 1, lr: 0.02}
checkpoint: {every_minutes: 0.002}
hardware: {cpu_threads: 1}
"""


class Film:
    """Frames of a terminal, and of pages."""

    def __init__(self, env: dict[str, str]) -> None:
        self._env = env
        self.frames: list[dict[str, str]] = []

    @contextmanager
    def command(self, *words: str) -> Iterator[tuple[Terminal, Any]]:
        """``lastrun`` at a terminal of its own."""
        terminal = Terminal(96, 20)
        os.write(terminal.inside, f"$ lastrun {' '.join(words)}\n".encode())
        process = terminal.start([sys.executable, "-m", "runner", *words], self._env, self._env["HOME"])
        try:
            yield terminal, process
        finally:
            process.kill()
            process.wait()
            terminal.close()

    def take(self, title: str, of: Terminal | Any) -> None:
        """The next frame."""
        is_terminal = isinstance(of, Terminal)
        picture = {"html": of.html} if is_terminal else {"png": base64.b64encode(of.screenshot()).decode()}
        self.frames.append({"title": title, **picture})

    def page(self) -> str:
        """All of it."""
        template = (Path(__file__).parents[1] / "film.html.j2").read_text()
        return jinja2.Environment(autoescape=True).from_string(template).render(frames=self.frames)


@pytest.fixture
def short() -> Iterator[str]:
    """A store whose name fits a line of a picture."""
    with TemporaryDirectory(prefix="store-", dir="/tmp") as folder:
        yield folder


def shows(terminal: Terminal, pattern: str) -> bool:
    return re.search(pattern, terminal.text, re.MULTILINE) is not None


def goes_on_until(trainer: int, what: Callable[[], object]) -> None:
    """Let a trainer go on by a moment at a time, until something has come to pass, and stand still: on a fast machine it would
    be at its end before anybody has looked. Between two moments lies the second after which it says again how far it is."""
    stand_still(trainer)
    while not what():
        os.kill(trainer, signal.SIGCONT)
        time.sleep(0.25)
        stand_still(trainer)
        time.sleep(1.1)


def test_a_job_that_is_cut_goes_on_to_its_report(
    chromium: Browser, clean_env: dict[str, str], tmp_path: Path, short: str, picture: Callable[..., None]
) -> None:
    """Trained for real."""
    clean_env["LASTRUN_STORE"] = short
    (tmp_path / "gestures.yaml").write_text(GESTURES)
    store = DirectoryStore(Path(clean_env["LASTRUN_STORE"]))
    film = Film(clean_env)
    with film.command("submit", "gestures.yaml") as (terminal, process):
        wait_until(lambda: shows(terminal, r"^epoch ━.* step \d"), rest=0.02)
        (job,) = jobs_in(store)
        trainer = trainer_of(job)
        far = lambda: shows(terminal, r"^epoch ━.* step \d") and shows(terminal, r"^loss 0\.")  # noqa: E731
        goes_on_until(trainer, lambda: far() and any(stored.manifest.step > 30 for stored in job.checkpoints.all()))
        film.take("It trains, and shows how far it is", terminal)
        terminal.press("\x03")
        wait_until(lambda: has_pending(trainer, signal.SIGTERM))
        os.kill(trainer, signal.SIGCONT)
        assert process.wait(PATIENCE) == 75
        wait_until(lambda: shows(terminal, "^next: lastrun resume "))
        film.take("Ctrl-C: all of it is kept", terminal)
    (cut,) = job.attempts.all()
    assert "It is paused (interrupted)" in job.store.get(job.paths.report(cut.id)).decode()
    with film.command("status", "gestures") as (terminal, process):
        assert process.wait(PATIENCE) == 0
        wait_until(lambda: shows(terminal, "^checkpoints? "))
        film.take("Where it is, from any machine", terminal)
    with film.command("resume", "gestures") as (terminal, process):
        assert process.wait(PATIENCE) == 0
        wait_until(lambda: shows(terminal, "^next: lastrun pull "))
        film.take("It goes on as if nothing had happened", terminal)
    path = tmp_path / "report.html"
    path.write_bytes(job.store.get(job.paths.report(Job(job.store, job.id).attempts.all()[-1].id)))
    with browser.look_at(chromium, path.as_uri(), viewport={"width": 1360, "height": 606}, reduced_motion="reduce") as look:
        page = look.page
        assert page.locator("h1").inner_text() == "gestures succeeded"
        assert page.locator("caption:text('Moves') ~ tbody tr").count() == 1
        assert "interrupted (saved at step" in page.locator("caption:text('Moves') ~ tbody tr").inner_text()
        assert "shoulder" in page.locator("#classes ~ .tall").inner_text()
        assert page.locator(".clip").count() == 8
        assert look.said == []
        film.take("Its report: curves over both attempts ...", page)
        page.locator(".clip").first.evaluate("one => one.scrollIntoView()")
        page.wait_for_timeout(300)  # until what has come into view is drawn
        film.take("... and its worst mistakes, moving", page)
        page.set_viewport_size({"width": 1200, "height": 900})
        picture(page, "report")
    (tmp_path / "film.html").write_text(film.page())
    with browser.look_at(chromium, (tmp_path / "film.html").as_uri(), viewport={"width": 1688, "height": 900}) as look:
        assert look.page.locator("li").count() == 6
        picture(look.page, "film")
