"""The metric history of a run: a JSON line per epoch, and the same for TensorBoard. Torch-free but for TensorBoard."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from last_e.light import without
from last_e.whole import read_bounded, whole_file

if TYPE_CHECKING:
    from last_e.events import EpochDone, Sink

MOST_BYTES = 64 << 20
"""Of the history of a run: 100,000 epochs have a third of that."""
_NUMBERS = ("epoch", "step")
_SCORES = (("test_top1", "test_top5"), ("validation_top1", "validation_top5"))


def read_metrics(text: str) -> list[dict[str, Any]]:
    """The lines of a metrics file; one that was cut short, or is none, does not count."""
    lines = []
    for line in text.splitlines():
        try:
            values = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(values, dict) and any(all(_is_number(values.get(name)) for name in (*_NUMBERS, *two)) for two in _SCORES):
            lines.append({name: value if _is_number(value) else None for name, value in values.items()})
    return lines


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and abs(value) < 1e15  # false for what is not finite


class History:
    """Appends epochs to ``metrics.jsonl`` and to TensorBoard files in ``events/``, both below ``out``.

    Lines of epochs after ``epochs_done``, which a cut run will train again, are taken back first.
    """

    def __init__(self, out: Path, epochs_done: int, steps_done: int, sink: Sink) -> None:
        self._path = out / "metrics.jsonl"
        kept = [m for m in read_metrics(self._read()) if m["epoch"] <= epochs_done]
        with whole_file(self._path) as part:
            part.write_text("".join(json.dumps(m) + "\n" for m in kept))
        try:
            with without("botocore"):  # with which it would write to buckets, and which takes most of its import
                from torch.utils.tensorboard import SummaryWriter

            self._board: Any = SummaryWriter(str(out / "events"), purge_step=steps_done + 1)
        except ImportError:
            from last_e.events import Message

            self._board = None
            sink.emit(Message("tensorboard is not installed: no TensorBoard files", "warning"))

    def add(self, epoch: EpochDone) -> None:
        """Append one epoch; it is on disk when this returns."""
        metrics = epoch.metrics()
        with self._path.open("a") as file:
            file.write(json.dumps(metrics) + "\n")
            file.flush()
            os.fsync(file.fileno())
        if self._board is not None:
            for name, value in metrics.items():
                if value is not None and name not in ("epoch", "step"):
                    self._board.add_scalar(name.replace("_", "/", 1), value, epoch.step)
            self._board.add_scalar("seconds/epoch", epoch.seconds, epoch.step)
            self._board.flush()

    def close(self) -> None:
        """Finish the TensorBoard file."""
        if self._board is not None:
            self._board.close()

    def _read(self) -> str:
        try:
            return read_bounded(self._path, MOST_BYTES).decode("utf-8", "replace")
        except FileNotFoundError:
            return ""
