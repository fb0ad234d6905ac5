"""A checkpoint brought into a folder of the user's; how any folder is, whole or not at all."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

from last_e.manifest import MANIFEST, DamagedCheckpoint, best_of
from runner.errors import MissingKeyError, StoreError, UsageError
from runner.job.checkpoints import Stored
from runner.job.job import Job

_TRIES = 3
Watched = Callable[[Path, str, int], AbstractContextManager[None]]
"""Shows how far a download is, given a folder, what of, and how many bytes are to come."""


def unseen(folder: Path, of: str, total: int) -> AbstractContextManager[None]:
    """Show nothing."""
    return nullcontext()


def pull_checkpoint(job: Job, destination: Path, *, best: bool, step: int | None, watch: Watched = unseen) -> str:
    """Download a checkpoint into a new folder, or one that is empty; returns its name. Where whoever trains deletes it
    meanwhile, because there are newer ones, it is chosen anew. ``watch`` shows meanwhile how far that is.

    Raises:
        UsageError: there is no such checkpoint, or the folder is not empty.
        StoreError: it is damaged.
    """
    stored = chosen(job, best, step)
    with new_folder(destination) as part:
        for last in [False] * (_TRIES - 1) + [True]:
            try:
                size = sum(file.size for file in stored.manifest.files.values())
                with watch(part, stored.name, size):
                    job.checkpoints.download(stored, part)
                break
            except MissingKeyError:
                for file in part.iterdir():
                    file.unlink()
                before, stored = stored, chosen(job, best, step)
                if last or stored == before:
                    raise
            except DamagedCheckpoint as error:
                raise StoreError(f"checkpoint {stored.name}: {error}; {_others(job, stored)}") from None
    return stored.name


def _others(job: Job, damaged: Stored) -> str:
    """Which may be taken instead."""
    steps = sorted({one.manifest.step for one in job.checkpoints.all() if one.name != damaged.name}, reverse=True)
    if not steps:
        return f"{job.id} has no other"
    return f"--step N takes another one, of step {', '.join(map(str, steps[:5]))}{' or earlier' if len(steps) > 5 else ''}"


@contextmanager
def new_folder(destination: Path) -> Iterator[Path]:
    """A folder to be filled that is there under its name when the block ends well, and leaves nothing otherwise.

    Raises:
        UsageError: there is something under that name, other than an empty folder.
    """
    if destination.exists() and (not destination.is_dir() or any(destination.iterdir())):
        raise UsageError(f"{destination} is there already: name a new or empty folder")
    into = destination if destination.exists() else destination.parent  # beside where there is none yet
    into.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(prefix=f".{destination.name}-", dir=into))
    try:
        yield part
        if into is not destination:
            part.replace(destination)
        else:  # it may be where one stands, a link or a mount, which nothing can be put in the place of
            for file in sorted(part.iterdir(), key=lambda file: file.name == MANIFEST):
                file.replace(destination / file.name)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def chosen(job: Job, best: bool, step: int | None) -> Stored:
    """The best checkpoint, the one of a step, else the newest.

    Raises:
        UsageError: there is none.
    """
    there = found = job.checkpoints.all()
    if step is not None:
        found = [stored for stored in there if stored.manifest.step == step]
    elif best:
        chosen = best_of([stored.manifest for stored in there])
        found = [stored for stored in there if stored.manifest is chosen]
    if not found:
        if not there:
            raise UsageError(f"{job.id} has no checkpoint yet; lastrun status {job.reference} tells what becomes of it")
        if best:
            newest = there[-1].manifest.step
            raise UsageError(f"{job.id} has no checkpoint that was tested yet; --step {newest} takes the newest")
        steps = ", ".join(str(stored.manifest.step) for stored in there)
        raise UsageError(f"{job.id} has no such checkpoint; its steps are: {steps}")
    return found[-1]
