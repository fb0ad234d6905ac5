"""Loops over activations on a CPU, compiled by numba: one pass over memory where torch's operations need three to six.

Importing this module compiles them for this CPU (some seconds), once: :mod:`last_e.machine_code` keeps them. Nothing here knows
of autograd; :mod:`last_e.model.functions` decides when they run.

Shapes: R rows of C channels, N clips, T frames, V joints, S = V K of joints and subsets; float32 and C-contiguous, the channels
innermost, so that every loop over them becomes vector instructions without a sum changing its order. Each loop has its share
``begin`` to ``end`` of what it says it goes over. What it adds up has a place of its own for each of these, so that no number
depends on how many threads there are.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch

from last_e.machine_code import compiled, part

Floats = npt.NDArray[np.float32]
Indices = npt.NDArray[np.int64]
F = TypeVar("F", bound=Callable[..., Any])

BLOCK = 1024
"""Rows that are added up in float32; their sums are added in float64."""

SOME = 32
"""Rows whose mean stands for that of a block while its squares are added up: one row alone may be far off."""
PIECES = 4
"""Pieces of work for each thread, so that one whose core others use too does fewer."""
HARDSWISH, NO_ACTIVATION = (np.float32(1 / 6), np.float32(0.5)), (np.float32(0), np.float32(1))

_ZERO, _ONE = np.float32(0), np.float32(1)
_SIXTH, _HALF = HARDSWISH
_threads = ThreadPoolExecutor(os.cpu_count(), "loops")


def share(loop: Callable[..., None], count: int, *arguments: object) -> None:
    """Run ``loop(*arguments, begin, end)`` over ``range(count)`` on as many threads as torch uses."""
    threads = min(torch.get_num_threads(), count)
    pieces = min(PIECES * threads, count)
    left = itertools.count()

    def work() -> None:
        while (piece := next(left)) < pieces:
            loop(*arguments, count * piece // pieces, count * (piece + 1) // pieces)

    others = [_threads.submit(work) for _ in range(threads - 1)]
    try:
        work()
    finally:
        wait(others)  # they write to what the caller may give away
    for other in others:
        other.result()


def _compiled(*arguments: str) -> Callable[[F], F]:
    """Machine code for arguments of these types and two whole numbers."""
    names = {"row": "float32[::1]", "rows": "float32[:,::1]", "cube": "float32[:,:,::1]", "clips": "float32[:,:,:,::1]"}
    signature = f"void({','.join(names.get(argument, argument) for argument in arguments)},int64,int64)"
    return lambda function: compiled(signature, function)


@part
def _clip(u: Any) -> Any:
    u = u if u > _ZERO else _ZERO  # as one instruction; min and max are more
    return u if u < _ONE else _ONE


@part
def _steepness(v: Any, slope: Any, offset: Any) -> Any:
    """The derivative of v clip(slope v + offset)."""
    u = v * slope + offset
    clipped = _clip(u)
    return clipped + (v * slope if clipped == u else _ZERO)


# --- batch norm and activation: y = v clip(slope v + offset) with v = (x - mean) scale + bias ------------------------------
# slope 1/6 and offset 1/2 are Hardswish, 0 and 1 are none. ``affine`` (3, C): mean, scale, bias.


@_compiled("rows", "rows", "cube")
def moments(x: Floats, origins: Floats, sums: Floats, begin: int, end: int) -> None:
    """Over blocks: ``origins`` (blocks, C), amid the values, and ``sums`` (blocks, 2, C) of x - origin and of its square."""
    rows, channels = x.shape
    for block in range(begin, end):
        first, last = block * BLOCK, min(rows, (block + 1) * BLOCK)
        some = min(SOME, last - first)
        origins[block] = _ZERO
        for row in range(first, first + some):
            for c in range(channels):
                origins[block, c] += x[row, c] / np.float32(some)
        sums[block] = _ZERO
        for row in range(first, last):
            for c in range(channels):
                value = x[row, c] - origins[block, c]
                sums[block, 0, c] += value
                sums[block, 1, c] += value * value


@_compiled("rows", "rows", "float32", "float32", "rows")
def norm(x: Floats, affine: Floats, slope: float, offset: float, y: Floats, begin: int, end: int) -> None:
    """Over rows: y."""
    for row in range(begin, end):
        for c in range(x.shape[1]):
            v = (x[row, c] - affine[0, c]) * affine[1, c] + affine[2, c]
            y[row, c] = v * _clip(v * slope + offset)


@_compiled("rows", "rows", "rows", "rows")
def norm_and_add(x: Floats, affine: Floats, other: Floats, y: Floats, begin: int, end: int) -> None:
    """Over rows: y = v + other."""
    for row in range(begin, end):
        for c in range(x.shape[1]):
            y[row, c] = (x[row, c] - affine[0, c]) * affine[1, c] + affine[2, c] + other[row, c]


@_compiled("rows", "rows", "rows", "float32", "float32", "cube")
def norm_sums(
    x: Floats, affine: Floats, gradient: Floats, slope: float, offset: float, sums: Floats, begin: int, end: int
) -> None:
    """Over blocks: ``sums`` (blocks, 2, C) of the gradient at v, and of that times x - mean."""
    rows, channels = x.shape
    for block in range(begin, end):
        sums[block] = _ZERO
        for row in range(block * BLOCK, min(rows, (block + 1) * BLOCK)):
            for c in range(channels):
                centred = x[row, c] - affine[0, c]
                at_v = gradient[row, c] * _steepness(centred * affine[1, c] + affine[2, c], slope, offset)
                sums[block, 0, c] += at_v
                sums[block, 1, c] += at_v * centred


@_compiled("rows", "rows", "rows", "float32", "float32", "rows", "rows")
def norm_backward(
    x: Floats,
    affine: Floats,
    gradient: Floats,
    slope: float,
    offset: float,
    terms: Floats,
    for_x: Floats,
    begin: int,
    end: int,
) -> None:
    """Over rows: the gradient at v times scale, plus (x - mean) ``terms[0]`` + ``terms[1]``."""
    for row in range(begin, end):
        for c in range(x.shape[1]):
            centred = x[row, c] - affine[0, c]
            at_v = gradient[row, c] * _steepness(centred * affine[1, c] + affine[2, c], slope, offset)
            for_x[row, c] = at_v * affine[1, c] + centred * terms[0, c] + terms[1, c]


@_compiled("rows", "rows", "rows", "rows")
def norm_backward_in_place(x: Floats, affine: Floats, terms: Floats, gradient: Floats, begin: int, end: int) -> None:
    """Over rows: the same without an activation, in the place of the gradient."""
    for row in range(begin, end):
        for c in range(x.shape[1]):
            indirect = (x[row, c] - affine[0, c]) * terms[0, c] + terms[1, c]
            gradient[row, c] = gradient[row, c] * affine[1, c] + indirect


# --- batch norm, Hardswish, depthwise convolution: y[t] = sum_k weight[k] Hardswish(v[stride t + k - 2]), k from 0 to 4 ------
# What Hardswish gives is kept for one clip at a time, with two frames of zeros at both ends.


@part
def _bend(x: Floats, affine: Floats, bent: Floats) -> None:
    """Hardswish(v) of one clip (T, V, C), between the zeros of ``bent`` (T + 4, V, C)."""
    frames, joints, channels = x.shape
    for t in range(frames):
        for v in range(joints):
            for c in range(channels):
                value = (x[t, v, c] - affine[0, c]) * affine[1, c] + affine[2, c]
                bent[t + 2, v, c] = value * _clip(value * _SIXTH + _HALF)


@_compiled("clips", "rows", "rows", "int64", "clips", "rows", "cube")
def depthwise(
    x: Floats, affine: Floats, weight: Floats, stride: int, y: Floats, origins: Floats, sums: Floats, begin: int, end: int
) -> None:
    """Over clips: x (N, T, V, C) -> y (N, ceil(T / stride), V, C), its ``origins`` (N, C) and ``sums`` (N, 2, C) as above."""
    _, frames, joints, channels = x.shape
    bent = np.zeros((frames + 4, joints, channels), np.float32)
    for clip in range(begin, end):
        origins[clip] = _ZERO
        sums[clip] = _ZERO
        _bend(x[clip], affine, bent)
        for t in range(y.shape[1]):
            at = t * stride
            for v in range(joints):
                for c in range(channels):
                    before = weight[0, c] * bent[at, v, c] + weight[1, c] * bent[at + 1, v, c]
                    after = weight[3, c] * bent[at + 3, v, c] + weight[4, c] * bent[at + 4, v, c]
                    y[clip, t, v, c] = before + weight[2, c] * bent[at + 2, v, c] + after
                if t == 0:
                    for c in range(channels):
                        origins[clip, c] += y[clip, t, v, c] / np.float32(joints)
            for v in range(joints):
                for c in range(channels):
                    difference = y[clip, t, v, c] - origins[clip, c]
                    sums[clip, 0, c] += difference
                    sums[clip, 1, c] += difference * difference


@_compiled("clips", "rows", "clips", "rows", "clips", "rows", "rows", "int64", "clips", "cube", "cube")
def depthwise_backward(
    x: Floats,
    affine: Floats,
    y: Floats,
    affine_of_y: Floats,
    gradient: Floats,
    terms: Floats,
    weight: Floats,
    stride: int,
    at_v: Floats,
    sums: Floats,
    for_weight: Floats,
    begin: int,
    end: int,
) -> None:
    """Over clips: the gradient of Hardswish(norm(y)) -> that at v (N, T, V, C), its ``sums`` (N, 2, C), as
    :func:`norm_sums` makes them, and ``for_weight`` (N, 5, C).
    """
    _, frames, joints, channels = x.shape
    bent = np.zeros((frames + 4, joints, channels), np.float32)
    flowing = np.zeros((frames + 4, joints, channels), np.float32)  # at y; zeros where the stride leaves a frame out
    for clip in range(begin, end):
        sums[clip] = _ZERO
        for_weight[clip] = _ZERO
        _bend(x[clip], affine, bent)
        for t in range(y.shape[1]):
            at = t * stride
            for v in range(joints):
                for c in range(channels):
                    centred = y[clip, t, v, c] - affine_of_y[0, c]
                    steepness = _steepness(centred * affine_of_y[1, c] + affine_of_y[2, c], _SIXTH, _HALF)
                    direct = gradient[clip, t, v, c] * steepness * affine_of_y[1, c]
                    flowing[at + 2, v, c] = direct + centred * terms[0, c] + terms[1, c]
                for c in range(channels):
                    flow = flowing[at + 2, v, c]
                    for_weight[clip, 0, c] += flow * bent[at, v, c]
                    for_weight[clip, 1, c] += flow * bent[at + 1, v, c]
                    for_weight[clip, 2, c] += flow * bent[at + 2, v, c]
                    for_weight[clip, 3, c] += flow * bent[at + 3, v, c]
                    for_weight[clip, 4, c] += flow * bent[at + 4, v, c]
        for t in range(frames):
            for v in range(joints):
                for c in range(channels):
                    before = weight[0, c] * flowing[t + 4, v, c] + weight[1, c] * flowing[t + 3, v, c]
                    after = weight[3, c] * flowing[t + 1, v, c] + weight[4, c] * flowing[t, v, c]
                    at_v[clip, t, v, c] = before + weight[2, c] * flowing[t + 2, v, c] + after
                for c in range(channels):
                    centred = x[clip, t, v, c] - affine[0, c]
                    here = at_v[clip, t, v, c] * _steepness(centred * affine[1, c] + affine[2, c], _SIXTH, _HALF)
                    at_v[clip, t, v, c] = here
                    sums[clip, 0, c] += here
                    sums[clip, 1, c] += here * centred


# --- the mixing of joints: output s of a frame is the sum of weight[e] x[source[e]] over e from first[s] to first[s + 1] -----


@_compiled("cube", "int64[::1]", "int64[::1]", "rows", "int64", "cube")
def mix(x: Floats, first: Indices, source: Indices, weight: Floats, frames: int, out: Floats, begin: int, end: int) -> None:
    """Over frames: x (N T, V, C) -> out (N T, S, C).

    ``weight`` (N or 1, E): a row for all, or for each clip of so many frames.
    """
    channels = x.shape[2]
    for frame in range(begin, end):
        clip = frame // frames if weight.shape[0] > 1 else 0
        for s in range(out.shape[1]):
            begins, ends = first[s], first[s + 1]
            if (ends - begins) % 2:
                w, joint = weight[clip, begins], source[begins]
                for c in range(channels):
                    out[frame, s, c] = w * x[frame, joint, c]
            else:
                out[frame, s] = _ZERO
            for e in range(begins + (ends - begins) % 2, ends, 2):  # two at a time: half the reading and writing of sums
                w, joint, w2, joint2 = weight[clip, e], source[e], weight[clip, e + 1], source[e + 1]
                for c in range(channels):
                    out[frame, s, c] += w * x[frame, joint, c] + w2 * x[frame, joint2, c]


@_compiled("cube", "cube", "int64[::1]", "int64[::1]", "rows", "int64", "cube", "rows")
def mix_backward(
    x: Floats,
    gradient: Floats,
    first: Indices,
    source: Indices,
    weight: Floats,
    frames: int,
    for_x: Floats,
    for_weight: Floats,
    begin: int,
    end: int,
) -> None:
    """Over clips: gradient (N T, S, C) -> for_x (N T, V, C) and for_weight (N, E)."""
    channels, outputs = x.shape[2], gradient.shape[1]
    sums = np.empty((len(source), channels), np.float32)
    for clip in range(begin, end):
        sums[:] = _ZERO
        row = clip if weight.shape[0] > 1 else 0
        for frame in range(clip * frames, (clip + 1) * frames):
            for_x[frame] = _ZERO
            for s in range(outputs):
                for e in range(first[s], first[s + 1]):
                    w, joint = weight[row, e], source[e]
                    for c in range(channels):
                        flowing = gradient[frame, s, c]
                        for_x[frame, joint, c] += w * flowing
                        sums[e, c] += x[frame, joint, c] * flowing
        for e in range(len(source)):
            total = 0.0
            for c in range(channels):
                total += sums[e, c]
            for_weight[clip, e] = total


# --- what the gates see, and what they do --------------------------------------------------------------------------------


@_compiled("clips", "rows", "cube", "cube")
def pool(x: Floats, motion: Floats, by_frame: Floats, by_joint: Floats, begin: int, end: int) -> None:
    """Over clips: x (N, T, V, C) -> means of |x[t+1] - x[t]| (N, C), over joints (N, T, C), over frames (N, V, C)."""
    _, frames, joints, channels = x.shape
    moved = np.empty(channels, np.float32)
    for clip in range(begin, end):
        motion[clip], by_frame[clip], by_joint[clip] = _ZERO, _ZERO, _ZERO
        for t in range(frames):
            moved[:] = _ZERO
            before = max(t - 1, 0)
            for v in range(joints):
                for c in range(channels):
                    value = x[clip, t, v, c]
                    by_frame[clip, t, c] += value
                    by_joint[clip, v, c] += value
                    moved[c] += abs(value - x[clip, before, v, c])
            for c in range(channels):
                by_frame[clip, t, c] /= np.float32(joints)
                motion[clip, c] += moved[c]
        motion[clip] /= np.float32((frames - 1) * joints)
        by_joint[clip] /= np.float32(frames)


@_compiled("clips", "clips", "rows", "cube", "cube", "clips")
def pool_backward(
    x: Floats, gradient: Floats, motion: Floats, by_frame: Floats, by_joint: Floats, for_x: Floats, begin: int, end: int
) -> None:
    """Over clips: x's other gradient, and those of :func:`pool`'s means, each divided by its count -> for_x (N, T, V, C)."""
    _, frames, joints, channels = x.shape
    for clip in range(begin, end):
        for t in range(frames):
            before, after = max(t - 1, 0), min(t + 1, frames - 1)
            for v in range(joints):
                for c in range(channels):
                    value = x[clip, t, v, c]
                    came, goes = value - x[clip, before, v, c], x[clip, after, v, c] - value
                    sign = (_ONE if came > 0 else _ZERO) - (_ONE if came < 0 else _ZERO)
                    sign += (_ONE if goes < 0 else _ZERO) - (_ONE if goes > 0 else _ZERO)
                    other = gradient[clip, t, v, c] + by_frame[clip, t, c] + by_joint[clip, v, c]
                    for_x[clip, t, v, c] = other + motion[clip, c] * sign


@_compiled("clips", "clips", "rows", "cube", "cube", "clips")
def scale_and_add(base: Floats, x: Floats, p: Floats, q: Floats, s: Floats, out: Floats, begin: int, end: int) -> None:
    """Over clips: base + x (p + q s), p (N, C), q (N, T, C), s (N, V, C), the rest (N, T, V, C)."""
    _, frames, joints, channels = x.shape
    for clip in range(begin, end):
        for t in range(frames):
            for v in range(joints):
                for c in range(channels):
                    factor = p[clip, c] + q[clip, t, c] * s[clip, v, c]
                    out[clip, t, v, c] = base[clip, t, v, c] + x[clip, t, v, c] * factor


@_compiled("clips", "clips", "rows", "cube", "cube", "clips", "rows", "cube", "cube")
def scale_backward(
    x: Floats,
    gradient: Floats,
    p: Floats,
    q: Floats,
    s: Floats,
    for_x: Floats,
    for_p: Floats,
    for_q: Floats,
    for_s: Floats,
    begin: int,
    end: int,
) -> None:
    """Over clips: the gradients of :func:`scale_and_add`."""
    _, frames, joints, channels = x.shape
    both, of_frame = np.empty(channels, np.float32), np.empty(channels, np.float32)
    for clip in range(begin, end):
        for_p[clip], for_q[clip], for_s[clip] = _ZERO, _ZERO, _ZERO
        for t in range(frames):
            of_frame[:] = _ZERO
            for v in range(joints):
                for c in range(channels):
                    flowing = gradient[clip, t, v, c]
                    for_x[clip, t, v, c] = flowing * (p[clip, c] + q[clip, t, c] * s[clip, v, c])
                    both[c] = flowing * x[clip, t, v, c]
                for c in range(channels):
                    of_frame[c] += both[c]
                    for_s[clip, v, c] += both[c] * q[clip, t, c]
                for c in range(channels):
                    for_q[clip, t, c] += both[c] * s[clip, v, c]
            for c in range(channels):
                for_p[clip, c] += of_frame[c]
