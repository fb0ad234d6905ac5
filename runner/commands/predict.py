"""``lastrun predict``: what a model says of recordings. ``last_e.predict`` computes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from runner.commands.options import (
    EmaOption,
    JsonOption,
    MirrorOption,
    QuietOption,
    SetOption,
    StoreOption,
    TrustOption,
    at_home,
)


def predict(
    model: Annotated[str, typer.Argument(metavar="JOB|FOLDER", help="a job, or the folder of a checkpoint")],
    files: Annotated[
        list[str], typer.Argument(metavar="FILE...", help="files, folders, or - for JSON lines on standard input")
    ],
    top: Annotated[int, typer.Option("--top", metavar="N", min=1, max=1000, help="so many classes of each")] = 3,
    window: Annotated[
        str | None, typer.Option("--window", metavar="N|Ns", help="go through long recordings by so many frames, or seconds")
    ] = None,
    stride: Annotated[
        str | None, typer.Option("--stride", metavar="N|Ns", help="from window to window; default: half of one")
    ] = None,
    fps: Annotated[
        float | None, typer.Option("--fps", metavar="N", min=0.1, max=1000, help="frames a second, default: the training set's")
    ] = None,
    kind: Annotated[
        str | None, typer.Option("--kind", metavar="KIND", help="what the files are; default: as their names say")
    ] = None,
    units: Annotated[
        str | None, typer.Option("--units", metavar="UNITS", help="of keypoints; default: the training set's")
    ] = None,
    crops: Annotated[
        int, typer.Option("--crops", metavar="N", min=1, max=50, help="pieces of each clip, whose probabilities are averaged")
    ] = 1,
    mirror: MirrorOption = False,
    ema: EmaOption = False,
    last: Annotated[bool, typer.Option("--last", help="the newest checkpoint instead of the best by top-1")] = False,
    step: Annotated[int | None, typer.Option("--step", metavar="N", min=0, help="the checkpoint of step N")] = None,
    csv: Annotated[
        Path | None, typer.Option("--csv", metavar="FILE", help="a table, a line for each clip or window", callback=at_home)
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="replace the file of --csv")] = False,
    lines: Annotated[bool, typer.Option("--lines", help="print a JSON object for each, as it is found")] = False,
    set_: SetOption = None,
    store: StoreOption = None,
    trust: TrustOption = False,
    quiet: QuietOption = False,
    json: JsonOption = False,
) -> None:
    """Say what recordings show: class names and probabilities, of each or over time."""
    from runner.errors import Exit, UsageError
    from runner.models import Choice
    from runner.predict import How
    from runner.predict import predict as ask
    from runner.view.console import note
    from runner.view.evaluate import see_that_it_can_be_written
    from runner.view.predict import Csv, passed_on, print_as_json, print_found

    if json and lines:
        raise UsageError("--json and --lines are two forms of the same: give one of them")
    if files.count("-") > 1:
        raise UsageError("- is standard input, which can be read once")
    if csv is not None:
        see_that_it_can_be_written(csv, overwrite)
    choice = Choice(store, trust, last, step, set_ or (), ema, needs_data=False)
    how = How(top, kind, units, window, stride, fps, crops, mirror)
    places = [word if word == "-" else str(Path(word).expanduser()) for word in files]
    events = ask(model, places, choice, how, note)
    found = passed_on(events, quiet=json)
    if csv is not None:
        found = Csv(csv, is_timed=window is not None, top=top).kept(found)
    result = print_as_json(found, by_line=lines) if json or lines else print_found(found)
    if code := result.get("exit_code", Exit.FAILED if result.get("problems") else Exit.DONE):
        raise typer.Exit(code)
