"""Prepared data on the other side: kept by content, so that they are sent once, and gone on with where a connection broke.

``SENT/SHA256/NAME`` is a whole file; ``SENT/SHA256/.part`` what has come of it.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import select
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from runner.errors import DamagedObjectError, UsageError
from runner.folders import cache_folder
from runner.launch.ssh.install import own_folder

if TYPE_CHECKING:
    from runner.spec import JobSpec

AGAIN = 253
"""Exit code of ``receive``: it is to be asked anew how much has come."""
_PIECE_BYTES = 1 << 20
_IDLE_SECONDS = 60.0
"""A network that is gone says nothing: from then on somebody else may go on."""


class Local(NamedTuple):
    """A data file of this machine."""

    path: Path
    size: int
    sha256: str


def of_this_machine(config: JobSpec) -> Local | None:
    """The job's data file, if it is here and in no bucket. What it holds is read once as long as it is not written to."""
    path = path_of(config)
    return None if path is None else Local(path, path.stat().st_size, _sha256(path))


def path_of(config: JobSpec) -> Path | None:
    """Where that is."""
    from last_e.datafile import DataError, data_path, is_remote  # what is called there needs none of it

    if is_remote(config.data.uri):
        return None
    try:
        return data_path(config)
    except DataError:  # it may be there
        return None


def _sha256(path: Path) -> str:
    about = path.stat()
    key = json.dumps([str(path.resolve()), about.st_size, about.st_mtime_ns, about.st_ino])
    note = None
    with suppress(OSError, UsageError):
        note = cache_folder() / "ssh" / "hashes" / hashlib.sha256(key.encode()).hexdigest()[:32]
        if re.fullmatch("[0-9a-f]{64}", known := note.read_text()):
            return known
    found = _digest(path)
    with suppress(OSError):
        if note is not None:
            note.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            note.write_text(found)
    return found


def _digest(path: Path) -> str:
    whole = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(_PIECE_BYTES):
            whole.update(piece)
    return whole.hexdigest()


# --- there ---------------------------------------------------------------------------------------------------------------


def have(sha256: str, name: str) -> dict[str, object]:
    """How much of a file has come, and where it is once it is whole."""
    path, part = _places(sha256, name)
    if path.exists():
        return {"path": str(path), "whole": True}
    return {"path": str(path), "whole": False, "bytes": part.stat().st_size if part.exists() else 0}


def tell(sha256: str, name: str) -> None:
    """The same, called over the connection."""
    sys.stdout.write(json.dumps(have(sha256, name)))


def receive(sha256: str, name: str, offset: str, size: str) -> None:
    """Take what comes over standard input, from a byte on. The file is there only once all of it is, and is what was meant. Who
    comes second waits, and ends with :data:`AGAIN`.

    Raises:
        UsageError: not all of it came.
        DamagedObjectError: it is something else.
    """
    path, part = _places(sha256, name)
    part.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with part.open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        if path.exists() or file.tell() != int(offset):
            raise SystemExit(AGAIN)
        while select.select([sys.stdin], [], [], _IDLE_SECONDS)[0] and (piece := os.read(sys.stdin.fileno(), _PIECE_BYTES)):
            file.write(piece)
        file.flush()
        os.fsync(file.fileno())
        if file.tell() < int(size):
            raise UsageError("the connection broke while data were sent")
        if _digest(part) != sha256:
            part.unlink()
            raise DamagedObjectError("the data that came are not what was sent, and were removed; try again")
        part.replace(path)


def _places(sha256: str, name: str) -> tuple[Path, Path]:
    if not re.fullmatch("[0-9a-f]{64}", sha256) or "/" in name or name.startswith("."):
        raise UsageError("no such data can be kept here")
    folder = own_folder() / "data" / sha256
    return folder / name, folder / ".part"
