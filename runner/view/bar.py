"""How far long work is."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Any

from last_e.text import plain, seconds_text
from runner.view.console import make_console, show

SECONDS_BETWEEN_LINES = 20.0
LARGE = 10 * 10**6
"""Bytes that take long enough to be told of."""


class Bar:
    """How far it is and how long it still takes: a bar on a terminal, a line now and then in a log. On standard error."""

    def __init__(self, unit: str, between: float = SECONDS_BETWEEN_LINES) -> None:
        self.unit, self.between = unit, between
        self.console = make_console(stderr=True)
        self._progress: Any = None
        self._begin: tuple[str, float, int] | None = None
        self._last = time.monotonic()

    def __enter__(self) -> Bar:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._progress is not None:
            self._progress.stop()

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
        pace = f"{fresh / seconds:,.0f}/s, " if fresh and fresh >= seconds > 0 else ""
        what = f"{done:,} of {total:,} {unit}" if total else f"{done:,} {unit}"
        text = f"{what}, {pace}{left} left{f'; now: {now_at}' if now_at else ''}"
        if self.console.is_terminal:
            self._draw(done, total, text)
        elif now - self._last >= self.between:
            self._last = now
            show(text, error=True)

    def _draw(self, done: int, total: int, text: str) -> None:
        from rich.progress import BarColumn, Progress, TextColumn

        if self._progress is None:
            columns = (BarColumn(bar_width=24), TextColumn("{task.description}", markup=False))
            self._progress = Progress(*columns, console=self.console, transient=True)
            self._progress.add_task("", total=total or None)
            self._progress.start()
        self._progress.update(self._progress.task_ids[0], completed=done, total=total or None, description=plain(text))
