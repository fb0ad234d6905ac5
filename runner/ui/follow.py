"""A job's log, as it comes: events for a browser's ``EventSource``."""

from __future__ import annotations

import json
import threading
from collections.abc import AsyncIterator, Callable
from functools import partial

import anyio
from starlette.concurrency import run_in_threadpool

from last_e.redact import redact
from last_e.text import plain
from runner.errors import UNREADABLE, NoSuchJobError, State
from runner.job.job import Job
from runner.launch.settle import state_of
from runner.view.status import FOLLOW_SECONDS

MOST_FOLLOWED = 16
"""At once, by all pages."""
_PIECES, _BYTES, _CHUNK = 100, 256 << 10, 32 << 10
"""Of what is there already so much is told, the end of it."""
_STEP = 0.1


class Followers:
    """Those who follow a log now; all are left when ``over`` says so."""

    def __init__(self, over: Callable[[], bool]) -> None:
        self._over, self._count, self._lock = over, 0, threading.Lock()

    async def events(self, job: Job) -> AsyncIterator[str]:
        """The end of the log, then what comes, until the job no longer runs. Between pieces a comment, at which it is noticed
        that nobody reads any more."""
        seen, is_away = set[str](), False
        with self._lock:
            self._count += 1
            is_full = self._count > MOST_FOLLOWED
        try:
            if is_full:
                yield f"event: full\ndata: {MOST_FOLLOWED}\n\n"
            while not is_full and not self._over():
                runs, text, why = await run_in_threadpool(partial(_more, job, seen))
                text += f"[{why}]\n" if why and not is_away else ""  # once, not every two seconds
                is_away = bool(why)
                for begin in range(0, len(text), _CHUNK):
                    yield f"data: {json.dumps(text[begin : begin + _CHUNK])}\n\n"
                if not runs:
                    yield "event: end\ndata: \n\n"
                    return
                yield ": \n\n"
                for _ in range(max(1, round(FOLLOW_SECONDS / _STEP))):
                    if not self._over():
                        await anyio.sleep(_STEP)
        finally:
            with self._lock:
                self._count -= 1


def _more(job: Job, seen: set[str]) -> tuple[bool, str, str]:
    """Whether it runs, what has come, and what keeps it from being read; asked in this order, so that nothing is missed."""
    text, is_cut = "", False
    try:
        runs = state_of(job)[0] is State.RUNNING
        for piece in job.log(seen, _PIECES):  # no more than the end is held, nor made plain, which takes long
            is_cut = is_cut or len(text) + len(piece) > _BYTES
            text = (text + piece)[-_BYTES:]
    except NoSuchJobError:
        return False, "", ""
    except UNREADABLE as error:
        return True, plain(text), plain(redact(str(error) or type(error).__name__))
    end = plain(text)
    is_cut = is_cut or len(end) > _BYTES
    return runs, f"[earlier lines: lastrun logs {job.reference}]\n{end[-_BYTES:]}" if is_cut else end, ""
