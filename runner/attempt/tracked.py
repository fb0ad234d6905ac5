"""Feeds a tracker with what an attempt's trainer says. It is a child that may be slow, hang or die: what it does not take in
time it does not get, and nobody waits for it but, for a moment, the end."""

from __future__ import annotations

import json
import math
import os
import queue
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import IO, Any

from last_e import events
from last_e.console import ConsoleSink
from last_e.layers import flatten
from last_e.process import run_module
from last_e.redact import redact
from runner.attempt.leaving import Leaving
from runner.errors import LastrunError, Reason, State
from runner.folders import data_folder
from runner.job.job import Job
from runner.spec import JobSpec
from runner.waits import WAITS

_MOST = 2000
"""So many points wait for a slow tracker; later ones are left out."""
_OF_A_STEP = ("loss", "lr", "train_top1", "clips_per_second", "epoch")
_SCORES = tuple(f"{part}_{what}" for part in ("test", "validation") for what in ("loss", "top1", "top5"))
_OF_AN_EPOCH = ("train_loss", "train_top1", "ib_loss", *_SCORES, "skipped_steps", "epoch")


def start_tracking(job: Job, config: JobSpec, sink: ConsoleSink, note: Callable[[str], None]) -> Tracked | None:
    """Start the tracker that a job names, if it does and that is possible here; ``note`` is told, from any thread, what people
    should know."""
    if config.tracking is None:
        return None
    try:
        return Tracked(job, config, sink, note)
    except (OSError, LastrunError) as error:
        note(f"nothing is tracked ({redact(str(error))}); training goes on")
        return None


class Tracked:
    """The tracker of a job while an attempt runs; made by :func:`start_tracking`."""

    def __init__(self, job: Job, config: JobSpec, sink: ConsoleSink, note: Callable[[str], None]) -> None:
        self._sink, self._note = sink, note
        self._points: queue.Queue[dict[str, Any] | None] = queue.Queue(_MOST)
        self._left_out = 0
        folder = data_folder() / "tracking"
        folder.mkdir(parents=True, exist_ok=True)
        self._child = subprocess.Popen(
            run_module("runner.tracking"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
            cwd=folder,
        )
        values = {key: value for key, value in flatten(config).items() if not key.startswith(("run.", "store.", "notify."))}
        self._points.put({"tracking": config.tracking, "job": job.id, "config": values, "folder": str(folder)})
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        threading.Thread(target=self._write, args=(self._child.stdin,), name="track", daemon=True).start()
        self._reader = threading.Thread(target=self._read, args=(self._child.stdout,), name="tracked", daemon=True)
        self._reader.start()

    def hear(self, event: events.Event) -> None:
        """Put an event's figures into the queue."""
        if isinstance(event, events.EpochDone):
            self._put(event.step, event, _OF_AN_EPOCH)
        elif isinstance(event, events.Point):
            self._put(event.step, event, _OF_A_STEP)

    def end(self, reason: Reason, leaving: Leaving) -> str | None:
        """Wait, as long as the end may take, until the tracker has all of it; what to say if it has not."""
        seconds = min(WAITS.track, leaving.drain_seconds(reason), leaving.haste_until - time.monotonic())
        until = time.monotonic() + seconds
        failed = reason.ending.state is State.FAILED
        try:
            with suppress(queue.Full):
                self._points.put({"reason": reason.value, "failed": failed}, timeout=max(0.0, seconds))
                self._points.put(None, timeout=max(0.0, until - time.monotonic()))
            self._child.wait(max(0.0, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            return f"the tracker did not take all of it within {seconds:.0f} s"
        finally:
            self.kill()  # with what it has started
        return f"the tracker was too slow for {self._left_out} points" if self._left_out else None

    def kill(self) -> None:
        """End it, and what it has started."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._child.pid, signal.SIGKILL)
        self._child.wait()
        self._reader.join(1.0)

    def _put(self, step: int, event: events.Event, names: tuple[str, ...]) -> None:
        found = {name: getattr(event, name) for name in names}
        values = {name: value for name, value in found.items() if value is not None and math.isfinite(value)}
        try:
            self._points.put_nowait({"step": step, "values": values})
        except queue.Full:
            self._left_out += 1

    def _write(self, pipe: IO[str]) -> None:
        with suppress(OSError, ValueError):  # it has ended, and said why
            while (point := self._points.get()) is not None:
                pipe.write(json.dumps(point) + "\n")
                pipe.flush()
        with suppress(OSError, ValueError):
            pipe.close()

    def _read(self, pipe: IO[str]) -> None:
        for line in pipe:
            with suppress(ValueError, AttributeError):
                told = json.loads(line)
                if where := told.get("where"):
                    self._sink.emit(events.Message(redact(str(where))))
                elif words := told.get("note"):
                    self._note(redact(str(words)))
        pipe.close()
