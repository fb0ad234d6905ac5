"""Groups whose jobs have not been written yet."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from runner.job.group import Group, PointRecord
from runner.resolve import resolve_points
from runner.store.directory import DirectoryStore

SPEC = "model: nano\ndataset: synthetic\nname: sw\ntraining: {epochs: 9, warmup_epochs: 1}\n"


def group_of(store: DirectoryStore, folder: Path, sweep: str, words: Sequence[str] = ()) -> Group:
    """Of a job file's section ``sweep``; ``words`` are those of ``--set``."""
    path = folder / "job.yaml"
    path.write_text(f"{SPEC}sweep: {sweep}\n")
    records = [
        PointRecord(
            values=point.values,
            config=point.job.items(),
            origins={key: str(origin) for key, origin in point.job.origins.items()},
        )
        for point in resolve_points(path, "local", words).points
    ]
    return Group.create(store, "sw", records, "0")


def make(store: DirectoryStore, folder: Path, count: int = 3) -> Group:
    """Of so many points, which differ in their learning rate."""
    return group_of(store, folder, f"{{grid: {{training.lr: {[round(0.01 * n, 2) for n in range(1, count + 1)]}}}}}")
