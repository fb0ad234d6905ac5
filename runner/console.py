"""What commands show to people. With ``--json`` they print the same facts as one versioned JSON object."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from last_e.problems import Origin, show
from last_e.text import number, percent, plain, seconds_text
from runner.sync import LAG_WARNING_SECONDS

if TYPE_CHECKING:
    from rich.console import Console

    from last_e.resume import Change

JSON_VERSION = 1
_COLOURS = {"running": "cyan", "succeeded": "green", "failed": "red", "lost": "red", "paused": "yellow", "stopped": "yellow"}


def make_console(stderr: bool = False) -> Console:
    """A console that wraps no words in a log and colours nothing but what we colour."""
    from rich.console import Console

    console = Console(stderr=stderr, highlight=False, soft_wrap=True)
    if not console.is_terminal:
        console.width = 200  # a pipe or a log has no width: tables need not be squeezed
    return console


def print_json(command: str, values: dict[str, Any]) -> None:
    """One JSON object on standard output."""
    print(json.dumps(_finite({"lastrun": command, "version": JSON_VERSION, **values}), indent=1, allow_nan=False))


def _finite(value: Any) -> Any:
    """JSON has no NaN and no infinity: null stands for them."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def print_explained(values: dict[str, Any], origins: dict[str, Origin]) -> None:
    """Every key with its value and the layer that set it."""
    console = make_console()
    for key, value in values.items():
        origin = origins[key]
        by_user = not origin.name.startswith(("configs/", "default"))
        line = f"{key + ': ' + show(value):<48} # {origin}"
        console.print(line, style="bold" if by_user else None, markup=False)


def print_changes(changes: Iterable[Change]) -> None:
    """How this attempt differs from the way the job began."""
    changes = list(changes)
    if not changes:
        return
    table = _table("changes", "before", "now", "")
    for change in changes:
        note = change.note or ("decides learning; allowed" if change.pinned else "")
        table.add_row(change.key, show(change.before).strip("'"), show(change.after).strip("'"), note)
    make_console().print(table)


def print_jobs(jobs: list[dict[str, Any]], store: str, more: bool) -> None:
    """A line per job; ``more``: there are others, older ones."""
    console = make_console()
    if not jobs:
        console.print(f"no jobs in {store}", markup=False)
        return
    # Nothing is broken in the middle: on a narrow screen the last columns are left out.
    columns = ("job", "state", "epoch", "best top-1", "env", "created")
    longest = max(len(job["id"]) for job in jobs)
    shown = next((n for n, room in ((6, 60), (5, 48), (4, 37)) if longest + room <= console.width), 3)
    table = _table(*columns[:shown])
    errors = []
    for job in jobs:
        if "error" in job:
            table.add_row(job["id"], "[red]unreadable[/red]")
            errors.append(f"{job['id']}: {job['error']}")
            continue
        epoch = f"{job['epoch']}/{job['epochs']}"
        when = time.strftime("%m-%d %H:%M", time.localtime(job["created_at"]))
        row = (job["id"], _coloured(job["state"]), epoch, percent(job["best_top1"]), _plain(job["env"] or "-"), when)
        table.add_row(*row[:shown])
    console.print(table)
    for error in errors:
        console.print(_plain(error), style="red")
    if more:
        console.print(f"the newest {len(jobs)}; more with --limit")


def print_image(facts: dict[str, Any]) -> None:
    """What is in an image, and what of it does not fit."""
    code = f"{facts.get('version')}, code {str(facts.get('code'))[:12]}, revision {facts['revision'] or 'unknown'}"
    cuda = f"CUDA {facts['cuda']} for {' '.join(facts['architectures'])}" if facts.get("cuda") else "without CUDA"
    gpus = ", ".join(f"{g['name']} (sm_{g['capability'][0]}{g['capability'][1]})" for g in facts.get("gpus") or [])
    rows = {
        "image": f"{facts['image']} ({facts['size'] / 1e9:.2f} GB)",
        "digest": ", ".join(facts["digests"]) or facts["id"],
        "base": facts["base"] or "unknown",
        "lastrun": code,
        "torch": f"{facts.get('torch')} {cuda}, Python {facts.get('python')}",
        "GPUs": gpus or f"none ({facts.get('problem')})",
        "driver": facts["driver"] or "none on this machine",
        "fits": "no" if facts["problems"] else "yes",
    }
    console = make_console()
    for name, text in rows.items():
        console.print(f"[dim]{name:<8}[/dim]  {_plain(text)}")
    for problem in facts["problems"]:
        console.print(_plain(f"- {problem}"))


def print_status(status: dict[str, Any]) -> None:
    """One job: where it is, how it fares, what to do next."""
    make_console().print(_status_text(status))


def watch_status(facts: Iterator[dict[str, Any]]) -> None:
    """The same, renewed in place on a terminal, as long as there is news."""
    from rich.live import Live

    console = make_console()
    if not console.is_terminal:
        for status in facts:
            console.print(_status_text(status) + "\n")
        return
    from rich.text import Text

    with Live(console=console, auto_refresh=False) as live:
        for status in facts:
            live.update(Text.from_markup(_status_text(status), overflow="fold"), refresh=True)


def _status_text(status: dict[str, Any]) -> str:
    why = f" ({status['reason']}: {status['message']})" if status["reason"] else ""
    if status["state"] == "lost":
        why = f" ({status['message'] or 'its attempt is gone without a word'})"
    rows = [("job", status["uri"]), ("state", _coloured(status["state"]) + _plain(why))]
    rows.append(("model", f"{status['model']} on {status['dataset']} {status['split_type']}"))
    running = status["progress"]
    total = running.get("total_steps") or status["total_steps"]
    progress = f"{status['epoch']} of {status['epochs']} epochs done, step {status['step']:,}"
    progress += f" of {total:,}" if total else ""
    if running.get("total_steps"):
        progress += f", {seconds_text(running['seconds_left'])} left"
    rows.append(("progress", progress))
    if running:
        rows.append(("uploads", _uploads(status["synced_step"], running.get("lag_seconds") or 0.0)))
    if status["metrics"]:
        last = status["metrics"]
        rows.append(
            (
                "last epoch",
                f"train loss {number(last.get('train_loss'))}, test top-1 {percent(last['test_top1'])}, "
                f"top-5 {percent(last['test_top5'])}",
            )
        )
        rows.append(("best", f"test top-1 {percent(status['best_top1'])} in epoch {status['best_epoch']}"))
    if status["checkpoint"]:
        rows.append(("checkpoint", f"{status['checkpoint']} ({status['checkpoints']} kept)"))
    if attempt := status["attempt"]:
        where = f"{attempt['host']}, in a container" if attempt["container"] else attempt["host"]
        rows.append(("attempt", f"{attempt['number']} on {where} (env {attempt['env']})"))
    rows.append(("next", status["next"]))
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"[dim]{name:<{width}}[/dim]  {text if name == 'state' else _plain(text)}" for name, text in rows)


def _uploads(synced_step: int, lag: float) -> str:
    late = f", the oldest of the rest has been waiting for {seconds_text(lag)}" if lag >= 1 else ""
    return f"{'warning: ' if lag > LAG_WARNING_SECONDS else ''}synced to step {synced_step:,}{late}"


def _table(*columns: str) -> Any:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, header_style="dim")
    for column in columns:
        # What people copy stays in one piece; at the end of a narrow screen other columns fold.
        table.add_column(column, overflow="fold", no_wrap=column not in ("before", "now", ""))
    return table


def _coloured(state: str) -> str:
    colour = _COLOURS.get(state)
    return f"[{colour}]{state}[/{colour}]" if colour else state


def _plain(text: str) -> str:
    """Text that may hold brackets, for a place where markup is read."""
    from rich.markup import escape

    return escape(plain(text))
