"""What a run keeps of its figures: JSON lines, one an epoch and one each few steps. Torch-free but for TensorBoard's files."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from last_e.light import without
from last_e.whole import read_bounded, regular_file, whole_file

if TYPE_CHECKING:
    from last_e.events import EpochDone, Point, Sink

METRICS, STEPS = "metrics.jsonl", "steps.jsonl"
MOST_BYTES = 64 << 20
"""Of ``metrics.jsonl``, of which 100,000 epochs have a third of that, and of what is written of steps."""
_LONGEST = 1 << 16
"""Of a line of ``steps.jsonl``."""
_NUMBERS = ("epoch", "step")
_SCORES = (("test_top1", "test_top5"), ("validation_top1", "validation_top5"))


def read_metrics(text: str) -> list[dict[str, Any]]:
    """The lines of a metrics file; one that was cut short, or is none, does not count."""
    return [line for line in _lines(text) if any(_has(line, *_NUMBERS, *two) for two in _SCORES)]


def read_steps(text: str) -> list[dict[str, Any]]:
    """The same of the figures of steps. What comes again was trained again: the later line counts, and none of those between.
    That is told by epochs: with a larger batch a run goes on with fewer steps in each."""
    kept: list[dict[str, Any]] = []
    for line in _lines(text):
        if _has(line, *_NUMBERS):
            while kept and kept[-1]["epoch"] >= line["epoch"]:
                kept.pop()
            kept.append(line)
    return kept


def _lines(text: str) -> Iterable[dict[str, Any]]:
    for line in text.splitlines():
        try:
            values = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(values, dict):
            yield {name: value if _is_number(value) else None for name, value in values.items()}


def _has(line: Mapping[str, Any], *names: str) -> bool:
    return all(line.get(name) is not None for name in names)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and abs(value) < 1e15  # false for what is not finite


class History:
    """Appends epochs to ``metrics.jsonl`` and steps to ``steps.jsonl``, both below ``out``; with ``board``, both to files for
    TensorBoard in ``events/`` as well.

    Lines of epochs after ``epochs_done``, and of steps after ``steps_done``, which a cut run will train again, are taken back
    first. Steps are told apart by how many epochs they are: a run may go on with more or fewer steps in each.
    """

    def __init__(
        self, out: Path, epochs_done: int, steps_done: int, steps_per_epoch: int, sink: Sink, board: bool = False
    ) -> None:
        self._metrics, self._steps = out / METRICS, out / STEPS
        epochs = [line for line in read_metrics(_read(self._metrics)) if line["epoch"] <= epochs_done]
        with whole_file(self._metrics) as part:
            part.write_text(_text(epochs))
        _take_back(self._steps, steps_done / steps_per_epoch)
        self._board: Any = _board(out / "events", steps_done, sink) if board else None
        self._sink, self._room = sink, MOST_BYTES - self._steps.stat().st_size

    def add(self, epoch: EpochDone) -> None:
        """Append one epoch; it is on disk when this returns."""
        metrics = epoch.metrics()
        _append(self._metrics, [metrics], lasting=True)
        if self._board is not None:
            for name, value in metrics.items():
                if value is not None and name not in _NUMBERS:
                    self._board.add_scalar(name.replace("_", "/", 1), value, epoch.step)
            self._board.add_scalar("seconds/epoch", epoch.seconds, epoch.step)
            self._board.flush()

    def add_steps(self, points: Sequence[Point], *, lasting: bool) -> None:
        """Append steps; where that is to be ``lasting``, all of them are on disk when this returns.

        To a file that is as large as one may be (:data:`MOST_BYTES`) nothing more comes, which is told: a larger one could not
        be read when a run goes on.
        """
        figures = [point.figures() for point in points]
        fitting = list(takewhile(self._fits, figures))
        _append(self._steps, fitting, lasting=lasting)
        if self._board is not None:
            for point in points:
                for name, value in {"step/loss": point.loss, "step/lr": point.lr, "step/train_top1": point.train_top1}.items():
                    if value is not None:
                        self._board.add_scalar(name, value, point.step)

    def _fits(self, figures: Mapping[str, Any]) -> bool:
        if self._room <= 0:
            return False
        self._room -= len(_text([figures]))
        if self._room < 0:
            from last_e.events import Message

            told = (
                f"{STEPS} has all of the {MOST_BYTES >> 20} MiB that it may: no more figures of steps; a higher "
                "checkpoint.log_every_steps keeps fewer"
            )
            self._sink.emit(Message(told, "warning"))
        return self._room >= 0

    def close(self) -> None:
        """Finish the TensorBoard file."""
        if self._board is not None:
            self._board.close()


def _board(folder: Path, steps_done: int, sink: Sink) -> Any:
    try:
        with without("botocore"):  # with which it would write to buckets, and which takes most of its import
            from torch.utils.tensorboard import SummaryWriter

        return SummaryWriter(str(folder), purge_step=steps_done + 1)
    except ImportError:
        from last_e.events import Message

        sink.emit(Message("tensorboard is not installed: no TensorBoard files", "warning"))
        return None


def _append(path: Path, lines: Sequence[Mapping[str, Any]], *, lasting: bool) -> None:
    with path.open("a") as file:
        file.write(_text(lines))
        if lasting:
            file.flush()
            os.fsync(file.fileno())


def _take_back(path: Path, epochs: float) -> None:
    """Of the figures of steps leave those of so many epochs, line by line: they may be more than there is memory to spare."""
    last = -math.inf
    with whole_file(path) as part, part.open("w") as kept, suppress(FileNotFoundError), regular_file(path) as file:
        while data := file.readline(_LONGEST):
            for line in _lines(data.decode("utf-8", "replace")):
                if _has(line, *_NUMBERS) and last < line["epoch"] <= epochs:
                    kept.write(_text([line]))
                    last = line["epoch"]


def _text(lines: Iterable[Mapping[str, Any]]) -> str:
    return "".join(json.dumps(line) + "\n" for line in lines)


def _read(path: Path) -> str:
    try:
        return read_bounded(path, MOST_BYTES).decode("utf-8", "replace")
    except FileNotFoundError:
        return ""
