"""From the bytes of a ``.skeleton`` file to bodies and joints; any bytes give a recording or a :class:`SkeletonError`.

The text: number of frames; per frame the number of bodies (0 happens); per body a line of 10 values (id first), a line with the
number of joints (25), then a line a joint of 12 values, the first three x y z in metres.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from last_e.datafile import DataError
from last_e.joints import NUM_JOINTS
from last_e.prepare.names import no_download

MAX_BYTES = 64 * 2**20
"""Larger files are no recordings: the largest of NTU has about 4 MB."""
VALUES_OF_BODY, VALUES_OF_JOINT = 10, 12
_IDENT = re.compile(rb"-?\d{1,20}")
_ROUNDED = "; an export has rounded this one, as it may have others to the same"
MOST_DIGITS = 1000
"""Of three coordinates together."""

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


class SkeletonError(DataError):
    """A file that is no whole recording: what is wrong and in which line."""


@dataclass(frozen=True)
class Recording:
    """What one file holds: B bodies-in-a-frame, in the order of the file."""

    frames: int
    joints: Floats
    """(B, 25, 3) metres; may hold NaN and infinity, as the file does."""
    frame: Ints
    """(B,) 0-based."""
    body: Ints
    """(B,) the id that the sensor gave: stays with a person while they are tracked, whatever the order in the frame."""


def parse(data: bytes) -> Recording:
    """Read a file's bytes.

    Raises:
        SkeletonError: they are no whole recording.
    """
    from last_e.prepare.scan import scan  # with numba, which takes half a second: most that import this read no recording

    if len(data) > MAX_BYTES:
        raise SkeletonError(f"larger than {MAX_BYTES // 2**20} MiB: no recording is")
    found = scan(data)
    if found is None and (mended := _as_written(data)) != data:
        data, found = mended, scan(mended)
    if found is None:
        return parse_carefully(data)
    joints, frame, body, frames = found
    recording = Recording(frames, joints, frame, body)
    _no_body_twice(recording)
    return recording


_NOT_DECIMAL = re.compile(rb"(?<!\d),|,(?!\d)|[.,]\d+[.,]")
"""A comma that is no decimal one: not between digits, or of a number with another comma or a point."""


def _as_written(data: bytes) -> bytes:
    """The bytes without what editors, copies and other countries' settings do: marks of byte order (and UTF-16 itself), another
    system's ends of lines, what is no text at the end, decimal commas (nobody stands so far away that they group thousands)."""
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        data = data.decode("utf-16", "replace").encode()
    data = data.removeprefix(codecs.BOM_UTF8).rstrip(b"\0\x1a") or data
    data = data if b"\n" in data else data.replace(b"\r", b"\n")
    return data.replace(b",", b".") if b"," in data and not _NOT_DECIMAL.search(data) else data


def parse_carefully(data: bytes) -> Recording:
    """The same, line by line, for every layout that can be understood; says what is wrong with the others.

    Raises:
        SkeletonError: the bytes are no whole recording.
    """
    told = no_download(data.strip()[:1])
    if told is not None:
        raise SkeletonError(told)
    lines = _Lines(data)
    joints: list[list[list[float]]] = []
    frame, body = [], []
    frames = lines.count("number of frames")
    for number in range(frames):
        for _ in range(lines.count("number of bodies")):
            words = lines.words("a body", VALUES_OF_BODY)
            if not _IDENT.fullmatch(words[0]) or not -(2**63) <= int(words[0]) < 2**63:
                raise lines.error(f"{_shown(words[0])} is no body id (a whole number{_ROUNDED if b'e' in words[0] else ''})")
            count = lines.count("number of joints")
            if count != NUM_JOINTS:
                raise lines.error(f"{count} joints instead of {NUM_JOINTS}")
            body.append(int(words[0]))
            frame.append(number)
            joints.append([lines.point() for _ in range(NUM_JOINTS)])
    lines.end()
    points = np.array(joints, dtype=np.float64).reshape(-1, NUM_JOINTS, 3)
    recording = Recording(frames, points, np.array(frame, dtype=np.int64), np.array(body, dtype=np.int64))
    _no_body_twice(recording)
    return recording


class _Lines:
    """The lines of a file one after the other, with the number of the newest for errors."""

    def __init__(self, data: bytes) -> None:
        self._lines: Iterator[bytes] = iter(data.split(b"\n"))
        self.number = 0

    def error(self, what: str) -> SkeletonError:
        return SkeletonError(f"line {self.number}: {what}")

    def words(self, what: str, count: int) -> list[bytes]:
        """The next line's ``count`` values."""
        self.number += 1
        line = next(self._lines, None)
        if line is None or (not line.strip() and all(not rest.strip() for rest in self._lines)):
            raise self.error(f"the file ends where {what} should stand")
        words = line.split()
        if len(words) != count:
            raise self.error(f"{len(words)} values where {what} has {count}")
        return words

    def count(self, what: str) -> int:
        word = self.words(f"the {what}", 1)[0]
        # No count can be that long, and int() of a very long text takes forever.
        if not (word.isdigit() and len(word) <= 9):
            raise self.error(f"{_shown(word)} is no {what}")
        return int(word)

    def point(self) -> list[float]:
        """x y z of a joint."""
        words = self.words("a joint", VALUES_OF_JOINT)[:3]
        text = b" ".join(words)
        try:
            if b"_" in text or len(text) > MOST_DIGITS:  # float() takes 1_000, and forever for a million digits
                raise ValueError
            return [float(word) for word in words]
        except ValueError:
            raise self.error(f"{_shown(text)} are no three coordinates") from None

    def end(self) -> None:
        for line in self._lines:
            self.number += 1
            if line.strip():
                raise self.error("the file goes on after its last frame")


def _no_body_twice(recording: Recording) -> None:
    """One id is one person: it cannot be seen twice in a frame."""
    if len(recording.body) < 2:
        return
    order = np.lexsort((recording.frame, recording.body))
    body, frame = recording.body[order], recording.frame[order]
    twice = np.flatnonzero((body[1:] == body[:-1]) & (frame[1:] == frame[:-1]))
    if len(twice):
        raise SkeletonError(f"frame {frame[twice[0]] + 1}: body {body[twice[0]]} is there twice")


def _shown(word: bytes) -> str:
    text = word.decode("ascii", "backslashreplace")
    return repr(text if len(text) <= 40 else text[:37] + "...")
