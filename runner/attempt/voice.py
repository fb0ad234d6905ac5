"""What an attempt says: on the screen at once, and in lines that wait to become the next piece of its log."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from last_e import events
from last_e.bar import LARGE, MEGABYTE
from last_e.console import ConsoleSink
from last_e.events import Message, describe


class Voice:
    """Speaks on the main thread only; others leave word in the attempt's inbox. Who wants to ``hear`` is told the trainer's
    events, too."""

    def __init__(self, sink: ConsoleSink, hear: Callable[[events.Event], None] | None = None) -> None:
        self._sink, self._hear = sink, hear
        self._lines: list[str] = []

    def say(self, text: str, level: str = "info") -> None:
        """A line for people; a ``warning`` stands out on the screen."""
        self._lines.append(f"{_now()} {text}\n")
        self.show(text, level)

    def show(self, text: str, level: str = "info") -> None:
        """A line for the screen alone: the log is closed, or has it already."""
        self._sink.emit(Message(text, level))

    def tell(self, event: events.Event) -> None:
        """An event of the trainer's; progress is no line of the log."""
        self._sink.emit(event)
        if self._hear is not None:
            self._hear(event)
        text = describe(event)
        if text is not None and not isinstance(event, events.Progress):
            self._lines.append(f"{_now()} {text}\n")

    def shows(self, standing: Callable[[], Mapping[str, Any]]) -> None:
        """What a view shows beside what events tell: see :attr:`~last_e.console.ConsoleSink.also`."""
        self._sink.also = standing

    def work(self, what: str, done: int, total: int) -> None:
        """How far something is that takes long, as a download: for the screen alone."""
        self._sink.work(what, done, total)

    def work_bytes(self, of: str, done: int, total: int) -> None:
        """The same of something that is large enough."""
        if total >= LARGE:
            self.work(f"MB of {of.rpartition('/')[2]}", done // MEGABYTE, total // MEGABYTE)

    def take(self) -> str:
        """What has been said since the last call."""
        lines, self._lines = self._lines, []
        return "".join(lines)


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
