"""A store in a folder: every object a file, complete or absent, private to the user.

Others may be able to write into it, and exchange a folder for a link to one of ours between two calls. So every path is walked
from the store's own folder on, one opened folder after another, and no link is followed on the way or at its end.
"""

from __future__ import annotations

import errno
import os
import secrets
import shutil
import stat
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from runner import kaggle
from runner.errors import DamagedObjectError, LinkError, MissingKeyError, StoreError
from runner.store.protocol import MOST_BYTES, Entry, check_bound, check_size

_PART = ".part-"
_DEEPEST = 12
"""No key has as many parts."""
_SHUT = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT, errno.EEXIST, errno.ENOTDIR)
_FULL = (errno.ENOSPC, errno.EDQUOT)
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC  # a pipe is not waited for
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class DirectoryStore:
    """A folder as a store. Writers put a temporary file beside the final one, flush it to disk and rename it."""

    has_a_clock = False

    def __init__(self, root: Path) -> None:
        try:
            wrong = "not a folder" if root.exists() and not root.is_dir() else _leads_nowhere(root)
        except OSError as error:  # what leads there may not be looked into, or the name is too long
            wrong = f"cannot be looked at: {error.strerror or error}"
        if wrong:
            raise StoreError(f"{root}: {wrong}; name a folder, or a bucket, with --store or LASTRUN_STORE")
        self.root = root
        self.uri = root.as_uri()

    def check(self) -> None:
        """See :class:`~runner.store.protocol.Store`. A folder is made and removed: nothing else tells whether it can be."""
        place = self._nearest()
        trial = place / f".lastrun-{secrets.token_hex(8)}"
        try:
            trial.mkdir(mode=0o700)
            trial.rmdir()
        except OSError as error:
            why = error.strerror or error
            raise StoreError(
                f"{self.uri}: {place} cannot be written ({why}): name another folder, or put its permissions right"
            ) from None

    def is_read_only(self, prefix: str = "") -> bool:
        """See :class:`~runner.store.protocol.Store`."""
        place = self._nearest(prefix)
        return place.is_dir() and not os.access(place, os.W_OK | os.X_OK)

    def put(self, key: str, data: bytes) -> None:
        """See :class:`~runner.store.protocol.Store`."""
        self._write(key, lambda file: file.write(data))

    def put_file(self, key: str, path: Path) -> None:
        """See :class:`~runner.store.protocol.Store`."""
        with path.open("rb") as source:

            def fill(file: BinaryIO) -> None:
                source.seek(0)  # it may be tried again
                shutil.copyfileobj(source, file, 1 << 20)

            self._write(key, fill)

    def get(self, key: str, most: int = MOST_BYTES) -> bytes:
        """See :class:`~runner.store.protocol.Store`."""
        with self._read(key) as file:
            size = os.fstat(file.fileno()).st_size
            check_bound(key, size, most)
            return file.read(size)  # no more, should it grow

    def get_file(self, key: str, path: Path, size: int | None = None, most: int | None = None) -> None:
        """See :class:`~runner.store.protocol.Store`."""
        part = path.with_name(_PART + path.name)
        path.parent.mkdir(parents=True, exist_ok=True)
        with self._read(key) as source:
            try:
                found = os.fstat(source.fileno()).st_size
                check_size(key, size, found)
                if most is not None:
                    check_bound(key, found, most)
                with part.open("wb") as target:
                    shutil.copyfileobj(source, target, 1 << 20)
                os.replace(part, path)
            except OSError as error:
                if error.errno in _FULL:
                    raise _no_room(path, error) from error
                raise
            finally:
                part.unlink(missing_ok=True)

    def age(self, key: str) -> float:
        """See :class:`~runner.store.protocol.Store`. A folder has no clock to ask but this machine's."""
        with self._told("read", key), self._place(key) as (folder, name):
            return time.time() - os.stat(name, dir_fd=folder, follow_symlinks=False).st_mtime

    def ahead(self, key: str) -> float:
        """See :class:`~runner.store.protocol.Store`. On a network's folder it is its server that writes down the time."""
        return -self.age(key)

    def scan(self, prefix: str, after: str = "") -> Iterator[Entry]:
        """See :class:`~runner.store.protocol.Store`."""
        top = self._parts(prefix.rpartition("/")[0])
        found = []
        with suppress(MissingKeyError), self._told("list", prefix):
            for parts, names, folder in self._walk(top):
                for name in names:
                    key = "/".join([*parts, name])
                    if key.startswith(prefix) and key > after and not name.startswith(_PART):
                        with suppress(FileNotFoundError):  # deleted meanwhile
                            about = os.stat(name, dir_fd=folder, follow_symlinks=False)
                            if not _leads_to_a_folder(name, folder, about):
                                found.append(Entry(key, about.st_size))
        return iter(sorted(found))

    def folders(self, prefix: str) -> list[str]:
        """See :class:`~runner.store.protocol.Store`."""
        parts = self._parts(prefix.rstrip("/"))
        with (
            suppress(MissingKeyError),
            self._told("list", prefix),
            self._opened(parts) as opened,
            os.scandir(opened) as entries,
        ):
            return sorted(entry.name for entry in entries if entry.is_dir(follow_symlinks=False))
        return []

    def delete(self, keys: Iterable[str]) -> None:
        """See :class:`~runner.store.protocol.Store`."""
        for key in keys:
            parts = self._parts(key)
            with suppress(MissingKeyError), self._told("delete", key), self._opened(parts[:-1]) as folder:
                os.unlink(parts[-1], dir_fd=folder)
            with suppress(OSError, StoreError):  # empty folders are no objects
                for depth in range(len(parts) - 1, 0, -1):
                    with self._opened(parts[: depth - 1]) as folder:
                        os.rmdir(parts[depth - 1], dir_fd=folder)

    def clear(self, prefix: str) -> None:
        """See :class:`~runner.store.protocol.Store`. A symbolic link is deleted, not what it leads to."""
        with suppress(MissingKeyError), self._told("delete", prefix), self._place(prefix.rstrip("/")) as (folder, name):
            _remove(name, folder)

    def sweep(self, prefix: str, keep: Callable[[str], bool]) -> None:
        """See :class:`~runner.store.protocol.Store`: temporary files that were never renamed."""
        with suppress(MissingKeyError), self._told("sweep", prefix):
            for parts, names, folder in self._walk(self._parts(prefix.rstrip("/"))):
                for name in (name for name in names if name.startswith(_PART) and "-" in name.removeprefix(_PART)):
                    final = name.removeprefix(_PART).rpartition("-")[0]
                    if not keep("/".join([*parts, final])):
                        with suppress(FileNotFoundError):
                            os.unlink(name, dir_fd=folder)

    def in_parallel(self, calls: Sequence[Callable[[], Any]]) -> list[Any]:
        """See :class:`~runner.store.protocol.Store`. A disk does not answer faster for being asked by many."""
        return [call() for call in calls]

    def _nearest(self, prefix: str = "") -> Path:
        """The folder of a prefix; where that is not there yet, the one in which it would be made."""
        place = self.root.joinpath(*self._parts(prefix.rstrip("/")))
        return next(folder for folder in (place, *place.parents) if folder.exists())

    # --- ways ---------------------------------------------------------------------------------------------------------

    def _parts(self, key: str) -> list[str]:
        """The names on the way to a key; a key that would leave the store's folder is refused."""
        parts = key.split("/") if key else []
        if any(part in ("", ".", "..") or "\0" in part or "\\" in part for part in parts):
            raise StoreError(f"{self.uri}: refused key {key!r}")
        return parts

    @contextmanager
    def _opened(self, parts: Sequence[str], make: bool = False) -> Iterator[int]:
        """A folder below the store's, reached by these names and no link; with ``make`` it is made, each new folder private."""
        if make:
            self._make_root()
        opened = os.open(self.root, _FOLDER)
        try:
            for number, part in enumerate(parts):
                try:
                    inner = os.open(part, _FOLDER | os.O_NOFOLLOW, dir_fd=opened)
                except FileNotFoundError:
                    if not make:
                        raise
                    with suppress(FileExistsError):
                        os.mkdir(part, 0o700, dir_fd=opened)
                    inner = os.open(part, _FOLDER | os.O_NOFOLLOW, dir_fd=opened)
                except OSError:
                    self._see_that_it_is_no_link(part, opened, "/".join(parts[: number + 1]))
                    raise
                os.close(opened)
                opened = inner
            yield opened
        finally:
            os.close(opened)

    def _walk(self, top: list[str]) -> Iterator[tuple[list[str], list[str], int]]:
        """A folder and those below it: the names on the way, names of what is no folder, the opened folder. What lies deeper
        than any key is nobody's."""
        left = [top]
        while left:
            parts = left.pop()
            try:
                with self._opened(parts) as folder:
                    with os.scandir(folder) as entries:
                        inner = {entry.name: entry.is_dir(follow_symlinks=False) for entry in entries}
                    if len(parts) < _DEEPEST:
                        left += [[*parts, name] for name, is_folder in inner.items() if is_folder]
                    yield parts, [name for name, is_folder in inner.items() if not is_folder], folder
            except (FileNotFoundError, NotADirectoryError, DamagedObjectError):  # deleted, or exchanged, meanwhile
                if parts == top:
                    raise

    @contextmanager
    def _place(self, key: str, make: bool = False) -> Iterator[tuple[int, str]]:
        """The folder of a key, and its name there."""
        *above, name = self._parts(key) or [""]
        with self._opened(above, make) as folder:
            yield folder, name

    def _see_that_it_is_no_link(self, name: str, folder: int, key: str) -> None:
        with suppress(OSError):
            if stat.S_ISLNK(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode):
                raise LinkError(f"{self.uri}: refused key {key!r}: it is a symbolic link")

    @contextmanager
    def _read(self, key: str) -> Iterator[BinaryIO]:
        """The file of a key."""
        with self._told("read", key), self._place(key) as (folder, name):
            try:
                opened = os.open(name, _FILE, dir_fd=folder)
            except OSError:
                self._see_that_it_is_no_link(name, folder, key)
                raise
            with os.fdopen(opened, "rb") as file:
                if not stat.S_ISREG(os.fstat(opened).st_mode):
                    raise IsADirectoryError
                yield file

    def _make_root(self) -> None:
        """``mkdir -p`` for the store's own folder, each new one private."""
        missing: list[Path] = []
        try:
            while not (folder := self.root if not missing else missing[-1].parent).is_dir():
                missing.append(folder)
            for path in reversed(missing):
                path.mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise self._failed("make", f"its folder {error.filename}", error) from None

    def _write(self, key: str, fill: Callable[[BinaryIO], object]) -> None:
        with self._told("write", key):
            for last in (False, False, True):
                try:
                    with self._place(key, make=True) as (folder, name):
                        _write_whole(folder, name, fill)
                    return
                except FileNotFoundError:  # a deletion of empty folders came between
                    if last:
                        raise

    @contextmanager
    def _told(self, what: str, key: str) -> Iterator[None]:
        """What goes wrong is a store's error; what is no file, or not there, is missing."""
        try:
            yield
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
            if what != "write":
                raise MissingKeyError(f"{self.uri}: nothing under {key}") from None
            raise self._failed(what, key, error) from error
        except OSError as error:
            raise self._failed(what, key, error) from error

    def _failed(self, what: str, key: str, error: OSError) -> StoreError:
        shut = what in ("write", "make") and error.errno in _SHUT
        why = "a file is in its place" if what == "make" and error.errno == errno.EEXIST else error.strerror or error
        hint = "; name a folder that you may write to, or a bucket, with --store or LASTRUN_STORE" if shut else ""
        if error.errno in _FULL:
            hint = f"; {kaggle.room_in(self.root) or 'free some space there (delete jobs with rm), or name another store'}"
        failed = StoreError(f"{self.uri}: cannot {what} {key or 'the store'}: {why}{hint}")
        failed.lasting = error.errno in (*_FULL, errno.EACCES, errno.EPERM, errno.EROFS)
        return failed


def _no_room(path: Path, error: OSError) -> StoreError:
    """Where something is brought; the store has nothing to do with it."""
    failed = StoreError(f"{path.parent}: the disk is full ({error.strerror}); free some space there")
    failed.lasting = True
    return failed


def _leads_nowhere(root: Path) -> str | None:
    """What is wrong with a place on whose way a link leads to what is not there: no folder can be made of that name."""
    there = next(folder for folder in (root, *root.parents) if os.path.lexists(folder))
    if there.exists():
        return None
    return f"{there} is a link to {os.readlink(there)}, which is not there; is its disk mounted?"  # noqa: PTH115 (as it is written)


def _write_whole(folder: int, name: str, fill: Callable[[BinaryIO], object]) -> None:
    part = f"{_PART}{name}-{secrets.token_hex(4)}"
    opened = os.open(part, _NEW_FILE, 0o600, dir_fd=folder)
    try:
        with os.fdopen(opened, "wb") as file:
            fill(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, name, src_dir_fd=folder, dst_dir_fd=folder)
        os.fsync(folder)
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(part, dir_fd=folder)
        raise


def _remove(name: str, folder: int) -> None:
    """A folder with all that is in it, however deep, or a link or a file. Folders in it are taken up to its own level, one by
    one, so that no depth needs a stack."""
    try:
        top = os.open(name, _FOLDER | os.O_NOFOLLOW, dir_fd=folder)
    except NotADirectoryError:  # a link, or a file
        os.unlink(name, dir_fd=folder)
        return
    try:
        while inner := _emptied(top):
            for each in inner:
                _take_up(each, top)
    finally:
        os.close(top)
    with suppress(FileNotFoundError):
        os.rmdir(name, dir_fd=folder)


def _emptied(folder: int) -> list[str]:
    """Delete what is no folder; returns the folders."""
    with os.scandir(folder) as entries:
        found = {entry.name: entry.is_dir(follow_symlinks=False) for entry in entries}
    for name in (name for name, is_folder in found.items() if not is_folder):
        with suppress(FileNotFoundError):
            os.unlink(name, dir_fd=folder)
    return [name for name, is_folder in found.items() if is_folder]


def _take_up(name: str, top: int) -> None:
    """Delete a folder; those in it become its neighbours."""
    with suppress(FileNotFoundError, NotADirectoryError):
        opened = os.open(name, _FOLDER | os.O_NOFOLLOW, dir_fd=top)
        try:
            for inner in _emptied(opened):
                os.rename(inner, f"{_PART}{secrets.token_hex(8)}", src_dir_fd=opened, dst_dir_fd=top)
        finally:
            os.close(opened)
        os.rmdir(name, dir_fd=top)


def _leads_to_a_folder(name: str, folder: int, about: os.stat_result) -> bool:
    """Whether it is a link to a folder, which is no object."""
    if not stat.S_ISLNK(about.st_mode):
        return False
    with suppress(OSError):
        return stat.S_ISDIR(os.stat(name, dir_fd=folder).st_mode)
    return False
