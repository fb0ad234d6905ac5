"""Machines that ssh reaches."""

from __future__ import annotations

from typing import Any

from last_e.text import counted
from runner.view.console import make_console, make_table, show, styled


def print_hosts(rows: list[dict[str, Any]]) -> None:
    """A line for each."""
    if not rows:
        show(
            "no hosts in config.toml, and no attempt from here runs on one; --on HOST takes any that ssh reaches; "
            "what was set up there stays until lastrun host clean HOST"
        )
        return
    table = make_table("host", "ssh", "profile", "attempts from here")
    for row in rows:
        table.add_row(row["name"], row["ssh"], row["env"] or "-", str(row["attempts"] or "-"))
    make_console().print(table)


def print_host(name: str, facts: dict[str, Any], problems: list[str]) -> None:
    """What one is, and what keeps jobs from running there."""
    rows = {
        "host": name,
        "system": facts["system"],
        "lastrun": facts["folder"],
        "torch": f"{facts['torch']}, Python {facts['python']}",
        "GPUs": ", ".join(facts["gpus"]) or "none that torch finds",
        "driver": facts["driver"] or "none",
        "disk": f"{facts['free'] / 1e9:.1f} GB free",
        "running": counted(facts["runs"], "attempt") if facts["runs"] else "nothing of lastrun's",
        "fits": "no" if problems else "yes",
    }
    console = make_console()
    for key, text in rows.items():
        console.print(styled(f"{key:<8}", "dim"), text, sep="  ")
    for problem in problems:
        console.print(f"- {problem}")
