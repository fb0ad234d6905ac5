"""Weights from a file: of a checkpoint, safetensors, the original code's ``.pt`` or ``.npz``. Nothing foreign is unpickled."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from last_e import checkpoint, manifest
from last_e.datafile import DataError
from last_e.described import DESCRIPTION, described, is_own
from last_e.init import SUFFIXES
from last_e.known import description_of
from last_e.manifest import MANIFEST, DamagedCheckpoint
from last_e.text import one_line, shown

MOST_BYTES = manifest.MOST_FILE_BYTES
_ABOUT, _EXPORTED = "about", "lastrun"
"""Keys of a file's metadata: of what a job keeps, and of an export of ours."""
_ONE = "fusion.proj.0.weight"
"""A name that every network of ours has, as the original has it: what stands before it stands before all."""
_INSIDE = ("model", "state_dict", "model_state_dict", "net", "weights")
"""Where training programs keep the weights beside other things."""


class Weights(NamedTuple):
    """Tensors by the names of our network, in the host's memory, and what is known of them."""

    tensors: dict[str, Tensor]
    dataset: str | None = None
    """What they were trained on, as a job calls it; None: nobody says."""
    model: str | None = None
    """The variant."""
    classes: tuple[str, ...] | None = None
    """Their names, in the order of the head's rows."""


def read_weights(path: Path) -> Weights:
    """The weights in a file, in the folder of a checkpoint, or in that of a run (its best checkpoint).

    Raises:
        DataError: there are none, or they cannot be read without running what is in them; in one line.
    """
    try:
        if path.name == checkpoint.STATE and (path.parent / MANIFEST).is_file():
            path = path.parent
        if path.is_dir():
            return _of_folder(path)
        if path.suffix not in SUFFIXES:
            raise DataError(f"{path}; allowed: {', '.join(SUFFIXES)}, or the folder of a checkpoint", missing=True)
        if (size := path.stat().st_size) > MOST_BYTES:
            raise DataError(f"{path}: {size:,} bytes, more than any network here has", missing=True)
        read = {".safetensors": _safetensors, ".npz": _npz}.get(path.suffix, _pt)
        found = read(path)
        return found._replace(tensors=_named(found.tensors, path))
    except (OSError, DamagedCheckpoint) as error:
        told = error.strerror if isinstance(error, OSError) and error.strerror else one_line(error)
        raise DataError(f"{path}: {told}", missing=True) from None


def write_weights(weights: Weights, path: Path) -> None:
    """Keep weights as a job keeps those that it begins with."""
    about = {"dataset": weights.dataset, "model": weights.model, "classes": weights.classes}
    save_file(
        {name: tensor.contiguous() for name, tensor in sorted(weights.tensors.items())}, path, {_ABOUT: json.dumps(about)}
    )


def _of_folder(path: Path) -> Weights:
    if not (path / MANIFEST).is_file():
        there = [one for one in manifest.listed(path / "checkpoints", lambda _: None) if one[1].top1 is not None]
        if not there:
            raise DataError(f"{path}: a folder without a checkpoint that was tested; name one, or a file", missing=True)
        path = min(there, key=lambda one: (-(one[1].top1 or 0), one[1].order))[0]
    state, _ = checkpoint.load(path)
    try:
        config = json.loads((path / checkpoint.CONFIG).read_text())
        dataset, variant = str(config["dataset"]), str(config["model"]["variant"])
        if is_own(dataset):
            own = described(state) if isinstance(state.get(DESCRIPTION), str) else None
            classes = None if own is None else own.classes
        else:
            classes = description_of(dataset, int(config["data"]["num_classes"])).classes
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise DataError(f"{path}: {checkpoint.CONFIG} cannot be read ({one_line(error)})", missing=True) from None
    return Weights(_named(state.get("model", {}), path), dataset, variant, classes)


def _safetensors(path: Path) -> Weights:
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            about: Any = json.loads(metadata.get(_ABOUT) or metadata.get(_EXPORTED) or "{}")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, ValueError, RecursionError) as error:
        raise DataError(f"{path}: damaged, or no safetensors file ({one_line(error)})", missing=True) from None
    about = about if isinstance(about, dict) else {}
    dataset, variant = (
        one if isinstance(one, str) else None for one in (about.get("dataset"), about.get("model") or about.get("variant"))
    )
    names = about.get("classes")
    return Weights(tensors, dataset, variant, tuple(map(str, names)) if isinstance(names, list) else None)


def _npz(path: Path) -> Weights:
    try:
        with zipfile.ZipFile(path) as archive:
            if sum(entry.file_size for entry in archive.infolist()) > MOST_BYTES:
                raise ValueError("what is packed in it is larger than any network here")
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        return Weights({name: torch.from_numpy(array.copy()) for name, array in arrays.items() if _fits(array)})
    except (ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"{path}: damaged, or not only numbers ({one_line(error)})", missing=True) from None


def _fits(array: np.ndarray[Any, Any]) -> bool:
    return array.dtype.kind in "fiub"


def _pt(path: Path) -> Weights:
    try:
        if zipfile.is_zipfile(path):  # else of before torch 1.6
            checkpoint.see_that_it_was_saved_here(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
        tensors = _innermost(state)
        if sum(tensor.numel() * tensor.element_size() for tensor in tensors.values()) > path.stat().st_size:
            raise ValueError("its tensors are larger than itself")
        return Weights({name: tensor.detach().clone() for name, tensor in tensors.items()})
    except (MemoryError, OSError):
        raise
    except Exception as error:  # torch and pickle know many
        told = one_line(error)[:300]
        raise DataError(f"{path}: damaged, or more than weights, which are not run here ({told})", missing=True) from None


def _innermost(state: Any) -> dict[str, Tensor]:
    if isinstance(state, Mapping):
        tensors = {str(name): tensor for name, tensor in state.items() if isinstance(tensor, Tensor)}
        inside = next((state[name] for name in _INSIDE if isinstance(state.get(name), Mapping)), None)
        if tensors or inside is not None:
            return tensors if inside is None else _innermost(inside)
    raise ValueError("no tensors by name")


def _named(tensors: Mapping[str, Any], path: Path) -> dict[str, Tensor]:
    """By the network's own names, whatever stands before them (``state/``, ``module.``); numbers as float32."""
    before = next((name.removesuffix(_ONE) for name in tensors if name.endswith(_ONE)), None)
    if before is None:
        some = ", ".join(shown(name) for name in list(tensors)[:3]) or "nothing"
        raise DataError(f"{path}: no weights of LAST-E v3 (no {_ONE}); it has {some}", missing=True)
    found = {
        name.removeprefix(before): tensor for name, tensor in tensors.items() if name.startswith(before) and tensor is not None
    }
    found.pop("A", None)  # the whole graph, which the original keeps once more at the top
    found = {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in found.items()}
    if bad := [name for name, tensor in found.items() if tensor.is_floating_point() and not tensor.isfinite().all()]:
        raise DataError(f"{path}: not finite: {', '.join(bad[:3])}; name weights of before they diverged", missing=True)
    return found
