"""From a data set's name to its clips: embedded, generated, or a prepared file that is looked for."""

from __future__ import annotations

from pathlib import Path

from last_e.config import TrainConfig
from last_e.data.clips import Clips, DataError
from last_e.data.files import read_clips, read_irds
from last_e.data.synthetic import synthetic_clips


def load_clips(config: TrainConfig) -> Clips:
    """The clips of the configured data set.

    Raises:
        DataError: the file is missing (the message says which, where, and how to make it) or damaged.
    """
    if config.data.uri is None and config.dataset == "irds":
        return read_irds()
    if config.data.uri is None and config.dataset == "synthetic":
        return synthetic_clips(config.data.num_classes)
    path = data_path(config)
    if not path.exists():
        where = "" if config.data.uri else f" in {path.parent} (hardware.data_root; data.uri is not set)"
        raise DataError(
            f"{config.dataset}: no file {path if config.data.uri else path.name}{where}; give its place with "
            f"--set data.uri=PATH, or make it as docs/data.md says",
            missing=True,
        )
    return read_clips(path, config.data.num_classes)


def data_path(config: TrainConfig) -> Path:
    """Where the prepared file is looked for: ``data.uri``, else the data set's file name in ``hardware.data_root``.

    Raises:
        DataError: ``data.uri`` names a store that only the job runner reads.
    """
    uri = config.data.uri
    if uri is None:
        return Path(config.hardware.data_root).expanduser() / (config.data.file or f"{config.dataset}.safetensors")
    if uri.startswith("file://"):
        uri = uri.removeprefix("file://")
    if "://" in uri:
        raise DataError(f"data.uri: {uri}: only local paths and file:/// can be read here", missing=True)
    return Path(uri).expanduser()
