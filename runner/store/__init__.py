"""Where jobs live. A new kind of store is one file and one line in :func:`open_store`."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple, Protocol

from runner.errors import UsageError


class Entry(NamedTuple):
    """An object in a store."""

    key: str
    size: int


class Store(Protocol):
    """Keys (``a/b/c``) to bytes. What was put is there whole and for good when the call returns, or it is not there.

    Every method raises :class:`~runner.errors.StoreError` when the store fails, and
    :class:`~runner.errors.MissingKeyError` for a key that is not there.
    """

    uri: str

    def put(self, key: str, data: bytes) -> None:
        """Store bytes under a key; what was there is replaced at once."""

    def put_file(self, key: str, path: Path) -> None:
        """Store a file's bytes."""

    def get(self, key: str) -> bytes:
        """The bytes under a key."""

    def get_file(self, key: str, path: Path) -> None:
        """Write the bytes under a key to a file, whole or not at all."""

    def scan(self, prefix: str) -> Iterator[Entry]:
        """Every object whose key begins with ``prefix``, in the order of keys."""

    def folders(self, prefix: str) -> list[str]:
        """Names one level below ``prefix`` (which ends with ``/`` or is empty) that have objects under them, in order."""

    def delete(self, keys: Iterable[str]) -> None:
        """Delete objects, in the order given; a key that is not there is no error."""


def open_store(uri: str) -> Store:
    """The store that a URI names: a folder, as a plain path or ``file:///folder``.

    Raises:
        UsageError: no kind of store known here.
    """
    from runner.store.directory import DirectoryStore

    if uri.startswith("file://"):
        uri = uri.removeprefix("file://")
    if "://" in uri or not uri:
        raise UsageError(f"store {uri!r}: allowed are a folder or file:///folder")
    return DirectoryStore(Path(uri).expanduser().absolute())


def default_store() -> str:
    """``LASTRUN_STORE``, else a folder of the user's data folder."""
    if uri := os.environ.get("LASTRUN_STORE"):
        return uri
    from platformdirs import user_data_path

    return str(user_data_path("lastrun") / "jobs")


def split_job_uri(uri: str) -> tuple[str, str]:
    """``STORE/JOB-ID`` into its two parts."""
    store, _, job = uri.rstrip("/").rpartition("/")
    return store, job
