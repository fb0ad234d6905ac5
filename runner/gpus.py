"""The GPUs of this machine, each for one attempt at a time: a lock for each, held as long as the attempt lives.

The kernel lets a lock go when its process is gone, whatever ended it, so nothing is ever to be cleared. The files stay: one
that is removed while another process opens it would be two locks of one GPU.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import stat
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from last_e.environment import detect_environment, gpu_names
from last_e.text import counted
from runner.errors import EngineError
from runner.machine import HiddenProcessError, container, identity, process_identity
from runner.spec import JobSpec

FOLDER = Path("/tmp/lastrun-gpus")  # noqa: S108 -- what may lie there is seen to in make_folder and _open
"""Where all users of a machine meet, whatever their TMPDIR is."""
HANDED = Path("/lastrun-gpus")
"""The same in a container, as its engine has handed it in."""
_HAS_ALL = ("kaggle", "hf", "sky")
"""Machines that an attempt has for itself, by what they are or how they were got: it takes all GPUs that are there."""
_TRIES = 4
"""Somebody may have it for a moment, only to see that it is to be had."""
_UUID = re.compile(r"^(\s*).*\(UUID: ((?:GPU|MIG)-[0-9A-Za-z/-]+)\)\s*$", re.MULTILINE)


def gpus_to_use() -> list[str]:
    """The GPUs that processes of ours may use, each as CUDA_VISIBLE_DEVICES names it: those that are in it now, else all."""
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    if given is not None:
        names = [name.strip() for name in given.split(",")]
        return names[: next((n for n, name in enumerate(names) if name in ("", "-1", "NoDevFiles")), len(names))]
    number = len(gpu_names())
    if number < 2:
        return [str(index) for index in range(number)]
    return gpus_listed(_listing()) or [str(index) for index in range(number)]


def gpus_listed(text: str) -> list[str]:
    """The UUIDs in what ``nvidia-smi -L`` prints; of a GPU that is cut in parts, the parts."""
    found: list[list[str]] = []
    for indent, uuid in _UUID.findall(text):
        if not indent:
            found.append([uuid])
        elif found:
            found[-1].append(uuid)
    return [uuid for gpu in found for uuid in (gpu[1:] or gpu)]


class BusyError(EngineError):
    """Others are at work on them.

    Args:
        text: who.
        jobs: theirs, as far as they say.
    """

    def __init__(self, text: str, jobs: list[str]) -> None:
        super().__init__(text)
        self.jobs = jobs


class Asked(NamedTuple):
    """What a job says of them."""

    gpus: int | str | list[int | str] | None
    """``run.gpus``; 0 for a job that trains on the CPU."""
    ranks: int | None
    shared: bool

    @classmethod
    def of(cls, config: JobSpec) -> Asked:
        """By its configuration."""
        gpus = 0 if config.hardware.device == "cpu" else config.run.gpus
        return cls(gpus, config.hardware.ranks, config.run.share_gpus)


@contextmanager
def taken(asked: Asked, job: str) -> Iterator[list[str]]:
    """Have the GPUs that an attempt at ``job`` trains on, as CUDA_VISIBLE_DEVICES names them; none where it trains on the CPU,
    or where there is none and none was asked for by number.

    Raises:
        EngineError: there are not as many; what there is.
        BusyError: others are at work on them.
    """
    locks: list[int] = []
    try:
        yield _take(asked, job, locks)
    finally:
        for lock in locks:
            os.close(lock)


def see_that_there_are(asked: Asked) -> None:
    """See that this machine has as many GPUs as are asked for, whoever is at work on them.

    Raises:
        EngineError: what there is.
    """
    _wanted(asked)


def make_folder(folder: Path) -> None:
    """Make it, open to all users of the machine as ``/tmp`` is, where there is none."""
    with suppress(OSError):
        folder.mkdir()
        folder.chmod(0o1777)  # whatever the umask is


def is_open_to_all(folder: Path) -> bool:
    """Whether it is a folder that is open to all as ``/tmp`` is, and no link that somebody has put in its place."""
    try:
        mode = folder.lstat().st_mode
    except OSError:
        return False
    return stat.S_ISDIR(mode) and mode & 0o1777 == 0o1777


def _wanted(job: Asked) -> tuple[int, dict[str, str]]:
    """How many are wanted, of which: each with what everybody calls it."""
    asked, ranks = job.gpus, job.ranks
    if asked == 0 or not gpu_names():
        return 0, {}
    there = gpus_to_use()
    keys = dict(zip(there, _keys(there)))
    if isinstance(asked, list) and "engine" not in (container() or {}):  # an engine has handed in those alone
        certain = [_certain(wanted, keys) for wanted in asked]
        if len(set(certain)) < len(certain):
            raise EngineError(f"run.gpus names a GPU twice: {', '.join(map(str, asked))} are {', '.join(certain)}")
        return len(certain), {name: keys[name] for name in certain}
    if asked is None:
        got = detect_environment()[0], (container() or {}).get("launcher")
        number = min(ranks or 1, len(there)) if set(got).isdisjoint(_HAS_ALL) else len(there)
    else:
        number = asked if isinstance(asked, int) else len(there)
    if number > len(there):
        raise EngineError(f"run.gpus asks for {number}; this machine has {_named(there)}")
    return number, keys


def _take(asked: Asked, job: str, locks: list[int]) -> list[str]:
    number, there = _wanted(asked)
    folder = HANDED if "engine" in (container() or {}) and HANDED.is_dir() else FOLDER
    if number and folder is FOLDER:
        make_folder(folder)
    chosen: list[str] = []
    busy: dict[str, tuple[str, str]] = {}
    for alone in (True, False) if asked.shared else (True,):  # who shares takes one that nobody has, if there is one
        for name, key in there.items():
            if len(chosen) == number or name in chosen:
                continue
            lock, holder = _lock(folder, key, job, alone=alone, shared=asked.shared)
            if holder is not None:
                busy[name] = holder
                continue
            chosen.append(name)
            locks.extend([] if lock is None else [lock])
    if len(chosen) < number:
        used = "; ".join(f"{name} is used by {holder}" for name, (holder, _) in busy.items())
        free = f"{len(chosen)} of {_named(list(there))}" if chosen else f"none of {_named(list(there))}"
        raise BusyError(
            f"{counted(number, 'GPU')} wanted, {free} is free: {used}; wait for that, or --set run.share_gpus=true for "
            "attempts that share one, or --set run.gpus=0 to train on the CPU",
            [job for _, job in busy.values()],
        )
    return chosen


def _certain(wanted: int | str, keys: dict[str, str]) -> str:
    """The GPU that is meant by its place among those there are, or by its UUID or the beginning of it."""
    names = list(keys)
    if isinstance(wanted, int):
        found = names[wanted : wanted + 1]
    else:
        found = [name for name, key in keys.items() if wanted in (name, key) or key.startswith(wanted)]
    if len(found) != 1:
        raise EngineError(f"run.gpus asks for {wanted}; this machine has {_named(names)}")
    return found[0]


def _named(names: list[str]) -> str:
    return f"{counted(len(names), 'GPU')} ({', '.join(names)})" if names else "none that may be used (CUDA_VISIBLE_DEVICES)"


def _keys(names: list[str]) -> list[str]:
    """What each is called by everybody: its UUID, where that can be found out."""
    uuids = gpus_listed(_listing())
    keys = []
    for name in names:
        whole = [uuids[int(name)]] if name.isdigit() and int(name) < len(uuids) else [uuid for uuid in uuids if name in uuid]
        keys.append(whole[0] if len(whole) == 1 else name)
    return keys


def _lock(folder: Path, key: str, job: str, *, alone: bool, shared: bool) -> tuple[int | None, tuple[str, str] | None]:
    """Its lock, to be had ``alone`` now, ``shared`` then; or who has it, in words, and for which job. Who may not open the
    file, another user's or a strange one, does without; so does who comes to take over from an attempt at the same job, which
    leaves once the job is taken."""
    name = f"{re.sub('[^A-Za-z0-9-]', '_', key)}.lock"
    lock = _open(folder, name)
    if lock is None:
        return None, None
    for patience in range(_TRIES, 0, -1):
        try:
            fcntl.flock(lock, (fcntl.LOCK_EX if alone else fcntl.LOCK_SH) | fcntl.LOCK_NB)
            if shared and alone:
                fcntl.flock(lock, fcntl.LOCK_SH)
            break
        except OSError:
            if patience == 1:
                holder, of_job = _holder(lock)
                os.close(lock)
                return None, None if job and of_job == job else (holder, of_job)
            time.sleep(0.1)
    with suppress(OSError):  # of another user's file it may read alone
        own = os.open(folder / name, os.O_WRONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            os.ftruncate(own, 0)
            said = {"job": job, "pid": os.getpid(), "process": process_identity(os.getpid()), "machine": identity()}
            os.write(own, json.dumps(said).encode())
        finally:
            os.close(own)
    return lock, None


def _open(folder: Path, name: str) -> int | None:
    # What lies in a folder of everybody's might be anything: no link is followed, no pipe waited for. Linux lets nobody create
    # what another user has there, but open it.
    path, flags = folder / name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    if folder.is_symlink():
        return None
    for more in (os.O_CREAT, 0):
        with suppress(OSError):
            lock = os.open(path, flags | more, 0o644)
            if stat.S_ISREG(os.fstat(lock).st_mode):
                with suppress(OSError):  # another user's; of our own the umask may have kept others out
                    os.fchmod(lock, 0o644)
                return lock
            os.close(lock)
    return None


def _holder(lock: int) -> tuple[str, str]:
    """Who has a lock, as far as its file tells, in words; and the job."""
    with suppress(ValueError, KeyError, TypeError, AttributeError, HiddenProcessError):
        said = json.loads(os.pread(lock, 4096, 0))
        if said["machine"] != identity():  # of a container, or of what this one is in: its processes are not seen from here
            return f"job {said['job']!s:.200}", str(said["job"])
        if process_identity(int(said["pid"])) == said["process"]:
            return f"job {said['job']!s:.200} (process {int(said['pid'])})", str(said["job"])
    return "another attempt on this machine", ""


def _listing() -> str:
    try:
        return subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=30, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return ""
