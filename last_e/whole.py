"""Files that are there whole or not at all, also in a folder into which others may write."""

from __future__ import annotations

import errno
import os
import secrets
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


@contextmanager
def whole_file(path: Path, scratch: Path | None = None) -> Iterator[Path]:
    """An empty file beside ``path`` (or in ``scratch``, on the same disk) that takes its place when the block ends well. Nobody
    foresees its name, so nobody has put a link there.

    Raises:
        OSError: there is no room, or no right, for it.
    """
    part = (scratch or path.parent) / f".{path.name}.{secrets.token_hex(4)}.part"
    opened = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o666)
    mode = stat.S_IMODE(os.fstat(opened).st_mode)
    os.close(opened)
    try:
        yield part
        with part.open("rb") as file:
            os.fsync(file.fileno())
        part.chmod(mode)  # some libraries put a file of their own there, which only its owner may read
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def is_ours(about: os.stat_result, beside: Path) -> bool:
    """Whether this user has made something in a folder, and nobody else may change it.

    A share may give what its users make to another one (root to nobody, on NFS). Whoever is that one there, too, could change
    it whatever is asked here.
    """
    if about.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return False
    return about.st_uid == os.geteuid() or about.st_uid == _user_there(beside)


def _user_there(folder: Path) -> int | None:
    """To whom a folder's file system gives what this process makes; None where it can make nothing."""
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            return os.fstat(file.fileno()).st_uid
    except OSError:
        return None


def see_that_it_is_ours(folder: Path, what: str) -> None:
    """See that nobody else has made a folder, or may write into it.

    Raises:
        PermissionError: somebody has, or may.
    """
    about = folder.lstat()
    if not stat.S_ISDIR(about.st_mode) or not is_ours(about, folder.parent):
        raise PermissionError(f"{folder}: {what} others made it, or may write into it; delete it, or name another place")


@contextmanager
def regular_file(path: Path) -> Iterator[BinaryIO]:
    """A file to be read that somebody may have sent: not a pipe, which would be waited for, nor a device, which has no end.

    Raises:
        OSError: it is none, or cannot be read.
    """
    opened = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(opened, "rb") as file:
        if not stat.S_ISREG(os.fstat(opened).st_mode):
            raise OSError(errno.EINVAL, "no plain file", str(path))
        yield file


def read_bounded(path: Path, most: int) -> bytes:
    """The bytes of a file that somebody may have sent.

    Raises:
        OSError: it is no plain file, has more than ``most`` bytes, or cannot be read.
    """
    with regular_file(path) as file:
        data = file.read(most + 1)
    if len(data) > most:
        raise OSError(errno.EFBIG, f"larger than {most:,} bytes", str(path))
    return data
