"""What attempts that were killed, or had no time, left on this machine: found, sent, deleted."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

from last_e.manifest import MANIFEST
from runner.attempt.outbox import manifests_last, waiting
from runner.attempt.scratch import OUTBOX, remove_scratch, scratch_of
from runner.errors import MissingKeyError, StoreError, UsageError
from runner.job.attempts import OPEN_PHASES
from runner.job.job import Job
from runner.job.paths import ATTEMPT_RECORD, WRITTEN_BY_ATTEMPTS
from runner.store.protocol import Store

Watch = Callable[[int, int], None]


def leftovers(job: Job, folder: Path) -> list[Path]:
    """Scratch folders that this job's attempts left in ``folder`` when they were killed there."""
    there = scratch_of(job, folder)
    if not there:
        return []
    # One in a container that has not been seen to end may only be asleep, or cut off.
    alive = {a.id for a in job.attempts.all() if job.attempts.alive(a) or (a.open and a.container is not None)}
    return sorted(path for path, attempt_id in there.items() if attempt_id not in alive)


def send_leftovers(store: Store, folder: Path, watch: Watch = lambda *_: None) -> int:
    """Send what waits in an outbox's folder and delete it there; returns how many objects went.

    A checkpoint whose manifest is not there was never finished: it is left out. So is an attempt's record from when it ran, if
    the store knows how it ended: somebody has found it dead meanwhile.

    Raises:
        StoreError: the store does not take it; nothing that it has not taken is deleted.
    """
    keys = sorted((key for key in waiting(folder) if WRITTEN_BY_ATTEMPTS.match(key)), key=manifests_last)
    whole = {key.rpartition("/")[0] for key in keys if key.endswith(f"/{MANIFEST}")}
    sent = 0
    for number, key in enumerate(keys):
        watch(number, len(keys))
        if "/checkpoints/" in key and key.rpartition("/")[0] not in whole:
            continue
        with suppress(FileNotFoundError):  # another process sends them, too, and the store has this one already
            if key.endswith(f"/{ATTEMPT_RECORD}") and _runs((folder / key).read_bytes()) and _settled(store, key):
                (folder / key).unlink()
                continue
            store.put_file(key, folder / key)
            sent += 1
            (folder / key).unlink()
    return sent


def _settled(store: Store, key: str) -> bool:
    try:
        return not _runs(store.get(key))
    except MissingKeyError:
        return False


def _runs(record: bytes) -> bool:
    """Whether an attempt's record tells of no end; of one that is damaged nobody knows."""
    try:
        return bool(json.loads(record)["phase"] in OPEN_PHASES)
    except (ValueError, KeyError, TypeError, RecursionError):
        return True


def clear_leftovers(job: Job, folder: Path, say: Callable[[str], None]) -> None:
    """Send what attempts that were killed here could not send any more, and delete their files. What the store will not take,
    however long one waits, stays where it is, with a word: it is no reason not to train."""
    for leftover in leftovers(job, folder):
        say(f"sending what an earlier attempt left in {leftover}")
        try:
            send_leftovers(job.store, leftover / OUTBOX)
        except StoreError as error:
            if not error.lasting:
                raise
            say(f"it cannot be sent ({error}); it stays there, and lastrun sync {job.reference} sends it")
            continue
        remove_scratch(leftover)


def sync_job(job: Job, outbox: Path | None, places: Iterable[Path], watch: Watch = lambda *_: None) -> int:
    """Send what the job's ended attempts left on this machine; returns how many objects went.

    Args:
        job: the job.
        outbox: where they are; None: in scratch folders below ``places``.
        places: folders in which attempts of this machine keep their scratch folders.
        watch: told how many objects of a folder are done, and of how many.
    """
    if outbox is not None:
        if not outbox.is_dir():
            raise UsageError(f"{outbox}: no such folder; --from takes the one that an attempt named in its last line")
        foreign = [path for path in outbox.rglob("*") if not _belongs(path, outbox, job.id)]
        if foreign:
            raise UsageError(f"{outbox} is no outbox of {job.id}: it holds {foreign[0].relative_to(outbox)}; nothing was sent")
        return send_leftovers(job.store, outbox, watch)
    sent = 0
    for folder in [leftover for place in places for leftover in leftovers(job, place)]:
        sent += send_leftovers(job.store, folder / OUTBOX, watch)
        remove_scratch(folder)
    return sent


def _belongs(path: Path, outbox: Path, job_id: str) -> bool:
    """Whether an outbox of the job may hold this: nothing else may be sent, since what was sent is deleted."""
    key = path.relative_to(outbox).as_posix()
    ours = key.partition("/")[0] == job_id and not path.is_symlink()
    return ours and (path.is_dir() or WRITTEN_BY_ATTEMPTS.match(key) is not None)
