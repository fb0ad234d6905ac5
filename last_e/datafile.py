"""Where a data set's file is, and how one is known. Torch-free, so that a job can be refused before it starts."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from last_e.config import TrainConfig, effective_batch
from last_e.described import DESCRIPTION, SUFFIX
from last_e.environment import kaggle_sign
from last_e.redact import redact
from last_e.refusal import FAILED, USAGE
from last_e.text import expand, one_line, unknown_user, unquoted

if TYPE_CHECKING:
    from last_e.splits import Bools, Ints, Parts

FORMAT = "lastrun-clips-1"
"""What the metadata of a prepared file says under ``format``."""
MOST_HEADER_BYTES = 100 << 20
OWN_SPLIT = "train."
"""Beginning of the names of tensors that hold a split of the file's own."""
VALIDATION = "validation."
"""Beginning of the names of tensors that hold the part of such a split that neither trains nor tests."""


class DataError(RuntimeError):
    """A data file that is missing (:attr:`missing`), of another kind or layout (:attr:`other`), or damaged."""

    def __init__(self, message: str, *, missing: bool = False, other: bool = False) -> None:
        super().__init__(message)
        self.missing, self.other = missing, other
        self.whose = USAGE if missing or other else FAILED


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


def see_that_it_is_there(path: Path) -> None:
    """See that what is to be read is a file or a folder: of a device there may be no end.

    Raises:
        DataError: it is not there, or something else.
    """
    if not path.exists():
        raise DataError(f"{path}: no such file or folder", missing=True)
    if not (path.is_file() or path.is_dir()):
        raise DataError(f"{path}: a device, a pipe or the like; name a file or a folder", missing=True)


def pointer(beginning: bytes) -> str | None:
    """What a file that begins so stands for, where a clone has the names of large files alone."""
    if beginning.startswith(b"version https://git-lfs"):
        return "a pointer of Git LFS, in place of the file; fetch it: git lfs pull"
    if re.match(rb"/annex/objects/|(\.\./)*\.git/annex/", beginning):
        return "a pointer of git-annex, in place of the file; fetch it: git annex get"
    return None


BUCKETS = ("s3://", "gs://")
Check = Callable[[TrainConfig, IO[bytes], int, Any], None]
"""Sees that a file which is open, of so many bytes, fits a job; told what to call it."""


def unreadable(path: Path, error: Exception) -> DataError:
    """What to say of a prepared file that cannot be read as one."""
    if path.exists() and not path.is_file():  # of which the system says that there is no such device
        return DataError(f"{path}: {'a folder' if path.is_dir() else 'no file'}; name a prepared file", missing=True)
    try:
        with path.open("rb") as file:
            beginning = file.read(64)
        if told := pointer(beginning):
            return DataError(f"{path}: {told}", missing=True)
        other = beginning[8:9] not in (b"", b"{")  # a header is JSON after its length in eight bytes
    except OSError:
        other = False
    return DataError(f"{path}: cut short, damaged or not a prepared data file ({one_line(error)})", other=other)


def is_remote(uri: str | None) -> bool:
    """Whether a data file lies in a bucket, from which the job runner fetches it."""
    return uri is not None and uri.startswith(BUCKETS)


PLACES = "a path, file:///path, s3://bucket/key or gs://bucket/key; fetch it yourself and name the file"
"""Where a data file may lie."""


def is_of_no_known_kind(uri: str) -> bool:
    """Whether a data file's address is one that nothing here reads, on any machine."""
    return "://" in uri and not uri.startswith(("file:///", *BUCKETS))


def see_that_the_batch_fits(config: TrainConfig, train: int) -> None:
    """See that as many clips as a step takes are there to train with.

    Raises:
        DataError: there are fewer.
    """
    if wrong := _too_large(config, train):
        raise DataError(wrong, missing=True)


def _too_large(config: TrainConfig, train: int) -> str | None:
    batch, steps = effective_batch(config.training), config.training.gradient_accumulation_steps
    if batch <= train:
        return None
    times = f" times training.gradient_accumulation_steps ({steps})" if steps > 1 else ""
    return (
        f"training.batch_size: found {config.training.batch_size}{times}; allowed: at most {train:,} clips a step, all there "
        "are to train with"
    )


def with_validation(config: TrainConfig, parts: Parts, label: Ints, performer: Ints, named: Mapping[str, Bools]) -> Parts:
    """Who trains, who tests, and on whom the best is chosen, as ``data.train_position``, ``data.train_subjects``,
    ``data.train_clips`` and ``data.validation`` say; see :func:`last_e.splits.few` and :func:`last_e.splits.cut_off`.

    Raises:
        ValueError: it cannot be.
    """
    from last_e.splits import Parts, cut_off, few

    data = config.data
    if data.train_position is not None:
        from last_e.shipped import stands

        if len(standing := stands()) != len(label):
            told = f"positions are known of the {len(standing):,} recordings that come with lastrun, not of data.uri"
            raise ValueError(f"data.train_position: found {data.train_position}; allowed: null: {told}")
        here = standing == (data.train_position == "standing")
        parts = Parts(parts.train & here, parts.test & ~here)
    parts = few(parts, data.train_subjects, data.train_clips, drawn_by(config), label=label, performer=performer)
    if data.validation is None:
        return parts
    drawn = data.validation_by, data.validation_seed
    return cut_off(parts, data.validation, *drawn, label=label, performer=performer, named=named)


def drawn_by(config: TrainConfig) -> int:
    """The seed by which those are drawn who train, where not all do."""
    return config.training.seed if config.data.train_seed is None else config.data.train_seed


def data_path(config: TrainConfig) -> Path | None:
    """The prepared file: ``data.uri``, else the data set's file name in ``hardware.data_root`` or up to three folders below
    (Kaggle mounts each data set in folders of its own). None for an embedded or generated data set.

    Raises:
        DataError: it is not there, or there are several, or only the job runner could read it.
    """
    if config.data.uri is None and config.dataset in ("irds", "synthetic"):
        return None
    return find_file(config.dataset, config.data.uri, config.hardware.data_root, config.data.file)


def find_file(dataset: str, uri: str | None, data_root: str, file: str | None = None, beside: Path | None = None) -> Path:
    """A data set's prepared file: at ``uri``, else by its name in ``data_root`` or up to three folders below. ``beside``: a
    folder in which it has been looked for already, to be told.

    Raises:
        DataError: it is not there, or there are several, or only the job runner could read it.
    """
    hint = _how_to_have_it(dataset)
    try:
        name = file or (dataset if dataset.endswith(SUFFIX) else dataset + SUFFIX)
        return _found(dataset, uri, data_root, name, hint, beside)
    except OSError as error:  # a folder that may not be looked into
        key = "hardware.data_root" if uri is None else "data.uri"
        raise DataError(f"{dataset}: {error.filename}: {error.strerror} ({key}); {hint}", missing=True) from None


def _found(dataset: str, uri: str | None, data_root: str, name: str, hint: str, beside: Path | None) -> Path:
    if uri is not None:
        if is_remote(uri):
            raise DataError(f"data.uri: {uri}: lastrun submit fetches it; here a local path is needed", missing=True)
        if is_of_no_known_kind(uri):
            raise DataError(f"data.uri: {redact(uri)}; allowed: {PLACES}", missing=True)
        if wrong := unknown_user(uri):
            raise DataError(f"data.uri: {uri}: {wrong}; {hint}", missing=True)
        path = Path(unquoted(uri.removeprefix("file://"))) if uri.startswith("file://") else expand(uri)
        if not path.is_file():
            raise DataError(f"{dataset}: no file {path} (data.uri); {hint}", missing=True)
        return path
    if wrong := unknown_user(data_root):
        raise DataError(f"hardware.data_root: {data_root}: {wrong}; {hint}", missing=True)
    root = expand(data_root)
    found = [path for depth in range(4) for path in sorted(root.glob("*/" * depth + name))]
    if len(found) > 1:
        raise DataError(f"{dataset}: {found[0]} or {found[1]}? Choose with --set data.uri=PATH", missing=True)
    if not found:
        where = f"in {root} (hardware.data_root) or its folders"
        where = where if beside is None else f"beside the job, in {beside}, nor {where}"
        raise DataError(f"{dataset}: no file {name} {where}; {hint}", missing=True)
    return found[0]


def _how_to_have_it(dataset: str) -> str:
    own = dataset.endswith(SUFFIX)
    tell = f"tell where it is with --set data.uri=/path/to/{dataset if own else dataset + SUFFIX}"
    if kaggle_sign() is not None:
        return f"attach the data set that holds it to this notebook with Add Input (docs/kaggle.md), or {tell}"
    how = f"with lastrun data prepare {dataset}" if dataset in ("ntu60", "ntu120") else "as docs/data.md says"
    how = "as docs/own-data.md says" if own else how
    return f"make it {how}, or {tell}"


def read_header(file: IO[bytes]) -> tuple[dict[str, Any], int]:
    """The header of a safetensors file, and where its data begin.

    Raises:
        ValueError: it has none.
    """
    length = int.from_bytes(file.read(8), "little")
    if not 2 <= length <= MOST_HEADER_BYTES:
        raise ValueError("no header of a safetensors file")
    try:
        header = json.loads(file.read(length))
    except RecursionError:
        raise ValueError("nested too deep") from None
    if not isinstance(header, dict) or not isinstance(header.setdefault("__metadata__", {}), dict):
        raise ValueError("no header of a safetensors file")
    return header, 8 + length


def check_file(config: TrainConfig, path: Path, check: Check | None = None) -> None:
    """See that a prepared file is whole and fits a job, before there is a job: its header, its labels, its split. Reads some
    hundred kilobytes, and needs numpy, but not torch.

    Raises:
        DataError: with all that does not fit.
    """
    try:
        with path.open("rb") as file:
            (check or check_opened)(config, file, path.stat().st_size, path)
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}") from None


def check_opened(config: TrainConfig, file: IO[bytes], size: int, path: Path | str) -> None:
    """The same of a file of so many bytes that is open, wherever it is.

    Raises:
        DataError: with all that does not fit.
    """
    import numpy as np

    from last_e.splits import SPLITS, Parts, trains

    try:
        tensors, begin = read_header(file)
        metadata = tensors.pop("__metadata__")
        end = begin + max(about["data_offsets"][1] for about in tensors.values())

        def column(name: str) -> np.ndarray[Any, Any]:
            first, last = tensors[name]["data_offsets"]
            file.seek(begin + first)
            return np.frombuffer(file.read(last - first), "?" if tensors[name]["dtype"] == "BOOL" else "<i8")

        if metadata.get("format") == FORMAT and end <= size:
            own = OWN_SPLIT + config.split_type
            label = column("label")
            mask = column(own) if own in tensors else None
            places = [column(name).astype(np.int64) for name in ("performer", "camera", "setup")]
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, MemoryError):
        file.seek(0)
        told = pointer(file.read(64)) or "not a prepared data file, or a damaged one; lastrun data makes them"
        raise DataError(f"{path}: {told}") from None
    if metadata.get("format") != FORMAT:
        raise DataError(f"{path}: not a prepared data file: its format is {metadata.get('format')!r}, not {FORMAT!r}")
    if end > size:
        raise DataError(f"{path}: cut short: {size:,} bytes are there, {end:,} belong to it; copy it again")
    wrong = []
    if DESCRIPTION in metadata:
        raise DataError(f"{path}: an own set, and the job says {config.dataset}: set dataset to the file", missing=True)
    told, classes = metadata.get("dataset"), config.data.num_classes
    if told in SPLITS and told != config.dataset:
        wrong.append(f"it holds {told}, and the job says {config.dataset}: set dataset to {told}, or name another file")
    elif mask is None and (others := sorted(name[len(OWN_SPLIT) :] for name in tensors if name.startswith(OWN_SPLIT))):
        wrong.append(f"it has no split {config.split_type}; its own are {', '.join(others)}")
    elif mask is None and config.split_type not in SPLITS.get(config.dataset, ()):
        wrong.append(f"it has no split {config.split_type}")
    elif len(label):
        mask = trains(config.dataset, config.split_type, *places) if mask is None else mask
        if mask.all() or not mask.any():
            part = "test" if mask.all() else "train"
            wrong.append(f"by its split {config.split_type} no clip of it is left to {part}: is this {config.dataset}?")
        else:
            try:
                parts = with_validation(config, Parts(mask, ~mask), label, places[0], {})
            except ValueError as error:
                wrong.append(str(error))
            else:
                wrong += [too_large] if (too_large := _too_large(config, int(parts.train.sum()))) else []
    if len(label) and (label.min() < 0 or label.max() >= classes):
        wrong.append(
            f"its labels go from {label.min()} to {label.max()}, and data.num_classes is {classes}: set it to {label.max() + 1}"
        )
    if not len(label):
        wrong.append("it holds no clips")
    if wrong:
        raise DataError(f"{path}: {'; '.join(wrong)}")
