"""``lastrun init``: a job file for somebody who has none."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from runner.commands.options import JsonOption, at_home

FILE = "job.yaml"


def init(
    path: Annotated[Path, typer.Argument(metavar="[FILE]", help="the job file to write", callback=at_home)] = Path(FILE),
    data: Annotated[
        str | None, typer.Option("--data", metavar="NAME|FILE", help="irds, ntu60, ntu120, synthetic, or a prepared file")
    ] = None,
    model: Annotated[str | None, typer.Option("--model", metavar="NAME", help="nano, small, base or large")] = None,
    epochs: Annotated[int | None, typer.Option("--epochs", min=1, max=100_000, help="passes over the clips that train")] = None,
    name: Annotated[str | None, typer.Option("--name", metavar="NAME", help="what its jobs are called")] = None,
    force: Annotated[bool, typer.Option("--force", help="replace a file that is there")] = False,
    json: JsonOption = False,
) -> None:
    """Write a commented job file for your data, and say how long its job would take here; asks for what is not given."""
    from runner.draft import draft, see_that_it_may_be_written
    from runner.view.console import print_json, show
    from runner.view.draft import print_draft

    see_that_it_may_be_written(path, force)
    if not json and sys.stdin.isatty() and sys.stdout.isatty():
        show("Data: irds (a small set that comes along), ntu60, ntu120, or your own prepared file (lastrun data import)")
        data = data or typer.prompt("data", default="irds")
        show("Models: nano (75 K parameters), small, base, large (911 K)")
        model = model or typer.prompt("model", default="nano" if data == "irds" else "base")
        epochs = epochs or typer.prompt("epochs", default=30 if data == "irds" else 120, type=int)
    made = draft(path, data=data or "irds", model=model or "nano", epochs=epochs, name=name, force=force)
    if json:
        seconds = made.total_seconds
        facts = {"model": made.model, "dataset": made.dataset, "epochs": made.epochs}
        print_json("init", {"path": str(path), **facts, "total_seconds": seconds and seconds.to_dict()})
    else:
        print_draft(made)
