"""The command that tells what attempts cannot tell themselves."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated

import typer

from runner.commands.options import GROUP_HELP, JsonOption, StoreOption, TrustOption

if TYPE_CHECKING:
    from runner.job.job import Job

_LONGEST = 30 * 86400
_TIMES = "allowed: a time such as 30m, 90s or 1h, of 30 days at most"


def watch(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[JOB|GROUP...]", help=f"{GROUP_HELP}; default: all", show_default=False)
    ] = None,
    once: Annotated[bool, typer.Option("--once", help="look once, as from cron; else until the jobs named have ended")] = False,
    every: Annotated[str, typer.Option("--every", metavar="TIME", help="from one look to the next")] = "1m",
    stalled_after: Annotated[
        str, typer.Option("--stalled-after", metavar="TIME", help="without a step for so long, an attempt that runs stalls")
    ] = "30m",
    limit: Annotated[
        int, typer.Option("--limit", metavar="N", min=1, max=10**6, help="of all jobs, so many, newest first")
    ] = 200,
    store: StoreOption = None,
    trust: TrustOption = False,
    json: JsonOption = False,
) -> None:
    """Tell those that jobs name (notify.*) of attempts that are lost or stall, and of ends that attempts could not tell."""
    from runner.errors import StoreError, UsageError, refuse
    from runner.view.console import print_json, show
    from runner.view.watch import print_told
    from runner.watch import Watch

    pause, idle = _seconds(every), _seconds(stalled_after)
    spans = (("--every", every, pause), ("--stalled-after", stalled_after, idle))
    refuse([f"{flag}: found {text}; {_TIMES}" for flag, text, seconds in spans if seconds is None])
    assert pause is not None
    assert idle is not None
    if trust and not names:
        raise UsageError(
            "--trust takes what jobs name of whom to tell, and others may write to their store: name those whose it shall take "
            "(lastrun watch JOB --trust); it is remembered, and lastrun watch then tells them without --trust"
        )
    watching = Watch(idle, trust_all=trust, are_named=bool(names))
    by_store, more = _jobs(names, store, limit)
    while True:
        goes_on, told = False, []
        for jobs in by_store:
            found, left = watching.look(jobs)
            told += found
            goes_on = goes_on or left
        watching.trust_all = False  # a group's jobs that are put there later were never seen by whoever said it
        notes, watching.notes = [*watching.notes, *([more] if more else [])], []
        failed = any(one.failed for one in told)
        if json and once:
            facts = [one.facts() for one in told]
            print_json("watch", {"jobs": sum(map(len, by_store)), "events": facts, "notes": notes})
        elif json:
            for one in told:
                print_json("watch", one.facts(), line=True)
        else:
            print_told(told)
        for note in [] if json and once else notes:
            show(note, error=True)
        if once or (names and not goes_on):
            break
        time.sleep(pause)
        try:
            by_store, more = _jobs(names, store, limit)
        except StoreError as error:  # it comes back, and so does this
            show(f"the jobs cannot be listed now: {error}", error=True)
    if failed:
        raise typer.Exit(1)


def _jobs(names: list[str] | None, store: str | None, limit: int) -> tuple[list[list[Job]], str | None]:
    """Those to look at, by their stores, and what is left out."""
    from itertools import islice

    from runner.job.find import find, list_jobs, store_with_jobs
    from runner.job.group import Group

    if not names:
        some = list(islice(list_jobs(store_with_jobs(store)), limit + 1))
        more = (
            f"note: more than {limit} jobs: the newest {limit} are watched; --limit takes more" if len(some) > limit else None
        )
        return [some[:limit]], more
    found = [find(name, store) for name in names]
    by_store: dict[str, dict[str, Job]] = {}
    for job in (job for one in found for job in (one.jobs() if isinstance(one, Group) else [one])):
        by_store.setdefault(job.store.uri, {})[job.uri] = job
    return [list(jobs.values()) for jobs in by_store.values()], None


def _seconds(text: str) -> float | None:
    """None of what is no time, or too long a one."""
    from last_e.config import parse_duration

    seconds = parse_duration(text)
    if isinstance(seconds, str) and seconds.isascii() and seconds.isdigit():
        seconds = int(seconds)
    return seconds if isinstance(seconds, int) and 0 < seconds <= _LONGEST else None
