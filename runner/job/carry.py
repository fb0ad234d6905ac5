"""Jobs of a store that can only be read, such as a data set that is attached to a session, carried into one that can be
written, where they go on under their own IDs."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from last_e.manifest import DamagedCheckpoint
from runner.errors import ClaimedError, DamagedObjectError, MissingKeyError, State, UsageError
from runner.job.attempts import Attempt
from runner.job.checkpoints import Stored, counted
from runner.job.group import Group
from runner.job.job import Job
from runner.job.lease import refuse_beating
from runner.job.pull import Watched, unseen
from runner.store.open import default_store, open_store

T = TypeVar("T", Job, Group)
Say = Callable[[str], None]
_OF_AN_ATTEMPT = re.compile(
    r"[^/]+/attempts/[^/]+/((claim|heartbeat)\.json|metrics\.jsonl|predictions\.safetensors|report\.html"
    r"|log/[^/]+\.txt|(events|steps|told)/[^/]+)"
)
"""Keys that are carried as they are; an attempt's record comes after them."""
_AT_ONCE = 256


def home_of(source: T) -> T:
    """The same job or group in the user's default store, whether it is there yet or not.

    Raises:
        UsageError: that one cannot be written either.
    """
    store = open_store(default_store())
    home = type(source)(store, source.id)
    if store.is_read_only(home.paths.all):
        other = "" if store.uri == source.store.uri else f", and so can {store.uri}"
        raise UsageError(
            f"{source.store.uri} can only be read{other}: name a folder or a bucket that can be written with LASTRUN_STORE; "
            f"{source.id} is copied there and goes on"
        )
    return home


def newer(home: Job, source: Job) -> Job:
    """Which of both is to be gone on from. Neither, where each has gone on by itself.

    Raises:
        UsageError: neither.
        ClaimedError: the other one is, and somebody runs the one that would be written over.
    """
    try:
        record = home.store.get(home.paths.record)
    except MissingKeyError:  # not there, or only half
        return source
    if record != source.store.get(source.paths.record):
        raise UsageError(
            f"{home.store.uri} has another job with the ID {home.id}: name another store with LASTRUN_STORE, and the one of "
            f"{source.store.uri} is copied there"
        )
    own, other = _stand(home), _stand(source)
    if own.has_all_of(other):
        return home
    if other.has_all_of(own):
        state, attempt, _ = home.attempts.state(home.attempts.all())
        if state is State.RUNNING and attempt is not None:
            raise ClaimedError(
                f"{home.id} is being run by {attempt}, from an older state than {source.store.uri} has: "
                f"lastrun stop {home.uri} --wait has it save and end"
            )
        return source
    raise UsageError(
        f"{home.id} has gone on in two places, each by itself, and only one of them can be gone on with; nothing was changed.\n"
        f"  {home.store.uri}: {own}\n  {source.store.uri}: {other}\n"
        f"For the first: lastrun resume {home.uri}\n"
        "For the second: the same as now, with LASTRUN_STORE naming a store that does not have the job; or lastrun rm the first"
    )


@dataclass(frozen=True)
class _Stand:
    """How far a job is in one store."""

    attempts: list[str]
    step: int
    order: tuple[Any, ...]

    def has_all_of(self, other: _Stand) -> bool:
        return {*self.attempts} >= {*other.attempts} and self.order >= other.order

    def __str__(self) -> str:
        return f"{len(self.attempts)} attempts, the last of them {''.join(self.attempts[-1:]) or 'none'}; step {self.step}"


def _stand(job: Job) -> _Stand:
    attempts, checkpoints = job.store.in_parallel([job.attempts.all, job.checkpoints.all])
    last = checkpoints[-1].manifest if checkpoints else None
    names = [attempt.id for attempt in attempts if attempt.has_taken_the_job]
    return _Stand(names, last.step if last else 0, last.order if last else ())


def refuse_running(source: Job, attempts: list[Attempt]) -> None:
    """See that nobody runs the job whose store can only be read from here. How old a heartbeat is says nothing there: a copy
    has the times of its making.

    Raises:
        ClaimedError: somebody does.
    """
    for attempt in attempts:
        if attempt.is_here and source.attempts.alive(attempt):
            raise ClaimedError(f"{source.id} is being run by {attempt}; lastrun status -w {source.reference} follows it")
    refuse_beating(source, [attempt for attempt in attempts if attempt.open and not attempt.is_here])


def carry(source: Job, home: Job, say: Say, watch: Watched = unseen) -> Job:
    """Copy what going on needs: the record, attempts that have had the job with all that they have told, and the checkpoints
    that count, each compared with its checksums. Returns the job in its new store. ``watch`` shows how far a checkpoint is.

    The job's record comes last, and checkpoints before the attempts that tell of them: what is cut off in between is no job,
    or the older one that was there, and is copied again by the same command. Nothing that is there goes, so that two who copy
    do each other no harm. Attempts of which nobody knows the end have ended as far as the new store is concerned.

    Raises:
        UsageError: the job was deleted there, and an attempt that has not heard of it may come back.
        StoreError: one of the stores fails.
    """
    if home.is_deleted():
        raise UsageError(
            f"{home.id} was deleted in {home.store.uri}, and an attempt that sleeps somewhere may not know yet: name another "
            f"store with LASTRUN_STORE, and the one of {source.store.uri} is copied there"
        )
    record = source.store.get(source.paths.record)
    attempts, written = source.attempts.all(), source.checkpoints.written(say)
    say(f"copying {source.id} from {source.store.uri}, which can only be read, to {home.store.uri}")
    _copy_first_weights(source, home)
    for stored in counted(written, attempts):
        _copy_checkpoint(source, home, stored, say, watch)
    for attempt in filter(lambda attempt: attempt.has_taken_the_job, attempts):
        keys = (entry.key for entry in source.store.scan(source.paths.attempt(attempt.id, "")))
        _copy(source, home, filter(_OF_AN_ATTEMPT.fullmatch, keys), say)
        if attempt.open:
            home.attempts.write_lost(attempt, f"its end was not written in {source.store.uri}, from where the job was copied")
        else:
            with suppress(MissingKeyError):  # that it has ever run
                home.store.put(home.paths.attempt(attempt.id), source.store.get(source.paths.attempt(attempt.id)))
            home.attempts.write(attempt)
    with suppress(ValueError):  # an ID that was not made here
        home.store.put(home.paths.index, b"")
    home.store.put(home.paths.record, record)
    return Job(home.store, home.id)  # one that has read nothing yet


def to_carry(source: Group, home: Group) -> list[Job]:
    """Those jobs of a group that are to be gone on from where they are, and so copied; see :func:`newer`. What was deleted in
    either place stays deleted.

    Raises:
        UsageError: the new store has another group with that ID, or a job that has gone on by itself.
    """
    is_there = True
    try:
        same = home.store.get(home.paths.record) == source.store.get(source.paths.record)
    except MissingKeyError:  # not there, or only half
        is_there, same = False, True
    if not same:
        raise UsageError(
            f"{home.store.uri} has another group with the ID {home.id}: name another store with LASTRUN_STORE, and the one of "
            f"{source.store.uri} is copied there"
        )
    found = []
    for job in source.jobs():
        copy = Job(home.store, job.id)
        if job.is_there() and (not is_there or copy.is_there()) and newer(copy, job) is job:
            found.append(job)
    return found


def carry_group(source: Group, home: Group, jobs: Iterable[Job], say: Say, watch: Watched = unseen) -> None:
    """Copy these of its jobs, each as :func:`carry` does, and then what makes them a group: what is cut off in between is gone
    on with by the same command.

    Raises:
        StoreError: one of the stores fails.
    """
    for job in jobs:
        carry(job, Job(home.store, job.id), say, watch)
    if source.is_made():
        home.store.put(home.paths.made, source.store.get(source.paths.made))
    else:  # its record alone makes those jobs that it has not; their first weights have to be there
        for job in source.jobs():
            if not job.is_there():
                _copy_first_weights(job, Job(home.store, job.id))
    home.store.put(home.paths.record, source.store.get(source.paths.record))


def _copy_first_weights(source: Job, home: Job) -> None:
    with suppress(MissingKeyError):  # most jobs begin with random weights
        home.store.put(home.paths.init, source.store.get(source.paths.init))


def _copy(source: Job, home: Job, keys: Iterator[str], say: Say) -> None:
    def one(key: str) -> None:
        try:
            home.store.put(key, source.store.get(key))
        except (MissingKeyError, DamagedObjectError) as error:
            say(f"leaving out {key}: {error}")

    while some := list(islice(keys, _AT_ONCE)):
        home.store.in_parallel([partial(one, key) for key in some])


def _copy_checkpoint(source: Job, home: Job, stored: Stored, say: Say, watch: Watched) -> None:
    """Its manifest last, as whoever writes one does."""
    with tempfile.TemporaryDirectory(prefix="lastrun-copy-") as folder:
        try:
            with watch(Path(folder), stored.name, sum(file.size for file in stored.manifest.files.values())):
                source.checkpoints.download(stored, Path(folder))
        except (DamagedCheckpoint, MissingKeyError, DamagedObjectError) as error:
            say(f"leaving out checkpoint {stored.name}: {error}")
            return
        for file in stored.manifest.files:
            home.store.put_file(home.paths.checkpoint(stored.name, file), Path(folder, file))
        home.store.put(home.paths.checkpoint(stored.name), stored.manifest.to_json().encode())
