"""Uploads in the background: what an attempt has to say waits in an outbox on disk until the store has it.

A manifest, and an attempt's end, go when all is there that was put before them; the rest goes as many at once as wait.

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
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import islice, takewhile
from pathlib import Path

from last_e.manifest import MANIFEST
from runner import machine
from runner.errors import StoreError
from runner.job.paths import ATTEMPT_RECORD, END_RECORD
from runner.store.parallel import MOST_AT_ONCE
from runner.store.protocol import Store
from runner.waits import WAITS

FIRST_PAUSE_SECONDS = 0.5
LONGEST_PAUSE_SECONDS = WAITS.pause
QUIET_SECONDS = WAITS.heartbeat
"""After so long without a word from the store (an outage, a machine that slept) one looks before one sends."""
LAG_WARNING_SECONDS = 60.0
"""A checkpoint that has waited longer than this is told of: what is only here is lost if the machine is."""


class Outbox:
    """A queue of objects for a store, kept in a folder and sent oldest first; :func:`_at_once` says what goes together.

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
        self._sending: set[str] = set()
        self._telling = False
        self._closed = self._held = False
        self.error: str | None = None
        self.lasting = False
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        for key in sorted(waiting(folder), key=manifests_last):
            self._queue[key] = time.monotonic()
        self._heard = machine.uptime()
        self._start()

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

    @contextmanager
    def together(self) -> Iterator[None]:
        """What is put meanwhile waits until all of it is there, to go in as few round trips as can be."""
        with self._wake:
            self._held = True
        try:
            yield
        finally:
            with self._wake:
                self._held = False
                self._wake.notify_all()

    def drop(self, keys: list[str]) -> bool:
        """Forget a set of keys, if nothing of it has been sent yet: half of a set is of no use to anybody. Whether it was."""
        with self._wake:
            present = [key for key in keys if key in self._queue]
            if len(present) < len(keys) or self._sending.intersection(keys):
                return False  # some of it is there, or may be
            if any((self.folder / key).exists() is False for key in present):
                return False
            for key in present:
                del self._queue[key]
                (self.folder / key).unlink(missing_ok=True)
            return True

    @property
    def lag_seconds(self) -> float:
        """How long the oldest object has been waiting; 0 when all is sent."""
        with self._wake:
            return time.monotonic() - next(iter(self._queue.values())) if self._queue else 0.0

    @property
    def waiting(self) -> int:
        """How many objects have not been sent."""
        with self._wake:
            return len(self._queue)

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
            if key in self._sending:  # newer bytes of what is on its way: once more
                self._queue[key] = time.monotonic()
                self._sending.remove(key)
            self._wake.notify_all()

    def _start(self) -> None:
        """The simulation has threads of its own."""
        threading.Thread(target=self._run, name="outbox", daemon=True).start()

    def _run(self) -> None:
        pause = 0.0
        while True:
            with self._wake:
                if pause:
                    self._wake.wait_for(lambda: self._closed, pause)
                self._wake.wait_for(lambda: self._closed or self._may_send)
            if self._closed:
                return
            try:
                pause = self._send(pause)
            except Exception as error:  # whatever it is: nothing more would be sent
                failed = StoreError(f"{type(error).__name__}: {error}")
                pause = self._after([failed], pause)

    @property
    def _may_send(self) -> bool:
        return bool(self._queue and not self._held)

    def _send(self, pause: float) -> float:
        """Send what goes together now, after a pause; the seconds to wait before the next time, more of them each time that
        something fails."""
        with self._wake:
            queued = list(islice(self._queue, MOST_AT_ONCE + 1))
            if not queued:  # dropped meanwhile
                return pause
            keys = _at_once(queued)
            self._sending = set(keys)
        try:
            if machine.uptime() - self._heard > QUIET_SECONDS and self._lost():
                self.close()
                return 0.0
            results = self.store.in_parallel([partial(self._try, key) for key in keys])
        except StoreError as error:  # the look
            results = [error] * len(keys)
        failed = [result for result in results if isinstance(result, (StoreError, OSError))]
        if len(failed) < len(results):
            self._heard = machine.uptime()
        with self._wake:
            sent = [key for key, result in zip(keys, results) if result is None]
            for key in self._sending.intersection(sent):
                self._queue.pop(key, None)
                (self.folder / key).unlink(missing_ok=True)
            self._sending.difference_update(sent)  # what failed has been tried: it may be there all the same
            self._telling = True
        pause = self._after(failed, pause)
        try:
            for key in sent:
                self._sent(key)
        finally:
            with self._wake:
                self._telling = False
                self._wake.notify_all()
        return pause

    def _try(self, key: str) -> StoreError | OSError | None:
        """Send an object; what it failed of."""
        try:
            self.store.put_file(key, self.folder / key)
        except FileNotFoundError:  # dropped meanwhile, or somebody tidied up
            with self._wake:
                if self._queue.pop(key, None) is not None:
                    self._say(f"{self.folder / key} is gone: it cannot be uploaded any more")
                self._wake.notify_all()
            return _GONE
        except (StoreError, OSError) as error:
            return error
        return None

    def _after(self, failed: list[StoreError | OSError], pause: float) -> float:
        """How long to wait after some have failed, or none."""
        failed = [error for error in failed if error is not _GONE]
        if not failed:
            if self.error is not None:
                self.error, self.lasting = None, False
                self._say("uploads go on")
            return 0.0
        if self.error is None:
            self._say(f"uploads wait: {failed[0]}")
        self.error = str(failed[0])
        self.lasting = getattr(failed[0], "lasting", False) and not getattr(failed[0], "renewable", False)
        return min(LONGEST_PAUSE_SECONDS, max(FIRST_PAUSE_SECONDS, 2 * pause)) * (0.5 + random.random() / 2)  # noqa: S311


_GONE = FileNotFoundError()


def _at_once(keys: list[str]) -> list[str]:
    """Of what waits, oldest first, that which may be sent together: all up to the next that has to come after it. What was put
    after a manifest need not wait for it, but for another manifest or an end."""
    first = keys[0]
    if first.endswith(f"/{END_RECORD}"):
        return [first]
    return [first, *takewhile(lambda key: not key.endswith((f"/{MANIFEST}", f"/{END_RECORD}")), keys[1:])]


def waiting(folder: Path) -> list[str]:
    """Keys that wait in an outbox's folder, which its attempt may be removing just now."""
    paths = (Path(top, name) for top, _, names in os.walk(folder) for name in names)
    found = [path.relative_to(folder).as_posix() for path in paths if path.is_file() and not path.is_symlink()]
    return [key for key in found if not key.endswith(".part")]


def manifests_last(key: str) -> tuple[int, str]:
    """An order in which a set is complete when its manifest goes, and an attempt's end is told when all else is there."""
    name = key.rpartition("/")[2]
    return {MANIFEST: 1, ATTEMPT_RECORD: 2, END_RECORD: 3}.get(name, 0), key  # older versions wrote ends to the second
