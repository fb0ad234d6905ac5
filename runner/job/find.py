"""Jobs and groups of a store, by what people call them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from functools import partial

from runner.errors import NoSuchJobError, UsageError
from runner.job.group import Group
from runner.job.job import Job
from runner.job.paths import GROUP_ID, INDEX, JOB_ID, group_of
from runner.store.open import default_store, open_store
from runner.store.protocol import Store
from runner.store.uri import StoreUri


def find_job(name: str, store_uri: str | None, whole: bool = False) -> Job:
    """The job that a person means: its ID, the unique beginning of one (unless it has to be ``whole``), or ``STORE/JOB-ID``.

    Raises:
        NoSuchJobError: none or several.
        UsageError: a group.
    """
    store, name = _where(name, store_uri)
    with suppress(NoSuchJobError):  # a whole ID needs no listing of a store that may hold thousands
        job = Job(store, name)
        job.record()
        return job
    found = _beginning_with(store, name, whole)
    if isinstance(found, Group):
        raise UsageError(f"{found.id} is a group; this takes one job of it, such as {found.paths.point(1)}")
    found.record()
    return found


def find(name: str, store_uri: str | None, whole: bool = False) -> Job | Group:
    """The same of a job or a group.

    Raises:
        NoSuchJobError: none or several.
        UsageError: one of each.
    """
    store, name = _where(name, store_uri)
    job = Job(store, name)
    group = Group(store, name) if GROUP_ID.fullmatch(name) else None
    is_job, is_group = store.in_parallel([partial(_is_there, job), partial(_is_there, group)])
    if is_job and is_group:
        raise UsageError(f"{name} is a job, and a group of jobs, {name}p0001 and so on: delete or finish those one by one")
    if is_job:
        return job
    if is_group and group is not None:
        return group
    found = _beginning_with(store, name, whole)
    found.record()
    return found


def find_group(name: str, store_uri: str | None) -> Group:
    """A group alone.

    Raises:
        NoSuchJobError: none or several.
        UsageError: a job.
    """
    found = find(name, store_uri)
    if isinstance(found, Job):
        raise UsageError(f"{found.id} is one job; this takes a group of them")
    return found


def _is_there(one: Job | Group | None) -> bool:
    if one is None:
        return False
    try:
        one.record()
    except NoSuchJobError:
        return False
    return True


def _where(name: str, store_uri: str | None) -> tuple[Store, str]:
    """The store in which something of a name is, and what it is called there."""
    if "/" in name:
        parent, name = StoreUri.typed(name).parent()
        store = open_store(parent)
    else:
        store = open_store(store_uri or default_store())
    if not name:
        raise UsageError("no job is named; lastrun list shows those there are")
    if not JOB_ID.fullmatch(name):
        raise UsageError(f"job {name!r}: an ID has lower-case letters, digits and dashes only")
    return store, name


def _beginning_with(store: Store, name: str, whole: bool) -> Job | Group:
    """The one job whose ID begins so, or the one group; the jobs of a group are meant by what is longer than its ID."""
    groups: set[str] = set()
    found: set[str] = set()
    for job in list_jobs(store):
        if job.id.startswith(name):
            group = group_of(job.id)
            of_group = group is not None and len(name) <= len(group)
            found.add(str(group) if of_group else job.id)
            groups |= {str(group)} if of_group else set()
    names = sorted(found)
    if whole and names:
        raise UsageError(f"{name}: this takes a whole ID, such as {names[0]}")
    if len(names) > 1:
        raise NoSuchJobError(f"{name} could be any of {', '.join(names[:5])}{' ...' if len(names) > 5 else ''}")
    if not names:
        raise NoSuchJobError(f"no job {name} in {store.uri}; lastrun list shows those there are")
    return Group(store, names[0]) if names[0] in groups else Job(store, names[0])


def list_jobs(store: Store) -> Iterator[Job]:
    """All jobs of a store, newest first, by its index; one that is being made or deleted may be among them."""
    ids = (entry.key.partition("-")[2] for entry in store.scan(INDEX))
    return (Job(store, job_id) for job_id in ids if JOB_ID.fullmatch(job_id))
