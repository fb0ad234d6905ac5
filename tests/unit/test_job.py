"""Which checkpoints of a job count."""

from __future__ import annotations

import time
from pathlib import Path

from last_e.manifest import MANIFEST, File, Manifest
from runner.job import Attempt, Job, list_jobs
from runner.status import summaries
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


def test_a_checkpoint_that_an_attempt_went_on_from_is_not_pruned_while_it_runs(tmp_path: Path) -> None:
    job = Job(DirectoryStore(tmp_path), "j")
    old = Attempt("0001-aaaaaaaa", "elsewhere", 1, "1", time.time(), phase="ended", reason="preempted")
    job.write_attempt(old)
    names = [store_checkpoint(job, step, old.id) for step in (10, 20)]
    new = Attempt("0002-bbbbbbbb", "here", 1, "1", time.time(), phase="running", inherited=names, resumed_from=names[0])
    job.write_attempt(new)
    names.append(store_checkpoint(job, 30, new.id))
    job.prune_checkpoints(keep_last=1)
    assert [stored.name for stored in job.checkpoints()] == [names[0], names[2]]
    new.phase = "ended"
    job.write_attempt(new)
    job.prune_checkpoints(keep_last=1)
    assert [stored.name for stored in job.checkpoints()] == [names[2]]


def test_a_damaged_manifest_is_told_and_passed_over(tmp_path: Path) -> None:
    job = Job(DirectoryStore(tmp_path), "j")
    whole, damaged = (store_checkpoint(job, step, "0001-aaaaaaaa") for step in (10, 20))
    key = job.key("checkpoints", damaged, MANIFEST)
    job.store.put(key, job.store.get(key).replace(b'"step": 20', b'"step": 21'))
    said: list[str] = []
    assert [stored.name for stored in job.checkpoints(said.append)] == [whole]
    assert [line for line in said if damaged in line]


def test_jobs_are_listed_newest_first_and_one_that_is_half_made_or_deleted_is_passed_over(tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path)
    for name in ("b-20260102-000000-aaaa", "a-20260103-000000-aaaa", "c-20260101-235959-aaaa"):
        store.put(Job(store, name).index_key, b"")
        if not name.startswith("a"):
            store.put(f"{name}/job.json", b"damaged")
    assert [job.id[0] for job in list_jobs(store)] == ["a", "b", "c"]
    found, more = summaries(list_jobs(store), 1)
    assert ([facts["id"][0] for facts in found], more) == (["b"], True)
    found, more = summaries(list_jobs(store), 5)
    assert ([facts["id"][0] for facts in found], more) == (["b", "c"], False)
    Job(store, "b-20260102-000000-aaaa").delete()
    assert [job.id[0] for job in list_jobs(store)] == ["a", "c"]
