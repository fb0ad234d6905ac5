"""``lastrun bench``: how fast the trainer is here, against a plain one in the same run. ``last_e.bench`` measures."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from runner.commands.options import JsonOption, QuietOption, at_home


def bench(
    model: Annotated[str, typer.Option("--model", metavar="NAME", help="nano, small, base or large")] = "base_e_v3",
    env: Annotated[str, typer.Option("--env", metavar="ENV", help="auto, local, kaggle, gcp, lambda or a100")] = "auto",
    data: Annotated[
        Path | None, typer.Option("--data", metavar="FILE", help="a prepared file (default: made-up)", callback=at_home)
    ] = None,
    part: Annotated[
        list[str] | None, typer.Option("--part", metavar="PART", help="only this: data, forward, train or epoch")
    ] = None,
    rounds: Annotated[int, typer.Option("--rounds", metavar="N", min=1, max=100, help="how often each is measured")] = 3,
    seconds: Annotated[float, typer.Option("--seconds", metavar="SECONDS", min=0.1, max=600, help="how long each time")] = 3.0,
    alone: Annotated[bool, typer.Option("--alone", help="leave out the plain trainer that this one is compared with")] = False,
    ranks: Annotated[
        str | None, typer.Option("--ranks", metavar="N,N,...", help="training steps with so many ranks as well, such as 1,2,4")
    ] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE ...", help="set any keys; values read as YAML")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="FILE", help="where the result goes (default: where plan finds it)", callback=at_home),
    ] = None,
    quiet: QuietOption = False,
    json: JsonOption = False,
) -> None:
    """Measure clips per second on this machine, for lastrun plan and for you."""
    from last_e.bar import Bar
    from last_e.terminal import is_quiet
    from runner.plan.bench import measure
    from runner.view.bench import print_result
    from runner.view.console import print_json, show

    def say(text: str) -> None:
        if not is_quiet():
            show(text, error=True)

    with Bar("measurements") as bar:
        result, file = measure(
            model,
            env,
            data,
            part or [],
            rounds=rounds,
            seconds=seconds,
            alone=alone,
            settings=set_ or [],
            out=out,
            progress=bar.update,
            say=say,
            ranks=ranks,
        )
    if json:
        print_json("bench", {"file": None if file is None else str(file), **result})
    else:
        print_result(result, file)
