"""The other side of a relay (:mod:`runner.launch.ssh.relay`): the copy of one job in which its attempt is kept here until it is
fetched. ``RELAY/<32 hexadecimal digits>/`` is a store of that one job.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import sys
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from runner.errors import MissingKeyError, UsageError
from runner.job.attempts import Attempt
from runner.job.job import Job
from runner.job.paths import JOB_ID
from runner.launch.ssh import runs
from runner.launch.ssh.install import own_folder
from runner.store.directory import DirectoryStore

MOST_BYTES = 1 << 32
"""Of an object: what is larger is none of ours."""
_CHANGES = re.compile(r"[^/]+/((attempts|requests)/.*)?[^/]+\.jsonl?")
"""Keys whose objects are written anew with other contents; others only grow, or stay as they are."""


def root() -> Path:
    """Where all of them lie."""
    return own_folder() / "relay"


def tell(name: str, job_id: str, token: str, logs: str) -> None:
    """What the copy holds: where it lies, whether the attempt of a token is at work, and key and size of every object, with its
    sha256 where that tells more; of the pieces of its log, which may be thousands, none up to that number. Of an attempt that
    was killed the end is written first, and what it could not send itself is sent."""
    job = _job(name, job_id)
    about: dict[str, Any] = {"alive": False, "known": False, "id": None}
    if token:
        about |= runs.about(token)  # first: what has ended by then has written all that it ever will
        about["alive"] = about["alive"] and about["code"] is None
        attempt = job.attempts.of(token)
        if attempt is not None and not about["alive"]:
            about["known"] = True  # it has claimed the job here, also if what was kept of its run is gone
            _settle(job, attempt, about["code"])
        if attempt is not None:
            about["id"] = attempt.id
    known = [job.paths.log(about["id"], number) for number in (0, int(logs))] if about["id"] else ["", ""]
    entries = [entry for entry in job.store.scan(job.paths.all) if not known[0] < entry.key <= known[1]]
    objects = [[entry.key, entry.size, _digest(job, entry.key)] for entry in entries]
    sys.stdout.write(json.dumps({**about, "root": str(_copy(name)), "objects": objects}))


def give(name: str, job_id: str) -> None:
    """Print objects in the order in which standard input names them, each after a line with its key and size; what is gone is
    left out."""
    job = _job(name, job_id)
    for key in json.loads(sys.stdin.readline())["keys"]:
        with suppress(MissingKeyError):
            write_object(sys.stdout.buffer, key, job.store.get(key, MOST_BYTES))


def take(name: str, job_id: str) -> None:
    """Keep the objects that come over standard input; one that is cut off is not there.

    Raises:
        UsageError: the connection broke on the way.
    """
    job = _job(name, job_id)
    while (found := read_object(sys.stdin.buffer)) is not None:
        key, data = found
        if not key.startswith(job.paths.all):
            raise UsageError(f"{key} is nothing of {job_id}")
        job.store.put(key, data)


def drop(name: str) -> None:
    """Remove a copy: all of it has been fetched."""
    shutil.rmtree(_copy(name), ignore_errors=True)


def unfetched() -> list[str]:
    """Jobs of which a copy is here."""
    return sorted(path.parent.name for path in root().glob("*/*/job.json"))


def write_object(out: IO[bytes], key: str, data: bytes) -> None:
    """An object as both sides send it."""
    out.write(json.dumps([key, len(data)]).encode() + b"\n" + data)
    out.flush()


def read_object(pipe: IO[bytes]) -> tuple[str, bytes] | None:
    """The next one; None at the end.

    Raises:
        UsageError: the connection broke in the middle of it, or it is none of ours.
    """
    line = pipe.readline()
    if not line:
        return None
    data = b""
    if line.endswith(b"\n"):
        key, size = json.loads(line)
        if not 0 <= int(size) <= MOST_BYTES:
            raise UsageError(f"{key} has {size} bytes: that is nothing of a job")
        data = pipe.read(size)
        if len(data) == size:
            return str(key), data
    raise UsageError("the connection broke on the way")


def _settle(job: Job, attempt: Attempt, code: int | None) -> None:
    from runner.attempt.leftovers import sync_job

    if attempt.open:
        where = (attempt.container or {}).get("name", "its host")
        job.attempts.write_lost(attempt, f"its process on {where} {runs.how_it_ended(code)}")
    scratch = (attempt.container or {}).get("scratch")
    sync_job(job, None, [Path(scratch)] if scratch else [])


def _digest(job: Job, key: str) -> str | None:
    if not _CHANGES.fullmatch(key):
        return None
    with suppress(MissingKeyError):
        return digest(job.store.get(key))
    return None


def digest(data: bytes) -> str:
    """What tells two contents of one key apart."""
    return hashlib.sha256(data).hexdigest()


def _job(name: str, job_id: str) -> Job:
    if not JOB_ID.fullmatch(job_id):
        raise UsageError("no such job can be kept here")
    return Job(DirectoryStore(_copy(name)), job_id)


def _copy(name: str) -> Path:
    if not re.fullmatch("[0-9a-f]{32}", name):
        raise UsageError("no such copy can be kept here")
    return root() / name
