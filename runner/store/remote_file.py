"""An object of a bucket as a file that is read here and there."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from runner.store.s3 import S3Store

PIECE_BYTES = 1 << 18
"""Worth a request."""


class RemoteFile(io.RawIOBase):
    """An object of a bucket to be read here and there, of which nothing is kept."""

    def __init__(self, store: S3Store, key: str, size: int, tag: str) -> None:
        self.size = size
        self._store, self._key, self._tag, self._at = store, key, tag, 0

    def readable(self) -> bool:
        """It is."""
        return True

    def seekable(self) -> bool:
        """It is."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """As of any file."""
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self.size}[whence]
        return self._at

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        """One request; the server sends no more than is taken."""
        count = min(len(buffer), self.size - self._at)
        if count <= 0:
            return 0
        data = self._store.get_part(self._key, self._at, count, self._tag)
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)
