"""Groups: where their points are, and how those fare that this command runs."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, suppress
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any

from last_e.choosing import heard_of
from last_e.problems import show as value_text
from last_e.progress import cut, wrapped
from last_e.terminal import SECONDS_BETWEEN_LINES, Screen, is_quiet
from last_e.text import percent, plain, seconds_text
from runner.errors import LastrunError, Reason, State
from runner.job.group import Group
from runner.launch.line import is_searched
from runner.launch.outcome import Outcome
from runner.launch.points import Task
from runner.launch.settle import waits
from runner.view.console import make_console, make_table, say, show, styled
from runner.view.jobs import coloured
from runner.view.status import FOLLOW_SECONDS, summary_or_error
from runner.view.wanted import STOPPING

if TYPE_CHECKING:
    from rich.console import Console

_AT_WORK = (State.RUNNING.value, STOPPING)
_MAY_WAIT = (State.QUEUED.value, State.PAUSED.value, State.LOST.value)
_MOST_LINES = 20
"""Of points that run, on a terminal."""


def group_status(group: Group) -> dict[str, Any]:
    """Everything about a group, with a line for each point."""
    asked: list[Any] = [group.record, group.jobs, group.is_made]
    record, jobs, made = group.store.in_parallel(asked)
    found = group.store.in_parallel([partial(summary_or_error, job) for job in jobs])
    points = [{**facts, "point": int(facts["id"].rpartition("p")[2])} for facts in found if facts is not None]
    numbers = {point["point"] for point in points}
    missing = [number for number in range(1, len(record["points"]) + 1) if number not in numbers]
    for point in points:
        number = point["point"]
        point["values"] = record["points"][number - 1]["values"] if number <= len(record["points"]) else {}
    states = Counter("unreadable" if "error" in point else point["state"] for point in points)
    queued = next((job for job, facts in zip(jobs, found) if facts is not None and facts.get("state") in _MAY_WAIT), None)
    waiting = waits(queued) if queued is not None else None
    return {
        "group": group.id,
        "uri": group.uri,
        "reference": group.reference,
        "name": record["name"],
        "created_at": record["created_at"],
        "count": len(record["points"]),
        "states": dict(states.most_common()),
        "missing": missing,
        "missing_because": None if not missing else "deleted" if made else "not made yet",
        "points": points,
        "waits": waiting,
        "next": _next(group.reference, states, bool(missing) and not made, waiting is not None, _is_searched(group, states)),
    }


def _is_searched(group: Group, states: Counter[str]) -> bool:
    """Asked only where it makes a difference."""
    with suppress(LastrunError):
        return set(states) == {State.SUCCEEDED.value, State.PAUSED.value} and is_searched(group)
    return False


def _next(reference: str, states: Counter[str], incomplete: bool, waiting: bool, searched: bool) -> str:
    if waiting or any(states[state] for state in _AT_WORK):
        return f"lastrun status {reference} -w"
    if searched and not incomplete:
        return f"lastrun compare {reference}"
    unfinished = sum(count for state, count in states.items() if state != State.SUCCEEDED.value)
    return f"lastrun resume {reference}" if unfinished or incomplete else f"lastrun compare {reference}"


def is_at_work(status: dict[str, Any]) -> bool:
    """Whether any point of it runs, or waits for its turn in a queue."""
    return status["waits"] is not None or any(status["states"].get(state) for state in _AT_WORK)


def print_group(status: dict[str, Any], console: Console | None = None) -> None:
    """A group: what it is, a line for each point, what to do next."""
    console = console or make_console()
    states = ", ".join(f"{count} {state}" for state, count in status["states"].items())
    console.print(f"group  {status['uri']}")
    console.print(f"points {status['count']}: {states or 'none is there'}")
    table = make_table("point", "sets", "state", "epoch", "best top-1", "left")
    for point in status["points"]:
        sets = values_text(point["values"])
        if "error" in point:
            table.add_row(f"{point['point']}", sets, styled("unreadable", "red"), "-", "-", "-")
            continue
        told = point["state"] == State.FAILED.value or point["reason"] == Reason.EPOCH_REACHED.value
        why = f" ({point['reason']})" if told and point["reason"] else ""
        state = coloured(point["state"])
        state.append(why)
        epoch = f"{point['epoch']}/{point['epochs']}"
        left = seconds_text(point["seconds_left"]) if point["state"] in _AT_WORK else "-"
        table.add_row(f"{point['point']}", sets, state, epoch, percent(point["best_top1"]), left)
    console.print(table)
    for point in status["points"]:
        if "error" in point:
            console.print(styled(f"{point['id']}: {point['error']}", "red"))
    if status["missing"]:
        console.print(f"{len(status['missing'])} points are {status['missing_because']}")
    if status["waits"]:
        console.print(f"queue  {status['waits']}")
    console.print(f"next   {status['next']}")


def follow_group(group: Group) -> Iterator[dict[str, Any]]:
    """:func:`group_status` every few seconds, the last time when no point runs any more."""
    while True:
        facts = group_status(group)
        yield facts
        if not is_at_work(facts):
            return
        time.sleep(FOLLOW_SECONDS)


def watch_group(facts: Iterator[dict[str, Any]]) -> None:
    """:func:`print_group`, renewed in place on a terminal; else again once a minute, and in the end."""
    console, last, told = make_console(), None, -SECONDS_BETWEEN_LINES
    with closing(Screen(console.file)) as screen:  # type: ignore[arg-type]
        for status in facts:
            last = status
            if not is_at_work(status):
                break
            if is_quiet():
                continue
            if not screen.redraws:
                if time.monotonic() - told >= SECONDS_BETWEEN_LINES:
                    told = time.monotonic()
                    print_group(status)
            else:
                with console.capture() as caught:
                    print_group(status, console)
                lines = caught.get().splitlines()
                screen.view(lambda _, rows, lines=lines: lines[:rows])  # type: ignore[misc]
    if last is not None:
        print_group(last)


def values_text(values: dict[str, Any]) -> str:
    """What a point sets, in words."""
    return ", ".join(f"{key}={value_text(value)}" for key, value in values.items()) or "the job as it is"


class PointsView:
    """Shows points while this command runs them: a line each below the rest on a terminal, else a line now and then. With
    ``quiet`` all goes to standard error."""

    def __init__(self, count: int, quiet: bool) -> None:
        self._count, self._quiet = count, quiet
        self._console = make_console(stderr=quiet)
        self._running: dict[int, Task] = {}
        self._hosts: dict[int, str] = {}
        self._beats: dict[int, dict[str, Any]] = {}
        self._done, self._waiting = 0, set[int]()
        self._screen = Screen(self._console.file)  # type: ignore[arg-type]
        self._last = time.monotonic()

    def __enter__(self) -> PointsView:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._screen.close()

    def started(self, task: Task, host: str | None) -> None:
        """A point has begun, of several hosts on this one."""
        self._running[task.number] = task
        self._waiting.discard(task.number)
        self._hosts[task.number] = _on(host)
        begins = ("goes on" if task.known else "begins") if task.kind == "to do" else "is at work already"
        if is_quiet():
            return
        self.note(f"point {task.number} of {task.count} {begins}{_on(host)}: {task.words}; job {task.job.id}")

    def ended(self, outcome: Outcome) -> None:
        """One has ended."""
        task = outcome.task
        self._running.pop(task.number, None)
        if outcome.kind == "waits":
            self._waiting.add(task.number)
        else:
            self._done += 1
        why = outcome.why + (f": {outcome.message}" if outcome.message and outcome.kind == "failed" else "")
        best = outcome.attempt.scores.get("best_top1") if outcome.attempt is not None else None
        epoch = outcome.attempt.scores.get("epoch") if outcome.attempt is not None else None
        results = {"succeeded": f"best top-1 {percent(best)}", "waits": f"epoch {epoch or 0:.0f}, best top-1 {percent(best)}"}
        result = results.get(outcome.kind, why)
        self.note(f"point {task.number} of {task.count}: {outcome.kind}{_on(outcome.host)}, {result} ({task.words})")

    def given_back(self, task: Task, why: str) -> None:
        """One has not ended, and is in line again."""
        self._running.pop(task.number, None)
        self.note(f"point {task.number} of {task.count} was lost and is in line again: {why}")

    def beats(self, beats: dict[int, dict[str, Any]]) -> None:
        """How far those are that run."""
        self._beats = beats
        if is_quiet():
            return
        if self._screen.redraws:
            shown = self._lines()
            self._screen.view(lambda columns, rows: [cut(line, columns - 1) for line in shown[:rows]])
        elif self._running and time.monotonic() - self._last >= SECONDS_BETWEEN_LINES:
            lines = [self._line(number) for number in sorted(self._running)]
            self.note(f"{self._done} of {self._count} done{self._that_wait()}; " + "; ".join(lines))

    def note(self, text: str) -> None:
        """A line for people."""
        self._last = time.monotonic()
        if self._screen.redraws:
            self._screen.line(lambda columns: wrapped(text, self._console, columns))
        elif self._quiet:
            show(text, error=True)
        else:
            say(text)

    def _lines(self) -> list[str]:
        lines = [f"  {self._line(number)}  {self._running[number].words}" for number in sorted(self._running)]
        more = [f"  and {len(lines) - _MOST_LINES} more"] if len(lines) > _MOST_LINES else []
        head = f"{self._done} of {self._count} points done, {len(self._running)} at work{self._that_wait()}"
        return [plain(line) for line in [head, *lines[:_MOST_LINES], *more]]

    def _that_wait(self) -> str:
        """Points of a halved search that have come to a rung, of which some go on and others never do."""
        return f", {len(self._waiting)} waiting" if self._waiting else ""

    def _line(self, number: int) -> str:
        beat, where = self._beats.get(number) or {}, self._hosts.get(number, "")
        if not beat.get("total_steps"):
            return f"point {number}{where}: starting"
        last = beat.get("last_epoch") or {}
        top1 = f", top-1 {percent(heard_of(last))}" if heard_of(last) is not None else ""
        step = f"step {beat.get('step', 0):,} of {beat['total_steps']:,}"
        return f"point {number}{where}: {step}{top1}, {seconds_text(beat.get('seconds_left'))} left"


def _on(host: str | None) -> str:
    return "" if host is None else f" on {host}"
