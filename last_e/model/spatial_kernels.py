"""Kernels for a graph convolution's attention, in Triton: which clip mixes its joints how.

With E[k] = A[k] edge[k] (subsets, joints v, joints w), and x (clips, frames, joints, channels):

    mean[n, k, i] = sum_v (mean_w E[k, v, w]) (mean_t x[n, t, v, i])
    share[n] = softmax_j sum_k,i meets[j, k, i] mean[n, k, i],  meets[j, k, i] = sum_c linear[j, k, c] weight[k, c, i]
    mixing[n, w k, v] = E[k, v, w] share[n, k]

``weight`` (subsets, outputs, channels) is the convolution's, ``linear`` (subsets, subsets outputs) the attention's.
"""

from __future__ import annotations

import triton
import triton.language as tl

from last_e.model.gate_kernels import pool_chunk, summed


@triton.jit
def begin(
    x,
    weight,
    linear,
    sums,
    ready,
    meets,
    clips,
    frames,
    joints,
    subsets,
    outputs,
    channels,
    T: tl.constexpr,
    V: tl.constexpr,
    J: tl.constexpr,
    C: tl.constexpr,
    B: tl.constexpr,
):
    """Sums (clips, chunks, joints, channels) of x over the frames of each chunk. Programs beyond those make what does not
    depend on x: ``meets`` (subsets, subsets, channels), and ``ready`` (outputs, subsets channels), the convolution's weight in
    the activations' format. A row of programs has a block of channels each."""
    many = clips * tl.cdiv(frames, T)
    if tl.program_id(0) < many:
        pool_chunk(x, sums, sums, tl.program_id(0), tl.program_id(1), frames, joints, channels, False, T, V, B)
    else:
        k = tl.program_id(0) - many
        i = tl.program_id(1) * B + tl.arange(0, B)
        j = tl.arange(0, J)
        inside = i < channels
        total = tl.zeros((J, B), tl.float32)
        for at in range(0, outputs, C):
            c = at + tl.arange(0, C)
            there = (c < outputs)[:, None] & inside[None, :]
            tile = tl.load(weight + (k * outputs + c[:, None]) * channels + i[None, :], mask=there, other=0.0)
            place = (c[:, None] * subsets + k) * channels + i[None, :]
            tl.store(ready + place, tile.to(ready.dtype.element_ty), mask=there)
            there = (j < subsets)[:, None] & (c < outputs)[None, :]
            sees = tl.load(linear + (j[:, None] * subsets + k) * outputs + c[None, :], mask=there, other=0.0)
            total = tl.dot(sees, tile, total, input_precision="ieee")
        there = (j < subsets)[:, None] & inside[None, :]
        tl.store(meets + (j[:, None] * subsets + k) * channels + i[None, :], total, mask=there)


@triton.jit
def edges(adjacency, edge, k, joints, v, w):
    """E[k] (v, w)."""
    there = (v < joints)[:, None] & (w < joints)[None, :]
    place = (k * joints + v[:, None]) * joints + w[None, :]
    return tl.load(adjacency + place, mask=there, other=0.0) * tl.load(edge + place, mask=there, other=0.0)


@triton.jit
def attend(
    sums,
    adjacency,
    edge,
    meets,
    shares,
    means,
    mixing,
    chunks,
    frames,
    joints,
    channels,
    K: tl.constexpr,
    J: tl.constexpr,
    V: tl.constexpr,
    B: tl.constexpr,
):
    """``shares`` (clips, K), ``means`` (clips, K, channels) and ``mixing`` (clips, joints K, joints); a program does a clip."""
    clip = tl.program_id(0).to(tl.int64)
    v = tl.arange(0, V)
    j = tl.arange(0, J)
    logits = tl.zeros((J,), tl.float32)
    for k in tl.static_range(K):
        reach = tl.sum(edges(adjacency, edge, k, joints, v, v), axis=1) * (1.0 / joints)
        for at in range(0, channels, B):
            i = at + tl.arange(0, B)
            total = summed(sums, clip * chunks * joints, chunks, joints, v, channels, i, i < channels)
            mean = tl.sum(total * (reach * (1.0 / frames))[:, None], axis=0)
            tl.store(means + (clip * K + k) * channels + i, mean, mask=i < channels)
            there = (j < K)[:, None] & (i < channels)[None, :]
            sees = tl.load(meets + (j[:, None] * K + k) * channels + i[None, :], mask=there, other=0.0)
            logits += tl.sum(sees * mean[None, :], axis=1)
    logits = tl.where(j < K, logits, float("-inf"))
    powers = tl.exp(logits - tl.max(logits, axis=0))
    share = powers / tl.sum(powers, axis=0)
    tl.store(shares + clip * K + j, share, mask=j < K)
    there = (v < joints)[:, None] & (v < joints)[None, :]
    for k in tl.static_range(K):
        own = tl.sum(tl.where(j == k, share, 0.0), axis=0)
        place = ((clip * joints + v[None, :]) * K + k) * joints + v[:, None]
        tl.store(mixing + place, edges(adjacency, edge, k, joints, v, v) * own, mask=there)


@triton.jit
def of_mixing(parts, clip, many, k, joints, v, K: tl.constexpr, V: tl.constexpr):
    """The gradient of a subset's mixing (v, w), of parts (clips, many, joints K, joints)."""
    there = (v < joints)[:, None] & (v < joints)[None, :]
    place = (clip * many * joints * K + v[None, :] * K + k) * joints + v[:, None]
    total = tl.zeros((V, V), tl.float32)
    for part in range(many):
        total += tl.load(parts + part * joints * K * joints + place, mask=there, other=0.0)
    return total


@triton.jit
def attend_backward(
    parts,
    sums,
    adjacency,
    edge,
    meets,
    shares,
    means,
    of_means,
    found,
    many,
    chunks,
    frames,
    joints,
    channels,
    K: tl.constexpr,
    J: tl.constexpr,
    V: tl.constexpr,
    B: tl.constexpr,
):
    """From parts of the mixing's gradient that of each frame of a joint, ``of_means`` (clips, joints, channels), and in a row
    of ``found`` each clip's gradients of ``edge`` and of ``meets``."""
    clip = tl.program_id(0).to(tl.int64)
    v = tl.arange(0, V)
    j = tl.arange(0, J)
    share = tl.load(shares + clip * K + j, mask=j < K, other=0.0)
    of_share = tl.zeros((J,), tl.float32)
    for k in tl.static_range(K):
        product = of_mixing(parts, clip, many, k, joints, v, K, V) * edges(adjacency, edge, k, joints, v, v)
        of_share += tl.where(j == k, tl.sum(tl.sum(product, axis=1), axis=0), 0.0)
    of_logits = share * (of_share - tl.sum(share * of_share, axis=0))
    size = K * joints * joints
    found += clip * (size + K * K * channels)
    there = (v < joints)[:, None] & (v < joints)[None, :]
    for k in tl.static_range(K):
        of_reach = tl.zeros((V,), tl.float32)
        for at in range(0, channels, B):
            i = at + tl.arange(0, B)
            of_jk = (j < K)[:, None] & (i < channels)[None, :]
            pair = (j[:, None] * K + k) * channels + i[None, :]
            of_mean = tl.sum(tl.load(meets + pair, mask=of_jk, other=0.0) * of_logits[:, None], axis=0)
            mean = tl.load(means + (clip * K + k) * channels + i, mask=i < channels, other=0.0)
            tl.store(found + size + pair, of_logits[:, None] * mean[None, :], mask=of_jk)
            total = summed(sums, clip * chunks * joints, chunks, joints, v, channels, i, i < channels)
            of_reach += tl.sum(total * (of_mean * (1.0 / frames))[None, :], axis=1)
        own = tl.sum(tl.where(j == k, share, 0.0), axis=0)
        flowing = of_mixing(parts, clip, many, k, joints, v, K, V) * own + (of_reach * (1.0 / joints))[:, None]
        place = (k * joints + v[:, None]) * joints + v[None, :]
        tl.store(found + place, flowing * tl.load(adjacency + place, mask=there, other=0.0), mask=there)
    for at in range(0, channels, B):
        i = at + tl.arange(0, B)
        total = tl.zeros((V, B), tl.float32)
        for k in tl.static_range(K):
            of_jk = (j < K)[:, None] & (i < channels)[None, :]
            pair = (j[:, None] * K + k) * channels + i[None, :]
            of_mean = tl.sum(tl.load(meets + pair, mask=of_jk, other=0.0) * of_logits[:, None], axis=0)
            reach = tl.sum(edges(adjacency, edge, k, joints, v, v), axis=1)
            total += reach[:, None] * of_mean[None, :]
        where = (clip * joints + v[:, None]) * channels + i[None, :]
        inside = (v < joints)[:, None] & (i < channels)[None, :]
        tl.store(of_means + where, total * (1.0 / (joints * frames)), mask=inside)


@triton.jit
def meet_backward(
    of_meets,
    of_ready,
    weight,
    linear,
    of_weight,
    of_linear,
    subsets,
    outputs,
    channels,
    J: tl.constexpr,
    C: tl.constexpr,
    B: tl.constexpr,
):
    """The gradients of ``weight`` and ``linear``, from those of ``meets`` and ``ready``."""
    k = tl.program_id(0)
    c = tl.program_id(1) * C + tl.arange(0, C)
    j = tl.arange(0, J)
    inside = c < outputs
    one = inside[:, None] & (j < subsets)[None, :]
    place = (j[None, :] * subsets + k) * outputs + c[:, None]
    sees = tl.load(linear + place, mask=one, other=0.0)
    total = tl.zeros((C, J), tl.float32)
    for at in range(0, channels, B):
        i = at + tl.arange(0, B)
        there = inside[:, None] & (i < channels)[None, :]
        own = (k * outputs + c[:, None]) * channels + i[None, :]
        tile = tl.load(weight + own, mask=there, other=0.0)
        of_jk = (j < subsets)[:, None] & (i < channels)[None, :]
        flowing = tl.load(of_meets + (j[:, None] * subsets + k) * channels + i[None, :], mask=of_jk, other=0.0)
        total = tl.dot(tile, tl.trans(flowing), total, input_precision="ieee")
        back = tl.load(of_ready + (c[:, None] * subsets + k) * channels + i[None, :], mask=there, other=0.0).to(tl.float32)
        tl.store(of_weight + own, tl.dot(sees, flowing, back, input_precision="ieee"), mask=there)
    tl.store(of_linear + place, total, mask=one)
