"""Kernels that put the norms of the three streams into the projection behind them, in Triton."""

from __future__ import annotations

import triton
import triton.language as tl

from last_e.model.kernels import together


@triton.jit
def of_three(joint, velocity, bone, c, each):
    """Three streams' numbers (channels), one after the other."""
    first = tl.load(joint + c, mask=c < each, other=0.0)
    second = tl.load(velocity + c - each, mask=(c >= each) & (c < 2 * each), other=0.0)
    third = tl.load(bone + c - 2 * each, mask=(c >= 2 * each) & (c < 3 * each), other=0.0)
    return first + second + third


@triton.jit
def move_one(running_mean, running_var, tracked, mean, var, momentum, c, begin, each):
    """Move a stream's running statistics."""
    own = (c >= begin) & (c < begin + each)
    kept = tl.load(running_mean + c - begin, mask=own, other=0.0)
    tl.store(running_mean + c - begin, kept + momentum * (mean - kept), mask=own)
    kept = tl.load(running_var + c - begin, mask=own, other=0.0)
    tl.store(running_var + c - begin, kept + momentum * (var - kept), mask=own)
    tl.store(tracked, tl.load(tracked) + 1)


@triton.jit
def fold(
    parts,
    weight,
    weight_joint,
    bias_joint,
    mean_joint,
    var_joint,
    tracked_joint,
    weight_velocity,
    bias_velocity,
    mean_velocity,
    var_velocity,
    tracked_velocity,
    weight_bone,
    bias_bone,
    mean_bone,
    var_bone,
    tracked_bone,
    momentum,
    eps,
    ready,
    shift_out,
    table,
    many,
    each,
    outputs,
    P: tl.constexpr,
    R: tl.constexpr,
    C: tl.constexpr,
):
    """From parts (many, 4, channels) of the streams, as of :func:`last_e.model.kernels.moments`: the projection's weight
    (outputs, channels) with the norms in it, ``ready``, what they add to its outputs, ``shift_out``, and ``table`` (3,
    channels): mean, one over the standard deviation, scale. Moves the running statistics. One program."""
    c = tl.arange(0, C)
    channels = 3 * each
    inside = c < channels
    mean64, var64, count = together(parts, many, 4 * channels, channels, c, inside, P, C)
    mean = mean64.to(tl.float32)
    unbiased = (var64 * (count / tl.maximum(count - 1.0, 1.0))).to(tl.float32)
    move_one(mean_joint, var_joint, tracked_joint, mean, unbiased, momentum, c, 0, each)
    move_one(mean_velocity, var_velocity, tracked_velocity, mean, unbiased, momentum, c, each, each)
    move_one(mean_bone, var_bone, tracked_bone, mean, unbiased, momentum, c, 2 * each, each)
    inverse = (1.0 / tl.sqrt(var64 + eps)).to(tl.float32)
    scale = inverse * of_three(weight_joint, weight_velocity, weight_bone, c, each)
    shift = of_three(bias_joint, bias_velocity, bias_bone, c, each) - mean * scale
    tl.store(table + c, mean, mask=inside)
    tl.store(table + channels + c, inverse, mask=inside)
    tl.store(table + 2 * channels + c, scale, mask=inside)
    for begin in range(0, outputs, R):
        o = begin + tl.arange(0, R)
        there = (o < outputs)[:, None] & inside[None, :]
        place = o[:, None] * channels + c[None, :]
        tile = tl.load(weight + place, mask=there, other=0.0)
        tl.store(ready + place, (tile * scale[None, :]).to(ready.dtype.element_ty), mask=there)
        total = tl.sum(tile * tl.where(inside, shift, 0.0)[None, :], axis=1)
        tl.store(shift_out + o, total.to(shift_out.dtype.element_ty), mask=o < outputs)


@triton.jit
def fold_backward(
    of_ready,
    of_shift,
    weight,
    table,
    bias_joint,
    bias_velocity,
    bias_bone,
    of_weight,
    of_norms,
    each,
    outputs,
    R: tl.constexpr,
    C: tl.constexpr,
):
    """The gradients of the projection's weight, and of the norms' weights and biases (2, channels). One program."""
    c = tl.arange(0, C)
    channels = 3 * each
    inside = c < channels
    mean = tl.load(table + c, mask=inside, other=0.0)
    inverse = tl.load(table + channels + c, mask=inside, other=0.0)
    scale = tl.load(table + 2 * channels + c, mask=inside, other=0.0)
    shift = of_three(bias_joint, bias_velocity, bias_bone, c, each) - mean * scale
    of_scale = tl.zeros((C,), tl.float32)
    of_bias = tl.zeros((C,), tl.float32)
    for begin in range(0, outputs, R):
        o = begin + tl.arange(0, R)
        there = (o < outputs)[:, None] & inside[None, :]
        place = o[:, None] * channels + c[None, :]
        tile = tl.load(weight + place, mask=there, other=0.0)
        flowing = tl.load(of_ready + place, mask=there, other=0.0).to(tl.float32)
        plain = tl.load(of_shift + o, mask=o < outputs, other=0.0).to(tl.float32)[:, None]
        tl.store(of_weight + place, flowing * scale[None, :] + plain * shift[None, :], mask=there)
        of_scale += tl.sum(flowing * tile, axis=0)
        of_bias += tl.sum(plain * tile, axis=0)
    tl.store(of_norms + c, (of_scale - mean * of_bias) * inverse, mask=inside)
    tl.store(of_norms + channels + c, of_bias, mask=inside)
