"""Recordings through a network, in batches that are made as the trainer's tests are."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from last_e.config import TrainConfig
from last_e.data.batches import TestBatches
from last_e.data.clips import Clips
from last_e.described import Description
from last_e.evaluate import Views, logits_of, mirror_for, of_view
from last_e.events import Discard
from last_e.load import load_network
from last_e.precision import choose_device, choose_precision
from last_e.predict.recordings import Item, Reader, Recording, see_that_units_fit
from last_e.predict.timeline import Segment, Timeline, windows
from last_e.set_up import TEST_BATCH, set_up_torch

Say = Callable[[dict[str, Any]], None]
_MOST_BYTES = 32 << 20
"""Of joints that wait for their batch."""


@dataclass(frozen=True)
class Asked:
    """What is to be predicted, and how it is to be told."""

    places: list[str]
    top: int
    """So many classes of each."""
    kind: Any = None
    units: str | None = None
    window: int | float | None = None
    """Frames; seconds, if it is a float."""
    stride: int | float | None = None
    """Default: half a window."""
    fps: float | None = None
    """Default: that of the network's set."""
    crops: int = 1
    """Pieces of each recording or window, whose probabilities are averaged."""
    mirror: bool = False
    """Each piece in a mirror, too."""


class _Piece(NamedTuple):
    """A whole recording, or a window of one."""

    recording: Recording
    joints: npt.NDArray[np.int16]
    """(M, T, V, 3)."""
    begin: int
    end: int
    is_last: bool


@dataclass
class Network:
    """A network that is ready, and how long it has taken so far."""

    folder: Path
    config: TrainConfig
    ema: bool = False
    """The average of its weights."""
    seconds: float = 0.0
    """In the network and what prepares its batches."""
    description: Description = field(init=False)

    def __post_init__(self) -> None:
        self.device, _ = choose_device(self.config.hardware)
        self._precision = choose_precision(self.config, self.device)
        self._workers = set_up_torch(self.config, self.device, Discard())
        model, self.description = load_network(self.folder, self.config, self.ema)
        self.views = Views()
        self._model = model.to(self.device)
        self.batch = TEST_BATCH[self.device.type]

    @torch.no_grad()
    def probabilities(self, clips: list[npt.NDArray[np.int16]]) -> npt.NDArray[np.float64]:
        """(n, C) of n clips of one model's skeleton, each (M, T, V, 3)."""
        begin = time.perf_counter()
        joints = [torch.from_numpy(one.reshape(-1, *one.shape[2:])) for one in clips]
        bodies, length = (torch.tensor([one.shape[side] for one in clips]) for side in (0, 1))
        nothing = torch.zeros_like(length)
        together = Clips(torch.cat(joints), length, bodies, nothing, nothing, nothing, nothing, description=self.description)
        seen, frames, every = [], self.config.training.input_frames, torch.arange(len(clips))
        for start, mirror in self.views.each():
            (batch,) = TestBatches(together, every, frames, len(clips), begin=start, mirror=mirror)
            logits = logits_of(self._model, batch.to(self.device), self._precision).cpu()
            seen.append(of_view(logits.double().softmax(1), mirror))
        found: npt.NDArray[np.float64] = torch.stack(seen).mean(0).numpy()
        self.seconds += time.perf_counter() - begin
        return found


def predict(network: Network, asked: Asked, say: Say) -> dict[str, Any]:
    """Tell what the network says of each recording (``clip``), of each window and each stretch of time (``window``,
    ``segment``), and what cannot be read (``problem``); returns how many there were and how long that took.

    Raises:
        DataError: the units are not those of the network, or nobody knows what its classes are in a mirror.
        ValueError: a window that cannot be, in one line.
    """
    description = network.description
    see_that_units_fit(description, asked.units)
    network.views = Views(asked.crops, mirror_for(network.config, description) if asked.mirror else None)
    fps = asked.fps or description.fps
    size, stride = _in_frames(asked.window, fps), _in_frames(asked.stride, fps)
    teller = _Teller(description, asked.top, fps, is_timed=size is not None, say=say)
    reader = Reader(description, asked.kind, asked.units)
    pieces = _pieces(reader.read(asked.places), size, stride or max(1, (size or 2) // 2), teller)
    for batch in _batches(pieces, network.batch):
        seen = [piece.joints for piece in batch if piece.joints.shape[1]]
        rows = iter(network.probabilities(seen) if seen else ())
        for piece in batch:
            teller.tell(piece, next(rows) if piece.joints.shape[1] else None)
    return {"clips": teller.clips, "windows": teller.windows, "problems": teller.problems, "network_seconds": network.seconds}


def _in_frames(span: int | float | None, fps: float) -> int | None:
    if span is None:
        return None
    return max(1, round(span * fps)) if isinstance(span, float) else span


def _pieces(items: Iterable[Item], size: int | None, stride: int, teller: _Teller) -> Iterator[_Piece | None]:
    for one in items:
        if one is None:
            yield None
        elif not isinstance(one, Recording):
            teller.problem(one.source, one.why)
        elif size is None:
            teller.begin(one)
            yield _Piece(one, one.joints, 0, one.frames, True)
        else:
            teller.begin(one)
            for begin, end in windows(one.frames, size, stride):
                first, last = np.searchsorted(one.frame, (begin, end))
                if first < last or end == one.frames:  # of a last one in which nobody is seen it is told that it was the last
                    yield _Piece(one, one.joints[:, first:last], begin, end, end == one.frames)


def _batches(pieces: Iterable[_Piece | None], most: int) -> Iterator[list[_Piece]]:
    """So many at a time, or fewer where more would take too much memory, or have to be waited for."""
    batch: list[_Piece] = []
    bodies = size = 0
    for piece in pieces:
        if piece is not None:
            full = bodies + len(piece.joints) > 2 * most or size + piece.joints.nbytes > _MOST_BYTES
            if batch and full:
                yield batch
                batch, bodies, size = [], 0, 0
            batch.append(piece)
            bodies, size = bodies + len(piece.joints), size + piece.joints.nbytes
        if batch and (piece is None or len(batch) == most):
            yield batch
            batch, bodies, size = [], 0, 0
    if batch:
        yield batch


class _Teller:
    """Says what was found, in the order of the recordings."""

    def __init__(self, description: Description, top: int, fps: float, *, is_timed: bool, say: Say) -> None:
        self.clips = self.windows = self.problems = 0
        self._classes, self._top, self._fps, self._is_timed, self._say = description.classes, top, fps, is_timed, say
        self._timeline = Timeline()

    def problem(self, source: str, why: str) -> None:
        """What could not be read."""
        self.problems += 1
        self._say({"problem": {"source": source, "error": why}})

    def begin(self, one: Recording) -> None:
        """A recording that was read."""
        self.clips += 1
        for doubt in one.doubts:
            self._say({"doubt": {"source": one.source, "text": f"{one.source}: {doubt}"}})

    def tell(self, piece: _Piece, row: npt.NDArray[np.float64] | None) -> None:
        """The probabilities (C,) of a piece; None of a window in which nobody is seen."""
        one = piece.recording
        whose = {"source": one.source, "clip": one.name}
        if not self._is_timed and row is not None:
            self._say({"clip": {**whose, "frames": one.frames, "top": self._best(row)}})
            return
        if row is not None:
            self.windows += 1
            self._say({"window": {**whose, **self._span(piece.begin, piece.end), "top": self._best(row)}})
            self._segments(whose, self._timeline.add(piece.begin, piece.end, row))
        if piece.is_last:
            self._segments(whose, self._timeline.close())
            self._timeline = Timeline()

    def _segments(self, whose: dict[str, str], segments: Iterable[Segment]) -> None:
        for one in segments:
            what = {"class": self._classes[one.label], "number": one.label, "probability": one.probability}
            self._say({"segment": {**whose, **self._span(one.begin, one.end), **what}})

    def _span(self, begin: int, end: int) -> dict[str, float]:
        return {"begin": begin, "end": end, "begin_seconds": begin / self._fps, "end_seconds": end / self._fps}

    def _best(self, row: npt.NDArray[np.float64]) -> list[dict[str, Any]]:
        best = np.argsort(-row, kind="stable")[: self._top]
        return [{"class": self._classes[n], "number": int(n), "probability": float(row[n])} for n in best]
