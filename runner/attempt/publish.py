"""Keeps the store current with what one attempt has: checkpoints, figures of epochs and steps, log, how far it is.

All of it goes through an outbox; nobody waits for the network."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from last_e.choosing import chosen_by
from last_e.manifest import MANIFEST, DamagedCheckpoint, to_keep, verify
from last_e.metrics import METRICS, STEPS
from last_e.text import seconds_text
from runner.attempt.outbox import LAG_WARNING_SECONDS, Outbox
from runner.attempt.pruner import Pruner
from runner.attempt.report import Own
from runner.attempt.scratch import OUTBOX
from runner.attempt.voice import Voice
from runner.errors import Reason
from runner.job.attempts import HEARTBEAT_SECONDS, Attempt
from runner.job.checkpoints import Stored
from runner.job.job import Job
from runner.job.paths import END_RECORD, PREDICTIONS, Paths, checkpoint_name, step_of
from runner.job.steps import Growing
from runner.waits import WAITS

STEPS_SECONDS = WAITS.steps


class Publisher:
    """What an attempt in ``scratch`` tells the store.

    Args:
        job, attempt: whose.
        keep_last: how many checkpoints the retention rule keeps.
        scratch: the attempt's folder: ``run`` is where the trainer writes, ``outbox`` what waits.
        progress: what a heartbeat tells; filled here.
        voice: told what people should know, on the main thread.
        note: the same from other threads.
        lost: called, from another thread, with the reason when it is seen that this attempt has the job no more.
    """

    def __init__(
        self,
        job: Job,
        attempt: Attempt,
        keep_last: int,
        scratch: Path,
        progress: dict[str, Any],
        voice: Voice,
        note: Callable[[str], None],
        lost: Callable[[Reason], None],
    ) -> None:
        self._job, self._attempt, self._keep_last = job, attempt, keep_last
        self._run, self._progress, self._voice = scratch / "run", progress, voice
        self._posted: list[Stored] = []
        self._on_their_way: dict[str, Stored] = {}
        self._synced_step = 0
        self._metrics_changed = self._late = False
        self._segments = 0
        self._predictions: bytes | None = None
        self._steps = Growing(self._run / STEPS)
        self._next_look = self._next_steps = 0.0
        self._tell_lost = lost
        self.lost: Reason | None = None
        """Why this attempt has the job no more: nothing more is sent or deleted there."""
        self._pruner = Pruner(self._prune, note)
        self.outbox = Outbox(job.store, scratch / OUTBOX, note, self._sent, self._lost)

    def record(self) -> None:
        """Send the attempt's record as it is now.

        Raises:
            OSError: the disk is full.
        """
        self.outbox.put(*self._job.attempts.entry(self._attempt))

    def epoch(self, metrics: dict[str, Any]) -> None:
        """An epoch has been trained and tested."""
        self._metrics_changed = True
        self._progress["last_epoch"] = metrics
        # Of equal ones the first, as the trainer has it.
        self._progress["best"] = max(self._progress.get("best", metrics), metrics, key=chosen_by)

    def checkpoint(self, folder: Path) -> None:
        """A checkpoint is whole on disk: send it."""
        try:
            with self.outbox.together():
                self._send_metrics()  # first: who resumes from a checkpoint finds the history up to it
                self._send_steps()
                self._send_predictions()
                stored = post_checkpoint(self._job.paths, folder, self._attempt, self.outbox)
                self._on_their_way[self._job.paths.checkpoint(stored.name)] = stored
        except (DamagedCheckpoint, FileNotFoundError):  # pruned by the trainer already: a newer one is on its way
            return
        self._posted.append(stored)
        self._progress["local_step"] = stored.manifest.step
        # When sending is slow, what the retention rule would delete at once is not sent at all: the backlog stays bounded.
        for old, keep in zip(self._posted, to_keep([s.manifest for s in self._posted], self._keep_last)):
            if not keep:
                names = (*old.manifest.files, MANIFEST)
                if self.outbox.drop([self._job.paths.checkpoint(old.name, name) for name in names]):
                    self._on_their_way.pop(self._job.paths.checkpoint(old.name), None)
        self._posted = [s for s in self._posted if s.manifest.step >= self._synced_step]

    def tick(self) -> None:
        """Send what has come together, now and then; called often."""
        now = time.monotonic()
        if now >= self._next_look:
            self._next_look = now + HEARTBEAT_SECONDS
            self._look_at_lag()
            self._send_metrics()
            self.send_log()
        if now >= self._next_steps:
            self._next_steps = now + STEPS_SECONDS
            self._send_steps()

    def end(self) -> None:
        """Send all that there is at the end, and the record that tells of it.

        Raises:
            OSError: the disk is full.
        """
        with self.outbox.together():
            self._send_metrics()
            self._send_steps()
            self._send_predictions()
            self.send_log()
            self.record()

    def own(self) -> Own:
        """What a report of the job needs of this attempt: the store may not have all of it yet."""
        found: dict[str, bytes] = {}
        for name in (METRICS, PREDICTIONS):
            with suppress(OSError):  # it is not there, or the disk has failed: the end comes first
                found[name] = (self._run / name).read_bytes()
        metrics = found.get(METRICS, b"").decode("utf-8", "replace")
        return Own(replace(self._attempt), {**self._progress, "time": time.time()}, metrics, found.get(PREDICTIONS))

    def send_log(self) -> None:
        """Send what was said since the last time."""
        if lines := self._voice.take():
            self._segments += 1
            self.outbox.put(self._job.paths.log(self._attempt.id, self._segments), lines.encode())

    def last_word(self, text: str) -> None:
        """Say something, if it is anything, once all else is sent."""
        if text:
            self._voice.say(text)
            with suppress(OSError):  # no room for it: the end is there
                self.send_log()
            self.outbox.drain(1.0)

    def drain(self, left: Callable[[], float]) -> str | None:
        """Wait until the store has it all, for the seconds that are ``left``, asked again and again; what to say of what it
        does not have then."""
        if not self.outbox.drain(0.5):
            self._voice.show(f"waiting for uploads, {seconds_text(left())} at the most")
        most = 0
        while not (sent := self.outbox.drain(min(0.5, left()))) and left() > 0 and self.lost is None:
            most = max(most, waiting := self.outbox.waiting)
            self._voice.work("objects sent", most - waiting, most)
        if most:
            self._voice.work("objects sent", most, most)
        if sent:
            self._pruner.drain(left())
            return None
        folder, job = self.outbox.folder, self._job.reference
        rest = f"the store does not have all of it ({self.outbox.error or 'too slow'}); the rest is in {folder}"
        container = self._attempt.container
        if container and "scratch" not in container:  # on another machine, in a volume of its engine
            return f"{rest} in the engine's volume: lastrun resume {job} with the same engine sends it and goes on"
        return f"{rest}: lastrun sync {job} --from {folder} sends it"

    def _look_at_lag(self) -> None:
        lag = self.outbox.lag_seconds
        self._progress["lag_seconds"] = round(lag, 1)
        late = lag > LAG_WARNING_SECONDS
        if late and not self._late:
            text = f"uploads lag by {seconds_text(lag)}; training goes on, the store has step {self._synced_step}"
            self._voice.say(text, "warning")
        self._late = late

    def _send_metrics(self) -> None:
        path = self._run / METRICS
        if self._metrics_changed and path.exists():
            self._metrics_changed = False
            self.outbox.put(self._job.paths.metrics(self._attempt.id), path.read_bytes())

    def _send_predictions(self) -> None:
        path = self._run / PREDICTIONS
        if path.exists() and (data := path.read_bytes()) != self._predictions:
            self._predictions = data
            self.outbox.put(self._job.paths.predictions(self._attempt.id), data)

    def _send_steps(self) -> None:
        """What has changed; where a trainer that was started anew has taken lines back, also what is empty now."""
        self._steps.send(lambda number, piece: self.outbox.put(self._job.paths.steps(self._attempt.id, number), piece))

    def _lost(self) -> bool:
        """On the outbox's thread: whether this attempt has the job no more."""
        if self.lost is None and (reason := self._job.lost(self._attempt)) is not None:
            self.lost = reason
            self._tell_lost(reason)
        return self.lost is not None

    def _sent(self, key: str) -> None:
        """On the outbox's thread: a checkpoint is whole in the store once its manifest is there."""
        if key.endswith(f"/{MANIFEST}"):
            self._synced_step = max(step_of(key), self._synced_step)
            self._progress["synced_step"] = self._synced_step
            if stored := self._on_their_way.pop(key, None):
                self._job.checkpoints.add(stored)
            self._pruner.want()
        elif key.endswith(f"/{END_RECORD}"):
            self._pruner.again()

    def _prune(self) -> None:
        """On the pruner's thread."""
        if self.lost is None:
            self._job.checkpoints.prune(self._keep_last, self._attempt)


def post_checkpoint(paths: Paths, folder: Path, attempt: Attempt, outbox: Outbox) -> Stored:
    """Have a whole checkpoint sent, its manifest last.

    Raises:
        DamagedCheckpoint: it is not whole.
        FileNotFoundError: the trainer has pruned it meanwhile.
    """
    manifest = verify(folder)
    name = checkpoint_name(manifest, attempt.id)
    keys = [paths.checkpoint(name, file) for file in manifest.files]
    try:
        for key, file in zip(keys, manifest.files):
            outbox.put_file(key, folder / file)
    except FileNotFoundError:
        outbox.drop(keys)
        raise
    outbox.put(paths.checkpoint(name), manifest.to_json().encode())
    return Stored(name, manifest)
