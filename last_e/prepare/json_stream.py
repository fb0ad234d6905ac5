"""JSON files of any length, an element at a time: what Python's own reader gives of a whole file takes ten times its size."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from last_e.datafile import DataError
from last_e.text import one_line
from last_e.whole import regular_file

MOST_CHARACTERS = 1 << 26
"""Of one element."""
_PIECE = 1 << 16
_LONGEST_WORD = 16
"""No number, ``null`` or the like is longer, but for those with more digits than anybody writes."""


def elements(file: Path, *lists: str) -> Iterator[tuple[str, Any]]:
    """What a file holds, in its order: of a list each element, under no name; of an object each value under its key, but each
    element of the ``lists`` that are named; of another value itself, under no name.

    Raises:
        DataError: it is no JSON, or an element is too large.
    """
    try:
        with regular_file(file) as raw, io.TextIOWrapper(raw, encoding="utf-8-sig", newline="") as source:
            yield from _Text(source, str(file)).whole(lists)
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{file}: cannot be read: {one_line(error)}") from None


class _Text:
    """A text that is read as far as it is needed."""

    def __init__(self, source: IO[str], where: str) -> None:
        self._source, self._where = source, where
        self._decoder = json.JSONDecoder()
        self._text, self._at, self._line, self._ended = "", 0, 1, False

    def whole(self, lists: tuple[str, ...]) -> Iterator[tuple[str, Any]]:
        """See :func:`elements`."""
        first = self._next()
        if first == "[":
            for value in self._of_list():
                yield "", value
        elif first == "{":
            yield from self._of_object(lists)
        else:
            yield "", self._value()
        if self._next():
            raise self._wrong("something behind its end")

    def _of_list(self) -> Iterator[Any]:
        self._at += 1
        if self._next() == "]":
            self._at += 1
            return
        while True:
            yield self._value()
            if self._mark(",]") == "]":
                return
            self._next()

    def _of_object(self, lists: tuple[str, ...]) -> Iterator[tuple[str, Any]]:
        self._at += 1
        if self._next() == "}":
            self._at += 1
            return
        while True:
            if self._next() != '"':
                raise self._wrong("a name in quotes is missing")
            key = str(self._value())
            self._mark(":")
            if self._next() == "[" and key in lists:
                for value in self._of_list():
                    yield key, value
            else:
                yield key, self._value()
            if self._mark(",}") == "}":
                return

    def _next(self) -> str:
        """The next character that is no space; none at the end."""
        while True:
            while self._at < len(self._text) and self._text[self._at] in " \t\r\n":
                self._at += 1
            if self._at < len(self._text) or not self._more(_PIECE):
                return self._text[self._at : self._at + 1]

    def _mark(self, allowed: str) -> str:
        found = self._next()
        if not found or found not in allowed:
            raise self._wrong(f"expecting {' or '.join(map(repr, allowed))}")
        self._at += 1
        return found

    def _value(self) -> Any:
        """The value that begins here: read on, twice as far each time, until all of it is there."""
        self._next()
        while True:
            try:
                value, end = self._decoder.raw_decode(self._text, self._at)
            except RecursionError:
                raise self._wrong("nested too deep") from None
            except json.JSONDecodeError as error:
                is_cut = error.msg.startswith("Unterminated") or error.pos >= len(self._text) - _LONGEST_WORD
                if not is_cut or not self._more(len(self._text) - self._at):
                    self._at = error.pos
                    raise self._wrong(error.msg) from None
            except ValueError:  # Python reads no such numbers
                raise self._wrong(f"a whole number of more than {sys.get_int_max_str_digits()} digits") from None
            else:
                rest = self._text[end : end + 3]  # a number may go on behind 1, 1. or 1e+
                if len(rest) == 3 or rest.strip("0123456789.eE+-") or not self._more(_PIECE):
                    self._at = end
                    return value

    def _more(self, count: int) -> bool:
        """Whether there was more to read; what is behind us is dropped."""
        if self._ended:
            return False
        if len(self._text) - self._at > MOST_CHARACTERS:
            raise self._wrong(f"an element of more than {MOST_CHARACTERS >> 20} million characters")
        piece = self._source.read(max(count, _PIECE))
        self._ended = not piece
        if piece:
            self._line += self._text.count("\n", 0, self._at)
            self._text, self._at = self._text[self._at :] + piece, 0
        return bool(piece)

    def _wrong(self, what: str) -> DataError:
        line = self._line + self._text.count("\n", 0, self._at)
        return DataError(f"{self._where}: no JSON: line {line}: {what}")
