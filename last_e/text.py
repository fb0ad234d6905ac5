"""Numbers and errors as people read them."""

from __future__ import annotations

import math
import os
import re
from numbers import Integral
from pathlib import Path
from urllib.parse import unquote_to_bytes, urlsplit

LONGEST_LINE = 500
BEHIND = 0.1
"""A rank is named when it is so much slower than the others."""
MOST_SHOWN = 60
"""Of a name, in a message."""
_MISTYPED = re.compile(r"(?i)(s3|gs|file)(?::/?(?!/)|//+|(?:[^\w/:.]:?|:[^\w/:])//+)")
_ARN = re.compile(r"arn:[\w-]+:s3:::")
_OTHER_NAMES = {"gcs": "gs", "s3a": "s3", "s3n": "s3", "aws": "s3", "google": "gs"}
"""What other programs call these kinds of store."""


def seconds_text(seconds: float | None) -> str:
    """``1h02m``, ``3m20s``, ``45s``; ``-`` when not known."""
    if seconds is None or not math.isfinite(seconds):
        return "-"
    whole = int(seconds + 0.5)
    if whole >= 3600:
        return f"{whole // 3600}h{whole % 3600 // 60:02d}m"
    return f"{whole // 60}m{whole % 60:02d}s" if whole >= 60 else f"{whole}s"


def counted(count: int, word: str, several: str | None = None) -> str:
    """``1 epoch``, ``5 epochs``."""
    return f"{count:,} {word}" if count == 1 else f"{count:,} {several or word + 's'}"


def percent(value: float | None) -> str:
    """``99.45%``; ``-`` when not known."""
    return "-" if value is None else f"{100 * value:.2f}%"


def number(value: float | None, spec: str = ".4f") -> str:
    """A number in a format; ``-`` when not known."""
    return "-" if value is None else format(value, spec)


def by_ranks(rates: list[float] | None, of_one: float | None = None) -> str:
    """What is said of several ranks: how fast they are against one, and each by itself, and which holds the others up."""
    if not rates or len(rates) < 2:
        return ""
    slowest = rates.index(min(rates))
    others = sorted(rates[:slowest] + rates[slowest + 1 :])[(len(rates) - 2) // 2]
    behind = 1 - rates[slowest] / others if others > 0 else 0.0
    named = f"; rank {slowest} is {behind:.0%} behind" if behind >= BEHIND else ""
    span = f"{min(rates):,.0f} - {max(rates):,.0f}" if f"{min(rates):,.0f}" != f"{max(rates):,.0f}" else f"{rates[0]:,.0f}"
    together = f", {of_one:.2f} times one" if of_one is not None else ""
    return f" by {len(rates)} ranks{together} ({span} each{named})"


def plain(text: str) -> str:
    """Text whose control characters are made visible: what a store or a file holds must not steer a terminal."""
    return "".join(c if c.isprintable() or c in "\n\t" else c.encode("unicode_escape", "replace").decode() for c in text)


def one_line(error: BaseException) -> str:
    """An error's message on one line, its kind where it has none; cut where it quotes pages of a damaged file."""
    lines = str(error).strip().splitlines()
    line = lines[0] if lines else type(error).__name__
    return line if len(line) <= LONGEST_LINE else f"{line[:LONGEST_LINE]}..."


def shown(name: object) -> str:
    """A name or key that a file holds, in a message: short, on one line; of what is neither text nor number its kind alone."""
    try:
        text = str(name) if isinstance(name, (str, Integral)) else type(name).__name__
    except ValueError:  # a number of more than 4,300 digits
        text = "a number"
    text = text if len(text) <= MOST_SHOWN else f"{text[: MOST_SHOWN - 3]}..."
    return text if text.isprintable() else ascii(text)[1:-1]


def expand(path: str) -> Path:
    """A path with ``~`` replaced by the home folder, where there is one."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)


def unquoted(path: str) -> str:
    """What the system calls the path of a ``file://`` URI, whatever bytes its names are made of and whatever the locale."""
    return os.fsdecode(unquote_to_bytes(os.fsencode(path)))


def unknown_user(path: str) -> str | None:
    """What is wrong with a path that begins with the home folder of somebody who is not known here: it would become a folder of
    that odd name."""
    name = path.partition("/")[0]
    if name[:1] != "~" or name == "~" or expand(name) != Path(name):
        return None
    return f"there is no user {shown(name[1:])} here; a folder of that name is ./{shown(name)}"


_VARIABLE = re.compile(r"\$(?:\{([^}]*)\}|([A-Za-z_][A-Za-z0-9_]*)|[{(])")


def with_variables(text: str) -> str:
    """``$NAME`` and ``${NAME}`` replaced by what the environment has.

    Raises:
        UnsetVariable: it has no such variable, or an empty one, which would make another name of this; or a variable is written
            in another way.
    """

    def value(found: re.Match[str]) -> str:
        name = found[1] if found[1] is not None else found[2]
        if name is None:
            raise UnsetVariable(found[0], odd=True)
        if not os.environ.get(name):
            raise UnsetVariable(name)
        return os.environ[name]

    return _VARIABLE.sub(value, text)


class UnsetVariable(ValueError):
    """A name has a variable in it that is not set; its own text says which."""

    def __init__(self, name: str, odd: bool = False) -> None:
        super().__init__(
            f"{name} begins no variable; allowed: ${{NAME}} or $NAME" if odd else f"the variable {name or '${}'} is not set"
        )


def absolute(path: str | Path) -> Path:
    """A path from the root, without ``..``: elsewhere the folders that lead there and back may be missing."""
    whole = expand(str(path)).absolute()
    return whole.resolve() if ".." in whole.parts else whole


def has_port(address: str) -> bool:
    """Whether the host of an http address is there, and its port, if it names one, can be one."""
    try:
        parts = urlsplit(address)
        return bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


def misspelt(uri: str) -> str | None:
    """What is wrong with a name that is meant as a URI, but is none of ours, nor a folder as anybody would name one."""
    scheme, separator, rest = uri.partition("://")
    right = _OTHER_NAMES.get(scheme.lower(), scheme.lower())
    if separator and right != scheme and right in ("s3", "gs", "file"):
        return f"did you mean {right}://{rest.partition('?')[0]}?"
    if found := _MISTYPED.match(uri):
        scheme = "file:///" if found[1].lower() == "file" else f"{found[1].lower()}://"
        place = uri[found.end() :].lstrip("\\")
        place = place if place == uri[found.end() :] else place.replace("\\", "/")
        return f"did you mean {scheme}{place}? A folder of that name is ./{uri}"
    if found := _ARN.match(uri):
        return f"did you mean s3://{uri[found.end() :]}? A folder of that name is ./{uri}"
    if not separator and re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/|[A-Za-z]:[\\/]", uri):
        return f"{uri.partition(':')[0]}: is no kind of store; a folder of that name is ./{uri}"
    return None
