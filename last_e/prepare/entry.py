"""One recording as a file, perhaps in an archive, perhaps packed by itself."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import re
import zipfile
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, NamedTuple

from last_e.prepare.skeleton import MAX_BYTES, SkeletonError
from last_e.text import one_line

_NAME = r"S\d{3}C\d{3}P\d{3}R\d{3}A\d{3}"
RECORDING = re.compile(rf"(?i)(\.skeleton(\.(txt|skeleton))*|(?<={_NAME})(\.txt)?)(\.(gz|bz2|xz))?$")
"""How a recording's name ends, also as editors, Windows and copies leave it; one of NTU's names needs no ending."""
NAMED = re.compile(rf"(?i){_NAME}[^/\\]*$")
"""What is named as a recording, however it ends."""
UNPACK: dict[bytes, tuple[str, Callable[[Any], Any]]] = {
    b"\x1f\x8b": ("gz", gzip.open),
    b"BZh": ("bz2", bz2.BZ2File),
    b"\xfd7zXZ\0": ("xz", lzma.LZMAFile),
}
"""By how a file begins: what packs it, and how Python reads it, from a path or a file."""
_TOO_LARGE = f"larger than {MAX_BYTES // 2**20} MiB: no recording is"


def packed_by(beginning: bytes) -> tuple[str, Callable[[Any], Any]] | None:
    """What packs a file that begins so, and how it is read; None: nothing that is known here."""
    return next((how for begin, how in UNPACK.items() if beginning.startswith(begin)), None)


def recording_name(member: str) -> str:
    """The name of a file without folders and endings."""
    return RECORDING.sub("", re.split(r"[/\\]", member)[-1])  # some tools for Windows write \


def state_of(path: str | Path) -> tuple[int, int, int]:
    """What changes when a file does."""
    about = Path(path).stat()
    return about.st_ino, about.st_mtime_ns, about.st_size


class Entry(NamedTuple):
    """One file, not yet read."""

    name: str
    """Without folders and ending."""
    container: str
    """A folder, or an archive that can be read at any place."""
    member: str
    """Path inside it."""
    size: int
    mark: int
    """Time of the last change, or the checksum in the zip: other content has another."""
    kind: Literal["file", "zip", "tar"]
    offset: int = 0
    """In a tar file, where its bytes begin; in a zip file, where it begins itself: names may be there twice."""

    def read(self) -> bytes:
        """The file's bytes, unpacked.

        Raises:
            SkeletonError: this file cannot be read, or is too large for a recording.
            OSError: the folder or archive itself is gone.
        """
        if self.size > MAX_BYTES:
            raise SkeletonError(_TOO_LARGE)
        data: bytes = self._bytes()
        packed = packed_by(data)
        if packed is None:
            return data
        try:
            with packed[1](io.BytesIO(data)) as file:
                data = file.read(MAX_BYTES + 1)
        except Exception as error:  # each way to pack fails in ways of its own
            raise SkeletonError(f"damaged, or not whole: {one_line(error)}") from None
        if len(data) > MAX_BYTES:
            raise SkeletonError(_TOO_LARGE)
        return data

    def _bytes(self) -> bytes:
        if self.kind == "zip":
            return self._from_zip()
        path = Path(self.container) if self.kind == "tar" else Path(self.container) / self.member
        try:
            with path.open("rb") as file:
                file.seek(self.offset)
                return file.read(self.size if self.kind == "tar" else -1)
        except OSError as error:
            if not Path(self.container).exists():
                raise
            raise SkeletonError(f"cannot be read: {error.strerror or error}") from None

    def _from_zip(self) -> bytes:
        try:
            archive, members = _open_zip(self.container, *state_of(self.container))
            with archive.open(members[self.offset]) as file:
                return file.read(self.size + 1)  # a bomb that hides its size is not unpacked further than it says
        except MemoryError:
            raise
        except Exception as error:  # each way to compress fails in ways of its own
            if isinstance(error, OSError) and not Path(self.container).is_file():
                raise
            raise SkeletonError(f"damaged in the zip file: {one_line(error)}") from None


@lru_cache(maxsize=4)
def _open_zip(path: str, *state: int) -> tuple[zipfile.ZipFile, dict[int, zipfile.ZipInfo]]:
    """Each process reads the directory of a zip file once, as long as it is the same file: its members by where they begin."""
    archive = zipfile.ZipFile(path)
    return archive, {info.header_offset: info for info in archive.infolist()}


def whole_entry(path: Path, root: Path | None = None) -> Entry:
    """The entry of a file in a folder, below ``root``; default: the one that it is in."""
    root = root or path.parent
    about = path.stat()
    member = path.relative_to(root).as_posix()
    return Entry(recording_name(path.name), str(root), member, about.st_size, about.st_mtime_ns, "file")
