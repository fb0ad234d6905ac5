"""Jobs of a store, by what people call them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress

from runner.errors import NoSuchJobError, UsageError
from runner.job.job import Job
from runner.job.paths import INDEX, JOB_ID
from runner.store.open import existing_store, open_store
from runner.store.protocol import Store
from runner.store.uri import StoreUri


def find_job(name: str, store_uri: str | None, whole: bool = False) -> Job:
    """The job that a person means: its ID, the unique beginning of one (unless it has to be ``whole``), or ``STORE/JOB-ID``.

    Raises:
        NoSuchJobError: none or several.
    """
    if "/" in name:
        parent, name = StoreUri.typed(name).parent()
        store = open_store(parent)
    else:
        store = existing_store(store_uri)
    if not name:
        raise UsageError("no job is named; lastrun list shows those there are")
    if not JOB_ID.fullmatch(name):
        raise UsageError(f"job {name!r}: an ID has lower-case letters, digits and dashes only")
    with suppress(NoSuchJobError):  # a whole ID needs no listing of a store that may hold thousands
        job = Job(store, name)
        job.record()
        return job
    names = list(dict.fromkeys(job.id for job in list_jobs(store) if job.id.startswith(name)))
    if whole and names:
        raise UsageError(f"{name}: this takes a whole ID, such as {names[0]}")
    if len(names) > 1:
        others = ", ..." if len(names) > 5 else ""
        raise NoSuchJobError(f"{name} could be any of these, the newest first: {', '.join(names[:5])}{others}")
    job = Job(store, names[0] if names else name)
    job.record()
    return job


def list_jobs(store: Store) -> Iterator[Job]:
    """All jobs of a store, newest first, by its index; one that is being made or deleted may be among them."""
    ids = (entry.key.partition("-")[2] for entry in store.scan(INDEX))
    return (Job(store, job_id) for job_id in ids if JOB_ID.fullmatch(job_id))
