"""``benchmarks/recipes.py`` on jobs that nobody has trained: its table is what scoring says; what that is for, is measured by
hand."""

from __future__ import annotations

import json
import statistics
import time
from pathlib import Path

import pytest

from benchmarks import recipes
from last_e.manifest import MANIFEST, read_manifest
from runner.job.attempts import Attempt
from runner.job.job import Job
from runner.job.paths import checkpoint_name
from runner.store.directory import DirectoryStore
from tests.checkpoints import SMALL, config_of, untrained
from tests.groups import group_of


def finished(job: Job, folder: Path, seed: int) -> None:
    """A job that has completed, with a checkpoint of random weights."""
    checkpoint = untrained(folder, config_of(), seed=seed)
    attempt = Attempt("0001-aaaaaaaa", "elsewhere", 1, "1", time.time(), phase="ended", began=True, reason="completed")
    name = checkpoint_name(read_manifest(checkpoint), attempt.id)
    for file in sorted(checkpoint.iterdir(), key=lambda file: file.name == MANIFEST):
        job.store.put(job.paths.checkpoint(name, file.name), file.read_bytes())
    job.attempts.write(attempt)


def test_a_table_of_recipes_has_a_line_for_each_kind_of_clips(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    store = DirectoryStore(tmp_path / "store")
    group = group_of(store, tmp_path, "{seeds: 3}", [f"{key}={value}" for key, value in SMALL.items()])
    group.complete()
    jobs = group.jobs()
    for seed, job in enumerate(jobs[:2]):  # the third one has not begun
        finished(job, tmp_path / f"{seed}", seed)
    kept = tmp_path / "kept.json"
    monkeypatch.setattr("sys.argv", ["recipes.py", group.id, "--store", str(store.root), "--kept", str(kept)])
    assert recipes.main() == 0
    first = capsys.readouterr()
    scored = {tuple(json.loads(key)): value for key, value in json.loads(kept.read_text()).items()}
    assert set(scored) == {(job.id, condition, False, False) for job in jobs[:2] for condition in recipes.CONDITIONS}
    assert len(set(scored.values())) > len(jobs), "clips are spoilt, and seeds differ"
    rows = []
    for condition in recipes.CONDITIONS:
        values = [scored[job.id, condition, False, False] for job in jobs[:2]]
        rows.append(f"| {condition} | {statistics.mean(values):.2f} ± {statistics.stdev(values):.2f} (2) |")
    assert first.out.splitlines() == ["", group.id, "", "| top-1 | default |", "|---|---|", *rows]
    assert len(first.err.splitlines()) == len(scored)
    assert recipes.main() == 0
    assert capsys.readouterr() == (first.out, ""), "what was scored is not scored again"
