"""A store in a folder: every object a file, complete or absent, private to the user."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from runner.errors import DamagedObjectError, MissingKeyError, StoreError
from runner.store.protocol import MOST_BYTES, Entry, check_bound, check_size

_PART = ".part-"


class DirectoryStore:
    """A folder as a store. Writers put a temporary file beside the final one, flush it to disk and rename it."""

    has_a_clock = False

    def __init__(self, root: Path) -> None:
        if root.exists() and not root.is_dir():
            raise StoreError(f"{root}: not a folder")
        self.root = root
        self.uri = root.as_uri()

    def check(self) -> None:
        """See :class:`~runner.store.protocol.Store`. What is there tells; nothing is made."""
        place = next(folder for folder in (self.root, *self.root.parents) if folder.exists())
        if not (place.is_dir() and os.access(place, os.W_OK | os.X_OK)):
            raise StoreError(f"{self.uri}: {place} cannot be written: name another folder, or put its permissions right")

    def put(self, key: str, data: bytes) -> None:
        """See :class:`~runner.store.protocol.Store`."""
        self._write(key, lambda file: file.write(data))

    def put_file(self, key: str, path: Path) -> None:
        """See :class:`~runner.store.protocol.Store`."""
        with path.open("rb") as source:
            self._write(key, lambda file: shutil.copyfileobj(source, file, 1 << 20))

    def get(self, key: str, most: int = MOST_BYTES) -> bytes:
        """See :class:`~runner.store.protocol.Store`."""
        try:
            path = self._path(key)
            if path.exists() and not path.is_file():  # a pipe would be waited for
                raise IsADirectoryError
            with path.open("rb") as file:
                size = os.fstat(file.fileno()).st_size
                check_bound(key, size, most)
                return file.read(size)  # no more, should it grow
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            raise MissingKeyError(f"{self.uri}: nothing under {key}") from None
        except OSError as error:
            raise self._failed("read", key, error) from None

    def get_file(self, key: str, path: Path, size: int | None = None) -> None:
        """See :class:`~runner.store.protocol.Store`."""
        data = self._path(key)
        part = path.with_name(_PART + path.name)
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            source = data.open("rb") if data.is_file() else None
        except OSError as error:
            raise DamagedObjectError(str(self._failed("read", key, error))) from None
        try:
            if source is None:
                raise MissingKeyError(f"{self.uri}: nothing under {key}")
            with source, part.open("wb") as target:
                check_size(key, size, os.fstat(source.fileno()).st_size)
                shutil.copyfileobj(source, target, 1 << 20)
            os.replace(part, path)
        finally:
            part.unlink(missing_ok=True)

    def age(self, key: str) -> float:
        """See :class:`~runner.store.protocol.Store`. A folder has no clock to ask but this machine's."""
        try:
            return time.time() - self._path(key).stat().st_mtime
        except (FileNotFoundError, NotADirectoryError):
            raise MissingKeyError(f"{self.uri}: nothing under {key}") from None
        except OSError as error:
            raise self._failed("read", key, error) from None

    def scan(self, prefix: str, after: str = "") -> Iterator[Entry]:
        """See :class:`~runner.store.protocol.Store`."""
        folder = prefix.rpartition("/")[0]
        found = []
        try:
            top = self._path(folder) if folder else self.root
            for parent, folders, names in os.walk(top, onerror=_raise_but_missing):
                folders[:] = [name for name in folders if not (Path(parent) / name).is_symlink()]
                for name in names:
                    path = Path(parent) / name
                    key = path.relative_to(self.root).as_posix()
                    if key.startswith(prefix) and key > after and not name.startswith(_PART):
                        try:
                            found.append(Entry(key, path.lstat().st_size))
                        except FileNotFoundError:  # deleted meanwhile
                            continue
        except OSError as error:
            raise self._failed("list", prefix, error) from None
        return iter(sorted(found))

    def folders(self, prefix: str) -> list[str]:
        """See :class:`~runner.store.protocol.Store`."""
        top = self._path(prefix.rstrip("/")) if prefix else self.root
        try:
            with os.scandir(top) as entries:
                return sorted(entry.name for entry in entries if entry.is_dir(follow_symlinks=False))
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as error:
            raise self._failed("list", prefix, error) from None

    def delete(self, keys: Iterable[str]) -> None:
        """See :class:`~runner.store.protocol.Store`."""
        for key in keys:
            path = self._path(key)
            try:
                path.unlink(missing_ok=True)
                for parent in path.parents:  # empty folders are no objects
                    if parent == self.root:
                        break
                    parent.rmdir()
            except OSError:
                if path.exists():
                    raise StoreError(f"{self.uri}: {key} cannot be deleted") from None

    def clear(self, prefix: str) -> None:
        """See :class:`~runner.store.protocol.Store`. A symbolic link is deleted, not what it leads to."""
        try:
            shutil.rmtree(self._path(prefix.rstrip("/")))
        except FileNotFoundError:
            return
        except OSError as error:
            raise self._failed("delete", prefix, error) from None

    def sweep(self, prefix: str, keep: Callable[[str], bool]) -> None:
        """See :class:`~runner.store.protocol.Store`: temporary files that were never renamed."""
        try:
            top = self._path(prefix.rstrip("/")) if prefix else self.root
            parts = [path for path in top.rglob(f"{_PART}*-*") if path.is_file()]
            for path in parts:
                name = path.name.removeprefix(_PART).rpartition("-")[0]
                if not keep(path.with_name(name).relative_to(self.root).as_posix()):
                    path.unlink(missing_ok=True)
        except FileNotFoundError:  # a folder that was deleted meanwhile; the next sweep sees to the rest
            return
        except OSError as error:
            raise self._failed("sweep", prefix, error) from None

    def in_parallel(self, calls: Sequence[Callable[[], Any]]) -> list[Any]:
        """See :class:`~runner.store.protocol.Store`. A disk does not answer faster for being asked by many."""
        return [call() for call in calls]

    def _write(self, key: str, fill: Callable[[BinaryIO], object]) -> None:
        path = self._path(key)
        part = None
        try:
            self._make_folder(path.parent)
            fd, name = tempfile.mkstemp(prefix=f"{_PART}{path.name}-", dir=path.parent)
            part = Path(name)
            with os.fdopen(fd, "wb") as file:
                fill(file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(part, path)
            folder = os.open(path.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
        except OSError as error:
            if part is not None:
                part.unlink(missing_ok=True)
            raise self._failed("write", key, error) from error

    def _make_folder(self, folder: Path) -> None:
        """``mkdir -p``, each new folder private; again if a deletion of empty folders came between."""
        for last in (False, False, True):
            missing = []
            while not folder.is_dir():
                missing.append(folder)
                folder = folder.parent
            try:
                for path in reversed(missing):
                    path.mkdir(mode=0o700, exist_ok=True)
                return
            except FileNotFoundError:
                if last:
                    raise
                folder = missing[0]

    def _path(self, key: str) -> Path:
        """The file of a key; a key that would leave the store's folder is refused."""
        parts = key.split("/")
        if any(part in ("", ".", "..") or "\0" in part or "\\" in part for part in parts):
            raise StoreError(f"{self.uri}: refused key {key!r}")
        path = self.root.joinpath(*parts)
        try:
            for parent in [path, *path.parents]:
                if parent == self.root:
                    break
                if parent.is_symlink():
                    raise DamagedObjectError(f"{self.uri}: refused key {key!r}: {parent} is a symbolic link")
        except OSError as error:
            raise self._failed("reach", key, error) from None
        return path

    def _failed(self, what: str, key: str, error: OSError) -> StoreError:
        shut = what == "write" and error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT)
        hint = "; name a folder that you may write to, or a bucket, with --store or LASTRUN_STORE" if shut else ""
        failed = StoreError(f"{self.uri}: cannot {what} {key or 'the store'}: {error.strerror or error}{hint}")
        failed.lasting = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS)
        return failed


def _raise_but_missing(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError):
        raise error
