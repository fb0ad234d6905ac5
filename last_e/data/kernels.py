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
NORMAL = tl.constexpr(3**0.5 / 65536)
MOTION_KEY, LIMBS_KEY, POSE_KEY = tl.constexpr(rng.MOTION), tl.constexpr(rng.LIMBS), tl.constexpr(rng.POSE)
LEAN_KEY, DRIFT_KEY, SPEED_KEY, MASK_KEY = (tl.constexpr(one) for one in (rng.LEAN, rng.DRIFT, rng.SPEED, rng.MASK_JOINTS))


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
def sine_and_cosine(angle):
    """Of an angle of at most half a turn either way: of a quarter of it, by polynomials as in Moshier's Cephes (sinf.c), then
    doubled twice. Triton's own are made for any angle, with an array on the stack."""
    x = angle * 0.25
    z = x * x
    sine = x + x * z * (-1.6666654611e-1 + z * (8.3321608736e-3 - z * 1.9515295891e-4))
    cosine = 1.0 - 0.5 * z + z * z * (4.166664568298827e-2 + z * (-1.388731625493765e-3 + z * 2.443315711809948e-5))
    sine, cosine = 2.0 * sine * cosine, 1.0 - 2.0 * sine * sine
    return 2.0 * sine * cosine, 1.0 - 2.0 * sine * sine


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
def lean(a, b, c, cos_x, sin_x, cos_z, sin_z):
    """A row (a, b, c) times a rotation about z, times one about x."""
    second = b * cos_z - a * sin_z
    return a * cos_z + b * sin_z, second * cos_x + c * sin_x, c * cos_x - second * sin_x


@triton.jit
def even(t, frames, step):
    """Moments from 0 to 1, as torch.linspace has them."""
    return tl.where(t < frames // 2, t.to(tl.float32) * step, 1.0 - (frames - 1 - t).to(tl.float32) * step)


@triton.jit
def lerp(a, b, share):
    """As torch.lerp has it."""
    return tl.where(share < 0.5, a + share * (b - a), b - (b - a) * (1.0 - share))


@triton.jit
def between(joints, before, after, first, share, there, factor, MOTION: tl.constexpr):
    """A coordinate between two frames in metres; with MOTION its way from the ``first`` frame is scaled by ``factor``."""
    a = tl.load(joints + before, mask=there, other=0).to(tl.float32)
    b = tl.load(joints + after, mask=there, other=0).to(tl.float32)
    seen = lerp(a, b, share) * 0.001
    if MOTION:
        seen = lerp(tl.load(joints + first, mask=there, other=0).to(tl.float32) * 0.001, seen, factor)
    return seen


@triton.jit
def measured(joints, before, after, v, share, there, factor, MOTION: tl.constexpr):
    """Joints v between two frames, in metres."""
    b, a, first = before + v * 3, after + v * 3, v * 3
    x = between(joints, b, a, first, share, there, factor, MOTION)
    y = between(joints, b + 1, a + 1, first + 1, share, there, factor, MOTION)
    z = between(joints, b + 2, a + 2, first + 2, share, there, factor, MOTION)
    return x, y, z


@triton.jit
def of_body(
    joints,
    t,
    v,
    there,
    frames,
    count,
    step,
    begin,
    span,
    change,
    last,
    factor,
    parents,
    sides,
    depth,
    key,
    line,
    limbs,
    MOTION: tl.constexpr,
    LIMBS: tl.constexpr,
):
    """Joints v at the frames t that are shown, in metres: cut, resampled; with LIMBS each bone on the way to the root is longer
    or shorter."""
    moment = even(t, frames, step)
    moment += change * moment * (moment - 1.0)
    at = tl.minimum(last * (begin + span * moment), last)  # rounding must not reach into the next clip
    low = tl.floor(at)
    before = low.to(tl.int32) * (count * 3)
    after = tl.minimum(low + 1.0, last).to(tl.int32) * (count * 3)
    share = at - low
    x, y, z = measured(joints, before, after, v, share, there, factor, MOTION)
    if LIMBS:
        sx, sy, sz = tl.zeros_like(x), tl.zeros_like(x), tl.zeros_like(x)
        for _ in range(depth):
            side = tl.load(sides + v, mask=there, other=0).to(tl.int32)
            longer = 1.0 + limbs * (2.0 * uniform(key, line, place_of(side)) - 1.0)
            v = tl.load(parents + v, mask=there, other=0).to(tl.int32)
            ux, uy, uz = measured(joints, before, after, v, share, there, factor, MOTION)
            sx, sy, sz = sx + longer * (x - ux), sy + longer * (y - uy), sz + longer * (z - uz)
            x, y, z = ux, uy, uz
        x, y, z = x + sx, y + sy, z + sz
    return x, y, z


@triton.jit
def seen_at(v, there, parents, depth, key, line, chance):
    """The nearest joint on the way from v to the root that is seen: each is not by the same chance, but for the root."""
    for _ in range(depth):
        hidden = uniform(key, line, place_of(v)) < chance
        v = tl.where(hidden, tl.load(parents + v, mask=there, other=0).to(tl.int32), v)
    return v


@triton.jit
def posed(v, there, parents, depth, key, line, most):
    """How far joints v are moved all clip long, with all bones on the way to them."""
    x = tl.zeros_like(v).to(tl.float32)
    y, z = tl.zeros_like(x), tl.zeros_like(x)
    for _ in range(depth):
        up = tl.load(parents + v, mask=there, other=0).to(tl.int32)
        moves = tl.where(up != v, most, 0.0)  # the root stays
        x += moves * (2.0 * uniform(key, line, place_of(v * 3)) - 1.0)
        y += moves * (2.0 * uniform(key, line, place_of(v * 3 + 1)) - 1.0)
        z += moves * (2.0 * uniform(key, line, place_of(v * 3 + 2)) - 1.0)
        v = up
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
    sides,
    swapped,
    joint,
    velocity,
    bone,
    frames,
    count,
    people,
    depth,
    step,
    most,
    metres,
    chance,
    moves,
    shortest,
    range_of_motion,
    limbs,
    pose,
    most_lean,
    most_drift,
    speed,
    unseen,
    MOTION: tl.constexpr,
    LIMBS: tl.constexpr,
    POSE: tl.constexpr,
    LEAN: tl.constexpr,
    DRIFT: tl.constexpr,
    SPEED: tl.constexpr,
    MASK: tl.constexpr,
    MIRRORS: tl.constexpr,
    FLAT: tl.constexpr,
    STREAMS: tl.constexpr,
    B: tl.constexpr,
):
    """Joint, velocity and bone of a row, each (r, 3, T, V), or without STREAMS the joints alone, (r, T, V, 3). A program does B
    of a row's T V points, and makes what those are subtracted from anew: it is in no other's memory.

    Turned by up to ``most`` radians about the vertical, off by noise of ``metres``, else as in the reference; then by the names
    of :mod:`last_e.data.augment`: MOTION, by the chance ``moves``, from ``shortest`` on; with MIRRORS by ``chance`` left and
    right change places (``swapped`` (V,)). ``people``: at least 2; ``depth``: most bones from a joint to the root; ``step``:
    1 / (T - 1).
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
    person = where * people + number
    yaw, tilt, scale = most * two_ways(key, line, 0), two_ways(key, line, 1) * TILT, 1.0 + two_ways(key, line, 2) * SCALING
    sy, cy = sine_and_cosine(yaw)
    st, ct = sine_and_cosine(tilt)
    b, c, d = two_ways(key, line, 3) * SHEAR, two_ways(key, line, 4) * SHEAR, two_ways(key, line, 5) * SHEAR
    e, f, g = two_ways(key, line, 6) * SHEAR, two_ways(key, line, 7) * SHEAR, two_ways(key, line, 8) * SHEAR
    xx, xy, xz = warped(1.0, b, c, ct, st, cy, sy, scale)
    yx, yy, yz = warped(d, 1.0, e, ct, st, cy, sy, scale)
    zx, zy, zz = warped(f, g, 1.0, ct, st, cy, sy, scale)
    if LEAN:
        key = key_of(keys, LEAN_KEY)
        line = line_of(key, where)
        st, ct = sine_and_cosine(most_lean * two_ways(key, line, 0))  # about x
        sy, cy = sine_and_cosine(most_lean * two_ways(key, line, 1))  # about z
        xx, xy, xz = lean(xx, xy, xz, ct, st, cy, sy)
        yx, yy, yz = lean(yx, yy, yz, ct, st, cy, sy)
        zx, zy, zz = lean(zx, zy, zz, ct, st, cy, sy)
    flips = tl.zeros((), tl.int1)
    if MIRRORS:
        key = key_of(keys, MIRROR)
        flips = uniform_at(key, line_of(key, where), 0) < chance
        xx, yx, zx = tl.where(flips, -xx, xx), tl.where(flips, -yx, yx), tl.where(flips, -zx, zx)
    xx, xy, xz = times(xx, xy, xz, turn)
    yx, yy, yz = times(yx, yy, yz, turn)
    zx, zy, zz = times(zx, zy, zz, turn)
    change, factor = tl.zeros((), tl.float32), tl.zeros((), tl.float32)
    if SPEED:
        key = key_of(keys, SPEED_KEY)
        change = speed * two_ways(key, line_of(key, where), 0)
    if MOTION:
        key = key_of(keys, MOTION_KEY)
        line = line_of(key, person)
        factor = tl.where(uniform_at(key, line, 0) < moves, shortest + range_of_motion * uniform_at(key, line, 1), 1.0)
    drift_x, drift_z = tl.zeros((), tl.float32), tl.zeros((), tl.float32)
    if DRIFT:
        key = key_of(keys, DRIFT_KEY)
        line = line_of(key, person)
        drift_x, drift_z = most_drift * two_ways(key, line, 0), most_drift * two_ways(key, line, 1)
    of_limbs, of_pose, of_mask = key_of(keys, LIMBS_KEY), key_of(keys, POSE_KEY), key_of(keys, MASK_KEY)
    limbs_line, pose_line, mask_line = line_of(of_limbs, person), line_of(of_pose, person), line_of(of_mask, person)
    key = key_of(keys, JITTER)
    line = line_of(key, person)

    for kind in tl.static_range(3 if STREAMS else 1):  # itself, at the next frame, its parent
        at, of_joint = t, v
        if kind == 1:
            at = tl.minimum(t + 1, frames - 1)
        if kind == 2:
            of_joint = tl.load(parents + v, mask=there, other=0).to(tl.int32)
        if MASK:
            of_joint = seen_at(of_joint, there, parents, depth, of_mask, mask_line, unseen)
        here = of_joint
        if MIRRORS:
            here = tl.where(flips, tl.load(swapped + of_joint, mask=there, other=0).to(tl.int32), of_joint)
        px, py, pz = of_body(
            joints,
            at,
            here,
            there,
            frames,
            count,
            step,
            begin,
            span,
            change,
            last,
            factor,
            parents,
            sides,
            depth,
            of_limbs,
            limbs_line,
            limbs,
            MOTION,
            LIMBS,
        )
        column, columns = (at * count + here) * 3, frames * count * 3
        px = px - ox + normal(key, line, column, columns) * metres
        py = py - oy + normal(key, line, column + 1, columns) * metres
        pz = pz - oz + normal(key, line, column + 2, columns) * metres
        x, y, z = xx * px + xy * py + xz * pz, yx * px + yy * py + yz * pz, zx * px + zy * py + zz * pz
        if POSE:
            mx, my, mz = posed(of_joint, there, parents, depth, of_pose, pose_line, pose)
            x, y, z = x + mx, y + my, z + mz
        if DRIFT:
            moment = even(at, frames, step)
            x, z = x + moment * drift_x, z + moment * drift_z
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
