"""Where recordings lie: files, folders, the distributed zip files, and archives as people make them of these."""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path

from last_e.datafile import DataError
from last_e.prepare.archives import ARCHIVE, Search, Unreadable, beginning_of, begins_as_archive, in_archive
from last_e.prepare.entry import NAMED, RECORDING, Entry, whole_entry


def find_recordings(places: Iterable[Path], search: Search) -> list[Entry]:
    """Every recording in folders (at any depth, through links, inside archives there), archives and files, by name.

    What cannot be read inside of a folder is kept in ``search``: one bad link or cut download is no reason to stop.

    Raises:
        DataError: places that were named are none of these or cannot be read, all at once, or there is no recording at all.
    """
    found: list[Entry] = []
    seen: set[tuple[int, int]] = set()
    places = list(places)
    wrong: list[DataError] = []
    for place in places:
        try:
            found += _in_place(place, search, seen)
        except DataError as error:
            wrong.append(error)
    if wrong:
        raise DataError("\n".join(map(str, wrong)), missing=any(error.missing for error in wrong))
    if not found:
        where = ", ".join(map(str, places))
        why = "".join(f"; {one.name}: {one.why}" for one in search.unreadable[:1])
        why += "".join(f"; {one} is named as one, but ends otherwise" for one in search.others[:1])
        raise DataError(
            f"{where}: no .skeleton file in there, nor in an archive{why}; --raw takes what NTU distributes", missing=True
        )
    return sorted(found)


def _in_place(place: Path, search: Search, seen: set[tuple[int, int]]) -> list[Entry]:
    """The recordings of one place that was named."""
    try:
        mode = place.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        mode = 0
    except (OSError, ValueError) as error:
        raise DataError(f"{place}: cannot be read: {getattr(error, 'strerror', None) or error}", missing=True) from None
    if stat.S_ISDIR(mode):
        return list(_in_folder(place, search, seen))
    if stat.S_ISREG(mode):
        return [whole_entry(place)] if _is_recording(place) else in_archive(place, search)
    raise DataError(f"{place}: no such folder or archive; --raw takes what NTU distributes, as it is", missing=True)


def listing_hash(entries: Iterable[Entry], *, marks: bool) -> str:
    """sha256 of names and sizes, the same for a folder and its zip; with ``marks`` also of what tells a changed file."""
    digest = hashlib.sha256()
    for entry in entries:
        mark = f" {entry.container} {entry.mark}" if marks else ""
        digest.update(f"{entry.name} {entry.size}{mark}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def _is_recording(path: Path) -> bool:
    """Whether one file is a recording: by its name, or, with another name, as far as a beginning tells."""
    if RECORDING.search(path.name):
        return True
    return not ARCHIVE.search(path.name) and re.match(rb"\s*\d{1,5}\s*\n", beginning_of(path)) is not None


def _in_folder(root: Path, search: Search, seen: set[tuple[int, int]]) -> Iterator[Entry]:
    """The recordings of a tree. ``seen`` are the folders that were read: links may lead in circles, or twice to one."""

    def note(path: Path, why: str) -> None:
        search.unreadable.append(Unreadable(path.relative_to(root).as_posix(), why))

    def failed(error: OSError) -> None:
        path = Path(error.filename)
        if path == root:
            raise DataError(f"{root}: cannot be read: {error.strerror}")
        note(path, f"cannot be read: {error.strerror}")

    for folder, folders, files in os.walk(root, onerror=failed, followlinks=True):
        about = Path(folder).stat()
        if (about.st_dev, about.st_ino) in seen or Path(folder) == search.unpacked:
            folders.clear()
            continue
        seen.add((about.st_dev, about.st_ino))
        folders.sort()
        for file in sorted(files):
            path = Path(folder) / file
            recording, archive = RECORDING.search(file), ARCHIVE.search(file)
            if not (recording or archive or path.is_symlink() or not path.suffix):
                if NAMED.search(file):
                    search.others.append(path.relative_to(root).as_posix())
                continue
            try:
                about = path.stat()
            except OSError as error:
                note(path, f"cannot be read: {error.strerror}" + (" (a link)" if path.is_symlink() else ""))
                continue
            if not stat.S_ISREG(about.st_mode):
                if not stat.S_ISDIR(about.st_mode):
                    note(path, "no plain file: a pipe, a device or the like")
                continue
            if archive or (not recording and not path.suffix and begins_as_archive(path)):
                try:
                    yield from list(in_archive(path, search))
                except DataError as error:
                    note(path, str(error).removeprefix(f"{path}: "))
            elif recording:
                yield whole_entry(path, root)
            elif NAMED.search(file):
                search.others.append(path.relative_to(root).as_posix())
