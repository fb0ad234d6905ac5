"""Figures of steps within epochs, of all attempts of a job as one run: none twice, none of what a cut has undone.

An attempt's lie in pieces of so many lines, the last of which grows: neither does a long run send all of it again and again,
nor has a store thousands of small objects.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from last_e.metrics import read_steps
from runner.errors import DamagedObjectError, MissingKeyError
from runner.job.attempts import Attempt
from runner.job.job import Job

LINES = 500
"""Of a piece."""


def pieces_of(data: bytes) -> list[bytes]:
    """A file's whole lines in pieces; one that is just being written is left for the next time."""
    lines = data[: data.rfind(b"\n") + 1].splitlines(keepends=True)
    return [b"".join(lines[first : first + LINES]) for first in range(0, len(lines), LINES)]


class Growing:
    """The pieces of a file to which lines come, sent as they change. Where a trainer begins anew it puts another file in its
    place, of which all is read; else what is new, and the rest of its piece."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen: tuple[int, ...] = ()
        self._sent: list[bytes] = []
        self._last, self._last_at = b"", 0

    def send(self, put: Callable[[int, bytes], None]) -> None:
        """Hand on each piece that has changed since the last time, with its number, from 1 on; where the file has fewer than
        before, the others as empty. If that breaks off, they count as not sent."""
        try:
            with self._path.open("rb") as file:
                about = os.fstat(file.fileno())
                seen: tuple[int, ...] = about.st_dev, about.st_ino, about.st_size, about.st_mtime_ns
                if seen == self._seen:
                    return
                begin = self._last_at if seen[:2] == self._seen[:2] else 0
                file.seek(begin)
                data = file.read()
                if begin and not data.startswith(self._last):
                    file.seek(begin := 0)
                    data = file.read()
        except FileNotFoundError:
            seen, begin, data = (), 0, b""
        pieces = pieces_of(data)
        kept = self._sent[:-1] if begin else []
        sent = [*kept, *(hashlib.sha256(piece).digest() for piece in pieces)]
        for number in range(len(kept), max(len(sent), len(self._sent))):
            if sent[number : number + 1] != self._sent[number : number + 1]:
                put(1 + number, pieces[number - len(kept)] if number < len(sent) else b"")
        self._seen, self._sent, self._last = seen, sent, pieces[-1] if pieces else b""
        self._last_at = begin + sum(map(len, pieces[:-1]))


class Steps:
    """Those of a job, read as often as one likes: of what has not changed nothing is read again."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._known: dict[tuple[str, int], str] = {}

    def read(self, attempts: list[Attempt] | None = None) -> list[dict[str, Any]]:
        """A line for each step that was kept, of these attempts (default: all): ``step``, ``epoch`` (how many were trained by
        then), ``lr``, ``loss`` (of the step), ``train_loss`` and ``train_top1`` (of the epoch so far), ``skipped_steps``.

        Raises:
            StoreError: the store fails.
        """
        job = self._job
        attempts = job.attempts.all() if attempts is None else attempts
        listed = job.store.in_parallel([partial(self._pieces, attempt.id) for attempt in attempts])
        new = [piece for pieces in listed for piece in pieces if piece not in self._known]
        texts = job.store.in_parallel([partial(self._text, key) for key, _ in new])
        self._known = {piece: self._known[piece] for pieces in listed for piece in pieces if piece in self._known}
        self._known |= dict(zip(new, texts))
        merged: list[dict[str, Any]] = []
        for attempt, pieces in zip(attempts, listed):
            own = read_steps("".join(self._known[piece] for piece in pieces))
            if (begins := attempt.from_epoch) is not None:
                merged = [line for line in merged if line["epoch"] <= begins]
            elif own:  # it was killed before the store had its record anew
                merged = [line for line in merged if line["epoch"] < own[0]["epoch"]]
            merged += own
        return merged

    def _pieces(self, attempt_id: str) -> list[tuple[str, int]]:
        """Keys and sizes, in order; a piece that has changed has another size."""
        return [(entry.key, entry.size) for entry in self._job.store.scan(self._job.paths.steps(attempt_id))]

    def _text(self, key: str) -> str:
        try:
            return self._job.store.get(key).decode("utf-8", "replace")
        except (MissingKeyError, DamagedObjectError):
            return ""
