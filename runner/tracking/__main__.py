"""The child: hears of an attempt in JSON lines, tells its tracker, and says in JSON lines what people should know."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from itertools import chain
from typing import IO, Any

from last_e.process import NOTICES, discard_output
from last_e.redact import redact
from runner.tracking.clients import TRACKERS

_LEFT_SECONDS = 60.0
"""After the attempt has gone without a word, what is left is tried for so long."""
_LONGEST = 300


def main() -> None:
    """Until the end is told, or nobody speaks any more."""
    say = os.fdopen(os.dup(1), "w")  # of what the libraries print nothing is to be heard
    discard_output()
    for signum in (signal.SIGINT, *NOTICES):  # the attempt says when it ends
        signal.signal(signum, signal.SIG_IGN)
    with suppress(OSError):
        os.nice(5)  # the trainer comes first
    try:
        _serve(say)
    except Exception as error:
        _say(say, note=f"nothing is tracked any more ({_words(error)}); training goes on")
        sys.exit(1)


def _serve(say: IO[str]) -> None:
    come = _as_they_come()
    begin, *first = next(come)
    tracker = TRACKERS[begin["tracking"]](begin["job"], begin["config"], begin["folder"])
    _say(say, where=f"tracked by {begin['tracking']}: {tracker.where}")
    for some in filter(None, chain([first], come)):
        if points := [(told["step"], told["values"]) for told in some if "values" in told]:
            tracker.log(points)
        if "reason" in some[-1]:
            tracker.end(failed=some[-1]["failed"], reason=some[-1]["reason"])
            return
    timer = threading.Timer(_LEFT_SECONDS, os._exit, [1])
    timer.daemon = True
    timer.start()
    tracker.end(failed=True, reason="lost")


def _as_they_come() -> Iterator[list[dict[str, Any]]]:
    """What is told: at once all that has come while what was told before was being told on, for a server may be far away."""
    rest = b""
    while some := os.read(sys.stdin.fileno(), 1 << 16):
        *lines, rest = (rest + some).split(b"\n")
        if lines:
            yield [json.loads(line) for line in lines]


def _words(error: Exception) -> str:
    if isinstance(error, ModuleNotFoundError):
        return f"{error.name} is not installed here; from a clone of lastrun: pip install '.[{error.name}]'"
    said = next(iter(redact(str(error)).strip().splitlines()), "")[:_LONGEST]
    return said if isinstance(error, LookupError) and said else f"{type(error).__name__}: {said}"


def _say(say: IO[str], **told: str) -> None:
    with suppress(OSError):
        say.write(json.dumps({name: redact(words) for name, words in told.items()}) + "\n")
        say.flush()


if __name__ == "__main__":
    main()
