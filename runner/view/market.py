"""Machines that can be had, and those that are paid for."""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import Any

from last_e.text import seconds_text
from runner.errors import LastrunError
from runner.launch.market import offers, rented
from runner.view.console import make_console, make_table, show


def offer_facts() -> dict[str, Any]:
    """What can be had through which launcher, and what is missing to use the others."""
    told = offers()
    return {
        "offers": [{"launcher": name, **asdict(one)} for name, found in told.items() for one in _listed(found)],
        "missing": {name: str(found) for name, found in told.items() if isinstance(found, LastrunError)},
    }


def print_offers(facts: dict[str, Any]) -> None:
    """A line for each machine."""
    table = make_table("launcher", "machine", "GPUs", "USD an hour", "lastrun submit JOB.YAML ...")
    for row in facts["offers"]:
        gpus = "; ".join(filter(None, (row["gpus"] or "none", row["left"])))
        table.add_row(row["launcher"], row["machine"], gpus, _dollars(row["dollars"]), row["words"])
    make_console().print(table)
    for name, why in facts["missing"].items():
        show(f"not {name}: {why}")


def rented_facts() -> dict[str, Any]:
    """What has been asked for and is not given back, what it has cost so far, and who could not be asked."""
    told = rented()
    rows = [{"launcher": name, **asdict(one)} for name, found in told.items() for one in _listed(found)]
    for row in rows:
        running = row["state"] == "runs" and row["since"] is not None and row["dollars"] is not None
        row["cost"] = max(0.0, time.time() - row["since"]) * row["dollars"] / 3600 if running else None
    return {"machines": rows, "missing": {name: str(found) for name, found in told.items() if isinstance(found, LastrunError)}}


def print_rented(facts: dict[str, Any]) -> None:
    """A line for each, with the command that ends it."""
    if facts["machines"]:
        table = make_table("launcher", "job", "machine", "state", "for", "USD an hour", "USD so far", "ended by")
        for row in facts["machines"]:
            since = "-" if row["since"] is None else seconds_text(max(0.0, time.time() - row["since"]))
            money = (_dollars(row["dollars"]), _dollars(row["cost"]))
            table.add_row(row["launcher"], row["job"], row["machine"], row["state"], since, *money, row["ended_by"])
        make_console().print(table)
        show("lastrun stop JOB has one save first, and it goes by itself")
    else:
        show("no machine that is paid for by the hour is known to run for lastrun")
    for name, why in facts["missing"].items():
        show(f"not asked: {name}: {why}")


def _listed(found: list[Any] | LastrunError) -> list[Any]:
    return [] if isinstance(found, LastrunError) else found


def _dollars(amount: float | None) -> str:
    return "-" if amount is None else f"{amount:.2f}"
