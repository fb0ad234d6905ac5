"""A real terminal of the kernel's, with an emulator that shows what is on it."""

from __future__ import annotations

import fcntl
import os
import select
import signal
import struct
import subprocess
import sys
import termios
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from html import escape
from itertools import groupby

import pyte


def _span(text: str, colour: str, bold: bool) -> str:
    classes = " ".join([*([f"c-{colour}"] if colour != "default" else []), *(["bold"] if bold else [])])
    return f'<span class="{classes}">{escape(text)}</span>' if classes and text.strip() else escape(text)


class Terminal:
    """What people see, ``columns`` wide; what is written to :attr:`inside` is read at once, unless it is held."""

    def __init__(self, columns: int = 80, rows: int = 24) -> None:
        self._outside, self.inside = os.openpty()
        self._screen = pyte.HistoryScreen(columns, rows, history=1000, ratio=0.5)
        self._emulator = pyte.ByteStream(self._screen)
        self._lock = threading.Lock()
        self.raw = b""
        """All that has come."""
        self._reads, self._over = threading.Event(), False
        self._reads.set()
        self.resize(columns, rows)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def resize(self, columns: int, rows: int, *processes: int) -> None:
        """Give it another size, and tell those whose terminal it is."""
        with self._lock:
            fcntl.ioctl(self._outside, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
            self._make_lower(self._screen.lines - rows)
            self._screen.resize(rows, columns)
        for process in processes:
            os.kill(process, signal.SIGWINCH)

    def _make_lower(self, by: int) -> None:
        """As terminals do that are made lower: what is below the cursor goes first, then what is at the top, into the history.
        The emulator's own way loses what is at the top, and leaves the cursor behind."""
        screen, row = self._screen, self._screen.cursor.y
        above = max(0, by - (screen.lines - 1 - row))
        for _ in range(above):
            screen.cursor_position(screen.lines)
            screen.index()
        if by > 0:
            screen.cursor_position()
            screen.insert_lines(by)
            screen.cursor_position(row - above + 1)

    def press(self, keys: str) -> None:
        os.write(self._outside, keys.encode())

    def start(self, command: Sequence[str], env: Mapping[str, str], cwd: str) -> subprocess.Popen[bytes]:
        """A program of which this is the terminal: its keys reach all that belongs to it."""
        return subprocess.Popen(
            command,
            stdin=self.inside,
            stdout=self.inside,
            stderr=self.inside,
            env={**env, "TERM": "xterm-256color"},
            cwd=cwd,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )

    def hold(self) -> None:
        """Read nothing more, as a terminal that somebody has stopped."""
        self._reads.clear()

    def go_on(self) -> None:
        self._reads.set()

    @property
    def lines(self) -> list[str]:
        """What is on it, and what has been, without empty lines below."""
        with self._lock:
            before = ["".join(row[n].data for n in range(self._screen.columns)).rstrip() for row in self._screen.history.top]
            return [*before, *"\n".join(line.rstrip() for line in self._screen.display).rstrip("\n").splitlines()]

    @property
    def text(self) -> str:
        return "\n".join(self.lines)

    @property
    def html(self) -> str:
        """What is on it, as it is there: colours, and what is bold, in spans."""
        with self._lock:
            lines = []
            for number in range(self._screen.lines):
                row = self._screen.buffer[number]
                parts = groupby((row[column] for column in range(self._screen.columns)), lambda char: (char.fg, char.bold))
                lines.append("".join(_span("".join(char.data for char in chars), *look) for look, chars in parts).rstrip())
        return "\n".join(lines).rstrip("\n")

    @property
    def shows_cursor(self) -> bool:
        with self._lock:
            return not self._screen.cursor.hidden

    @property
    def column(self) -> int:
        """Of the cursor."""
        with self._lock:
            return self._screen.cursor.x

    def close(self) -> None:
        """As when its window is closed."""
        self._over = True
        self._reads.set()
        self._reader.join()
        os.close(self._outside)

    def _read(self) -> None:
        with suppress(OSError):  # what a terminal says when nobody has it open any more
            while not self._over:
                self._reads.wait()
                if select.select([self._outside], [], [], 0.02)[0]:
                    data = os.read(self._outside, 65536)
                    with self._lock:
                        self.raw += data
                        self._emulator.feed(data)


@contextmanager
def at_a_terminal(env: Mapping[str, str], *words: object) -> Iterator[tuple[Terminal, subprocess.Popen[bytes]]]:
    """``lastrun`` at a terminal of its own."""
    terminal = Terminal(80, 30)
    process = terminal.start([sys.executable, "-m", "runner", *map(str, words)], env, env["HOME"])
    try:
        yield terminal, process
    finally:
        process.kill()
        process.wait()
        terminal.close()
