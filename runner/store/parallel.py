"""Calls that each wait for a network, many at once."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

MOST_AT_ONCE = 32


def in_parallel(calls: Sequence[Callable[[], Any]]) -> list[Any]:
    """What each call returns, in their order; the first error of them is raised. No call has begun after an error came.

    The threads are daemons and are not waited for when this one is interrupted: Ctrl-C leaves a store that does not answer at
    once, which an executor of the standard library does not."""
    if len(calls) < 2:
        return [call() for call in calls]
    results: list[Any] = [None] * len(calls)
    errors: dict[int, BaseException] = {}
    waiting = iter(range(len(calls)))
    lock = threading.Lock()

    def work() -> None:
        while True:
            with lock:
                number = None if errors else next(waiting, None)
            if number is None:
                return
            try:
                results[number] = calls[number]()
            except BaseException as error:  # raised again by who asked
                errors[number] = error

    threads = [threading.Thread(target=work, daemon=True) for _ in range(min(len(calls), MOST_AT_ONCE))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[min(errors)]
    return results
