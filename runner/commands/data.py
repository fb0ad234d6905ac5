"""``lastrun data``: prepared files made, imported, invented and looked at. The work is done by ``last_e.prepare``."""

from __future__ import annotations

import errno
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Annotated, Any

import typer

from runner.commands.options import JsonOption, QuietOption, at_home

data_app = typer.Typer(
    help="Make, import and look at prepared data files", no_args_is_help=True, add_completion=False, rich_markup_mode=None
)

DATASETS = ("ntu60", "ntu120")
KINDS = ("ctrgcn", "pyskl", "npy")
OWN_KINDS = ("csv", "npz", "json", "mediapipe", "openpose", "coco")
SPLITS = ("xsub", "xview", "xset")

OutOption = Annotated[Path, typer.Option("--out", metavar="FILE", help="the prepared file to write", callback=at_home)]
OverwriteOption = Annotated[bool, typer.Option("--overwrite", help="replace a file that is there with other clips")]
WorkersOption = Annotated[
    int | None, typer.Option("--workers", min=1, metavar="N", help="so many processes (default: one a core)")
]


@data_app.command()
def prepare(
    dataset: Annotated[str, typer.Argument(metavar="DATASET", help="ntu60 or ntu120")],
    raw: Annotated[
        list[Path], typer.Option("--raw", metavar="DIR|ARCHIVE", help="what NTU distributes; may be repeated", callback=at_home)
    ],
    out: OutOption,
    workers: WorkersOption = None,
    overwrite: OverwriteOption = False,
    quiet: QuietOption = False,
    json: JsonOption = False,
) -> None:
    """Prepare NTU RGB+D from its raw .skeleton files, in folders, or zip files as distributed, or tar files."""
    from last_e.bar import Bar
    from runner.errors import UsageError
    from runner.view.console import print_json, show
    from runner.view.prepared import report_text

    if dataset not in DATASETS:
        raise UsageError(f"data set: found {dataset!r}; allowed: {', '.join(DATASETS)}")
    with _errors(out), Bar("recordings") as bar:
        from last_e.prepare.ntu import prepare_ntu
        from last_e.prepare.scan import COMPILED

        if not COMPILED:
            show(
                "no numba that works here: reading takes about 15 times as long (from a clone: pip install '.[data]')",
                error=True,
            )
        report = prepare_ntu(
            dataset, raw, out, workers=workers, progress=bar.update, watch=bar.update_bytes, overwrite=overwrite
        )
    if json:
        print_json("data prepare", {"out": str(out), "resumed": report.resumed, **report.to_dict()})
    else:
        show(report_text(report, out), end="")


@data_app.command(name="import")
def import_(
    kind: Annotated[
        str, typer.Argument(metavar="KIND", help="ctrgcn, pyskl, npy; of your own: csv, npz, json, mediapipe, openpose, coco")
    ],
    path: Annotated[
        Path, typer.Argument(metavar="PATH", help="the file, or the folder of files, as the kind is", callback=at_home)
    ],
    out: OutOption,
    split: Annotated[str | None, typer.Option("--split", metavar="NAME", help="what the split is called")] = None,
    train_list: Annotated[
        str | None,
        typer.Option("--train-list", metavar="NAME", help="which of a pyskl file's lists names who trains"),
    ] = None,
    layout: Annotated[
        str | None, typer.Option("--layout", metavar="NAME|JSON", help="which joint is which: coco17, openpose25, ...")
    ] = None,
    classes: Annotated[
        str | None, typer.Option("--classes", metavar="A,B,...|FILE", help="names of the classes, in their order")
    ] = None,
    clips: Annotated[
        Path | None,
        typer.Option("--clips", metavar="CSV", help="a table: name, label, subject, camera, part", callback=at_home),
    ] = None,
    units: Annotated[
        str | None, typer.Option("--units", metavar="UNIT", help="metres, centimetres, millimetres, pixels or image")
    ] = None,
    fps: Annotated[float, typer.Option("--fps", min=0.001, max=1000, metavar="N", help="frames a second")] = 30.0,
    people: Annotated[
        int, typer.Option("--people", min=1, max=16, metavar="N", help="most people that are followed (openpose, coco)")
    ] = 1,
    name: Annotated[str | None, typer.Option("--name", metavar="NAME", help="what the set is called")] = None,
    source: Annotated[str | None, typer.Option("--source", metavar="TEXT", help="where it comes from")] = None,
    by: Annotated[str | None, typer.Option("--by", metavar="WHAT", help="share out by subject or by clip")] = None,
    train: Annotated[str | None, typer.Option("--train", metavar="A,B|@FILE", help="who trains")] = None,
    test: Annotated[str | None, typer.Option("--test", metavar="A,B|@FILE|0.2", help="who tests, or a fraction")] = None,
    validation: Annotated[
        str | None, typer.Option("--validation", metavar="A,B|@FILE|0.1", help="who neither trains nor tests")
    ] = None,
    seed: Annotated[int | None, typer.Option("--seed", metavar="N", min=0, help="decides fractions (default: 0)")] = None,
    mirrored: Annotated[
        str | None, typer.Option("--mirrored", metavar="A=B,...|none", help="classes that change places in a mirror")
    ] = None,
    overwrite: OverwriteOption = False,
    quiet: QuietOption = False,
    json: JsonOption = False,
) -> None:
    """Import what another project has prepared, or keypoints of any program's as a data set of your own."""
    from last_e.bar import Bar
    from runner.errors import UsageError
    from runner.view.console import print_json, show
    from runner.view.prepared import imported_text, written_text

    own: dict[str, Any] = {
        "layout": layout,
        "classes": classes,
        "clips": clips,
        "units": units,
        "name": name,
        "source": source,
        "by": by,
    }
    own |= {"train": train, "test": test, "validation": validation, "seed": seed, "mirrored": mirrored}
    own = {key: value for key, value in own.items() if value is not None}
    if kind in OWN_KINDS or (kind == "pyskl" and layout is not None):
        if train_list is not None and kind != "pyskl":
            raise UsageError("--train-list: only pyskl's files have lists to choose from; --train says who trains")
        with _errors(out, goes_on=False), Bar("clips") as bar:
            from last_e.prepare.import_own import Wanted, import_keypoints

            wanted = Wanted(fps=fps, people=people, split=split, train_list=train_list, **own)
            written = import_keypoints(kind, path, out, wanted, overwrite=overwrite, progress=bar.update)
        if json:
            print_json("data import", {"out": str(out), "kind": kind, **written.to_dict()})
        else:
            show(written_text(written, out), end="")
        return
    if kind not in KINDS:
        raise UsageError(f"kind: found {kind!r}; allowed: {', '.join((*KINDS, *OWN_KINDS))}")
    if own:
        also = " and, with --layout, of pyskl" if kind == "pyskl" else ""
        raise UsageError(f"--{next(iter(own))}: {kind} is of NTU's; that is said of {', '.join(OWN_KINDS)}{also}")
    if split not in (None, *SPLITS):
        raise UsageError(f"--split: found {split!r}; allowed: {', '.join(SPLITS)}")
    with _errors(out, goes_on=False), Bar("clips") as bar:
        from last_e.prepare.foreign import import_file

        report = import_file(kind, path, out, split=split, train_list=train_list, progress=bar.update, overwrite=overwrite)
    if json:
        print_json("data import", {"out": str(out), **vars(report)})
    else:
        show(imported_text(report, out), end="")


@data_app.command()
def synth(
    like: Annotated[str, typer.Option("--like", metavar="NAME|FILE", help="ntu60, ntu120 or a prepared file")],
    out: OutOption,
    clips: Annotated[int | None, typer.Option("--clips", min=1, metavar="N", help="default: as many as the original")] = None,
    seed: Annotated[int, typer.Option("--seed", metavar="N", min=0, help="decides everything")] = 0,
    overwrite: OverwriteOption = False,
    quiet: QuietOption = False,
    json: JsonOption = False,
) -> None:
    """Make up a data set of the size and shape of NTU RGB+D, for benchmarks."""
    from last_e.bar import Bar
    from last_e.text import counted
    from runner.view.console import print_json, show

    with _errors(out, goes_on=False), Bar("clips") as bar:
        from last_e.prepare.synth import synthesize

        count = synthesize(like, out, clips=clips, seed=seed, progress=bar.update, overwrite=overwrite)
    if json:
        print_json("data synth", {"out": str(out), "clips": count, "like": like, "seed": seed})
    else:
        show(f"{out}: {counted(count, 'made-up clip')} like {like}\nnext: lastrun data inspect {out}")


@data_app.command()
def inspect(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="a prepared file", callback=at_home)],
    animate: Annotated[
        Path | None, typer.Option("--animate", metavar="HTML", help="write a clip as a page that plays it", callback=at_home)
    ] = None,
    clip: Annotated[str, typer.Option("--clip", metavar="CLIP", help="which one: its name, or its number from 0")] = "0",
    augment: Annotated[
        bool, typer.Option("--augment", help="with --animate: before and after each augmentation, side by side")
    ] = False,
    seed: Annotated[int, typer.Option("--seed", metavar="N", min=0, help="with --augment: decides what is random")] = 0,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="with --animate: replace a file that is no page")] = False,
    json: JsonOption = False,
) -> None:
    """Show what a prepared file holds, and whether it is whole; draw a clip as an animation."""
    from runner.errors import LastrunError, UsageError
    from runner.view.console import print_json, show
    from runner.view.prepared import summary_text

    if (augment or seed) and animate is None:
        raise UsageError("--augment, --seed: they are of the page that --animate writes: name it")
    if animate is not None and animate.is_file() and not overwrite and not _is_page(animate):
        raise UsageError(f"{animate} is there already, and is no page: name another file, or say --overwrite")
    with _errors(file, goes_on=False):
        from last_e.prepare.inspect import animate as write_page
        from last_e.prepare.inspect import summarize

        summary = summarize(file)
        drawn = None
        if animate is not None:
            drawn = _before_and_after(file, clip, animate, seed) if augment else write_page(file, clip, animate)
    if json:
        page = None if animate is None else str(animate)
        print_json("data inspect", {"file": str(file), **summary.to_dict(), "animated": drawn, "page": page})
    else:
        show(summary_text(summary, file), end="")
        if drawn is not None:
            show(f"{animate}: {drawn}; open it in a browser")
    if summary.own is not None and summary.own.fatal:
        raise LastrunError(f"{file}: nothing can be trained with it: {'; '.join(summary.own.fatal)}")
    if summary.whole is False:
        raise LastrunError(f"{file}: damaged: its bytes are not those that its header says; make or fetch it again")


def _is_page(file: Path) -> bool:
    with suppress(OSError), file.open("rb") as there:
        return there.read(15).lower() == b"<!doctype html>"
    return False


def _before_and_after(file: Path, clip: str, page: Path, seed: int) -> str:
    """Augmentations are the trainer's, and need torch."""
    from runner.child import result_of

    asked = {"file": str(file.absolute()), "clip": clip, "page": str(page.absolute()), "seed": seed}
    return str(result_of("last_e.before_after", asked, lambda done, total, what: None, "the page")["clip"])


@contextmanager
def _errors(out: Path, *, goes_on: bool = True) -> Iterator[None]:
    """Every mistake ends in one line that says what to do; an interrupted command can be repeated."""
    from last_e.datafile import DataError
    from runner.errors import EngineError, LastrunError, PausedError, UsageError

    def interrupt(signum: int, frame: object) -> None:
        raise KeyboardInterrupt

    # What is ignored already, as by nohup, stays so.
    heard = [n for n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP) if signal.getsignal(n) is not signal.SIG_IGN]
    before = {number: signal.signal(number, interrupt) for number in heard}
    try:
        yield
    except KeyboardInterrupt:
        if not goes_on:
            raise
        raise PausedError(f"interrupted; {out} is not made yet, and the same command goes on with what is done") from None
    except ModuleNotFoundError as error:
        raise EngineError(
            f"this needs {error.name}, which is not installed; from a clone of lastrun: pip install '.[data]'"
        ) from None
    except DataError as error:
        raise (UsageError if error.missing or error.other else LastrunError)(str(error)) from None
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise LastrunError(
                f"{out}: the disk is full; free some space (twice the file's size is needed), then repeat"
            ) from None
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
