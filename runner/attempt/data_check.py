"""Whether a job's data are there and fit it, before there is a job; of those in a bucket some hundred kilobytes are read."""

from __future__ import annotations

import io
from importlib.util import find_spec
from typing import TYPE_CHECKING

from last_e.counts import WITHOUT_FILE
from last_e.datafile import DataError, check_file, check_opened, data_path, is_remote, see_that_the_batch_fits
from runner.attempt.data_cache import parse
from runner.errors import DamagedObjectError, MissingKeyError, UsageError
from runner.spec import JobSpec

if TYPE_CHECKING:
    from runner.store.s3 import S3Store

_PIECE_BYTES = 1 << 18
_can_look = find_spec("numpy") is not None


def check_data(config: JobSpec) -> None:
    """See that the data file is there, whole, and what the job takes it for, and has as many clips as a step takes.

    Raises:
        UsageError: it is not.
        StoreError: its bucket does not answer, or refuses.
    """
    try:
        if is_remote(config.data.uri):
            _check_remote(config, str(config.data.uri))
        elif (path := data_path(config)) is None:
            see_that_the_batch_fits(config, WITHOUT_FILE[config.dataset, config.split_type].train)
        elif _can_look:
            check_file(config, path)
    except DataError as error:
        raise UsageError(str(error)) from None


def _check_remote(config: JobSpec, uri: str) -> None:
    bucket, key = parse(uri, config.store.model_dump(exclude={"uri"})).parent()
    from runner.store.s3 import S3Store  # boto3 is slow to import

    store = S3Store(bucket)
    try:
        about = store.head(key)
        if _can_look:
            raw = _RemoteFile(store, key, about["ContentLength"], about["ETag"])
            check_opened(config, io.BufferedReader(raw, _PIECE_BYTES), raw.size, uri)
    except MissingKeyError:
        raise UsageError(f"data.uri {uri}: there is no such object in the bucket {bucket.bucket}") from None
    except DamagedObjectError as error:
        raise UsageError(f"data.uri {uri}: {error}; try again") from None


class _RemoteFile(io.RawIOBase):
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
