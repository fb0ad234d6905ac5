"""A view that is redrawn in place on a terminal, with lines that stay above it. Whatever else a stream is gets the lines alone.

Nobody waits for a terminal: what is to be seen is left for a thread that writes it. The cursor is never hidden, and rests
on an empty line above the view: however a terminal folds long lines when it gets narrower, all that is below the cursor is the
view's, and a program that is killed leaves a terminal that works.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from io import TextIOBase
from queue import Empty, SimpleQueue
from typing import Any, TextIO

from last_e.environment import in_a_notebook
from last_e.process import discard_output, pass_on

PLAIN = "LASTRUN_PLAIN"
"""The variable that, set to anything, asks for plain lines: for screen readers, and whoever wants no view that moves."""
QUIET = "LASTRUN_QUIET"
"""The variable that, set to anything, asks for no word of how far something is; ``--quiet`` sets it."""
REDRAW_SECONDS = 0.25
"""A view is drawn no more often."""
SECONDS_BETWEEN_LINES = 60.0
"""In a log, from any line to one that only says how far something is."""
_AT_FIRST_SECONDS = 1.0
"""For so long a line that goes into a file or pipe is waited for: who prints something else next finds it there."""
_LEAVING = signal.SIGTSTP, signal.SIGINT, signal.SIGTERM, signal.SIGHUP
_USUAL = os.terminal_size((80, 24))
_BELOW = "\r\x1b[J"
"""Clears the line of the cursor and all below."""

Draw = Callable[[int, int], list[str]]
"""The lines of a view, given the columns and lines that it may take."""
Line = Callable[[int], str]
"""A text, given the columns of the terminal; 0: it is none."""


def can_redraw(stream: Any) -> bool:
    """Whether a view may be redrawn there: on a terminal that can (``TERM``), and whose user wants that. The cell of a notebook
    gives commands a terminal, too, but is none."""
    try:
        terminal = stream.isatty()
    except (AttributeError, ValueError):
        return False
    return bool(
        terminal
        and os.environ.get("TERM", "dumb") not in ("", "dumb", "unknown")
        and not os.environ.get(PLAIN)
        and not in_a_notebook()
    )


def is_quiet() -> bool:
    """Whether only warnings, errors and results are to be told."""
    return bool(os.environ.get(QUIET))


class Screen:
    """Lines, and below them a view.

    Args:
        stream: where they go. Where nobody reads any more, or a disk is full, it falls silent.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.redraws = can_redraw(stream)
        """Whether there can be a view."""
        self.silent = False
        self._todo: SimpleQueue[tuple[Line | None, threading.Lock]] = SimpleQueue()  # a signal's handler may put, too
        self._draw: Draw | None = None
        self._drawn = ""
        self._drawn_at = 0.0
        self._drawn_of: Any = None
        self._thread: threading.Thread | None = None
        self._late = self._closed = self._aside = False
        self._kept: list[Line] = []
        self._undo = ExitStack()

    def line(self, line: Line) -> None:
        """Print a text, above the view; from any thread."""
        done = self._put(line)
        if not self.redraws and not self._late:
            self._late = not done.acquire(timeout=_AT_FIRST_SECONDS)  # whoever does not read is waited for once

    def view(self, draw: Draw | None) -> None:
        """Show a view from now on, instead of the one before; None: none."""
        before, self._draw = self._draw, draw
        if self.redraws and (before is None) != (draw is None):
            self._put(None)

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Meanwhile there is no view, and lines are kept for later, so that somebody can be asked something."""
        self._aside = True
        self._put(None).acquire(timeout=_AT_FIRST_SECONDS)
        try:
            yield
        finally:
            self._aside = False
            self._put(None)

    def close(self) -> None:
        """Take the view off, and wait until all lines are written."""
        self._draw = None
        if self._thread is not None:
            self._closed = True
            self._put(None)
            while self._thread.is_alive():  # a handler of signals may end this
                self._thread.join(0.2)
            self._thread, self._closed = None, False
        self._undo.close()

    # --- on its thread ----------------------------------------------------------------------------------------------------

    def _put(self, line: Line | None) -> threading.Lock:
        done = threading.Lock()
        done.acquire()
        self._todo.put((line, done))
        if self._thread is None:
            if self.redraws:
                self._undo.enter_context(cleared_by_signals(self._leave_cleared))
            self._thread = threading.Thread(target=self._run, name="screen", daemon=True)
            self._thread.start()
        return done

    def _run(self) -> None:
        while True:
            wait = None if self._draw is None else REDRAW_SECONDS
            got: list[tuple[Line | None, threading.Lock]] = []
            with suppress(Empty):
                got.append(self._todo.get(timeout=wait))
            if self._drawn and not self._closed:  # what comes close together is drawn once
                time.sleep(max(0.0, self._drawn_at + REDRAW_SECONDS - time.monotonic()))
            with suppress(Empty):
                while True:
                    got.append(self._todo.get_nowait())
            self._show([line for line, _ in got if line is not None])
            for _, done in got:
                done.release()
            if self._closed and self._todo.empty():
                return

    def _show(self, lines: list[Line]) -> None:
        columns, rows = self._size()
        self._kept, lines = (self._kept + lines, []) if self._aside else ([], self._kept + lines)
        text = "".join(f"{line(columns if self.redraws else 0)}\n" for line in lines)
        if not self.redraws:
            self._write(text)
            return
        draw, now = None if self._aside else self._draw, time.monotonic()
        of = draw, columns, rows, int(now)  # a clock in it goes on by seconds
        if not text and of == self._drawn_of:
            return
        view = "" if draw is None or self.silent else self._framed(_lines_of(draw, columns, max(0, rows - 2)))
        self._drawn_of = of
        if text or view != self._drawn:
            self._write((_BELOW if self._drawn and (text or not view) else "") + text + view)
            self._drawn, self._drawn_at = view, now

    def _framed(self, lines: list[str]) -> str:
        """A view that is written over the one before, and leaves the cursor above itself. A terminal that has become narrower
        since it was asked cuts the lines, instead of folding them."""
        if not lines:
            return ""
        drawn = "".join(f"\n{line}\x1b[K" for line in lines)
        return f"\r\x1b[K\x1b[?7l{drawn}\x1b[J\x1b[?7h\r\x1b[{len(lines)}A"

    def _size(self) -> os.terminal_size:
        with suppress(OSError, ValueError, AttributeError):
            size = os.get_terminal_size(self._stream.fileno())
            if size.columns and size.lines:
                return size
        return _USUAL

    def _write(self, text: str) -> None:
        if text and not self.silent and not pass_on(text, self._stream):
            self.silent = True
            with suppress(OSError, ValueError, AttributeError):
                discard_output(self._stream)

    def _leave_cleared(self, signum: int) -> None:
        view, self._draw = self._draw, None
        self._put(None).acquire(timeout=_AT_FIRST_SECONDS)
        do_default(signum)
        self.view(view)


class Above(TextIOBase):
    """A stream on a terminal whose lines stand above a view.

    Args:
        screen: that has the view.
        show: told each line.
    """

    def __init__(self, screen: Screen, show: Callable[[str], None]) -> None:
        self.screen, self._show = screen, show
        self._rest = ""
        self._lock = threading.Lock()

    def isatty(self) -> bool:
        """Whether it is a terminal."""
        return True

    def write(self, text: str) -> int:
        """From any thread."""
        with self._lock:
            *lines, self._rest = (self._rest + text).split("\n")
            for line in lines:
                self._show(line)
        return len(text)

    def end(self) -> None:
        """Nothing more comes: what has no end of line is one, too."""
        if self._rest:
            self.write("\n")


def _lines_of(draw: Draw, columns: int, rows: int) -> list[str]:
    """Of a view that cannot be drawn one line says so: others are to be seen all the same."""
    try:
        return draw(columns, rows)
    except Exception as error:
        return [f"no view: {type(error).__name__}"[: columns - 1]][:rows]


@contextmanager
def cleared_by_signals(clear: Callable[[int], None]) -> Iterator[None]:
    """Meanwhile signals that nobody handles, and that stop or end this process, call ``clear`` with their number: it clears
    what is below the cursor, and then does what they would have done (:func:`do_default`). The shell that comes then writes on
    an empty screen."""

    def handler(signum: int, _: object) -> None:
        clear(signum)

    if threading.current_thread() is threading.main_thread():
        for signum in _LEAVING:
            if signal.getsignal(signum) == signal.SIG_DFL:
                signal.signal(signum, handler)
    try:
        yield
    finally:
        for signum in _LEAVING:
            with suppress(ValueError):  # it ends on another thread
                if signal.getsignal(signum) is handler:
                    signal.signal(signum, signal.SIG_DFL)


def do_default(signum: int) -> None:
    """Have this process stopped, or ended, by a signal; returns when it goes on."""
    handler = signal.signal(signum, signal.SIG_DFL)
    os.kill(os.getpid(), signum)
    signal.signal(signum, handler)


def clear_below(stream: TextIO) -> None:
    """What a program has drawn below the cursor that was killed, or is about to leave at once. A terminal that takes nothing
    now is not waited for."""
    if can_redraw(stream):
        writing = threading.Thread(target=pass_on, args=(_BELOW, stream), daemon=True)
        writing.start()
        writing.join(REDRAW_SECONDS)
