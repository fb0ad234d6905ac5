"""What a new job file is told with."""

from __future__ import annotations

from last_e.text import counted, seconds_text
from runner.draft import Draft
from runner.plan.figures import Kind
from runner.view.console import show
from runner.view.plan import busy_text

_SURE = {Kind.MEASURED: "measured", Kind.SCALED: "from a measurement of other work", Kind.ESTIMATED: "estimated"}


def print_draft(made: Draft) -> None:
    """What it trains, how long that takes here, what comes next."""
    show(f"{made.path}: {made.model} on {made.dataset}, {counted(made.epochs, 'epoch')}")
    if made.total_seconds is None:
        show("how long that takes here nobody can tell yet: lastrun bench measures this machine")
    else:
        busy = f"; {busy_text(made.busy)}" if made.busy else ""
        show(f"on this machine about {seconds_text(made.total_seconds.value)} ({_SURE[made.total_seconds.kind]}){busy}")
    show(f"next: lastrun submit {made.path}; others: lastrun plan {made.path}, lastrun explain {made.path}")
