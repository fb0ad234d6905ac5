"""Sums that do not depend on who adds what: one binary tree over a list, fixed by the list's length. Torch-free.

Floating-point sums depend on their order. Here the order is that of the tree whose node (level, index) holds the sum of the
list's parts from ``index * 2**level`` up to ``(index + 1) * 2**level``: whoever does which parts, the same two are added.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any, Generic, TypeVar

T = TypeVar("T")
Node = tuple[int, int]
"""Level and index."""


def shares(parts: int, ranks: int) -> list[range]:
    """Which of the ``parts`` each of the ``ranks`` does: neighbours, as even as can be, the larger shares first."""
    size, larger = divmod(parts, ranks)
    begins = [rank * size + min(rank, larger) for rank in range(ranks + 1)]
    return [range(begin, end) for begin, end in pairwise(begins)]


class Fold(Generic[T]):
    """The sum of ``parts`` values, added as soon as two that belong together are there: at most two a level are kept.

    ``plus`` may add into its first argument, which nobody else keeps.
    """

    def __init__(self, parts: int, plus: Callable[[T, T], T]) -> None:
        self._parts, self._plus = parts, plus
        self.nodes: dict[Node, T] = {}

    def add(self, node: Node, value: T) -> None:
        """Part i is the node (0, i); sums of others may be added as well."""
        level, index = node
        while 1 << level < self._parts:
            sibling = level, index ^ 1
            if sibling in self.nodes:
                other = self.nodes.pop(sibling)
                value = self._plus(value, other) if index < sibling[1] else self._plus(other, value)
            elif index % 2 or (index + 1) << level < self._parts:
                break  # it is still to come; beyond the list's end there is nothing
            level, index = level + 1, index >> 1
        self.nodes[level, index] = value

    @property
    def total(self) -> T:
        """The sum of all, once they are there."""
        (value,) = self.nodes.values()
        return value


def nodes_of(parts: int, share: range) -> list[Node]:
    """The nodes that are left when a share has been added: what others need of it."""
    fold: Fold[Any] = Fold(parts, lambda one, other: one)
    for part in share:
        fold.add((0, part), None)
    return sorted(fold.nodes)
