"""Which of the other projects' files one is, by how it begins: whoever mixes them up is told."""

from __future__ import annotations

import zipfile
from pathlib import Path

from last_e.datafile import DataError
from last_e.prepare.archives import NOT_WHOLE, UNPACKED_BY_OTHERS, beginning_of
from last_e.prepare.entry import packed_by
from last_e.prepare.names import no_download
from last_e.text import shown

KINDS = {"npy": "a folder", "ctrgcn": "a .npz file", "pyskl": "a pickle"}
_UNPACK = {"gz": "gunzip", "bz2": "bunzip2", "xz": "unxz"}
"""What unpacks what is packed, by its name."""


def see_that_it_is(kind: str, path: Path) -> None:
    """See that a file or folder may be one of a kind; what is inside is for the kind's own reader.

    Raises:
        DataError: it begins as others do.
    """
    if path.is_dir():
        looks = "npy"
    else:
        beginning = beginning_of(path)
        _see_that_it_is_not_packed(path, beginning)
        if beginning.startswith(b"PK"):
            looks = "ctrgcn" if _holds_arrays(path) else ""
        else:
            looks = "pyskl" if beginning.startswith(b"\x80") else ""
    if looks and looks != kind:
        raise DataError(
            f"{path}: {KINDS[looks]}, and {kind} is {KINDS[kind]}; for this one: lastrun data import {looks}", other=True
        )
    if kind == "npy" and not looks:
        raise DataError(
            f"{path}: no folder; npy is {KINDS['npy']} with train_joint.npy, train_label.pkl and the like", other=True
        )


def _see_that_it_is_not_packed(path: Path, beginning: bytes) -> None:
    told = no_download(beginning)
    if told is not None:
        raise DataError(f"{path}: {told}", other=True)
    if beginning.startswith(b"\x93NUMPY"):
        raise DataError(f"{path}: an array alone; name its folder: lastrun data import npy FOLDER", other=True)
    if beginning[8:].startswith(b'{"__metadata__"'):
        raise DataError(f"{path}: a safetensors file, perhaps a prepared file already, which needs no import", other=True)
    packed = packed_by(beginning)
    how = f"packed by {packed[0]}: unpack it with {_UNPACK[packed[0]]} {{0}}" if packed else None
    other = next((f"{what}: unpack it with {command}" for begin, (what, command) in UNPACKED_BY_OTHERS.items()
                  if beginning.startswith(begin)), how)  # fmt: skip
    if other is not None:
        raise DataError(f"{path}: {other.format(path.name)}, and name what it holds", other=True)


def _holds_arrays(path: Path) -> bool:
    """Whether a zip file is one of numpy's; one that cannot be read may be a damaged one."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = [info.filename for info in archive.infolist()]
    except NOT_WHOLE:
        return True
    if any(name.endswith(".npy") for name in names):
        return True
    if any(name.endswith("/data.pkl") for name in names):
        raise DataError(
            f"{path}: saved by torch, whose files can run code when they are read; save its arrays with numpy", other=True
        )
    raise DataError(
        f"{path}: a zip file, but not one of numpy's: it holds {', '.join(map(shown, names[:4])) or 'nothing'}; "
        f"unpack it with unzip {path.name}, and name what is meant",
        other=True,
    )
