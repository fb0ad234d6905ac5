"""Recordings in archives: zip and tar files are read where they are. What can only be read from its beginning on, a compressed
tar file or an archive inside of another, is unpacked once, as one file."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import lzma
import re
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import IO, Any, NamedTuple

from last_e.datafile import DataError
from last_e.prepare.entry import NAMED, RECORDING, Entry, packed_by, recording_name, state_of, whole_entry
from last_e.prepare.names import no_download
from last_e.text import one_line
from last_e.whole import regular_file, whole_file

ARCHIVE = re.compile(
    r"(?i)\.(zip|tar|tgz|tbz2?|txz|tar\.(gz|bz2|xz)|7z|rar|tzst|(tar\.)?(zst|lz|z)|(zip|7z|rar)\.\d+|z\d\d"
    r"|(zip|tar|tgz|7z|rar|gz|bz2|xz)\.(part|crdownload|download|partial|\d+))$"
)
"""How an archive's name ends, also one that others have to unpack, a piece of one, or one whose download has not ended."""
_UNFINISHED = re.compile(r"(?i)\.(part|crdownload|download|partial)$")
_PIECE = re.compile(r"(?i)\.((zip|7z|rar)\.\d+|z\d\d|part\d+\.rar)$")
_TEXT = re.compile(rb"\s*\d{1,5}\s*\n")
"""How a recording begins."""
UNPACKED_BY_OTHERS = {
    b"7z\xbc\xaf\x27\x1c": ("a 7z archive", "7z x {0}"),
    b"Rar!": ("a RAR archive", "unrar x {0}"),
    b"\x28\xb5\x2f\xfd": ("packed by zstd", "zstd -d {0}"),
    b"\x1f\x9d": ("packed by compress", "uncompress {0}"),
    b"LZIP": ("packed by lzip", "lzip -d {0}"),
}
"""What Python cannot read, and the command that unpacks it."""
_MOST_BEGINNING = 512
_MOST_HEADER = 1 << 20
"""Bytes of a tar file's header, of which the names in it are most."""
_MOST_DEPTH = 3
"""Of archives in archives."""
_MOST_TIMES, _LEAST_BOUND = 100, 1 << 30
"""What is unpacked may have so many times the size of what it was, or a gigabyte."""
_CHUNK_BYTES = 1 << 20
_ZIP = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, NotImplementedError, RuntimeError)
NOT_WHOLE = (*_ZIP, tarfile.TarError, EOFError, OSError)
"""What Python's unpackers raise on bytes that are no whole archive; zipfile says NotImplementedError of a compression that it
does not know, and RuntimeError of a member that wants a password."""


Watch = Callable[[str, int, int], None]
"""Told an archive's name, how many bytes of it have been read, and of how many."""


class Unreadable(NamedTuple):
    """A folder, link or archive in a tree that cannot be read."""

    name: str
    """Its path in the tree."""
    why: str


@dataclass
class Search:
    """What a search for recordings needs and finds beside them."""

    unpacked: Path
    """A folder for what has to be unpacked to be read; what it has from an earlier run is used again."""
    watch: Watch | None = None
    unreadable: list[Unreadable] = field(default_factory=list)
    others: list[str] = field(default_factory=list)
    """Paths of files that are named as recordings are, but end otherwise: videos, or what other programs made of them."""

    def tell(self, name: str, done: int, total: int) -> None:
        """Tell who watches."""
        if self.watch is not None:
            self.watch(name, done, total)


class Source(NamedTuple):
    """What is unpacked."""

    file: IO[bytes]
    at: Callable[[], int]
    """How many bytes of it have been read, as they lie in the archive or as they are told there."""
    size: int
    """Of how many."""


def beginning_of(path: Path) -> bytes:
    """The first bytes of a file.

    Raises:
        DataError: it cannot be read.
    """
    try:
        with regular_file(path) as file:
            return file.read(_MOST_BEGINNING)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from None


def begins_as_archive(path: Path) -> bool:
    """Whether a file whose name tells nothing is an archive, by its first bytes; one that cannot be read is none."""
    try:
        beginning = beginning_of(path)
    except DataError:
        return False
    known = (b"PK\3\4", *UNPACKED_BY_OTHERS)
    return beginning.startswith(known) or packed_by(beginning) is not None or _is_tar(beginning)


def in_archive(path: Path, search: Search, name: str = "", depth: int = 0) -> list[Entry]:
    """The recordings of an archive, and of archives in it. ``name`` is what it is called where it is not where it came from."""
    name = name or str(path)
    beginning = beginning_of(path)
    if _UNFINISHED.search(name):
        raise DataError(f"{name}: a download that has not ended; let it go on, or download it again")
    if _PIECE.search(name) and not zipfile.is_zipfile(path):
        raise DataError(f"{name}: a piece of an archive; put the pieces together (7z x does), and name the folder")
    other = next((told for begin, told in UNPACKED_BY_OTHERS.items() if beginning.startswith(begin)), None)
    if other is not None:
        raise DataError(f"{name}: {other[0]}: unpack it with {other[1].format(Path(name).name)}, and name the folder")
    packed = packed_by(beginning)
    if packed is not None:
        path = _unpacked_once(path, "", search, name, partial(_packed, path, packed[1]))
        beginning = beginning_of(path)
    try:
        if _is_tar(beginning):
            return _in_tar(path, search, name, depth)
        if packed is not None and _TEXT.match(beginning) and not depth:
            return [whole_entry(Path(name))]
        if packed is not None:
            raise DataError(f"{name}: packed by {packed[0]}, and no tar file in it; name what it was made of")
        return _in_zip(path, search, name, depth)
    except DataError:
        raise
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):  # what cannot be unpacked for want of room can be read
            raise
        raise DataError(f"{name}: cannot be read: {error.strerror or error}") from None


def _is_tar(beginning: bytes) -> bool:
    """Whether a file begins as tar files do, the oldest of which have no mark, but a sum."""
    try:
        tarfile.TarInfo.frombuf(beginning.ljust(tarfile.BLOCKSIZE, b"\0"), "utf-8", "surrogateescape")
    except tarfile.HeaderError:
        return beginning[257:].startswith(b"ustar")
    return True


def _in_zip(path: Path, search: Search, name: str, depth: int) -> list[Entry]:
    found: list[Entry] = []
    inner: list[str] = []
    try:
        with zipfile.ZipFile(path) as archive:
            for info in archive.infolist():
                if RECORDING.search(info.filename):
                    place = info.filename, info.file_size, info.CRC
                    found.append(Entry(recording_name(info.filename), str(path), *place, "zip", info.header_offset))
                elif ARCHIVE.search(info.filename):
                    inner.append(info.filename)
                elif NAMED.search(info.filename):
                    search.others.append(info.filename)
    except OSError:
        raise
    except Exception as error:  # a damaged directory of a zip file fails in as many ways
        raise DataError(f"{name}: {_no_zip(path, error)}") from None
    for member in inner:
        found += _in_inner(path, member, search, name, depth, partial(_part_of_zip, path, member))
    return found


def _no_zip(path: Path, error: Exception) -> str:
    """What is wrong with a file that is no whole zip file."""
    beginning = beginning_of(path)
    if beginning.startswith(b"PK"):
        return f"not a whole zip file ({one_line(error)}); download it again"
    told = no_download(beginning)
    if told is not None:
        return told
    return f"no archive that is known here (it begins with {beginning[:8]!r}); --raw takes .skeleton files, zip and tar files"


class _OfHeaders(io.BufferedReader):
    """A tar file of which the headers are read, which may say of themselves that they are as long as they like."""

    def read(self, size: int | None = -1, /) -> bytes:
        """So many bytes, which a header has."""
        if size is None or not 0 <= size <= _MOST_HEADER:
            raise tarfile.ReadError("a header is longer than any can be")
        return super().read(size)


def _in_tar(path: Path, search: Search, name: str, depth: int) -> list[Entry]:
    found: list[Entry] = []
    inner: list[tarfile.TarInfo] = []
    size = path.stat().st_size
    files: dict[str, tarfile.TarInfo] = {}
    try:
        with path.open("rb", buffering=0) as raw, tarfile.open(fileobj=_OfHeaders(raw), mode="r:") as archive:
            for info in archive:
                if info.size < 0:  # the next header would be before this one, for ever
                    raise tarfile.ReadError(f"{info.name} has a size below zero")
                search.tell(name, info.offset_data, size)
                if RECORDING.search(info.name) and not info.isdir():
                    file = files.get(info.linkname) if info.islnk() else info  # a name more for a file that came before
                    if file is None or not file.isreg() or file.issparse():
                        why = "with holes" if info.issparse() else "a link" if info.islnk() or info.issym() else "no file"
                        search.unreadable.append(
                            Unreadable(info.name, f"{why} in {Path(name).name}: unpack it, and name the folder")
                        )
                        continue
                    files[info.name] = file
                    mark = int(file.mtime * 1e9)
                    found.append(
                        Entry(recording_name(info.name), str(path), info.name, file.size, mark, "tar", file.offset_data)
                    )
                elif info.isreg() and ARCHIVE.search(info.name):
                    inner.append(info)
                elif info.isreg() and NAMED.search(info.name):
                    search.others.append(info.name)
    except (tarfile.TarError, EOFError, ValueError) as error:
        raise DataError(f"{name}: not a whole tar file ({one_line(error)}); download it again") from None
    for info in inner:
        found += _in_inner(path, info.name, search, name, depth, partial(_part_of_tar, path, info))
    return found


@contextmanager
def _packed(path: Path, how: Callable[[Any], Any]) -> Iterator[Source]:
    with path.open("rb") as packed, how(packed) as file:
        yield Source(file, packed.tell, path.stat().st_size)


@contextmanager
def _part_of_zip(path: Path, member: str) -> Iterator[Source]:
    with zipfile.ZipFile(path) as archive, archive.open(member) as file:
        yield Source(file, file.tell, archive.getinfo(member).file_size)


@contextmanager
def _part_of_tar(path: Path, info: tarfile.TarInfo) -> Iterator[Source]:
    with tarfile.open(path, "r:") as archive:
        file = archive.extractfile(info)
        assert file is not None
        with file:
            yield Source(file, file.tell, info.size)


def _in_inner(
    path: Path,
    member: str,
    search: Search,
    name: str,
    depth: int,
    opened: Callable[[], AbstractContextManager[Source]],
) -> list[Entry]:
    """The recordings of an archive in an archive; one that cannot be read is told beside the others."""
    whole = f"{name}/{member}"
    try:
        if depth >= _MOST_DEPTH:
            raise DataError(f"{whole}: archives in archives, {depth} deep: unpack it, and name the folder")
        inner = _unpacked_once(path, member, search, whole, opened)
        return in_archive(inner, search, whole, depth + 1)
    except DataError as error:
        search.unreadable.append(Unreadable(member, str(error).removeprefix(f"{whole}: ")))
        return []


def _unpacked_once(
    path: Path, member: str, search: Search, name: str, opened: Callable[[], AbstractContextManager[Source]]
) -> Path:
    """What an archive's member holds, as a file of its own; what an earlier run has unpacked is taken.

    Raises:
        DataError: it is damaged, or unpacks to more than recordings do.
        OSError: there is no room for it.
    """
    made_of = json.dumps([str(path), *state_of(path), member])
    target = search.unpacked / hashlib.sha256(made_of.encode("utf-8", "surrogateescape")).hexdigest()[:32]
    if target.exists():
        return target
    search.unpacked.mkdir(mode=0o700, parents=True, exist_ok=True)
    most = max(_LEAST_BOUND, _MOST_TIMES * path.stat().st_size)
    try:
        with whole_file(target) as part, part.open("wb") as file, opened() as source:
            while chunk := source.file.read(_CHUNK_BYTES):
                search.tell(name, source.at(), source.size)
                if file.write(chunk) and file.tell() > most:
                    raise DataError(f"{name}: unpacks to more than {_MOST_TIMES} times its size, as no recordings do")
    except NOT_WHOLE as error:
        if isinstance(error, DataError) or (isinstance(error, OSError) and error.errno is not None):
            raise
        raise DataError(f"{name}: not whole, or damaged ({one_line(error)}); download it again") from None  # bz2 has no number
    return target
