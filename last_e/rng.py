"""Random numbers that are a function of where they are used, not of what was drawn before.

A number is a hash of (seed, purpose, epoch, index, column). So order, augmentation and dropout of any step can be made
anew on any device, in any micro-batch, after any cut, bit for bit: the arithmetic is on integers, and only the last
conversion to a float is left to the device (and exact: 24 bits).

The hash chains the 32-bit finaliser "lowbias32" (Wellons, https://nullprogram.com/blog/2018/07/31/), each word mixed in
before the next round.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import TypeVar

import torch
from torch import Tensor

_MASK = 0xFFFFFFFF
_GOLDEN = 0x9E3779B9

Whole = TypeVar("Whole", int, Tensor)
Key = int | Tensor
"""A number, or a tensor () of int64 with one, on the device of what is drawn."""
KeyOf = Callable[[int], Key]
"""The key of a purpose."""

# Purposes: no two uses share numbers.
ORDER, CROP, WARP, JITTER, DROPOUT, DROP_PATH, CLASS_TURN, CLIP_TURN = range(1, 9)
MIRROR, MOTION, LIMBS, POSE, LEAN, DRIFT, SPEED, MASK_JOINTS, MASK_FRAMES, MIXUP, PARTNER = range(9, 20)
PURPOSES = range(1, 20)


@lru_cache(maxsize=256)
def key(seed: int, purpose: int, epoch: int) -> int:
    """A 32-bit key for one purpose in one epoch of one run."""
    state = 0
    for word in (seed & _MASK, seed >> 32, purpose, epoch):
        state = _mix((state ^ word) + _GOLDEN & _MASK)
    return state


def key_of(seed: int, epoch: int, purpose: int) -> int:
    """:func:`key` of one epoch of one run."""
    return key(seed, purpose, epoch)


class Keys:
    """The keys of an epoch in a device's memory, where what is recorded there reads them."""

    def __init__(self, device: torch.device) -> None:
        self.table = torch.zeros(len(PURPOSES) + 1, dtype=torch.int64, device=device)
        """Each at the place of its purpose's number."""

    def set(self, seed: int, epoch: int) -> None:
        """Those of another epoch."""
        for purpose in PURPOSES:
            self.table[purpose].fill_(key(seed, purpose, epoch))

    def __call__(self, purpose: int) -> Tensor:
        """That of a purpose: ()."""
        return self.table[purpose]


def random_bits(key: Key, index: Tensor, columns: int) -> Tensor:
    """32 random bits for each index and column: (len(index), columns) int64, on the device of ``index`` (int64)."""
    row = _mix((_mix(index & _MASK ^ key) + (index >> 32)) & _MASK)
    column = torch.arange(1, columns + 1, device=index.device) * _GOLDEN & _MASK
    return _mix(_mix(row[:, None] ^ column) ^ key)


def host_bits(key: int, index: int) -> int:
    """The first column of :func:`random_bits` of one index, by the host: for what decides which tensors are made."""
    row = _mix((_mix(index & _MASK ^ key) + (index >> 32)) & _MASK)
    return _mix(_mix(row ^ _GOLDEN) ^ key)


def uniform(key: Key, index: Tensor, columns: int) -> Tensor:
    """Uniform in [0, 1): (len(index), columns) float32, multiples of 2^-24."""
    return (random_bits(key, index, columns) >> 8).float() * 2.0**-24


def normal(key: Key, index: Tensor, columns: int) -> Tensor:
    """Close to standard normal: (len(index), columns) float32.

    The sum of four 16-bit uniforms (Irwin-Hall), centred and scaled: no transcendental function, so every device gives
    the same numbers; it never exceeds 3.5, which suits a sensor's noise.
    """
    bits = random_bits(key, index, 2 * columns)
    halves = (bits >> 16) + (bits & 0xFFFF)
    total = halves[:, :columns] + halves[:, columns:]
    return (total.float() - 2 * 65535) * (3**0.5 / 65536)


def permutation(key: int, length: int) -> Tensor:
    """A random order of ``range(length)``, int64, on the CPU: the argsort of 62 random bits (ties by index)."""
    bits = random_bits(key, torch.arange(length), 2)
    return torch.argsort((bits[:, 0] << 30) ^ bits[:, 1], stable=True)


def _mix(x: Whole) -> Whole:
    """lowbias32 on values below 2^32, Python's or in int64. 0x846CA68B stands as its negative: no product leaves int64."""
    x = x ^ (x >> 16)
    x = (x * 0x7FEB352D) & _MASK
    x = x ^ (x >> 15)
    x = (x * (0x846CA68B - (1 << 32))) & _MASK
    return x ^ (x >> 16)
