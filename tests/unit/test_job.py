"""Which checkpoints of a job count."""

from __future__ import annotations

import time
from pathlib import Path

from last_e.manifest import MANIFEST, File, Manifest
from runner.job import Attempt, Job
from runner.store.directory import DirectoryStore


def store_checkpoint(job: Job, step: int, attempt: str) -> str:
    name = f"{step:08d}-{attempt}"
    files = {"state.pt": File(size=1, sha256="0" * 64)}
    manifest = Manifest(step=step, epoch=0, evaluated=False, files=files)
    job.store.put(job.key("checkpoints", name, MANIFEST), manifest.to_json().encode())
    return name


def test_what_an_old_writer_sends_after_another_attempt_has_begun_is_not_followed(tmp_path: Path) -> None:
    job = Job(DirectoryStore(tmp_path), "j")
    old = Attempt("0001-aaaaaaaa", "elsewhere", 1, "1", time.time(), phase="running")
    job.write_attempt(old)
    early = store_checkpoint(job, 10, old.id)
    assert [stored.name for stored in job.checkpoints()] == [early]

    new = Attempt("0002-bbbbbbbb", "here", 1, "1", time.time(), phase="running", supersedes=[old.id], inherited=[early])
    job.write_attempt(new)
    store_checkpoint(job, 99, old.id)
    own = store_checkpoint(job, 12, new.id)
    assert [stored.name for stored in job.checkpoints()] == [early, own]
