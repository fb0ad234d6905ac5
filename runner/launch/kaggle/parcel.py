"""A job as one file: what goes with an attempt into a session of Kaggle where its store is a folder here, and what comes back.

Objects one after the other, as :mod:`runner.launch.ssh.relayed` sends them. What comes back is whole or not at all: its size
and sha256 stand in a second file, which is written when all of it is there.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from typing import IO, Any

from last_e.manifest import MANIFEST
from runner.errors import DamagedObjectError, MissingKeyError, UsageError
from runner.job.job import Job
from runner.job.paths import ATTEMPT_ID
from runner.launch.ssh.relay import OF_AN_ATTEMPT, RECORDS, prune
from runner.launch.ssh.relayed import read_object, write_object

_KNOWN = re.compile(r"[^/]+/(job\.json|init\.safetensors|attempts/[^/]+/[^/]+|checkpoints/[^/]+/[^/]+)")
"""Keys of what goes there."""
NEWER = "look again with a lastrun that is as new as the session's"


def names(token: str) -> tuple[str, str]:
    """The files that an attempt leaves: what it had, and what tells that this is whole."""
    return f"lastrun-{token}.parcel", f"lastrun-{token}.json"


def pack(job: Job) -> bytes:
    """What an attempt needs of a job: its records, and the checkpoints that count.

    Raises:
        StoreError: it cannot be read.
    """
    store, paths, whole = job.store, job.paths, BytesIO()
    keys = [entry.key for entry in store.scan(paths.attempts) if RECORDS.fullmatch(entry.key)]
    for stored in job.checkpoints.all():
        keys += [paths.checkpoint(stored.name, file) for file in [*stored.manifest.files, MANIFEST]]
    for key in [*keys, paths.init, paths.record]:
        with suppress(MissingKeyError):  # deleted meanwhile
            write_object(whole, key, store.get(key))
    return whole.getvalue()


# --- there ---------------------------------------------------------------------------------------------------------------


def unpack(path: Path, sha256: str, job: Job) -> None:
    """The job, where its attempt is to run.

    Raises:
        UsageError: it is not what was sent.
    """
    with path.open("rb") as file:
        if _digest(file) != sha256:
            raise UsageError(f"{path.name} is not what was put into its data set")
        file.seek(0)
        while (found := read_object(file)) is not None:
            key, data = found
            if not key.startswith(job.paths.all) or not _KNOWN.fullmatch(key):
                raise UsageError(f"{key} is nothing of {job.id}")
            job.store.put(key, data)


def leave(job: Job, token: str, code: int, folder: Path) -> None:
    """What an attempt has written of a job, as output of the session; the folder with the job goes.

    Raises:
        StoreError: it cannot be read.
    """
    attempt = Job(job.store, job.id).attempts.of(token)
    if attempt is not None and attempt.open:
        job.attempts.write_lost(
            attempt, f"its process in the session {'was killed' if code == -9 else f'ended with code {code}'}"
        )
    own = None if attempt is None else attempt.id
    parcel, record = names(token)
    with (folder / parcel).open("wb") as file:
        for entry in list(job.store.scan(job.paths.all)):
            if own is not None and _is_of(job, own, entry.key):
                with suppress(MissingKeyError):
                    write_object(file, entry.key, job.store.get(entry.key))
    with (folder / parcel).open("rb") as file:
        about = {"id": own, "code": code, "sha256": _digest(file), "size": file.tell()}
    there = [stored.name for stored in job.checkpoints.all()]
    (folder / record).write_text(json.dumps({**about, "checkpoints": there}))
    shutil.rmtree(folder / "lastrun", ignore_errors=True)


# --- here ----------------------------------------------------------------------------------------------------------------


def join(job: Job, token: str, about: dict[str, Any], file: IO[bytes]) -> int:
    """Put what came back into the store, in the order that keeps its rules; returns how many objects that were.

    Raises:
        DamagedObjectError: it is not whole, or not of that attempt; nothing was written.
        StoreError: the store cannot be written; the same call goes on.
    """
    own, size = about.get("id"), about.get("size")
    file.seek(0)
    if _digest(file) != about.get("sha256") or file.tell() != size:
        raise DamagedObjectError("what the session has left did not come whole")
    if own is None:  # it has ended before it had the job
        return 0
    if not isinstance(own, str) or not ATTEMPT_ID.fullmatch(own) or not own.endswith(f"-{token}"):
        raise DamagedObjectError(f"the session has left what is of another attempt ({str(own)[:40]}); nothing was taken of it")
    objects: dict[str, bytes] = {}
    file.seek(0)
    try:
        while (found := read_object(file)) is not None:
            objects[found[0]] = found[1]
    except (UsageError, ValueError, TypeError):
        raise DamagedObjectError(f"the session has left what this version does not understand: {NEWER}") from None
    from runner.attempt.outbox import manifests_last

    attempts = job.attempts.all()
    mine = next((attempt for attempt in attempts if attempt.id == own), None)
    follows = mine is None or not mine.superseded_by(attempts)  # else its checkpoints are nobody's
    came = 0
    for key in sorted(objects, key=manifests_last):
        if _is_of(job, own, key) and (follows or not key.startswith(job.paths.checkpoints)):
            job.store.put(key, objects[key])
            came += 1
    if follows:
        prune(Job(job.store, job.id), own, {str(name) for name in about.get("checkpoints", [])})
    return came


def _is_of(job: Job, attempt_id: str, key: str) -> bool:
    """Whether an object is written by that attempt, and by nobody else."""
    start = job.paths.attempt(attempt_id, "")
    if key.startswith(start):
        return OF_AN_ATTEMPT.fullmatch(key.removeprefix(start)) is not None
    return re.fullmatch(rf"{re.escape(job.paths.checkpoints)}([0-9]+e?-{attempt_id})/[^/]+", key) is not None


def _digest(file: IO[bytes]) -> str:
    whole = hashlib.sha256()
    while piece := file.read(1 << 20):
        whole.update(piece)
    return whole.hexdigest()
