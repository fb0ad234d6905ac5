"""``lastrun doctor``: looks at this machine, at each launcher and at the store, all at once, for ten seconds at most
(:class:`~runner.waits.Waits`).

Nothing stays of it: what it writes it takes back, also when it is interrupted.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from queue import Empty, Queue
from threading import Event, Thread

from runner.doctor import launchers, machine, store
from runner.doctor.finding import Finding, State
from runner.waits import WAITS

_TIDY_SECONDS = 3.0
_Look = Callable[[], list[Finding]]


def examine(store_uri: str | None, seconds: float = WAITS.doctor) -> list[Finding]:
    """What is found, in the order of the looks.

    Args:
        store_uri: the store to look at; None: the user's default.
        seconds: after so many, what has not answered is left.
    """
    leaves, deadline = Event(), time.monotonic() + seconds
    looks: dict[tuple[str, str], _Look] = {**machine.looks(), **launchers.looks(), **store.looks(store_uri, leaves)}
    found: dict[tuple[str, str], list[Finding]] = {}
    answers: Queue[tuple[tuple[str, str], list[Finding] | BaseException]] = Queue()
    threads = {what: Thread(target=_answer, args=(what, look, answers), daemon=True) for what, look in looks.items()}
    try:
        for thread in threads.values():
            thread.start()
        while len(found) < len(looks):
            what, told = answers.get(timeout=max(0.0, deadline - time.monotonic()))
            if isinstance(told, BaseException):
                raise told
            found[what] = told
    except Empty:
        pass
    finally:
        leaves.set()
        for what, thread in threads.items():
            if what[0] == store.PART and thread.ident is not None:
                thread.join(_TIDY_SECONDS)  # it takes back what it has written
    result = [one for what in looks for one in found.get(what) or [_silent(what, seconds)]]
    if not any(one.state is State.WELL for one in result if one.part == launchers.PART):
        result.append(Finding(launchers.PART, "all", State.WRONG, "none can start an attempt from here: one of them is needed"))
    return result


def _silent(what: tuple[str, str], seconds: float) -> Finding:
    """Of what has not answered. Of this machine itself nothing is known then, where others use it."""
    words, busy = f"no answer within {seconds:g} s", machine.how_busy() if what[0] == machine.PART else None
    return Finding(*what, State.NOTE, f"{words}: {busy}") if busy else Finding(*what, State.WRONG, words)


def _answer(what: tuple[str, str], look: _Look, answers: Queue[tuple[tuple[str, str], list[Finding] | BaseException]]) -> None:
    try:
        answers.put((what, look()))
    except BaseException as error:  # told where somebody sees it
        answers.put((what, error))
