"""How far long work is: with the look of a view of training."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from threading import Event, Thread
from types import TracebackType
from typing import TYPE_CHECKING, TextIO

from last_e.process import discard_output, pass_on
from last_e.progress import as_ansi, bar_line, cut, make_console
from last_e.terminal import REDRAW_SECONDS, SECONDS_BETWEEN_LINES, Screen, is_quiet
from last_e.text import plain, seconds_text

if TYPE_CHECKING:
    from rich.console import Console

LARGE = 10 * 10**6
"""Bytes that take long enough to be told of."""
MEGABYTE = 10**6


class Work:
    """Something that is counted, with its pace."""

    def __init__(self, unit: str) -> None:
        self.unit = unit
        self._begin: tuple[str, float, int] | None = None
        self.done = self.total = 0
        self._now_at = self._pace = ""
        self._left: float | None = None

    def update(self, done: int, total: int, now_at: str = "", unit: str = "") -> None:
        """So many are done, of a ``total`` that is 0 where nobody knows it; ``now_at`` is what comes next. Before there is
        anything to count (0 of 0) it alone is told. ``unit``: another than at first, this time."""
        unit, self.done, self.total, self._now_at = unit or self.unit, done, total, now_at
        now = time.monotonic()
        if self._counts_nothing:
            self._begin = None  # nor does how long that takes
        elif self._begin is None or self._begin[0] != unit:
            self._begin = unit, now, done  # what an earlier run did says nothing about the pace of this one
        seconds, fresh = (now - self._begin[1], done - self._begin[2]) if self._begin else (0.0, 0)
        self._left = seconds * (total - done) / fresh if fresh and total else None
        self._pace = f"{fresh / seconds:,.0f}/s" if fresh and fresh >= seconds > 0 else ""

    def __str__(self) -> str:
        if self._counts_nothing:
            return self._now_at
        more = f"; now: {self._now_at}" if self._now_at else ""
        return ", ".join([self._what, *filter(None, [self._pace]), f"{seconds_text(self._left)} left{more}"])

    def lines(self, console: Console, columns: int, rows: int) -> list[str]:
        """A bar, and below it what comes next."""
        if self._counts_nothing:
            return [cut(f"{plain(self._now_at)} ...", columns - 1)][:rows]
        words = [(0, plain(self._what)), (2, self._pace), (1, f"{seconds_text(self._left)} left")]
        share = self.done / self.total if self.total else 0.0
        drawn = as_ansi(bar_line(console, "", share, [word for word in words if word[1]], columns - 1), console)
        return [drawn, *([cut(f"now: {plain(self._now_at)}", columns - 1)] if self._now_at else [])][:rows]

    @property
    def _counts_nothing(self) -> bool:
        return not (self.done or self.total) and self._now_at != ""

    @property
    def _what(self) -> str:
        unit = self._begin[0] if self._begin else self.unit
        return f"{self.done:,} of {self.total:,} {unit}" if self.total else f"{self.done:,} {unit}"


class Bar:
    """How far it is and how long it still takes: a bar on a terminal, a line now and then in a log. On standard error."""

    def __init__(self, unit: str, between: float = SECONDS_BETWEEN_LINES, stream: TextIO | None = None) -> None:
        self.between = between
        self._work, self._stream = Work(unit), stream or sys.stderr
        self.screen = Screen(self._stream)
        self._console: Console | None = None
        self._last = time.monotonic()

    def __enter__(self) -> Bar:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.screen.close()

    def update(self, done: int, total: int, now_at: str = "", unit: str = "") -> None:
        """See :meth:`Work.update`."""
        self._work.update(done, total, now_at, unit)
        if is_quiet():
            return
        if self.screen.redraws:
            self._console = self._console or make_console(self._stream)
            self.screen.view(partial(self._work.lines, self._console))
        elif time.monotonic() - self._last >= self.between:
            self._last = time.monotonic()
            if not pass_on(f"{plain(str(self._work))}\n", self._stream):
                discard_output(self._stream)

    def update_bytes(self, of: str, done: int, total: int) -> None:
        """So many bytes of something have come, or have been read before anything can be counted."""
        if total >= LARGE:
            self.update(done // MEGABYTE, total // MEGABYTE, unit=f"MB of {of.rpartition('/')[2]}")

    @contextmanager
    def of_growing(self, path: Path, of: str, total: int) -> Iterator[None]:
        """Meanwhile a file, or what is in a folder, grows to so many bytes, because somebody writes it who tells nothing."""
        over = Event()

        def look() -> None:
            while not over.wait(REDRAW_SECONDS):
                self.update_bytes(of, min(size_of(path), total), total)

        looking = Thread(target=look, daemon=True)
        looking.start()
        try:
            yield
        finally:
            over.set()
            looking.join()


def size_of(path: Path) -> int:
    """Bytes of a file, or of the files in a folder, while they come and go."""
    try:
        if path.is_dir():
            return sum(size_of(one) for one in path.iterdir())
        return path.stat().st_size
    except OSError:
        return 0
