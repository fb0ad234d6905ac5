"""What ``watch`` shows."""

from __future__ import annotations

from collections.abc import Iterable

from runner.view.console import show
from runner.watch import Told


def print_told(told: Iterable[Told]) -> None:
    """A line for each news, and one for each who could not be told."""
    for one in told:
        if one.told:
            show(f"told {', '.join(one.told)}: {one.event.text}")
        for name, why in one.failed.items():
            show(f"notify.{name} was not told: {why}: {one.event.text}", error=True)
