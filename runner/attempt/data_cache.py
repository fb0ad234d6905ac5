"""Data in a bucket, fetched once per machine: kept by content, resumed where it was cut, checked, shared between jobs.

``CACHE/objects/SHA256`` holds contents, ``CACHE/uris/`` what lies under an address (with the server's tag, which changes with
the content), ``CACHE/partial/`` what is on its way. Everything may be deleted when no job runs.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from last_e.datafile import read_header
from last_e.text import one_line
from last_e.whole import whole_file
from runner.errors import DamagedObjectError, LastrunError, PausedError, StoreError, UsageError
from runner.folders import cache_folder
from runner.store.uri import StoreUri

if TYPE_CHECKING:
    from runner.store.s3 import S3Store

CHUNK_BYTES = 1 << 20
NETWORK_BYTES = 1 << 17
"""Read at once from the server: on a slow line, too, whoever asks to stop should not wait long."""
TRIES = 5
PAUSE_SECONDS = 2.0
LOOK_SECONDS = 0.2
FORGOTTEN_SECONDS = 7 * 86400.0
"""What was replaced in its bucket is kept here for so long after its last use."""

Say = Callable[[str], None]
Stop = Callable[[], bool]
Watch = Callable[[str, int, int], None]


@dataclass(frozen=True)
class _Object:
    """What a server says of an object."""

    size: int
    tag: str
    sha256: str | None
    """Only of objects that lastrun itself has put there."""


def fetch_data(
    uri: str,
    *,
    options: Mapping[str, str | None] | None = None,
    cache: Path | None = None,
    say: Say = lambda _: None,
    stop: Stop = lambda: False,
    watch: Watch = lambda *_: None,
) -> Path:
    """The local file of ``data.uri``: itself where it is a path, else its copy in the cache, fetched if it is not there yet.

    One process fetches, others that want the same wait for it. What was cut goes on where it was. Whoever is given a copy can
    rely on it: each time its bytes are compared with the sha256 that is its name, and a damaged one is fetched again.

    Args:
        uri: a path, ``file:///...``, ``s3://bucket/key`` or ``gs://bucket/key``, with options as a store's.
        options: more options of the store (``endpoint_url``, ...); those in the URI win.
        cache: default: ``lastrun/remote`` in the user's cache folder.
        say: told in a line what takes time.
        stop: asked often; once it says True, this is given up.
        watch: told what is fetched, how many bytes of it are here, and of how many.

    Raises:
        PausedError: ``stop`` said so.
        UsageError: no kind of address known here.
        StoreError: the object is not there, the server fails, or what came is not what it should be.
        LastrunError: the disk is full.
    """
    place = parse(uri, options or {})
    if place.scheme == "file":
        return Path(place.prefix)
    bucket, key = place.parent()
    from runner.store.s3 import S3Store  # boto3 is slow to import

    root = cache_folder() / "remote" if cache is None else cache
    try:
        if cache is None:
            root.mkdir(parents=True, exist_ok=True)
            root.chmod(0o700)  # whatever the umask, or an older version
        return _fetch(S3Store(bucket), key, place, root, say, stop, watch)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise LastrunError(f"{root}: the disk is full; free some space, the download goes on where it was") from None
        raise StoreError(f"{root}: {error.strerror or error}") from None


def parse(uri: str, options: Mapping[str, str | None]) -> StoreUri:
    """``data.uri`` taken apart.

    Raises:
        UsageError: no kind of address known here, or no file.
    """
    place = StoreUri.parse(uri).with_options(options)
    if place.scheme != "file" and not place.parent()[1]:
        raise UsageError(f"data.uri {uri}: names a bucket; allowed: a file in it, such as {uri.rstrip('/')}/ntu60.safetensors")
    return place


def _fetch(store: S3Store, key: str, place: StoreUri, root: Path, say: Say, stop: Stop, watch: Watch) -> Path:
    from filelock import FileLock, Timeout

    about = _look(store, key)
    for folder in ("objects", "uris", "partial"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    name = hashlib.sha256(str(place).encode()).hexdigest()[:32]
    record = root / "uris" / f"{name}.json"
    lock = FileLock(root / "partial" / f"{name}.lock")
    waited = False
    try:
        lock.acquire(timeout=0)
    except Timeout:
        waited = True
        say(f"{place.prefix}: another job is fetching it; waiting")
        while not lock.is_locked:
            _heed(stop)
            with contextlib.suppress(Timeout):
                lock.acquire(timeout=LOOK_SECONDS)
    try:
        if waited:
            about = _look(store, key)  # it may have been replaced meanwhile
        known = _known(record, about, root)
        if known is not None:
            if _digest(known, "sha256", stop) == known.name:
                with contextlib.suppress(PermissionError):  # somebody else's, in a cache that is shared
                    os.utime(known)  # its last use
                return known
            say(f"{known}: damaged since it was fetched; fetching it again")
            known.unlink()
        # The tag is part of the name: what was begun of other content is never continued.
        partial = root / "partial" / f"{name}-{hashlib.sha256(about.tag.encode()).hexdigest()[:16]}"
        for old in partial.parent.glob(f"{name}-*"):
            if old != partial:
                old.unlink()
        digest = _get(store, key, about, partial, say, stop, watch)
        path = root / "objects" / digest
        os.replace(partial, path)
        path.chmod(0o444)
        _write(record, {"uri": str(place), **asdict(about), "sha256": digest})
        _forget(root)
        return path
    finally:
        lock.release()


def _forget(root: Path) -> None:
    """Delete what no address leads to any more and nobody has used for a while."""
    told = [record.read_text("utf-8", "replace") for record in (root / "uris").glob("*.json")]
    wanted = {digest for text in told for digest in re.findall("[0-9a-f]{64}", text)}
    for path in (root / "objects").iterdir():
        with contextlib.suppress(FileNotFoundError, PermissionError):  # another job forgets, too
            if path.name not in wanted and time.time() - path.stat().st_mtime > FORGOTTEN_SECONDS:
                path.unlink()


def _heed(stop: Stop) -> None:
    if stop():
        raise PausedError("stopped while the data were fetched; the same command goes on where it was")


def _get(store: S3Store, key: str, about: _Object, partial: Path, say: Say, stop: Stop, watch: Watch) -> str:
    """Fetch what is missing of an object; returns the sha256 of the whole.

    What an earlier run has left may have been damaged since (a power cut leaves zeros): then all of it is fetched once more.
    """
    resumed = partial.exists()
    _download(store, key, about, partial, say, stop, watch)
    try:
        return _verify(partial, about, key, stop, resumed=resumed)
    except DamagedObjectError:
        if not resumed:
            raise
    say(f"{key}: what was here of it is damaged; fetching all of it")
    _download(store, key, about, partial, say, stop, watch)
    return _verify(partial, about, key, stop)


def _look(store: S3Store, key: str) -> _Object:
    answer = store.head(key)
    return _Object(answer["ContentLength"], answer["ETag"], answer.get("Metadata", {}).get("sha256"))


def _known(record: Path, about: _Object, root: Path) -> Path | None:
    """The content, if it is there: because this very object was fetched, or the same from elsewhere."""
    digest = about.sha256
    try:
        note = json.loads(record.read_text())
        if (note["size"], note["tag"]) == (about.size, about.tag):
            digest = note["sha256"]
    except (OSError, ValueError, KeyError, TypeError):
        pass
    if digest is None or not digest.isalnum():
        return None
    path = root / "objects" / digest
    return path if path.is_file() and path.stat().st_size == about.size else None


def _download(store: S3Store, key: str, about: _Object, partial: Path, say: Say, stop: Stop, watch: Watch) -> None:
    have = partial.stat().st_size if partial.exists() else 0
    if have > about.size:
        partial.unlink()
        have = 0
    free = shutil.disk_usage(partial.parent).free
    if free < about.size - have:
        need = f"{(about.size - have) / 2**20:,.0f} MiB are needed, {free / 2**20:,.0f} are free"
        raise LastrunError(f"{partial.parent}: no room for {key}: {need}; free some space, or set another cache folder")
    say(f"fetching {key}, {about.size / 2**20:,.0f} MiB" + (f" ({have / 2**20:,.0f} are here)" if have else ""))
    for last in [False] * (TRIES - 1) + [True]:
        try:
            _heed(stop)
            _append(store, key, about, partial, stop, watch)
        except OSError:
            raise
        except (StoreError, ValueError, EOFError) as error:
            if last or getattr(error, "lasting", False):
                raise
            time.sleep(PAUSE_SECONDS)
        if partial.exists() and partial.stat().st_size == about.size:
            return
    raise StoreError(f"{store.uri}: {key} was cut {TRIES} times; the same command goes on where it was")


def _append(store: S3Store, key: str, about: _Object, partial: Path, stop: Stop, watch: Watch) -> None:
    """Get what is missing; a connection that is cut leaves what has come."""
    import botocore.exceptions
    import urllib3.exceptions

    with partial.open("ab") as file:
        begin = file.tell()
        if begin == about.size:
            return
        answer = store.get_from(key, begin, about.tag)
        if answer["ContentLength"] != about.size - begin:  # a server that ignores ranges sends everything
            file.truncate(0)
        try:
            while chunk := answer["Body"].read(NETWORK_BYTES):
                file.write(chunk)
                watch(key, file.tell(), about.size)
                _heed(stop)
        except (botocore.exceptions.BotoCoreError, urllib3.exceptions.HTTPError) as error:
            raise StoreError(f"{store.uri}: cut while reading {key}: {one_line(error)}") from None
        finally:
            file.flush()
            os.fsync(file.fileno())


def _verify(path: Path, about: _Object, key: str, stop: Stop, *, resumed: bool = False) -> str:
    """sha256 of a file that is what the server, and its own header, say it is; else it is thrown away.

    Where neither says anything, the server's tag often is the MD5 of the content. With some kinds of encryption it looks like
    one and is none, so it is no proof against what has just come; what comes from an earlier run has to match it.
    """
    whole = _digest(path, "sha256", stop)
    with path.open("rb") as file:
        begin, told = _header(file)
    data = None if told is None else _digest(path, "sha256", stop, begin)
    tag, silent = about.tag.strip('"'), about.sha256 is None and told is None
    doubtful = resumed and silent and re.fullmatch("[0-9a-f]{32}", tag) and tag != _digest(path, "md5", stop)
    if about.sha256 not in (None, whole) or told not in (None, data) or doubtful:
        path.unlink()
        raise DamagedObjectError(
            f"{key}: damaged on the way, or in the store (sha256 differs); fetch it again, or put it there again"
        )
    return whole


def _digest(path: Path, kind: str, stop: Stop, begin: int = 0) -> str:
    """Hash of a file from a byte on."""
    digest = hashlib.new(kind, usedforsecurity=False)
    with path.open("rb") as file:
        file.seek(begin)
        while chunk := file.read(CHUNK_BYTES):
            _heed(stop)
            digest.update(chunk)
    return digest.hexdigest()


def _header(file: Any) -> tuple[int, str | None]:
    """Where a prepared file's data begin and which sha256 its header says they have; (0, None) for any other file."""
    try:
        header, begin = read_header(file)
    except ValueError:
        return 0, None
    told = header["__metadata__"].get("data_sha256")
    return (begin, told) if isinstance(told, str) else (0, None)


def _write(path: Path, values: dict[str, Any]) -> None:
    with whole_file(path) as part:
        part.write_text(json.dumps(values) + "\n")
