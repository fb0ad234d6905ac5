"""Kernels for what is between the last block and the classifier, in Triton."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def gated_pool(x, gate, pooled, mean, most, rows, channels, R: tl.constexpr, C: tl.constexpr):
    """``mean`` and ``most`` (clips, channels) of all ``rows`` of a clip, and ``pooled``: g mean + (1 - g) most, g the sigmoid
    of ``gate`` (channels)."""
    clip = tl.program_id(0).to(tl.int64)
    c = tl.program_id(1) * C + tl.arange(0, C)
    inside = c < channels
    total = tl.zeros((C,), tl.float32)
    largest = tl.full((C,), float("-inf"), tl.float32)
    for begin in range(0, rows, R):
        r = begin + tl.arange(0, R)
        there = (r < rows)[:, None] & inside[None, :]
        value = tl.load(x + (clip * rows + r[:, None]) * channels + c[None, :], mask=there, other=0.0).to(tl.float32)
        total += tl.sum(value, axis=0)
        largest = tl.maximum(largest, tl.max(tl.where(there, value, float("-inf")), axis=0))
    g = tl.sigmoid(tl.load(gate + c, mask=inside, other=0.0))
    total *= 1.0 / rows
    place = clip * channels + c
    tl.store(mean + place, total, mask=inside)
    tl.store(most + place, largest, mask=inside)
    tl.store(pooled + place, g * total + (1.0 - g) * largest, mask=inside)


@triton.jit
def gated_pool_backward(x, gate, mean, most, gradient, out, of_gate, rows, channels, R: tl.constexpr, C: tl.constexpr):
    """The gradient of x, of equal largest ones the same share; and each clip's of ``gate``, ``of_gate`` (clips, channels)."""
    clip = tl.program_id(0).to(tl.int64)
    c = tl.program_id(1) * C + tl.arange(0, C)
    inside = c < channels
    place = clip * channels + c
    g = tl.sigmoid(tl.load(gate + c, mask=inside, other=0.0))
    flowing = tl.load(gradient + place, mask=inside, other=0.0)
    largest = tl.load(most + place, mask=inside, other=0.0)
    average = tl.load(mean + place, mask=inside, other=0.0)
    tl.store(of_gate + place, flowing * (average - largest) * g * (1.0 - g), mask=inside)
    equal = tl.zeros((C,), tl.float32)
    for begin in range(0, rows, R):
        r = begin + tl.arange(0, R)
        there = (r < rows)[:, None] & inside[None, :]
        value = tl.load(x + (clip * rows + r[:, None]) * channels + c[None, :], mask=there, other=0.0).to(tl.float32)
        equal += tl.sum(tl.where(there & (value == largest[None, :]), 1.0, 0.0), axis=0)
    plain = flowing * g / rows
    peak = flowing * (1.0 - g) / tl.maximum(equal, 1.0)
    for begin in range(0, rows, R):
        r = begin + tl.arange(0, R)
        there = (r < rows)[:, None] & inside[None, :]
        at = (clip * rows + r[:, None]) * channels + c[None, :]
        value = tl.load(x + at, mask=there, other=0.0).to(tl.float32)
        back = plain[None, :] + tl.where(value == largest[None, :], peak[None, :], 0.0)
        tl.store(out + at, back.to(out.dtype.element_ty), mask=there)


@triton.jit
def divergence(mu, logvar, row_weight, total, gradients, rows, width, WEIGHTS: tl.constexpr, R: tl.constexpr, C: tl.constexpr):
    """The mean over rows, weighted if asked for, of the KL divergence of N(mu, exp(logvar)) from N(0, 1), mu and logvar (rows,
    width), and its ``gradients`` (2, rows, width). One program, so that there is one order."""
    c = tl.arange(0, C)
    inside = c < width
    weights = 0.0
    for begin in range(0, rows, R):
        r = begin + tl.arange(0, R)
        if WEIGHTS:
            weights += tl.sum(tl.load(row_weight + r, mask=r < rows, other=0.0), axis=0)
        else:
            weights += tl.sum(tl.where(r < rows, 1.0, 0.0), axis=0)
    found = 0.0
    for begin in range(0, rows, R):
        r = begin + tl.arange(0, R)
        there = (r < rows)[:, None] & inside[None, :]
        place = r[:, None] * width + c[None, :]
        centre = tl.load(mu + place, mask=there, other=0.0)
        log = tl.load(logvar + place, mask=there, other=0.0)
        variance = tl.exp(log)
        each = -0.5 * tl.sum(tl.where(there, 1.0 + log - centre * centre - variance, 0.0), axis=1)
        weight = tl.load(row_weight + r, mask=r < rows, other=0.0) if WEIGHTS else tl.where(r < rows, 1.0, 0.0)
        found += tl.sum(each * weight, axis=0)
        share = (weight / weights)[:, None]
        tl.store(gradients + place, centre * share, mask=there)
        tl.store(gradients + rows * width + place, 0.5 * (variance - 1.0) * share, mask=there)
    tl.store(total, found / weights)


@triton.jit
def of_row(x, noise, rate, r, rows, channels, c, inside, DROP: tl.constexpr):
    """A tile (rows, channels), and by what dropout multiplies it."""
    there = (r < rows)[:, None] & inside[None, :]
    place = r[:, None] * channels + c[None, :]
    value = tl.load(x + place, mask=there, other=0.0)
    kept = there.to(tl.float32)
    if DROP:
        kept = tl.where(tl.load(noise + place, mask=there, other=0.0) >= rate, kept / (1.0 - rate), 0.0)
    return value, kept, there, place


@triton.jit
def norm_rows(
    x,
    weight,
    bias,
    running_mean,
    running_var,
    tracked,
    noise,
    rate,
    momentum,
    eps,
    out,
    table,
    rows,
    channels,
    DROP: tl.constexpr,
    R: tl.constexpr,
    C: tl.constexpr,
):
    """``out`` (rows, channels): batch norm of x by its own statistics, then dropout; ``table`` (2, channels): mean, one over
    the standard deviation. Moves the running statistics."""
    c = tl.program_id(0) * C + tl.arange(0, C)
    inside = c < channels
    mean = tl.zeros((C,), tl.float32)
    for begin in range(0, rows, R):
        value, _, _, _ = of_row(x, noise, rate, begin + tl.arange(0, R), rows, channels, c, inside, False)
        mean += tl.sum(value, axis=0)
    mean *= 1.0 / rows
    var = tl.zeros((C,), tl.float32)
    for begin in range(0, rows, R):
        value, _, there, _ = of_row(x, noise, rate, begin + tl.arange(0, R), rows, channels, c, inside, False)
        off = tl.where(there, value - mean[None, :], 0.0)
        var += tl.sum(off * off, axis=0)
    kept = tl.load(running_var + c, mask=inside, other=0.0)
    tl.store(running_var + c, kept + momentum * (var / tl.maximum(rows - 1, 1) - kept), mask=inside)
    kept = tl.load(running_mean + c, mask=inside, other=0.0)
    tl.store(running_mean + c, kept + momentum * (mean - kept), mask=inside)
    if tl.program_id(0) == 0:
        tl.store(tracked, tl.load(tracked) + 1)
    inverse = 1.0 / tl.sqrt(var / rows + eps)
    tl.store(table + c, mean, mask=inside)
    tl.store(table + channels + c, inverse, mask=inside)
    scale = inverse * tl.load(weight + c, mask=inside, other=0.0)
    shift = tl.load(bias + c, mask=inside, other=0.0)
    for begin in range(0, rows, R):
        value, factor, there, place = of_row(x, noise, rate, begin + tl.arange(0, R), rows, channels, c, inside, DROP)
        y = (value - mean[None, :]) * scale[None, :] + shift[None, :]
        tl.store(out + place, y * factor, mask=there)


@triton.jit
def norm_rows_backward(
    x,
    weight,
    table,
    noise,
    rate,
    flowing,
    of_x,
    of_norm,
    rows,
    channels,
    DROP: tl.constexpr,
    R: tl.constexpr,
    C: tl.constexpr,
):
    """The gradients of x, and (2, channels) of the norm's weight and bias."""
    c = tl.program_id(0) * C + tl.arange(0, C)
    inside = c < channels
    mean = tl.load(table + c, mask=inside, other=0.0)
    inverse = tl.load(table + channels + c, mask=inside, other=0.0)
    total = tl.zeros((C,), tl.float32)
    with_x = tl.zeros((C,), tl.float32)
    for begin in range(0, rows, R):
        value, factor, there, place = of_row(x, noise, rate, begin + tl.arange(0, R), rows, channels, c, inside, DROP)
        back = tl.load(flowing + place, mask=there, other=0.0) * factor
        total += tl.sum(back, axis=0)
        with_x += tl.sum(back * (value - mean[None, :]) * inverse[None, :], axis=0)
    tl.store(of_norm + c, with_x, mask=inside)
    tl.store(of_norm + channels + c, total, mask=inside)
    scale = inverse * tl.load(weight + c, mask=inside, other=0.0)
    for begin in range(0, rows, R):
        value, factor, there, place = of_row(x, noise, rate, begin + tl.arange(0, R), rows, channels, c, inside, DROP)
        back = tl.load(flowing + place, mask=there, other=0.0) * factor
        off = (value - mean[None, :]) * inverse[None, :]
        back -= (total[None, :] + off * with_x[None, :]) / rows
        tl.store(of_x + place, back * scale[None, :], mask=there)
