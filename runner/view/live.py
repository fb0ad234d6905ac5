"""How a job fares while one waits for it: one output of a notebook's cell that is renewed, a terminal's screen, or a log."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from html import escape
from importlib import import_module
from typing import Any

from runner.view.console import show
from runner.view.jobs import status_lines, status_text

Facts = dict[str, Any]


@contextmanager
def shown(wanted: bool) -> Iterator[Callable[[Facts], None]]:
    """While the block lasts, what shows a job's status, again and again in the same place."""
    if not wanted:
        yield lambda facts: None
    elif in_ipython():
        yield _Cell().update
    elif sys.stderr.isatty():
        from rich.live import Live

        from runner.view.console import make_console

        with Live(console=make_console(stderr=True), auto_refresh=False) as live:
            yield lambda facts: live.update(status_text(facts), refresh=True)
    else:
        yield _Log().update


def in_ipython() -> bool:
    """Whether a cell shows what is displayed: an IPython that was started for that, not one that is merely installed."""
    ipython = sys.modules.get("IPython")
    shell = None if ipython is None else ipython.get_ipython()
    return shell is not None and hasattr(shell, "kernel")


class _Cell:
    """One output of a cell."""

    def __init__(self) -> None:
        self._handle: Any = None

    def update(self, facts: Facts) -> None:
        """Show how it fares now, in place of before."""
        done, total = facts["step"], facts["total_steps"] or facts["progress"].get("total_steps")
        bar = f'<progress value="{done}" max="{total}" style="width: 24em"></progress>' if total else ""
        lines = status_lines(facts)
        data = {"text/plain": lines, "text/html": f"{bar}<pre>{escape(lines)}</pre>"}
        if self._handle is None:
            self._handle = import_module("IPython.display").display(data, raw=True, display_id=True)
        else:
            self._handle.update(data, raw=True)


class _Log:
    """A line whenever an epoch is done, or the state is another."""

    def __init__(self) -> None:
        self._before: tuple[Any, ...] = ()

    def update(self, facts: Facts) -> None:
        """Tell what is new."""
        now = facts["state"], facts["epoch"]
        if now != self._before:
            self._before = now
            last = facts["metrics"]
            top1 = "" if not last else f", test top-1 {last['test_top1']:.2%}"
            show(f"{facts['id']}: {facts['state']}, epoch {facts['epoch']} of {facts['epochs']}{top1}", error=True)
