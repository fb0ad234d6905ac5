"""``lastrun evaluate``: what a model is right and wrong in. ``last_e.score`` computes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

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

if TYPE_CHECKING:
    from runner.models import Model


def evaluate(
    model: Annotated[str, typer.Argument(metavar="JOB|FOLDER", help="a job, or the folder of a checkpoint")],
    data: Annotated[
        Path | None, typer.Option("--data", metavar="FILE", help="a prepared file instead of its own", callback=at_home)
    ] = None,
    split: Annotated[str | None, typer.Option("--split", metavar="NAME", help="split_type instead of its own")] = None,
    part: Annotated[str, typer.Option("--part", metavar="PART", help="test, train, or validation")] = "test",
    crops: Annotated[
        int, typer.Option("--crops", metavar="N", min=1, max=50, help="pieces of each clip, whose probabilities are averaged")
    ] = 1,
    mirror: MirrorOption = False,
    ema: EmaOption = False,
    noise: Annotated[
        float | None,
        typer.Option("--noise", metavar="METRES", help="spoil the clips: joints are off, by a standard deviation"),
    ] = None,
    missing: Annotated[
        float | None,
        typer.Option("--missing", metavar="CHANCE", help="spoil the clips: each joint is unseen with this chance, 0 to 1"),
    ] = None,
    motion: Annotated[
        float | None,
        typer.Option("--motion", metavar="FACTOR", help="spoil the clips: all joints go this part of their way, 0 to 10"),
    ] = None,
    with_: Annotated[
        list[str] | None,
        typer.Option("--with", metavar="JOB[:WEIGHT]", help="another model, whose probabilities are added; several times"),
    ] = None,
    weigh_on: Annotated[
        str | None,
        typer.Option("--weigh-on", metavar="PART", help="choose the weights by the least loss on this part (validation)"),
    ] = None,
    last: Annotated[bool, typer.Option("--last", help="the newest checkpoint instead of the best by top-1")] = False,
    step: Annotated[int | None, typer.Option("--step", metavar="N", min=0, help="the checkpoint of step N")] = None,
    csv: Annotated[
        Path | None, typer.Option("--csv", metavar="FILE", help="what is said of each clip, a line each", callback=at_home)
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="replace the file of --csv")] = False,
    set_: SetOption = None,
    store: StoreOption = None,
    trust: TrustOption = False,
    quiet: QuietOption = False,
    json: JsonOption = False,
) -> None:
    """Score a checkpoint anew: accuracy and how sure it is, per class, what is taken for what, calibration."""
    from last_e.bar import Bar
    from runner.evaluate import evaluate as score
    from runner.models import Model
    from runner.view.console import note, print_json, show
    from runner.view.evaluate import print_figures, see_that_it_can_be_written, write_csv

    if csv is not None:
        see_that_it_can_be_written(csv, overwrite)
    models = [Model(model), *map(_weighed, with_ or [])]
    spoil = {"noise": noise, "missing": missing, "motion": motion}
    with Bar("clips") as bar:
        result = score(
            models,
            store=store,
            trust=trust,
            last=last,
            step=step,
            data=data,
            split=split,
            part=part,
            crops=crops,
            weigh_on=weigh_on,
            mirror=mirror,
            ema=ema,
            spoil=spoil,
            settings=set_ or [],
            say=note,
            progress=bar.update,
        )
    said = result.pop("said")
    if csv is not None:  # first: of what is printed somebody may read the beginning alone
        write_csv(csv, said)
    how = {"part": part, "crops": crops, "mirror": mirror, "ema": ema, "spoil": spoil}
    if json:
        print_json("evaluate", {"models": [one.name for one in models], **how, **result})
    else:
        print_figures(result, how, [one.name for one in models])
    if csv is not None:
        show(f"{csv}: what is said of each of {result['clips']:,} clips", error=json)


def _weighed(word: str) -> Model:
    from runner.errors import UsageError
    from runner.models import Model

    name, colon, weight = word.rpartition(":")
    try:
        number = float(weight) if colon else 1.0
    except ValueError:  # STORE/JOB has colons of its own
        return Model(word)
    if not 0 < number <= 1000:
        raise UsageError(f"--with {word}: a weight is above 0, and 1000 at most")
    return Model(name if colon else word, number)
