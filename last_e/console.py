"""Events on a screen: a live view on a terminal, plain lines in a log or a notebook. Torch-free."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.text import Text

from last_e import events
from last_e.bar import Work
from last_e.choosing import heard_of
from last_e.events import Event
from last_e.progress import Standing, make_console, one_line, view, wrapped
from last_e.terminal import SECONDS_BETWEEN_LINES, Screen, is_quiet
from last_e.text import plain


class ConsoleSink:
    """Renders events for people; with ``--quiet`` only warnings and the end. Use as a context manager, so that the terminal is
    left as it was.

    On a terminal nobody waits for what is shown (:class:`~last_e.terminal.Screen`).

    Args:
        console: where; default: standard output.
    """

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or make_console(sys.stdout)
        self.also: Callable[[], Mapping[str, Any]] = dict
        """What no event tells and the view shows, by the names of :class:`~last_e.progress.Standing`; asked whenever it is
        drawn, from another thread."""
        self._screen = Screen(self.console.file)  # type: ignore[arg-type]
        self._last_line = time.monotonic()
        self._epochs: dict[str, Any] = {"best_top1": None}
        self._name = ""
        self._work = Work("")

    def __enter__(self) -> ConsoleSink:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def emit(self, event: Event) -> None:
        """Show one event; from any thread, and from a signal's handler."""
        if isinstance(event, events.Progress):
            self._progress(event)
            return
        if isinstance(event, events.Started):
            self._name = f"{event.model} on {event.dataset} {event.split}"
        if isinstance(event, events.EpochDone):
            best = heard_of(vars(event)) if event.best else self._epochs["best_top1"]
            self._epochs = {"test_top1": event.test_top1, "validation_top1": event.validation_top1, "best_top1": best}
        if isinstance(event, events.Ended):
            self._screen.view(None)
        text = events.describe(event)
        warning = isinstance(event, events.Message) and event.level == "warning"
        if text is not None and (warning or isinstance(event, events.Ended) or not is_quiet()):
            self._last_line = time.monotonic()
            self._screen.line(lambda columns: self._line(event, text, columns, "yellow" if warning else ""))

    def work(self, what: str, done: int, total: int) -> None:
        """Show how far something is that is no training, as a download; not said in a log of the job."""
        self._work.update(done, total, unit=what)
        if is_quiet():
            return
        if self._screen.redraws:
            self._screen.view(partial(self._work.lines, self.console) if done < total else None)
        elif time.monotonic() - self._last_line >= SECONDS_BETWEEN_LINES:
            self._last_line, told = time.monotonic(), str(self._work)
            self._screen.line(lambda _: plain(told))

    def close(self) -> None:
        """Take the view off the screen, once all lines are there."""
        self._screen.close()

    def _line(self, event: Event, text: str, columns: int, style: str) -> str:
        if isinstance(event, events.EpochDone) and columns:
            return one_line(text, events.epoch_words(event), columns - 1)  # an epoch leaves one
        if columns:
            return wrapped(text, self.console, columns, style)
        with self.console.capture() as caught:
            self.console.print(Text(plain(text), style), end="")
        return caught.get()

    def _progress(self, event: events.Progress) -> None:
        if is_quiet():
            return
        if self._screen.redraws:
            told = {**json.loads(event.to_json()), "as_of": time.monotonic()}
            self._screen.view(lambda columns, rows: self._view(told, columns, rows))
        elif time.monotonic() - self._last_line >= SECONDS_BETWEEN_LINES:
            self._last_line = time.monotonic()
            self._screen.line(lambda _: events.describe(event) or "")

    def _view(self, told: Mapping[str, Any], columns: int, rows: int) -> list[str]:
        facts = {"name": self._name, **self._epochs, **self.also(), **told}
        return view(Standing.of(facts, as_of=told["as_of"]), self.console, columns, rows)
