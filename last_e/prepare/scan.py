"""The usual layout of a ``.skeleton`` file, read in one pass of machine code (numba).

What it takes, it reads right; whatever looks otherwise it leaves to :mod:`last_e.prepare.skeleton`, which is slow, careful and
says what is wrong. Without numba everything goes that way.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from last_e.machine_code import THERE, compiled, part

COMPILED = THERE
"""Whether the fast reader is there; without it reading takes about 15 times as long."""
SMALLEST_BODY = 600
"""Bytes that a body in a frame has at least: 25 lines of 12 values, one of 10, one of 1."""
SPACES_OF_BODY = 9 + 25 * 11

_SPACE, _POINT, _MINUS, _PLUS, _ZERO, _CR, _LF = 32, 46, 45, 43, 48, 13, 10
_POWERS = 10.0 ** np.arange(23)  # all exact, so one multiplication or division rounds correctly
_LOW_BITS = np.uint64(0x0101010101010101)
_HIGH_BITS = np.uint64(0x8080808080808080)
_LINE_ENDS = np.uint64(0x0A0A0A0A0A0A0A0A)
_ONE, _THREE, _EIGHT, _TOP_BYTE = np.uint64(1), np.uint64(3), np.uint64(8), np.uint64(56)


@part
def _whole(text: npt.NDArray[np.uint8], at: int) -> tuple[int, int]:
    """The whole number at ``at`` (-1: none, or one too long for 64 bits) and the place behind it."""
    value = np.int64(0)
    first = at
    while 0 <= np.int64(text[at]) - _ZERO <= 9 and at < first + 18:
        value = value * 10 + (np.int64(text[at]) - _ZERO)
        at += 1
    return (value if at > first else np.int64(-1)), at


@part
def _line_end(text: npt.NDArray[np.uint8], at: int) -> int:
    """The place behind a line end (LF or CRLF) that stands at ``at``; -1 where none does."""
    if text[at] == _CR:
        at += 1
    return at + 1 if text[at] == _LF else -1


@part
def _next_line(text: npt.NDArray[np.uint8], words: npt.NDArray[np.uint64], at: int) -> int:
    """The place behind the next line end, found eight bytes at a time.

    After the exclusive or, a line end is a byte of zeros; the lowest of these is where x - 1 borrows from a clear high bit
    first (Mycroft's test). Counting the bytes below it needs no branch either.
    """
    word, count = np.uint64(at >> 3), np.uint64(len(words))  # unsigned: no index can count from the end
    if word < count:
        below = (_ONE << (_EIGHT * np.uint64(at & 7))) - _ONE
        x = (words[word] ^ _LINE_ENDS) | below  # what stands before `at` is no line end
        while True:
            hit = (x - _LOW_BITS) & ~x & _HIGH_BITS
            if hit:
                bytes_below = (((hit & (~hit + _ONE)) - _ONE) & _LOW_BITS) * _LOW_BITS >> _TOP_BYTE
                place: int = np.int64((word << _THREE) + bytes_below)
                return place
            word += _ONE
            if word == count:
                break
            x = words[word] ^ _LINE_ENDS
        at = np.int64(word << _THREE)
    while text[at] != _LF:
        at += 1
    return at + 1


@part
def _number(text: npt.NDArray[np.uint8], at: int) -> tuple[float, int]:
    """The decimal number at ``at`` and the place behind it (-1: none, or an unusual one).

    At most 15 digits, as float32 never has more: correctly rounded; up to 18: to the last bit but one.
    """
    negative = text[at] == _MINUS
    if negative:
        at += 1
    mantissa = np.int64(0)
    first = at
    while 0 <= np.int64(text[at]) - _ZERO <= 9:
        mantissa = mantissa * 10 + (np.int64(text[at]) - _ZERO)  # may overflow; such a number is refused below
        at += 1
    digits = at - first
    exponent = 0
    if text[at] == _POINT:
        at += 1
        first = at
        while 0 <= np.int64(text[at]) - _ZERO <= 9:
            mantissa = mantissa * 10 + (np.int64(text[at]) - _ZERO)
            at += 1
        exponent = first - at
        digits -= exponent
    if digits < 1 or digits > 18:
        return 0.0, -1
    if text[at] == 69 or text[at] == 101:  # E or e
        at += 1
        down = text[at] == _MINUS
        if down or text[at] == _PLUS:
            at += 1
        shift, at = _whole(text, at)
        if shift < 0 or shift > 99:
            return 0.0, -1
        exponent += -shift if down else shift
    if exponent < -22 or exponent > 22:
        return 0.0, -1
    value = float(mantissa)
    if exponent < 0:
        value /= _POWERS[-exponent]
    elif exponent > 0:
        value *= _POWERS[exponent]
    return (-value if negative else value), at


def _scan(
    text: npt.NDArray[np.uint8],
    words: npt.NDArray[np.uint64],
    joints: npt.NDArray[np.float64],
    frame: npt.NDArray[np.int64],
    ident: npt.NDArray[np.int64],
) -> tuple[int, int]:
    """Fill ``joints`` (B, 25, 3), ``frame`` (B,) and ``ident`` (B,), one entry a body and frame.

    Returns how many there are and the number of frames; (-1, 0) when the text is not of the usual layout. The text ends with a
    line end, where everything that reads on stops; so it is enough to ask at the beginning of each line whether there is one.
    """
    size = len(text)
    found = 0
    frames, at = _whole(text, 0)
    at = _line_end(text, at)
    if frames < 0 or at < 0:
        return -1, 0
    for number in range(frames):
        if at >= size:
            return -1, 0
        bodies, at = _whole(text, at)
        at = _line_end(text, at)
        if bodies < 0 or at < 0:
            return -1, 0
        for _ in range(bodies):
            if found >= len(frame) or at >= size:
                return -1, 0
            ident[found], at = _whole(text, at)
            if ident[found] < 0 or text[at] != _SPACE:
                return -1, 0
            at = _next_line(text, words, at)
            if at >= size:
                return -1, 0
            count, at = _whole(text, at)
            at = _line_end(text, at)
            if count != 25 or at < 0:
                return -1, 0
            for joint in range(25):
                if at >= size:
                    return -1, 0
                for axis in range(3):
                    joints[found, joint, axis], at = _number(text, at)
                    if at < 0 or text[at] != _SPACE:
                        return -1, 0
                    at += 1
                at = _next_line(text, words, at)
            frame[found] = number
            found += 1
    if at < size:
        return -1, 0
    # The columns behind x y z were not read, but there must be as many as there should be.
    spaces = 0
    for place in range(size):
        spaces += text[place] == _SPACE
    return (found, frames) if spaces == found * SPACES_OF_BODY else (-1, 0)


@cache
def _machine_code() -> Callable[..., Any]:
    """:func:`_scan`, made or read when the first file is."""
    text, words = (f"Array({kind}, 1, 'C', readonly=True)" for kind in ("uint8", "uint64"))  # of bytes, which nobody writes
    return compiled(f"({text},{words},float64[:,:,::1],int64[::1],int64[::1])", _scan)


def scan(data: bytes) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64], npt.NDArray[np.int64], int] | None:
    """Joints (B, 25, 3) metres, frame (B,) and body id (B,) of every body in every frame, and the number of frames.

    None where the text is not of the usual layout, or numba is not there: then the careful reader has to look.
    """
    if not COMPILED:
        return None
    if not data.endswith(b"\n"):
        data += b"\n"
    text, words = np.frombuffer(data, np.uint8), np.frombuffer(data, np.uint64, count=len(data) // 8)
    most = len(data) // SMALLEST_BODY + 1  # grows with the file, never with the counts that the file claims
    joints = np.empty((most, 25, 3))
    frame, ident = np.empty(most, np.int64), np.empty(most, np.int64)
    found, frames = _machine_code()(text, words, joints, frame, ident)
    if found < 0:
        return None
    return joints[:found], frame[:found], ident[:found], frames
