"""The store: whether it answers, how fast, and whether what was put is listed and read back at once, as a store has to."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from secrets import token_hex
from threading import Event

from runner.doctor.finding import Finding, State
from runner.errors import LastrunError, StoreError
from runner.store.directory import DirectoryStore
from runner.store.open import existing_store
from runner.store.protocol import Store

PART = "store"
FOLDERS = ".doctor-"
"""So begin the names of those in which all is put that is tried here; no job's ID does."""
_FORGOTTEN_SECONDS = 3600.0
_BYTES = 2 << 20
_SLOW_SECONDS = 1.0
"""Of a request: a heart beats every five."""
_CLOCK_SECONDS, _TICK_SECONDS = 60.0, 3.0
"""What is worth telling of two clocks; servers tell theirs in whole seconds."""


def looks(uri: str | None, leaves: Event) -> dict[tuple[str, str], Callable[[], list[Finding]]]:
    """By part and name; ``leaves`` is set when nobody waits for the answer any more."""
    return {(PART, "address"): partial(_look, uri, leaves)}


def _look(uri: str | None, leaves: Event) -> list[Finding]:
    try:
        store = existing_store(uri)
        began = time.monotonic()
        store.check()
        seconds = time.monotonic() - began
    except LastrunError as error:
        return [Finding(PART, "address", State.WRONG, str(error))]
    if isinstance(store, DirectoryStore) and not store.root.exists():
        return [Finding(PART, "address", State.WELL, f"{store.uri}: the first lastrun submit makes it, and can")]
    found = [Finding(PART, "address", State.WELL, f"{store.uri}: it answers, and can be written")]
    prefix = f"{FOLDERS}{token_hex(8)}/"
    try:
        found += _try(store, prefix, seconds, leaves)
    except StoreError as error:
        found.append(Finding(PART, "writes", State.WRONG, str(error)))
    finally:
        with suppress(StoreError):
            store.clear(prefix)
            _sweep(store)
    return found


def _try(store: Store, prefix: str, seconds: float, leaves: Event) -> list[Finding]:
    found = [_speed(store, f"{prefix}speed", seconds)]
    if not leaves.is_set():
        found.append(_listing(store, prefix))
    if not leaves.is_set():
        found.append(_clock(store, f"{prefix}speed"))
    if not leaves.is_set() and store.has_a_clock:
        found += _server(store, f"{prefix}server")
    return found


def _speed(store: Store, key: str, seconds: float) -> Finding:
    data = os.urandom(_BYTES)
    began = time.monotonic()
    store.put(key, data)
    written = time.monotonic()
    same = store.get(key) == data
    read = time.monotonic()
    if not same:
        return Finding(PART, "speed", State.WRONG, "what was put is read back as something else: no store for anything")
    rates = [_BYTES / 1e6 / max(1e-6, took) for took in (written - began, read - written)]
    said = f"a small write {seconds * 1000:.0f} ms, writes {rates[0]:.1f} MB/s, reads {rates[1]:.1f} MB/s"
    if seconds > _SLOW_SECONDS:
        return Finding(PART, "speed", State.NOTE, f"{said}: slow, and each command takes several requests")
    return Finding(PART, "speed", State.WELL, said)


def _listing(store: Store, prefix: str) -> Finding:
    """What was put is listed at once, what was put over it is read, what was deleted is gone: all else rests on that."""
    keys = [f"{prefix}list/{number}" for number in range(3)]
    for key in keys:
        store.put(key, b"1")
    store.put(keys[0], b"2")
    wrong = []
    if [entry.key for entry in store.scan(f"{prefix}list/")] != keys:
        wrong.append("what was put is not listed at once")
    if store.get(keys[0]) != b"2":
        wrong.append("what was put over something else is not read at once")
    store.delete(keys[:1])
    if [entry.key for entry in store.scan(f"{prefix}list/")] != keys[1:]:
        wrong.append("what was deleted is listed still")
    if wrong:
        said = f"{'; '.join(wrong)}: two machines could take one job; is there a cache before it?"
        return Finding(PART, "listing", State.WRONG, said)
    return Finding(PART, "listing", State.WELL, "what is put or deleted is seen at once")


def _clock(store: Store, key: str) -> Finding:
    """By how much the store's clock differs from this machine's; of a folder, that of whoever keeps its files."""
    ahead = store.ahead(key)
    said = (
        "goes with this machine's"
        if abs(ahead) < _TICK_SECONDS
        else f"{abs(ahead):.0f} s {'ahead of' if ahead > 0 else 'behind'} this machine's"
    )
    if abs(ahead) > _CLOCK_SECONDS:
        return Finding(PART, "clock", State.NOTE, f"{said}: one of them is wrong; jobs bear it, tables of times do not")
    return Finding(PART, "clock", State.WELL, said)


def _server(store: Store, key: str) -> list[Finding]:
    """What a bucket's server does beyond what is needed."""
    from runner.store.s3 import S3Store

    assert isinstance(store, S3Store)
    checks, conditional = store.notices_damage(key), store.refuses_a_second(key)
    return [
        Finding(
            PART,
            "checksums",
            State.WELL if checks else State.NOTE,
            "what is damaged on its way there is refused"
            if checks
            else "it does not look at them: damage on the way there is found when something is read",
        ),
        Finding(
            PART,
            "conditional puts",
            State.WELL,
            ("it has them" if conditional else "it has none, or ignores them") + "; lastrun needs none",
        ),
    ]


def _sweep(store: Store) -> None:
    """What a look that was killed has left."""
    for name in store.folders(""):
        if name.startswith(FOLDERS):
            keys = [entry.key for entry in store.scan(f"{name}/")]
            if all(store.age(key) > _FORGOTTEN_SECONDS for key in keys[:1]):
                store.clear(f"{name}/")
