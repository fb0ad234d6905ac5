"""A folder that counts how often one waits for it, one time after the other, as if each answer took a tenth of a second."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from runner.store import parallel
from runner.store.directory import DirectoryStore
from runner.store.protocol import MOST_BYTES, Entry

CALLS = "LASTRUN_TEST_CALLS"
"""A file that gets a line for every call: time, process, thread, how many calls this one had to wait for, what it was."""

DELAY = "LASTRUN_TEST_DELAY"
"""For how many seconds each answer is to take."""


class CountingStore(DirectoryStore):
    """Every thread counts for itself. Of calls that are made in parallel, the one that waits longest counts."""

    has_a_clock = True

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.calls: list[str] = []
        self._local = threading.local()

    @property
    def depth(self) -> int:
        """Round trips of this thread so far."""
        return getattr(self._local, "depth", 0)

    def in_parallel(self, calls: Sequence[Callable[[], Any]]) -> list[Any]:
        begin, deepest, results = self.depth, self.depth, []
        for call in calls:
            self._local.depth = begin
            results.append(call())
            deepest = max(deepest, self.depth)
        self._local.depth = deepest
        return results

    def _wait(self, call: str) -> None:
        self._local.depth = self.depth + 1
        self.calls.append(call)
        if path := os.environ.get(CALLS):
            with Path(path).open("a") as file:
                thread = threading.current_thread().name.replace(" ", "")
                file.write(f"{time.time()} {os.getpid()} {thread} {self.depth} {call}\n")

    def put(self, key: str, data: bytes) -> None:
        self._wait(f"put {key}")
        super().put(key, data)

    def put_file(self, key: str, path: Path) -> None:
        self._wait(f"put {key}")
        super().put_file(key, path)

    def get(self, key: str, most: int = MOST_BYTES) -> bytes:
        self._wait(f"get {key}")
        return super().get(key, most)

    def get_file(self, key: str, path: Path, size: int | None = None, most: int | None = None) -> None:
        self._wait(f"get {key}")
        super().get_file(key, path, size, most)

    def age(self, key: str) -> float:
        self._wait(f"head {key}")
        return super().age(key)

    def scan(self, prefix: str, after: str = "") -> Iterator[Entry]:
        self._wait(f"list {prefix}")
        return super().scan(prefix, after)

    def folders(self, prefix: str) -> list[str]:
        self._wait(f"list {prefix}")
        return super().folders(prefix)

    def delete(self, keys: Iterable[str]) -> None:
        for key in keys:
            self._wait(f"delete {key}")
            super().delete([key])

    def sweep(self, prefix: str, keep: Callable[[str], bool]) -> None:
        self._wait(f"uploads {prefix}")
        super().sweep(prefix, keep)


class FarStore(CountingStore):
    """Each answer takes a while, however many are asked for at once."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.delay = float(os.environ.get(DELAY, "0"))

    def in_parallel(self, calls: Sequence[Callable[[], Any]]) -> list[Any]:
        return parallel.in_parallel(calls)

    def _wait(self, call: str) -> None:
        time.sleep(self.delay)
        super()._wait(call)
