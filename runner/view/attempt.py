"""What a command shows of an attempt that it follows elsewhere: what that says, and on a terminal the view of its job below."""

from __future__ import annotations

import re
import sys
import threading
from contextlib import suppress
from types import TracebackType
from typing import TextIO, cast

from last_e.events import words_of_line
from last_e.progress import one_line
from last_e.terminal import Above, can_redraw, is_quiet
from last_e.text import plain
from runner.errors import LastrunError
from runner.job.job import Job
from runner.view.live import Watch
from runner.view.status import FOLLOW_SECONDS, is_at_work, job_status

_HOW_FAR = re.compile(r"epoch \d+/\d+  step [\d,]+/[\d,]+  ")
"""How lines begin that a log has where there is no view."""


class AttemptView:
    """Use as a context manager.

    Args:
        job: whose attempt it is.
        stream: where what it says is to be seen.
    """

    def __init__(self, job: Job, stream: TextIO) -> None:
        self._job, self._lock, self._over = job, threading.Lock(), threading.Event()
        self.stream = stream
        """What it says goes there."""
        self._watch: Watch | None = None
        if can_redraw(stream) and not is_quiet():
            self._watch = Watch(stderr=stream is sys.stderr)
            self._above = Above(self._watch.screen, self._show)
            self.stream = cast("TextIO", self._above)

    def __enter__(self) -> AttemptView:
        return self

    def begin(self) -> None:
        """It has been started: from now on there is a view, while it runs."""
        if self._watch is not None:
            threading.Thread(target=self._follow, args=(self._watch,), name="view", daemon=True).start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        with self._lock:
            self._over.set()
        if self._watch is not None:
            self._above.end()
            self._watch.close()

    def _show(self, line: str) -> None:
        if self._watch is None or _HOW_FAR.match(line):
            return
        if (words := words_of_line(line)) is not None:
            self._watch.screen.line(lambda columns: plain(one_line(line, words, columns - 1)))  # an epoch leaves one
        else:
            self._watch.show(line)

    def _follow(self, watch: Watch) -> None:
        while not self._over.is_set():
            with suppress(LastrunError):  # whoever follows it hears of what lasts
                status = job_status(Job(self._job.store, self._job.id))
                with self._lock:
                    if is_at_work(status) and not self._over.is_set():
                        watch.see(status, epochs=False)  # it says so itself
                    else:
                        watch.screen.view(None)
            self._over.wait(FOLLOW_SECONDS)
