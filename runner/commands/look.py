"""Commands that show jobs: list, status, logs."""

from __future__ import annotations

from typing import Annotated

import typer

from runner.commands.options import JobArgument, JsonOption, StoreOption


def list_(
    store: StoreOption = None,
    limit: Annotated[int, typer.Option("--limit", min=1, help="how many, newest first")] = 50,
    json: JsonOption = False,
) -> None:
    """List the jobs of a store, newest first."""
    from runner.job.find import list_jobs
    from runner.store.open import existing_store
    from runner.view.console import print_json
    from runner.view.jobs import print_jobs
    from runner.view.status import summaries

    target = existing_store(store)
    jobs, more = summaries(list_jobs(target), limit)
    if json:
        print_json("list", {"store": target.uri, "jobs": jobs, "more": more})
    else:
        print_jobs(jobs, target.uri, more)


def status(
    job: JobArgument,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="again every few seconds, until it no longer runs")] = False,
    store: StoreOption = None,
    json: JsonOption = False,
) -> None:
    """Show where a job is, how it fares, and what to do next."""
    from runner.job.find import find_job
    from runner.view.console import print_json
    from runner.view.jobs import print_status, watch_status
    from runner.view.status import follow_status, job_status

    found = find_job(job, store)
    if json:
        print_json("status", job_status(found))
    elif watch:
        watch_status(follow_status(found))
    else:
        print_status(job_status(found))


def logs(
    job: JobArgument,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="wait for more, until the job no longer runs")] = False,
    store: StoreOption = None,
    json: JsonOption = False,
) -> None:
    """Print the log of all attempts of a job."""
    from runner.job.find import find_job
    from runner.view.console import print_json, show
    from runner.view.status import follow_log

    found = find_job(job, store)
    if json:
        print_json("logs", {"id": found.id, "lines": "".join(found.log()).splitlines()})
        return
    for piece in follow_log(found) if follow else found.log():
        show(piece, end="")
