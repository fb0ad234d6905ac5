"""Jobs and groups of a store, by what people call them."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from runner.errors import LastrunError, NoSuchJobError, UsageError
from runner.job.group import Group
from runner.job.job import Job, list_of
from runner.job.paths import GROUP_ID, INDEX, JOB_ID, JOB_RECORD, group_of
from runner.store.directory import DirectoryStore
from runner.store.open import existing_store, open_store
from runner.store.protocol import Store
from runner.store.uri import StoreUri

_LEVELS = 4
"""So deep below a folder that somebody names a store is found: on Kaggle /kaggle/input/notebooks/USER/NAME/lastrun."""
_MOST_TOLD = 5
_MOST_FOLDERS = 2000
"""So many are looked at for that."""


def find_job(name: str, store_uri: str | None, whole: bool = False) -> Job:
    """The job that a person means: its ID, the unique beginning of one (unless it has to be ``whole``), or ``STORE/JOB-ID``.
    Of a folder that holds no jobs itself, those of stores below it.

    Raises:
        NoSuchJobError: none or several.
        UsageError: a group.
    """
    found = find(name, store_uri, whole)
    if isinstance(found, Group):
        raise UsageError(f"{found.id} is a group; this takes one job of it, such as {found.paths.point(1)}")
    return found


def find_group(name: str, store_uri: str | None) -> Group:
    """A group alone.

    Raises:
        NoSuchJobError: none or several.
        UsageError: a job.
    """
    found = find(name, store_uri)
    if isinstance(found, Job):
        raise UsageError(f"{found.id} is one job; this takes a group (lastrun list --columns id,group)")
    return found


def find(name: str, store_uri: str | None, whole: bool = False) -> Job | Group:
    """The job or the group that a person means, as of :func:`find_job`.

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
        raise UsageError(f"job {name!r}: an ID has lower-case letters, digits and dashes only; lastrun list shows them")
    below = _stores_below(store)
    stores: list[Store] = [*below] or [store]
    found = [one for each in stores for one in _called(name, each, whole)]
    if len(found) > 1:
        copies = [one for one in found if isinstance(one, Job)]
        if len(copies) == len(found) and len({one.id for one in copies}) == 1:
            raise NoSuchJobError(_in_several_stores(copies))
        same_store = len({one.store.uri for one in found}) == 1
        names = [one.id if same_store else one.uri for one in found]
        order, others = ", the newest first" if same_store else "", ", ..." if len(names) > 5 else ""
        raise NoSuchJobError(f"{name} could be any of these{order}: {', '.join(names[:5])}{others}; write more of it")
    one = found[0] if found else Job(below[0] if len(below) == 1 else store, name)
    one.record()
    return one


def _in_several_stores(copies: list[Job]) -> str:
    """What to say of one job that several stores have: how far each is, and how to name one."""
    found = [(one.uri, _newest(one)) for one in copies]
    most = max((order for _, (order, _) in found), default=())
    furthest = [uri for uri, (order, _) in found if order == most]
    lines = [f"  {uri}: {words}{', the furthest' if furthest == [uri] else ''}" for uri, (_, words) in found[:_MOST_TOLD]]
    more = [f"  and {len(found) - _MOST_TOLD} more"] if len(found) > _MOST_TOLD else []
    head = f"{copies[0].id} is in {len(copies)} stores; name one by its whole address, without --store, such as {furthest[0]}:"
    return "\n".join([head, *lines, *more])


def _newest(job: Job) -> tuple[tuple[Any, ...], str]:
    """The order of a job's newest checkpoint, and its words for people."""
    try:
        checkpoints = job.checkpoints.all()
    except LastrunError as error:
        return (), f"cannot be read ({error})"
    if not checkpoints:
        return (), "no checkpoint"
    newest = checkpoints[-1]
    return newest.order, f"step {newest.manifest.step}, epoch {newest.manifest.epoch}"


def _called(name: str, store: Store, whole: bool) -> list[Job] | list[Group] | list[Job | Group]:
    """Jobs and groups of one store that the name may mean. The jobs of a group are meant by what is longer than its ID."""
    job, group = Job(store, name), Group(store, name)
    looks = [partial(_is_there, job), *([partial(_is_there, group)] if GROUP_ID.fullmatch(name) else [])]
    is_job, is_group = [*store.in_parallel(looks), False][:2]  # a whole ID needs no listing of a store that may hold thousands
    if is_job or is_group:
        return [job] if is_job else [group]
    names: dict[str, Job | Group] = {}
    for one in list_jobs(store):
        if one.id.startswith(name):
            of = group_of(one.id)
            meant = Group(store, of) if of is not None and len(name) < len(of) else one
            names.setdefault(meant.id, meant)
    if whole and names:
        raise UsageError(f"{name}: this takes a whole ID, such as {next(iter(names))}")
    return list(names.values())


def _is_there(one: Job | Group) -> bool:
    try:
        one.record()
    except NoSuchJobError:
        return False
    return True


def store_with_jobs(uri: str | None) -> Store:
    """The store of a name, else the default one; of a folder that holds no jobs itself, the store below it.

    Raises:
        UsageError: there are several below it.
    """
    store = existing_store(uri)
    below = _stores_below(store)
    if len(below) > 1:
        names = " and ".join(each.uri for each in below[:5])
        commands = " or ".join(list_of(each) for each in below[:5])
        raise UsageError(f"{store.uri} holds no jobs itself, but {names} do: {commands}")
    return below[0] if below else store


def list_jobs(store: Store) -> Iterator[Job]:
    """All jobs of a store, newest first, by its index; one that is being made or deleted may be among them. Where there is no
    index, for not every copy takes hidden folders and empty files along, by its folders."""
    ids = filter(JOB_ID.fullmatch, (entry.key.partition("-")[2] for entry in store.scan(INDEX)))
    indexed = False
    for job_id in ids:
        indexed = True
        yield Job(store, job_id)
    if not indexed:
        names = filter(JOB_ID.fullmatch, store.folders(""))
        yield from (Job(store, name) for name in sorted(names, key=lambda name: name.split("-")[-3:], reverse=True))


def _stores_below(store: Store) -> list[DirectoryStore]:
    """Stores somewhere below a folder that is none."""
    if not isinstance(store, DirectoryStore) or _holds_jobs(store.root):
        return []
    found, left, looked = [], deque([(store.root, 0)]), 0
    while left and looked < _MOST_FOLDERS:
        folder, depth = left.popleft()
        for inner in _folders(folder)[: _MOST_FOLDERS - looked]:
            looked += 1
            if _holds_jobs(inner):
                found.append(DirectoryStore(inner))
            elif depth + 1 < _LEVELS:
                left.append((inner, depth + 1))
    return found


def _holds_jobs(folder: Path) -> bool:
    likely = (one for one in _folders(folder)[:_MOST_FOLDERS] if JOB_ID.fullmatch(one.name))
    with suppress(PermissionError):  # lost+found, of which nothing is ours
        return (folder / INDEX).is_dir() or any((one / JOB_RECORD).is_file() for one in likely)
    return False


def _folders(folder: Path) -> list[Path]:
    """Those in a folder, without hidden ones and links."""
    with suppress(OSError), os.scandir(folder) as entries:
        return sorted(Path(one.path) for one in entries if one.name[0] != "." and one.is_dir(follow_symlinks=False))
    return []
