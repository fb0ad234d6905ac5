"""Whether a job's data are there and fit it, before there is a job; of those in a bucket some hundred kilobytes are read."""

from __future__ import annotations

import io
from importlib.util import find_spec

from last_e.counts import WITHOUT_FILE, chooses
from last_e.datafile import (
    Check,
    DataError,
    check_file,
    check_opened,
    data_path,
    is_remote,
    see_that_the_batch_fits,
)
from last_e.described import is_own
from last_e.own_set import check_own
from runner.attempt.data_cache import parse
from runner.errors import DamagedObjectError, MissingKeyError, UsageError
from runner.spec import JobSpec
from runner.store.remote_file import PIECE_BYTES, RemoteFile

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
            see_that_the_batch_fits(config, _shipped(config))
        elif _can_look:
            check_file(config, path, _check_of(config))
    except DataError as error:
        raise UsageError(str(error)) from None


def _shipped(config: JobSpec) -> int:
    """How many clips of those that come with the package train, as far as that can be known here."""
    if not (_can_look and chooses(config)):
        return WITHOUT_FILE[config.dataset, config.split_type].train  # nothing is read
    from last_e.prepare.account import parts_of
    from last_e.shipped import columns_of

    try:
        return int(parts_of(config, columns_of(config.dataset, config.data.num_classes)).train.sum())
    except ValueError as error:
        raise DataError(f"{config.dataset}: {error}", missing=True) from None


def _check_of(config: JobSpec) -> Check:
    return check_own if is_own(config.dataset) else check_opened


def _check_remote(config: JobSpec, uri: str) -> None:
    bucket, key = parse(uri, config.store.model_dump(exclude={"uri"})).parent()
    from runner.store.s3 import S3Store  # boto3 is slow to import

    store = S3Store(bucket)
    try:
        about = store.head(key)
        if _can_look:
            raw = RemoteFile(store, key, about["ContentLength"], about["ETag"])
            _check_of(config)(config, io.BufferedReader(raw, PIECE_BYTES), raw.size, uri)
    except MissingKeyError:
        raise UsageError(f"data.uri {uri}: there is no such object in the bucket {bucket.bucket}") from None
    except DamagedObjectError as error:
        raise UsageError(f"data.uri {uri}: {error}; try again") from None
