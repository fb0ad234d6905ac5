"""What a trainer tells about itself while it runs: typed events, one JSON line each. Torch-free.

The job runner reads them from the trainer's standard output; without a runner they are rendered directly.
"""

from __future__ import annotations

import json
import math
import re
import sys
import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Protocol

from last_e.text import by_ranks, counted, number, percent, seconds_text


@dataclass(frozen=True)
class Event:
    """Base of all events."""

    kind: ClassVar[str]

    def to_json(self) -> str:
        """One line; a number that is not finite becomes null."""
        values = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in asdict(self).items()}
        return json.dumps({"event": self.kind, **values})


@dataclass(frozen=True)
class Message(Event):
    """Something that was decided, with its reason, or that went wrong."""

    kind: ClassVar[str] = "message"
    text: str
    level: str = "info"
    """``info`` or ``warning``."""


@dataclass(frozen=True)
class Started(Event):
    """Training begins, or goes on, at ``step``."""

    kind: ClassVar[str] = "started"
    model: str
    parameters: int
    dataset: str
    split: str
    train_clips: int
    test_clips: int
    epochs: int
    steps_per_epoch: int
    step: int
    device: str
    precision: str
    data_fingerprint: str
    validation_clips: int | None = None
    """Those on which the best is chosen; None: on those that test."""


@dataclass(frozen=True)
class Progress(Event):
    """Where training is, about once a second."""

    kind: ClassVar[str] = "progress"
    step: int
    total_steps: int
    epoch: int
    epochs: int
    loss: float | None
    lr: float
    clips_per_second: float
    seconds_left: float | None
    phase: str = "train"
    """``train`` or ``test``."""
    ranks: list[float] | None = None
    """Of several ranks: clips per second of each, without what it waits for others."""
    of_one: float | None = None
    """How many times as fast they are together as one that waits for nobody."""
    smooth_loss: float | None = None
    """A mean over the last steps (:class:`last_e.smooth.Smooth`)."""
    top1: float | None = None
    """Of the training clips of the epoch so far."""
    tested: float | None = None
    """The share of the test that is done."""
    seconds: float | None = None
    """Since this stretch of training began."""
    epoch_seconds_left: float | None = None
    session_seconds_left: float | None = None
    """Until the session's limit asks to stop."""
    gpus: list[dict[str, Any]] | None = None
    """As :func:`last_e.gpu.figures` has them."""


@dataclass(frozen=True)
class Point(Event):
    """A step whose figures are kept (``checkpoint.log_every_steps``). All but ``clips_per_second`` is the same wherever the run
    was cut."""

    kind: ClassVar[str] = "point"
    step: int
    epoch: float
    """How many have been trained by then, that which is being trained in part."""
    lr: float
    loss: float | None
    """Of this step alone; None: it was not finite, and the step skipped."""
    train_loss: float | None
    """Of the epoch so far, like the next two."""
    train_top1: float | None
    skipped_steps: int
    clips_per_second: float | None = None

    def figures(self) -> dict[str, Any]:
        """The line for ``steps.jsonl``: what is reproducible."""
        values = json.loads(self.to_json())
        del values["event"], values["clips_per_second"]
        return dict(values)


@dataclass(frozen=True)
class EpochDone(Event):
    """An epoch has been trained and tested. All but ``seconds``, ``ranks`` and ``of_one`` is the same wherever the run was
    cut.

    Of a run that has clips to validate it was scored on those, and ``test_`` are None but in the last: there they are of the
    best epoch's weights.
    """

    kind: ClassVar[str] = "epoch"
    epoch: int
    epochs: int
    step: int
    lr: float
    train_loss: float | None
    train_top1: float | None
    ib_loss: float | None
    test_loss: float | None
    test_top1: float | None
    test_top5: float | None
    skipped_steps: int
    best: bool
    seconds: float
    validation_loss: float | None = None
    validation_top1: float | None = None
    validation_top5: float | None = None
    ema_loss: float | None = None
    """Of the weights' average, where there is one, on the clips on which the best is chosen; so are the next two."""
    ema_top1: float | None = None
    ema_top5: float | None = None
    ranks: list[float] | None = None
    of_one: float | None = None
    """Both as of :class:`Progress`."""

    @classmethod
    def of_metrics(cls, metrics: dict[str, Any], epochs: int, best: bool) -> EpochDone:
        """From a line of :func:`last_e.metrics.read_metrics`. How long it took is not in there, and not a number here."""
        scores = [f"{part}_{what}" for part in ("test", "validation", "ema") for what in ("loss", "top1", "top5")]
        numbers: dict[str, Any] = {name: metrics.get(name) for name in ("train_loss", "train_top1", "ib_loss", *scores)}
        return cls(
            epoch=int(metrics["epoch"]),
            epochs=epochs,
            step=int(metrics["step"]),
            lr=metrics.get("lr") or 0.0,
            skipped_steps=int(metrics.get("skipped_steps") or 0),
            best=best,
            seconds=math.nan,
            **numbers,
        )

    def metrics(self) -> dict[str, Any]:
        """The line for ``metrics.jsonl``: what is reproducible."""
        values = json.loads(self.to_json())
        without = [] if self.validation_top1 is not None else ["validation_loss", "validation_top1", "validation_top5"]
        without += [] if self.ema_top1 is not None else ["ema_loss", "ema_top1", "ema_top5"]
        for name in ("event", "epochs", "seconds", "best", "ranks", "of_one", *without):
            del values[name]
        return dict(values)


@dataclass(frozen=True)
class CheckpointSaved(Event):
    """A checkpoint is whole on disk."""

    kind: ClassVar[str] = "checkpoint"
    path: str
    step: int
    epoch: int


@dataclass(frozen=True)
class Beat(Event):
    """One of several ranks lives. Only for whoever has started them."""

    kind: ClassVar[str] = "beat"
    entered: int
    """How often it has met the others, or is waiting to."""
    clips: int = 0
    """Of its own that it has trained,"""
    seconds: float = 0.0
    """and in how much time, without what it waited for others,"""
    waited: float | None = None
    """which was so long; None: it waits on a GPU, where that is not seen."""
    waits: bool = False
    """For others, now."""


RANK_LOST = "rank_lost"
"""How a run has ended of which a rank has died, or hangs."""
NOT_BEGUN = "rank_not_begun"
"""The same where there are several machines, and their ranks have not met yet."""


@dataclass(frozen=True)
class Ended(Event):
    """The trainer is done. ``reason`` is one of the runner's reasons (completed, interrupted, diverged, ...)."""

    kind: ClassVar[str] = "ended"
    reason: str
    message: str
    step: int
    total_steps: int
    test_top1: float | None = None
    test_top5: float | None = None
    best_top1: float | None = None
    """By what the best was chosen: of the clips that validate, where there are some, else of those that test."""
    best_epoch: int | None = None
    validation_top1: float | None = None
    """Of the last epoch, where there are clips to validate; ``test_`` are then of the best epoch's weights, at the end."""
    early_stop_epoch: int | None = None
    """The last epoch, of a run that ``training.patience`` has ended."""


_KINDS: dict[str, type[Event]] = {
    event.kind: event for event in (Message, Started, Progress, Point, EpochDone, CheckpointSaved, Beat, Ended)
}


def parse_event(line: str) -> Event | None:
    """The event in a line, or None for a line that holds none."""
    try:
        values = json.loads(line)
        return _KINDS[values.pop("event")](**values)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


_EPOCH_LINE = re.compile(
    r"(epoch \d+/\d+)  lr \S+  (train loss \S+) top-1 \S+  (test|validation) loss \S+ (top-1 \S+) (top-5 \S+)"
)


class Sink(Protocol):
    """Takes events, from any thread."""

    def emit(self, event: Event) -> None:
        """Take one event."""


class Discard:
    """A sink for those whom events do not concern."""

    def emit(self, event: Event) -> None:
        """Nothing."""


class JsonLines:
    """Events as JSON lines on a stream. A reader that has gone is reported once, to ``on_gone``."""

    def __init__(self, on_gone: Callable[[], None], stream: Any = None) -> None:
        self._stream = stream or sys.stdout
        self._lock = threading.Lock()
        self._on_gone = on_gone

    def emit(self, event: Event) -> None:
        """Write one line at once."""
        with self._lock:
            try:
                self._stream.write(event.to_json() + "\n")
                self._stream.flush()
            except (BrokenPipeError, ValueError):
                self._on_gone()


def describe(event: Event) -> str | None:
    """An event as a line of a log; None for one that a log can do without."""
    if isinstance(event, Message):
        return f"warning: {event.text}" if event.level == "warning" else event.text
    if isinstance(event, Started):
        return (
            f"{event.model} ({event.parameters:,} parameters) on {event.dataset} {event.split}: "
            f"{counted(event.train_clips, 'clip')} to train, {_held_out(event)} to test; "
            f"{counted(event.epochs, 'epoch')} of {counted(event.steps_per_epoch, 'step')}"
            + (f"; from step {event.step:,}" if event.step else "")
        )
    if isinstance(event, Progress):
        loss = event.loss if event.smooth_loss is None else event.smooth_loss
        return (
            f"epoch {event.epoch + 1}/{event.epochs}  step {event.step:,}/{event.total_steps:,}  "
            f"{'testing' if event.phase == 'test' else 'loss ' + number(loss)}  "
            f"{event.clips_per_second:,.0f} clips/s{by_ranks(event.ranks, event.of_one)}  "
            f"{seconds_text(event.seconds_left)} left"
        )
    if isinstance(event, EpochDone):
        skipped = f"  {event.skipped_steps} steps skipped" if event.skipped_steps else ""
        return (
            f"epoch {event.epoch}/{event.epochs}  lr {event.lr:.5f}  train loss {number(event.train_loss)} top-1 "
            f"{percent(event.train_top1)}  {_scores(event)}{_seconds(event)}{'  best' if event.best else ''}{skipped}"
        )
    if isinstance(event, Ended):
        return f"{event.reason} at step {event.step:,} of {event.total_steps:,}: {event.message}"
    return None


def epoch_words(done: EpochDone) -> list[tuple[int, str]]:
    """What matters most of an epoch, for a narrow line, in pieces, each with a number: those with larger ones are left out
    first where they do not fit."""
    part, top1, top5 = "test", done.test_top1, done.test_top5
    if done.validation_top1 is not None:
        part, top1, top5 = "validation", done.validation_top1, done.validation_top5
    words = [
        (0, f"epoch {done.epoch}/{done.epochs}"),
        (4, f"train loss {number(done.train_loss)}"),
        (0, f"{part} top-1 {percent(top1)}"),
        (3, f"top-5 {percent(top5)}"),
    ]
    words += [] if done.ema_top1 is None else [(3, f"average {percent(done.ema_top1)}")]
    words += [(5, seconds_text(done.seconds))] if math.isfinite(done.seconds) else []
    words += [(1, "best")] if done.best else []
    return words + ([(2, f"{done.skipped_steps} steps skipped")] if done.skipped_steps else [])


def words_of_line(line: str) -> list[tuple[int, str]] | None:
    """The same of a line of :func:`describe`, as another machine has it; None: it tells of no epoch."""
    found = _EPOCH_LINE.match(line)
    if found is None:
        return None
    epoch, loss, part, top1, top5 = found.groups()
    words = [(0, epoch), (4, loss), (0, f"{part} {top1}"), (3, top5)]
    for piece in filter(None, line[found.end() :].split("  ")):
        if not piece.startswith("test "):  # of the best epoch, at the end
            words.append((1, piece) if piece == "best" else (2, piece) if piece.endswith("skipped") else (5, piece))
    return words


def _seconds(done: EpochDone) -> str:
    """How long it took; of an epoch that a history tells of, nobody knows."""
    return f"  {seconds_text(done.seconds)}{by_ranks(done.ranks, done.of_one)}" if math.isfinite(done.seconds) else ""


def _held_out(event: Started) -> str:
    validate = "" if event.validation_clips is None else f"{event.validation_clips:,} to validate, "
    return f"{validate}{event.test_clips:,}"


def _scores(event: EpochDone) -> str:
    found: list[str] = []
    for name in ("validation", "test"):
        loss, top1, top5 = (getattr(event, f"{name}_{what}") for what in ("loss", "top1", "top5"))
        if top1 is not None:
            of = " (best epoch)" if found else ""
            found.append(f"{name}{of} loss {number(loss)} top-1 {percent(top1)} top-5 {percent(top5)}")
    if event.ema_top1 is not None:
        found.append(f"average of weights top-1 {percent(event.ema_top1)}")
    return "  ".join(found)
