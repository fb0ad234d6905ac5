"""Calls to somebody's server that is busy, made again after a while."""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from last_e.text import seconds_text
from runner.errors import EngineError
from runner.waits import WAITS

T = TypeVar("T")

MOST_SECONDS = 4 * WAITS.patience
"""In all, for one call."""
_FIRST_SECONDS = WAITS.patience / 15
BUSY = (429, 502, 503, 504)
"""Codes of servers that may answer a moment later; after 502 and 504 the call may have been heard all the same."""
REFUSED = (429, 503)
"""Of these, those with which nothing was done."""


@dataclass(frozen=True)
class Busy:
    """What a server said that has no time."""

    who: str
    code: int
    after: float | None
    """Seconds after which it wants to be asked again; None: it says nothing of that."""


def again(call: Callable[[], T], busy: Callable[[Exception], Busy | None]) -> T:
    """What a call returns, in the end. It is told once that it takes longer.

    Args:
        busy: whether an error of the call is one that passes.

    Raises:
        EngineError: the server wants to be left alone for longer than anybody waits here.
        Exception: what the call raises, the last time.
    """
    deadline, pause, told = time.monotonic() + MOST_SECONDS, _FIRST_SECONDS, False
    while True:
        try:
            return call()
        except Exception as error:
            found = busy(error)
            if found is None:
                raise
            wait = max(found.after or 0.0, pause * random.uniform(0.8, 1.2))  # noqa: S311
            if time.monotonic() + wait > deadline:
                if found.after is not None:
                    later = seconds_text(wait)
                    raise EngineError(
                        f"{found.who} is busy (error {found.code}), and wants to be left alone for {later}: try again then"
                    ) from None
                raise
            if not told:
                most = seconds_text(MOST_SECONDS)
                sys.stderr.write(f"{found.who} is busy (error {found.code}): asked again for {most} at most\n")
                told = True
        time.sleep(wait)
        pause *= 2


def seconds_after(header: str | None) -> float | None:
    """What ``Retry-After`` says; a date there is as nothing said."""
    return float(header) if header is not None and header.strip().isdecimal() else None
