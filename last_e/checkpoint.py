"""Checkpoints on disk: whole or absent, written beside the training, read without unpickling anything.

A checkpoint is a folder ``step-00001234`` with ``state.pt``, ``config.json`` and, written last, ``MANIFEST.json``.
"""

from __future__ import annotations

import io
import os
import pickle
import shutil
import uuid
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from last_e import manifest
from last_e.manifest import DamagedCheckpoint, Manifest
from last_e.text import one_line

STATE = "state.pt"
CONFIG = "config.json"
_OLD = ".old-"


def save(folder: Path, state: dict[str, Any], config: str, about: Manifest) -> Path:
    """Write a checkpoint below ``folder``; it appears complete, under its final name, or not at all.

    Raises:
        OSError: for example a full disk; what was there before is untouched.
    """
    folder.mkdir(parents=True, exist_ok=True)
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
        state = torch.load(folder / STATE, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError, KeyError, ValueError) as error:
        raise DamagedCheckpoint(f"{STATE} cannot be read ({one_line(error)})") from None
    if not isinstance(state, dict):
        raise DamagedCheckpoint(f"{STATE} holds no training state")
    return state, about


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


def snapshot(value: Any) -> Any:
    """A copy of nested state that later training steps cannot change. Tensors stay on their device: nothing waits for it."""
    return _each_tensor(value, lambda tensor: tensor.detach().clone())


def on_host(value: Any) -> Any:
    """Nested state with its tensors in the host's memory, once the device has come so far."""
    return _each_tensor(value, lambda tensor: tensor.to("cpu"))


def _each_tensor(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, dict):
        return {key: _each_tensor(item, change) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_each_tensor(item, change) for item in value)
    return value


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

    def _write(self, state: dict[str, Any], config: str, about: Manifest) -> None:
        path = save(self.folder, on_host(state), config, about)
        self._saved(path, about)
        prune(self.folder, self.keep_last)
