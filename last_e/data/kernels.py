"""A batch in two kernels for NVIDIA GPUs, in Triton: what :mod:`last_e.rng`, :mod:`last_e.data.transform` and
:mod:`last_e.data.shown` make of some hundred operations of torch.

The integers of the hash are torch's to the bit, and so is all that is drawn for dropout. Coordinates are torch's within
rounding: a multiplication and an addition may be one operation here.

n clips of a batch, r rows (a clip's bodies one after the other), T frames, V joints.
"""

from __future__ import annotations

import triton
import triton.language as tl

from last_e import rng
from last_e.data import transform

CROP, WARP, JITTER, MIRROR = (tl.constexpr(one) for one in (rng.CROP, rng.WARP, rng.JITTER, rng.MIRROR))
DROPOUT, DROP_PATH = tl.constexpr(rng.DROPOUT), tl.constexpr(rng.DROP_PATH)
TILT, SHEAR, SCALING = (tl.constexpr(one) for one in (transform.MAX_ANGLE, transform.MAX_SHEAR, transform.MAX_SCALING))
METRES, NORMAL = tl.constexpr(transform.JITTER_METRES), tl.constexpr(3**0.5 / 65536)


# --- the hash: last_e.rng ----------------------------------------------------------------------------------------------------


@triton.jit
def mix(x):
    """lowbias32 of uint32."""
    x ^= x >> 16
    x *= 0x7FEB352D
    x ^= x >> 15
    x *= 0x846CA68B
    return x ^ (x >> 16)


@triton.jit
def key_of(keys, PURPOSE: tl.constexpr):
    """A purpose's key, of all that there are: uint32."""
    return tl.load(keys + PURPOSE).to(tl.uint32)


@triton.jit
def line_of(key, index):
    """Where the numbers of an index (int64) begin: uint32."""
    return mix(mix(index.to(tl.uint32) ^ key) + (index >> 32).to(tl.uint32))


@triton.jit
def place_of(column):
    """What a column (int32) adds to that: uint32."""
    return (column + 1).to(tl.uint32) * 0x9E3779B9


@triton.jit
def random_bits(key, line, place):
    """32 of them: uint32."""
    return mix(mix(line ^ place) ^ key)


@triton.jit
def uniform(key, line, place):
    """[0, 1), multiples of 2^-24."""
    return (random_bits(key, line, place) >> 8).to(tl.float32) * 5.9604644775390625e-08


@triton.jit
def uniform_at(key, line, COLUMN: tl.constexpr):
    """The same of a column that is known beforehand."""
    return uniform(key, line, ((COLUMN + 1) * 0x9E3779B9) & 0xFFFFFFFF)


@triton.jit
def normal(key, line, column, columns):
    """The sum of four 16-bit uniforms, centred and scaled."""
    one, two = random_bits(key, line, place_of(column)), random_bits(key, line, place_of(column + columns))
    total = (one >> 16) + (one & 0xFFFF) + (two >> 16) + (two & 0xFFFF)
    return (total.to(tl.float32) - 131070.0) * NORMAL


# --- clips as an epoch shows them: last_e.data.shown, last_e.data.transform --------------------------------------------------


@triton.jit
def two_ways(key, line, COLUMN: tl.constexpr):
    """Uniform in [-1, 1)."""
    return 2.0 * uniform_at(key, line, COLUMN) - 1.0


@triton.jit
def warped(a, b, c, cos_tilt, sin_tilt, cos_yaw, sin_yaw, scale):
    """A row of shear (a, b, c), times the tilt about x, times the rotation about y, times the scale."""
    second = (b * cos_tilt + c * sin_tilt) * scale
    third = c * cos_tilt - b * sin_tilt
    return (a * cos_yaw - third * sin_yaw) * scale, second, (a * sin_yaw + third * cos_yaw) * scale


@triton.jit
def times(a, b, c, turn):
    """A row (a, b, c) times a matrix (3, 3) in memory."""
    first = a * tl.load(turn) + b * tl.load(turn + 3) + c * tl.load(turn + 6)
    second = a * tl.load(turn + 1) + b * tl.load(turn + 4) + c * tl.load(turn + 7)
    third = a * tl.load(turn + 2) + b * tl.load(turn + 5) + c * tl.load(turn + 8)
    return first, second, third


@triton.jit
def between(joints, before, after, share, there):
    """A coordinate between two frames in metres, as torch.lerp has it; ``before`` and ``after`` say where those are."""
    a = tl.load(joints + before, mask=there, other=0).to(tl.float32)
    b = tl.load(joints + after, mask=there, other=0).to(tl.float32)
    return tl.where(share < 0.5, a + share * (b - a), b - (b - a) * (1.0 - share)) * 0.001


@triton.jit
def centred(joints, t, v, there, frames, count, step, begin, span, last, ox, oy, oz, key, line):
    """Joints v at the frames t that are shown: cut, resampled, centred on (ox, oy, oz), with a sensor's noise."""
    even = tl.where(t < frames // 2, t.to(tl.float32) * step, 1.0 - (frames - 1 - t).to(tl.float32) * step)  # torch.linspace
    at = tl.minimum(last * (begin + span * even), last)  # rounding must not reach into the next clip
    low = tl.floor(at)
    before = low.to(tl.int32) * (count * 3) + v * 3
    after = tl.minimum(low + 1.0, last).to(tl.int32) * (count * 3) + v * 3
    share = at - low
    x = between(joints, before, after, share, there) - ox
    y = between(joints, before + 1, after + 1, share, there) - oy
    z = between(joints, before + 2, after + 2, share, there) - oz
    column, columns = (t * count + v) * 3, frames * count * 3
    x += normal(key, line, column, columns) * METRES
    y += normal(key, line, column + 1, columns) * METRES
    z += normal(key, line, column + 2, columns) * METRES
    return x, y, z


@triton.jit
def streams(
    keys,
    position,
    clip,
    owner,
    body,
    joints,
    start,
    length,
    origin,
    turn,
    parents,
    swapped,
    joint,
    velocity,
    bone,
    frames,
    count,
    people,
    step,
    most,
    chance,
    MIRRORS: tl.constexpr,
    FLAT: tl.constexpr,
    STREAMS: tl.constexpr,
    B: tl.constexpr,
):
    """Joint, velocity and bone of a row, each (r, 3, T, V), or without STREAMS the joints alone, (r, T, V, 3). A program does B
    of a row's T V points, and makes what those are subtracted from anew: it is in no other's memory.

    Turned by up to ``most`` radians about the vertical, else as in the reference; with MIRRORS by ``chance`` left and right
    change places (``swapped`` (V,)). ``people``: at least 2; ``step``: 1 / (T - 1).
    """
    row = tl.program_id(0).to(tl.int64)
    point = tl.program_id(1) * B + tl.arange(0, B)
    there = point < frames * count
    t, v = point // count, point % count
    of = tl.load(owner + row)
    which = tl.load(clip + of)
    long, number = tl.load(length + which), tl.load(body + row)
    joints += (tl.load(start + which) + number * long) * count * 3
    last = (long - 1).to(tl.float32)
    ox, oy, oz = tl.load(origin + which * 3), tl.load(origin + which * 3 + 1), tl.load(origin + which * 3 + 2)
    turn += which * 9
    where = tl.load(position + of)
    key = key_of(keys, CROP)
    line = line_of(key, where)
    span = 0.5 + 0.5 * uniform_at(key, line, 0)
    begin = (1.0 - span) * uniform_at(key, line, 1)
    key = key_of(keys, WARP)
    line = line_of(key, where)
    yaw, tilt, scale = most * two_ways(key, line, 0), two_ways(key, line, 1) * TILT, 1.0 + two_ways(key, line, 2) * SCALING
    cy, sy, ct, st = tl.cos(yaw), tl.sin(yaw), tl.cos(tilt), tl.sin(tilt)
    b, c, d = two_ways(key, line, 3) * SHEAR, two_ways(key, line, 4) * SHEAR, two_ways(key, line, 5) * SHEAR
    e, f, g = two_ways(key, line, 6) * SHEAR, two_ways(key, line, 7) * SHEAR, two_ways(key, line, 8) * SHEAR
    xx, xy, xz = warped(1.0, b, c, ct, st, cy, sy, scale)
    yx, yy, yz = warped(d, 1.0, e, ct, st, cy, sy, scale)
    zx, zy, zz = warped(f, g, 1.0, ct, st, cy, sy, scale)
    flips = tl.zeros((), tl.int1)
    if MIRRORS:
        key = key_of(keys, MIRROR)
        flips = uniform_at(key, line_of(key, where), 0) < chance
        xx, yx, zx = tl.where(flips, -xx, xx), tl.where(flips, -yx, yx), tl.where(flips, -zx, zx)
    xx, xy, xz = times(xx, xy, xz, turn)
    yx, yy, yz = times(yx, yy, yz, turn)
    zx, zy, zz = times(zx, zy, zz, turn)
    key = key_of(keys, JITTER)
    line = line_of(key, where * people + number)

    for kind in tl.static_range(3 if STREAMS else 1):  # itself, at the next frame, its parent
        at, of_joint = t, v
        if kind == 1:
            at = tl.minimum(t + 1, frames - 1)
        if kind == 2:
            of_joint = tl.load(parents + v, mask=there, other=0).to(tl.int32)
        if MIRRORS:
            of_joint = tl.where(flips, tl.load(swapped + of_joint, mask=there, other=0).to(tl.int32), of_joint)
        px, py, pz = centred(joints, at, of_joint, there, frames, count, step, begin, span, last, ox, oy, oz, key, line)
        x, y, z = xx * px + xy * py + xz * pz, yx * px + yy * py + yz * pz, zx * px + zy * py + zz * pz
        if FLAT:
            z = tl.zeros_like(z)
        if kind == 0:
            hx, hy, hz = x, y, z
            if STREAMS:
                keep(joint, row, frames * count, point, there, x, y, z)
            else:
                to = joint + (row * frames * count + point) * 3
                tl.store(to, x, mask=there)
                tl.store(to + 1, y, mask=there)
                tl.store(to + 2, z, mask=there)
        if kind == 1:
            keep(velocity, row, frames * count, point, there, x - hx, y - hy, z - hz)
        if kind == 2:
            keep(bone, row, frames * count, point, there, hx - x, hy - y, hz - z)


@triton.jit
def keep(out, row, points, point, there, x, y, z):
    """Write points of a row of (r, 3, T, V)."""
    to = out + row * 3 * points + point
    tl.store(to, x, mask=there)
    tl.store(to + points, y, mask=there)
    tl.store(to + 2 * points, z, mask=there)


# --- what else a batch has ---------------------------------------------------------------------------------------------------


@triton.jit
def others(
    keys,
    position,
    clip,
    owner,
    bodies,
    labels,
    swapped,
    label,
    weight,
    dropout,
    drop_path,
    clips,
    width,
    blocks,
    chance,
    WEIGHS: tl.constexpr,
    NOISE: tl.constexpr,
    MIRRORS: tl.constexpr,
    W: tl.constexpr,
):
    """Labels (n,); with WEIGHS one over the number of bodies of each row's clip (r,); with NOISE what dropout (r, width) and
    drop path (r, blocks) look at. A program does a row, and of the first n a clip's label, ``swapped`` (C,) in a mirror."""
    row = tl.program_id(0).to(tl.int64)
    if row < clips:
        said = tl.load(labels + tl.load(clip + row))
        if MIRRORS:
            key = key_of(keys, MIRROR)
            flips = uniform_at(key, line_of(key, tl.load(position + row)), 0) < chance
            said = tl.where(flips, tl.load(swapped + said), said)
        tl.store(label + row, said)
    of = tl.load(owner + row)
    if WEIGHS:
        tl.store(weight + row, tl.div_rn(1.0, tl.load(bodies + tl.load(clip + of)).to(tl.float32)))
    if NOISE:
        where = tl.load(position + of)
        key = key_of(keys, DROPOUT)
        line = line_of(key, where)
        for begin in range(0, width, W):
            column = begin + tl.arange(0, W)
            tl.store(dropout + row * width + column, uniform(key, line, place_of(column)), mask=column < width)
        key = key_of(keys, DROP_PATH)
        line = line_of(key, where)
        for begin in range(0, blocks, W):
            column = begin + tl.arange(0, W)
            tl.store(drop_path + row * blocks + column, uniform(key, line, place_of(column)), mask=column < blocks)
