"""Commands that show jobs: list, status, logs."""

from __future__ import annotations

from typing import Annotated

import typer

from runner.commands.options import JobArgument, JobOrGroupArgument, JsonOption, StoreOption


def list_(
    store: StoreOption = None,
    limit: Annotated[int, typer.Option("--limit", min=1, help="how many, newest first")] = 50,
    group: Annotated[str | None, typer.Option("--group", metavar="GROUP", help="the jobs of a group alone")] = None,
    json: JsonOption = False,
) -> None:
    """List the jobs of a store, newest first."""
    from runner.job.find import list_jobs
    from runner.store.open import default_store, open_store
    from runner.view.console import print_json
    from runner.view.jobs import print_jobs
    from runner.view.status import summaries

    if group is None:
        target = open_store(store or default_store())
        found = list_jobs(target)
    else:
        from runner.job.find import find_group

        one = find_group(group, store)
        target, found = one.store, iter(one.jobs())
    jobs, more = summaries(found, limit)
    if json:
        print_json("list", {"store": target.uri, "jobs": jobs, "more": more})
    else:
        print_jobs(jobs, target.uri, more)


def status(
    job: JobOrGroupArgument,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="again every few seconds, until it no longer runs")] = False,
    store: StoreOption = None,
    json: JsonOption = False,
) -> None:
    """Show where a job is, how it fares, and what to do next; of a group, a line for each point."""
    from runner.job.find import find
    from runner.job.group import Group
    from runner.view.console import print_json
    from runner.view.jobs import print_status, watch_status
    from runner.view.status import follow_status, job_status

    found = find(job, store)
    if isinstance(found, Group):
        from runner.view.groups import follow_group, group_status, print_group, watch_group

        if json:
            print_json("status", group_status(found))
        elif watch:
            watch_group(follow_group(found))
        else:
            print_group(group_status(found))
    elif json:
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
