"""TensorBoard's files, made of what stores hold: a run a job, over all its attempts, that grows while the job does."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from last_e.text import plain
from runner.errors import EngineError, StoreError, UsageError
from runner.job.attempts import HEARTBEAT_SECONDS, Attempt
from runner.job.job import Job
from runner.job.steps import Steps
from runner.launch.ssh.relay import fetch

_NAMES = ("epoch", "step")
_SCORES = tuple(f"{part}_{what}" for part in ("test", "validation") for what in ("loss", "top1", "top5"))
_HOST = "127.0.0.1"
_POINTS = 50_000
"""Of a curve, that TensorBoard shows; by itself it leaves out all but 1,000."""
_LACKS = "{} is not installed here; from a clone of lastrun: pip install '.[tensorboard]'"
Line = dict[str, Any]


class Board:
    """The run of one job, in a folder of its name.

    Tags ``step/...`` go by steps: what was kept of each few, and the scores of epochs. Tags ``epoch/...`` go by epochs. Nobody
    has kept when a step was trained: those of an attempt are spread evenly from its begin to its end.
    """

    def __init__(self, job: Job, folder: Path) -> None:
        self.job = job
        self._steps = Steps(job)
        self._told: tuple[list[Line], list[Line]] = [], []
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        self._writer = EventFileWriter(str(folder / job.id))

    @property
    def counted(self) -> tuple[int, int]:
        """How many steps and epochs are there."""
        return len(self._told[0]), len(self._told[1])

    def refresh(self) -> None:
        """Add what has come since the last time.

        Raises:
            StoreError: the store fails.
        """
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog

        fetch(self.job)
        attempts = self.job.attempts.all()
        steps, epochs = self._steps.read(attempts), self.job.metrics(attempts)
        told = self._told
        if told != (steps[: len(told[0])], epochs[: len(told[1])]):
            # Gone on with from an earlier step: whoever reads is to forget all from step 0 on, and gets it anew.
            self._writer.add_event(Event(wall_time=time.time(), step=0, session_log=SessionLog(status=SessionLog.START)))
            told = [], []
        at = clock(attempts, [*steps, *epochs])
        for line in steps[len(told[0]) :]:
            self._add("step", line["step"], at(line["epoch"]), line)
        for line in epochs[len(told[1]) :]:
            self._add("step", line["step"], at(line["epoch"]), {name: line.get(name) for name in _SCORES})
            self._add("epoch", line["epoch"], at(line["epoch"]), line)
        self._writer.flush()
        self._told = steps, epochs

    def close(self) -> None:
        """Finish the file."""
        self._writer.close()

    def _add(self, by: str, number: float, at: float, line: Line) -> None:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary

        known = {plain(name): value for name, value in line.items() if value is not None and name not in _NAMES}
        values = [Summary.Value(tag=f"{by}/{name}", simple_value=value) for name, value in known.items()]
        if values:
            self._writer.add_event(Event(wall_time=at, step=int(number), summary=Summary(value=values)))


def clock(attempts: Sequence[Attempt], lines: Sequence[Line]) -> Callable[[float], float]:
    """About when so many epochs had been trained (seconds since 1970)."""
    began = [(one.from_epoch, one.started_at, one.ended_at or time.time()) for one in attempts if one.from_epoch is not None]
    last = max((line["epoch"] for line in lines), default=0.0)

    def at(epoch: float) -> float:
        stretch = [number for number, (first, _, _) in enumerate(began) if first < epoch]
        if not stretch:  # of an older version
            return attempts[0].started_at if attempts else 0.0
        first, start, end = began[stretch[-1]]
        until = began[stretch[-1] + 1][0] if stretch[-1] + 1 < len(began) else last
        share = (epoch - first) / (until - first) if until > first else 1.0
        return start + max(0.0, end - start) * min(1.0, share)

    return at


def make_boards(jobs: Sequence[Job], folder: Path) -> list[Board]:
    """The runs of jobs, with all that there is, below a folder.

    Raises:
        EngineError: TensorBoard is not installed here.
        UsageError: two of them have one name.
        StoreError: a store fails.
    """
    names = [job.id for job in jobs]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UsageError(f"{', '.join(twice)}: in two stores, and runs are told apart by their names: name one of them")
    try:
        boards = [Board(job, folder) for job in jobs]
    except ModuleNotFoundError as error:
        raise EngineError(_LACKS.format(error.name)) from None
    for board in boards:
        board.refresh()
    return boards


def write(jobs: Sequence[Job], out: Path) -> list[Board]:
    """Write the runs into a new folder, or one that is empty, whole or not at all.

    Raises:
        UsageError: it is there already, or cannot be made.
        EngineError, StoreError: as :func:`make_boards`.
    """
    if os.path.lexists(out) and not (out.is_dir() and not any(out.iterdir())):
        raise UsageError(f"{out} is there already: name a new or empty folder")
    try:
        out.absolute().parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{out.name}-", dir=out.absolute().parent) as part:
            whole = Path(part) / "runs"
            whole.mkdir()
            boards = make_boards(jobs, whole)
            for board in boards:
                board.close()
            whole.replace(out)
            return boards
    except OSError as error:
        raise UsageError(f"{out}: cannot be written: {error.strerror}") from None


@contextmanager
def shown(folder: Path, port: int | None) -> Iterator[str]:
    """TensorBoard at work on a folder, for this machine alone; its address.

    Raises:
        EngineError: it is not installed here, or broken.
        UsageError: the port is taken.
    """
    try:
        from tensorboard.plugins.core.core_plugin import CorePluginLoader
        from tensorboard.plugins.metrics.metrics_plugin import MetricsPlugin
        from tensorboard.plugins.scalar.scalars_plugin import ScalarsPlugin
        from tensorboard.program import TensorBoard, TensorBoardServerException
    except ImportError as error:
        raise EngineError(_LACKS.format(error.name or error)) from None
    board = TensorBoard([CorePluginLoader(), MetricsPlugin, ScalarsPlugin])  # all that it has take seconds to import
    words = [f"--logdir={folder}", f"--host={_HOST}", f"--reload_interval={HEARTBEAT_SECONDS}", "--load_fast=false"]
    words += [f"--samples_per_plugin=scalars={_POINTS}", *([] if port is None else [f"--port={port}"])]
    board.configure(argv=["tensorboard", *words])
    try:
        yield board.launch()
    except TensorBoardServerException as error:
        hint = "" if port is None else f"--port {port} is not to be had; name another one, or none: "
        raise UsageError(f"{hint}{error}") from None


def follow(boards: Sequence[Board], note: Callable[[str], None]) -> None:
    """Add what comes, until this command is asked to leave; a store that does not answer may answer again."""
    silent = False
    while True:
        time.sleep(HEARTBEAT_SECONDS)
        try:
            for board in boards:
                board.refresh()
            silent = False
        except StoreError as error:
            if not silent:
                note(f"nothing new is shown now: {error}")
            silent = True
