"""What everything that commands show has in common. With ``--json`` they print the same facts as one versioned JSON object."""

from __future__ import annotations

import json
import math
import sys
from typing import TYPE_CHECKING, Any

from last_e.process import discard_output
from last_e.text import plain

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

JSON_VERSION = 1


def make_console(stderr: bool = False) -> Console:
    """A console that wraps no words in a log and colours nothing but what we colour."""
    from rich.console import Console

    console = Console(stderr=stderr, highlight=False, soft_wrap=True)
    if not console.is_terminal:
        console.width = 200  # a pipe or a log has no width: tables need not be squeezed
    return console


def say(text: str) -> None:
    """Print for a command that has more to do than to print: where that cannot be done (nobody reads any more, no room), it
    goes on, and its exit code is what it has done. What is not printed is in the store."""
    try:
        print(text, flush=True)
    except OSError as error:
        discard_output()
        if not isinstance(error, BrokenPipeError):
            print(f"output: {error.strerror}; lastrun status shows what is not printed here", file=sys.stderr)


def print_json(command: str, values: dict[str, Any]) -> None:
    """One JSON object on standard output."""
    print(json_text(command, values))


def json_text(command: str, values: dict[str, Any]) -> str:
    """The same as text."""
    return json.dumps(_finite({"lastrun": command, "version": JSON_VERSION, **values}), indent=1, allow_nan=False)


def _finite(value: Any) -> Any:
    """JSON has no NaN and no infinity: null stands for them."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def make_table(*columns: str) -> Table:
    """A table without a frame."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, header_style="dim")
    for column in columns:
        # What people copy stays in one piece; at the end of a narrow screen other columns fold.
        table.add_column(column, overflow="fold", no_wrap=column not in ("before", "now", ""))
    return table


def literal(text: str) -> str:
    """Text that may hold brackets, for a place where markup is read."""
    from rich.markup import escape

    return escape(plain(text))
