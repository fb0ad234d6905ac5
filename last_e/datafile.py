"""Where a data set's file is, and how one is known. Torch-free, so that a job can be refused before it starts."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from urllib.parse import unquote

from last_e.config import TrainConfig
from last_e.redact import redact
from last_e.text import expand

FORMAT = "lastrun-clips-1"
"""What the metadata of a prepared file says under ``format``."""
OWN_SPLIT = "train."
"""Beginning of the names of tensors that hold a split of the file's own."""


class DataError(RuntimeError):
    """A data file that is missing (:attr:`missing`) or not what it should be."""

    def __init__(self, message: str, *, missing: bool = False) -> None:
        super().__init__(message)
        self.missing = missing


_INPUTS = (".skeleton", ".zip", ".npy", ".npz", ".pkl")


def output_path(out: Path, *inputs: Path, example: str = "ntu60.safetensors") -> Path:
    """Where a file is written that is called ``out``: what a link leads to, and at most over a file that may be made anew.

    Raises:
        DataError: it is a folder, a device or the like, or one of the ``inputs``.
    """
    target = Path(os.path.realpath(out))
    if target.is_dir():
        raise DataError(f"{out}: a folder; name a file in it, such as {out / example}", missing=True)
    if target.exists():
        if not target.is_file():
            raise DataError(f"{out}: a device or the like, which the result would replace; name a file", missing=True)
        for one in inputs:
            with suppress(OSError):  # what cannot be looked at is told when it is to be read
                within = one.is_dir() and target.suffix in _INPUTS and Path(os.path.realpath(one)) in target.parents
                if within or target.samefile(one):
                    what = "what is to be read, which the result would replace; name another file"
                    raise DataError(f"{out}: {what}", missing=True)
    return target


BUCKETS = ("s3://", "gs://")


def is_remote(uri: str | None) -> bool:
    """Whether a data file lies in a bucket, from which the job runner fetches it."""
    return uri is not None and uri.startswith(BUCKETS)


def data_path(config: TrainConfig) -> Path | None:
    """The prepared file: ``data.uri``, else the data set's file name in ``hardware.data_root`` or up to three folders below
    (Kaggle mounts each data set in folders of its own). None for an embedded or generated data set.

    Raises:
        DataError: it is not there, or there are several, or only the job runner could read it.
    """
    uri = config.data.uri
    if uri is None and config.dataset in ("irds", "synthetic"):
        return None
    how = f"with lastrun data prepare {config.dataset}" if config.dataset.startswith("ntu") else "as docs/data.md says"
    hint = f"make it {how}, or tell where it is with --set data.uri=/path/to/{config.dataset}.safetensors"
    if uri is not None:
        if is_remote(uri):
            raise DataError(f"data.uri: {uri}: lastrun submit fetches it; here a local path is needed", missing=True)
        if "://" in uri and not uri.startswith("file:///"):
            allowed = "a path, file:///path, s3://bucket/key or gs://bucket/key; fetch it yourself and name the file"
            raise DataError(f"data.uri: {redact(uri)}: allowed are {allowed}", missing=True)
        path = Path(unquote(uri.removeprefix("file://"))) if uri.startswith("file://") else expand(uri)
        if not path.is_file():
            raise DataError(f"{config.dataset}: no file {path} (data.uri); {hint}", missing=True)
        return path
    name, root = config.data.file or f"{config.dataset}.safetensors", expand(config.hardware.data_root)
    found = [path for depth in range(4) for path in sorted(root.glob("*/" * depth + name))]
    if len(found) > 1:
        raise DataError(f"{config.dataset}: {found[0]} or {found[1]}? Choose with --set data.uri=PATH", missing=True)
    if not found:
        raise DataError(f"{config.dataset}: no file {name} in {root} (hardware.data_root) or its folders; {hint}", missing=True)
    return found[0]
