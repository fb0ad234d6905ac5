"""Kernels for what a training step decides and counts once its gradients are there, in Triton."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def judge(
    rows,
    norm,
    ib_weight,
    clip,
    sums,
    steps,
    loss,
    scale,
    tracker,
    growth,
    backoff,
    interval,
    good,
    bad,
    divisor,
    many,
    size,
    SCALED: tl.constexpr,
):
    """From ``rows`` (many, 3) of cross-entropy, IB loss and hits, added up one after the other, and the gradient's norm:
    whether all is finite (``good``; ``bad``: 1 where it is not), all that :class:`last_e.state.Counters` keeps, and by what the
    gradient is to be divided so that it is not ``scale`` times too long and its norm at most ``clip``. Then moves the scale of
    losses as :class:`torch.amp.GradScaler` does."""
    ce = tl.load(rows)
    ib = tl.load(rows + 1)
    hits = tl.load(rows + 2)
    for part in range(1, many):
        ce += tl.load(rows + 3 * part)
        ib += tl.load(rows + 3 * part + 1)
        hits += tl.load(rows + 3 * part + 2)
    total = (ce + ib_weight * ib) / size
    infinite = float("inf")
    length = tl.load(norm)
    there = tl.abs(length) < infinite
    fine = (tl.abs(total) < infinite) & there
    tl.store(sums, tl.load(sums) + tl.where(fine, ce, 0.0))
    tl.store(sums + 1, tl.load(sums + 1) + tl.where(fine, ib, 0.0))
    tl.store(sums + 2, tl.load(sums + 2) + tl.where(fine, hits, 0.0))
    tl.store(sums + 3, tl.load(sums + 3) + tl.where(fine, size, 0))
    in_a_row = tl.where(fine, 0.0, tl.load(steps + 1) + 1.0)
    tl.store(steps, tl.load(steps) + tl.where(fine, 0.0, 1.0))
    tl.store(steps + 1, in_a_row)
    tl.store(steps + 2, tl.maximum(tl.load(steps + 2), in_a_row))
    tl.store(loss, total)
    tl.store(good, fine)
    tl.store(bad, tl.where(fine, 0.0, 1.0))
    if SCALED:
        by = tl.load(scale)
        tl.store(divisor, by * tl.maximum((length / by + 1e-6) / clip, 1.0))
        grown = tl.load(tracker) + 1
        due = grown == interval
        more = tl.where(by * growth < infinite, by * growth, by)
        tl.store(scale, tl.where(there, tl.where(due, more, by), by * backoff))
        tl.store(tracker, tl.where(there, tl.where(due, 0, grown), 0))
    else:
        tl.store(divisor, tl.maximum((length + 1e-6) / clip, 1.0))


@triton.jit
def settle(values, before, good, still, count, STILL: tl.constexpr, S: tl.constexpr):
    """``values`` as they were ``before``, where the step was not ``good``, and of what is kept ``still``."""
    at = tl.program_id(0) * S + tl.arange(0, S)
    inside = at < count
    back = tl.load(good) == 0
    if STILL:
        back = back | (tl.load(still + at, mask=inside, other=0) != 0)
    tl.store(values + at, tl.load(before + at, mask=inside), mask=inside & back)


@triton.jit
def cross_entropy(
    logits,
    label,
    weights,
    gradient,
    total,
    hits,
    smoothing,
    clips,
    classes,
    WEIGHTS: tl.constexpr,
    R: tl.constexpr,
    C: tl.constexpr,
):
    """The sum over clips of :func:`last_e.step.cross_entropy`, its ``gradient`` (clips, classes), and how often the largest of
    the logits, the first of equal ones, is the label's. One program, so that there is one order."""
    c = tl.arange(0, C)
    inside = c < classes
    found = 0.0
    hit = 0.0
    for begin in range(0, clips, R):
        r = begin + tl.arange(0, R)
        of_clip = r < clips
        there = of_clip[:, None] & inside[None, :]
        value = tl.load(logits + r[:, None] * classes + c[None, :], mask=there, other=float("-inf"))
        value = tl.where(of_clip[:, None], value, 0.0)
        most = tl.max(value, axis=1)
        powers = tl.exp(value - most[:, None])
        norm = tl.sum(powers, axis=1)
        said = tl.load(label + r, mask=of_clip, other=0)
        own = c[None, :] == said[:, None]
        log = value - (most + tl.log(norm))[:, None]
        at_label = tl.sum(tl.where(own, log, 0.0), axis=1)
        everywhere = tl.sum(tl.where(inside[None, :], log, 0.0), axis=1)
        each = -(1.0 - smoothing) * at_label - smoothing / classes * everywhere
        flowing = powers / norm[:, None] - tl.where(own, 1.0 - smoothing, 0.0) - smoothing / classes
        if WEIGHTS:
            weight = tl.load(weights + said, mask=of_clip, other=0.0)
            each *= weight
            flowing *= weight[:, None]
        found += tl.sum(tl.where(of_clip, each, 0.0), axis=0)
        first = tl.min(tl.where(value == most[:, None], c[None, :], C), axis=1)
        hit += tl.sum(tl.where(of_clip & (first == said), 1.0, 0.0), axis=0)
        tl.store(gradient + r[:, None] * classes + c[None, :], flowing, mask=there)
    tl.store(total, found)
    tl.store(hits, hit)


@triton.jit
def step_loss(ce, ib, hits, scale, ib_weight, row, loss, factors, clips, size, SCALED: tl.constexpr):
    """Of a part of ``clips`` clips of a step over ``size``: what it counts (``row``: sums of cross-entropy and IB loss, hits),
    its ``loss``, ``scale`` times as large, and the derivatives (2,) of that by ``ce`` and ``ib``."""
    by = tl.load(scale) / size if SCALED else 1.0 / size
    of_ib = ib_weight * clips
    tl.store(row, tl.load(ce))
    tl.store(row + 1, tl.load(ib) * clips)
    tl.store(row + 2, tl.load(hits))
    tl.store(loss, by * (tl.load(ce) + of_ib * tl.load(ib)))
    tl.store(factors, by)
    tl.store(factors + 1, by * of_ib)
