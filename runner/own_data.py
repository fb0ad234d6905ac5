"""An own data set in a bucket, opened when a job is made: what its file says of itself is read, and nothing is kept."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import IO, Any

from last_e.datafile import DataError
from runner.errors import DamagedObjectError, MissingKeyError
from runner.spec import StoreConfig
from runner.store.remote_file import PIECE_BYTES, RemoteFile
from runner.store.uri import StoreUri


@contextmanager
def opened(uri: str, chosen: Mapping[str, Any]) -> Iterator[tuple[IO[bytes], int]]:
    """The file at ``uri``, reached as what is ``chosen`` says of the store, and its size.

    Raises:
        DataError: it is not there.
        StoreError: the bucket does not answer, or refuses.
    """
    options = {name: chosen.get(f"store.{name}") for name in StoreConfig.model_fields if name != "uri"}
    place = StoreUri.parse(uri).with_options({name: value for name, value in options.items() if value is not None})
    bucket, key = place.parent()
    from runner.store.s3 import S3Store  # boto3 is slow to import

    store = S3Store(bucket)
    try:
        about = store.head(key)
        raw = RemoteFile(store, key, about["ContentLength"], about["ETag"])
        yield io.BufferedReader(raw, PIECE_BYTES), raw.size
    except MissingKeyError:
        raise DataError(f"{uri}: there is no such object in the bucket {bucket.bucket}", missing=True) from None
    except DamagedObjectError as error:
        raise DataError(f"{uri}: {error}; try again") from None
