"""Between a store and a folder of the user's: download a checkpoint, send what an attempt left behind."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from last_e.manifest import MANIFEST, DamagedCheckpoint, verify
from last_e.text import expand
from runner.errors import StoreError, UsageError
from runner.job import Job
from runner.machine import container_scratch
from runner.sync import KEY, leftovers, send_leftovers


def pull_checkpoint(job: Job, destination: Path, *, best: bool, step: int | None) -> str:
    """Download a checkpoint into a new folder; returns its name.

    Raises:
        UsageError: there is no such checkpoint, or the folder is not empty.
        StoreError: it is damaged.
    """
    found = job.checkpoints()
    if step is not None:
        found = [stored for stored in found if stored.manifest.step == step]
    elif best:
        tested = [stored for stored in found if stored.manifest.test_top1 is not None]
        found = sorted(tested, key=lambda stored: (stored.manifest.test_top1 or 0, *(-part for part in stored.manifest.order)))
    if not found:
        steps = ", ".join(str(stored.manifest.step) for stored in job.checkpoints())
        raise UsageError(f"{job.id} has no such checkpoint; its steps are: {steps or 'none yet'}")
    if destination.exists() and (not destination.is_dir() or any(destination.iterdir())):
        raise UsageError(f"{destination} is there already: name a new or empty folder")
    stored = found[-1]
    destination.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(prefix=f".{destination.name}-", dir=destination.parent))
    try:
        for name in stored.manifest.files:
            job.store.get_file(job.key("checkpoints", stored.name, name), part / name)
        (part / MANIFEST).write_text(stored.manifest.to_json())
        verify(part)
        part.replace(destination)
    except DamagedCheckpoint as error:
        raise StoreError(f"checkpoint {stored.name}: {error}") from None
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return stored.name


def sync_job(job: Job, outbox: Path | None) -> int:
    """Send what the job's ended attempts left on this machine; returns how many objects went.

    Args:
        job: the job.
        outbox: where they are; default: below the temporary folder and the job's scratch folder.
    """
    if outbox is not None:
        if not outbox.is_dir():
            raise UsageError(f"{outbox}: no such folder")
        foreign = [path for path in outbox.rglob("*") if not _belongs(path, outbox, job.id)]
        if foreign:
            raise UsageError(f"{outbox} is no outbox of {job.id}: it holds {foreign[0].relative_to(outbox)}; nothing was sent")
        return send_leftovers(job.store, outbox)
    job.state()  # an attempt whose container has ended does not count as alive
    scratch = job.record()["config"].get("hardware.scratch_root")
    places = {Path(tempfile.gettempdir()), container_scratch(), *([expand(scratch)] if scratch else [])}
    places |= {Path(a.container["scratch"]) for a in job.attempts() if a.container and "scratch" in a.container}
    sent = 0
    for folder in [leftover for place in places for leftover in leftovers(job, place)]:
        sent += send_leftovers(job.store, folder / "outbox")
        shutil.rmtree(folder, ignore_errors=True)
    return sent


def _belongs(path: Path, outbox: Path, job_id: str) -> bool:
    """Whether an outbox of the job may hold this: nothing else may be sent, since what was sent is deleted."""
    key = path.relative_to(outbox).as_posix()
    ours = key.partition("/")[0] == job_id and not path.is_symlink()
    return ours and (path.is_dir() or KEY.match(key) is not None)
