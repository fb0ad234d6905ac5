"""Runs one attempt of a job on the machine it is on: claim, fetch, train as a child, keep the store up to date, end."""

from __future__ import annotations

import errno
import json
import queue
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

from last_e import events
from last_e.choosing import chosen_by
from last_e.console import ConsoleSink
from last_e.datafile import is_remote
from last_e.environment import detect_environment
from last_e.events import NOT_BEGUN, Message, parse_event
from last_e.layers import Resolved
from last_e.manifest import MOST_FILE_BYTES, read_manifest, sha256
from runner import machine
from runner.attempt import shutdown
from runner.attempt.data_cache import fetch_data
from runner.attempt.leaving import Leaving
from runner.attempt.leftovers import clear_leftovers
from runner.attempt.moves import Moves
from runner.attempt.nodes import further_nodes
from runner.attempt.outbox import waiting
from runner.attempt.publish import Publisher
from runner.attempt.report import KeptReport, MakeReport
from runner.attempt.restarts import Restarts
from runner.attempt.scratch import OUTBOX, make_scratch, remove_scratch, scratch_root
from runner.attempt.telling import tell_of_end, unset
from runner.attempt.tracked import start_tracking
from runner.attempt.trainer import PIPES, Inbox, Trainer, trainer_command, trainer_config
from runner.attempt.voice import Voice
from runner.errors import (
    LOST,
    DamagedObjectError,
    Exit,
    LastrunError,
    MissingKeyError,
    PausedError,
    Reason,
    StoreError,
    UsageError,
)
from runner.gpus import Asked, taken
from runner.job.attempts import Attempt
from runner.job.checkpoints import Stored
from runner.job.job import Job
from runner.job.lease import Heart, LastLook, claim, what_is_lost
from runner.resolve import resolve_attempt
from runner.spec import JobSpec
from runner.trust import Trust, see_that_it_is_taken
from runner.waits import WAITS

_RESULT_FIELDS = ("test_top1", "test_top5", "best_top1", "best_epoch", "step", "total_steps")
_OF_SOME_RUNS = ("validation_top1", "early_stop_epoch")


def run_attempt(
    job: Job,
    env: str | None,
    settings: Iterable[str],
    allow_change: Iterable[str],
    sink: ConsoleSink,
    takeover: bool = False,
    launcher: str | None = None,
    token: str | None = None,
    here: bool = False,
    trusted: Iterable[str] = (),
    heard: Iterable[str] | None = None,
    until: int | None = None,
    may_shut_down: bool = False,
    report: MakeReport | None = None,
) -> Exit:
    """Run one attempt to its end; returns its exit code. ``heard``: keys of the requests that had been made when it was handed
    over to what has started it now; later ones are meant for it. ``until``: it pauses once this epoch is done.
    ``may_shut_down``: whoever has begun it has said that ``run.after`` may switch this machine off. ``report`` makes the page
    that is kept of the job when the attempt ends.

    Raises:
        ConfigError, NoSuchJobError, ClaimedError, PausedError, StoreError: the attempt could not begin.
    """
    # Requests before the claim: from then on a stop may be meant for this attempt.
    _, known, requests = job.store.in_parallel([job.record, job.attempts.all, job.requests.keys])
    config, origins, changed_before = job.settings(known)
    allow_change = list(allow_change)
    trust = Trust(job.store.uri, trusted)
    resolved, changed = resolve_attempt(
        config, origins, env, settings, allow_change, launcher, takes=trust.takes, options=trust.options
    )
    see_that_it_is_taken(resolved, trust)
    if job.attempts.completed(known) and not allow_change:
        raise UsageError(f"{job.id} is complete; lastrun status {job.reference} shows its result")
    resolved.notes.extend([*machine.see_that_it_fits(resolved.env, here), *unset(resolved.config.notify)])
    root = scratch_root(resolved)
    about = machine.container() or {}
    shuts_down = (
        may_shut_down and resolved.config.run.after == "shutdown" and about.get("launcher", "local") in ("local", "ssh")
    )
    shuts_down = shuts_down and "engine" not in about and "relay" not in about
    if shuts_down:
        resolved.notes.append(
            "run.after: this machine is switched off a minute after the attempt has ended, unless somebody stops it, something "
            "is left here to be sent, or another attempt of yours is at work here"
        )
    nodes = further_nodes(resolved.config)
    with taken(Asked.of(resolved.config), job.id) as gpus:
        inbox: Inbox = queue.Queue()
        trainer = Trainer(inbox, gpus)
        leaving = Leaving(resolved.config.hardware, trainer, inbox)
        leaving.take_signals()  # before the claim: who is killed over that would be lost
        known_as = token or about.get("token")
        attempt = claim(job, takeover, known_as, known, stop=lambda: leaving.reason is not None)
        attempt.env, attempt.hardware, attempt.versions = detect_environment()[0], machine.describe(), machine.versions()
        attempt.epochs, attempt.is_continued = resolved.config.training.epochs, resolved.config.run.auto_continue > 0
        if gpus:
            attempt.hardware["used_gpus"] = gpus
        if nodes:
            attempt.hardware["further_nodes"] = nodes
        attempt.changes = [asdict(change) for change in changed]
        # A checkpoint from before an earlier change is gone on from with that change.
        old = set(requests if heard is None else heard)
        tracked = start_tracking(job, resolved.config, sink, lambda words: inbox.put(("note", words)))
        voice = Voice(sink, None if tracked is None else tracked.hear)
        allowed = [*allow_change, *changed_before]
        run = _Run(job, attempt, resolved, allowed, voice, root, old, inbox, trainer, leaving, until, report)
        reason = run.to_its_end()
    if tracked is not None and run.lost is not None:
        tracked.kill()  # what became of the job is for who has it to say
    elif tracked is not None and (late := tracked.end(reason, leaving)):
        voice.show(late, "warning")
    if shuts_down:
        if (why := shutdown.why_not(reason, root)) is None:
            shutdown.shut_down(run.voice.show)
        else:
            run.voice.show(f"this machine stays on, though run.after says shutdown: {why}")
    return Exit.INTERRUPTED_TWICE if leaving.in_haste else reason.ending.exit_code


class _Run:
    """The attempt while it runs. The main thread decides; others read the trainer's pipes, send the outbox, and beat: what they
    have to say comes through the inbox."""

    def __init__(
        self,
        job: Job,
        attempt: Attempt,
        resolved: Resolved[JobSpec],
        allow_change: list[str],
        voice: Voice,
        scratch_root: Path,
        old_requests: set[str],
        inbox: Inbox,
        trainer: Trainer,
        leaving: Leaving,
        until: int | None,
        report: MakeReport | None,
    ) -> None:
        self.until, self.make_report = until, report
        self.job, self.attempt, self.config = job, attempt, resolved.config
        self.allow_change, self.notes, self.scratch_root = allow_change, resolved.notes, scratch_root
        self.inbox, self.trainer, self.leaving, self.voice = inbox, trainer, leaving, voice
        self.progress: dict[str, Any] = {}
        self.publisher: Publisher | None = None
        self.data: Path | None = None
        self.lost: Reason | None = None
        self.heart = Heart(job, attempt, old_requests, self._beat, lambda *words: self.inbox.put(words))
        self._told_that_it_leaves, self._moves = False, Moves()
        self._look: LastLook | None = None
        voice.shows(partial(_standing, self.progress, job, attempt, leaving))

    def to_its_end(self) -> Reason:
        """Train, publish, write how it ended."""
        scratch: Path | None = None
        self.heart.start()
        try:
            clear_leftovers(self.job, self.scratch_root, self.voice.say)
            scratch = make_scratch(self.job, self.attempt.id, self.scratch_root)
            self.publisher = Publisher(
                self.job,
                self.attempt,
                self.config.checkpoint.keep_last,
                scratch,
                self.progress,
                self.voice,
                note=lambda word: self.inbox.put(("note", word)),
                lost=lambda reason: self.inbox.put(("heard", reason.value)),
            )
            for note in self.notes:
                self.voice.say(note)
            reason, message = self._train(scratch, self.publisher)
        except (StoreError, OSError) as error:
            reason, message = what_broke(error, self.scratch_root)
        finally:
            self.trainer.kill()
        look = self._look or LastLook(self.job, self.attempt)
        if lost := look.answer(lambda: time.monotonic() < self.leaving.haste_until):
            self._lose(lost)
        if self.lost is not None:
            reason, message = self.lost, self._what_is_lost(self.lost)
        reason = self._finish(reason, message)
        if self.lost is None:
            tell_of_end(self.job, self.attempt, reason, self.config.notify, self.publisher, self.voice, self.leaving)
        self.heart.stop()
        if self.publisher is not None:
            self.publisher.outbox.close()
        with suppress(StoreError):  # nobody has looked while the last uploads were on their way
            if self.lost is not Reason.JOB_DELETED and self.job.is_deleted():
                self._lose(reason := Reason.JOB_DELETED)
                self.voice.show(f"{reason.value}: {self._what_is_lost(reason)}")
        tidy_up(self.job, self.heart, self.lost, scratch)
        return reason

    # --- training ---------------------------------------------------------------------------------------------------

    def _train(self, scratch: Path, publisher: Publisher) -> tuple[Reason, str]:
        """Train from the newest checkpoint that the trainer can make something of."""
        self.data, wrong = find_data(self.config, self.attempt, self.voice, self._stop_while_waiting)
        if wrong is not None:
            reason, message = wrong
            return (self.leaving.reason or reason) if reason is Reason.INTERRUPTED else reason, message
        found = self.job.checkpoints.sweep(self.attempt, partial(self.voice.say, level="warning"))
        self.attempt.inherited = [stored.name for stored in found]
        bad: set[str] = set()
        restarts = Restarts(self.config.run.max_restarts, scratch)
        while True:
            self.trainer.ended = self._look = None
            usable = [stored for stored in found if stored.name not in bad]
            reason, message = self._train_once(scratch, publisher, usable, restarts.own)
            ended = self.trainer.ended and self.trainer.ended.reason
            if reason is Reason.RANK_LOST and self.leaving.reason is None:
                again = restarts.after(message, self.attempt, begun=ended != NOT_BEGUN)
                if again.goes_on:
                    again.begin(self.voice, self._stop_while_waiting)
                    continue
                message = again.message
            if ended != "checkpoint_damaged" or self.attempt.resumed_from is None or restarts.own is not None:
                return reason, message
            bad.add(self.attempt.resumed_from)
            self.job.checkpoints.pass_over(self.attempt.resumed_from)
            self.voice.say(f"skipping checkpoint {self.attempt.resumed_from}: {message}", "warning")
            self.attempt.resumed_from, self.attempt.resumed_step, self.attempt.resumed_epoch = None, 0, 0

    def _stop_while_waiting(self) -> bool:
        """Before there is a trainer: hear what other threads have to say, look at the clock; whether to stop."""
        while not self.inbox.empty():
            self._hear(*self.inbox.get())
        self.leaving.look_at_limit()
        return self.leaving.reason is not None

    def _train_once(self, scratch: Path, publisher: Publisher, usable: list[Stored], own: Path | None) -> tuple[Reason, str]:
        """From the newest checkpoint of the store, or from one of this attempt's ``own``."""
        warn = partial(self.voice.say, level="warning")
        fetched = None if own is not None else self.job.checkpoints.fetch_newest(usable, scratch / "from", warn)
        if fetched is not None:
            _, stored = fetched
            self.attempt.resumed_from = stored.name
            self.attempt.resumed_step, self.attempt.resumed_epoch = stored.manifest.step, stored.manifest.epoch
            where = f"epoch {stored.manifest.epoch}, step {stored.manifest.step}"
            self.voice.say(f"going on from checkpoint {stored.name} ({where})")
            self._look_at_epoch(stored.manifest.epoch)
        elif own is None and self.attempt.number > 1:
            self.voice.say("no whole checkpoint yet: beginning at step 0")
        if own is None:
            self.job.attempts.write(self.attempt)
        config = scratch / "config.json"
        config.write_text(json.dumps(trainer_config(self.config, self.attempt, self.data)))
        if self.leaving.reason is not None:  # stopped before there was anything to stop
            return self.leaving.reason, "nothing was trained" if own is None else f"saved at step {read_manifest(own).step}"
        resume = own if fetched is None else fetched[0]
        init, wrong = (None, None) if resume else first_weights(self.job, self.config.model.init_sha256, scratch)
        if wrong is not None:
            return Reason.DATA_ERROR, wrong
        nodes = self.attempt.hardware.get("further_nodes", [])
        self.trainer.start(trainer_command(config, scratch / "run", resume, self.allow_change, nodes, init))
        if self.leaving.reason is not None:  # asked while it was being started
            self.trainer.ask_to_save()
        open_pipes = len(PIPES)
        while open_pipes:
            try:
                kind, line = self.inbox.get(timeout=0.2)
                if self._hear(kind, line):
                    continue
            except queue.Empty:
                self._tick(publisher)
                continue
            if line is None:
                open_pipes -= 1
            else:
                self._handle(kind, line, publisher)
            self._tick(publisher)
        return self.trainer.verdict(self.leaving.reason, saved=resume is not None or "local_step" in self.progress)

    def _handle(self, kind: str, line: str, publisher: Publisher) -> None:
        """A line of the trainer's."""
        event = parse_event(line) if kind == "event" else None
        if event is None:
            self.trainer.last_error = line.strip() or self.trainer.last_error
            self.voice.say(line)
            return
        if isinstance(event, events.Ended):
            self.trainer.ended = event
            self._look = LastLook(self.job, self.attempt)
            return
        if isinstance(event, events.Progress):
            event = replace(event, session_seconds_left=self.leaving.seconds_left)
            self.progress.update(json.loads(event.to_json()))
            self._moves.hear(event)
        elif isinstance(event, events.CheckpointSaved):
            publisher.checkpoint(Path(event.path))
        elif isinstance(event, events.EpochDone):
            publisher.epoch(event.metrics())
            self._look_at_epoch(event.epoch)
        elif isinstance(event, events.Started):
            self.attempt.data_fingerprint = event.data_fingerprint
            self._begin_at(event.step / event.steps_per_epoch)
            publisher.record()
        self.voice.tell(event)

    def _begin_at(self, epoch: float) -> None:
        """Of trainers that one attempt starts the first begins earliest, or goes on from a damaged checkpoint."""
        self.attempt.from_epoch = epoch if self.attempt.from_epoch is None else min(epoch, self.attempt.from_epoch)

    def _look_at_epoch(self, done: int) -> None:
        if self.until is not None and done >= self.until:
            self.leaving.ask(Reason.EPOCH_REACHED)

    def _hear(self, kind: str, line: str | None) -> bool:
        """What the heart or the outbox has to say; False for the trainer's own words."""
        if kind == "note":
            self.voice.say(line or "", "warning")
        elif kind == "heard" and line in [reason.value for reason in LOST]:
            self._lose(Reason(line))
            self.leaving.ask(Reason(line))
            self.trainer.kill()
        elif kind == "heard" and line == "record":
            if self.publisher is not None:
                self.publisher.record()
        elif kind == "heard":
            self.leaving.ask(Reason.STOP_REQUESTED)  # before it is said: who reads it and presses Ctrl-C comes second
            self.voice.say("asked to stop from another terminal or machine")
            if line == "stop now":
                self.trainer.kill()
        return kind in ("note", "heard")

    def _lose(self, reason: Reason) -> None:
        """This attempt has the job no more: nothing more is sent."""
        self.lost = reason
        if self.publisher is not None:
            self.publisher.lost = reason

    def _what_is_lost(self, reason: Reason) -> str:
        return what_is_lost(self.job, self.attempt, self.progress.get("step", 0), reason)

    def _beat(self) -> dict[str, Any]:
        """What a heartbeat tells."""
        reason, idle = self.leaving.reason, self._moves.idle_seconds
        return {**self.progress, "stopping": None if reason is None else reason.value, "idle_seconds": idle}

    def _tick(self, publisher: Publisher) -> None:
        self.leaving.look_at_limit()
        if self.leaving.reason is not None and not self._told_that_it_leaves:
            self._told_that_it_leaves = True
            self.heart.beat_soon()
        self.leaving.end_what_is_overdue(self.voice.say)
        publisher.tick()

    # --- ending -------------------------------------------------------------------------------------------------------

    def _finish(self, reason: Reason, message: str) -> Reason:
        """Write how it ended, and wait until the store has it all."""
        attempt, ended = self.attempt, self.trainer.ended
        attempt.phase, attempt.ended_at, attempt.reason, attempt.message = "ended", time.time(), reason.value, message
        attempt.scores = scores_at_the_end(ended, self.progress, attempt.resumed_epoch)
        self.voice.tell(ended if ended and ended.reason == reason.value else Message(f"{reason.value}: {message}"))
        if self.lost is not None or self.publisher is None:
            if self.lost is not Reason.JOB_DELETED:
                with suppress(StoreError):  # who looks later need not wait for its heart
                    self.job.attempts.write(attempt)
            return reason
        report = KeptReport(self.job, self.publisher.own(), None if self.leaving.in_haste else self.make_report)
        write_end(self.publisher, self.job, attempt, self.voice)
        lasting = self.publisher.outbox.lasting  # what the store refuses it will refuse again
        until = time.monotonic() + (5.0 if lasting else self.leaving.drain_seconds(reason))
        left = self.publisher.drain(lambda: min(until, self.leaving.haste_until) - time.monotonic())
        told = report.wait(0.0 if left or self.publisher.lost else min(until, self.leaving.haste_until))
        if lost := self.publisher.lost:  # seen before something was sent
            self._lose(lost)
            self.voice.show(f"{lost.value}: {self._what_is_lost(lost)}")
            return lost
        if left is None:
            self.publisher.last_word(told)
            return reason
        self.voice.show(left, "warning")
        return Reason.STORE_UNREACHABLE


def _standing(progress: dict[str, Any], job: Job, attempt: Attempt, leaving: Leaving) -> dict[str, Any]:
    """What a view shows of an attempt beside what its trainer tells; on another thread."""
    note = f"attempt {attempt.number}" if leaving.reason is None else f"stopping: {leaving.reason.value}"
    return {**progress, "name": job.id, "note": note}


def write_end(publisher: Publisher, job: Job, attempt: Attempt, voice: Voice) -> None:
    """Into the outbox; where that has no room, the store itself may have some."""
    try:
        publisher.end()
    except OSError as error:
        voice.show(f"{error.filename}: {error.strerror}", "warning")
        with suppress(StoreError):
            job.attempts.write(attempt)


def find_data(
    config: JobSpec, attempt: Attempt, voice: Voice, stop: Callable[[], bool]
) -> tuple[Path | None, tuple[Reason, str] | None]:
    """The data file, where it is not where the configuration says; or why there is none. ``stop`` ends the waiting for it."""
    if mounted := (attempt.container or {}).get("data"):
        return Path(mounted), None
    if not is_remote(config.data.uri):
        return None, None
    # What the job says of the server of its store holds for its data, too; the data's own URI wins.
    options = config.store.model_dump(exclude={"uri"})
    try:
        return fetch_data(str(config.data.uri), options=options, say=voice.say, stop=stop, watch=voice.work_bytes), None
    except PausedError as error:
        return None, (Reason.INTERRUPTED, str(error))
    except (MissingKeyError, DamagedObjectError, UsageError) as error:
        return None, (Reason.DATA_ERROR, str(error))
    except StoreError:
        raise
    except LastrunError as error:  # no room in the cache
        return None, (Reason.OUT_OF_DISK, str(error))


def first_weights(job: Job, digest: str | None, folder: Path) -> tuple[Path | None, str | None]:
    """The weights that a job begins with, if it has some, brought into a folder; or why they are not there."""
    if digest is None:
        return None, None
    path = folder / "init.safetensors"
    try:
        job.store.get_file(job.paths.init, path, most=MOST_FILE_BYTES)
    except MissingKeyError:
        return None, f"{job.uri}: the weights that it begins with (model.init) are not kept with it"
    except DamagedObjectError as error:
        return None, str(error)
    if sha256(path) != digest:
        return None, f"{job.uri}: the weights that it begins with (model.init) are not what was kept"
    return path, None


def scores_at_the_end(ended: events.Ended | None, progress: dict[str, Any], resumed_epoch: int) -> dict[str, float | None]:
    """What the record of an attempt's end says of how far it came: the trainer's last word, else what was heard of it before.
    That knows only this attempt's own epochs, and so no ``best_epoch`` of the job."""
    last, best = progress.get("last_epoch", {}), progress.get("best", {})
    if ended is not None and ended.total_steps:  # else it ended without knowing, as when a rank was killed
        some = {name: value for name in _OF_SOME_RUNS if (value := getattr(ended, name)) is not None}
        return {**{name: getattr(ended, name) for name in _RESULT_FIELDS}, **some, "epoch": last.get("epoch", resumed_epoch)}
    heard = {
        "test_top1": last.get("test_top1"),
        "test_top5": last.get("test_top5"),
        "validation_top1": last.get("validation_top1"),
        "best_top1": chosen_by(best) if best else None,
        "step": progress.get("local_step"),  # later ones went with the trainer, and are no progress
        "total_steps": progress.get("total_steps"),
        "epoch": last.get("epoch"),
    }
    return {name: value for name, value in heard.items() if value is not None}


def what_broke(error: StoreError | OSError, scratch_root: Path) -> tuple[Reason, str]:
    """Why an attempt ends that a store, or the disk below ``scratch_root``, failed."""
    if isinstance(error, StoreError):
        return (Reason.OUT_OF_DISK if _disk_full(error.__cause__) else Reason.STORE_UNREACHABLE), str(error)
    reason = Reason.OUT_OF_DISK if _disk_full(error) else Reason.TRAINER_ERROR
    return reason, f"{error.filename or scratch_root}: {error.strerror or error}"


def tidy_up(job: Job, heart: Heart, lost: Reason | None, scratch: Path | None) -> None:
    """After the end: delete what was written of a job that somebody had deleted, and the attempt's folder, unless something in
    it has still to be sent."""
    if lost is Reason.JOB_DELETED:
        heart.join(WAITS.read)  # it writes no more
        with suppress(StoreError):
            job.forget()
    if scratch is not None and (lost is not None or not waiting(scratch / OUTBOX)):
        remove_scratch(scratch)


def _disk_full(error: BaseException | None) -> bool:
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
