"""Commands that show curves of jobs in a browser: report, open, tensorboard."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from runner.commands.options import GROUP_HELP, JsonOption, StoreOption, at_home

if TYPE_CHECKING:
    from runner.job.job import Job


def report(
    names: Annotated[list[str], typer.Argument(metavar="JOB|GROUP...", help=GROUP_HELP)],
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="default: ID.html, in the current folder", callback=at_home)
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="replace a file that is no report")] = False,
    store: StoreOption = None,
    json: JsonOption = False,
) -> None:
    """Write a page of a job, or of several compared, that needs no network: curves, attempts, what is right and wrong."""
    from runner.launch.ssh.relay import fetch
    from runner.view.console import print_json, show
    from runner.view.report.page import page_of
    from runner.view.report.write import see_that_it_may_be_written, write

    jobs, title, first = _jobs(names, store)
    out = Path(f"{first}.html") if out is None else out
    see_that_it_may_be_written(out, overwrite)
    for job in jobs:
        fetch(job)
    page, sentence = page_of(jobs, title)
    size = write(out, page)
    if json:
        print_json("report", {"file": str(out), "bytes": size, "jobs": [job.id for job in jobs], "sentence": sentence})
        return
    show(sentence)
    show(f"{out}: open it in a browser ({size / 1e6:.1f} MB, needs no network)")


def open_(
    names: Annotated[list[str], typer.Argument(metavar="JOB|GROUP...", help=GROUP_HELP)],
    store: StoreOption = None,
    json: JsonOption = False,
) -> None:
    """Open the report of a job, or of several compared, in the browser; it is made where there is none of what there is now."""
    from runner.launch.ssh.relay import fetch
    from runner.view.browser import open_page
    from runner.view.console import print_json, show
    from runner.view.report.kept import page_of_now

    jobs, title, _ = _jobs(names, store)
    for job in jobs:
        fetch(job)
    path, made = page_of_now(jobs, title)
    opened = not json and open_page(path)
    if json:
        print_json("open", {"file": str(path), "made": made, "jobs": [job.id for job in jobs]})
    elif opened:
        show(f"{path}: opened in the browser")
    else:
        show(f"{path}: no browser can be opened from here; open it in one (it needs no network)")


def tensorboard(
    names: Annotated[list[str], typer.Argument(metavar="JOB|GROUP...", help=GROUP_HELP)],
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FOLDER", help="only write the files, into a new folder", callback=at_home)
    ] = None,
    port: Annotated[
        int | None,
        typer.Option("--port", metavar="N", min=0, max=65535, help="default: 6006, or the next one that is free; 0: any"),
    ] = None,
    store: StoreOption = None,
    json: JsonOption = False,
) -> None:
    """Show curves of jobs in TensorBoard, as they grow: one run a job over all its attempts, by step and by epoch."""
    import tempfile

    from runner.errors import UsageError
    from runner.signals import handled, interrupt
    from runner.view.board import Board, follow, make_boards, shown, write
    from runner.view.console import print_json, show

    if out is not None and port is not None:
        raise UsageError("--out only writes files: leave --port out, or --out")
    jobs, _, _ = _jobs(names, store)

    def facts(boards: list[Board]) -> list[dict[str, Any]]:
        return [dict(zip(("id", "steps", "epochs"), (board.job.id, *board.counted))) for board in boards]

    if out is not None:
        found = facts(write(jobs, out))
        if json:
            print_json("tensorboard", {"folder": str(out), "jobs": found})
        else:
            show(f"{out}: tensorboard --logdir {out} shows it")
        return
    try:
        with handled(interrupt), tempfile.TemporaryDirectory(prefix="lastrun-board-") as folder:
            boards = make_boards(jobs, Path(folder))
            with shown(Path(folder), port) as address:
                if json:
                    print_json("tensorboard", {"address": address, "jobs": facts(boards)}, line=True)
                else:
                    show(f"{address} shows {', '.join(job.id for job in jobs)}, and what comes; Ctrl-C ends it")
                follow(boards, lambda text: show(text, error=True))
    except KeyboardInterrupt:  # as it is meant to end
        return


def _jobs(names: list[str], store: str | None) -> tuple[list[Job], str, str]:
    """Those that are meant, groups' among them, what they are called together, and what a file of them is."""
    from runner.errors import UsageError
    from runner.job.find import find
    from runner.job.group import Group

    found = [find(name, store) for name in names]
    jobs = {job.uri: job for one in found for job in (one.jobs() if isinstance(one, Group) else [one])}
    if not jobs:
        raise UsageError("there are no jobs to show: name a group that has some, or jobs")
    if len(found) == 1:
        return list(jobs.values()), found[0].id, found[0].id
    return list(jobs.values()), f"{len(jobs)} jobs", f"{found[0].id}-and-{len(found) - 1}-more"
