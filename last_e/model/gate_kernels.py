"""Kernels for the end of a block: its channel gate, joint attention, drop path and shortcut, in Triton.

    out = base + x d g (1 - alpha + alpha s_frame s_joint)

with x (clips, frames, joints, channels), d what drop path makes of a clip, g (clips, channels) the channel gate's factor, and
s_frame (clips, frames, channels), s_joint (clips, joints, channels) from the means of x over joints and over frames: a 1x1
convolution to fewer channels (``hidden``), a norm, ReLU, a convolution back, sigmoid.

Sums over joints and over frames lie one after the other in (clips, frames + chunks joints, channels): of each frame all joints,
and of each joint the frames of each chunk (what one program goes over). What both are made into is (clips, frames + joints,
...). "Branch" 0 is the frames', 1 the joints'. As in :mod:`last_e.model.kernels` what is summed by several programs is put
together in a fixed order: by all that need it, each for itself, where it is little.
"""

from __future__ import annotations

import triton
import triton.language as tl

from last_e.model.kernels import of_channels, seen, sum_columns, sum_of_parts, together


@triton.jit
def of_branch(branch, clip, frames, joints, chunks):
    """Where a branch's sums begin (in rows), how many rows there are, of how many parts each; and where its rows begin among
    those of both branches."""
    sums = clip * (frames + chunks * joints)
    both = clip * (frames + joints)
    if branch == 0:
        rows = frames
        many = 1
    else:
        sums += frames
        both += frames
        rows = joints
        many = chunks
    return sums, rows, many, both


@triton.jit
def summed(sums, begin, many, rows, r, channels, c, inside):
    """Rows ``r`` of a branch, of all parts (r, c)."""
    there = (r < rows)[:, None] & inside[None, :]
    place = (begin + r[:, None]) * channels + c[None, :]
    total = tl.load(sums + place, mask=there, other=0.0)
    for part in range(1, many):
        total += tl.load(sums + part * rows * channels + place, mask=there, other=0.0)
    return total


@triton.jit
def of_chunks(parts, clip, chunks, channels, c, inside, C: tl.constexpr):
    """The sum (C,) of a clip's rows of parts (clips chunks, channels)."""
    total = tl.zeros((C,), tl.float32)
    for chunk in range(chunks):
        total += tl.load(parts + (clip * chunks + chunk) * channels + c, mask=inside, other=0.0)
    return total


@triton.jit
def dropped(noise, clip, stride, rate, DROP: tl.constexpr):
    """What drop path makes of a clip: 0, or one over what is kept."""
    return tl.where(tl.load(noise + clip * stride) >= rate, 1.0 / (1.0 - rate), 0.0) if DROP else 1.0


@triton.jit
def gate_of(sigmoid, gate_alpha, clip, channels, c, inside):
    """The channel gate's factor (C,): 1 + alpha (sigmoid - 1)."""
    s = tl.load(sigmoid + clip * channels + c, mask=inside, other=0.0)
    return 1.0 + tl.load(gate_alpha + c, mask=inside, other=0.0) * (s - 1.0)


@triton.jit
def pool(x, sums, motion, frames, joints, channels, T: tl.constexpr, V: tl.constexpr, C: tl.constexpr):
    """Sums of x over joints and over frames, and ``motion`` (clips chunks, channels): sums of |x[t + 1] - x[t]|."""
    pool_chunk(x, sums, motion, tl.program_id(0), tl.program_id(1), frames, joints, channels, True, T, V, C)


@triton.jit
def pool_chunk(
    x,
    sums,
    motion,
    program,
    block,
    frames,
    joints,
    channels,
    WHOLE: tl.constexpr,
    T: tl.constexpr,
    V: tl.constexpr,
    C: tl.constexpr,
):
    """Of a chunk of a clip's frames and a block of channels; not WHOLE: the sums over frames alone (clips, chunks, joints,
    channels)."""
    chunks = tl.cdiv(frames, T)
    clip, chunk = (program // chunks).to(tl.int64), program % chunks
    first = chunk * T
    v = tl.arange(0, V)
    c = block * C + tl.arange(0, C)
    of_channel = c < channels
    place = v[:, None] * channels + c[None, :]
    row = joints * channels
    before = frames if WHOLE else 0
    x += clip * frames * row
    sums += clip * (before + chunks * joints) * channels
    total = tl.zeros((V, C), tl.float32)
    moved = tl.zeros((V, C), tl.float32)
    here = tl.load(x + first * row + place, mask=seen(first, frames, v, joints, of_channel), other=0.0).to(tl.float32)
    for t in range(first, first + T):
        total += here
        there = seen(t + 1, frames if WHOLE else tl.minimum(frames, first + T), v, joints, of_channel)
        after = tl.load(x + (t + 1) * row + place, mask=there, other=0.0).to(tl.float32)
        if WHOLE:
            moved += tl.where(there, tl.abs(after - here), 0.0)
            tl.store(sums + t * channels + c, tl.sum(here, axis=0), mask=c < tl.where(t < frames, channels, 0))
        here = after
    if WHOLE:
        tl.store(motion + (clip * chunks + chunk) * channels + c, tl.sum(moved, axis=0), mask=of_channel)
    place += (before + chunk * joints) * channels
    tl.store(sums + place, total, mask=(v < joints)[:, None] & of_channel[None, :])


@triton.jit
def squeeze(
    sums,
    motion,
    first,
    last,
    gate_alpha,
    of_frames,
    of_joints,
    narrow,
    hidden_gate,
    sigmoid,
    parts,
    frames,
    joints,
    chunks,
    blocks,
    channels,
    hidden,
    R: tl.constexpr,
    H: tl.constexpr,
    C: tl.constexpr,
):
    """The channel gate, and the attention's first convolutions: of each clip ``hidden_gate`` (clips, hidden) and ``sigmoid``
    (clips, channels), weights ``first`` (hidden, channels), ``last`` (channels, hidden); ``narrow`` (clips, frames + joints,
    hidden) from the means times the gate, weights ``of_frames`` and ``of_joints`` (hidden, channels); and of that parts
    (clips blocks, 2, 4, hidden) as of :func:`last_e.model.kernels.moments`. A program does R rows of a clip's branch."""
    clip, block = (tl.program_id(0) // blocks).to(tl.int64), tl.program_id(0) % blocks
    branch = tl.program_id(1)
    begin, rows, many, both = of_branch(branch, clip, frames, joints, chunks)
    weights = of_frames
    factor = 1.0 / joints
    if branch == 1:
        weights = of_joints
        factor = 1.0 / frames
    k = tl.arange(0, H)
    of_k = k < hidden
    h = tl.zeros((H,), tl.float32)
    for at in range(0, channels, C):
        c = at + tl.arange(0, C)
        inside = c < channels
        moved = of_chunks(motion, clip, chunks, channels, c, inside, C)
        there = of_k[:, None] & inside[None, :]
        weight = tl.load(first + k[:, None] * channels + c[None, :], mask=there, other=0.0)
        h += tl.sum(weight * moved[None, :], axis=1)
    h = tl.maximum(h * (1.0 / ((frames - 1) * joints)), 0.0)
    told = tl.where(branch == 0, tl.where(block == 0, 1, 0), 0)
    tl.store(hidden_gate + clip * hidden + k, h, mask=k < told * hidden)
    r = block * R + tl.arange(0, R)
    total = tl.zeros((R, H), tl.float32)
    for at in range(0, channels, C):
        c = at + tl.arange(0, C)
        inside = c < channels
        there = inside[:, None] & of_k[None, :]
        weight = tl.load(last + c[:, None] * hidden + k[None, :], mask=there, other=0.0)
        s = tl.sigmoid(tl.sum(weight * h[None, :], axis=1))
        tl.store(sigmoid + clip * channels + c, s, mask=c < told * channels)
        gate = 1.0 + tl.load(gate_alpha + c, mask=inside, other=0.0) * (s - 1.0)
        mean = summed(sums, begin, many, rows, r, channels, c, inside) * (gate * factor)[None, :]
        weight = tl.load(weights + k[None, :] * channels + c[:, None], mask=there, other=0.0)
        form = narrow.dtype.element_ty
        total = tl.dot(mean.to(form), weight.to(form), total, input_precision="ieee")
    there = (r < rows)[:, None] & of_k[None, :]
    kept = total.to(narrow.dtype.element_ty)
    tl.store(narrow + (both + r[:, None]) * hidden + k[None, :], kept, mask=there)
    value = kept.to(tl.float32)
    origin = tl.sum(tl.where((tl.arange(0, R) == 0)[:, None], value, 0.0), axis=0)
    off = tl.where(there, value - origin[None, :], 0.0)  # as the norm will read it
    place = parts + (tl.program_id(0) * 2 + branch) * 4 * hidden + k
    tl.store(place, origin, mask=of_k)
    tl.store(place + hidden, tl.sum(off, axis=0), mask=of_k)
    tl.store(place + 2 * hidden, tl.sum(off * off, axis=0), mask=of_k)
    count = tl.maximum(tl.minimum(rows - block * R, R), 0)
    tl.store(place + 3 * hidden, count + tl.zeros_like(origin), mask=of_k)


@triton.jit
def move(running, new, momentum, c, inside):
    """Move a running statistic towards the batch's."""
    kept = tl.load(running + c, mask=inside, other=0.0)
    tl.store(running + c, kept + momentum * (new - kept), mask=inside)


@triton.jit
def excite(
    narrow,
    parts,
    of_frames,
    of_joints,
    weight_frames,
    bias_frames,
    mean_frames,
    var_frames,
    tracked_frames,
    weight_joints,
    bias_joints,
    mean_joints,
    var_joints,
    tracked_joints,
    momentum,
    eps,
    table,
    scales,
    many,
    frames,
    joints,
    blocks,
    channels,
    hidden,
    P: tl.constexpr,
    R: tl.constexpr,
    H: tl.constexpr,
    C: tl.constexpr,
):
    """s_frame and s_joint, ``scales`` (clips, frames + joints, channels), from ``narrow``: norm, ReLU, weights ``of_frames`` or
    ``of_joints`` (channels, hidden), sigmoid. The norms' tables (2, 4, hidden); moves their running statistics. Each program
    puts the ``many`` parts together for itself."""
    clip, block = (tl.program_id(0) // blocks).to(tl.int64), tl.program_id(0) % blocks
    branch = tl.program_id(1)
    _, rows, _, both = of_branch(branch, clip, frames, joints, 1)
    weights = of_frames
    weight = weight_frames
    bias = bias_frames
    running_mean = mean_frames
    running_var = var_frames
    tracked = tracked_frames
    if branch == 1:
        weights = of_joints
        weight = weight_joints
        bias = bias_joints
        running_mean = mean_joints
        running_var = var_joints
        tracked = tracked_joints
    k = tl.arange(0, H)
    of_k = k < hidden
    mean, var, count = together(parts + branch * 4 * hidden, many, 8 * hidden, hidden, k, of_k, P, H)
    inverse = 1.0 / tl.sqrt(var + eps)
    scale = (inverse * tl.load(weight + k, mask=of_k, other=0.0).to(tl.float64)).to(tl.float32)
    shift = tl.load(bias + k, mask=of_k, other=0.0)
    middle = mean.to(tl.float32)
    if tl.program_id(0) == 0:
        tl.store(tracked, tl.load(tracked) + 1)
        place = table + branch * 4 * hidden + k
        tl.store(place, middle, mask=of_k)
        tl.store(place + hidden, scale, mask=of_k)
        tl.store(place + 2 * hidden, shift, mask=of_k)
        tl.store(place + 3 * hidden, inverse.to(tl.float32), mask=of_k)
        move(running_mean, middle, momentum, k, of_k)
        move(running_var, (var * (count / tl.maximum(count - 1.0, 1.0))).to(tl.float32), momentum, k, of_k)
    r = block * R + tl.arange(0, R)
    there = (r < rows)[:, None] & of_k[None, :]
    form = narrow.dtype.element_ty
    value = tl.load(narrow + (both + r[:, None]) * hidden + k[None, :], mask=there, other=0.0).to(tl.float32)
    h = tl.maximum((value - middle[None, :]) * scale[None, :] + shift[None, :], 0.0).to(form)
    for at in range(0, channels, C):
        c = at + tl.arange(0, C)
        inside = c < channels
        wide = tl.load(weights + c[None, :] * hidden + k[:, None], mask=of_k[:, None] & inside[None, :], other=0.0).to(form)
        s = tl.sigmoid(tl.dot(h, wide, input_precision="ieee"))
        place = (both + r[:, None]) * channels + c[None, :]
        tl.store(scales + place, s.to(scales.dtype.element_ty), mask=(r < rows)[:, None] & inside[None, :])


@triton.jit
def of_frame(scales, both, t, frames, channels, c):
    """A frame's s (1, C)."""
    inside = c < tl.where(t < frames, channels, 0)
    return tl.load(scales + (both + t) * channels + c, mask=inside, other=0.0).to(tl.float32)[None, :]


@triton.jit
def of_joint(scales, both, frames, v, joints, channels, c, of_channel):
    """The joints' s (V, C)."""
    there = (v < joints)[:, None] & of_channel[None, :]
    return tl.load(scales + (both + frames + v[:, None]) * channels + c[None, :], mask=there, other=0.0).to(tl.float32)


@triton.jit
def scale(
    base,
    x,
    sigmoid,
    gate_alpha,
    scales,
    alpha,
    noise,
    stride,
    rate,
    out,
    frames,
    joints,
    channels,
    DROP: tl.constexpr,
    T: tl.constexpr,
    V: tl.constexpr,
    C: tl.constexpr,
):
    """out = base + x d g (1 - alpha + alpha s_frame s_joint)."""
    chunks = tl.cdiv(frames, T)
    clip, first = (tl.program_id(0) // chunks).to(tl.int64), tl.program_id(0) % chunks * T
    v = tl.arange(0, V)
    c = tl.program_id(1) * C + tl.arange(0, C)
    of_channel = c < channels
    both = clip * (frames + joints)
    gate = gate_of(sigmoid, gate_alpha, clip, channels, c, of_channel) * dropped(noise, clip, stride, rate, DROP)
    share = tl.load(alpha + c, mask=of_channel, other=0.0)
    joint = of_joint(scales, both, frames, v, joints, channels, c, of_channel) * (gate * share)[None, :]
    plain = (gate * (1.0 - share))[None, :]
    for t in range(first, first + T):
        there = seen(t, frames, v, joints, of_channel)
        place = ((clip * frames + t) * joints + v[:, None]) * channels + c[None, :]
        value = tl.load(x + place, mask=there, other=0.0).to(tl.float32)
        value *= plain + joint * of_frame(scales, both, t, frames, channels, c)
        value += tl.load(base + place, mask=there, other=0.0).to(tl.float32)
        tl.store(out + place, value.to(out.dtype.element_ty), mask=there)


# --- and back ----------------------------------------------------------------------------------------------------------------


@triton.jit
def scale_sums(gradient, x, scales, sums, whole, frames, joints, channels, T: tl.constexpr, V: tl.constexpr, C: tl.constexpr):
    """With u = gradient x: sums of u s_joint over joints and of u s_frame over frames, and ``whole`` (clips chunks, channels):
    those of u over both."""
    chunks = tl.cdiv(frames, T)
    clip, chunk = (tl.program_id(0) // chunks).to(tl.int64), tl.program_id(0) % chunks
    first = chunk * T
    v = tl.arange(0, V)
    c = tl.program_id(1) * C + tl.arange(0, C)
    of_channel = c < channels
    both = clip * (frames + joints)
    sums += clip * (frames + chunks * joints) * channels
    joint = of_joint(scales, both, frames, v, joints, channels, c, of_channel)
    total = tl.zeros((V, C), tl.float32)
    plain = tl.zeros((V, C), tl.float32)
    for t in range(first, first + T):
        there = seen(t, frames, v, joints, of_channel)
        place = ((clip * frames + t) * joints + v[:, None]) * channels + c[None, :]
        u = tl.load(x + place, mask=there, other=0.0).to(tl.float32)
        u *= tl.load(gradient + place, mask=there, other=0.0).to(tl.float32)
        total += u * of_frame(scales, both, t, frames, channels, c)
        plain += u
        tl.store(sums + t * channels + c, tl.sum(u * joint, axis=0), mask=c < tl.where(t < frames, channels, 0))
    tl.store(whole + (clip * chunks + chunk) * channels + c, tl.sum(plain, axis=0), mask=of_channel)
    place = (frames + chunk * joints + v[:, None]) * channels + c[None, :]
    tl.store(sums + place, total, mask=(v < joints)[:, None] & of_channel[None, :])


@triton.jit
def excite_backward(
    narrow,
    table,
    of_frames,
    of_joints,
    scales,
    sums,
    sigmoid,
    gate_alpha,
    alpha,
    noise,
    stride,
    rate,
    flowing,
    parts,
    through,
    weights_out,
    length,
    frames,
    joints,
    chunks,
    blocks,
    channels,
    hidden,
    DROP: tl.constexpr,
    R: tl.constexpr,
    H: tl.constexpr,
    C: tl.constexpr,
):
    """From the ``sums`` of :func:`scale_sums` what flows behind the norms (``flowing``, as ``narrow``), parts (clips blocks, 4,
    hidden): of each branch sums of that, and of that times narrow - mean; ``through`` (clips blocks, channels): of the frames'
    branch the sums of u s_joint s_frame; and each program's gradients of the weights (channels, hidden), in a row of
    ``weights_out`` (clips blocks, length) behind those of the first weights."""
    clip, block = (tl.program_id(0) // blocks).to(tl.int64), tl.program_id(0) % blocks
    branch = tl.program_id(1)
    begin, rows, many, both = of_branch(branch, clip, frames, joints, chunks)
    weights = of_frames
    if branch == 1:
        weights = of_joints
    k = tl.arange(0, H)
    of_k = k < hidden
    r = block * R + tl.arange(0, R)
    there = (r < rows)[:, None] & of_k[None, :]
    place = (both + r[:, None]) * hidden + k[None, :]
    form = narrow.dtype.element_ty
    table += branch * 4 * hidden
    off = tl.load(narrow + place, mask=there, other=0.0).to(tl.float32) - of_channels(table, 0, hidden, k, of_k)[None, :]
    z = off * of_channels(table, 1, hidden, k, of_k)[None, :] + of_channels(table, 2, hidden, k, of_k)[None, :]
    h = tl.where(there, tl.maximum(z, 0.0), 0.0).to(form)
    kept_of = dropped(noise, clip, stride, rate, DROP)
    weights_out += tl.program_id(0).to(tl.int64) * length + (2 + branch) * channels * hidden
    total = tl.zeros((R, H), tl.float32)
    for at in range(0, channels, C):
        c = at + tl.arange(0, C)
        inside = c < channels
        one = (r < rows)[:, None] & inside[None, :]
        s = tl.load(scales + (both + r[:, None]) * channels + c[None, :], mask=one, other=0.0).to(tl.float32)
        u = summed(sums, begin, many, rows, r, channels, c, inside)
        if branch == 0:
            tl.store(through + tl.program_id(0) * channels + c, tl.sum(u * s, axis=0), mask=inside)
        factor = gate_of(sigmoid, gate_alpha, clip, channels, c, inside) * kept_of
        factor *= tl.load(alpha + c, mask=inside, other=0.0)
        before = (u * factor[None, :] * s * (1.0 - s)).to(form)
        square = inside[:, None] & of_k[None, :]
        weight = tl.load(weights + c[:, None] * hidden + k[None, :], mask=square, other=0.0).to(form)
        total = tl.dot(before, weight, total, input_precision="ieee")
        of_weight = tl.dot(tl.trans(before), h, input_precision="ieee")
        tl.store(weights_out + c[:, None] * hidden + k[None, :], of_weight, mask=square)
    # Read again: to keep it all the way would take more registers than there are.
    off = tl.load(narrow + place, mask=there, other=0.0).to(tl.float32) - of_channels(table, 0, hidden, k, of_k)[None, :]
    z = off * of_channels(table, 1, hidden, k, of_k)[None, :] + of_channels(table, 2, hidden, k, of_k)[None, :]
    kept = tl.where(z > 0.0, total, 0.0).to(form)
    tl.store(flowing + place, kept, mask=there)
    value = tl.where(there, kept.to(tl.float32), 0.0)
    parts += (tl.program_id(0) * 4 + 2 * branch) * hidden
    tl.store(parts + k, tl.sum(value, axis=0), mask=of_k)
    tl.store(parts + hidden + k, tl.sum(value * off, axis=0), mask=of_k)


@triton.jit
def squeeze_backward(
    narrow,
    table,
    flowing,
    parts,
    sums,
    sigmoid,
    gate_alpha,
    of_frames,
    of_joints,
    of_means,
    of_gate,
    of_norms,
    weights_out,
    length,
    many,
    clips,
    frames,
    joints,
    chunks,
    blocks,
    channels,
    hidden,
    P: tl.constexpr,
    R: tl.constexpr,
    H: tl.constexpr,
    C: tl.constexpr,
):
    """From what flows behind the norms the gradients of sums over joints and over frames, ``of_means`` (clips, frames + joints,
    channels); each program's of the gate, ``of_gate`` (clips blocks, 2, channels), and of the weights (hidden, channels); those
    of the norms' weights and biases, ``of_norms`` (2, 2, hidden)."""
    clip, block = (tl.program_id(0) // blocks).to(tl.int64), tl.program_id(0) % blocks
    branch = tl.program_id(1)
    begin, rows, each, both = of_branch(branch, clip, frames, joints, chunks)
    weights = of_frames
    factor = 1.0 / joints
    if branch == 1:
        weights = of_joints
        factor = 1.0 / frames
    k = tl.arange(0, H)
    of_k = k < hidden
    of_bias = sum_of_parts(parts, many, 4, 2 * branch, hidden, k, of_k, P, H)
    with_x = sum_of_parts(parts, many, 4, 2 * branch + 1, hidden, k, of_k, P, H)
    table += branch * 4 * hidden
    spread = of_channels(table, 1, hidden, k, of_k)
    inverse = of_channels(table, 3, hidden, k, of_k).to(tl.float64)
    if tl.program_id(0) == 0:
        tl.store(of_norms + 2 * branch * hidden + k, (with_x * inverse).to(tl.float32), mask=of_k)
        tl.store(of_norms + (2 * branch + 1) * hidden + k, of_bias.to(tl.float32), mask=of_k)
    share = -spread.to(tl.float64) / (clips * rows)
    slant = (share * inverse * inverse * with_x).to(tl.float32)
    shift = (share * of_bias).to(tl.float32)
    r = block * R + tl.arange(0, R)
    there = (r < rows)[:, None] & of_k[None, :]
    place = (both + r[:, None]) * hidden + k[None, :]
    form = narrow.dtype.element_ty
    off = tl.load(narrow + place, mask=there, other=0.0).to(tl.float32) - of_channels(table, 0, hidden, k, of_k)[None, :]
    before = tl.load(flowing + place, mask=there, other=0.0).to(tl.float32) * spread[None, :]
    before = tl.where(there, before + off * slant[None, :] + shift[None, :], 0.0).to(form)
    weights_out += tl.program_id(0).to(tl.int64) * length + branch * channels * hidden
    for at in range(0, channels, C):
        c = at + tl.arange(0, C)
        inside = c < channels
        one = (r < rows)[:, None] & inside[None, :]
        gate = gate_of(sigmoid, gate_alpha, clip, channels, c, inside)
        mean = summed(sums, begin, each, rows, r, channels, c, inside) * factor
        square = of_k[:, None] & inside[None, :]
        weight = tl.load(weights + k[:, None] * channels + c[None, :], mask=square, other=0.0).to(form)
        of_weight = tl.dot(tl.trans(before), (mean * gate[None, :]).to(form), input_precision="ieee")
        tl.store(weights_out + k[:, None] * channels + c[None, :], of_weight, mask=square)
        back = tl.dot(before, weight, input_precision="ieee")
        part = tl.sum(tl.where(one, back * mean, 0.0), axis=0)
        tl.store(of_gate + (tl.program_id(0) * 2 + branch) * channels + c, part, mask=inside)
        tl.store(of_means + (both + r[:, None]) * channels + c[None, :], back * (gate * factor)[None, :], mask=one)


@triton.jit
def gate_backward(
    whole,
    through,
    of_gate,
    motion,
    hidden_gate,
    sigmoid,
    gate_alpha,
    alpha,
    first,
    last,
    noise,
    stride,
    rate,
    of_motion,
    weights_out,
    length,
    frames,
    joints,
    chunks,
    blocks,
    channels,
    hidden,
    DROP: tl.constexpr,
    H: tl.constexpr,
    C: tl.constexpr,
):
    """The gradient of the sums of |x[t + 1] - x[t]|, ``of_motion`` (clips, channels); and each clip's of the gate's weights, of
    alpha and of the gate's, in a row of ``weights_out`` behind those of the attention's weights."""
    clip = tl.program_id(0).to(tl.int64)
    k = tl.arange(0, H)
    of_k = k < hidden
    h = tl.load(hidden_gate + clip * hidden + k, mask=of_k, other=0.0)
    kept_of = dropped(noise, clip, stride, rate, DROP)
    of_first = weights_out + clip * length + 4 * channels * hidden
    of_last = of_first + channels * hidden
    of_alpha = of_last + channels * hidden
    of_gate_alpha = of_alpha + channels
    total = tl.zeros((H,), tl.float32)
    for at in range(0, channels, C):
        c = at + tl.arange(0, C)
        inside = c < channels
        u = of_chunks(whole, clip, chunks, channels, c, inside, C)
        scaled = of_chunks(through, clip, blocks, channels, c, inside, C)
        share = tl.load(alpha + c, mask=inside, other=0.0)
        gate = gate_of(sigmoid, gate_alpha, clip, channels, c, inside)
        s = tl.load(sigmoid + clip * channels + c, mask=inside, other=0.0)
        of_one = (u * (1.0 - share) + scaled * share) * kept_of
        of_one += of_chunks(of_gate, clip, 2 * blocks, channels, c, inside, C)
        tl.store(of_alpha + c, gate * kept_of * (scaled - u), mask=inside)
        tl.store(of_gate_alpha + c, of_one * (s - 1.0), mask=inside)
        before = of_one * tl.load(gate_alpha + c, mask=inside, other=0.0) * s * (1.0 - s)
        there = inside[:, None] & of_k[None, :]
        place = c[:, None] * hidden + k[None, :]
        tl.store(of_last + place, before[:, None] * h[None, :], mask=there)
        total += tl.sum(before[:, None] * tl.load(last + place, mask=there, other=0.0), axis=0)
    total = tl.where(h > 0.0, total, 0.0)
    factor = 1.0 / ((frames - 1) * joints)
    for at in range(0, channels, C):
        c = at + tl.arange(0, C)
        inside = c < channels
        there = of_k[:, None] & inside[None, :]
        place = k[:, None] * channels + c[None, :]
        moved = of_chunks(motion, clip, chunks, channels, c, inside, C) * factor
        tl.store(of_first + place, total[:, None] * moved[None, :], mask=there)
        back = tl.sum(total[:, None] * tl.load(first + place, mask=there, other=0.0), axis=0)
        tl.store(of_motion + clip * channels + c, back * factor, mask=inside)


@triton.jit
def tail_backward(
    gradient,
    x,
    sigmoid,
    gate_alpha,
    scales,
    alpha,
    noise,
    stride,
    rate,
    of_means,
    of_motion,
    out,
    parts,
    found,
    many,
    clips,
    end,
    length,
    frames,
    joints,
    channels,
    DROP: tl.constexpr,
    T: tl.constexpr,
    V: tl.constexpr,
    C: tl.constexpr,
    P: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """The gradient of x: what flows through the factor, through the means, and through the sums of |x[t + 1] - x[t]|.

    Programs beyond those of ``clips`` clips make ``found`` (length,) of parts (many, length), as
    :func:`last_e.model.kernels.sum_columns` does: it has nothing to do with the rest, but to be started."""
    chunks = tl.cdiv(frames, T)
    program = tl.program_id(0)
    if program < clips * chunks:
        clip, first = (program // chunks).to(tl.int64), program % chunks * T
        v = tl.arange(0, V)
        c = tl.program_id(1) * C + tl.arange(0, C)
        of_channel = c < channels
        both = clip * (frames + joints)
        place = v[:, None] * channels + c[None, :]
        row = joints * channels
        x += clip * frames * row
        gate = gate_of(sigmoid, gate_alpha, clip, channels, c, of_channel) * dropped(noise, clip, stride, rate, DROP)
        share = tl.load(alpha + c, mask=of_channel, other=0.0)
        joint = of_joint(scales, both, frames, v, joints, channels, c, of_channel) * (gate * share)[None, :]
        plain = (gate * (1.0 - share))[None, :]
        of_mean = of_joint(of_means, both, frames, v, joints, channels, c, of_channel)
        moving = tl.load(of_motion + clip * channels + c, mask=of_channel, other=0.0)[None, :]
        there = seen(first - 1, frames, v, joints, of_channel)
        before = tl.load(x + (first - 1) * row + place, mask=there, other=0.0).to(tl.float32)
        here = tl.load(x + first * row + place, mask=seen(first, frames, v, joints, of_channel), other=0.0).to(tl.float32)
        for t in range(first, first + T):
            after = seen(t + 1, frames, v, joints, of_channel)
            then = tl.load(x + (t + 1) * row + place, mask=after, other=0.0).to(tl.float32)
            there = seen(t, frames, v, joints, of_channel)
            sign = tl.where(seen(t - 1, frames, v, joints, of_channel), sign_of(here - before), 0.0)
            sign -= tl.where(after, sign_of(then - here), 0.0)
            at = (clip * frames + t) * row + place
            value = tl.load(gradient + at, mask=there, other=0.0).to(tl.float32)
            value *= plain + joint * of_frame(scales, both, t, frames, channels, c)
            value += of_mean + of_frame(of_means, both, t, frames, channels, c) + moving * sign
            tl.store(out + at, value.to(out.dtype.element_ty), mask=there)
            before = here
            here = then
    else:
        block = (program - clips * chunks) * tl.num_programs(1) + tl.program_id(1)
        sum_columns(parts, found, block, many, clips, end, length, P, COLUMNS)


@triton.jit
def sign_of(x):
    """-1, 0 or 1."""
    return tl.where(x > 0.0, 1.0, tl.where(x < 0.0, -1.0, 0.0))


@triton.jit
def columns(parts, out, many, length, P: tl.constexpr, COLUMNS: tl.constexpr):
    """The sums (length,) of the columns of parts (many, length)."""
    sum_columns(parts, out, tl.program_id(0), many, many, length, length, P, COLUMNS)
