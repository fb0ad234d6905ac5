"""What must hold for any bytes whatever: a recording, and a clip of it, or a named error; both readers say the same."""

from __future__ import annotations

import numpy as np

from last_e.prepare.people import FARTHEST_MM, NobodyError, choose_people
from last_e.prepare.scan import SMALLEST_BODY
from last_e.prepare.skeleton import Recording, SkeletonError, parse, parse_carefully


def check(data: bytes) -> None:
    """Read bytes both ways.

    Raises:
        AssertionError: one of the readers broke its promise.
    """
    fast, slow = attempt(parse, data), attempt(parse_carefully, data)
    if isinstance(slow, Recording):
        assert isinstance(fast, Recording), fast
        same(fast, slow)
        assert len(slow.body) <= len(data) // 75 + 1, "more bodies than the bytes can hold"
    # The fast reader does not look into columns that nobody uses, so it may take a line that the careful one refuses.
    if not isinstance(fast, Recording):
        return
    assert fast.joints.shape == (len(fast.body), 25, 3)
    assert len(fast.body) <= len(data) // SMALLEST_BODY + 1 or isinstance(slow, Recording)
    try:
        clip = choose_people(fast)
    except NobodyError as error:
        one_line(error)
        return
    people, frames, *rest = clip.joints.shape
    assert 1 <= people <= 2
    assert 1 <= frames <= fast.frames
    assert rest == [25, 3]
    assert clip.joints.dtype == np.int16
    assert np.abs(clip.joints.astype(int)).max() <= FARTHEST_MM
    assert clip.error <= 0.5 + 1e-6


def attempt(reader, data: bytes):
    try:
        return reader(data)
    except SkeletonError as error:
        one_line(error)
        return error


def one_line(error: Exception) -> None:
    message = str(error)
    assert message
    assert len(message.splitlines()) == 1
    assert len(message) < 300


def same(a: Recording, b: Recording) -> None:
    assert a.frames == b.frames
    np.testing.assert_array_equal(a.frame, b.frame)
    np.testing.assert_array_equal(a.body, b.body)
    # 15 digits are read exactly; more, as no float32 has them, to the last bit but one.
    np.testing.assert_allclose(a.joints, b.joints, rtol=4e-16, atol=0)
