"""Commands that make a page of jobs: report, open."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

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


def _jobs(names: list[str], store: str | None) -> tuple[list[Job], str, str]:
    """Those that are meant, groups' among them, what a page of them is called, and the ID of the first that was named."""
    from runner.errors import UsageError
    from runner.job.find import find
    from runner.job.group import Group

    found = [find(name, store) for name in names]
    jobs = {job.uri: job for one in found for job in (one.jobs() if isinstance(one, Group) else [one])}
    if not jobs:
        raise UsageError("there are no jobs to report on: name a group that has some, or jobs")
    return list(jobs.values()), found[0].id if len(found) == 1 else f"{len(jobs)} jobs", found[0].id
