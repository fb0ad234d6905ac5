"""Commands that show jobs: list, status, logs."""

from __future__ import annotations

from typing import Annotated

import typer

from runner.commands.options import GROUP_HELP, JobArgument, JobOrGroupArgument, JsonOption, QuietOption, StoreOption


def list_(
    store: StoreOption = None,
    limit: Annotated[int, typer.Option("--limit", metavar="N", min=1, max=10**6, help="how many, newest first")] = 50,
    group: Annotated[str | None, typer.Option("--group", metavar="GROUP", help="the jobs of a group alone")] = None,
    state: Annotated[
        list[str] | None,
        typer.Option("--state", metavar="STATE,...", help="those of these states alone, such as running or failed,lost"),
    ] = None,
    since: Annotated[
        str | None, typer.Option("--since", metavar="WHEN", help="those made since then: 2h, 3d, or a date such as 2026-11-30")
    ] = None,
    mine: Annotated[bool, typer.Option("--mine", help="those that were submitted by you")] = False,
    columns: Annotated[
        str | None, typer.Option("--columns", metavar="NAME,...", help="which columns, such as id,state,best,reason")
    ] = None,
    clouds: Annotated[
        bool,
        typer.Option("--clouds", help="the machines that are paid for by the hour instead, of jobs of any store"),
    ] = False,
    json: JsonOption = False,
) -> None:
    """List the jobs of a store, newest first."""
    if clouds:
        _list_clouds(json, alone=not (store or group or state or since or mine or columns))
        return
    from runner.commands.wanted import chosen_columns, wanted
    from runner.job.find import list_jobs, store_with_jobs
    from runner.view.console import print_json, show
    from runner.view.jobs import print_jobs
    from runner.view.status import summaries

    which, shown = wanted(state or [], since, mine, columns), chosen_columns(columns)
    if group is None:
        target = store_with_jobs(store)
        found = list_jobs(target)
    else:
        from runner.job.find import find_group

        one = find_group(group, store)
        target, found = one.store, iter(one.jobs())
    jobs, more = summaries(which.of(found), limit, which)
    if json:
        print_json("list", {"store": target.uri, "jobs": jobs, "more": more})
    else:
        print_jobs(jobs, target.uri, more, shown, some=bool(which))
        if unsaid := len(which.unsaid):
            of = "1 job does not say who submitted it" if unsaid == 1 else f"{unsaid} jobs do not say who submitted them"
            show(f"note: {of} (made by an older lastrun, or under an empty name): left out", error=True)


def _list_clouds(json: bool, *, alone: bool) -> None:
    from runner.errors import UsageError
    from runner.view.console import print_json
    from runner.view.market import print_rented, rented_facts

    if not alone:
        raise UsageError("--clouds lists machines, of any store and group: leave all but --json out")
    facts = rented_facts()
    if json:
        print_json("list", facts)
    else:
        print_rented(facts)


def gpus(json: JsonOption = False) -> None:
    """Tell which machines can be had through which launcher, for how much, and what is missing to use the others."""
    from runner.view.console import print_json
    from runner.view.market import offer_facts, print_offers

    facts = offer_facts()
    if json:
        print_json("gpus", facts)
    else:
        print_offers(facts)


def status(
    job: JobOrGroupArgument,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="again every few seconds, until it no longer runs")] = False,
    store: StoreOption = None,
    quiet: QuietOption = False,
    json: JsonOption = False,
) -> None:
    """Show where a job is, how it fares, and what to do next; of a group, a line for each point."""
    from runner.job.find import find
    from runner.job.group import Group
    from runner.view.console import print_json
    from runner.view.jobs import print_status
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
        from runner.view.live import watch_status

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
    from runner.launch.ssh.relay import fetch
    from runner.view.console import print_json, show

    found = find_job(job, store)
    if not follow:
        fetch(found)
    if json:
        print_json("logs", {"id": found.id, "lines": "".join(found.log()).splitlines()})
        return
    if follow:
        from runner.view.live import watch_log

        watch_log(found)
        return
    for piece in found.log():
        show(piece, end="")


def compare(
    names: Annotated[list[str], typer.Argument(metavar="GROUP|JOB...", help=GROUP_HELP)],
    csv: Annotated[bool, typer.Option("--csv", help="print a table for a spreadsheet")] = False,
    store: StoreOption = None,
    json: JsonOption = False,
) -> None:
    """Compare the jobs of a group, or any jobs of a store: what differs, top-1, time, cost; best first."""
    from runner.errors import UsageError
    from runner.job.find import find
    from runner.job.group import Group
    from runner.view.compare import compare as compared
    from runner.view.compare import comparison_csv, print_comparison
    from runner.view.console import print_json, show

    if csv and json:
        raise UsageError("--csv and --json are two forms of the same: give one of them")
    found = [find(name, store) for name in names]
    jobs = {job.uri: job for one in found for job in (one.jobs() if isinstance(one, Group) else [one])}
    if len(jobs) < 2:
        raise UsageError(f"there {'is one job' if jobs else 'are no jobs'} to compare: name a group, or several jobs")
    facts = compared(list(jobs.values()))
    if json:
        print_json("compare", facts)
    elif csv:
        show(comparison_csv(facts), end="")
        for name, why in facts["without"].items():
            show(f"without {name}: {why}", error=True)
    else:
        print_comparison(facts)
