"""What the jobs of sweeps know of clean and of spoilt clips, as the tables of docs/recipes.md.

    lastrun submit jobs/sweeps/two-subjects.yaml       # and so on: each makes a group
    python benchmarks/recipes.py GROUP... [--store URI] [--kept FILE] [--mirror] [--ema]

Scored is the last checkpoint of each job that has succeeded, on all clips that test: as they are, with noise, with joints that
are not seen, with less motion. A line for each of them, a column for each kind of point: mean and standard deviation of top-1
over its seeds, in percent, and of how many. Of several groups the last table has the kinds and seeds that all of them have:
means over the groups, seed by seed. With --kept a second call scores only what is new.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from last_e.config import TrainConfig
from last_e.data.shown import Spoil
from last_e.score.models import Asked, score
from runner.errors import LastrunError, State
from runner.job.find import find_group
from runner.job.group import Group
from runner.job.job import Job
from runner.models import Choice, Model, bring
from runner.view.status import job_status

CONDITIONS = {
    "clean": None,
    "noise of 5 cm": Spoil(noise=0.05),
    "3 joints of 10 not seen": Spoil(missing=0.3),
    "half of the motion": Spoil(motion=0.5),
}
SEED = "training.seed"
Table = dict[str, dict[Any, dict[str, float]]]
"""Top-1 in percent by kind of point, seed, condition."""


def top1(job: Job, spoil: Spoil | None, store: str | None, mirror: bool, ema: bool) -> float:
    """Of its last checkpoint, in percent."""
    with ExitStack() as held:
        one = bring(Model(job.id), Choice(store, last=True, ema=ema), held, lambda _: None)
        asked = Asked(Path(one["folder"]), TrainConfig.model_validate(one["config"]), 1.0, ema)
        result, _ = score([asked], "test", 1, lambda *_: None, mirror=mirror, spoil=spoil)
    return 100 * float(result["top1"])


def called(values: dict[str, Any]) -> str:
    """A kind of point: what it varies but the seed."""
    said = [(key.removeprefix("training.augmentations."), value) for key, value in values.items() if key != SEED]
    kinds = [f"{key}={'off' if value is None else value}" for key, value in said if (key, value) != ("recipe", None)]
    return ", ".join(kinds) or "default"


def main() -> int:
    """Score, and print a table for each group."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("groups", nargs="+", metavar="GROUP")
    parser.add_argument("--store")
    parser.add_argument("--kept", type=Path, help="a JSON file of what was scored before")
    parser.add_argument("--mirror", action="store_true", help="average with what is said of a clip in a mirror")
    parser.add_argument("--ema", action="store_true", help="the average of the weights, of jobs that have one (training.ema)")
    options = parser.parse_args()
    scorer = Scorer(options)
    tables = []
    try:
        for name in options.groups:
            group = find_group(name, options.store)
            tables.append(scorer.table(group))
            show(group.id, tables[-1])
    except LastrunError as error:
        print(f"error: {error}", file=sys.stderr)
        return int(error.exit_code)
    if len(tables) > 1:
        show(f"the mean of {len(tables)} groups", mean_of(tables))
    return 0


class Scorer:
    """Scores what was not scored before.

    Args:
        options: of the command line.
    """

    def __init__(self, options: argparse.Namespace) -> None:
        self._options = options
        there = options.kept and options.kept.exists()
        self._kept: dict[str, float] = json.loads(options.kept.read_text()) if there else {}

    def table(self, group: Group) -> Table:
        """Of the jobs of a group that have succeeded."""
        table: Table = {}
        for job in group.jobs():
            record = job.record()
            has_average = record["config"].get("training.ema") is not None
            if job_status(job)["state"] == State.SUCCEEDED.value and (has_average or not self._options.ema):
                values = record["group"]["values"]
                found = {condition: self._top1(job, condition) for condition in CONDITIONS}
                table.setdefault(called(values), {})[values.get(SEED)] = found
        return table

    def _top1(self, job: Job, condition: str) -> float:
        options = self._options
        key = json.dumps([job.id, condition, options.mirror, options.ema])
        if key not in self._kept:
            print(f"{job.id}: {condition} ...", file=sys.stderr, flush=True)
            self._kept[key] = top1(job, CONDITIONS[condition], options.store, options.mirror, options.ema)
            if options.kept:
                options.kept.write_text(json.dumps(self._kept, indent=1))
        return self._kept[key]


def mean_of(tables: list[Table]) -> Table:
    """Over tables, of kinds and seeds that all of them have."""
    mean: Table = {}
    for kind, seeds in tables[0].items():
        for seed in seeds:
            found = [table[kind][seed] for table in tables if seed in table.get(kind, {})]
            if len(found) == len(tables):
                of_all = {condition: statistics.mean(one[condition] for one in found) for condition in CONDITIONS}
                mean.setdefault(kind, {})[seed] = of_all
    return mean


def show(title: str, table: Table) -> None:
    """In Markdown."""
    print(f"\n{title}\n\n| top-1 | " + " | ".join(table) + " |\n" + "|---" * (1 + len(table)) + "|")
    for condition in CONDITIONS:
        cells = []
        for seeds in table.values():
            values = [found[condition] for found in seeds.values()]
            spread = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
            cells.append(f"{statistics.mean(values):.2f}{spread} ({len(values)})")
        print(f"| {condition} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    sys.exit(main())
