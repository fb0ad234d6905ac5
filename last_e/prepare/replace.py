"""What a prepared file may take the place of: nothing, or one with the same clips. Another one may have taken hours to make."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from last_e.datafile import FORMAT, DataError, read_header
from last_e.text import one_line, shown

CONTENT_HASH = "data_sha256"
"""Key of the metadata for the sha256 of everything behind the header."""


def as_text(value: str) -> str:
    """A text as a header has it, in which half characters (of a name that is no UTF-8) cannot be."""
    return value.encode("utf-8", "backslashreplace").decode()


def see_that_it_may_be_made(out: Path, meant: Mapping[str, str]) -> None:
    """Before the work: see that nothing else has the file's name. ``meant`` are metadata that tell what is to be made; whether
    the clips are the same is seen by :func:`see_that_it_is_the_same`, once they are known.

    Raises:
        DataError: it has.
    """
    header = _header(out)
    if header is None:
        return
    there = header["__metadata__"]
    if any(there.get(key) != as_text(value) for key, value in meant.items()):
        raise _refusal(out, there)


def see_that_it_is_the_same(out: Path, names: Iterable[str], content: str) -> None:
    """Before a finished file takes its place: see that ``out`` is not there, or has clips with this sha256,
    in tensors with these names, of which one tells the split.

    Raises:
        DataError: it has others.
    """
    header = _header(out)
    if header is None:
        return
    there = header.pop("__metadata__")
    if there.get(CONTENT_HASH) != content or set(header) != set(names):
        raise _refusal(out, there)


def _header(path: Path) -> dict[str, Any] | None:
    """A file's header; None where there is no file, and nothing in it where it is no prepared one."""
    nothing: dict[str, Any] = {"__metadata__": {}}
    try:
        with path.open("rb") as file:
            header = read_header(file)[0]
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ValueError:
        return nothing
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {one_line(error)}") from None
    return header if header["__metadata__"].get("format") == FORMAT else nothing


def _refusal(out: Path, there: Mapping[str, str]) -> DataError:
    if there:
        told = [there[key] for key in ("dataset", "source") if there.get(key)]
        what = f"another prepared file ({shown(', '.join(told) or 'of unknown origin')})"
    else:
        what = f"a file that is no prepared one ({out.stat().st_size:,} bytes)"
    return DataError(
        f"{out}: there is {what}, which the result would replace: name another file with --out, or add --overwrite",
        missing=True,
    )
