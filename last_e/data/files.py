"""Prepared data on disk: one safetensors file with all clips; and the embedded IRDS recordings.

The file's tensors are the fields of :class:`~last_e.data.clips.Clips` (more may stand beside them, as ``lastrun data prepare``
writes); its metadata says ``format: lastrun-clips-1``.
"""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from last_e.data.clips import TENSORS, Clips
from last_e.datafile import FORMAT, OWN_SPLIT, VALIDATION, DataError, unreadable
from last_e.described import DESCRIPTION, described
from last_e.own_set import DATA_HASH, rest_of
from last_e.shipped import IRDS
from last_e.text import one_line
from last_e.whole import whole_file


def read_clips(path: Path, num_classes: int) -> Clips:
    """Read a prepared file.

    Raises:
        DataError: missing, cut short, damaged, or another kind of file; in one line.
    """
    if path.exists() and not path.is_file():  # a pipe would be waited for, whoever wants it to end
        raise unreadable(path, OSError())
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            kind = metadata.get("format")
            if kind != FORMAT:
                raise DataError(f"{path}: not a prepared data file: its format is {kind!r}, not {FORMAT!r}", other=True)
            own, validation = (
                {name[len(begin) :]: file.get_tensor(name) for name in file.keys() if name.startswith(begin)}  # noqa: SIM118
                for begin in (OWN_SPLIT, VALIDATION)
            )
            tensors = {name: file.get_tensor(name) for name in TENSORS}
            clips = Clips(**tensors, own_splits=own, validation=validation, description=described(metadata))
    except FileNotFoundError:
        raise DataError(f"{path}: no such file", missing=True) from None
    except (SafetensorError, OSError) as error:
        raise unreadable(path, error) from None
    except ValueError as error:
        raise DataError(f"{path}: {error}", other=True) from None
    clips.check(num_classes, str(path))
    return clips


def write_clips(clips: Clips, path: Path, metadata: dict[str, str] | None = None) -> None:
    """Write a prepared file: whole or not at all.

    Raises:
        DataError: the clips are not what a reader would accept.
    """
    path = Path(path)
    clips.check(int(clips.label.max()) + 1 if clips.label.numel() else 1, str(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = {name: getattr(clips, name).clone().contiguous() for name in TENSORS}  # none may share memory
    tensors.update({OWN_SPLIT + name: mask.clone() for name, mask in clips.own_splits.items()})
    tensors.update({VALIDATION + name: mask.clone() for name, mask in clips.validation.items()})
    told = dict(metadata or {})
    if clips.description is not None:
        told |= {DESCRIPTION: clips.description.to_json(), DATA_HASH: "0" * 64}
    with whole_file(path) as part:
        save_file(tensors, part, {**told, "format": FORMAT})
        if clips.description is not None:
            _promise(part)


def _promise(path: Path) -> None:
    """Put the sha256 of a set's bytes into its header, in place of as many zeros."""
    with path.open("r+b") as file:
        header = file.read(int.from_bytes(file.read(8), "little"))
        found = rest_of(file)
        file.seek(8 + header.index(f'"{DATA_HASH}":"'.encode()) + len(DATA_HASH) + 4)
        file.write(found.encode())


def read_irds(path: Path = IRDS) -> Clips:
    """The embedded IRDS recordings (see ``irds/NOTICE.md``).

    Raises:
        DataError: the file is missing or damaged, so the installation is.
    """
    try:
        with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
            columns = {name: torch.from_numpy(file[name].astype(np.int64)) for name in ("length", "label", "subject")}
            joints = torch.from_numpy(file["joints_mm"])
    except FileNotFoundError:
        raise DataError(f"{path}: no such file: install lastrun again", missing=True) from None
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"{path}: cut short or damaged ({one_line(error)}): install lastrun again") from None
    ones = torch.ones_like(columns["length"])
    clips = Clips(joints, columns["length"], ones, columns["label"], columns["subject"], camera=ones, setup=ones)
    clips.check(9, str(path))
    return clips
