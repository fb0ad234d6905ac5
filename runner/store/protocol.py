"""What a store can do: keys to bytes, whole or absent."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from runner.errors import DamagedObjectError


class Entry(NamedTuple):
    """An object in a store."""

    key: str
    size: int


def check_size(key: str, expected: int | None, found: int) -> None:
    """See that an object has the size that it should have.

    Raises:
        DamagedObjectError: it has another.
    """
    if expected not in (None, found):
        raise DamagedObjectError(f"{key} has {found:,} bytes, not {expected:,}")


MOST_BYTES = 64 << 20
"""Of what is read into memory: no record, no piece of a log is as large."""


def check_bound(key: str, size: int, most: int) -> None:
    """See that an object is not larger than its kind can be.

    Raises:
        DamagedObjectError: it is.
    """
    if size > most:
        raise DamagedObjectError(f"{key} is damaged: it has {size:,} bytes, and what belongs there never more than {most:,}")


class Store(Protocol):
    """Keys (``a/b/c``) to bytes. What was put is there whole and for good when the call returns, or it is not there.

    Every method raises :class:`~runner.errors.StoreError` when the store fails, and
    :class:`~runner.errors.MissingKeyError` for a key that is not there.
    """

    uri: str
    has_a_clock: bool
    """Whether :meth:`age` goes by a clock of its own, and not by those of the machines that use it."""

    def check(self) -> None:
        """See that it answers, and can be written; nothing stays of that."""

    def is_read_only(self, prefix: str = "") -> bool:
        """Whether it is known, without a try, that nothing below a prefix can be written: a medium, a folder of others."""

    def put(self, key: str, data: bytes) -> None:
        """Store bytes under a key; what was there is replaced at once."""

    def put_file(self, key: str, path: Path) -> None:
        """Store a file's bytes."""

    def get(self, key: str, most: int = MOST_BYTES) -> bytes:
        """The bytes under a key. An object of more than ``most`` is damaged; that is asked before it is read."""

    def get_file(self, key: str, path: Path, size: int | None = None, most: int | None = None) -> None:
        """Write the bytes under a key to a file, whole or not at all. With ``size``, an object of another size is damaged, with
        ``most`` a larger one; that is asked before anything is written, and fills no disk."""

    def age(self, key: str) -> float:
        """Seconds since a key was put, by the store's own clock if it has one: those of two machines may differ by hours."""

    def ahead(self, key: str) -> float:
        """Seconds by which the clock of who keeps an object that has just been put is ahead of this machine's."""

    def scan(self, prefix: str, after: str = "") -> Iterator[Entry]:
        """Every object whose key begins with ``prefix`` and is larger than ``after``, in the order of keys."""

    def folders(self, prefix: str) -> list[str]:
        """Names one level below ``prefix`` (which ends with ``/`` or is empty) that have objects under them, in order."""

    def delete(self, keys: Iterable[str]) -> None:
        """Delete objects, in the order given; a key that is not there is no error."""

    def clear(self, prefix: str) -> None:
        """Delete all below a prefix that ends with ``/``: objects, those with names of others' making, what is half-written."""

    def sweep(self, prefix: str, keep: Callable[[str], bool]) -> None:
        """Free what writers that were killed left half-written below ``prefix`` (no object yet, but it takes space).

        ``keep`` says of a key that its writer may still be at it.
        """

    def in_parallel(self, calls: Sequence[Callable[[], Any]]) -> list[Any]:
        """What calls return that need nothing of each other: all at once where each waits for a network. One that fails
        makes this fail."""
