"""What a report says of one job."""

from __future__ import annotations

import time
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from last_e.choosing import CHOSEN_ON_TEST
from last_e.problems import show, whole
from last_e.redact import redact
from last_e.text import counted, number, percent, seconds_text
from runner.errors import Reason, State
from runner.job.attempts import Attempt
from runner.plan.prices import Prices, load_prices
from runner.view.compare import cost_of, seconds_of
from runner.view.report.clips import clips_of
from runner.view.report.gather import Material
from runner.view.report.right_and_wrong import interval_of, right_and_wrong
from runner.view.status import place_of

MOST_POINTS = 2000
"""Of a curve: more than a screen has."""
MOST_ATTEMPTS = 200
_PACKAGED = ("configs/", "default")
_PLACES = ("torch", "lastrun", "python", "numpy", "numba")


def job_facts(material: Material, prices: Prices | None = None) -> dict[str, Any]:
    """Everything that the page of one job shows, as plain values; ``data`` is what its script reads."""
    prices = load_prices() if prices is None else prices
    attempts = [_attempt(material, one, prices) for one in material.attempts]
    moves = _moves(material)
    seconds = sum(one["seconds"] for one in attempts)
    costs = [one["cost"] for one in attempts]
    predictions = material.predictions
    wrong = None if predictions is None else right_and_wrong(predictions)
    clips = [] if predictions is None else clips_of(predictions)
    return {
        "kind": "job",
        "title": material.record["name"],
        "id": material.job.id,
        "state": material.state.value,
        "sentence": _sentence(material, seconds, costs),
        "notes": _notes(material, seconds),
        "attempts": _with_bars(attempts)[-MOST_ATTEMPTS:],
        "attempts_left_out": max(0, len(attempts) - MOST_ATTEMPTS),
        "moves": moves[-MOST_ATTEMPTS:],
        "right_and_wrong": wrong,
        "clips": [{name: value for name, value in clip.items() if name != "joints"} for clip in clips],
        "why_no_predictions": material.why_no_predictions,
        "spec": spec_of(material),
        "machines": _machines(material),
        "data_hashes": list(dict.fromkeys(one.data_fingerprint for one in material.attempts if one.data_fingerprint)),
        "has_epochs": bool(material.epochs),
        "data": {
            "charts": _charts(material),
            "marks": [_mark(move) for move in moves[-MOST_ATTEMPTS:]],
            "matrix": None if wrong is None else wrong.pop("matrix"),
            "clips": clips,
            "drawn": None if predictions is None else predictions.about.drawn.model_dump(),
        },
    }


# --- the sentence on top ----------------------------------------------------------------------------------------------


def _sentence(material: Material, seconds: float, costs: list[float | None]) -> str:
    """What came out, in how long, at what cost, with what spread."""
    config, best = material.config, material.best
    what = f"{config['model.variant']} on {config['dataset']} {config['split_type']}"
    spent = f"{seconds_text(seconds)} of {counted(len(material.attempts), 'attempt')}{_on(material)}"
    paid = cost_text(costs, "attempt")
    if best is None:
        return f"{what} has no epoch to its name yet, after {spent}, {paid}."
    by = material.ranks_by
    kind = by.partition("_")[0]
    so_far = "" if material.state is State.SUCCEEDED else ", so far"
    reached = f"{percent(best[by])} {kind} top-1 in epoch {best['epoch']} of {_epochs(material)}{so_far}"
    if by != "test_top1" and (test := material.epochs[-1].get("test_top1")) is not None:
        best_of = f"epoch {best['epoch']} of {_epochs(material)}, the best by validation ({percent(best[by])})"
        reached = f"{percent(test)} test top-1 with the weights of {best_of}"
    spread = "with one seed, whose spread is not known"
    if material.predictions is not None:
        low, high = interval_of(material.predictions)
        spread = f"{percent(low)} to {percent(high)} in 95% by {counted(len(material.predictions.clip), 'clip')}; {spread}"
    return f"{what} reached {reached}, in {spent}, {paid} ({spread})."


def cost_text(costs: Sequence[float | None], of: str) -> str:
    """What was paid in all, and for how many (``of`` what) there is no price."""
    known = [cost for cost in costs if cost is not None]
    if not known:
        return "at a cost that is not known"
    without = len(costs) - len(known)
    return f"at a cost of ${sum(known):.2f}" + (
        f" without {counted(without, of)} of which no price is known" if without else ""
    )


def _on(material: Material) -> str:
    places = list(dict.fromkeys(_gpu(one) or f"{one.host}'s CPU" for one in material.attempts))
    return f" on {', '.join(places[:3])}{' and others' if len(places) > 3 else ''}" if places else ""


def _epochs(material: Material) -> int:
    asked = [one.epochs for one in material.attempts[-1:] if one.epochs]
    return int(asked[0] if asked else material.config["training.epochs"])


def _notes(material: Material, seconds: float) -> list[str]:
    """What is to be said beside it: how it stands, what is left to be done."""
    found = []
    if material.reason is not None and material.state is not State.SUCCEEDED:
        message = material.attempt.message if material.attempt is not None else None
        found.append(f"It is {material.state.value} ({material.reason.value}): {message or 'no word'}.")
        found.append(f"What to do next: {material.reason.ending.advice.format(job=material.job.reference)}")
    elif material.state is not State.SUCCEEDED:
        found.append(f"It is {material.state.value}, as of {_utc(time.time())}.")
    if material.epochs and material.best is not None:
        last, by = material.epochs[-1], material.ranks_by
        kind = by.partition("_")[0]
        found.append(
            f"Last epoch {last['epoch']}: {kind} top-1 {percent(last.get(by))}, top-5 {percent(last.get(f'{kind}_top5'))}, "
            f"loss {number(last.get(f'{kind}_loss'))}; training loss {number(last.get('train_loss'))}."
        )
        if by == "test_top1":
            found.append(f"{CHOSEN_ON_TEST[0].upper()}{CHOSEN_ON_TEST[1:]}: it looks a little better than it is.")
    if len(material.attempts) > 1:
        begun, ended = material.attempts[0].started_at, max(one.ended_at or one.started_at for one in material.attempts)
        found.append(f"From the first attempt's beginning to the last one's end: {seconds_text(max(seconds, ended - begun))}.")
    return found


# --- attempts -----------------------------------------------------------------------------------------------------------


def _attempt(material: Material, attempt: Attempt, prices: Prices) -> dict[str, Any]:
    beat = material.beats.get(attempt.id, {})
    seconds = seconds_of(attempt, beat, material.state)
    step = attempt.scores.get("step") or beat.get("step") or attempt.resumed_step
    batch = material.config.get("training.batch_size", 0) * material.config.get("training.gradient_accumulation_steps", 1)
    clips = max(0.0, step - attempt.resumed_step) * batch
    epochs = [one["epoch"] for one, by in zip(material.epochs, material.trained_by) if by == attempt.id]
    runs = attempt is material.attempt and material.state is State.RUNNING
    return {
        "number": attempt.number,
        "where": place_of(attempt),
        "env": attempt.env,
        "launcher": attempt.launcher,
        "gpu": _gpu(attempt) or "none",
        "started_at": attempt.started_at,
        "started": _utc(attempt.started_at),
        "seconds": seconds,
        "time": seconds_text(seconds),
        "epochs": f"{epochs[0]} to {epochs[-1]}" if epochs else "none",
        "clips_per_second": f"{clips / seconds:,.0f}" if clips and seconds else "-",
        "cost": cost_of(attempt, seconds, prices),
        "ended": attempt.reason or ("running" if runs else attempt.phase if attempt.phase == "lost" else "without a word"),
        "kind": "runs" if runs else "well" if attempt.reason == "completed" else "cut" if _resumable(attempt) else "badly",
        "message": attempt.message or "",
        "changes": [f"{one.get('key')}: {show(one.get('before'))} to {show(one.get('after'))}" for one in attempt.changes],
    }


def _resumable(attempt: Attempt) -> bool:
    return attempt.reason is not None and Reason(attempt.reason).ending.state in (State.PAUSED, State.STOPPED)


def _with_bars(attempts: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Each attempt's place on the time line, in thousandths of it."""
    begin = min((one["started_at"] for one in attempts), default=0.0)
    span = max((one["started_at"] + one["seconds"] for one in attempts), default=1.0) - begin or 1.0
    for one in attempts:
        one["bar_at"] = round(1000 * (one["started_at"] - begin) / span, 1)
        one["bar_wide"] = max(4.0, round(1000 * one["seconds"] / span, 1))
    return attempts


def _moves(material: Material) -> list[dict[str, Any]]:
    """Where the job went on: from where, to where, and why it had left."""
    begun = [one for one in material.attempts if one.has_taken_the_job]
    per_epoch = next((one["step"] / one["epoch"] for one in material.epochs if one["epoch"]), None)
    found = []
    for before, after in pairwise(begun):
        why = before.reason or "lost without a word"
        epoch = after.resumed_step / per_epoch if per_epoch else after.resumed_epoch
        found.append(
            {
                "from": _short(before),
                "to": _short(after),
                "why": f"{why} ({before.message})" if before.message else why,
                "epoch": round(epoch, 2),
                "step": after.resumed_step,
                "attempt": after.number,
            }
        )
    return found


def _mark(move: dict[str, Any]) -> dict[str, Any]:
    words = f"after {move['epoch']} epochs from {move['from']} to {move['to']}, since {move['why']}"
    return {"x": move["epoch"], "attempt": move["attempt"], "text": words}


def _short(attempt: Attempt) -> str:
    gpu = _gpu(attempt)
    return f"{attempt.host} ({attempt.env}{', ' + gpu if gpu else ''})" if attempt.env else attempt.host


def _gpu(attempt: Attempt) -> str:
    """``2 x Tesla T4``; empty for a CPU."""
    names = attempt.hardware.get("gpus")
    names = [str(name) for name in names] if isinstance(names, list) else []
    used = attempt.hardware.get("used_gpus")
    if isinstance(used, list) and used:
        names = names[: len(used)]
    counts = {name: names.count(name) for name in names}
    return ", ".join(name if count == 1 else f"{count} x {name}" for name, count in counts.items())


# --- the rest -----------------------------------------------------------------------------------------------------------


def spec_of(material: Material) -> list[dict[str, Any]]:
    """Every key with its value, and what has set it."""
    found = []
    for key, value in material.config.items():
        origin = str(material.origins.get(key, "default"))
        chosen = not origin.startswith(_PACKAGED)
        text = redact(str(whole(value) if chosen else show(value)))
        found.append({"key": key, "value": text, "origin": redact(origin), "chosen": chosen})
    return found


def _machines(material: Material) -> list[dict[str, Any]]:
    """Hardware and versions; attempts with the same share a row."""
    rows: dict[str, dict[str, Any]] = {}
    for one in material.attempts:
        hardware = {name: value for name, value in one.hardware.items() if name != "used_gpus"}
        about = {
            "cpu": f"{hardware.get('cpu', '-')}, {counted(_whole(hardware.get('cores')), 'core')}",
            "gpu": _gpu(one) or "none",
            "system": str(hardware.get("system", "-")),
            "versions": ", ".join(f"{name} {one.versions[name]}" for name in _PLACES if name in one.versions) or "-",
            "image": (one.container or {}).get("image", ""),
        }
        rows.setdefault(repr(about), {**about, "attempts": []})["attempts"].append(one.number)
    return [{**row, "attempts": _spans(row["attempts"])} for row in rows.values()]


def _whole(value: Any) -> int:
    return int(value) if isinstance(value, (int, float)) and 0 <= value < 1e9 else 0


def _spans(numbers: Sequence[int]) -> str:
    """``1 to 3, 5``."""
    spans: list[list[int]] = []
    for one in numbers:
        if spans and one == spans[-1][1] + 1:
            spans[-1][1] = one
        else:
            spans.append([one, one])
    return ", ".join(str(a) if a == b else f"{a} to {b}" for a, b in spans)


def _charts(material: Material) -> list[dict[str, Any]]:
    """A chart of each figure that somebody has: x is the epoch."""
    epochs = thinned(material.epochs)
    scored = material.ranks_by.partition("_")[0]
    kinds = ["train", scored] if scored == "test" else ["train", scored, "test"]
    return [
        chart(title, of, [one["epoch"] for one in epochs], series)
        for title, of, names in (
            ("Loss", "number", [f"{kind}_loss" for kind in kinds]),
            ("Top-1", "share", [f"{kind}_top1" for kind in kinds]),
            ("Top-5", "share", [f"{kind}_top5" for kind in kinds[1:]]),
            ("Learning rate", "number", ["lr"]),
        )
        if (series := _series(epochs, names))
    ]


def _series(epochs: list[dict[str, Any]], names: list[str]) -> list[dict[str, Any]]:
    words = {"train": "training", "lr": "learning rate"}
    found = []
    for name in names:
        values = [_rounded(one.get(name)) for one in epochs]
        if any(value is not None for value in values):
            kind = name.partition("_")[0]
            found.append({"label": words.get(kind, kind), "values": values})
    return found


def chart(title: str, of: str, x: list[float], series: list[dict[str, Any]]) -> dict[str, Any]:
    """One for the page's script; ``of``: ``number`` or ``share``."""
    return {"title": title, "of": of, "x": x, "series": series}


def thinned(epochs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Not more of them than can be seen, the last one among them."""
    step = -(-len(epochs) // MOST_POINTS)
    return epochs if step <= 1 else epochs[(len(epochs) - 1) % step :: step]


def _rounded(value: Any) -> float | None:
    return float(f"{value:.6g}") if isinstance(value, (int, float)) else None


def _utc(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(max(0.0, min(seconds, 1e11))))
