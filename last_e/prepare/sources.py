"""Where recordings lie: a tree of folders, the distributed zip files, or both. Nothing is unpacked."""

from __future__ import annotations

import hashlib
import os
import re
import stat
import zipfile
from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from last_e.datafile import DataError
from last_e.prepare.skeleton import MAX_BYTES, SkeletonError
from last_e.text import one_line

ENDING = ".skeleton"


class Entry(NamedTuple):
    """One file, not yet read."""

    name: str
    """Without folders and ending."""
    container: str
    """A folder, or a zip file."""
    member: str
    """Path inside it."""
    size: int
    mark: int
    """Time of the last change, or the checksum in the zip: other content has another."""
    zipped: bool

    def read(self) -> bytes:
        """The file's bytes.

        Raises:
            SkeletonError: this file cannot be read, or is too large for a recording.
            OSError: the folder or zip file itself is gone.
        """
        if self.size > MAX_BYTES:
            raise SkeletonError(f"larger than {MAX_BYTES // 2**20} MiB: no recording is")
        if not self.zipped:
            try:
                return (Path(self.container) / self.member).read_bytes()
            except OSError as error:
                if not Path(self.container).is_dir():
                    raise
                raise SkeletonError(f"cannot be read: {error.strerror or error}") from None
        try:
            with _open_zip(self.container, *_state(self.container)).open(self.member) as file:
                return file.read(self.size + 1)  # a bomb that hides its size is not unpacked further than it says
        except MemoryError:
            raise
        except Exception as error:  # each way to compress fails in ways of its own
            if isinstance(error, OSError) and not Path(self.container).is_file():
                raise
            raise SkeletonError(f"damaged in the zip file: {one_line(error)}") from None


@lru_cache(maxsize=4)
def _open_zip(path: str, *state: int) -> zipfile.ZipFile:
    """Each process reads the directory of a zip file once, as long as it is the same file."""
    return zipfile.ZipFile(path)


def _state(path: str) -> tuple[int, int, int]:
    about = Path(path).stat()
    return about.st_ino, about.st_mtime_ns, about.st_size


class Unreadable(NamedTuple):
    """A folder, link or zip file in a tree that cannot be read."""

    name: str
    """Its path in the tree."""
    why: str


def find_recordings(places: Iterable[Path]) -> tuple[list[Entry], list[Unreadable]]:
    """Every ``.skeleton`` file in folders (at any depth, through links, inside zip files there) and zip files, by name.

    What cannot be read inside of a folder is told beside them: one bad link or cut download is no reason to stop.

    Raises:
        DataError: a place that was named is neither or cannot be read, or there is no such file at all.
    """
    found: list[Entry] = []
    unreadable: list[Unreadable] = []
    seen: set[tuple[int, int]] = set()
    places = list(places)
    for place in places:
        try:
            mode = place.stat().st_mode
        except (FileNotFoundError, NotADirectoryError):
            mode = 0
        except (OSError, ValueError) as error:
            raise DataError(f"{place}: cannot be read: {getattr(error, 'strerror', None) or error}", missing=True) from None
        if stat.S_ISDIR(mode):
            found += _in_folder(place, seen, unreadable)
        elif stat.S_ISREG(mode):
            found += _in_zip(place)
        else:
            raise DataError(f"{place}: no such folder or zip file; --raw takes what NTU distributes, as it is", missing=True)
    if not found:
        where = ", ".join(map(str, places))
        why = f"; {unreadable[0].name}: {unreadable[0].why}" if unreadable else ""
        raise DataError(
            f"{where}: no {ENDING} file in there, nor in a zip file{why}; --raw takes what NTU distributes", missing=True
        )
    return sorted(found), sorted(unreadable)


def listing_hash(entries: Iterable[Entry], *, marks: bool) -> str:
    """sha256 of names and sizes, the same for a folder and its zip; with ``marks`` also of what tells a changed file."""
    digest = hashlib.sha256()
    for entry in entries:
        mark = f" {entry.container} {entry.mark}" if marks else ""
        digest.update(f"{entry.name} {entry.size}{mark}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def _in_folder(root: Path, seen: set[tuple[int, int]], unreadable: list[Unreadable]) -> Iterator[Entry]:
    """The recordings of a tree. ``seen`` are the folders that were read: links may lead in circles, or twice to one."""

    def note(path: Path, why: str) -> None:
        unreadable.append(Unreadable(path.relative_to(root).as_posix(), why))

    def failed(error: OSError) -> None:
        path = Path(error.filename)
        if path == root:
            raise DataError(f"{root}: cannot be read: {error.strerror}")
        note(path, f"cannot be read: {error.strerror}")

    for folder, folders, files in os.walk(root, onerror=failed, followlinks=True):
        about = Path(folder).stat()
        if (about.st_dev, about.st_ino) in seen:
            folders.clear()
            continue
        seen.add((about.st_dev, about.st_ino))
        folders.sort()
        for file in sorted(files):
            path = Path(folder) / file
            if not file.endswith((ENDING, ".zip")) and not path.is_symlink():
                continue
            try:
                about = path.stat()
            except OSError as error:
                note(path, f"cannot be read: {error.strerror}" + (" (a link)" if path.is_symlink() else ""))
                continue
            if not stat.S_ISREG(about.st_mode):
                continue
            if file.endswith(".zip"):
                try:
                    yield from list(_in_zip(path))
                except DataError as error:
                    note(path, str(error).removeprefix(f"{path}: "))
            elif file.endswith(ENDING):
                member = path.relative_to(root).as_posix()
                yield Entry(file.removesuffix(ENDING), str(root), member, about.st_size, about.st_mtime_ns, False)


def _in_zip(path: Path) -> Iterator[Entry]:
    try:
        with zipfile.ZipFile(path) as archive:
            for info in archive.infolist():
                if info.filename.endswith(ENDING):
                    name = re.split(r"[/\\]", info.filename)[-1].removesuffix(ENDING)  # some tools for Windows write \
                    yield Entry(name, str(path), info.filename, info.file_size, info.CRC, True)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from None
    except Exception as error:  # a damaged directory of a zip file fails in as many ways
        raise DataError(f"{path}: not a whole zip file ({one_line(error)}); download it again") from None
