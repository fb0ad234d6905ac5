"""Kernels for what a training step decides and counts once its gradients are there, in Triton."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def judge(rows, norm, ib_weight, sums, steps, loss, good, bad, many, size):
    """From ``rows`` (many, 3) of cross-entropy, IB loss and hits, added up one after the other, and the gradient's norm:
    whether all is finite (``good``; ``bad``: 1 where it is not), and all that :class:`last_e.state.Counters` keeps."""
    ce = tl.load(rows)
    ib = tl.load(rows + 1)
    hits = tl.load(rows + 2)
    for part in range(1, many):
        ce += tl.load(rows + 3 * part)
        ib += tl.load(rows + 3 * part + 1)
        hits += tl.load(rows + 3 * part + 2)
    total = (ce + ib_weight * ib) / size
    infinite = float("inf")
    fine = (tl.abs(total) < infinite) & (tl.abs(tl.load(norm)) < infinite)
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
    """The sum over clips of :func:`last_e.state.cross_entropy`, its ``gradient`` (clips, classes), and how often the largest of
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
