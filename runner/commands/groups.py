"""What submit and resume do with the points of a sweep; and the command that runs them in the background."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from runner.commands.options import (
    AllowOption,
    EnvOption,
    HereOption,
    LauncherOption,
    OnOption,
    ParallelOption,
    SetOption,
    StopAfterOption,
    TakeoverOption,
)
from runner.version import lastrun_version

if TYPE_CHECKING:
    from runner.job.group import Group
    from runner.launch.points import Task
    from runner.launch.ready import How
    from runner.resolve import Points
    from runner.trust import Trust
    from runner.weights import Begun

ASK_ABOVE = 20
_NO_SHUTDOWN = (
    "{what} is a sweep: found run.after: shutdown, or --yes-shut-down, which are for one job; the first point that ends would "
    "switch the machine off"
)
_NO_RELAY = (
    "{what} is a sweep: found --relay, which is for one job; points that go from host to host need a store that all of them "
    "reach: --store s3://BUCKET/PREFIX, or a folder that the hosts have, too"
)
_NO_CONTINUING = (
    "{what} is a sweep: found run.auto_continue: {most}, which is for one job; lastrun resume GROUP goes on with all of its "
    "points that were cut"
)


def submit_sweep(
    found: Points,
    spec: Path,
    how: How,
    store: str | None,
    parallel: int | None,
    stop_after: int | None,
    *,
    dry_run: bool,
    detach: bool,
    yes: bool,
    json: bool,
) -> NoReturn:
    """Check all points, make a job of each, run them."""
    from runner import kaggle
    from runner.errors import Exit, LastrunError, UsageError
    from runner.launch.hosts import approve_on
    from runner.launch.line import see_that_somebody_decides
    from runner.launch.points import approve_all
    from runner.launch.slots import host_slots, make_slots
    from runner.plan.sweep import estimate
    from runner.resolve import resolve_points
    from runner.store.open import store_of
    from runner.trust import Trust, brought, mark, notes_of_file
    from runner.view.console import print_json, show
    from runner.view.groups import values_text
    from runner.view.plan import sweep_text
    from runner.weights import with_their_weights

    jobs = [point.job for point in found.points]
    config = jobs[0].config
    if config.run.relay and config.run.launcher == "ssh":
        raise UsageError(_NO_RELAY.format(what=spec))
    if config.run.after == "shutdown" or how.shut_down:
        raise UsageError(_NO_SHUTDOWN.format(what=spec))
    if config.run.auto_continue:
        raise UsageError(_NO_CONTINUING.format(what=spec, most=config.run.auto_continue))
    see_that_somebody_decides(found.halving, config, detach=detach)
    target = store_of(config.store, store)
    told = list(dict.fromkeys(note for job in jobs for note in [*notes_of_file(job, spec), *job.of_data]))
    told += kaggle.notes(target.uri)
    resolving = list(dict.fromkeys(note for job in jobs for note in job.notes)) if dry_run and not json else []
    for note in [*resolving, *told]:
        show(note, error=json or not dry_run)
    begun = with_their_weights(jobs, target.uri)  # not before that was shown: it asks for what the file names
    of_weights = list(dict.fromkeys(text for one in begun for text in one.told))
    slots = host_slots(how.on, parallel) if how.on else make_slots(parallel, config, len(jobs))
    cost = estimate(jobs, min(len(slots), len(jobs)))
    if how.on:
        cost = replace(cost, busy=None)  # that is of this machine
    there = {}
    for host in how.on:
        its = how.at(host)
        there[host] = [point.job for point in resolve_points(spec, its.env, its.settings, its.launcher).points]
    obstacle: LastrunError | None = None
    try:
        if there:
            approve_on(target, there, here=how.here, only_look=dry_run)
        else:
            approve_all(target, jobs, here=how.here, only_look=dry_run)
    except LastrunError as error:
        if not dry_run:
            raise
        obstacle = error
    if dry_run:
        code = obstacle.exit_code if obstacle else Exit.DONE
        if json:
            said = {
                "dry_run": True,
                "obstacle": str(obstacle) if obstacle else None,
                "notes": [*told, *of_weights],
                "store": target.uri,
            }
            print_json("submit", {**said, "points": [point.values for point in found.points], **cost.to_dict()})
            raise typer.Exit(code)
        for note in of_weights:
            show(note)
        for number, point in enumerate(found.points, 1):
            show(f"point {number}: {values_text(point.values)}")
        show(sweep_text(cost))
        show(f"it could not start here: {obstacle}" if obstacle else f"would submit to {target.uri}; nothing was written")
        raise typer.Exit(code)
    for note in of_weights:
        show(note, error=True)
    show(sweep_text(cost), error=json)
    if len(jobs) > ASK_ABOVE and not yes:
        if json or not sys.stdin.isatty():
            raise UsageError(f"{len(jobs)} points: --yes begins more than {ASK_ABOVE}; nothing was written")
        show(f"begin {len(jobs)} points? [y/N] ", end="")
        if sys.stdin.readline().strip().lower() not in ("y", "yes"):
            raise UsageError("nothing was written; --yes begins them without asking")
    values = [brought(job) for some in (jobs, *there.values()) for job in some]
    for one in values:
        Trust(target.uri).remember(one)
    marks = {mark(key, value) for one in values for key, value in one.items()}
    group = _held(lambda: _make(target, found, begun, how.on), json)
    again = replace(how, env=how.env if how.on else None, settings=(), launcher=None)  # its jobs have what was set
    _run(group, again, lambda: Trust(target.uri, marks), parallel, stop_after, detach, json, "submit")


def _make(target: Any, found: Points, begun: Sequence[Begun], hosts: Sequence[str]) -> Group:
    from last_e.described import SUFFIX
    from runner.job.group import Group, PointRecord
    from runner.resolve import as_name, name_of
    from runner.submitter import submitter

    names = {name_of(point.job.config) for point in found.points}
    name = names.pop() if len(names) == 1 else as_name(f"sweep-{found.points[0].job.config.dataset.removesuffix(SUFFIX)}")
    # What was asked for is kept, not what auto found here: the attempts may run elsewhere.
    records = [
        PointRecord(
            values=point.values,
            config=one.job.items(),
            origins={key: str(origin) for key, origin in one.job.origins.items()},
        )
        for point, one in zip(found.points, begun)
    ]
    weights = [one.weights for one in begun]
    return Group.create(target, name, records, lastrun_version(), hosts, found.halving, weights, submitter())


def _held(make: Callable[[], Group], json: bool) -> Group:
    """Make a group and its jobs whole before a signal is heard; one asked twice does not wait for a store that hangs."""
    from runner.errors import PausedError
    from runner.signals import handled, interrupt
    from runner.view.console import say

    asked: list[int] = []
    group: Group | None = None

    def once_it_is_made(signum: int) -> None:
        if asked:
            interrupt(signum)
        asked.append(signum)

    try:
        with handled(once_it_is_made):
            group = make()
            if not json:
                say(f"group: {group.uri}")
            group.complete()
    except KeyboardInterrupt:
        if group is None:
            raise
    if asked and group is not None:
        raise PausedError(f"{group.id}: interrupted; lastrun resume {group.reference} goes on with it")
    assert group is not None
    return group


def resume_group(
    group: Group, how: How, trust_all: bool, parallel: int | None, stop_after: int | None, detach: bool, json: bool
) -> NoReturn:
    """Run again what of a group is unfinished."""
    from runner import kaggle
    from runner.errors import UsageError
    from runner.launch.hosts import with_its_hosts
    from runner.trust import Trust
    from runner.view.console import say, show

    marks: set[str] = set()
    if "run.relay=true" in how.settings:
        raise UsageError(_NO_RELAY.format(what=group.id))
    if how.shut_down:
        raise UsageError(_NO_SHUTDOWN.format(what=group.id))
    if any(word.startswith("run.auto_continue=") for word in how.settings):
        raise UsageError(_NO_CONTINUING.format(what=group.id, most="..."))
    how = with_its_hosts(group, how, Trust(group.store.uri, all_of_it=trust_all), remember=trust_all)
    if group.store.is_read_only(group.paths.all):
        group, marks = _at_home(group, how, trust_all)
    if (made := group.complete()) and not json:
        say(f"{group.id}: {made} jobs were missing, since its submit was cut; they are made")
    for note in kaggle.notes(group.store.uri):
        show(note, error=True)
    make_trust = partial(Trust, group.store.uri, marks, all_of_it=trust_all)
    _run(group, how, make_trust, parallel, stop_after, detach, json, "resume", trust_all)


def _at_home(source: Group, how: How, trust_all: bool) -> tuple[Group, set[str]]:
    """A group of a store that can only be read, copied to where it can be written, once all of it is seen to be able to go on;
    and the marks of what is taken of it."""
    from last_e.bar import Bar
    from runner.job.carry import carry_group, home_of, to_carry
    from runner.launch.points import find_tasks
    from runner.trust import Trust, mark, see_that_nothing_is_gained
    from runner.view.console import show

    home = home_of(source)
    to_copy = to_carry(source, home)
    taken = Trust(source.store.uri, all_of_it=trust_all)
    tasks = find_tasks(to_copy, how.at(how.on[0]) if how.on else how, lambda: taken, copied=True)
    to = Trust(home.store.uri)
    see_that_nothing_is_gained(taken, to)
    values = [task.go.values for task in tasks if task.go is not None]
    for one in values:
        to.remember(one)
        if trust_all:
            taken.remember(one)
    with Bar("MB") as bar:
        carry_group(source, home, to_copy, lambda note: show(note, error=True), bar.of_growing)
    return home, {mark(key, value) for one in values for key, value in one.items()}


def _run(
    group: Group,
    how: How,
    make_trust: Callable[[], Trust],
    parallel: int | None,
    stop_after: int | None,
    detach: bool,
    json: bool,
    command: str,
    remember: bool = False,
) -> NoReturn:
    from runner import kaggle
    from runner.errors import ClaimedError, Exit, UsageError
    from runner.launch import hosts
    from runner.launch.line import HalvedLine, Line, see_that_somebody_decides
    from runner.launch.points import approve_all, find_tasks
    from runner.launch.side_by_side import STOP_AFTER, SideBySide
    from runner.launch.slots import host_slots, make_slots
    from runner.view.console import json_text, say
    from runner.view.groups import PointsView, group_status

    there = {host: find_tasks(group.jobs(), how.at(host), make_trust) for host in how.on}
    tasks = there[how.on[0]] if how.on else find_tasks(group.jobs(), how, make_trust)
    todo = [task for task in tasks if task.go is not None]
    others = {kind: [task for task in tasks if task.kind == kind] for kind in ("succeeded", "running", "failed")}
    if not todo:
        if others["running"]:
            raise ClaimedError(
                f"{group.id}: all that is unfinished is being run; lastrun status -w {group.reference} follows it, "
                "--takeover takes it over"
            )
        if others["failed"]:
            raise UsageError(
                f"{group.id}: {_failed(others['failed'])}; going on unchanged would end the same way: lastrun status "
                f"{group.reference} tells, --set KEY=VALUE --allow-change KEY changes something"
            )
        raise UsageError(f"{group.id} is complete: there is nothing to go on with; lastrun compare {group.reference} shows it")
    configs = [task.go.resolved for task in todo if task.go is not None]
    halving = group.halving()
    line = Line(todo) if halving is None else HalvedLine(group, halving, todo, others["failed"])
    if not line and not others["running"]:
        raise UsageError(
            f"{group.id}: its search is over: the points that are left were weaker, and wait; lastrun resume JOB trains one "
            f"to its end, lastrun compare {group.reference} shows all of them"
        )
    see_that_somebody_decides(halving, configs[0].config, detach=detach)
    for one in configs:
        kaggle.take_secrets(one.config.named_variables())
    if command == "resume" and how.on:
        wanted = {host: [task.go.resolved for task in some if task.go is not None] for host, some in there.items()}
        hosts.approve_on(group.store, wanted, here=how.here, prefix=group.paths.all)
    elif command == "resume":
        approve_all(group.store, configs, here=how.here, prefix=group.paths.all)
    slots = host_slots(how.on, parallel) if how.on else make_slots(parallel, configs[0].config, len(todo))
    if remember:
        for task in todo:
            make_trust().remember(task.go.values if task.go is not None else {})
    if detach:
        done = _detach(group, todo, len(slots), how, parallel, stop_after)
        if json:
            say(json_text(command, group_status(group)))
        else:
            say(f"{done}; lastrun status {group.reference}")
        raise typer.Exit(0)
    at_work = hosts.at_work(others["running"], how.on) if how.on else []
    followed = {task.number for task, _, _ in at_work}
    others["running"] = [task for task in others["running"] if task.number not in followed]
    if not json and (skipped := [f"{len(found)} {kind}" for kind, found in others.items() if found]):
        say(f"{len(todo)} points to run; left alone: {', '.join(skipped)}")
    with PointsView(len(todo) + len(at_work), quiet=json) as view:
        prepare = hosts.preparing(how, make_trust) if how.on else None
        runner = SideBySide(group, line, slots, stop_after or STOP_AFTER, view, prepare, at_work)
        runner.run()
    others["running"] += runner.unfollowed
    code = int(runner.exit_code)
    if code == Exit.DONE and (others["failed"] or others["running"]):
        code = int(Exit.FAILED if others["failed"] else Exit.CLAIMED)
    status = group_status(group)
    if json:
        say(json_text(command, {**status, "stopped_because": runner.failing or runner.leaving or runner.stranded}))
    else:
        if reason := runner.failing or (runner.leaving if code == Exit.PAUSED else None):
            say(f"ended early: {reason}" + (f"; {runner.left} points were not begun" if runner.left else ""))
        elif runner.stranded is not None:
            say(
                f"ended early: {runner.stranded}; {runner.left} points are left: "
                f"lastrun resume {group.reference} --on HOST,... goes on with them"
            )
        states = ", ".join(f"{count} {state}" for state, count in status["states"].items())
        if halving is not None and not line and (weak := status["states"].get("paused")):
            states += f"; {weak} were weaker and wait: lastrun resume JOB trains one to its end"
        say(f"group: {group.uri}\nof {status['count']} points: {states}\nnext: {status['next']}")
    raise typer.Exit(code)


def _failed(tasks: Iterable[Task]) -> str:
    reasons: dict[str, int] = {}
    for task in tasks:
        reasons[task.why] = reasons.get(task.why, 0) + 1
    return ", ".join(f"{count} failed as {why}" for why, count in reasons.items())


def _detach(group: Group, todo: list[Task], at_once: int, how: How, parallel: int | None, stop_after: int | None) -> str:
    """Have the points run without this command; returns what becomes of them now."""
    from runner.launch.background import run_in_background
    from runner.launch.line_up import line_up
    from runner.launch.protocol import Queue
    from runner.trust import words

    if all(task.go is not None and isinstance(task.go.launcher, Queue) for task in todo):
        count = line_up(todo, at_once)
        if not count:
            return f"all {len(todo)} points are in the queue already"
        before = f"; {len(todo) - count} were there already" if count < len(todo) else ""
        return f"{count} points were put into the queue, {at_once} at a time{before}"
    arguments = how.words()
    marks = {word for task in todo if task.go is not None for word in words(task.go.values)} - {"--trusted"}
    for one in sorted(marks):
        arguments += ["--trusted", one]
    arguments += [] if parallel is None else ["--parallel", str(parallel)]
    arguments += [] if stop_after is None else ["--stop-after", str(stop_after)]
    run_in_background(group, todo, arguments)
    return f"{len(todo)} points run in the background"


def points(
    group_uri: Annotated[str, typer.Argument(metavar="GROUP-URI")],
    env: EnvOption = None,
    set_: SetOption = None,
    allow_change: AllowOption = None,
    takeover: TakeoverOption = False,
    launcher: LauncherOption = None,
    on: OnOption = None,
    here: HereOption = False,
    parallel: ParallelOption = None,
    stop_after: StopAfterOption = None,
    trusted: Annotated[list[str] | None, typer.Option("--trusted", help="marks of what whoever starts it has taken")] = None,
) -> None:
    """Run what is unfinished of a group; --detach calls this in the background."""
    from runner.job.group import Group
    from runner.launch.hosts import hosts_named
    from runner.launch.ready import How
    from runner.store.open import open_store
    from runner.store.uri import StoreUri
    from runner.trust import Trust

    store, group_id = StoreUri.parse(group_uri).parent()
    group = Group(open_store(store), group_id)
    how = How(
        env, tuple(set_ or ()), tuple(allow_change or ()), takeover, launcher, here, () if on is None else hosts_named(on)
    )
    marks = trusted or []
    _run(group, how, lambda: Trust(group.store.uri, marks), parallel, stop_after, False, False, "points")
