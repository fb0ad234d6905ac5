"""What ``lastrun evaluate`` found."""

from __future__ import annotations

import csv
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

from last_e.choosing import CHOSEN_ON_TEST
from last_e.text import percent
from last_e.whole import whole_file
from runner.errors import UsageError, unwritable
from runner.view.console import make_console, make_table, show

MOST_TOLD = 5


def print_figures(result: dict[str, Any], how: dict[str, Any], models: list[str]) -> None:
    """The figures for people: the whole, the classes that it knows worst, and what it takes for what.

    Args:
        result: as ``last_e.score`` gives it.
        how: what was asked: ``part``, ``crops``, ``mirror``, ``ema``, ``spoil``.
        models: what they are called.
    """
    part = how["part"]
    interval = result["interval"]
    names = result["names"]
    if len(models) > 1:
        if chosen := result.get("weighed_on"):
            alone = ", ".join(f"{loss:.4f}" for loss in chosen["losses"])
            where = f"{chosen['clips']:,} clips of {chosen['part']}"
            show(f"weights chosen on {where}: loss {chosen['loss']:.4f}, of each alone {alone}")
        for name, weight in zip(models, result["weights"]):
            show(f"{weight:.3f}  {name}")
    show(f"{result['clips']:,} clips of {part}, {result['classes']} classes{_how(how)}")
    around = (
        f"{percent(interval['low'])} to {percent(interval['high'])} in 95% of {interval['draws']:,} draws of {interval['of']}"
    )
    show(f"top-1 {percent(result['top1'])} ({around}), top-5 {percent(result['top5'])}")
    show(
        f"balanced accuracy {percent(result['balanced_accuracy'])}, loss {result['loss']:.4f}, "
        f"confidence off by {percent(result['calibration_error'])} (calibration error)"
    )
    if result["chosen_on"] == "test" and part == "test":
        show(CHOSEN_ON_TEST)
    there = [row for row in result["per_class"] if row["clips"]]
    if len(there) < result["classes"]:
        show(f"of {result['classes'] - len(there)} classes there are no clips")
    worst = sorted((row for row in there if row["recall"] < 1), key=lambda row: row["recall"])[:MOST_TOLD]
    if not worst:
        show("every clip of every class is found")
        return
    table = make_table("class", "clips", "found", "right when said")
    for row in worst:
        right = "never said" if row["precision"] is None else percent(row["precision"])
        table.add_row(str(names[row["class"]]), f"{row['clips']:,}", percent(row["recall"]), right)
    show("found least:")
    make_console().print(table)
    pairs = [
        (count, true, said)
        for true, row in enumerate(result["confusion"])
        for said, count in enumerate(row)
        if count and true != said
    ]
    for count, true, said in sorted(pairs, key=lambda pair: (-pair[0], pair[1:]))[:MOST_TOLD]:
        show(f"{names[true]} taken for {names[said]}: {count:,} of {sum(result['confusion'][true]):,}")
    show("--json has every class and the whole table of what is taken for what")


def _how(how: dict[str, Any]) -> str:
    """What of it is not as usual."""
    told = ["the average of the weights"] if how["ema"] else []
    if (views := how["crops"] * (1 + how["mirror"])) > 1:
        told.append(f"the mean of {views} views of each clip")
    wrong = {"noise": "noise of {:g} m", "missing": "{:.0%} of the joints not seen", "motion": "{:.0%} of the motion"}
    told += [words.format(how["spoil"][name]) for name, words in wrong.items() if how["spoil"][name] is not None]
    return f"; {', '.join(told)}" if told else ""


def see_that_it_can_be_written(path: Path, overwrite: bool) -> None:
    """See to it before anything is scored.

    Raises:
        UsageError: it cannot, or is there already.
    """
    if path.exists() and not overwrite:
        raise UsageError(f"{path} is there already: name another file, or say --overwrite")
    try:
        with TemporaryFile(dir=path.absolute().parent):
            pass
    except OSError as error:
        raise unwritable(path, error) from None


def write_csv(path: Path, said: list[dict[str, Any]]) -> None:
    """A line for each clip: its number and name in the file, its class, what is said, and how sure.

    Raises:
        UsageError: it cannot be written there.
    """
    try:
        with whole_file(path) as part, part.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(said[0]))
            writer.writeheader()
            writer.writerows(said)
    except OSError as error:
        raise unwritable(path, error) from None
