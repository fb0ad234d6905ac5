"""Kernels of the trainer's own for NVIDIA GPUs, in Triton: passes over activations that do at once what torch does in several.

An activation is (N, C, T, V) in ``channels_last`` memory, so rows of C numbers; in the names below it is (rows, channels), or
(clips, frames, joints, channels). What is summed over rows goes as far as it can within one program, and the programs' shares
(parts) are put together by one more kernel, always in the same order: no atomics, so that two runs give the same bits. Those of
norms are put together in float64, those of other weights' gradients in float32.

N clips, C channels, T frames, V joints. Which program does how much is for :mod:`last_e.model.launches`.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def hardswish(z):
    """z relu6(z + 3) / 6."""
    return z * tl.minimum(tl.maximum(z + 3.0, 0.0), 6.0) * (1.0 / 6.0)


@triton.jit
def slope(z):
    """The derivative of Hardswish."""
    return tl.where(z < -3.0, 0.0, tl.where(z <= 3.0, z * (1.0 / 3.0) + 0.5, 1.0))


@triton.jit
def of_channels(table, row, channels, c, inside):
    """Row ``row`` of a (rows, channels) float32 table."""
    return tl.load(table + row * channels + c, mask=inside, other=0.0)


@triton.jit
def of_norm_at(table, channels, c, inside):
    """A norm's mean, scale and bias (1, channels)."""
    mean = of_channels(table, 0, channels, c, inside)[None, :]
    scale = of_channels(table, 1, channels, c, inside)[None, :]
    bias = of_channels(table, 2, channels, c, inside)[None, :]
    return mean, scale, bias


@triton.jit
def five(taps, c, inside):
    """The convolution's weights for its five frames, each (1, channels)."""
    w0 = tl.load(taps + c * 5, mask=inside, other=0.0)[None, :]
    w1 = tl.load(taps + c * 5 + 1, mask=inside, other=0.0)[None, :]
    w2 = tl.load(taps + c * 5 + 2, mask=inside, other=0.0)[None, :]
    w3 = tl.load(taps + c * 5 + 3, mask=inside, other=0.0)[None, :]
    w4 = tl.load(taps + c * 5 + 4, mask=inside, other=0.0)[None, :]
    return w0, w1, w2, w3, w4


# --- what a norm needs of its batch ------------------------------------------------------------------------------------------


@triton.jit
def moments(x, parts, rows, channels, share, R: tl.constexpr, C: tl.constexpr):
    """Parts (programs, 4, channels) of each ``share`` rows: an origin, sums of x - origin and of its square, the count."""
    first = tl.program_id(0) * share
    last = tl.minimum(first + share, rows)
    c = tl.program_id(1) * C + tl.arange(0, C)
    inside = c < channels
    x += first.to(tl.int64) * channels
    origin = tl.load(x + c, mask=inside, other=0.0).to(tl.float32)
    total = tl.zeros((C,), tl.float32)
    squares = tl.zeros((C,), tl.float32)
    for begin in range(0, last - first, R):
        r = begin + tl.arange(0, R)
        there = (r < last - first)[:, None] & inside[None, :]
        value = tl.load(x + r[:, None] * channels + c[None, :], mask=there, other=0.0).to(tl.float32)
        off = tl.where(there, value - origin[None, :], 0.0)
        total += tl.sum(off, axis=0)
        squares += tl.sum(off * off, axis=0)
    keep_moments(parts, tl.program_id(0), channels, c, inside, origin, total, squares, last - first)


@triton.jit
def keep_moments(parts, part, channels, c, inside, origin, total, squares, count):
    """Write a part of :func:`moments`."""
    place = parts + part * 4 * channels + c
    tl.store(place, origin, mask=inside)
    tl.store(place + channels, total, mask=inside)
    tl.store(place + 2 * channels, squares, mask=inside)
    tl.store(place + 3 * channels, count + tl.zeros_like(origin), mask=inside)


@triton.jit
def together(parts, many, apart, channels, c, inside, P: tl.constexpr, C: tl.constexpr):
    """Mean, variance and count (C,) in float64 of :func:`moments`, each ``apart`` from the next.

    Chan, Golub and LeVeque, Algorithms for Computing the Sample Variance, 1983: parts put together without cancellation.
    """
    count = tl.zeros((C,), tl.float64)
    mean = tl.zeros((C,), tl.float64)
    for begin in range(0, many, P):
        p = begin + tl.arange(0, P)
        there = (p < many)[:, None] & inside[None, :]
        place = parts + p[:, None] * apart + c[None, :]
        origin = tl.load(place, mask=there, other=0.0).to(tl.float64)
        total = tl.load(place + channels, mask=there, other=0.0).to(tl.float64)
        n = tl.load(place + 3 * channels, mask=there, other=0.0).to(tl.float64)
        count += tl.sum(n, axis=0)
        mean += tl.sum(origin * n + total, axis=0)
    count = tl.maximum(count, 1.0)
    mean /= count
    squares = tl.zeros((C,), tl.float64)
    for begin in range(0, many, P):
        p = begin + tl.arange(0, P)
        there = (p < many)[:, None] & inside[None, :]
        place = parts + p[:, None] * apart + c[None, :]
        origin = tl.load(place, mask=there, other=0.0).to(tl.float64)
        total = tl.load(place + channels, mask=there, other=0.0).to(tl.float64)
        square = tl.load(place + 2 * channels, mask=there, other=0.0).to(tl.float64)
        n = tl.load(place + 3 * channels, mask=there, other=0.0).to(tl.float64)
        own = total / tl.maximum(n, 1.0)
        away = origin + own - mean[None, :]
        squares += tl.sum(tl.where(there, square - own * total + n * away * away, 0.0), axis=0)
    return mean, tl.maximum(squares, 0.0) / count, count


@triton.jit
def affine(
    parts,
    many,
    channels,
    weight,
    bias,
    running_mean,
    running_var,
    tracked,
    momentum,
    eps,
    table,
    P: tl.constexpr,
    C: tl.constexpr,
):
    """From :func:`moments` the table (4, channels) of a norm: mean, scale, bias, one over the standard deviation. Moves the
    running statistics."""
    if tl.program_id(0) == 0:
        tl.store(tracked, tl.load(tracked) + 1)
    c = tl.program_id(0) * C + tl.arange(0, C)
    inside = c < channels
    mean, var, count = together(parts, many, 4 * channels, channels, c, inside, P, C)
    inverse = 1.0 / tl.sqrt(var + eps)
    place = table + c
    tl.store(place, mean.to(tl.float32), mask=inside)
    w = tl.load(weight + c, mask=inside, other=0.0).to(tl.float64)
    tl.store(place + channels, (inverse * w).to(tl.float32), mask=inside)
    tl.store(place + 2 * channels, tl.load(bias + c, mask=inside, other=0.0), mask=inside)
    tl.store(place + 3 * channels, inverse.to(tl.float32), mask=inside)
    kept = tl.load(running_mean + c, mask=inside, other=0.0)
    tl.store(running_mean + c, kept + momentum * (mean.to(tl.float32) - kept), mask=inside)
    kept = tl.load(running_var + c, mask=inside, other=0.0)
    unbiased = (var * (count / tl.maximum(count - 1.0, 1.0))).to(tl.float32)
    tl.store(running_var + c, kept + momentum * (unbiased - kept), mask=inside)


# --- a norm, and Hardswish or a sum ------------------------------------------------------------------------------------------


@triton.jit
def norm(x, table, add, out, rows, channels, ADD: tl.constexpr, HARDSWISH: tl.constexpr, R: tl.constexpr, C: tl.constexpr):
    """out = (x - mean) scale + bias, then Hardswish, or the sum with ``add``."""
    r = tl.program_id(0).to(tl.int64) * R + tl.arange(0, R)
    c = tl.program_id(1) * C + tl.arange(0, C)
    inside = c < channels
    there = (r < rows)[:, None] & inside[None, :]
    place = r[:, None] * channels + c[None, :]
    mean, scale, bias = of_norm_at(table, channels, c, inside)
    y = (tl.load(x + place, mask=there, other=0.0).to(tl.float32) - mean) * scale + bias
    if HARDSWISH:
        y = hardswish(y)
    if ADD:
        y += tl.load(add + place, mask=there, other=0.0).to(tl.float32)
    tl.store(out + place, y.to(out.dtype.element_ty), mask=there)


@triton.jit
def flowing_back(gradient, more, place, there, MORE: tl.constexpr):
    """What flows back to a tile; MORE: of two who use it."""
    flowing = tl.load(gradient + place, mask=there, other=0.0).to(tl.float32)
    if MORE:
        flowing += tl.load(more + place, mask=there, other=0.0).to(tl.float32)
    return flowing


@triton.jit
def norm_sums(
    x,
    table,
    gradient,
    more,
    parts,
    rows,
    channels,
    share,
    MORE: tl.constexpr,
    HARDSWISH: tl.constexpr,
    R: tl.constexpr,
    C: tl.constexpr,
):
    """Parts (programs, 2, channels): sums of the gradient behind the norm, and of that times x - mean."""
    first = tl.program_id(0) * share
    last = tl.minimum(first + share, rows)
    c = tl.program_id(1) * C + tl.arange(0, C)
    inside = c < channels
    begin_at = first.to(tl.int64) * channels
    mean, scale, bias = of_norm_at(table, channels, c, inside)
    total = tl.zeros((C,), tl.float32)
    with_x = tl.zeros((C,), tl.float32)
    for begin in range(0, last - first, R):
        r = begin + tl.arange(0, R)
        there = (r < last - first)[:, None] & inside[None, :]
        place = begin_at + r[:, None] * channels + c[None, :]
        off = tl.load(x + place, mask=there, other=0.0).to(tl.float32) - mean
        flowing = flowing_back(gradient, more, place, there, MORE)
        if HARDSWISH:
            flowing *= slope(off * scale + bias)
        total += tl.sum(flowing, axis=0)
        with_x += tl.sum(flowing * off, axis=0)
    place = parts + tl.program_id(0) * 2 * channels + c
    tl.store(place, total, mask=inside)
    tl.store(place + channels, with_x, mask=inside)


@triton.jit
def sum_of_parts(parts, many, width, row, channels, c, inside, P: tl.constexpr, C: tl.constexpr):
    """The sum (channels,) in float64 of one row of parts (many, width, channels)."""
    total = tl.zeros((C,), tl.float64)
    for begin in range(0, many, P):
        p = begin + tl.arange(0, P)
        there = (p < many)[:, None] & inside[None, :]
        place = parts + (p[:, None] * width + row) * channels + c[None, :]
        total += tl.sum(tl.load(place, mask=there, other=0.0).to(tl.float64), axis=0)
    return total


@triton.jit
def sum_columns(parts, out, block, many, few, end, length, P: tl.constexpr, C: tl.constexpr):
    """A block of the sums of the columns of parts (..., length): of the first ``end`` over ``many`` rows, of the others over
    ``few``."""
    c = block * C + tl.arange(0, C)
    last = tl.where(c < end, many, tl.where(c < length, few, 0))
    total = tl.zeros((C,), tl.float32)
    for begin in range(0, many, P):
        p = begin + tl.arange(0, P)
        there = p[:, None] < last[None, :]
        total += tl.sum(tl.load(parts + p[:, None].to(tl.int64) * length + c[None, :], mask=there, other=0.0), axis=0)
    tl.store(out + c, total, mask=c < length)


@triton.jit
def gradients(
    parts, many, table, channels, rows, terms, of_norm, of_taps, TAPS: tl.constexpr, P: tl.constexpr, C: tl.constexpr
):
    """From parts (many, 2 + TAPS, channels) the terms (2, channels) by which a norm's gradient is more than its scale times
    what flows (the statistics depend on x too: Ioffe and Szegedy, Batch Normalization, ICML 2015, section 3), the gradients
    (2, channels) of its weight and bias, and those of the convolution's weights behind it (channels, TAPS)."""
    c = tl.program_id(0) * C + tl.arange(0, C)
    inside = c < channels
    of_bias = sum_of_parts(parts, many, 2 + TAPS, 0, channels, c, inside, P, C)
    with_x = sum_of_parts(parts, many, 2 + TAPS, 1, channels, c, inside, P, C)
    scale = of_channels(table, 1, channels, c, inside).to(tl.float64)
    inverse = of_channels(table, 3, channels, c, inside).to(tl.float64)
    tl.store(terms + c, (-scale / rows * inverse * inverse * with_x).to(tl.float32), mask=inside)
    tl.store(terms + channels + c, (-scale / rows * of_bias).to(tl.float32), mask=inside)
    tl.store(of_norm + c, (with_x * inverse).to(tl.float32), mask=inside)
    tl.store(of_norm + channels + c, of_bias.to(tl.float32), mask=inside)
    for tap in tl.static_range(TAPS):
        total = sum_of_parts(parts, many, 2 + TAPS, 2 + tap, channels, c, inside, P, C)
        tl.store(of_taps + c * TAPS + tap, total.to(tl.float32), mask=inside)


@triton.jit
def norm_backward(
    x,
    table,
    gradient,
    more,
    terms,
    out,
    rows,
    channels,
    MORE: tl.constexpr,
    HARDSWISH: tl.constexpr,
    R: tl.constexpr,
    C: tl.constexpr,
):
    """The gradient of x; ``out`` may be ``gradient`` itself."""
    r = tl.program_id(0).to(tl.int64) * R + tl.arange(0, R)
    c = tl.program_id(1) * C + tl.arange(0, C)
    inside = c < channels
    there = (r < rows)[:, None] & inside[None, :]
    place = r[:, None] * channels + c[None, :]
    scale = of_channels(table, 1, channels, c, inside)[None, :]
    off = tl.load(x + place, mask=there, other=0.0).to(tl.float32) - of_channels(table, 0, channels, c, inside)[None, :]
    flowing = flowing_back(gradient, more, place, there, MORE)
    if HARDSWISH:
        flowing *= slope(off * scale + of_channels(table, 2, channels, c, inside)[None, :])
    y = flowing * scale + off * of_channels(terms, 0, channels, c, inside)[None, :]
    y += of_channels(terms, 1, channels, c, inside)[None, :]
    tl.store(out + place, y.to(out.dtype.element_ty), mask=there)


# --- norm, Hardswish, a depthwise convolution over five frames ---------------------------------------------------------------


@triton.jit
def seen(frame, frames, v, joints, of_channel):
    """Which of a tile (joints, channels) there is: nothing where there is no such frame."""
    there = tl.where(frame >= 0, tl.where(frame < frames, joints, 0), 0)
    return (v < there)[:, None] & of_channel[None, :]


@triton.jit
def activated(x, frame, frames, v, joints, of_channel, place, row, mean, scale, bias):
    """Hardswish of the norm of a frame's tile; 0 where there is no frame."""
    there = seen(frame, frames, v, joints, of_channel)
    value = tl.load(x + frame * row + place, mask=there, other=0.0).to(tl.float32)
    return tl.where(there, hardswish((value - mean) * scale + bias), 0.0)


@triton.jit
def depthwise(
    x,
    table,
    taps,
    y,
    parts,
    frames,
    after,
    joints,
    channels,
    STRIDE: tl.constexpr,
    T: tl.constexpr,
    V: tl.constexpr,
    C: tl.constexpr,
    UNROLL: tl.constexpr,
):
    """y[t] = sum_k taps[:, k] h(x[STRIDE t + k - 2]), h: norm and Hardswish, 0 outside; (clips, frames, joints, channels) to
    (clips, after, joints, channels), and parts as of :func:`moments` of y. A program goes over T frames of some joints: each
    frame is read once, and its neighbours are at hand."""
    chunks = tl.cdiv(after, T)
    clip, first = (tl.program_id(0) // chunks).to(tl.int64), tl.program_id(0) % chunks * T
    v = tl.program_id(1) * V + tl.arange(0, V)
    c = tl.program_id(2) * C + tl.arange(0, C)
    of_channel = c < channels
    place = v[:, None] * channels + c[None, :]
    row = joints * channels
    x += clip * frames * row
    y += clip * after * row
    mean, scale, bias = of_norm_at(table, channels, c, of_channel)
    w0, w1, w2, w3, w4 = five(taps, c, of_channel)
    total = tl.zeros((C,), tl.float32)
    squares = tl.zeros((C,), tl.float32)
    at = first * STRIDE
    a0 = activated(x, at - 2, frames, v, joints, of_channel, place, row, mean, scale, bias)
    a1 = activated(x, at - 1, frames, v, joints, of_channel, place, row, mean, scale, bias)
    a2 = activated(x, at, frames, v, joints, of_channel, place, row, mean, scale, bias)
    a3 = activated(x, at + 1, frames, v, joints, of_channel, place, row, mean, scale, bias)
    # Near what is summed, so that little is cancelled: the first joint's sum of the first three taps.
    near = tl.where((tl.arange(0, V) == 0)[:, None], a0 * w0 + a1 * w1 + a2 * w2, 0.0)
    origin = tl.sum(near, axis=0)
    for t in tl.range(first, first + T, loop_unroll_factor=UNROLL):
        a4 = activated(x, t * STRIDE + 2, frames, v, joints, of_channel, place, row, mean, scale, bias)
        there = seen(t, after, v, joints, of_channel)
        kept = (a0 * w0 + a1 * w1 + a2 * w2 + a3 * w3 + a4 * w4).to(y.dtype.element_ty)
        tl.store(y + t * row + place, kept, mask=there)
        off = tl.where(there, kept.to(tl.float32) - origin[None, :], 0.0)  # as the norm behind will read it
        total += tl.sum(off, axis=0)
        squares += tl.sum(off * off, axis=0)
        if STRIDE == 1:
            a0, a1, a2, a3 = a1, a2, a3, a4
        else:
            a0, a1, a2 = a2, a3, a4
            a3 = activated(x, t * STRIDE + 3, frames, v, joints, of_channel, place, row, mean, scale, bias)
    count = tl.minimum(T, after - first) * tl.minimum(V, joints - tl.program_id(1) * V)
    part = tl.program_id(0) * tl.num_programs(1) + tl.program_id(1)
    keep_moments(parts, part, channels, c, of_channel, origin, total, squares, count)


@triton.jit
def before_norm(y, gradient, t, after, v, joints, of_channel, place, row, mean, scale, bias, with_x, plain):
    """The gradient of a frame's tile of y, behind which are a norm and Hardswish; 0 where there is no frame."""
    there = seen(t, after, v, joints, of_channel)
    off = tl.load(y + t * row + place, mask=there, other=0.0).to(tl.float32) - mean
    flowing = tl.load(gradient + t * row + place, mask=there, other=0.0).to(tl.float32) * slope(off * scale + bias)
    return tl.where(there, flowing * scale + off * with_x + plain, 0.0)


@triton.jit
def depthwise_backward(
    x,
    table,
    y,
    last_table,
    gradient,
    last_terms,
    taps,
    out,
    parts,
    frames,
    after,
    joints,
    channels,
    STRIDE: tl.constexpr,
    T: tl.constexpr,
    V: tl.constexpr,
    C: tl.constexpr,
    UNROLL: tl.constexpr,
):
    """From the gradient behind the last norm and Hardswish what flows behind the first norm (``out``, as x), and parts
    (programs, 7, channels): sums of that, of that times x - mean, and of the gradients of the five taps. A program goes over T
    frames of y, or over the STRIDE T frames of x that lie there."""
    chunks = tl.cdiv(after, T)
    clip, first = (tl.program_id(0) // chunks).to(tl.int64), tl.program_id(0) % chunks * T
    v = tl.program_id(1) * V + tl.arange(0, V)
    c = tl.program_id(2) * C + tl.arange(0, C)
    of_channel = c < channels
    place = v[:, None] * channels + c[None, :]
    row = joints * channels
    x += clip * frames * row
    out += clip * frames * row
    y += clip * after * row
    gradient += clip * after * row
    mean, scale, bias = of_norm_at(table, channels, c, of_channel)
    last_mean, last_scale, last_bias = of_norm_at(last_table, channels, c, of_channel)
    with_y = of_channels(last_terms, 0, channels, c, of_channel)[None, :]
    plain = of_channels(last_terms, 1, channels, c, of_channel)[None, :]
    w0, w1, w2, w3, w4 = five(taps, c, of_channel)
    total = tl.zeros((V, C), tl.float32)
    with_x = tl.zeros((V, C), tl.float32)
    of_w0 = tl.zeros((V, C), tl.float32)
    of_w1 = tl.zeros((V, C), tl.float32)
    of_w2 = tl.zeros((V, C), tl.float32)
    of_w3 = tl.zeros((V, C), tl.float32)
    of_w4 = tl.zeros((V, C), tl.float32)
    if STRIDE == 1:  # y[t] hears of x[t - 2] to x[t + 2]
        b0 = before_norm(
            y, gradient, first - 2, after, v, joints, of_channel, place, row, last_mean, last_scale, last_bias, with_y, plain
        )
        b1 = before_norm(
            y, gradient, first - 1, after, v, joints, of_channel, place, row, last_mean, last_scale, last_bias, with_y, plain
        )
        b2 = before_norm(
            y, gradient, first, after, v, joints, of_channel, place, row, last_mean, last_scale, last_bias, with_y, plain
        )
        b3 = before_norm(
            y, gradient, first + 1, after, v, joints, of_channel, place, row, last_mean, last_scale, last_bias, with_y, plain
        )
    else:  # of x[2 t - 2] to x[2 t + 2]
        b1 = before_norm(
            y, gradient, first - 1, after, v, joints, of_channel, place, row, last_mean, last_scale, last_bias, with_y, plain
        )
        b2 = before_norm(
            y, gradient, first, after, v, joints, of_channel, place, row, last_mean, last_scale, last_bias, with_y, plain
        )
    for t in tl.range(first, first + T, loop_unroll_factor=UNROLL):
        if STRIDE == 1:
            b4 = before_norm(
                y, gradient, t + 2, after, v, joints, of_channel, place, row, last_mean, last_scale, last_bias, with_y, plain
            )
            there = seen(t, frames, v, joints, of_channel)
            off = tl.load(x + t * row + place, mask=there, other=0.0).to(tl.float32) - mean
            z = off * scale + bias
            a = tl.where(there, hardswish(z), 0.0)
            of_w0 += a * b4
            of_w1 += a * b3
            of_w2 += a * b2
            of_w3 += a * b1
            of_w4 += a * b0
            flowing = ((b4 * w0 + b3 * w1 + b2 * w2 + b1 * w3 + b0 * w4) * slope(z)).to(out.dtype.element_ty)
            tl.store(out + t * row + place, flowing, mask=there)
            kept = tl.where(there, flowing.to(tl.float32), 0.0)
            total += kept
            with_x += kept * off
            b0, b1, b2, b3 = b1, b2, b3, b4
        else:
            b3 = before_norm(
                y, gradient, t + 1, after, v, joints, of_channel, place, row, last_mean, last_scale, last_bias, with_y, plain
            )
            there = seen(2 * t, frames, v, joints, of_channel)
            off = tl.load(x + 2 * t * row + place, mask=there, other=0.0).to(tl.float32) - mean
            z = off * scale + bias
            a = tl.where(there, hardswish(z), 0.0)
            of_w0 += a * b3
            of_w2 += a * b2
            of_w4 += a * b1
            flowing = ((b3 * w0 + b2 * w2 + b1 * w4) * slope(z)).to(out.dtype.element_ty)
            tl.store(out + 2 * t * row + place, flowing, mask=there)
            kept = tl.where(there, flowing.to(tl.float32), 0.0)
            total += kept
            with_x += kept * off
            there = seen(2 * t + 1, frames, v, joints, of_channel)
            off = tl.load(x + (2 * t + 1) * row + place, mask=there, other=0.0).to(tl.float32) - mean
            z = off * scale + bias
            a = tl.where(there, hardswish(z), 0.0)
            of_w1 += a * b3
            of_w3 += a * b2
            flowing = ((b3 * w1 + b2 * w3) * slope(z)).to(out.dtype.element_ty)
            tl.store(out + (2 * t + 1) * row + place, flowing, mask=there)
            kept = tl.where(there, flowing.to(tl.float32), 0.0)
            total += kept
            with_x += kept * off
            b1, b2 = b2, b3
    at = parts + (tl.program_id(0) * tl.num_programs(1) + tl.program_id(1)) * 7 * channels + c
    tl.store(at, tl.sum(total, axis=0), mask=of_channel)
    tl.store(at + channels, tl.sum(with_x, axis=0), mask=of_channel)
    tl.store(at + 2 * channels, tl.sum(of_w0, axis=0), mask=of_channel)
    tl.store(at + 3 * channels, tl.sum(of_w1, axis=0), mask=of_channel)
    tl.store(at + 4 * channels, tl.sum(of_w2, axis=0), mask=of_channel)
    tl.store(at + 5 * channels, tl.sum(of_w3, axis=0), mask=of_channel)
    tl.store(at + 6 * channels, tl.sum(of_w4, axis=0), mask=of_channel)


# --- joints mixed in each frame ----------------------------------------------------------------------------------------------


@triton.jit
def mix(
    x,
    mixing,
    y,
    frames,
    joints,
    outputs,
    channels,
    of_clip,
    T: tl.constexpr,
    OUT: tl.constexpr,
    V: tl.constexpr,
    C: tl.constexpr,
    BLOCKS: tl.constexpr,
):
    """y[n, t, o] = sum_v mixing[n, o, v] x[n, t, v]: (clips, frames, joints, channels) to (clips, frames, outputs, channels).
    ``of_clip``: from a clip's mixing (outputs, joints), float32, to the next one's; 0: it is the same for all."""
    chunks = tl.cdiv(frames, T)
    clip, first = (tl.program_id(0) // chunks).to(tl.int64), tl.program_id(0) % chunks * T
    c = tl.program_id(1) * C + tl.arange(0, C)
    v = tl.arange(0, V)
    of_channel = c < channels
    mixing += clip * of_clip
    x += clip * frames * joints * channels
    y += clip * frames * outputs * channels
    for step in range(0, T):
        t = first + step
        there = seen(t, frames, v, joints, of_channel)
        tile = tl.load(x + (t * joints + v[:, None]) * channels + c[None, :], mask=there, other=0.0)
        for block in tl.static_range(BLOCKS):
            o = block * OUT + tl.arange(0, OUT)
            within = (o < outputs)[:, None] & (v < joints)[None, :]
            weight = tl.load(mixing + o[:, None] * joints + v[None, :], mask=within, other=0.0).to(tile.dtype)
            value = tl.dot(weight, tile, input_precision="ieee")
            place = (t * outputs + o[:, None]) * channels + c[None, :]
            tl.store(y + place, value.to(y.dtype.element_ty), mask=seen(t, frames, o, outputs, of_channel))


@triton.jit
def mix_backward(
    gradient,
    mixing,
    add,
    means,
    out,
    found,
    sums,
    clips,
    length,
    frames,
    joints,
    outputs,
    channels,
    of_clip,
    ADD: tl.constexpr,
    T: tl.constexpr,
    OUT: tl.constexpr,
    V: tl.constexpr,
    C: tl.constexpr,
    BLOCKS: tl.constexpr,
    P: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """out[n, t, v] = sum_o mixing[n, o, v] gradient[n, t, o], if asked for + add[n, t, v] + means[n, v] (float32).

    Then programs beyond those of ``clips`` clips make ``sums`` (length,) of the rows of ``found`` (clips, length): it has
    nothing to do with the rest, but to be started."""
    chunks = tl.cdiv(frames, T)
    program = tl.program_id(0)
    if program < clips * chunks:
        clip, first = (program // chunks).to(tl.int64), program % chunks * T
        c = tl.program_id(1) * C + tl.arange(0, C)
        v = tl.arange(0, V)
        of_channel = c < channels
        mixing += clip * of_clip
        gradient += clip * frames * outputs * channels
        out += clip * frames * joints * channels
        for step in range(0, T):
            t = first + step
            total = tl.zeros((V, C), tl.float32)
            for block in tl.static_range(BLOCKS):
                o = block * OUT + tl.arange(0, OUT)
                there = seen(t, frames, o, outputs, of_channel)
                flowing = tl.load(gradient + (t * outputs + o[:, None]) * channels + c[None, :], mask=there, other=0.0)
                within = (v < joints)[:, None] & (o < outputs)[None, :]
                weight = tl.load(mixing + o[None, :] * joints + v[:, None], mask=within, other=0.0).to(flowing.dtype)
                total = tl.dot(weight, flowing, total, input_precision="ieee")
            there = seen(t, frames, v, joints, of_channel)
            if ADD:
                place = (clip * joints + v[:, None]) * channels + c[None, :]
                total += tl.load(means + place, mask=there, other=0.0)
                place += ((clip * (frames - 1) + t) * joints) * channels
                total += tl.load(add + place, mask=there, other=0.0).to(tl.float32)
            tl.store(out + (t * joints + v[:, None]) * channels + c[None, :], total.to(out.dtype.element_ty), mask=there)
    elif ADD:
        block = (program - clips * chunks) * tl.num_programs(1) + tl.program_id(1)
        sum_columns(found, sums, block, clips, clips, length, length, P, COLUMNS)


@triton.jit
def mix_weights(
    gradient,
    x,
    parts,
    frames,
    joints,
    outputs,
    channels,
    T: tl.constexpr,
    OUT: tl.constexpr,
    V: tl.constexpr,
    C: tl.constexpr,
):
    """Parts (clips, chunks, outputs, joints) of T frames each: sum_t,c gradient[n, t, o, c] x[n, t, v, c]."""
    chunks = tl.cdiv(frames, T)
    clip, first = (tl.program_id(0) // chunks).to(tl.int64), tl.program_id(0) % chunks * T
    o = tl.program_id(1) * OUT + tl.arange(0, OUT)
    v = tl.arange(0, V)
    gradient += clip * frames * outputs * channels
    x += clip * frames * joints * channels
    total = tl.zeros((OUT, V), tl.float32)
    for step in range(0, T):
        t = first + step
        for begin in range(0, channels, C):
            c = begin + tl.arange(0, C)
            there = seen(t, frames, o, outputs, c < channels)
            flowing = tl.load(gradient + (t * outputs + o[:, None]) * channels + c[None, :], mask=there, other=0.0)
            there = seen(t, frames, v, joints, c < channels)
            tile = tl.load(x + (t * joints + v[:, None]) * channels + c[None, :], mask=there, other=0.0)
            total = tl.dot(flowing, tl.trans(tile), total, input_precision="ieee")
    place = parts + (tl.program_id(0).to(tl.int64) * outputs + o[:, None]) * joints + v[None, :]
    tl.store(place, total, mask=(o < outputs)[:, None] & (v < joints)[None, :])
