"""Jobs' IDs for whoever presses Tab: those of the last time, while a child looks for newer ones."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from last_e.process import run_module
from runner.folders import cache_folder, keep, settings_folder

FRESH_SECONDS, FIRST_SECONDS = 10.0, 3.0
"""For so long nobody looks again; so long who asks for the first time waits."""
_MOST = 500
REFRESH = "refresh"


def known_jobs(store: str | None) -> list[str]:
    """Of a store, or the default one: jobs and groups, the newest first. Of a folder those of now, of a bucket those of the
    last time."""
    path, kept = _place(store), _kept(_place(store))
    if kept is None or _is_outdated(kept):
        child = _refresh(store, path)
        with suppress(subprocess.TimeoutExpired):
            child.wait(FIRST_SECONDS)
        kept = _kept(path) or kept
    elif time.time() - kept["at"] > FRESH_SECONDS and not kept["folder"]:
        _refresh(store, path)
    return list(kept["ids"]) if kept else []


def refresh(path: str, store: str | None) -> None:
    """Of the child: look, and keep what there is."""
    from runner.job.find import list_jobs, store_with_jobs
    from runner.job.paths import INDEX, group_of
    from runner.store.directory import DirectoryStore

    found = store_with_jobs(store)
    folder = str(found.root / INDEX) if isinstance(found, DirectoryStore) else None
    at = time.time()
    ids: dict[str, None] = {}
    for job in list_jobs(found):
        if (group := group_of(job.id)) is not None:
            ids.setdefault(group)
        ids.setdefault(job.id)
        if len(ids) >= _MOST:
            break
    keep(Path(path), {"at": at, "folder": folder, "ids": list(ids)})


def _place(store: str | None) -> Path:
    settings = settings_folder()
    named = store or os.environ.get("LASTRUN_STORE") or ""
    file = settings / "config.toml" if settings is not None and not named else None
    changed = file.stat().st_mtime_ns if file is not None and file.is_file() else 0
    digest = hashlib.sha256(f"{named}\n{changed}\n{Path.cwd() if named else ''}".encode()).hexdigest()[:16]
    return cache_folder() / "completion" / f"jobs-{digest}.json"


def _kept(path: Path) -> dict[str, Any] | None:
    with suppress(OSError, ValueError):
        found: dict[str, Any] = json.loads(path.read_bytes())
        return found
    return None


def _is_outdated(kept: dict[str, Any]) -> bool:
    """Whether a folder has other jobs by now."""
    with suppress(OSError):
        return kept["folder"] is not None and Path(kept["folder"]).stat().st_mtime >= kept["at"] - 1.0
    return False


def _refresh(store: str | None, path: Path) -> subprocess.Popen[bytes]:
    """A child that lives on when this process ends."""
    words = [*run_module("runner"), "__complete", REFRESH, str(path), *([] if store is None else [store])]
    null = subprocess.DEVNULL
    return subprocess.Popen(words, stdin=null, stdout=null, stderr=null, start_new_session=True)


def main(words: list[str]) -> None:
    """``__complete refresh FILE [STORE]``."""
    with suppress(Exception):  # nobody is told: whoever names the job is
        refresh(words[0], words[1] if len(words) > 1 else None)
    sys.exit(0)
