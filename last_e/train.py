"""Training, top to bottom: set up, go through the epochs, stop when asked, say how it ended."""

from __future__ import annotations

import errno
import json
import math
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch

from last_e import checkpoint
from last_e.choosing import CHOSEN_ON_TEST
from last_e.config import TrainConfig, effective_batch
from last_e.data.batches import TestBatches, TrainBatches
from last_e.data.datasets import load_clips
from last_e.described import DESCRIPTION
from last_e.evaluate import Scores, evaluate, keep_predictions
from last_e.events import Beat, CheckpointSaved, Ended, EpochDone, Message, Progress, Sink, Started
from last_e.gpu import Usage
from last_e.graphs import Graphs, graphs_for
from last_e.manifest import Manifest
from last_e.metrics import History
from last_e.model.network import LastE
from last_e.optim import build_optimizer
from last_e.points import Points
from last_e.precision import Precision, choose_device, choose_precision
from last_e.predictions import FILE as PREDICTIONS
from last_e.ranks.group import ALONE, Group, Joined, Seat
from last_e.ranks.lifeline import beat
from last_e.schedule import learning_rate
from last_e.set_up import batches_of, begin_with_weights, class_weights, load_kernels, load_loops, set_up_torch
from last_e.smooth import Smooth
from last_e.state import Reading, State
from last_e.step import train_step
from last_e.stop import REASONS, Stop
from last_e.text import counted, percent

_LOOK_EVERY = 16
"""Steps after which all ranks look at what a GPU has counted, so that all see at the same one that training diverges."""


class DataChanged(RuntimeError):
    """The data set is not the one that the run began with."""


def run(
    config: TrainConfig,
    out: Path,
    resume: Path | None,
    sink: Sink,
    stop: Stop,
    new_data: bool = False,
    seat: Seat | None = None,
    init: Path | None = None,
    board: bool = False,
) -> Ended:
    """Train as ``config`` says, writing below ``out``; go on from the checkpoint ``resume`` where one is given.

    ``init`` has the weights of ``model.init``, for a run that goes on from no checkpoint. ``new_data`` lets a run go on with
    other clips than it began with. With a ``seat`` this process is one of several ranks; the first one writes. ``board``: it
    writes files for TensorBoard, too.

    Raises:
        DataError, DamagedCheckpoint, DataChanged, NoGpu: before anything was written.
        PeerGone, RanksDiffer: of a rank.
    """
    device, why = choose_device(config.hardware, seat.rank if seat else 0)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    group: Group = ALONE
    if seat:
        group = joined = Joined(seat)
        beat(sink, lambda: Beat(joined.entered, *joined.done, waits=joined.waits))
        joined.meet(device)
    precision = choose_precision(config, device)
    workers = set_up_torch(config, device, sink, group.here)
    load_loops(config, device, sink)
    load_kernels(config, device, precision.dtype, sink, group)
    sink.emit(Message(f"device: {device.type} ({why}); precision: {precision.reason}"))

    clips = load_clips(config)
    fingerprint = clips.fingerprint()
    train, scored, last = batches_of(clips, config, device, workers, sink, group)

    torch.manual_seed(config.training.seed)
    model = LastE(config.model, config.data.num_classes, clips.skeleton).to(device)
    begin_with_weights(model, config, clips.description, init, resume, sink)
    state = State(
        model,
        build_optimizer(model, config.training),
        torch.amp.GradScaler(device.type, enabled=precision.scaled),
        class_weights=class_weights(config, clips, train, device),
        keeps_best=last is not None,
        ema=config.training.ema,
        chosen_on=None if last is None else sha256(scored.index.numpy().tobytes()).hexdigest(),
    )
    if resume is not None:
        stored, about = checkpoint.load(resume)
        if stored.get("data") != fingerprint and not new_data:
            told = "the clips are not those that the run began with (their sha256 differs)"
            raise DataChanged(f"{config.dataset}: {told}; name the file that it had, or add --allow-change data")
        warning = state.restore(stored)
        if warning is not None:
            sink.emit(Message(warning, "warning"))
        if stored.get("steps_per_epoch") != train.steps:
            # Another batch was allowed: steps have another length now, so the epoch that was begun begins anew.
            state.step, state.evaluated = about.epoch * train.steps, True
            sink.emit(
                Message(
                    f"an epoch has {train.steps} steps now: going on from the beginning of epoch {about.epoch + 1}", "warning"
                )
            )

        _see_that_it_is_scored(state, train.steps, config, last is not None)

    if isinstance(group, Joined):
        kind = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
        same = (fingerprint, precision.reason, kind, torch.__version__)
        group.see_that_all_have(state.digest(*same))

    # From here on nothing is restored any more, so that steps may be recorded.
    graphs = graphs_for(state, train, config, precision, group, lambda text: sink.emit(Message(text)))

    def saved(path: Path, about: Manifest) -> None:
        sink.emit(CheckpointSaved(str(path), about.step, about.epoch))

    if group.rank:
        return Session(
            config, state, train, scored, last, device, precision, sink, stop, None, None, fingerprint, group, graphs
        ).run()
    writer = checkpoint.Writer(out / "checkpoints", config.checkpoint.keep_last, saved)
    try:
        out.mkdir(exist_ok=True)
        room, free = (config.checkpoint.keep_last + 1) * state.nbytes(), shutil.disk_usage(out).free
        if free < room:
            text = (
                f"{out} has {free / 2**20:.1f} MiB free; {config.checkpoint.keep_last} + 1 checkpoints need {room / 2**20:.1f}"
            )
            return session_end(state, "out_of_disk", f"{text} (checkpoint.keep_last)", config, train.steps)
        history = History(out, _epochs_done(state, train.steps), state.step, train.steps, sink, board)
        sink.emit(
            Started(
                model=config.model.variant,
                parameters=sum(p.numel() for p in model.parameters()),
                dataset=config.dataset,
                split=config.split_type,
                train_clips=len(train.index),
                test_clips=len((last or scored).index),
                epochs=config.training.epochs,
                steps_per_epoch=train.steps,
                step=state.step,
                device=f"{device.type} ({why})",
                precision=precision.reason,
                data_fingerprint=fingerprint,
                validation_clips=None if last is None else len(scored.index),
            )
        )
        session = Session(
            config, state, train, scored, last, device, precision, sink, stop, history, writer, fingerprint, group, graphs
        )
        try:
            return session.run()
        finally:
            history.close()
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        return session_end(
            state, "out_of_disk", f"no space left for {out}; what was saved before is whole", config, train.steps
        )
    finally:
        writer.close()


@dataclass
class Session:
    """One stretch of training on one machine, from wherever the state is."""

    config: TrainConfig
    state: State
    train: TrainBatches
    scored: TestBatches
    """After each epoch, to choose the best: clips that validate, where there are some, else those that test."""
    last: TestBatches | None
    """Where some validate: those that test, looked at once."""
    device: torch.device
    precision: Precision
    sink: Sink
    stop: Stop
    history: History | None
    """None, like the writer: another rank keeps it."""
    writer: checkpoint.Writer | None
    fingerprint: str
    group: Group = ALONE
    graphs: Graphs | None = None

    def __post_init__(self) -> None:
        self.saved_at: tuple[int, bool] | None = None
        self.skipped = 0
        self.saved_time = self.told_time = self.began = self.epoch_began = time.monotonic()
        self.smooth, self.test_seconds = Smooth(), 0.0
        self.usage = Usage(min(self.group.here, torch.cuda.device_count())) if self._shows_gpus else None
        self.began_step = self.state.step
        self.total_steps = self.train.steps * self.config.training.epochs
        self.points = None
        if self.history is not None:
            self.points = Points(self.config, self.state, self.train.steps, self.history, self.sink)
        self.config_json = json.dumps(self.config.model_dump(mode="json"), indent=1) + "\n"

    def run(self) -> Ended:
        """Epoch after epoch, until the end or until asked to stop."""
        state = self.state
        while not state.evaluated or (state.step < self.total_steps and not is_over(state, self.train.steps, self.config)):
            # At the end of an epoch that is trained but not yet tested, the epoch is the one before the step's.
            epoch = (state.step - (0 if state.evaluated else 1)) // self.train.steps
            epoch_began = time.monotonic()
            ended = self._train_epoch(epoch) or self._finish_epoch(epoch, epoch_began)
            if ended is not None:
                return ended
        self._written()
        return self._end("completed", result_of(state, self.train.steps, self.config))

    def _train_epoch(self, epoch: int) -> Ended | None:
        state, training = self.state, self.config.training
        first = state.step - epoch * self.train.steps
        if first == 0:
            state.new_epoch()
            state.tested = None  # of a run that was over, and goes on
        self.skipped = 0 if first == 0 else state.counters.read().totals.skipped
        self.epoch_began, self.epoch_began_step = time.monotonic(), state.step
        for step in _steps(self, epoch, first):
            if (reason := self._asked()) is not None:
                return self._stopped(reason)
            with self.group.work(self.train.own):
                step()
            state.step += 1
            state.evaluated = state.step % self.train.steps != 0
            if self.points is not None:
                self.points.mark()
            due = time.monotonic() - self.saved_time >= 60 * self.config.checkpoint.every_minutes
            # Looking means waiting for the device, so a GPU is asked once a second only.
            together = not state.evaluated or self.device.type == "cpu" or state.step % _LOOK_EVERY == 0
            if due or together or self._may_tell():
                counted = state.counters.read()
                self._keep_points()
                if counted.worst >= training.max_bad_steps and (together or self.group.size == 1):
                    self._written()
                    return self._end(
                        "diverged",
                        f"{counted.worst} steps in a row gave a loss or gradient that is not finite; the last good checkpoint "
                        f"is kept; try a lower training.lr, a longer training.warmup_epochs or training.use_amp=false",
                    )
                self._warn(counted.totals.skipped)
                self._tell(epoch, counted)
                if due and state.evaluated and counted.bad_in_a_row == 0:
                    self._save()
        return None

    def _keep_points(self, lasting: bool = False) -> None:
        if self.points is not None:
            self.points.keep(self._clips_per_second(), lasting=lasting)

    def _warn(self, skipped: int) -> None:
        if skipped > self.skipped:
            many = "step skipped" if skipped == self.skipped + 1 else f"{skipped - self.skipped} steps skipped by now"
            self.sink.emit(Message(f"step {self.state.step}: loss or gradient not finite, {many}", "warning"))
        self.skipped = skipped

    def _finish_epoch(self, epoch: int, began: float) -> Ended | None:
        state, totals, training = self.state, self.state.counters.read().totals, self.config.training
        self.test_seconds, averaged = 0.0, None
        if state.average is not None:
            with state.as_the_average():
                averaged = self._score(epoch, self.scored)
            if averaged is None:
                return self._stopped(self._asked() or "interrupted")
        scores = self._score(epoch, self.scored)
        if scores is None:
            return self._stopped(self._asked() or "interrupted")
        best, before = scores.top1 > state.best_top1, state.marks
        told = ("test" if self.last is None else "validation", self.scored, self.said) if best else None
        if best:
            state.best_top1, state.best_epoch = scores.top1, epoch + 1
            state.take_as_best()
        if training.patience is not None and scores.top1 > state.risen_top1 + (training.min_delta or 0.0):
            state.risen_top1, state.risen_epoch = scores.top1, epoch + 1
        state.last, state.evaluated = scores, True
        over = epoch + 1 == training.epochs or is_over(state, self.train.steps, self.config)
        if over and self.last is not None:
            with state.as_the_best():
                state.tested = self._score(epoch, self.last)
            if state.tested is None:  # all of the epoch's scores are found anew
                state.marks = before
                return self._stopped(self._asked() or "interrupted")
            told = ("test", self.last, self.said)
        test, validated = (scores, None) if self.last is None else (state.tested, scores)
        count = max(1, totals.clips)
        done = EpochDone(
            epoch=epoch + 1,
            epochs=training.epochs,
            step=state.step,
            lr=learning_rate(training, (state.step - 1) / self.train.steps),
            train_loss=totals.loss / count if totals.clips else None,
            train_top1=totals.hits / count if totals.clips else None,
            ib_loss=totals.ib_loss / count if totals.clips and self.config.model.use_ib_loss else None,
            test_loss=None if test is None else test.loss,
            test_top1=None if test is None else test.top1,
            test_top5=None if test is None else test.top5,
            skipped_steps=totals.skipped,
            best=best,
            seconds=time.monotonic() - began,
            validation_loss=None if validated is None else validated.loss,
            validation_top1=None if validated is None else validated.top1,
            validation_top5=None if validated is None else validated.top5,
            ema_loss=None if averaged is None else averaged.loss,
            ema_top1=None if averaged is None else averaged.top1,
            ema_top5=None if averaged is None else averaged.top5,
        )
        if self.history is not None:
            self.history.add(done)
        if told is not None and self.writer is not None:  # before its checkpoint: who has that has this too
            keep_predictions(self.writer.folder.with_name(PREDICTIONS), state.best_epoch, *told, self.config)
        self.sink.emit(done)
        milestone = (epoch + 1) % training.save_interval == 0 or over
        if best or milestone or (epoch + 1) % self.config.checkpoint.every_epochs == 0:
            self._save(milestone)
        return None

    def _save(self, milestone: bool = False) -> None:
        state = self.state
        at_end = state.step > 0 and state.evaluated and state.step % self.train.steps == 0
        top1 = state.last.top1 if at_end and state.last is not None else None
        about = Manifest(
            step=state.step,
            epoch=_epochs_done(state, self.train.steps),
            evaluated=at_end,
            milestone=milestone,
            test_top1=top1 if self.last is None else None,
            validation_top1=None if self.last is None else top1,
        )
        self.saved_at, self.saved_time = (state.step, state.evaluated), time.monotonic()
        self._keep_points(lasting=True)  # before the checkpoint: who goes on from that has all up to it
        if self.writer is None:
            return
        kept = {**state.to_dict(self.fingerprint), "steps_per_epoch": self.train.steps}
        if (own := self.train.clips.description) is not None:  # so that the network can be used where its data are not
            kept[DESCRIPTION] = own.to_json()
        self.writer.submit(kept, self.config_json, about)

    def _score(self, epoch: int, batches: TestBatches) -> Scores | None:
        self.said, began = torch.zeros(len(batches.index), 2, device=self.device), time.monotonic()
        going_on = self._testing(epoch, len(batches.index))
        scores = evaluate(self.state.model, batches, self.device, self.precision, going_on, self.group, self.said)
        self.test_seconds += time.monotonic() - began
        return scores

    def _written(self) -> None:
        if self.writer is not None:
            self.writer.wait()

    def _asked(self) -> str | None:
        """Why to stop now, if any rank was asked to: all of them leave at the same step."""
        own = REASONS.index(self.stop.reason) + 1 if self.stop.reason is not None else 0
        agreed = self.group.agree(own)
        return REASONS[agreed - 1] if agreed else None

    def _stopped(self, reason: str) -> Ended:
        if self.saved_at != (self.state.step, self.state.evaluated):
            self._save()
        self._written()
        return self._end(reason, f"saved at step {self.state.step}, can go on from there")

    def _end(self, reason: str, message: str) -> Ended:
        return session_end(self.state, reason, message, self.config, self.train.steps)

    def _rate(self) -> float:
        return learning_rate(self.config.training, self.state.step / self.train.steps)

    def _seconds_left(self) -> float | None:
        steps = self.state.step - self.began_step
        if steps == 0:
            return None
        return (time.monotonic() - self.began) / steps * (self.total_steps - self.state.step)

    def _clips_per_second(self) -> float:
        clips = (self.state.step - self.began_step) * effective_batch(self.config.training)
        return clips / max(1e-9, time.monotonic() - self.began)

    @property
    def _shows_gpus(self) -> bool:
        return self.device.type == "cuda" and self.group.rank == 0

    def _may_tell(self) -> bool:
        return time.monotonic() - self.told_time >= 1.0

    def _tell(self, epoch: int, counted: Reading) -> None:
        totals = counted.totals
        size = effective_batch(self.config.training)
        loss = self.smooth.look(totals.loss, totals.clips, size)  # each time: it is a mean over all steps
        if not self._may_tell():
            return
        now, steps = time.monotonic(), self.state.step - self.epoch_began_step
        rest = (epoch + 1) * self.train.steps - self.state.step
        self._say(
            epoch,
            loss=counted.loss if math.isfinite(counted.loss) else None,
            smooth_loss=loss if loss is not None and math.isfinite(loss) else None,
            top1=totals.hits / totals.clips if totals.clips else None,
            clips_per_second=self._clips_per_second(),
            epoch_seconds_left=(now - self.epoch_began) / steps * rest + self.test_seconds,
        )

    def _testing(self, epoch: int, clips: int) -> Any:
        since = time.monotonic()

        def going_on(done: int) -> bool:
            if self._may_tell():
                done *= self.group.size  # others are about as far
                seconds, share = max(1e-9, time.monotonic() - since), min(1.0, done / clips)
                left = seconds / share * (1 - share)
                figures = {"clips_per_second": done / seconds, "epoch_seconds_left": left, "tested": share}
                self._say(epoch, loss=None, phase="test", **figures)
            return self.stop.reason is None

        return going_on

    def _say(self, epoch: int, **figures: Any) -> None:
        now = self.told_time = time.monotonic()
        progress = Progress(
            step=self.state.step,
            total_steps=self.total_steps,
            epoch=epoch,
            epochs=self.config.training.epochs,
            lr=self._rate(),
            seconds_left=self._seconds_left(),
            seconds=now - self.began,
            session_seconds_left=self.stop.seconds_left,
            gpus=None if self.usage is None else self.usage.figures,
            **figures,
        )
        self.sink.emit(progress)


def _steps(session: Session, epoch: int, first: int) -> Iterator[Callable[[], None]]:
    """Those of an epoch, each to be done before the next is asked for."""
    if session.graphs is not None:
        for parts in session.graphs.parts(epoch, first):
            yield partial(session.graphs.step, parts, epoch, session._rate())
        return
    more = session.config, session.precision, session.group, session.train.parts
    for batches in session.train.epoch(epoch, first):
        yield partial(train_step, session.state, batches, session._rate(), *more)


def session_end(state: State, reason: str, message: str, config: TrainConfig, steps_per_epoch: int) -> Ended:
    """How a stretch of training ended, with the scores so far."""
    test, validated = (state.tested, state.last) if state.keeps_best else (state.last, None)
    early = reason == "completed" and is_over(state, steps_per_epoch, config)
    return Ended(
        reason=reason,
        message=message,
        step=state.step,
        total_steps=steps_per_epoch * config.training.epochs,
        test_top1=None if test is None else test.top1,
        test_top5=None if test is None else test.top5,
        best_top1=state.best_top1 if state.best_epoch else None,
        best_epoch=state.best_epoch or None,
        validation_top1=None if validated is None else validated.top1,
        early_stop_epoch=_epochs_done(state, steps_per_epoch) if early else None,
    )


def is_over(state: State, steps_per_epoch: int, config: TrainConfig) -> bool:
    """Whether ``training.patience`` has run out at the end of an epoch before the last."""
    done, training = _epochs_done(state, steps_per_epoch), config.training
    at_end = state.evaluated and state.step % steps_per_epoch == 0
    return training.patience is not None and at_end and done < training.epochs and done - state.risen_epoch >= training.patience


def result_of(state: State, steps_per_epoch: int, config: TrainConfig) -> str:
    """What came of a run that is over, in a line."""
    test = (state.tested if state.keeps_best else state.last) or Scores(math.nan, 0.0, 0.0)
    kind = "validation" if state.keeps_best else "test"
    early = ""
    if is_over(state, steps_per_epoch, config):
        rise = f" by more than {config.training.min_delta:g}" if config.training.min_delta else ""
        epochs = counted(_epochs_done(state, steps_per_epoch) - state.risen_epoch, "epoch")
        last = f"since {percent(state.risen_top1)} in epoch {state.risen_epoch}"
        early = f"early stop: {kind} top-1 has not risen{rise} {last}, {epochs} ago (training.patience); "
    figures = f"{early}test top-1 {percent(test.top1)}, top-5 {percent(test.top5)}"
    if state.keeps_best:
        return f"{figures}, of epoch {state.best_epoch}, the best by validation ({percent(state.best_top1)})"
    return f"{figures} (best {percent(state.best_top1)} in epoch {state.best_epoch}; {CHOSEN_ON_TEST})"


def _see_that_it_is_scored(state: State, steps_per_epoch: int, config: TrainConfig, validates: bool) -> None:
    """Have the end of an epoch scored anew, where a run that goes on chooses the best otherwise than before, or is over now and
    has not been tested."""
    if config.training.patience is not None and state.risen_epoch == 0 and state.best_epoch:
        state.risen_top1, state.risen_epoch = state.best_top1, state.best_epoch
    done = _epochs_done(state, steps_per_epoch)
    if state.step and state.evaluated and state.step % steps_per_epoch == 0:
        over = done == config.training.epochs or is_over(state, steps_per_epoch, config)
        state.evaluated = state.last is not None and not (over and validates and state.tested is None)


def _epochs_done(state: State, steps_per_epoch: int) -> int:
    return (state.step - (0 if state.evaluated else 1)) // steps_per_epoch
