"""The cluster, as who follows batch jobs there sees it: by Slurm's programs and the log files of this machine."""

from __future__ import annotations

import math
import time
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from runner.folders import cache_folder
from runner.launch.slurm import queue
from runner.waits import WAITS

LOOK_SECONDS = 2.5 * WAITS.follow
"""Between two questions to Slurm's controller, which serves a whole cluster."""
PIECE_BYTES = 1 << 18
"""The most that is read of a log at once."""


class Cluster(Protocol):
    """See above. All but ``read`` raise EngineError where Slurm does not answer."""

    patience: float
    """For how many seconds it is asked again when it does not answer."""

    def follow(self, id: str, log: str) -> None:
        """Somebody will look at this job again and again."""

    def forget(self, id: str) -> None:
        """Nobody does any more."""

    def look(self, id: str) -> queue.Queued | None:
        """As :func:`queue.look`, of a while ago."""

    def look_now(self, id: str) -> queue.Queued | None:
        """As :func:`queue.look`."""

    def exit_code(self, id: str) -> int | None:
        """As :func:`queue.exit_code`."""

    def read(self, id: str) -> bytes:
        """What its log has that has not been read yet; empty for now, or for good."""

    def cancel(self, id: str) -> None:
        """As :func:`queue.cancel`."""

    def send(self, id: str, signal: str) -> None:
        """As :func:`queue.send`."""


class Here:
    """The one that this machine belongs to. What Slurm tells of all batch jobs that this process follows is asked for at once,
    however many they are."""

    patience = math.inf

    def __init__(self) -> None:
        self._ids: set[str] = set()
        self._logs: dict[str, tuple[str, int]] = {}
        self._told: dict[str, queue.Queued] = {}
        self._asked = -math.inf

    def follow(self, id: str, log: str) -> None:
        """From the beginning of its log on."""
        self._ids.add(id)
        self._logs[id] = (log, 0)

    def forget(self, id: str) -> None:
        """Its log can still be read."""
        self._ids.discard(id)

    def look(self, id: str) -> queue.Queued | None:
        """Of all at once."""
        if time.monotonic() - self._asked >= LOOK_SECONDS:
            self._told = queue.look_at(self._ids)
            self._asked = time.monotonic()
        return self._told.get(id) or queue.look(id)

    def look_now(self, id: str) -> queue.Queued | None:
        """Of this one."""
        return queue.look(id)

    def exit_code(self, id: str) -> int | None:
        """Asked now."""
        return queue.exit_code(id)

    def read(self, id: str) -> bytes:
        """From its file, where this machine has it."""
        log, offset = self._logs[id]
        new = read_log(log, offset)
        self._logs[id] = (log, offset + len(new))
        return new

    def cancel(self, id: str) -> None:
        """At once."""
        queue.cancel(id)

    def send(self, id: str, signal: str) -> None:
        """At once."""
        queue.send(id, signal)


HERE = Here()


def log_folder() -> Path:
    """Where batch jobs of this user write what they say."""
    return cache_folder() / "slurm"


def read_log(log: str, offset: int) -> bytes:
    """What it has from a byte on, not all at once; empty where there is none."""
    with suppress(OSError), (log_folder() / log).open("rb") as file:
        file.seek(offset)
        return file.read(PIECE_BYTES)
    return b""
