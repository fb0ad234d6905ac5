"""An attempt's folder on this machine, and whose a folder is that was found there.

In a folder that others may write to, a name proves nothing, and neither does a job that a store holds: only what the marker in
a folder of this user's own says whole, store, job and attempt, is taken for what an attempt left.
"""

from __future__ import annotations

import json
import os
import shutil
import stat
import tempfile
import time
from contextlib import suppress
from pathlib import Path

from last_e.layers import Resolved, is_of_another_machine
from last_e.text import expand, unknown_user
from last_e.whole import is_ours
from runner import machine
from runner.errors import UsageError
from runner.job.job import Job
from runner.job.paths import ATTEMPT_ID
from runner.spec import JobSpec
from runner.store.uri import StoreUri

_MARKER = "lastrun.json"
_MOST_BYTES = 1 << 16
_PREFIX = "lastrun-"
OUTBOX = "outbox"
"""The folder in it that holds what waits to be sent."""
_GOING = ".gone"
"""What the name of a folder ends with that is being removed."""


def scratch_root(resolved: Resolved[JobSpec]) -> Path:
    """The folder for the attempt's files, made if need be and seen to be usable, before the job is claimed.

    Raises:
        UsageError: it cannot be used.
    """
    return _usable(_chosen(resolved), make=True)


def see_scratch(resolved: Resolved[JobSpec]) -> None:
    """The same before there is a job; nothing is written.

    Raises:
        UsageError: it could not be used.
    """
    _usable(_chosen(resolved), make=False)


def _chosen(resolved: Resolved[JobSpec]) -> str:
    inside = machine.container()
    if inside is not None and "engine" in inside:
        # In a container the launcher has seen to it: the path, perhaps with a ~, is one of the machine around it.
        chosen = inside.get("scratch")
    elif is_of_another_machine(resolved, "hardware.scratch_root"):
        chosen = None
    else:
        chosen = resolved.config.hardware.scratch_root
    return chosen or tempfile.gettempdir()


def _usable(chosen: str, *, make: bool) -> Path:
    root, hint = expand(chosen), "set another with --set hardware.scratch_root=FOLDER"
    if wrong := unknown_user(chosen):
        raise UsageError(f"hardware.scratch_root: {root}: {wrong}; {hint}")
    try:
        if make:
            root.mkdir(parents=True, exist_ok=True)
        # What is not there yet is made in the folder above it.
        there = next(folder for folder in (root, *root.absolute().parents) if os.path.lexists(folder))
        with tempfile.TemporaryFile(dir=there):
            return root
    except OSError as error:
        raise UsageError(f"hardware.scratch_root: {root}: {error.strerror or error}; {hint}") from None


def make_scratch(job: Job, attempt_id: str, root: Path) -> Path:
    """A new folder for an attempt's files, private, with a marker that says whose it is.

    Raises:
        OSError: it cannot be made.
    """
    folder = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{job.id}-{attempt_id}-", dir=root))
    try:
        opened = os.open(folder / _MARKER, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)  # whatever the umask
        with os.fdopen(opened, "w") as marker:
            marker.write(json.dumps(_marker(job, attempt_id)))
    except OSError:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return folder


def remove_scratch(folder: Path) -> None:
    """Remove an attempt's folder with all that is in it, as one step for whoever looks: first its outbox loses its name, so
    that nothing waits in it any more, and last goes what says whose it is. A trainer that is only just ending can put nothing
    into it meanwhile, since the folder's name is another as well."""
    with suppress(OSError):
        (folder / OUTBOX).rename(folder / f"{OUTBOX}{_GOING}")
    going = folder
    if not is_going(folder):
        going = folder.with_name(folder.name + _GOING)
        try:
            folder.rename(going)
        except OSError:
            going = folder
    for pause in (0.0, 0.05, 0.2):  # what was just being written may come after it was looked for
        time.sleep(pause)
        with suppress(OSError):
            for path in [path for path in going.iterdir() if path.name != _MARKER]:
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path, ignore_errors=True)
                else:
                    with suppress(OSError):
                        path.unlink()
        with suppress(OSError):
            if [path.name for path in going.iterdir()] in ([_MARKER], []):  # else the next one finds what could not be removed
                shutil.rmtree(going, ignore_errors=True)
                return


def is_going(folder: Path) -> bool:
    """Whether somebody has begun to remove it."""
    return folder.name.endswith(_GOING)


def scratch_of(job: Job, root: Path) -> dict[Path, str]:
    """Folders below ``root`` that attempts of this very job have made, each with its attempt."""
    found = {}
    for path in root.glob(f"{_PREFIX}{job.id}-*"):
        with suppress(OSError, ValueError, KeyError, TypeError, RecursionError):
            marker = _read(path)
            attempt_id = marker["attempt"]
            if ATTEMPT_ID.fullmatch(attempt_id) and marker == _marker(job, attempt_id):
                found[path] = attempt_id
    return found


def _marker(job: Job, attempt_id: str) -> dict[str, str]:
    return {"store": StoreUri.parse(job.store.uri).place, "job": job.id, "attempt": attempt_id}


def _read(folder: Path) -> dict[str, str]:
    """The marker of a folder that is ours; nobody can change either under our hands then.

    Raises:
        OSError: the folder, or the marker, is not what this user makes.
    """
    opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        _see_that_it_is_ours(os.fstat(opened), folder.parent)
        file = os.open(_MARKER, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=opened)
        with os.fdopen(file, "rb") as marker:
            about = os.fstat(marker.fileno())
            _see_that_it_is_ours(about, folder.parent)
            if not stat.S_ISREG(about.st_mode):
                raise OSError("no file")
            values: dict[str, str] = json.loads(marker.read(_MOST_BYTES))
            return values
    finally:
        os.close(opened)


def _see_that_it_is_ours(about: os.stat_result, beside: Path) -> None:
    if not is_ours(about, beside):
        raise PermissionError("others may have made it, or may change it")
