"""``lastrun export`` and ``lastrun demo-page``: a trained network for other programs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from runner.commands.options import JsonOption, QuietOption, SetOption, StoreOption, TrustOption, at_home

if TYPE_CHECKING:
    from runner.models import Choice

ModelArgument = Annotated[str, typer.Argument(metavar="JOB|FOLDER", help="a job, or the folder of a checkpoint")]
LastOption = Annotated[bool, typer.Option("--last", help="the newest checkpoint instead of the best by test top-1")]
StepOption = Annotated[int | None, typer.Option("--step", metavar="N", min=0, help="the checkpoint of step N")]
DataOption = Annotated[
    Path | None, typer.Option("--data", metavar="FILE", help="a prepared file instead of its own", callback=at_home)
]
ClipsOption = Annotated[int, typer.Option("--clips", metavar="N", min=1, help="most clips of test that it is compared on")]
LicenceOption = Annotated[str, typer.Option("--licence", metavar="TEXT", help="the model's, for its card")]


def export(
    model: ModelArgument,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="the folder to make", callback=at_home)],
    format_: Annotated[str, typer.Option("--format", metavar="FORMAT", help="onnx, pt2, safetensors or executorch")] = "onnx",
    int8: Annotated[bool, typer.Option("--int8", help="also an ONNX model of eight bits, and what it loses")] = False,
    licence: LicenceOption = "",
    clips: ClipsOption = 256,
    last: LastOption = False,
    step: StepOption = None,
    data: DataOption = None,
    force: Annotated[bool, typer.Option("--force", help="replace the export that is there")] = False,
    set_: SetOption = None,
    store: StoreOption = None,
    trust: TrustOption = False,
    quiet: QuietOption = False,
    json: JsonOption = False,
) -> None:
    """Write a trained network as others run it: keypoints go in, compared with the trainer's on real clips."""
    from last_e.bar import Bar
    from runner.export import export as write
    from runner.view.console import note, print_json
    from runner.view.export import print_export

    with Bar("clips") as bar:
        about = write(
            model,
            out,
            format_,
            _choice(last, step, data, set_, store, trust),
            licence=licence,
            clips=clips,
            int8=int8,
            force=force,
            say=note,
            progress=bar.update,
        )
    if json:
        print_json("export", {"folder": str(out), **about})
    else:
        print_export(out, about)


def demo_page(
    model: Annotated[
        str, typer.Argument(metavar="JOB|FOLDER", help="a job, the folder of a checkpoint, or that of an export to ONNX")
    ],
    out: Annotated[Path, typer.Argument(metavar="OUT.HTML", help="the page to write", callback=at_home)],
    runtime: Annotated[
        Path | None,
        typer.Option(
            "--runtime", metavar="FILE", help="npm's package of onnxruntime-web; default: npm fetches it once", callback=at_home
        ),
    ] = None,
    licence: LicenceOption = "",
    clips: ClipsOption = 256,
    last: LastOption = False,
    step: StepOption = None,
    data: DataOption = None,
    force: Annotated[bool, typer.Option("--force", help="replace the file that is there")] = False,
    set_: SetOption = None,
    store: StoreOption = None,
    trust: TrustOption = False,
    quiet: QuietOption = False,
    json: JsonOption = False,
) -> None:
    """Write a page that recognises clips which are dropped into it: one HTML file, which asks no server for anything."""
    from last_e.bar import Bar
    from runner.demo_page import demo_page as write
    from runner.view.console import note, print_json, show

    with Bar("clips") as bar:
        made = write(
            model,
            out,
            _choice(last, step, data, set_, store, trust),
            licence=licence,
            clips=clips,
            runtime_file=runtime,
            force=force,
            say=note,
            progress=bar.update,
        )
    if json:
        print_json("demo-page", {"page": str(out), "bytes": made.size, "model": made.about})
    else:
        show(f"{out}: {made.size / 1e6:.1f} MB; open it in a browser, and drop a clip")


def _choice(last: bool, step: int | None, data: Path | None, set_: list[str] | None, store: str | None, trust: bool) -> Choice:
    from json import dumps

    from runner.errors import UsageError
    from runner.models import Choice

    if data is not None and not data.is_file():
        raise UsageError(f"--data {data}: no such file; without it the clips are those that the model was trained for")
    words = [*(set_ or []), *([] if data is None else [f"data.uri={dumps(str(data.absolute()))}"])]
    return Choice(store, trust, last, step, words)
