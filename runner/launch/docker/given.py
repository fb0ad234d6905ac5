"""Files and folders of this machine that a container gets: is one in the way of what it has of its own, and does it see the
very ones? A command that runs in a container itself, with the host's socket, names folders that mean others there."""

from __future__ import annotations

import errno
import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runner.errors import UsageError
from runner.gpus import HANDED

HOME = "/cache"
"""The home folder inside: downloaded data, compiled kernels and the like stay in a volume there."""
DATA = "/lastrun-data"
"""Where the data file is mounted. Not in the volume: what a file is mounted on stays there, empty, when the file is gone."""
TMP = "/tmp"  # noqa: S108
"""A file system in memory: what is mounted there lies below it and cannot be seen."""
LOOK_VARIABLE = "LASTRUN_LOOK"
"""What a trial container is to look for, as JSON: of every place inside the name of a marker, which it answers with one of its
own; nothing of a file."""
_PROGRAMS = ("/app", "/opt/lastrun", "/usr/bin", "/usr/lib", "/bin", "/sbin", "/lib", "/lib64", "/etc")
_OWN = tuple(map(Path, (HOME, DATA, TMP, str(HANDED), *_PROGRAMS, "/dev", "/proc", "/sys")))
"""Places of the container's own, which a folder of the caller's must not take."""
_KERNELS = (Path("/proc"), Path("/sys"))
"""Below these nothing can be mounted."""
_MARKER, _ANSWER = ".part-look-", "-answer"  # to a store in a folder something unfinished
_MOST_BYTES = 64


@dataclass(frozen=True)
class Given:
    """One of them."""

    what: str
    """The setting that names it."""
    source: Path
    target: str
    """Its path inside."""
    read_only: bool = True


def see_that_nothing_is_covered(given: list[Given]) -> None:
    """See that none takes the place of something that a container needs, or of another.

    Raises:
        UsageError: one does.
    """
    taken: dict[Path, Given] = {}
    for one in given:
        folder = Path(f"/{one.target.strip('/')}")  # two slashes at the beginning are one to an engine, but not to Path
        covered = [own for own in _OWN if own == folder or folder in own.parents]
        covered += [own for own in _KERNELS if own in folder.parents]
        if covered:
            raise UsageError(
                f"{one.what}: {folder} would stand in the way of the container's own {covered[0]}; take a folder "
                + ("elsewhere" if covered[0] in _KERNELS else "below it")
            )
        other = taken.setdefault(folder, one)
        if other.source != one.source:
            both = f"{one.source} and {other.source} ({other.what})"
            raise UsageError(f"{one.what}: {both} would both be {folder} in a container")


@contextmanager
def marked(given: list[Given]) -> Iterator[dict[str, str]]:
    """Put a marker into every folder that can be written to; a folder that is missing is made, so that a trial container has
    the mounts that the real one will have. All of it goes again."""
    markers: dict[str, str] = {}
    made: list[Path] = []
    try:
        for one in given:
            if one.read_only or one.target in markers:
                markers.setdefault(one.target, "")
                continue
            with suppress(OSError):  # whoever is to write there says so
                _make(one.source, made)
                name = f"{_MARKER}{secrets.token_hex(8)}"
                (one.source / name).write_text(name)
                markers[one.target] = name
                (one.source / name).chmod(0o644)  # inside we may be somebody else
        yield markers
    finally:
        for one in given:
            if marker := markers.get(one.target):
                for file in (one.source / marker, one.source / f"{marker}{_ANSWER}"):
                    with suppress(OSError):
                        file.unlink()
        for folder in reversed(made):
            with suppress(OSError):  # somebody has begun to use it
                folder.rmdir()


def _make(folder: Path, made: list[Path]) -> None:
    for path in reversed([path for path in (folder, *folder.parents) if not path.exists()]):
        path.mkdir(mode=0o700)
        made.append(path)


def look_around(text: str) -> dict[str, Any]:
    """What :func:`see_that_it_sees_them` is told by a container: of each place what is there."""
    found = {}
    for target, marker in json.loads(text).items():
        path = Path(target)
        found[target] = _about(path / marker)  # "" is the place itself
        if marker:
            with suppress(OSError):
                (path / f"{marker}{_ANSWER}").write_text(marker)
    return found


def _about(path: Path) -> str:
    """What is in a marker; a file's size in bytes and when it was changed: two are seldom alike in both, and it need not be
    read."""
    try:
        if path.name.startswith(_MARKER):
            with path.open() as file:
                return file.read(_MOST_BYTES)
        about = path.stat()
        return f"{about.st_size} bytes of {int(about.st_mtime)}"
    except OSError as error:
        return error.strerror or str(error)


def see_that_it_sees_them(given: list[Given], markers: dict[str, str], found: object) -> None:
    """See that what a container has found is what it was given.

    Raises:
        UsageError: what it sees is something else, or it cannot write where it has to.
    """
    if not isinstance(found, dict):  # an image of other code than this
        return
    for one in given:
        marker, there = markers.get(one.target), found.get(one.target)
        if marker is None or there is None:
            continue
        if there == os.strerror(errno.EACCES) or (there == marker and _unanswered(one.source / marker)):
            raise UsageError(
                f"{one.what}: this user may use {one.source}, but a container may not: see whether the engine's machine "
                "forbids it (SELinux, AppArmor, a mount that is read-only), or take another folder"
            )
        if there != (marker or _about(one.source)):
            raise UsageError(
                f"{one.what}: a container has something else at {one.source} than this command sees ({str(there)[:100]}): one "
                "of them runs on another machine, or this command in a container itself. Give both the same folder under the "
                "same path (docker run -v FOLDER:FOLDER), or take a bucket"
            )


def _unanswered(marker: Path) -> bool:
    return bool(marker.name.startswith(_MARKER)) and not os.path.lexists(f"{marker}{_ANSWER}")
