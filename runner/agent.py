"""Runs one attempt of a job on the machine it is on: claim, fetch, train as a child, keep the store up to date, end."""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
import queue
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from types import FrameType
from typing import IO, Any

from last_e import events
from last_e.console import ConsoleSink
from last_e.datafile import is_remote
from last_e.events import Message, describe, parse_event
from last_e.layers import Resolved
from last_e.manifest import MANIFEST, DamagedCheckpoint, to_keep
from last_e.redact import redact
from last_e.text import expand, seconds_text
from runner import machine
from runner.data_cache import fetch_data
from runner.errors import (
    DamagedObjectError,
    Exit,
    LastrunError,
    MissingKeyError,
    PausedError,
    Reason,
    State,
    StoreError,
    UsageError,
)
from runner.job import HEARTBEAT_SECONDS, Attempt, Job, Stored
from runner.lease import Heart, claim
from runner.resolve import resolve_attempt
from runner.spec import JobSpec
from runner.sync import ATTEMPT_RECORD, LAG_WARNING_SECONDS, Outbox, leftovers, send_leftovers, waiting
from runner.waits import WAITS

EVENTS_SECONDS = WAITS.events
STOP_PATIENCE_SECONDS = WAITS.save
PREEMPTED_SECONDS = WAITS.notice
# How the trainer names what the runner has a reason for.
_TRAINER_REASONS = {
    "data_missing": "data_error",
    "data_damaged": "data_error",
    "data_changed": "data_error",
    "bad_usage": "config_error",
}
_RESULT_FIELDS = ("test_top1", "test_top5", "best_top1", "best_epoch", "step", "total_steps")


def run_attempt(
    job: Job,
    env: str | None,
    settings: Iterable[str],
    allow_change: Iterable[str],
    sink: ConsoleSink,
    takeover: bool = False,
    launcher: str | None = None,
) -> Reason:
    """Run one attempt to its end and say why it ended.

    Raises:
        ConfigError, NoSuchJobError, ClaimedError, StoreError: the attempt could not begin.
    """
    config, origins, changed_before = job.settings()
    allow_change = list(allow_change)
    resolved, changed = resolve_attempt(config, origins, env, settings, allow_change, launcher)
    state, _, _ = job.state()
    if state is State.SUCCEEDED and not allow_change:
        raise UsageError(f"{job.id} is complete; lastrun status {job.reference} shows its result")
    scratch_root = _scratch_root(resolved.config)
    old_requests = set(job.request_keys())  # before the claim: from then on a stop may be meant for this attempt
    attempt = claim(job, takeover, (machine.container() or {}).get("token"))
    attempt.env, attempt.hardware, attempt.versions = resolved.env, machine.describe(), machine.versions()
    attempt.changes = [asdict(change) for change in changed]
    # A checkpoint from before an earlier change is gone on from with that change.
    return _Session(job, attempt, resolved, [*allow_change, *changed_before], sink, scratch_root, old_requests).run()


def _scratch_root(config: JobSpec) -> Path:
    """The folder for the attempt's files, seen to be usable before the job is claimed."""
    inside = machine.container()
    # In a container the launcher has seen to it: the path, perhaps with a ~, is one of the machine around it.
    chosen = config.hardware.scratch_root if inside is None else inside.get("scratch")
    root = expand(chosen or tempfile.gettempdir())
    try:
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=root):
            return root
    except OSError as error:
        hint = "set another with --set hardware.scratch_root=FOLDER"
        raise UsageError(f"hardware.scratch_root: {root}: {error.strerror or error}; {hint}") from None


class _Session:
    """The attempt while it runs. The main thread decides; others read the trainer's pipes, send the outbox, and beat."""

    def __init__(
        self,
        job: Job,
        attempt: Attempt,
        resolved: Resolved[JobSpec],
        allow_change: list[str],
        sink: ConsoleSink,
        scratch_root: Path,
        old_requests: set[str],
    ) -> None:
        self.scratch_root = scratch_root
        self.job, self.attempt, self.config = job, attempt, resolved.config
        self.allow_change, self.sink, self.notes = allow_change, sink, resolved.notes
        self.lines: queue.Queue[tuple[str, str | None]] = queue.Queue()
        self.log: list[str] = []
        self.log_segment = 0
        self.progress: dict[str, Any] = {}
        self.ended: events.Ended | None = None
        self.trainer: subprocess.Popen[str] | None = None
        self.asked: Reason | None = None
        self.asked_at = 0.0
        self.interrupted = False
        self.last_error = ""
        self.metrics_changed = False
        self.superseded = self.late = False
        self.posted: list[Stored] = []
        self.synced_step = 0
        self.unpruned = False
        self.events_sent: dict[str, int] = {}
        self.next_beat = self.next_events = 0.0
        self.began = time.monotonic()
        self.memory_kills = machine.memory_kills()
        self.outbox: Outbox | None = None
        self.data: Path | None = None
        self.heart = Heart(
            job, attempt, old_requests, lambda: dict(self.progress), lambda word: self.lines.put(("heard", word))
        )

    def run(self) -> Reason:
        scratch: Path | None = None
        self._take_signals()
        self.heart.start()
        try:
            self._clear_leftovers(self.scratch_root)
            scratch = Path(tempfile.mkdtemp(prefix=f"lastrun-{self.job.id}-{self.attempt.id}-", dir=self.scratch_root))
            self.outbox = Outbox(self.job.store, scratch / "outbox", lambda word: self.lines.put(("note", word)), self._sent)
            for note in self.notes:
                self._say(note)
            reason, message = self._train(scratch)
        except StoreError as error:
            reason, message = (Reason.OUT_OF_DISK if _disk_full(error.__cause__) else Reason.STORE_UNREACHABLE), str(error)
        except OSError as error:
            reason = Reason.OUT_OF_DISK if _disk_full(error) else Reason.TRAINER_ERROR
            message = f"{error.filename or self.scratch_root}: {error.strerror or error}"
        finally:
            self._kill_trainer()
        with contextlib.suppress(StoreError):  # it may have happened since the last beat
            self.superseded = self.superseded or self.attempt.superseded_by(self.job.attempts())
        if self.superseded:
            reason, message = Reason.LEASE_LOST, "another attempt has taken the job; nothing more was sent"
        reason = self._finish(reason, message)
        self.heart.stop()
        if self.outbox is not None:
            self.outbox.close()
        if scratch is not None and (self.superseded or not waiting(scratch / "outbox")):
            shutil.rmtree(scratch, ignore_errors=True)
        return reason

    def _clear_leftovers(self, folder: Path) -> None:
        """Send what this job's attempts that were killed here could not send any more, and delete their files."""
        for leftover in leftovers(self.job, folder):
            self._say(f"sending what an earlier attempt left in {leftover}")
            send_leftovers(self.job.store, leftover / "outbox")
            shutil.rmtree(leftover, ignore_errors=True)

    # --- the trainer ------------------------------------------------------------------------------------------------

    def _train(self, scratch: Path) -> tuple[Reason, str]:
        """Train from the newest checkpoint that the trainer can make something of."""
        self.job.sweep_unfinished()
        if mounted := (self.attempt.container or {}).get("data"):
            self.data = Path(mounted)
        elif is_remote(self.config.data.uri):
            try:
                options = self._bucket_options()
                self.data = fetch_data(str(self.config.data.uri), options=options, say=self._say, stop=self._stop_while_waiting)
            except PausedError as error:
                assert self.asked is not None
                return self.asked, str(error)
            except (MissingKeyError, DamagedObjectError, UsageError) as error:
                return Reason.DATA_ERROR, str(error)
            except StoreError:
                raise
            except LastrunError as error:  # no room in the cache
                return Reason.OUT_OF_DISK, str(error)
        bad: set[str] = set()
        while True:
            self.ended = None
            reason, message = self._train_once(scratch, bad)
            if self.ended is None or self.ended.reason != "checkpoint_damaged" or self.attempt.resumed_from is None:
                return reason, message
            bad.add(self.attempt.resumed_from)
            self._say(f"skipping checkpoint {self.attempt.resumed_from}: {message}", "warning")
            self.attempt.resumed_from, self.attempt.resumed_step, self.attempt.resumed_epoch = None, 0, 0

    def _stop_while_waiting(self) -> bool:
        """Before there is a trainer: hear what other threads have to say, look at the clock; whether to stop."""
        while not self.lines.empty():
            self._hear(*self.lines.get())
        self._look_at_limit()
        return self.asked is not None

    def _bucket_options(self) -> dict[str, str | None]:
        """What the job says of the server of its store holds for its data, too; the data's own URI wins."""
        return self.config.store.model_dump(exclude={"uri"})

    def _train_once(self, scratch: Path, bad: set[str]) -> tuple[Reason, str]:
        out = scratch / "run"
        fetched = self.job.fetch_newest_checkpoint(scratch / "from", lambda word: self._say(word, "warning"), bad)
        if fetched is not None:
            _, stored = fetched
            self.attempt.resumed_from = stored.name
            self.attempt.resumed_step, self.attempt.resumed_epoch = stored.manifest.step, stored.manifest.epoch
            self._say(f"going on from checkpoint {stored.name} (epoch {stored.manifest.epoch}, step {stored.manifest.step})")
        elif self.attempt.number > 1:
            self._say("no whole checkpoint yet: beginning at step 0")
        self.attempt.inherited = [stored.name for stored in self.job.checkpoints()]
        self.job.write_attempt(self.attempt)
        config = scratch / "config.json"
        config.write_text(json.dumps(self._trainer_config()))
        command = [sys.executable, "-m", "last_e", "--config", str(config), "--out", str(out), "--supervised"]
        if fetched is not None:
            command += ["--resume", str(fetched[0])]
        if self.allow_change:
            command += ["--allow-change", *self.allow_change]
        if self.asked is not None:  # stopped before there was anything to stop
            return self.asked, "nothing was trained"
        # A session of its own: Ctrl-C reaches the trainer only through us. Its standard input ends when we do.
        self.trainer = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        if self.asked is not None:  # asked while it was being started
            self.trainer.send_signal(signal.SIGTERM)
        assert self.trainer.stdout is not None
        assert self.trainer.stderr is not None
        readers = [self._read("event", self.trainer.stdout), self._read("text", self.trainer.stderr)]
        open_pipes = len(readers)
        while open_pipes:
            try:
                kind, line = self.lines.get(timeout=0.2)
                if self._hear(kind, line):
                    continue
            except queue.Empty:
                self._tick(out)
                continue
            if line is None:
                open_pipes -= 1
            else:
                self._handle(kind, line)
            self._tick(out)
        code = self.trainer.wait()
        self._send_metrics(out)
        self._send_events(out)
        return self._verdict(code)

    def _trainer_config(self) -> dict[str, Any]:
        """The configuration without the runner's own sections."""
        values = self.config.model_dump(mode="json", exclude={"name", "run", "store"})
        if self.data is not None:
            values["data"]["uri"] = str(self.data)
        if self.config.run.gpus is not None and self.config.hardware.device != "cpu":
            values["hardware"]["device"] = "cuda" if self.config.run.gpus else "cpu"
        elif self.attempt.container and "device" in self.attempt.container:
            values["hardware"]["device"] = self.attempt.container["device"]
        if self.attempt.container and self.config.run.cpus and values["hardware"]["cpu_threads"] is None:
            values["hardware"]["cpu_threads"] = math.ceil(self.config.run.cpus)  # a limit that no system call tells
        return values

    def _read(self, kind: str, pipe: IO[str]) -> threading.Thread:
        def pump() -> None:
            for line in pipe:
                self.lines.put((kind, redact(line.rstrip("\n"))))
            self.lines.put((kind, None))

        thread = threading.Thread(target=pump, name=f"read-{kind}", daemon=True)
        thread.start()
        return thread

    def _handle(self, kind: str, line: str) -> None:
        event = parse_event(line) if kind == "event" else None
        if event is None:
            self.last_error = line.strip() or self.last_error
            self._say(line, "warning" if kind == "text" else "info", plain=True)
            return
        if isinstance(event, events.Ended):
            self.ended = event
            return
        if isinstance(event, events.Progress):
            self.progress = {**self.progress, **json.loads(event.to_json())}
        elif isinstance(event, events.CheckpointSaved):
            self._upload(Path(event.path))
        elif isinstance(event, events.EpochDone):
            self.metrics_changed = True
            self.progress["last_epoch"] = event.metrics()
        elif isinstance(event, events.Started):
            self.attempt.data_fingerprint = event.data_fingerprint
            self._put(*self.job.attempt_bytes(self.attempt))
        self._emit(event)

    def _upload(self, folder: Path) -> None:
        self._send_metrics(folder.parent.parent)  # first: who resumes from a checkpoint finds the history up to it
        assert self.outbox is not None
        try:
            stored = self.job.post_checkpoint(folder, self.attempt, self.outbox)
        except (DamagedCheckpoint, FileNotFoundError):  # pruned by the trainer already: a newer one is on its way
            return
        self.posted.append(stored)
        self.progress["local_step"] = stored.manifest.step
        # When sending is slow, what the retention rule would delete at once is not sent at all: the backlog stays bounded.
        for old, keep in zip(self.posted, to_keep([s.manifest for s in self.posted], self.config.checkpoint.keep_last)):
            if not keep:
                self.outbox.drop([self.job.key("checkpoints", old.name, name) for name in (*old.manifest.files, MANIFEST)])
        self.posted = [s for s in self.posted if s.manifest.step >= self.synced_step]

    def _sent(self, key: str) -> None:
        """On the outbox's thread: a checkpoint is whole in the store once its manifest is there."""
        if key.endswith(f"/{MANIFEST}"):
            step = int(key.split("/")[2].split("-")[0].rstrip("e"))
            self.synced_step = max(step, self.synced_step)
            self.progress["synced_step"] = self.synced_step
            self.unpruned = True
        if self.unpruned and not self.superseded and key.endswith((f"/{MANIFEST}", f"/{ATTEMPT_RECORD}")):
            with contextlib.suppress(StoreError):  # the next one comes to it, or the record of the end
                self.job.prune_checkpoints(self.config.checkpoint.keep_last, self.attempt)
                self.unpruned = False

    def _hear(self, kind: str, line: str | None) -> bool:
        """What the heart or the outbox has to say; False for the trainer's own words."""
        if kind == "note":
            self._say(line or "", "warning")
        elif kind == "heard" and line == "superseded":
            self.superseded = True
            self._ask(Reason.LEASE_LOST)
            self._kill_trainer()
        elif kind == "heard":
            self._say("asked to stop from another terminal or machine")
            self._ask(Reason.STOP_REQUESTED)
            if line == "stop now":
                self._kill_trainer()
        return kind in ("note", "heard")

    def _verdict(self, code: int) -> tuple[Reason, str]:
        """Why it ended, from what was asked, what the trainer said and how its process ended."""
        if self.ended is not None:
            name = _TRAINER_REASONS.get(self.ended.reason, self.ended.reason)
            reason = Reason(name) if name in Reason._value2member_map_ else Reason.TRAINER_ERROR
            stopped = reason in (Reason.INTERRUPTED, Reason.PREEMPTED, Reason.TIME_LIMIT, Reason.LEASE_LOST)
            if stopped and self.asked is not None:
                reason = self.asked
            return reason, self.ended.message
        if self.asked is not None and code < 0:
            return self.asked, "the trainer was ended before it could save; the last checkpoint stands"
        if code == -signal.SIGKILL and machine.memory_kills() > self.memory_kills:
            return Reason.OUT_OF_MEMORY, "the system ended the trainer: the memory that it may take ran out"
        if code < 0:
            name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
            hint = " (by the system, when memory runs out, or by hand)" if code == -signal.SIGKILL else ""
            hint = " (shared memory ran out? raise run.shm_size)" if code == -signal.SIGBUS else hint
            return Reason.TRAINER_ERROR, f"the trainer was ended by {name}{hint}"
        return Reason.TRAINER_ERROR, self.last_error or f"the trainer ended with code {code} and no word"

    # --- stopping -----------------------------------------------------------------------------------------------------

    def _take_signals(self) -> None:
        def interrupt(signum: int, frame: FrameType | None) -> None:
            if self.interrupted:
                self._kill_trainer()
                os.write(2, b"left without saving; the last checkpoint stands\n")
                os._exit(Exit.INTERRUPTED_TWICE)
            self.interrupted = True  # who was asked to stop in another way has not been told of a second one
            self._ask(Reason.INTERRUPTED)
            self.lines.put(("note", "stopping: saving a checkpoint first (Ctrl-C again to leave without)"))

        signal.signal(signal.SIGINT, interrupt)
        for signum in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(signum, lambda *_: self._ask(Reason.PREEMPTED))

    def _ask(self, reason: Reason) -> None:
        """Ask the trainer to save and leave."""
        if self.asked is None:
            self.asked, self.asked_at = reason, time.monotonic()
            if self.trainer is not None and self.trainer.poll() is None:
                self.trainer.send_signal(signal.SIGTERM)

    def _kill_trainer(self) -> None:
        if self.trainer is not None and self.trainer.poll() is None:
            self.trainer.kill()
            self.trainer.wait()

    # --- keeping the store up to date -----------------------------------------------------------------------------------

    def _tick(self, out: Path) -> None:
        now = time.monotonic()
        self._look_at_limit()
        overdue = self.asked is not None and now - self.asked_at > STOP_PATIENCE_SECONDS
        if overdue and self.trainer is not None and self.trainer.poll() is None:
            self._say(f"the trainer did not stop within {STOP_PATIENCE_SECONDS:.0f} s and was ended", "warning")
            self.trainer.kill()
        if now >= self.next_beat:
            self.next_beat = now + HEARTBEAT_SECONDS
            self._look_at_lag(self.outbox.lag_seconds if self.outbox else 0.0)
            self._send_metrics(out)
            self._send_log()
        if now >= self.next_events:
            self.next_events = now + EVENTS_SECONDS
            self._send_events(out)

    def _look_at_limit(self) -> None:
        limit = self.config.hardware.session_limit
        if limit is not None and time.monotonic() - self.began >= limit - self.config.hardware.stop_margin:
            self._ask(Reason.TIME_LIMIT)

    def _look_at_lag(self, lag: float) -> None:
        self.progress["lag_seconds"] = round(lag, 1)
        if lag > LAG_WARNING_SECONDS and not self.late:
            self._say(f"uploads lag by {seconds_text(lag)}; training goes on, the store has step {self.synced_step}", "warning")
        self.late = lag > LAG_WARNING_SECONDS

    def _send_metrics(self, out: Path) -> None:
        if self.metrics_changed and (out / "metrics.jsonl").exists():
            self.metrics_changed = False
            self._put(self.job.key("attempts", self.attempt.id, "metrics.jsonl"), (out / "metrics.jsonl").read_bytes())

    def _send_log(self) -> None:
        if self.log:
            lines, self.log = self.log, []
            self.log_segment += 1
            key = self.job.key("attempts", self.attempt.id, "log", f"{self.log_segment:06d}.txt")
            self._put(key, "".join(lines).encode())

    def _send_events(self, out: Path) -> None:
        for path in sorted((out / "events").glob("*")):
            size = path.stat().st_size
            if self.events_sent.get(path.name) != size:
                self._put(self.job.key("attempts", self.attempt.id, "events", path.name), path.read_bytes())
                self.events_sent[path.name] = size

    def _put(self, key: str, data: bytes) -> None:
        if self.outbox is not None:
            self.outbox.put(key, data)

    def _finish(self, reason: Reason, message: str) -> Reason:
        """Write how it ended, and wait until the store has it all."""
        attempt = self.attempt
        attempt.phase, attempt.ended_at, attempt.reason, attempt.message = "ended", time.time(), reason.value, message
        if self.ended is not None:
            attempt.scores = {name: getattr(self.ended, name) for name in _RESULT_FIELDS}
            attempt.scores["epoch"] = self.progress.get("last_epoch", {}).get("epoch", attempt.resumed_epoch)
        self._emit(self.ended if self.ended and self.ended.reason == reason.value else Message(f"{reason.value}: {message}"))
        if self.superseded or self.outbox is None:
            return reason
        try:
            self._send_log()
            self._put(*self.job.attempt_bytes(attempt))
        except OSError as error:
            self.sink.emit(Message(f"{error.filename}: {error.strerror}", "warning"))
            with contextlib.suppress(StoreError):  # no room for it in the outbox; the store itself may have some
                self.job.write_attempt(attempt)
        seconds = self._drain_seconds(reason)
        if not self.outbox.drain(0.5):
            self.sink.emit(Message(f"waiting for uploads, {seconds_text(seconds)} at the most"))
        if self.outbox.drain(seconds):  # also when all was sent: the last pruning may be under way
            return reason
        left = f"the store does not have all of it ({self.outbox.error or 'too slow'}); the rest is in {self.outbox.folder}"
        if attempt.container and "scratch" not in attempt.container:  # on another machine, in a volume of its engine
            way = f" in the engine's volume: lastrun resume {self.job.reference} with the same engine sends it and goes on"
        else:
            way = f": lastrun sync {self.job.reference} --from {self.outbox.folder} sends it"
        self.sink.emit(Message(left + way, "warning"))
        return Reason.STORE_UNREACHABLE

    def _drain_seconds(self, reason: Reason) -> float:
        """How long the end may wait for the network: a spot machine is gone after 30 s, a session at its limit."""
        if self.outbox is not None and self.outbox.lasting:
            return 5.0
        if reason is Reason.PREEMPTED:
            return max(5.0, PREEMPTED_SECONDS - (time.monotonic() - self.asked_at))
        if reason is Reason.TIME_LIMIT:
            return max(5.0, self.config.hardware.stop_margin - (time.monotonic() - self.asked_at) - 10.0)
        return WAITS.drain

    # --- telling --------------------------------------------------------------------------------------------------------

    def _say(self, text: str, level: str = "info", plain: bool = False) -> None:
        self.log.append(f"{_now()} {text}\n")
        self.sink.emit(Message(text, "info" if plain else level))

    def _emit(self, event: events.Event) -> None:
        self.sink.emit(event)
        text = describe(event)
        if text is not None and not isinstance(event, events.Progress):
            self.log.append(f"{_now()} {text}\n")


def _disk_full(error: BaseException | None) -> bool:
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
