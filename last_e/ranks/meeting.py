"""The folder in which ranks of a machine meet, and what becomes of those that killed runs have left. Torch-free."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

PREFIX = "lastrun-ranks-"


@contextmanager
def meeting_folder(shared: Path | None = None) -> Iterator[Path]:
    """A new folder of this user's that lasts as long as the block; in a ``shared`` one where several machines meet, which goes
    as a whole when the run is over. Meanwhile its lock is held, which the system takes back from whoever is killed: of folders
    on this machine those whose lock nobody holds are removed first."""
    for left in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        with suppress(OSError):  # in use, another's, a link, or gone by now
            _remove_if_left(left)
    folder, opened = _new(shared)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(opened)


def _remove_if_left(folder: Path) -> None:
    opened = _open(folder)
    try:
        if os.fstat(opened).st_uid == os.geteuid():
            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder)
    finally:
        os.close(opened)


def _new(shared: Path | None) -> tuple[Path, int]:
    while True:
        folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=shared))
        with suppress(FileNotFoundError):  # before it was locked, somebody else took it for one that was left
            opened = _open(folder)
            with suppress(OSError):  # where there are no locks, nobody else gets one either
                fcntl.flock(opened, fcntl.LOCK_EX)
            if folder.exists():
                return folder, opened
            os.close(opened)


def _open(folder: Path) -> int:
    return os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
