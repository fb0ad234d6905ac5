"""Of how many programs a GPU's kernels are made, and what each takes: whole numbers alone."""

from __future__ import annotations

CHUNK = 16
"""Frames that a program goes over which sums up, or scales, all joints of them."""
COLUMNS = {"P": 8, "COLUMNS": 128}
"""Rows of parts that are put together at a time, and how many of their columns by a program."""


def blocks(count: int, size: int) -> int:
    """How many blocks of a size there are in so many."""
    return -(-count // size)


def power_of_two(count: int, least: int = 1) -> int:
    """The next one from ``count`` on, at least ``least``."""
    return max(least, 1 << (count - 1).bit_length())
