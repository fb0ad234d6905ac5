"""What of a job can be copied out of it."""

from __future__ import annotations

from collections.abc import Iterable

from last_e.text import counted
from runner.job.copy import BEST, MADE, NEWEST
from runner.store.protocol import Entry
from runner.view.console import make_console, make_table, show


def print_contents(job_id: str, files: Iterable[Entry]) -> None:
    """A line for each file; what lies in a folder of an attempt's or of a checkpoint's together."""
    rows: dict[str, tuple[int, int]] = {}
    for entry in files:
        names = entry.key.split("/")
        # Of an attempt each file, of what it has many of (log/, events/) the folder; a checkpoint is one thing.
        deep = 2 if names[0] == "checkpoints" else 3
        shown = entry.key if len(names) <= deep else "/".join(names[:deep]) + "/"
        count, size = rows.get(shown, (0, 0))
        rows[shown] = (count + 1, size + entry.size)
    table = make_table("path", "bytes", "")
    for name, (_, what) in MADE.items():
        table.add_row(name, "", what)
    if any(path.startswith("checkpoints/") for path in rows):
        table.add_row(f"checkpoints/{BEST}/", "", "the best by top-1")
        table.add_row(f"checkpoints/{NEWEST}/", "", "the newest")
    for path, (count, size) in rows.items():
        table.add_row(path, f"{size:,}", counted(count, "file") if path.endswith("/") else "")
    make_console().print(table)
    show(f"lastrun cp {job_id}:PATH FOLDER copies one of them")
