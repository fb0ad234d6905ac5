"""Calls to somebody's server that is busy, made again after a while."""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Callable, Collection
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
AWAY = "it is busy, or down; it may answer again in some minutes"
ASKED_TOO_OFTEN = "it has been asked too often; it may answer again in some minutes"


class UnsureError(EngineError):
    """What was asked for may have been done all the same."""


def again(call: Callable[[], T], who: str, kind: type[Exception], codes: Collection[int]) -> T:
    """What a call returns, in the end. It is told once that it takes longer.

    Args:
        who: is asked.
        kind: of errors of the call that have the server's answer.
        codes: of answers after which it is asked again.

    Raises:
        EngineError: the server wants to be left alone for longer than anybody waits here.
        Exception: what the call raises, the last time.
    """
    deadline, pause, told = time.monotonic() + MOST_SECONDS, _FIRST_SECONDS, False
    while True:
        try:
            return call()
        except kind as error:
            answer = getattr(error, "response", None)
            code = 0 if answer is None else answer.status_code
            if answer is None or code not in codes:
                raise
            after = _seconds_after(answer.headers.get("Retry-After"))
            wait = max(after or 0.0, pause * random.uniform(0.8, 1.2))  # noqa: S311
            if time.monotonic() + wait > deadline:
                if after is not None:
                    later = seconds_text(wait)
                    raise EngineError(
                        f"{who} is busy (error {code}), and wants to be left alone for {later}: try again then"
                    ) from None
                raise
            if not told:
                most = seconds_text(MOST_SECONDS)
                sys.stderr.write(f"{who} is busy (error {code}): asked again for {most} at most\n")
                told = True
        time.sleep(wait)
        pause *= 2


def refusal(code: int) -> type[EngineError]:
    """Of what kind an answer with such a code is."""
    return EngineError if 400 <= code < 500 or code in REFUSED else UnsureError


def _seconds_after(header: str | None) -> float | None:
    """What ``Retry-After`` says; a date there is as nothing said."""
    return float(header) if header is not None and header.strip().isdecimal() else None
