"""Figures of every few steps. No step waits for a device: that remembers them, and is asked where it is asked anyway."""

from __future__ import annotations

import math

from last_e.config import TrainConfig
from last_e.events import Point, Sink
from last_e.metrics import History
from last_e.schedule import learning_rate
from last_e.state import State


class Points:
    """Those of one stretch of training, for its history and for whoever listens.

    What is kept of a step follows from the state after it alone, so that it is the same wherever the run was cut.
    """

    def __init__(self, config: TrainConfig, state: State, steps_per_epoch: int, history: History, sink: Sink) -> None:
        self._training, self._every = config.training, config.checkpoint.log_every_steps
        self._state, self._steps_per_epoch, self._history, self._sink = state, steps_per_epoch, history, sink
        self._marked: list[int] = []

    def mark(self) -> None:
        """A step is done: have the device remember it, if it is one of those that are kept."""
        if self._state.step % self._every == 0:
            self._state.counters.mark()
            self._marked.append(self._state.step)

    def keep(self, clips_per_second: float | None, *, lasting: bool = False) -> None:
        """Write down what was remembered, as :meth:`History.add_steps` does; waits for the device, if there is something."""
        marked, self._marked = self._marked, []
        points = [
            Point(
                step=step,
                epoch=step / self._steps_per_epoch,
                lr=learning_rate(self._training, (step - 1) / self._steps_per_epoch),
                loss=reading.loss if math.isfinite(reading.loss) else None,
                train_loss=reading.totals.loss / reading.totals.clips if reading.totals.clips else None,
                train_top1=reading.totals.hits / reading.totals.clips if reading.totals.clips else None,
                skipped_steps=reading.totals.skipped,
                clips_per_second=clips_per_second,
            )
            for step, reading in zip(marked, self._state.counters.read_marked())
        ]
        if points or lasting:
            self._history.add_steps(points, lasting=lasting)
        for point in points:
            self._sink.emit(point)
