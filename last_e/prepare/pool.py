"""Work over all cores, that an interruption or a dead process ends cleanly."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import wait as wait_for
from typing import TypeVar

from last_e.datafile import DataError
from last_e.process import elsewhere

Task = TypeVar("Task")
Result = TypeVar("Result")

AHEAD_PER_WORKER = 2


def run_all(function: Callable[[Task], Result], tasks: Iterable[Task], workers: int) -> Iterator[Result]:
    """``function`` of every task, as they finish. Tasks wait where they are until a worker is near: memory stays flat.

    When it is left early (Ctrl-C, an error), tasks that have begun are finished, so that what they write is whole.

    Raises:
        DataError: a worker died.
    """
    if workers == 1:
        yield from map(function, tasks)
        return
    # Spawned, not forked: a fork would copy whatever threads and locks the caller has.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_begin_worker)
    waiting: set[Future[Result]] = set()
    try:
        for task in tasks:
            with elsewhere():
                waiting.add(pool.submit(function, task))
            if len(waiting) >= workers * AHEAD_PER_WORKER:
                done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                yield from (future.result() for future in done)
        while waiting:
            done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
            yield from (future.result() for future in done)
    except BrokenProcessPool:
        raise DataError(
            "a worker process was ended from outside (out of memory?); the same command goes on, perhaps with fewer --workers"
        ) from None
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _begin_worker() -> None:
    """Ctrl-C goes to every process of a terminal; the first one decides. It must not be outlived either."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_leave_with, args=(parent.sentinel,), daemon=True).start()


def _leave_with(sentinel: int) -> None:
    wait_for([sentinel])
    os._exit(1)
