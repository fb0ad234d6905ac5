"""A job's configuration: every value with its origin, and how an attempt differs from the job's beginning."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from last_e.problems import Origin, show, whole
from last_e.resume import Change
from runner.view.console import make_console, make_table


def print_explained(values: dict[str, Any], origins: dict[str, Origin], *, only_set: bool = False) -> None:
    """Every key, or only those that differ from what is packaged, with its value and the layer that set it."""
    console = make_console()
    for key, value in values.items():
        origin = origins[key]
        by_user = not origin.name.startswith(("configs/", "default"))
        if only_set and not by_user:
            continue
        text = whole(value) if by_user else show(value)
        line = f"{key + ': ' + text:<48} # {origin}"
        console.print(line, style="bold" if by_user else None)


def changes_text(changes: Iterable[Change]) -> str:
    """How this attempt differs from the way the job began, as a table."""
    table = make_table("changes", "before", "now", "")
    for change in changes:
        note = change.note or ("decides learning; allowed" if change.pinned else "")
        table.add_row(change.key, show(change.before).strip("'"), show(change.after).strip("'"), note)
    console = make_console(coloured=False)
    with console.capture() as captured:
        console.print(table)
    return captured.get().rstrip("\n")
