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
from runner.errors import Exit
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
    monkeypatch.setattr("sys.argv", ["recipes.py", group.id, "--ema", "--store", str(store.root)])
    assert recipes.main() == 0
    assert capsys.readouterr().out.splitlines()[3] == "| top-1 |  |", "none of them keeps an average"
    monkeypatch.setattr("sys.argv", ["recipes.py", "no-such-group", "--store", str(store.root)])
    assert recipes.main() == Exit.NO_SUCH_JOB
    assert capsys.readouterr().err.startswith("error: ")
    monkeypatch.setattr("sys.argv", ["recipes.py", group.id, group.id, "--store", str(store.root), "--kept", str(kept)])
    assert recipes.main() == 0
    assert capsys.readouterr().out == 2 * first.out + first.out.replace(group.id, "the mean of 2 groups")


def test_a_kind_of_point_is_called_by_all_that_it_varies() -> None:
    """What a point takes away of a recipe, too: one without noise and one without masks are two kinds."""
    assert recipes.called({"recipe": None, "training.seed": 4}) == "default"
    without = {"recipe": "robust", "training.augmentations.noise": None, "training.seed": 4}
    assert recipes.called(without) == "recipe=robust, noise=off"


def test_the_mean_over_groups_is_that_of_the_kinds_and_seeds_that_all_have() -> None:
    def found(first: float) -> dict[str, float]:
        return {condition: first + number for number, condition in enumerate(recipes.CONDITIONS)}

    one: recipes.Table = {"default": {42: found(10.0), 43: found(20.0)}, "recipe=robust": {42: found(30.0)}}
    other: recipes.Table = {"default": {43: found(40.0), 44: found(90.0)}, "mirror=0.5": {42: found(50.0)}}
    assert recipes.mean_of([one, other]) == {"default": {43: found(30.0)}}
