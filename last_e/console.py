"""Events on a screen: a live bar on a terminal, plain lines in a log or a notebook. Torch-free."""

from __future__ import annotations

import threading
import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, TaskID, TextColumn
from rich.progress import Progress as RichProgress

from last_e import events
from last_e.environment import in_a_notebook
from last_e.events import Event
from last_e.process import discard_output
from last_e.text import plain

SECONDS_BETWEEN_LINES = 20.0


class _Console(Console):
    """A console whose reader may go away (a closed terminal, ``| head``): it falls silent, and training goes on."""

    def on_broken_pipe(self) -> None:
        self.quiet = True
        discard_output()


class ConsoleSink:
    """Renders events for people. Use as a context manager, so that the terminal is left as it was."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or _Console(highlight=False, soft_wrap=True, force_terminal=False if in_a_notebook() else None)
        self._lock = threading.RLock()  # a signal handler may speak while its own thread does
        self._bar: RichProgress | None = None
        self._task: TaskID | None = None
        self._last_line = time.monotonic()

    def __enter__(self) -> ConsoleSink:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def emit(self, event: Event) -> None:
        """Show one event."""
        with self._lock:
            try:
                self._show(event)
            except OSError:  # a full disk behind `> log` is no reason to stop training
                self.console.quiet = True
                discard_output()

    def _show(self, event: Event) -> None:
        if isinstance(event, events.Progress):
            self._progress(event)
            return
        if isinstance(event, events.Ended):
            self.close()
        text = events.describe(event)
        if text is not None:
            warning = isinstance(event, events.Message) and event.level == "warning"
            self.console.print(plain(text), style="yellow" if warning else None, markup=False)
            self._last_line = time.monotonic()

    def close(self) -> None:
        """Take the bar off the screen."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def _progress(self, event: events.Progress) -> None:
        if self.console.is_terminal and not self.console.is_jupyter:
            if self._bar is None:
                columns = (BarColumn(bar_width=24), TextColumn("{task.description}", markup=False))
                self._bar = RichProgress(*columns, console=self.console, transient=True)
                self._task = self._bar.add_task("", total=event.total_steps)
                self._bar.start()
            assert self._task is not None
            self._bar.update(self._task, completed=event.step, description=events.describe(event) or "")
        elif time.monotonic() - self._last_line >= SECONDS_BETWEEN_LINES:
            self.console.print(events.describe(event), markup=False)
            self._last_line = time.monotonic()
