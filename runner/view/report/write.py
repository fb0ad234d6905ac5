"""A report to a file."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryFile

from last_e.whole import whole_file
from runner.errors import UsageError, unwritable
from runner.view.report.page import MARK


def see_that_it_may_be_written(path: Path, overwrite: bool) -> None:
    """See to it before anything is read. A report may be replaced by another one.

    Raises:
        UsageError: it cannot be written there, or something else is there.
    """
    try:
        if path.is_dir():
            raise UsageError(f"{path} is a folder: name a file, such as {path / 'report.html'}")
        if path.exists() and not overwrite and not _is_report(path):
            raise UsageError(f"{path} is there already, and is no report: name another file, or say --overwrite")
        with TemporaryFile(dir=path.absolute().parent):
            pass
    except OSError as error:
        raise unwritable(path, error) from None


def write(path: Path, page: str) -> int:
    """Write the page, whole or not at all; returns its bytes.

    Raises:
        UsageError: it cannot be written there.
    """
    data = page.encode()
    try:
        with whole_file(path) as part:
            part.write_bytes(data)
    except OSError as error:
        raise unwritable(path, error) from None
    return len(data)


def _is_report(path: Path) -> bool:
    with path.open("rb") as file:
        return MARK.encode() in file.read(200)
