"""Jobs side by side: how they differ, and what came of it. Seeds of the same settings share a line."""

from __future__ import annotations

import csv
import io
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from last_e.choosing import chosen_by, of_one_kind
from last_e.config import ENVIRONMENTS
from last_e.problems import show as value_text
from last_e.text import counted, percent, seconds_text
from runner.errors import UNREADABLE, NoSuchJobError, State
from runner.job.attempts import Attempt
from runner.job.cost import rented_cost
from runner.job.job import Job
from runner.launch.settle import settled
from runner.plan.hardware import known_gpu
from runner.plan.prices import Prices, load_prices, price_of
from runner.view.console import make_console, make_table, show

SEED = "training.seed"
_PACKAGED = ("configs/", "default")
_LOWERED = "(no higher than training.lr)"
_NOT_COMPARED = ("name", "store.")
_CSV_ESCAPED = ("=", "+", "-", "@", "\t", "\r")
"""What a spreadsheet would take for a formula."""


@dataclass(frozen=True)
class Result:
    """What is known of one job."""

    id: str
    state: str
    config: dict[str, Any]
    origins: dict[str, str]
    last: float | None
    """Top-1 of the last epoch so far; of the clips that validate, where there are some, as of the best."""
    best: float | None
    test: float | None
    """Of the best epoch's weights, at the end, where there are clips to validate."""
    epoch: int
    epochs: int
    seconds: float
    """Of all attempts together."""
    cost: float | None
    """In dollars, as was paid or else by the prices of today; None: some of it has no price."""
    metrics: list[dict[str, Any]] = field(default_factory=list, repr=False)
    """A line per epoch."""

    @property
    def finished(self) -> bool:
        """Whether its numbers are final."""
        return self.state == State.SUCCEEDED.value


def compare(jobs: Sequence[Job]) -> dict[str, Any]:
    """Facts about jobs of one store: which keys differ, and a row for those that differ in their seed alone, best first.

    Only finished jobs are in means; how many are not stands beside them, and which jobs are not there or cannot be read.
    """
    return rows_of(*results_of(jobs))


def results_of(jobs: Sequence[Job]) -> tuple[list[Result], dict[str, str]]:
    """What is known of each job of a store, and why the others are not there or cannot be read."""
    prices = load_prices()
    found = jobs[0].store.in_parallel([partial(_result_or_error, job, prices) for job in jobs])
    results = [one for one in found if isinstance(one, Result)]
    return results, {job.id: str(one) for job, one in zip(jobs, found) if not isinstance(one, Result)}


def rows_of(results: list[Result], without: dict[str, str]) -> dict[str, Any]:
    """The facts of :func:`compare`, from what is known of the jobs."""
    keys = _differing(results)
    seeds = {result.config.get(SEED) for result in results}
    groups: dict[str, list[Result]] = {}
    for result in results:
        groups.setdefault(repr([result.config.get(key) for key in keys]), []).append(result)
    rows = [_row(keys, group) for group in groups.values()]
    rows.sort(key=_rank)
    return {"keys": keys, "seeds": len(seeds), "jobs": len(results), "rows": rows, "without": without}


def _result_or_error(job: Job, prices: Prices) -> Result | str:
    try:
        return _result(job, prices)
    except NoSuchJobError:
        return "it is not there: deleted, or not made yet"
    except UNREADABLE as error:
        return str(error) or type(error).__name__


def _result(job: Job, prices: Prices) -> Result:
    attempts = job.store.in_parallel([partial(settled, job), partial(job.record, again=True)])[0]
    config, origins, _ = job.settings(attempts)
    (state, attempt, _), metrics, *beats = job.store.in_parallel(
        [
            partial(job.attempts.state, attempts),
            partial(job.metrics, attempts),
            *(partial(job.attempts.heartbeat, one) for one in attempts if _end_is_unknown(one)),
        ]
    )
    unended = {one.id: beat for one, beat in zip(filter(_end_is_unknown, attempts), beats)}
    spans = [(one, seconds_of(one, unended.get(one.id, {}), state)) for one in attempts]
    costs = [cost_of(one, seconds, prices) for one, seconds in spans]
    return Result(
        id=job.id,
        state=state.value,
        config=config,
        origins=origins,
        last=chosen_by(metrics[-1]) if metrics else None,
        best=max(map(chosen_by, of_one_kind(metrics)), default=None),
        test=metrics[-1].get("test_top1") if metrics and metrics[-1].get("validation_top1") is not None else None,
        epoch=int(metrics[-1]["epoch"]) if metrics else 0,
        epochs=(attempt.epochs if attempt else None) or config["training.epochs"],
        seconds=sum(seconds for _, seconds in spans),
        cost=None if None in costs or not costs else sum(cost for cost in costs if cost is not None),
        metrics=metrics,
    )


def _end_is_unknown(attempt: Attempt) -> bool:
    """When an attempt was found lost says nothing of when it ended."""
    return attempt.ended_at is None or attempt.phase == "lost"


def seconds_of(attempt: Attempt, beat: dict[str, Any], state: State) -> float:
    """How long an attempt ran; of one without an end, until it was last heard of."""
    heard = beat.get("time") or attempt.started_at
    if attempt.ended_at is not None and attempt.phase != "lost":
        end = attempt.ended_at
    else:
        end = time.time() if attempt.open and state is State.RUNNING else heard
    return max(0.0, end - attempt.started_at)


def cost_of(attempt: Attempt, seconds: float, prices: Prices) -> float | None:
    """What an attempt of so many seconds cost, in dollars: as was paid, or else by the table; None: it has no price."""
    if (paid := rented_cost(attempt, seconds)) is not None:
        return paid
    if attempt.env not in ENVIRONMENTS:
        return 0.0 if seconds == 0 else None
    gpus = attempt.hardware.get("gpus")
    name = gpus[0] if isinstance(gpus, list) and gpus and isinstance(gpus[0], str) else None
    gpu = known_gpu(name) if name is not None else None
    price = price_of(prices, attempt.env, gpu.name if gpu else None, "per_hour")
    return None if price is None else price.amount * seconds / 3600


def _differing(results: Sequence[Result]) -> list[str]:
    """Keys in which jobs differ because somebody set them so; what follows from them (a variant's tables) is not shown."""
    found = []
    for key in dict.fromkeys(key for result in results for key in result.config):
        values = {repr(result.config.get(key)) for result in results}
        chosen = any(_is_chosen(result.origins.get(key, "default")) for result in results)
        if len(values) > 1 and chosen and key != SEED and not key.startswith(_NOT_COMPARED):
            found.append(key)
    return found


def _is_chosen(origin: str) -> bool:
    return not origin.startswith(_PACKAGED) and not origin.endswith(_LOWERED)


def _row(keys: list[str], group: list[Result]) -> dict[str, Any]:
    done = [result for result in group if result.finished]
    row: dict[str, Any] = {
        "values": {key: group[0].config.get(key) for key in keys},
        "jobs": [result.id for result in group],
        "finished": len(done),
        "seeds": len({result.config.get(SEED) for result in done}),
        "unfinished": [_so_far(result) for result in group if not result.finished],
    }
    for name in ("last", "best", "test"):
        values = [value for result in done if (value := getattr(result, name)) is not None]
        row[name] = statistics.fmean(values) if values else None
        several = len(values) > 1 and row["seeds"] > 1  # one seed twice gives the same numbers, and no spread of seeds
        row[f"{name}_spread"] = statistics.stdev(values) if several else None
    row["seconds"] = sum(result.seconds for result in group)
    costs = [result.cost for result in group]
    row["cost"] = None if None in costs else sum(cost for cost in costs if cost is not None)
    return row


def _so_far(result: Result) -> dict[str, Any]:
    return {name: getattr(result, name) for name in ("id", "state", "epoch", "epochs", "best")}


def _rank(row: dict[str, Any]) -> tuple[Any, ...]:
    """The best of what has finished first, then what has got furthest."""
    so_far = max((one["best"] or 0.0 for one in row["unfinished"]), default=0.0)
    return (row["best"] is None, -(row["best"] or 0.0), -so_far)


# --- shown ----------------------------------------------------------------------------------------------------------------


def print_comparison(facts: dict[str, Any]) -> None:
    """The table."""
    tested = any(row["test"] is not None for row in facts["rows"])  # of runs that have clips to validate
    best = ["validation best", "test"] if tested else ["top-1 best"]
    alone = all(len(row["jobs"]) == 1 for row in facts["rows"])
    table = make_table(*facts["keys"], "job" if alone else "jobs", "top-1 last", *best, "time", "cost", "unfinished")
    for row in facts["rows"]:
        values = [value_text(value).strip("'") for value in row["values"].values()]
        count = f"{row['finished']}" + (f" of {len(row['jobs'])}" if row["unfinished"] else "")
        count += f" ({counted(row['seeds'], 'seed')})" if row["seeds"] < row["finished"] else ""
        names = ("last", "best", "test") if tested else ("last", "best")
        figures = [_figure(row[name], row[f"{name}_spread"]) for name in names]
        cost = "-" if row["cost"] is None else f"${row['cost']:.2f}"
        table.add_row(
            *values, row["jobs"][0] if alone else count, *figures, seconds_text(row["seconds"]), cost, _unfinished(row)
        )
    make_console().print(table)
    if facts["rows"] and not alone:
        shown = facts["rows"][0]["jobs"]
        show(f"of the first line: {', '.join(shown[:5])}{f' and {len(shown) - 5} more' if len(shown) > 5 else ''}")
    if any(row["last_spread"] is not None for row in facts["rows"]):
        show("mean and standard deviation over seeds")
    if any(row["unfinished"] for row in facts["rows"]):
        show("what is unfinished is in no mean")
    for name, why in facts["without"].items():
        show(f"without {name}: {why}")


def _figure(mean: float | None, spread: float | None) -> str:
    return percent(mean) if spread is None else f"{percent(mean)} ± {100 * spread:.2f}"


def _unfinished(row: dict[str, Any]) -> str:
    texts = [f"{one['state']} {one['epoch']}/{one['epochs']}, best {percent(one['best'])}" for one in row["unfinished"]]
    return "; ".join(texts[:3]) + (f"; {len(texts) - 3} more" if len(texts) > 3 else "") or "-"


def comparison_csv(facts: dict[str, Any]) -> str:
    """The same for a spreadsheet: a line a row, numbers as they are."""
    figures = ("finished", "seeds", "last", "last_spread", "best", "best_spread", "seconds", "cost")
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*facts["keys"], *figures, "unfinished", "jobs"])
    for row in facts["rows"]:
        values = [_cell(value) for value in row["values"].values()]
        writer.writerow([*values, *(row[name] for name in figures), len(row["unfinished"]), " ".join(row["jobs"])])
    return text.getvalue()


def _cell(value: Any) -> Any:
    text = value if isinstance(value, (int, float)) else value_text(value).strip("'")
    return f"'{text}" if isinstance(text, str) and text.startswith(_CSV_ESCAPED) else text
