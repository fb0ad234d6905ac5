"""Uploads in order, in the background: what an attempt has to say waits in an outbox on disk until the store has it.

The outbox mirrors the store's keys, so that what is left of it when a session ends can be sent later from the files alone.
"""

from __future__ import annotations

import errno
import os
import random
import shutil
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

from last_e.manifest import MANIFEST
from runner import machine
from runner.errors import StoreError
from runner.job.paths import ATTEMPT_RECORD
from runner.store.protocol import Store
from runner.waits import WAITS

FIRST_PAUSE_SECONDS = 0.5
LONGEST_PAUSE_SECONDS = WAITS.pause
QUIET_SECONDS = WAITS.heartbeat
"""After so long without a word from the store (an outage, a machine that slept) one looks before one sends."""
LAG_WARNING_SECONDS = 60.0
"""A checkpoint that has waited longer than this is told of: what is only here is lost if the machine is."""


class Outbox:
    """A queue of objects for a store, kept in a folder and sent by one thread, oldest first.

    A key that is put again before it was sent is sent once, with the newest bytes, at its old place. Failures are repeated
    with growing pauses until :meth:`close`. Nobody who puts something ever waits for the network.

    Args:
        store: where it goes.
        folder: where it waits; made if it is not there.
        say: told when sending begins to fail, and when it works again.
        sent: told each key when the store has it; on the sending thread.
        lost: asked, on that thread, before something is sent after a while without a word from the store: whether another
            attempt has the job by now. Then nothing more is sent.
    """

    def __init__(
        self,
        store: Store,
        folder: Path,
        say: Callable[[str], None],
        sent: Callable[[str], None],
        lost: Callable[[], bool] = lambda: False,
    ) -> None:
        self.store, self.folder = store, folder
        self._say, self._sent, self._lost = say, sent, lost
        self._queue: OrderedDict[str, float] = OrderedDict()
        self._wake = threading.Condition()
        self._sending: str | None = None
        self._telling = False
        self._closed = False
        self.error: str | None = None
        self.lasting = False
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        for key in sorted(waiting(folder), key=manifests_last):
            self._queue[key] = time.monotonic()
        self._thread = threading.Thread(target=self._run, name="outbox", daemon=True)
        self._thread.start()

    def put(self, key: str, data: bytes) -> None:
        """Have bytes sent; they are on disk when this returns.

        Raises:
            OSError: the disk is full.
        """
        path = self._place(key)
        path.write_bytes(data)
        self._enqueue(key, path)

    def put_file(self, key: str, source: Path) -> None:
        """Have a file's bytes sent as they are now: a link where the file system allows, since checkpoints never change."""
        path = self._place(key)
        try:
            os.link(source, path)
        except OSError as error:
            if error.errno not in (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOTSUP):
                raise
            shutil.copyfile(source, path)
        self._enqueue(key, path)

    def drop(self, keys: list[str]) -> None:
        """Forget a set of keys, if nothing of it has been sent yet: half of a set is of no use to anybody."""
        with self._wake:
            present = [key for key in keys if key in self._queue]
            if self._sending in keys or any((self.folder / key).exists() is False for key in present):
                return
            for key in present:
                del self._queue[key]
                (self.folder / key).unlink(missing_ok=True)

    @property
    def lag_seconds(self) -> float:
        """How long the oldest object has been waiting; 0 when all is sent."""
        with self._wake:
            return time.monotonic() - next(iter(self._queue.values())) if self._queue else 0.0

    def drain(self, seconds: float) -> bool:
        """Wait until all is sent and told, but no longer than ``seconds``; says whether all is sent."""
        deadline = time.monotonic() + seconds
        with self._wake:
            while (self._queue or self._telling) and not self._closed:
                self._wake.notify_all()
                if not self._wake.wait(min(0.2, max(0.0, deadline - time.monotonic()))) and time.monotonic() >= deadline:
                    break
            return not self._queue

    def close(self) -> None:
        """Send nothing more; what is left stays in the folder."""
        with self._wake:
            self._closed = True
            self._wake.notify_all()

    def _place(self, key: str) -> Path:
        path = self.folder / f"{key}.part"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        return path

    def _enqueue(self, key: str, path: Path) -> None:
        with self._wake:
            os.replace(path, self.folder / key)
            self._queue.setdefault(key, time.monotonic())
            if key.endswith(f"/{ATTEMPT_RECORD}"):  # it may tell of the end: nothing else is to come after that
                self._queue.move_to_end(key)
            if self._sending == key:  # newer bytes of what is on its way: once more
                self._queue[key] = time.monotonic()
                self._sending = None
            self._wake.notify_all()

    def _run(self) -> None:
        pause = 0.0
        heard = machine.uptime()
        while True:
            with self._wake:
                if pause:
                    self._wake.wait_for(lambda: self._closed, pause)
                while not self._queue and not self._closed:
                    self._wake.wait()
                if self._closed:
                    return
                key = self._sending = next(iter(self._queue))
            try:
                if machine.uptime() - heard > QUIET_SECONDS and self._lost():
                    self.close()
                    return
                self.store.put_file(key, self.folder / key)
                heard = machine.uptime()
            except (StoreError, OSError) as error:
                if isinstance(error, FileNotFoundError):  # dropped meanwhile, or somebody tidied up
                    with self._wake:
                        if self._queue.pop(key, None) is not None:
                            self._say(f"{self.folder / key} is gone: it cannot be uploaded any more")
                        self._wake.notify_all()
                    continue
                pause = min(LONGEST_PAUSE_SECONDS, max(FIRST_PAUSE_SECONDS, 2 * pause)) * (0.5 + random.random() / 2)  # noqa: S311
                if self.error is None:
                    self._say(f"uploads wait: {error}")
                self.error, self.lasting = str(error), getattr(error, "lasting", False)
                continue
            pause = 0.0
            if self.error is not None:
                self.error, self.lasting = None, False
                self._say("uploads go on")
            with self._wake:
                if self._sending == key:
                    self._queue.pop(key, None)
                    (self.folder / key).unlink(missing_ok=True)
                self._sending, self._telling = None, True
            try:
                self._sent(key)
            finally:
                with self._wake:
                    self._telling = False
                    self._wake.notify_all()


def waiting(folder: Path) -> list[str]:
    """Keys that wait in an outbox's folder."""
    found = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
    return [key for key in found if not key.endswith(".part")]


def manifests_last(key: str) -> tuple[int, str]:
    """An order in which a set is complete when its manifest goes, and an attempt's end is told when all else is there."""
    name = key.rpartition("/")[2]
    return {MANIFEST: 1, ATTEMPT_RECORD: 2}.get(name, 0), key
