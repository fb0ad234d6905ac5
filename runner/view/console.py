"""What everything that commands show has in common. With ``--json`` they print the same facts as one versioned JSON object."""

from __future__ import annotations

import json
import math
import sys
from functools import cache
from typing import TYPE_CHECKING, Any

from last_e.environment import in_a_notebook
from last_e.process import discard_output
from last_e.terminal import is_quiet
from last_e.text import plain

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

JSON_VERSION = 1
_WIDEST = 10_000
"""Columns of a table."""


def show(text: str, *, end: str = "\n", error: bool = False) -> None:
    """Print text, whoever has written it: what a store or a file holds does not steer a terminal. All that commands print goes
    through here, through :func:`make_console`, or is JSON. An ``error`` that cannot be told (a closed terminal) is left out: it
    changes no exit code."""
    try:
        print(plain(text), end=end, file=sys.stderr if error else sys.stdout, flush=True)
    except OSError:
        if not error:
            raise
        discard_output(sys.stderr)


def note(text: str) -> None:
    """What is being done, on standard error; not with ``--quiet``."""
    if not is_quiet():
        show(text, error=True)


def say(text: str) -> None:
    """Print for a command that has more to do than to print: where that cannot be done (nobody reads any more, no room), it
    goes on, and its exit code is what it has done. What is not printed is in the store."""
    try:
        show(text)
    except OSError as error:
        discard_output()
        if not isinstance(error, BrokenPipeError):
            why = f"no more can be printed here ({error.strerror}); the job goes on"
            show(f"{why}, and lastrun status shows how it fares", error=True)


def make_console(stderr: bool = False, coloured: bool = True) -> Console:
    """A console that wraps no words in a log, and takes text as it stands: it reads no markup, and obeys no control character.
    What is coloured is :func:`styled`."""
    console: Console = _console_class()(
        stderr=stderr,
        highlight=False,
        soft_wrap=True,
        markup=False,
        emoji=False,
        color_system="auto" if coloured else None,
        force_terminal=False if in_a_notebook() else None,
    )
    if not console.is_terminal:
        console.width = 200  # a pipe or a log has no width: tables need not be squeezed
    return console


@cache
def _console_class() -> type[Console]:
    from rich.console import Console
    from rich.table import Table

    class PlainConsole(Console):
        """Makes every text plain that it is given, also in the cells of tables."""

        def render_str(self, text: str, **options: Any) -> Text:
            """A text as rich shows it."""
            return super().render_str(plain(text), **options)

        def print(self, *objects: Any, **options: Any) -> None:
            """As rich does; but a table that does not fit is as wide as it is, and a terminal folds its lines: rich would cut
            figures and IDs off, in silence."""
            before = self.width
            self.width = max([before, *(_least_width(self, one) for one in objects if isinstance(one, Table))])
            try:
                super().print(*objects, **options)
            finally:
                self.width = before

    return PlainConsole


def _least_width(console: Console, table: Table) -> int:
    """In which every column that is not to fold is whole."""
    from rich.measure import Measurement

    roomy = console.options.update(width=_WIDEST, max_width=_WIDEST)
    for column in table.columns:
        if column.no_wrap:
            cells = [column.header, *column.cells]
            column.min_width = max(Measurement.get(console, roomy, cell).maximum for cell in cells)
    return Measurement.get(console, roomy, table).minimum


def styled(text: str, style: str) -> Text:
    """Text in a colour, or dim."""
    from rich.text import Text

    return Text(plain(text), style)


def print_json(command: str, values: dict[str, Any], *, line: bool = False) -> None:
    """One JSON object on standard output; of a command that prints several, each on a ``line``."""
    print(json_text(command, values, None if line else 1), flush=line)


def put(text: str) -> None:
    """A piece of JSON on standard output, at once."""
    print(text, end="", flush=True)


def json_text(command: str, values: dict[str, Any], indent: int | None = 1) -> str:
    """The same as text."""
    return json.dumps(_finite({"lastrun": command, "version": JSON_VERSION, **values}), indent=indent, allow_nan=False)


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
        # What people copy stays in one piece, however narrow the screen; other columns fold.
        table.add_column(column, overflow="fold", no_wrap=column not in ("before", "now", ""))
    return table
