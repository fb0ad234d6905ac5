"""NTU RGB+D's raw files to one prepared file: in parallel, restartable, with an account of what was left out and why."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from last_e.datafile import DataError, output_path
from last_e.environment import usable_cores
from last_e.prepare import clipfile
from last_e.prepare.account import count_splits, versions
from last_e.prepare.archives import Search, Watch
from last_e.prepare.clipfile import About, Part
from last_e.prepare.entry import Entry
from last_e.prepare.names import broken, read_name
from last_e.prepare.people import RULES, Clip, NobodyError, choose_people
from last_e.prepare.pool import run_all
from last_e.prepare.replace import see_that_it_may_be_made
from last_e.prepare.skeleton import SkeletonError, parse
from last_e.prepare.sources import find_recordings, listing_hash
from last_e.text import counted

PART_SIZE = 128
"""Recordings of a part: what a restart repeats at most, for each worker."""
MOST_TOLD = 1000
"""Left-out recordings of one kind that the header lists by name."""

REASONS = {
    "damaged": "cannot be read as a recording",
    "nobody": "shows nobody",
    "broken": "on the list of broken recordings",
    "elsewhere": "no part of this data set",
    "twice": "there already under the same name",
    "unreadable": "folder, link or archive that cannot be read",
    "other": "named as a recording is, but another kind of file",
    "unnamed": "name is not SsssCcccPpppRrrrAaaa",
}
"""Why a file gives no clip."""

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class LeftOut:
    """A file that gives no clip."""

    name: str
    reason: str
    """A key of :data:`REASONS`."""
    detail: str = ""


@dataclass(frozen=True)
class Task:
    """One part's work."""

    recordings: tuple[tuple[Entry, ...], ...]
    """Of each recording the files that there are; more than one only of copies."""
    path: Path


@dataclass
class Report:
    """How a preparation went."""

    dataset: str
    files: int
    clips: int
    frames: int
    two_people: int
    unusable: int
    """Sightings of a body that were left out because a coordinate was no number."""
    error_mm: float
    splits: dict[str, dict[str, int | None]]
    """Per split: clips to train and test, and how many there are officially."""
    left_out: list[LeftOut]
    resumed: int = 0
    """Recordings whose parts were there already."""

    def to_dict(self, most: int | None = None) -> dict[str, Any]:
        """For JSON; at most so many left-out recordings of a kind by name."""
        kinds: dict[str, Any] = {}
        counts = Counter(one.reason for one in self.left_out)
        for reason, text in REASONS.items():
            listed = [one for one in self.left_out if one.reason == reason][:most]
            files = [one.name if not one.detail else f"{one.name}: {one.detail}" for one in listed]
            kinds[reason] = {"why": text, "count": counts[reason], "files": files}
        values = {key: value for key, value in vars(self).items() if key not in ("left_out", "resumed")}
        return {**values, "left_out": kinds}


def prepare_ntu(
    dataset: str,
    raw: Sequence[Path],
    out: Path,
    *,
    workers: int | None = None,
    progress: Progress | None = None,
    watch: Watch | None = None,
    overwrite: bool = True,
) -> Report:
    """Prepare ``ntu60`` or ``ntu120`` from what NTU distributes: folders of ``.skeleton`` files, zip files, or both.

    Interrupted, it goes on where it was when it is called again: finished parts lie beside ``out`` until it is complete.
    Several workers are separate processes, so a script that calls this needs ``if __name__ == "__main__":``.

    Args:
        dataset: ``ntu60`` or ``ntu120``.
        raw: folders, archives and files.
        out: the prepared file; replaced when it is complete.
        workers: processes; default: one for each core.
        progress: told how many recordings are done, and of how many.
        watch: before that, told how much of which archive has been looked through or unpacked.
        overwrite: replace a file with other clips, too.

    Raises:
        DataError: there is nothing to prepare, or nothing of it can be read, or another file is not to be overwritten.
        OSError: a folder cannot be read, or the disk is full.
    """
    raw = [Path(place) for place in raw]
    out = output_path(Path(out), *raw)
    with clipfile.workplace(out) as folder:
        search = Search(folder / "unpacked", watch)
        _forget_halves(search.unpacked)
        entries = find_recordings(raw, search)
        wanted, left_out = choose_entries(dataset, entries)
        left_out += [LeftOut(one.name, "unreadable", one.why) for one in sorted(search.unreadable)]
        left_out += [LeftOut(Path(one).name, "other") for one in sorted(search.others)]
        if not wanted:
            raise DataError(
                f"of {counted(len(entries), 'file')} none is a recording of {dataset}, such as S001C001P001R001A001.skeleton",
                other=True,
            )
        if not overwrite:
            see_that_it_may_be_made(out, _origin(dataset, entries))
        _forget_stale(folder, _key(dataset, wanted))
        tasks = [
            Task(tuple(wanted[begin : begin + PART_SIZE]), folder / f"{begin // PART_SIZE:06}.part")
            for begin in range(0, len(wanted), PART_SIZE)
        ]
        missing = [task for task in tasks if not task.path.exists()]
        done = resumed = len(wanted) - sum(len(task.recordings) for task in missing)
        if progress:
            progress(done, len(wanted))
        for count in run_all(prepare_part, missing, min(workers or usable_cores(), max(len(missing), 1))):
            done += count
            if progress:
                progress(done, len(wanted))
        report = _join(dataset, entries, left_out, [task.path for task in tasks], out, overwrite)
        report.resumed = resumed
    return report


def choose_entries(dataset: str, entries: Sequence[Entry]) -> tuple[list[tuple[Entry, ...]], list[LeftOut]]:
    """The recordings to read, each with its copies in the order of ``entries``, and what is left out by its name alone."""
    wanted: dict[str, list[Entry]] = {}
    left_out = []
    for entry in entries:
        name = read_name(entry.name)
        if name is None:
            left_out.append(LeftOut(entry.name, "unnamed"))
        elif not name.belongs_to(dataset):
            left_out.append(LeftOut(entry.name, "elsewhere"))
        elif str(name) in broken(dataset):
            left_out.append(LeftOut(entry.name, "broken"))
        else:
            wanted.setdefault(str(name), []).append(entry)
    return [tuple(wanted[name]) for name in sorted(wanted)], left_out


def prepare_part(task: Task) -> int:
    """Read a part's recordings and write their clips to its file; returns how many recordings that were."""
    part = Part()
    left_out: list[LeftOut] = []
    unusable, error = 0, 0.0
    for copies in task.recordings:
        clip, entry = _first_whole(copies, left_out)
        if clip is None:
            continue
        name = read_name(entry.name)
        assert name is not None
        unusable += clip.unusable
        error = max(error, clip.error)
        about = About(name.action - 1, name.performer, name.camera, name.setup, name.replication)
        part.add(clip.joints, about, str(name))
    account = {"left_out": [astuple(one) for one in left_out], "unusable": unusable, "error_mm": error}
    part.write(task.path, {"account": json.dumps(account)})
    return len(task.recordings)


def _first_whole(copies: Sequence[Entry], left_out: list[LeftOut]) -> tuple[Clip | None, Entry]:
    """The clip of a recording: of its copies the first that gives one; why the others do not is added to ``left_out``."""
    for number, entry in enumerate(copies):
        where = f"{entry.member}: " if len(copies) > 1 else ""
        try:
            clip = choose_people(parse(entry.read()))
        except SkeletonError as problem:
            left_out.append(LeftOut(entry.name, "damaged", f"{where}{problem}"))
        except NobodyError as problem:
            left_out.append(LeftOut(entry.name, "nobody", f"{where}{problem}"))
        else:
            left_out += [LeftOut(other.name, "twice", other.member) for other in copies[number + 1 :]]
            return clip, entry
    return None, copies[0]


def _key(dataset: str, wanted: Sequence[Sequence[Entry]]) -> str:
    """What finished parts hang on: the files, their state, the rules."""
    parts = [listing_hash(chain.from_iterable(wanted), marks=True), dataset, json.dumps(RULES), str(PART_SIZE)]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _forget_halves(folder: Path) -> None:
    """Delete what a process that was killed has half written: of an archive that may be gigabytes, each time."""
    for path in folder.glob(".*.part"):
        path.unlink()


def _forget_stale(folder: Path, key: str) -> None:
    """Parts of other files or other rules are of no use."""
    note = folder / "key"
    if not note.exists() or note.read_text() != key:
        for path in folder.glob("*.part"):
            path.unlink()
        note.write_text(key)
    _forget_halves(folder)


def _join(
    dataset: str, entries: Sequence[Entry], left_out: list[LeftOut], parts: list[Path], out: Path, overwrite: bool
) -> Report:
    accounts = [json.loads(clipfile.read_columns(part)[1]["account"]) for part in parts]
    left_out = [*left_out, *(LeftOut(*one) for account in accounts for one in account["left_out"])]
    pieces = [clipfile.read_columns(part)[0] for part in parts]
    columns = {name: np.concatenate([piece[name] for piece in pieces]) for name in pieces[0] if name != "name"}
    length = columns["length"]
    report = Report(
        dataset=dataset,
        files=len(entries),
        clips=len(length),
        frames=int(length.sum()),
        two_people=int((columns["bodies"] == 2).sum()),
        unusable=sum(account["unusable"] for account in accounts),
        error_mm=max(account["error_mm"] for account in accounts),
        splits=count_splits(dataset, columns),
        left_out=left_out,
    )
    if not report.clips:
        first = next(one for one in left_out if one.detail)
        raise DataError(f"of {counted(len(entries), 'file')} none could be read; {first.name}: {first.detail}")
    clipfile.join(parts, out, _provenance(dataset, entries, report), overwrite)
    return report


def _provenance(dataset: str, entries: Sequence[Entry], report: Report) -> dict[str, str]:
    """Where a file comes from, for its header: no paths, they say nothing elsewhere."""
    made = {"versions": json.dumps(versions()), "report": json.dumps(report.to_dict(MOST_TOLD))}
    return {**_origin(dataset, entries), **made}


def _origin(dataset: str, entries: Sequence[Entry]) -> dict[str, str]:
    """What decides a file's clips."""
    return {
        "dataset": dataset,
        "source": f"NTU RGB+D .skeleton files ({len(entries)})",
        "source_sha256": listing_hash(entries, marks=False),
        "rules": json.dumps(RULES),
    }
