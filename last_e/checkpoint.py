"""Checkpoints on disk: whole or absent, written beside the training, read without unpickling anything.

A checkpoint is a folder ``step-00001234`` with ``state.pt``, ``config.json`` and, written last, ``MANIFEST.json``.
"""

from __future__ import annotations

import io
import os
import shutil
import uuid
import zipfile
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from last_e import manifest
from last_e.manifest import DamagedCheckpoint, Manifest
from last_e.text import one_line

T = TypeVar("T")

STATE = "state.pt"
CONFIG = "config.json"
_OLD = ".old-"
_MOST_VALUES = 1_000_000


def save(folder: Path, state: dict[str, Any], config: str, about: Manifest) -> Path:
    """Write a checkpoint below ``folder``; it appears complete, under its final name, or not at all.

    Raises:
        OSError: for example a full disk; what was there before is untouched.
    """
    folder.mkdir(exist_ok=True)  # alone: whose run folder was taken away does not bring it back
    final = folder / f"step-{about.step:08d}"
    part = folder / f"{manifest.NEW}{uuid.uuid4().hex}"
    try:
        part.mkdir()
        # Through memory (a few MB): torch's own file writer hides a full disk behind an error without a number.
        buffer = io.BytesIO()
        torch.save(state, buffer)
        _write(part / STATE, buffer.getbuffer())
        _write(part / CONFIG, config.encode())
        files = {name: manifest.describe_file(part / name) for name in (STATE, CONFIG)}
        _write(part / manifest.MANIFEST, about.model_copy(update={"files": files}).to_json().encode())
        if final.exists():
            # The same step, saved before its epoch was tested, or damaged. Between these two renames the new one has only
            # its temporary name; but it is whole, and found by that name too.
            _remove(final)
        os.rename(part, final)
        sync_folder(folder)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
    return final


def _write(path: Path, data: bytes | memoryview) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def load(folder: Path) -> tuple[dict[str, Any], Manifest]:
    """Read a checkpoint after checking that it is whole. All tensors are on the CPU.

    Raises:
        DamagedCheckpoint: it is not.
    """
    about = manifest.verify(folder)
    if not {STATE, CONFIG} <= about.files.keys():
        raise DamagedCheckpoint(f"its manifest does not name {STATE} and {CONFIG}")
    try:
        see_that_it_was_saved_here(folder / STATE)
        state = torch.load(folder / STATE, map_location="cpu", weights_only=True)
        if _bytes_of(state) > about.files[STATE].size:
            raise ValueError("its tensors are larger than itself")
        # A memory of its own for each: where many were saved from one, they would be loaded into one.
        state = _each(state, Tensor, Tensor.clone)
    except MemoryError:
        raise
    except Exception as error:  # torch and pickle know many, and whatever it is, the checkpoint before may be whole
        raise DamagedCheckpoint(f"{STATE} cannot be read ({one_line(error)})") from None
    if not isinstance(state, dict):
        raise DamagedCheckpoint(f"{STATE} holds no training state")
    return state, about


def see_that_it_was_saved_here(path: Path) -> None:
    """See that a file is what :func:`save` makes, before torch looks: no other kind of archive, no TorchScript, nothing packed.

    Raises:
        ValueError, OSError, zipfile.BadZipFile: it is not.
    """
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        raise ValueError("it is packed")
    if sum(entry.file_size for entry in entries) > path.stat().st_size:
        raise ValueError("its parts are larger than itself")
    if any(entry.filename.endswith("/constants.pkl") or "/code/" in entry.filename for entry in entries):
        raise ValueError("it holds a program")


def _bytes_of(state: Any) -> int:
    """What all tensors of nested values take when each has a memory of its own.

    Raises:
        ValueError: the values are nested without end, or as good as.
    """
    total, left, waiting = 0, _MOST_VALUES, [state]
    while waiting:
        value = waiting.pop()
        left -= 1
        if left < 0:
            raise ValueError(f"it holds more than {_MOST_VALUES:,} values")
        if isinstance(value, Tensor):
            total += value.numel() * value.element_size()
        elif isinstance(value, (dict, list, tuple)):
            waiting += value.values() if isinstance(value, dict) else value
    return total


def checkpoints(folder: Path) -> list[tuple[Path, Manifest]]:
    """Checkpoints below a folder that have a readable manifest, oldest first. Their files are not checked yet."""
    return manifest.listed(folder, lambda _: None)


def prune(folder: Path, keep_last: int) -> list[Path]:
    """Delete what the retention rule does not keep, and leftovers of writers that were killed. Returns what went."""
    found = [(path, about) for path, about in checkpoints(folder) if not path.name.startswith(manifest.NEW)]
    gone = []
    for (path, _), keep in zip(found, manifest.to_keep([about for _, about in found], keep_last)):
        if not keep:
            _remove(path)
            gone.append(path)
    for leftover in [*folder.glob(f"{manifest.NEW}*"), *folder.glob(f"{_OLD}*")]:
        shutil.rmtree(leftover, ignore_errors=True)
    return gone


def _remove(path: Path) -> None:
    """Rename first: a folder that is half deleted must not pass for a checkpoint."""
    trash = path.with_name(f"{_OLD}{uuid.uuid4().hex}")
    os.rename(path, trash)
    shutil.rmtree(trash, ignore_errors=True)


def sync_folder(folder: Path) -> None:
    """Make renames in a folder durable."""
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def snapshot(value: Any) -> Callable[[], Any]:
    """Copy nested state that later training steps will change, without waiting for the device.

    Returns:
        What gives that copy, its tensors in the host's memory; for another thread.
    """
    tensors: list[Tensor] = []

    def put_aside(tensor: Tensor) -> _Place:
        tensors.append(tensor.detach())
        return _Place(len(tensors) - 1)

    structure = _each(value, Tensor, put_aside)
    kinds: dict[tuple[torch.device, torch.dtype], list[int]] = {}
    for number, tensor in enumerate(tensors):
        kinds.setdefault((tensor.device, tensor.dtype), []).append(number)
    # One copy for all of a kind: each operation has a price of its own, and a model and its averages are 600 tensors.
    blocks = [(numbers, torch.cat([tensors[number].reshape(-1) for number in numbers])) for numbers in kinds.values()]
    shapes = [tensor.shape for tensor in tensors]
    copied = [_event(block.device) for _, block in blocks]

    def on_host() -> Any:
        host: dict[int, Tensor] = {}
        for (numbers, block), event in zip(blocks, copied):
            parts = torch.split(_to_host(block, event), [shapes[number].numel() for number in numbers])
            host.update((number, part.view(shapes[number])) for number, part in zip(numbers, parts))
        return _each(structure, _Place, lambda place: host[place.number])

    return on_host


@dataclass
class _Place:
    """Stands where a tensor was."""

    number: int


def _each(value: Any, kind: type[T], change: Callable[[T], Any]) -> Any:
    """Nested dictionaries, lists and tuples, made anew with what is of a kind changed."""
    if isinstance(value, kind):
        return change(value)
    if isinstance(value, dict):
        return {key: _each(item, kind, change) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_each(item, kind, change) for item in value)
    return value


def _event(device: torch.device) -> torch.cuda.Event | None:
    """What tells when a GPU has done all that it has been given so far."""
    return torch.cuda.current_stream(device).record_event() if device.type == "cuda" else None


def _to_host(block: Tensor, copied: torch.cuda.Event | None) -> Tensor:
    """Behind what the GPU was given before ``copied``, and beside what it was given since: on a stream of its own."""
    if copied is None:
        return block
    stream = torch.cuda.Stream(block.device)  # type: ignore[no-untyped-call]
    stream.wait_event(copied)
    with torch.cuda.stream(stream):
        return block.to("cpu")


class Writer:
    """Writes checkpoints on a thread of its own, in order, so that training goes on. One waits at the most.

    Args:
        folder: where they go.
        keep_last: see :func:`prune`.
        saved: called, on the writer's thread, when a checkpoint is whole on disk.
    """

    def __init__(self, folder: Path, keep_last: int, saved: Callable[[Path, Manifest], None]) -> None:
        self.folder, self.keep_last, self._saved = folder, keep_last, saved
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._pending: Future[None] | None = None

    def submit(self, state: dict[str, Any], config: str, about: Manifest) -> None:
        """Take a snapshot now and write it soon.

        Raises:
            OSError: the checkpoint before this one could not be written.
        """
        self.wait()
        self._pending = self._pool.submit(self._write, snapshot(state), config, about)

    def wait(self) -> None:
        """Until all is written.

        Raises:
            OSError: a checkpoint could not be written.
        """
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()

    def close(self) -> None:
        """Stop the thread; what was submitted is written first."""
        self._pool.shutdown(wait=True)

    def _write(self, state: Callable[[], dict[str, Any]], config: str, about: Manifest) -> None:
        path = save(self.folder, state(), config, about)
        self._saved(path, about)
        prune(self.folder, self.keep_last)
