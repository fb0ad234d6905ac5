"""Rows as Python users take them: lists of mappings, which a notebook shows as a table and pandas takes as they are."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape
from typing import Any

from runner.errors import EngineError, LastrunError

_MOST_SHOWN = 60


class Table(list[dict[str, Any]]):
    """A list of rows. ``pandas.DataFrame(table)`` works, too."""

    def __init__(self, rows: Iterable[dict[str, Any]] = (), columns: Iterable[str] = ()) -> None:
        super().__init__(rows)
        self._columns = list(columns)

    @property
    def columns(self) -> list[str]:
        """Names, in the order in which they come."""
        return list(dict.fromkeys([*self._columns, *(name for row in self for name in row)]))

    def column(self, name: str) -> list[Any]:
        """What the rows have under a name; None where one has nothing.

        Raises:
            LastrunError: there is no such column.
        """
        if name not in self.columns:
            raise LastrunError(f"no column {name}: there are {', '.join(self.columns) or 'none'}")
        return [row.get(name) for row in self]

    def to_pandas(self) -> Any:
        """A ``pandas.DataFrame``.

        Raises:
            EngineError: pandas is not installed.
        """
        try:
            import pandas
        except ImportError:
            raise EngineError("pandas is not installed here: pip install pandas") from None
        return pandas.DataFrame(list(self), columns=self.columns)

    def _repr_html_(self) -> str:
        head = "".join(f"<th>{escape(name)}</th>" for name in self.columns)
        cells = ("".join(f"<td>{_cell(row.get(name))}</td>" for name in self.columns) for row in self[:_MOST_SHOWN])
        rows = [f"<tr>{row}</tr>" for row in cells]
        more = f"<p>and {len(self) - _MOST_SHOWN:,} more</p>" if len(self) > _MOST_SHOWN else ""
        return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>{more}"


def _cell(value: Any) -> str:
    return "" if value is None else escape(f"{value:.4f}" if isinstance(value, float) else str(value))
