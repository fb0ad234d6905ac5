"""A checkpoint brought into a folder of the user's."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from last_e.manifest import MANIFEST, DamagedCheckpoint, best_of
from runner.errors import MissingKeyError, StoreError, UsageError
from runner.job.checkpoints import Stored
from runner.job.job import Job

_TRIES = 3
Watched = Callable[[Path, str, int], AbstractContextManager[None]]
"""Shows how far a download is, given a folder, what of, and how many bytes are to come."""


def unseen(folder: Path, of: str, total: int) -> AbstractContextManager[None]:
    """Shows nothing."""
    return nullcontext()


def pull_checkpoint(job: Job, destination: Path, *, best: bool, step: int | None, watch: Watched = unseen) -> str:
    """Download a checkpoint into a new folder, or one that is empty; returns its name. Where whoever trains deletes it
    meanwhile, because there are newer ones, it is chosen anew. ``watch`` shows meanwhile how far that is.

    Raises:
        UsageError: there is no such checkpoint, or the folder is not empty.
        StoreError: it is damaged.
    """
    stored = _chosen(job, best, step)
    if destination.exists() and (not destination.is_dir() or any(destination.iterdir())):
        raise UsageError(f"{destination} is there already: name a new or empty folder")
    into = destination if destination.exists() else destination.parent  # beside where there is none yet
    into.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(prefix=f".{destination.name}-", dir=into))
    try:
        for last in [False] * (_TRIES - 1) + [True]:
            try:
                size = sum(file.size for file in stored.manifest.files.values())
                with watch(part, stored.name, size):
                    job.checkpoints.download(stored, part)
                break
            except MissingKeyError:
                for file in part.iterdir():
                    file.unlink()
                before, stored = stored, _chosen(job, best, step)
                if last or stored == before:
                    raise
        if into is not destination:
            part.replace(destination)
        else:  # it may be where one stands, a link or a mount, which nothing can be put in the place of
            for file in sorted(part.iterdir(), key=lambda file: file.name == MANIFEST):
                file.replace(destination / file.name)
    except DamagedCheckpoint as error:
        raise StoreError(f"checkpoint {stored.name}: {error}") from None
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return stored.name


def _chosen(job: Job, best: bool, step: int | None) -> Stored:
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
