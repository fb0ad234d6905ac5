"""Numbers and errors as people read them."""

from __future__ import annotations

import math
from pathlib import Path

LONGEST_LINE = 500


def seconds_text(seconds: float | None) -> str:
    """``1h02m``, ``3m20s``, ``45s``; ``-`` when not known."""
    if seconds is None or not math.isfinite(seconds):
        return "-"
    whole = int(seconds + 0.5)
    if whole >= 3600:
        return f"{whole // 3600}h{whole % 3600 // 60:02d}m"
    return f"{whole // 60}m{whole % 60:02d}s" if whole >= 60 else f"{whole}s"


def percent(value: float | None) -> str:
    """``99.45%``; ``-`` when not known."""
    return "-" if value is None else f"{100 * value:.2f}%"


def number(value: float | None, spec: str = ".4f") -> str:
    """A number in a format; ``-`` when not known."""
    return "-" if value is None else format(value, spec)


def plain(text: str) -> str:
    """Text whose control characters are made visible: what a store or a file holds must not steer a terminal."""
    return "".join(c if c.isprintable() or c in "\n\t" else c.encode("unicode_escape", "replace").decode() for c in text)


def one_line(error: BaseException) -> str:
    """An error's message on one line, its kind where it has none; cut where it quotes pages of a damaged file."""
    lines = str(error).strip().splitlines()
    line = lines[0] if lines else type(error).__name__
    return line if len(line) <= LONGEST_LINE else f"{line[:LONGEST_LINE]}..."


def expand(path: str) -> Path:
    """A path with ``~`` replaced by the home folder, where there is one."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)


def absolute(path: str | Path) -> Path:
    """A path from the root, without ``..``: elsewhere the folders that lead there and back may be missing."""
    whole = expand(str(path)).absolute()
    return whole.resolve() if ".." in whole.parts else whole
