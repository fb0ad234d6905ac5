"""The store that a URI names. A new kind of store is one file beside this one and one line in :func:`open_store`."""

from __future__ import annotations

import os
from pathlib import Path

from runner import kaggle
from runner.errors import UsageError
from runner.folders import data_folder
from runner.settings import read_settings
from runner.spec import StoreConfig
from runner.store.directory import DirectoryStore
from runner.store.protocol import Store
from runner.store.uri import StoreUri


def open_store(uri: str | StoreUri) -> Store:
    """The store that a URI names; in text that somebody has typed, variables are replaced.

    Raises:
        UsageError: no kind of store known here, or a variable that is not set.
        StoreError: it cannot be opened.
    """
    parsed = StoreUri.typed(uri) if isinstance(uri, str) else uri
    if parsed.scheme == "file":
        return DirectoryStore(Path(parsed.prefix))
    kaggle.take_secrets(kaggle.BUCKET_VARIABLES)
    from runner.store.s3 import S3Store  # boto3 is slow to import

    return S3Store(parsed)


def existing_store(uri: str | None) -> Store:
    """The store that a command looks into: the default one may not be made yet, a folder that somebody has named is there.

    Raises:
        UsageError, StoreError: as above, or the folder is not there.
    """
    store = open_store(default_store() if uri is None else uri)
    if uri is not None and isinstance(store, DirectoryStore) and not store.root.exists():
        raise UsageError(f"--store: {store.root}: there is no such folder; the first lastrun submit makes one")
    return store


def store_of(config: StoreConfig, uri: str | None = None) -> Store:
    """The store of a new job: the one that was asked for, else what its file says, else the user's default.

    Raises:
        UsageError, StoreError: as above.
    """
    options = config.model_dump(exclude={"uri"})
    named = config.uri if uri is None else uri
    return open_store(StoreUri.typed(default_store() if named is None else named).with_options(options))


def default_store() -> str:
    """``LASTRUN_STORE``, else ``store`` in the user's configuration file, else a folder: on Kaggle beside the outputs of the
    session, elsewhere in the user's data folder.

    Raises:
        UsageError: the configuration file is not what it should be, or there is no home folder.
    """
    kaggle.take_secrets([kaggle.STORE_VARIABLE])
    if uri := os.environ.get(kaggle.STORE_VARIABLE):
        return uri
    if uri := read_settings().store:
        return uri
    if folder := kaggle.default_store():
        return str(folder)
    return str(data_folder(", or name a store with --store or LASTRUN_STORE") / "jobs")
