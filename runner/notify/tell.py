"""Tells all that are to be told some news at once, within a time, whatever each of them does."""

from __future__ import annotations

import threading
import time
from collections.abc import Collection

from runner.notify.event import Event
from runner.notify.post import UnsentError
from runner.notify.targets import Target, targets
from runner.spec import NotifyConfig


def tell(event: Event, config: NotifyConfig, seconds: float, already: Collection[str] = ()) -> dict[str, str | None]:
    """Those who were to be told, without those that have been ``already``: each with None, or why it does not know of it. One
    that takes longer than ``seconds`` is not waited for."""
    until = time.monotonic() + seconds
    found: dict[str, str | None] = {}
    threads = {}
    for name, target in targets(config).items():
        if name not in already:
            threads[name] = threading.Thread(
                target=_tell, args=(name, target, event, until, found), name=f"tell-{name}", daemon=True
            )
            threads[name].start()
    for thread in threads.values():
        thread.join(max(0.0, until - time.monotonic()) + 0.2)  # it knows the time, too, and has more to say of it
    return {name: found.get(name, "not in time") for name in threads}


def _tell(name: str, target: Target, event: Event, until: float, found: dict[str, str | None]) -> None:
    try:
        target(event, until)
        found[name] = None
    except UnsentError as error:
        found[name] = str(error)
    except Exception as error:  # whatever it is: nobody is to wait for it, and its words may hold an address
        found[name] = f"failed ({type(error).__name__})"
