"""What the jobs of sweeps know of clean and of spoilt clips, as the tables of docs/recipes.md.

    lastrun submit jobs/sweeps/two-subjects.yaml       # and so on: each makes a group
    python benchmarks/recipes.py GROUP... [--store URI] [--kept FILE] [--mirror] [--ema]

Scored is the last checkpoint of each job that has succeeded, on all clips that test: as they are, with noise, with joints that
are not seen, with less motion. A line for each of them, a column for each kind of point: mean and standard deviation of top-1
over its seeds, in percent. With --kept a second call scores only what is new.
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
from runner.errors import State
from runner.job.find import find_group
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
    parser.add_argument("--ema", action="store_true", help="the average of the weights (training.ema)")
    options = parser.parse_args()
    kept: dict[str, float] = json.loads(options.kept.read_text()) if options.kept and options.kept.exists() else {}
    for name in options.groups:
        group = find_group(name, options.store)
        kinds: dict[str, list[Job]] = {}
        for job in group.jobs():
            if job_status(job)["state"] == State.SUCCEEDED.value:
                kinds.setdefault(called(job.record()["group"]["values"]), []).append(job)
        print(f"\n{group.id}\n\n| top-1 | " + " | ".join(kinds) + " |\n" + "|---" * (1 + len(kinds)) + "|")
        for condition, spoil in CONDITIONS.items():
            cells = []
            for jobs in kinds.values():
                values = []
                for job in jobs:
                    key = json.dumps([job.id, condition, options.mirror, options.ema])
                    if key not in kept:
                        print(f"{job.id}: {condition} ...", file=sys.stderr, flush=True)
                        kept[key] = top1(job, spoil, options.store, options.mirror, options.ema)
                        if options.kept:
                            options.kept.write_text(json.dumps(kept, indent=1))
                    values.append(kept[key])
                spread = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
                cells.append(f"{statistics.mean(values):.2f}{spread} ({len(values)})")
            print(f"| {condition} | " + " | ".join(cells) + " |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
