"""How far long work is."""

from __future__ import annotations

import time
from types import TracebackType
from typing import TYPE_CHECKING

from last_e.progress import as_ansi, bar_line, cut
from last_e.terminal import Screen
from last_e.text import plain, seconds_text
from runner.view.console import make_console, show

if TYPE_CHECKING:
    from rich.console import Console

SECONDS_BETWEEN_LINES = 60.0
LARGE = 10 * 10**6
"""Bytes that take long enough to be told of."""


class Bar:
    """How far it is and how long it still takes: a bar on a terminal, a line now and then in a log. On standard error."""

    def __init__(self, unit: str, between: float = SECONDS_BETWEEN_LINES) -> None:
        self.unit, self.between = unit, between
        self.console = make_console(stderr=True)
        self._screen = Screen(self.console.file)  # type: ignore[arg-type]
        self._begin: tuple[str, float, int] | None = None
        self._last = time.monotonic()

    def __enter__(self) -> Bar:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._screen.close()

    def update(self, done: int, total: int, now_at: str = "") -> None:
        """So many are done, of a ``total`` that is 0 where nobody knows it; ``now_at`` is what comes next."""
        self._update(self.unit, done, total, now_at)

    def update_bytes(self, of: str, done: int, total: int) -> None:
        """So many bytes of something have been read, before anything can be counted."""
        if total >= LARGE:
            self._update(f"MB of {of.rpartition('/')[2]}", done // 10**6, total // 10**6)

    def _update(self, unit: str, done: int, total: int, now_at: str = "") -> None:
        now = time.monotonic()
        if self._begin is None or self._begin[0] != unit:
            self._begin = unit, now, done  # what an earlier run did says nothing about the pace of this one
        seconds, fresh = now - self._begin[1], done - self._begin[2]
        left = seconds_text(seconds * (total - done) / fresh if fresh else None)
        pace = f"{fresh / seconds:,.0f}/s" if fresh and fresh >= seconds > 0 else ""
        what = f"{done:,} of {total:,} {unit}" if total else f"{done:,} {unit}"
        if self._screen.redraws:
            words = [(0, what), (2, pace), (1, f"{left} left")] if pace else [(0, what), (1, f"{left} left")]
            self._screen.view(lambda columns, rows: _lines(self.console, done, total, words, now_at, columns)[:rows])
        elif now - self._last >= self.between:
            self._last = now
            more = f"; now: {now_at}" if now_at else ""
            show(f"{what}, {f'{pace}, ' if pace else ''}{left} left{more}", error=True)


def _lines(console: Console, done: int, total: int, words: list[tuple[int, str]], now_at: str, columns: int) -> list[str]:
    plainly = [(order, plain(word)) for order, word in words]
    lines = [as_ansi(bar_line(console, "", done / total if total else 0.0, plainly, columns - 1), console)]
    return lines + ([cut(f"now: {plain(now_at)}", columns - 1)] if now_at else [])
