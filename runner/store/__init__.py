"""Where jobs live. A new kind of store is one file and one line in :func:`open_store`."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple, Protocol
from urllib.parse import parse_qsl, unquote, urlencode

from last_e.redact import redact, secret_in
from last_e.text import absolute
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

    def age(self, key: str) -> float:
        """Seconds since a key was put, by the store's own clock: those of two machines may differ by hours."""

    def scan(self, prefix: str) -> Iterator[Entry]:
        """Every object whose key begins with ``prefix``, in the order of keys."""

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


_MISTYPED = re.compile(r"(?i)(s3|gs|file)(?::/?(?!/)|//+)")
OPTIONS = ("endpoint_url", "region", "addressing", "ca_bundle")
"""What the query of a bucket's URI may say: ``s3://bucket/prefix?endpoint_url=https://...``."""


@dataclass(frozen=True)
class StoreUri:
    """``s3://bucket/prefix?endpoint_url=...``, ``gs://bucket/prefix``, ``file:///folder`` or a plain path, taken apart."""

    scheme: str
    bucket: str
    prefix: str
    options: dict[str, str]

    @classmethod
    def parse(cls, uri: str) -> StoreUri:
        """Take a URI apart.

        Raises:
            UsageError: it is of no kind known here, or holds credentials.
        """
        if secret_in("", uri):
            raise UsageError(f"store {redact(uri)!r}: credentials do not stand in a URI; boto3 finds them by itself")
        if found := _MISTYPED.match(uri):
            scheme = "file:///" if found[1].lower() == "file" else f"{found[1].lower()}://"
            raise UsageError(f"store {uri!r}: did you mean {scheme}{uri[found.end() :]}? A folder of that name is ./{uri}")
        scheme, separator, rest = uri.partition("://")
        kinds = "a folder, file:///folder, s3://bucket/prefix or gs://bucket/prefix"
        if not separator:
            return cls("file", "", str(absolute(uri)), {})
        if "\0" in unquote(uri):
            raise UsageError(f"store {uri!r}: a name cannot hold a null character")
        if scheme == "file" and rest.startswith("/"):
            return cls("file", "", str(absolute(unquote(rest))), {})
        place, _, query = rest.partition("?")
        bucket, _, prefix = place.partition("/")
        if scheme not in ("s3", "gs") or not bucket:
            raise UsageError(f"store {scheme}://...: allowed are {kinds}")
        if "@" in bucket or ":" in bucket:
            raise UsageError(f"store {scheme}://...: a bucket's name has letters, digits, dots and dashes only")
        options = dict(parse_qsl(query, keep_blank_values=True))
        unknown = sorted(set(options) - set(OPTIONS))
        if unknown:
            raise UsageError(f"store {scheme}://{place}: unknown option {unknown[0]}; allowed are {', '.join(OPTIONS)}")
        endpoint = options.get("endpoint_url")
        if endpoint is not None and not re.fullmatch(r"https?://[^@\s?]+", endpoint):
            shown = "..." if "@" in endpoint else endpoint
            raise UsageError(f"store {scheme}://{place}: endpoint_url is {shown!r}; allowed is http://HOST or https://HOST")
        return cls(scheme, bucket, prefix.strip("/"), options)

    def with_options(self, options: Mapping[str, str | None]) -> StoreUri:
        """The same place with more options; those in the URI itself win, a folder has none."""
        given = {name: value for name, value in options.items() if value is not None}
        return self if self.scheme == "file" else replace(self, options={**given, **self.options})

    def child(self, name: str) -> StoreUri:
        """The URI of something in it."""
        return replace(self, prefix=f"{self.prefix.rstrip('/')}/{name}" if self.prefix else name)

    def parent(self) -> tuple[StoreUri, str]:
        """The inverse of :meth:`child`."""
        folder, _, name = self.prefix.rpartition("/")
        return replace(self, prefix=folder), name

    def __str__(self) -> str:
        if self.scheme == "file":
            return Path(self.prefix).as_uri()
        query = f"?{urlencode(self.options, safe=':/')}" if self.options else ""
        return f"{self.scheme}://{self.bucket}/{self.prefix}".rstrip("/") + query


def open_store(uri: str | StoreUri) -> Store:
    """The store that a URI names.

    Raises:
        UsageError: no kind of store known here.
        StoreError: it cannot be opened.
    """
    parsed = StoreUri.parse(uri) if isinstance(uri, str) else uri
    if parsed.scheme == "file":
        from runner.store.directory import DirectoryStore

        return DirectoryStore(Path(parsed.prefix))
    from runner.store.s3 import S3Store  # boto3 is slow to import

    return S3Store(parsed)


def default_store() -> str:
    """``LASTRUN_STORE``, else ``store`` in the user's configuration file, else a folder of the user's data folder.

    Raises:
        UsageError: the configuration file is not what it should be.
    """
    if uri := os.environ.get("LASTRUN_STORE"):
        return uri
    from runner.settings import read_settings

    if uri := read_settings().store:
        return uri
    from platformdirs import user_data_path

    return str(user_data_path("lastrun") / "jobs")
