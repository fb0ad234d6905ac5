"""From a data set's name to its clips: embedded, generated, or a prepared file that is looked for."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote

from last_e.config import TrainConfig
from last_e.data.clips import Clips, DataError
from last_e.data.files import read_clips, read_irds
from last_e.data.synthetic import synthetic_clips
from last_e.text import expand


def load_clips(config: TrainConfig) -> Clips:
    """The clips of the configured data set.

    Raises:
        DataError: the file is missing (the message says which, where, and how to make it) or damaged.
    """
    path = data_path(config)
    if path is not None:
        return read_clips(path, config.data.num_classes)
    return read_irds() if config.dataset == "irds" else synthetic_clips(config.data.num_classes)


def data_path(config: TrainConfig) -> Path | None:
    """The prepared file: ``data.uri``, else the data set's file name in ``hardware.data_root`` or up to three folders below
    (Kaggle mounts each data set in folders of its own). None for an embedded or generated data set.

    Raises:
        DataError: it is not there, or there are several, or only the job runner could read it.
    """
    uri = config.data.uri
    if uri is None and config.dataset in ("irds", "synthetic"):
        return None
    hint = f"make it as docs/data.md says, or tell where it is with data.uri (--set data.uri={config.dataset}.safetensors)"
    if uri is not None:
        if "://" in uri.removeprefix("file://"):
            raise DataError(f"data.uri: {uri}: only local paths and file:/// can be read", missing=True)
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
