"""Files and folders of what the store keeps of a job, brought out of it: whole or not at all, by names of the job's own."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from last_e.manifest import File, describe_file
from last_e.whole import whole_file
from runner.errors import LinkError, MissingKeyError, StoreError, UsageError, unwritable
from runner.job.job import Job
from runner.job.paths import attempt_order
from runner.job.pull import Watched, chosen, new_folder, unseen
from runner.job.steps import Steps
from runner.store.protocol import Entry

NEWEST, BEST = "newest", "best"
"""Of ``checkpoints/``: names that mean one of those that are there."""
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@+=,-]{0,254}")
"""What a part of a path may be called. A bucket may hold anything: nothing else leaves it, for a name is a place on a disk."""
_MOST_TOLD = 20


@dataclass(frozen=True)
class Copied:
    """What has been brought where."""

    place: Path
    files: list[str]
    """By their paths in the job."""
    size: int
    links: tuple[str, ...] = ()
    """Symbolic links, which are not followed, and left out of a folder."""


def _metrics(job: Job, path: Path) -> None:
    _write(job.metrics(), path)


def _steps(job: Job, path: Path) -> None:
    _write(Steps(job).read(), path)


def _write(lines: list[dict[str, Any]], path: Path) -> None:
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines))


def _log(job: Job, path: Path) -> None:
    with path.open("w", encoding="utf-8") as file:  # as the log is, whatever the locale
        file.writelines(job.log())


def _report(job: Job, path: Path) -> None:
    for name in sorted(job.attempts.names(), key=attempt_order, reverse=True):
        with suppress(MissingKeyError):
            return job.store.get_file(job.paths.report(name), path)
    raise UsageError(f"no attempt of {job.id} has kept a report yet; lastrun report {job.reference} makes one of what there is")


MADE: dict[str, tuple[Callable[[Job, Path], None], str]] = {
    "metrics.jsonl": (_metrics, "a line for each epoch, over all attempts"),
    "steps.jsonl": (_steps, "a line for each tenth step, or as checkpoint.log_every_steps says, over all attempts"),
    "log.txt": (_log, "the log of all attempts"),
    "report.html": (_report, "the report that the last attempt to keep one has kept"),
}
"""Files that a job has as a whole, though each attempt keeps its own: what writes them, and what is in them."""


def copy_out(job: Job, path: str, target: Path, *, overwrite: bool = False, watch: Watched = unseen) -> Copied:
    """Bring a file, or a folder with all that is in it, out of a job: into ``target`` where that is a folder, else under that
    name. A folder has to be a new one; a file replaces another one if it may (``overwrite``). ``watch``: as of
    :func:`~runner.job.pull.pull_checkpoint`.

    Raises:
        UsageError: there is no such thing, or something is in its place.
        StoreError: it is damaged, or gone meanwhile.
    """
    asked = _parts(path)
    place = target / (asked[-1] if asked else job.id) if target.is_dir() else target
    try:
        if "/".join(asked) in MADE:
            write, _ = MADE[asked[0]]
            with _one_file(place, overwrite) as part:
                write(job, part)
            return Copied(place, asked, place.stat().st_size)
        return _stored(job, asked, place, overwrite, watch)
    except OSError as error:
        raise unwritable(place, error) from None
    except MissingKeyError as error:
        raise StoreError(f"{error}; whoever trains has deleted it meanwhile: try again") from None


def contents(job: Job) -> list[Entry]:
    """All that can be brought out as it is stored, by its path in the job. Of checkpoints the whole ones that count."""
    return _below(job, [], set(_checkpoints(job)))


def _stored(job: Job, asked: list[str], place: Path, overwrite: bool, watch: Watched) -> Copied:
    manifests = _checkpoints(job) if asked[:1] in ([], ["checkpoints"]) else {}
    real = asked
    if asked[:1] == ["checkpoints"] and asked[1:2] in ([NEWEST], [BEST]):
        real = ["checkpoints", chosen(job, asked[1] == BEST, None).name, *asked[2:]]
    name = "/".join(real)
    found = _below(job, real, set(manifests))
    if not found:
        raise UsageError(_what_there_is(job, asked, real))
    _see_that_they_are_whole(job, real, {entry.key for entry in found}, manifests)
    size = sum(entry.size for entry in found)
    if [entry.key for entry in found] == [name]:
        with _one_file(place, overwrite) as part, watch(part, name, size):
            _fetch(job, name, part, manifests)
    else:
        links: list[str] = []
        with new_folder(place) as part, watch(part, name or job.id, size):
            for entry in found:
                inside = part / entry.key.removeprefix(f"{name}/" if name else "")
                inside.parent.mkdir(parents=True, exist_ok=True)
                try:
                    _fetch(job, entry.key, inside, manifests)
                except LinkError:
                    links.append(entry.key)
                    if inside.parent != part:
                        with suppress(OSError):  # what else is in its folder keeps that
                            inside.parent.rmdir()
                    if len(links) == len(found) or _expected(entry.key, manifests) is not None:
                        raise
        found = [entry for entry in found if entry.key not in links]
        return Copied(place, [entry.key for entry in found], sum(entry.size for entry in found), tuple(links))
    return Copied(place, [entry.key for entry in found], size)


def _see_that_they_are_whole(job: Job, real: list[str], found: set[str], manifests: dict[str, dict[str, File]]) -> None:
    """Of checkpoints that are copied as a whole, all that their manifests name has to be there."""
    for name, files in manifests.items():
        lacks = sorted(file for file in files if f"checkpoints/{name}/{file}" not in found)
        if lacks and real[1:] in ([], [name]):
            what = f"checkpoint {name} is damaged: it lacks {', '.join(lacks)}"
            raise StoreError(f"{job.uri}: {what}; copy another one, or what it has by checkpoints/{name}/FILE")


def _fetch(job: Job, path: str, into: Path, manifests: dict[str, dict[str, File]]) -> None:
    """One file; of a checkpoint's it is seen that it is what its manifest says."""
    job.store.get_file(job.paths.all + path, into)
    expected = _expected(path, manifests)
    if expected is not None and describe_file(into) != expected:
        others = sorted((name for name in manifests if f"/{name}/" not in path), reverse=True)
        instead = f"checkpoints/{others[0]} is another one" if others else f"{job.id} has no other"
        raise StoreError(f"{job.uri}: {path} is damaged: it is not what its checkpoint's manifest says; {instead}")


def _expected(path: str, manifests: dict[str, dict[str, File]]) -> File | None:
    """What a checkpoint's manifest says of its file."""
    _, _, rest = path.partition("/")
    name, _, file = rest.partition("/")
    return manifests.get(name, {}).get(file) if path.startswith("checkpoints/") else None


def _one_file(place: Path, overwrite: bool) -> AbstractContextManager[Path]:
    """A file to be written in its place, whole or not at all."""
    if place.is_dir():
        raise UsageError(f"{place} is a folder: name a file, or the folder that it is to lie in")
    if place.exists() and not overwrite:
        raise UsageError(f"{place} is there already: name another file, or say --overwrite")
    if not place.parent.is_dir():
        raise UsageError(f"{place.parent}: there is no such folder; name one that is there")
    return whole_file(place)


def _parts(path: str) -> list[str]:
    parts = [part for part in path.split("/") if part not in ("", ".")]
    if any(not _NAME.fullmatch(part) for part in parts):
        raise UsageError(f"{path!r} is no path of a job; allowed: those below the job that lastrun cp JOB shows")
    return parts


def _checkpoints(job: Job) -> dict[str, dict[str, File]]:
    return {stored.name: dict(stored.manifest.files) for stored in job.checkpoints.all()}


def _below(job: Job, parts: list[str], whole: set[str]) -> list[Entry]:
    """What is stored under a path, or below it; names that nothing of ours has are passed over."""
    path = "/".join(parts)
    found = []
    for entry in job.store.scan(job.paths.all + path):
        key = entry.key.removeprefix(job.paths.all)
        names = key.split("/")
        is_below = not parts or key == path or key.startswith(f"{path}/")
        is_whole = names[0] != "checkpoints" or (names[1:2] != [] and names[1] in whole)
        if is_below and is_whole and all(map(_NAME.fullmatch, names)):
            found.append(Entry(key, entry.size))
    return found


def _what_there_is(job: Job, asked: list[str], real: list[str]) -> str:
    """Of a path that is not there: what is, in the innermost folder of it that is there."""
    there: set[str] = set()
    depth, whole = len(real), set(_checkpoints(job))
    while not there and depth:
        depth -= 1
        keys = [entry.key.split("/") for entry in _below(job, real[:depth], whole)]
        there = {names[depth] + ("/" if len(names) > depth + 1 else "") for names in keys if len(names) > depth}
    if not depth:
        there |= set(MADE)
    if real[:depth] == ["checkpoints"]:
        there |= {f"{BEST}/", f"{NEWEST}/"}
    names = sorted(there)
    some = ", ".join(names[:_MOST_TOLD]) + (f" and {len(names) - _MOST_TOLD} more" if len(names) > _MOST_TOLD else "")
    inside = f"{'/'.join(asked[:depth])}/ of {job.id}" if depth else job.id
    return f"there is no {'/'.join(asked)} in {job.id}; {inside} has: {some}"
