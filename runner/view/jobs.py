"""Jobs: a list of them, and one."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from last_e.choosing import CHOSEN_ON_TEST
from last_e.text import by_ranks, number, percent, plain, seconds_text
from runner.view.console import make_console, make_table, show, styled

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from rich.text import Text

_COLOURS = {
    "running": "cyan",
    "stopping": "yellow",
    "succeeded": "green",
    "failed": "red",
    "lost": "red",
    "paused": "yellow",
    "stopped": "yellow",
}


COLUMNS: dict[str, tuple[str, Callable[[dict[str, Any]], str | Text]]] = {
    "id": ("job", lambda job: str(job["id"])),
    "state": ("state", lambda job: coloured(job["state"])),
    "epoch": ("epoch", lambda job: f"{job['epoch']}/{job['epochs']}"),
    "best": ("best top-1", lambda job: percent(job["best_top1"])),
    "env": ("env", lambda job: job["env"] or "-"),
    "created": ("created", lambda job: time.strftime("%m-%d %H:%M", time.localtime(job["created_at"]))),
    "name": ("name", lambda job: job["name"]),
    "group": ("group", lambda job: job["group"]["id"] if job["group"] else "-"),
    "point": ("point", lambda job: _point(job["group"])),
    "model": ("model", lambda job: job["model"]),
    "dataset": ("dataset", lambda job: job["dataset"]),
    "split": ("split", lambda job: job["split_type"]),
    "reason": ("reason", lambda job: job["reason"] or "-"),
    "left": ("left", lambda job: seconds_text(job["seconds_left"])),
    "by": ("by", lambda job: job["by"] or "-"),
    "uri": ("uri", lambda job: job["uri"]),
}
"""What a list can show of a job: by the name of ``--columns`` its heading, and what stands below."""
DEFAULT_COLUMNS = ("id", "state", "epoch", "best", "env", "created")


def print_jobs(jobs: list[dict[str, Any]], store: str, more: bool, columns: Sequence[str] = (), some: bool = False) -> None:
    """A line per job. ``more``: there are others, older ones; ``columns``: these, of :data:`COLUMNS`; ``some``: not all jobs
    were wanted."""
    if not jobs:
        show(f"no {'such ' if some else ''}jobs in {store}; lastrun {'list shows all' if some else 'submit FILE begins one'}")
        return
    console = make_console()
    if not columns:  # nothing is broken in the middle: on a narrow screen the last columns are left out
        longest = max(len(job["id"]) for job in jobs)
        columns = DEFAULT_COLUMNS[: next((n for n, room in ((6, 60), (5, 48), (4, 37)) if longest + room <= console.width), 3)]
    table = make_table(*(COLUMNS[name][0] for name in columns))
    errors = []
    for job in jobs:
        if "error" in job:
            known = {"id": job["id"], "uri": job["uri"], "state": styled("unreadable", "red")}
            table.add_row(*(known.get(name, "") for name in columns))
            errors.append(f"{job['id']}: {job['error']}")
        else:
            table.add_row(*(COLUMNS[name][1](job) for name in columns))
    console.print(table)
    for error in errors:
        console.print(styled(error, "red"))
    if more:
        console.print(f"the newest {len(jobs)}; more with --limit")


def _point(group: dict[str, Any] | None) -> str:
    """What a point of a sweep sets that others set otherwise."""
    return ", ".join(f"{key}={value}" for key, value in group["values"].items()) if group else "-"


def print_status(status: dict[str, Any]) -> None:
    """One job: where it is, how it fares, what to do next."""
    make_console().print(status_text(status))


def status_lines(status: dict[str, Any]) -> str:
    """The same as plain text."""
    return status_text(status).plain


def status_text(status: dict[str, Any]) -> Text:
    """Where a job is, how it fares, and what to do next, a line each."""
    from rich.text import Text

    rows, state = status_rows(status), status["state"]
    width = max(len(name) for name, _ in rows)
    lines = []
    for name, text in rows:
        seen = Text(plain(text))
        if name == "state":
            seen = Text.assemble(coloured(state), plain(text.removeprefix(state)))
        lines.append(Text.assemble(styled(f"{name:<{width}}", "dim"), "  ", seen))
    return Text("\n").join(lines)


def status_rows(status: dict[str, Any]) -> list[tuple[str, str]]:
    """The same as names and texts."""
    why = f" ({status['reason']}: {status['message']})" if status["reason"] else ""
    if status["state"] == "lost":
        why = f" ({status['message'] or 'its attempt is gone without a word'})"
    rows = [("job", status["uri"]), ("state", f"{status['state']}{why}")]
    rows.append(("model", f"{status['model']} on {status['dataset']} {status['split_type']}"))
    running = status["progress"]
    total = running.get("total_steps") or status["total_steps"]
    progress = f"{status['epoch']} of {status['epochs']} epochs done, step {status['step']:,}"
    progress += f" of {total:,}" if total else ""
    if running.get("total_steps"):
        progress += f", {seconds_text(running['seconds_left'])} left"
    rows.append(("progress", progress))
    if running.get("clips_per_second") is not None:
        together = by_ranks(running.get("ranks"), running.get("of_one"))
        rows.append(("speed", f"{running['clips_per_second']:,.0f} clips/s{together}"))
    if running:
        rows.append(("uploads", _uploads(status["synced_step"], running.get("lag_seconds") or 0.0)))
    if status["metrics"]:
        last, kind = status["metrics"], status["chosen_on"]
        scores = f"{kind} top-1 {percent(last.get(f'{kind}_top1'))}, top-5 {percent(last.get(f'{kind}_top5'))}"
        rows.append(("last epoch", f"train loss {number(last.get('train_loss'))}, {scores}"))
        best, field = f"{kind} top-1 {percent(status['best_top1'])} in epoch {status['best_epoch']}", kind == "test"
        rows.append(("best", f"{best}; {CHOSEN_ON_TEST}" if field else best))
        if not field and last.get("test_top1") is not None:
            test = f"top-1 {percent(last['test_top1'])}, top-5 {percent(last.get('test_top5'))}"
            rows.append(("test", f"{test}: of the best epoch's weights, looked at once"))
    if status["checkpoint"]:
        rows.append(("checkpoint", f"{status['checkpoint']} ({status['checkpoints']} kept)"))
    if unsent := status["unsent"]:
        rows.append(("unsent", _unsent(unsent, status["reference"])))
    if attempt := status["attempt"]:
        rows.append(("attempt", f"{attempt['number']} on {attempt['place']} (env {attempt['env']})"))
    if relay := status["relay"]:
        hint = relay["why"] or relay["rest"]
        hint = f"; {hint}" if hint else ""
        ago = seconds_text(max(0.0, relay["seconds"]))
        rows.append(("relay", f"{relay['host']} keeps the job; what it had {ago} ago is here{hint}"))
    if status["waits"]:
        rows.append(("queue", status["waits"]))
    rows.append(("next", status["next"]))
    return rows


def _unsent(unsent: dict[str, Any], reference: str) -> str:
    step = "" if unsent["step"] is None else f", step {unsent['step']:,} among them"
    if unsent["host"]:
        return f"step {unsent['step']:,} is on {unsent['host']} only: lastrun sync {reference} there sends it"
    return f"{unsent['objects']} objects are in {unsent['folder']} only{step}: lastrun sync {reference} sends them"


def _uploads(synced_step: int, lag: float) -> str:
    from runner.attempt.outbox import LAG_WARNING_SECONDS

    late = f", the oldest of the rest has been waiting for {seconds_text(lag)}" if lag >= 1 else ""
    return f"{'warning: ' if lag > LAG_WARNING_SECONDS else ''}synced to step {synced_step:,}{late}"


def coloured(state: str) -> Text:
    """A state in its colour."""
    return styled(state, _COLOURS.get(state, ""))
