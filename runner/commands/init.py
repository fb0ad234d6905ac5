"""``lastrun init``: a job file for somebody who has none."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
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
    epochs: Annotated[str | None, typer.Option("--epochs", metavar="N", help="passes over the clips that train")] = None,
    name: Annotated[str | None, typer.Option("--name", metavar="NAME", help="what its jobs are called")] = None,
    force: Annotated[bool, typer.Option("--force", help="replace a file that is there")] = False,
    json: JsonOption = False,
) -> None:
    """Write a commented job file for your data, and say how long its job would take here; asks for what is not given."""
    from runner.draft import draft, see_that_it_can_be, see_that_it_may_be_written
    from runner.view.console import print_json
    from runner.view.draft import print_draft

    see_that_it_may_be_written(path, force)
    if not json and sys.stdin.isatty() and sys.stdout.isatty():
        # What was given is looked at before anything is asked: no answer would mend it.
        see_that_it_can_be(path, data=data or "irds", model=model or "nano", epochs=epochs, name=name)
        data, model, epochs = _asked(path, data, model, epochs)
    made = draft(path, data=data or "irds", model=model or "nano", epochs=epochs, name=name, force=force)
    if json:
        seconds = made.total_seconds
        facts = {"model": made.model, "dataset": made.dataset, "epochs": made.epochs}
        print_json("init", {"path": str(path), **facts, "total_seconds": seconds and seconds.to_dict(), "busy": made.busy})
    else:
        print_draft(made)


def _asked(path: Path, data: str | None, model: str | None, epochs: str | None) -> tuple[str, str, str]:
    """What was not given, asked for. Each answer is looked at as it is given, and asked for again where it cannot be."""
    from runner.draft import see_that_it_can_be
    from runner.view.console import show

    known = partial(see_that_it_can_be, path)
    if data is None:
        show("Data: irds (a small set that comes along), ntu60, ntu120, or your own prepared file (lastrun data import)")
        data = _answer("data", "irds", lambda text: known(data=text, model=model or "nano", epochs=None))
    is_small = data == "irds"
    if model is None:
        show("Models: nano (75 K parameters), small, base, large (911 K)")
        model = _answer("model", "nano" if is_small else "base", lambda text: known(data=data, model=text, epochs=None))
    if epochs is None:
        of_both = partial(known, data=data, model=model)
        epochs = _answer("epochs", "30" if is_small else "120", lambda text: of_both(epochs=text))
    return data, model, epochs


def _answer(question: str, default: str, check: Callable[[str], None]) -> str:
    """The first answer in which there is no mistake, and of whose data the bucket that has them tells."""
    from last_e.problems import ConfigError
    from last_e.redact import redact
    from runner.errors import LastrunError
    from runner.view.console import show

    while True:
        text = str(typer.prompt(question, default=default)).strip()
        try:
            check(text)
        except ConfigError as error:
            for problem in error.problems:
                show(f"error: {redact(str(problem))}", error=True)
        except LastrunError as error:  # a bucket without keys for it, or one that does not answer
            show(f"error: {redact(str(error))}", error=True)
        else:
            return text
