"""Commands that make a page of jobs: report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from runner.commands.options import GROUP_HELP, JsonOption, StoreOption, at_home


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
    from runner.errors import UsageError
    from runner.job.find import find
    from runner.job.group import Group
    from runner.launch.ssh.relay import fetch
    from runner.view.console import print_json, show
    from runner.view.report.page import page_of
    from runner.view.report.write import see_that_it_may_be_written, write

    found = [find(name, store) for name in names]
    jobs = {job.uri: job for one in found for job in (one.jobs() if isinstance(one, Group) else [one])}
    if not jobs:
        raise UsageError("there are no jobs to report on: name a group that has some, or jobs")
    out = Path(f"{found[0].id}.html") if out is None else out
    see_that_it_may_be_written(out, overwrite)
    for job in jobs.values():
        fetch(job)
    page, sentence = page_of(list(jobs.values()), found[0].id if len(found) == 1 else f"{len(jobs)} jobs")
    size = write(out, page)
    if json:
        print_json("report", {"file": str(out), "bytes": size, "jobs": [job.id for job in jobs.values()], "sentence": sentence})
        return
    show(sentence)
    show(f"{out}: open it in a browser ({size / 1e6:.1f} MB, needs no network)")
