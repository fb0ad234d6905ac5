"""Reports that this machine has made to be looked at, made anew only when their jobs are no longer what they were.

The page that an attempt has left in the store is not opened: who may write to a store could have put any page there, and a
browser would run it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from runner.errors import State, UsageError
from runner.folders import cache_folder
from runner.job.job import Job
from runner.launch.settle import settled
from runner.version import lastrun_version
from runner.view.report.page import page_of
from runner.view.report.write import write

_NOW = "now"
"""In the name of a page whose job runs: it is made each time."""


def page_of_now(jobs: Sequence[Job], title: str) -> tuple[Path, bool]:
    """The page of jobs as they are now, and whether it had to be made. Older ones of theirs go.

    Raises:
        LastrunError: one cannot be read, or there is no room.
    """
    folder, name, stand = cache_folder() / "reports", title.replace(" ", "-"), _stand(jobs)
    path = folder / f"{name}-{stand}.html"
    if stand != _NOW and path.is_file():
        return path, False
    page, _ = page_of(jobs, title)
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise UsageError(f"{folder}: cannot be made: {error.strerror}; lastrun report --out FILE writes elsewhere") from None
    write(path, page)
    for old in folder.glob(f"{name}-*.html"):
        if old != path:
            with suppress(OSError):
                old.unlink()
    return path, True


def _stand(jobs: Sequence[Job]) -> str:
    """What a page of these follows from, in short; of one that runs no two looks are alike."""
    parts: list[object] = [lastrun_version()]
    for job in jobs:
        attempts = settled(job)
        if job.attempts.state(attempts)[0] is State.RUNNING:
            return _NOW
        listed = [[entry.key, entry.size] for entry in job.store.scan(job.paths.all)]
        parts.append([job.uri, [vars(attempt) for attempt in attempts], listed])
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:16]
