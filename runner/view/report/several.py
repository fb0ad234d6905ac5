"""What a report says of several jobs: the table of ``compare``, and their curves over each other."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from last_e.problems import show
from last_e.text import counted, percent, seconds_text
from runner.job.job import Job
from runner.view.compare import Result, results_of, rows_of
from runner.view.report.facts import chart, cost_text, thinned
from runner.view.report.gather import scored_by

MOST_ROWS = 12
"""So many are drawn, the best; the table has all of them."""
MOST_JOBS = 1000
"""So many are listed."""


def facts_of_several(jobs: Sequence[Job], title: str) -> dict[str, Any]:
    """Everything that a page of several jobs shows, as plain values."""
    results, without = results_of(jobs)
    facts = rows_of(results, without)
    by_id = {result.id: result for result in results}
    rows = [_row(facts["keys"], row, number) for number, row in enumerate(facts["rows"])]
    drawn = [([by_id[name] for name in row["jobs"]], shown["label"]) for row, shown in zip(facts["rows"], rows)][:MOST_ROWS]
    return {
        "kind": "several",
        "title": title,
        "sentence": _sentence(facts, rows, [result.cost for result in results]),
        "keys": facts["keys"],
        "tested": any(row["test"] is not None for row in facts["rows"]),
        "rows": rows,
        "has_spread": any(row["last_spread"] is not None for row in facts["rows"]),
        "has_unfinished": any(row["unfinished"] for row in facts["rows"]),
        "drawn": len(drawn),
        "jobs": [_job(result) for result in results[:MOST_JOBS]],
        "jobs_left_out": max(0, len(results) - MOST_JOBS),
        "without": facts["without"],
        "has_epochs": any(result.metrics for result in results),
        "data": {"charts": _charts(drawn, results), "marks": [], "matrix": None, "clips": [], "drawn": None},
    }


def _sentence(facts: dict[str, Any], rows: list[dict[str, Any]], costs: list[float | None]) -> str:
    """What came out, in how long, at what cost, with what spread."""
    jobs = counted(facts["jobs"], "job")
    finished = sum(row["finished"] for row in facts["rows"])
    seconds = seconds_text(sum(row["seconds"] for row in facts["rows"]))
    spent = f"{jobs} ({finished:,} finished) took {seconds} in all, {cost_text(costs, 'job')}"
    best = facts["rows"][0] if facts["rows"] else None
    if best is None or best["best"] is None:
        return f"{spent}; none has finished, so there is no result yet."
    spread = best["best_spread"]
    told = "one seed, whose spread is not known" if spread is None else f"over {counted(best['seeds'], 'seed')}"
    figure = percent(best["best"]) + ("" if spread is None else f" ± {100 * spread:.2f}")
    return f"{spent}; best is {rows[0]['label']} with {figure} top-1 ({told})."


def _row(keys: list[str], row: dict[str, Any], number: int) -> dict[str, Any]:
    values = [show(value).strip("'") for value in row["values"].values()]
    return {
        "values": values,
        "label": ", ".join(f"{key.rpartition('.')[2]} {value}" for key, value in zip(keys, values)) or "all of them",
        "finished": row["finished"],
        "jobs": len(row["jobs"]),
        "seeds": row["seeds"],
        "last": _figure(row["last"], row["last_spread"]),
        "best": _figure(row["best"], row["best_spread"]),
        "test": _figure(row["test"], row["test_spread"]),
        "time": seconds_text(row["seconds"]),
        "cost": _dollars(row["cost"]),
        "colour": number if number < MOST_ROWS else None,
    }


def _job(result: Result) -> dict[str, Any]:
    return {
        "id": result.id,
        "state": result.state,
        "seed": result.config.get("training.seed"),
        "epochs": f"{result.epoch} of {result.epochs}",
        "best": percent(result.best),
        "test": percent(result.test),
        "last": percent(result.last),
        "time": seconds_text(result.seconds),
        "cost": _dollars(result.cost),
    }


def _figure(mean: float | None, spread: float | None) -> str:
    return percent(mean) if spread is None else f"{percent(mean)} ± {100 * spread:.2f}"


def _dollars(cost: float | None) -> str:
    return "-" if cost is None else f"${cost:.2f}"


def _charts(drawn: list[tuple[list[Result], str]], results: list[Result]) -> list[dict[str, Any]]:
    kind = scored_by([one for result in results for one in result.metrics]).partition("_")[0]
    last = max((one["epoch"] for group, _ in drawn for result in group for one in result.metrics), default=0)
    x = [one["epoch"] for one in thinned([{"epoch": epoch} for epoch in range(1, int(last) + 1)])]
    found = []
    for title, of, name in (
        (f"Top-1, {kind}", "share", f"{kind}_top1"),
        (f"Loss, {kind}", "number", f"{kind}_loss"),
        ("Loss, training", "number", "train_loss"),
        (f"Top-5, {kind}", "share", f"{kind}_top5"),
        ("Learning rate", "number", "lr"),
    ):
        series = [_line(group, label, name, x, number) for number, (group, label) in enumerate(drawn)]
        if any(value is not None for line in series for value in line["values"]):
            found.append(chart(title, of, x, series))
    return found


def _line(group: list[Result], label: str, name: str, x: list[int], number: int) -> dict[str, Any]:
    """The mean of jobs that differ in their seed alone, and one standard deviation around it where there are several."""
    values: dict[int, list[float]] = {}
    for result in group:
        for one in result.metrics:
            if isinstance(value := one.get(name), (int, float)):
                values.setdefault(int(one["epoch"]), []).append(value)
    line: dict[str, Any] = {"label": label, "colour": number, "values": [], "low": [], "high": []}
    for epoch in x:
        found = values.get(epoch, [])
        mean = statistics.fmean(found) if found else None
        spread = statistics.stdev(found) if len(found) > 1 else None
        line["values"].append(_short(mean))
        line["low"].append(None if mean is None or spread is None else _short(mean - spread))
        line["high"].append(None if mean is None or spread is None else _short(mean + spread))
    if all(value is None for value in line["low"]):
        del line["low"], line["high"]
    return line


def _short(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.6g}")
