"""Mistakes in what a user gave, told so that they can be mended: where, what was found, what is allowed."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BeforeValidator

from last_e.text import plain


@dataclass(frozen=True)
class Origin:
    """Where a value was set: a file (with its line) or a flag."""

    name: str
    line: int | None = None

    def __str__(self) -> str:
        return self.name if self.line is None else f"{self.name}:{self.line}"


@dataclass(frozen=True)
class Problem:
    """One mistake: where it stands, the key, what was found and what is allowed."""

    origin: str
    key: str
    """Dotted; ``-`` where the mistake is about the whole."""
    found: str
    allowed: str

    def __str__(self) -> str:
        place = self.origin if self.key == "-" else f"{self.origin}: {self.key}"
        allowed = self.allowed if self.allowed.startswith("did you mean") else f"allowed: {self.allowed}"
        return plain(f"{place}: found {self.found}; {allowed}").replace("\n", "\\n")


class ConfigError(ValueError):
    """Every mistake in what the user gave, all at once."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = sorted(set(problems), key=lambda p: (p.origin.split(":")[0], _line(p.origin), p.key))
        super().__init__("\n".join(map(str, self.problems)))


@dataclass(frozen=True)
class Meaning:
    """What a pattern admits, in words; stands beside it in an ``Annotated``."""

    words: str


def allowed_values(annotation: Any, metadata: Iterable[Any] = ()) -> str:
    """What a field admits, in words: ``a number > 0, at most 100``."""
    origin = get_origin(annotation)
    if origin is Annotated:
        base, *extra = get_args(annotation)
        unpacked = [m for item in extra for m in getattr(item, "metadata", [item])]
        return allowed_values(base, [*unpacked, *metadata])
    if annotation is int and any(isinstance(m, BeforeValidator) for m in metadata):  # durations alone are read specially
        return "a duration such as 8h50m or a number of seconds"
    if origin in (Union, UnionType):
        parts = [allowed_values(arg, metadata) for arg in get_args(annotation) if arg is not NoneType]
        return " or ".join([*parts, *(["null"] if NoneType in get_args(annotation) else [])])
    if origin is Literal:
        return "one of " + ", ".join(map(str, get_args(annotation)))
    if origin is list:
        return "a list, each entry " + allowed_values(get_args(annotation)[0])
    text = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}.get(annotation, "text")
    for attribute, words in (("gt", "> {}"), ("ge", "at least {}"), ("lt", "< {}"), ("le", "at most {}")):
        for bound in (getattr(m, attribute, None) for m in metadata):
            if bound is not None:
                text += (", " if text[-1].isdigit() else " ") + words.format(bound)
    pattern = next((m.pattern for m in metadata if getattr(m, "pattern", None)), None)
    return next((m.words for m in metadata if isinstance(m, Meaning)), f"{text} matching {pattern}" if pattern else text)


_SYNONYMS = {
    "learning_rate": "training.lr",
    "wd": "training.weight_decay",
    "gpu": "run.gpus",
    "gpus": "run.gpus",
    "workers": "hardware.num_workers",
    "batch": "training.batch_size",
    "amp": "training.use_amp",
}
"""Names that people use for keys whose own name is too different to be guessed."""


def nearest(word: str, choices: Iterable[str]) -> str:
    """``did you mean X?`` with the most similar choice, else the choices themselves where they are few."""
    choices, word = list(choices), word.lower()
    meant = _SYNONYMS.get(word.rsplit(".", 1)[-1])
    if meant in choices:
        return f"known keys only; did you mean {meant}?"
    last = {choice.rsplit(".", 1)[-1]: choice for choice in reversed(choices)}
    sections = [] if "." in word else list(dict.fromkeys(choice.split(".")[0] for choice in choices))
    match = difflib.get_close_matches(word, [*sections, *choices], n=1, cutoff=0.6)
    if not match:
        match = [last[m] for m in difflib.get_close_matches(word.rsplit(".", 1)[-1], last, n=1, cutoff=0.6)]
    if match:
        return f"known keys only; did you mean {match[0]}?"
    section = [choice for choice in choices if choice.startswith(word.split(".")[0] + ".")] or choices
    return "known keys: " + ", ".join(section) if len(section) < 40 else "a key that docs/configuration.md lists"


_WORDS = {"yes": True, "on": True, "no": False, "off": False, "gpu": "cuda", "none": None}
_UNITS = {"d": 86400, "h": 3600, "m": 60, "s": 1}
_CLOCK = re.compile(r"(\d{1,3}):(\d\d):(\d\d)")
_AMOUNT = re.compile(r"(?i)([\d.]+)\s*(d|h|m|s)[a-z]*")


def meant(value: Any, choices: Sequence[str], fits: Callable[[Any], bool]) -> Any:
    """The value that was probably meant by one that will not do; None if there is no guess. ``choices`` are the words that are
    allowed, if only some are; ``fits`` says whether a guess is allowed."""
    guesses = (guess for guess in _guesses(value, choices) if (type(guess), guess) != (type(value), value))
    return next(filter(fits, guesses), None)


def _guesses(value: Any, choices: Sequence[str]) -> Iterator[Any]:
    if isinstance(value, float) and value.is_integer():
        yield int(value)
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        yield [value]
    if not isinstance(value, str):
        return
    text = value.strip()
    if text.lower() in _WORDS:
        yield _WORDS[text.lower()]
    alike = {re.sub(r"[^a-z0-9]", "", choice.lower()): choice for choice in choices}
    plain_text = re.sub(r"[^a-z0-9]", "", text.lower())
    for found in (plain_text, *difflib.get_close_matches(plain_text, alike, n=1, cutoff=0.6)):
        if found in alike:
            yield alike[found]
    for kind in (lambda: int(text, 0), lambda: int(text), lambda: float(text.replace(",", "."))):
        with suppress(ValueError, OverflowError):
            yield kind()
    parts = [part for part in re.split(r"[,;\s]+", text.strip("[]()")) if part]
    with suppress(ValueError):
        yield [float(part) if "." in part else int(part) for part in parts]
    if clock := _CLOCK.fullmatch(text):
        yield seconds_as_duration(sum(int(part) * _UNITS[unit] for part, unit in zip(clock.groups(), "hms")))
    amounts = _AMOUNT.findall(text)
    if amounts and not _AMOUNT.sub("", text).strip(" ,"):
        with suppress(ValueError):
            yield seconds_as_duration(sum(float(number) * _UNITS[unit.lower()] for number, unit in amounts))
    yield re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def seconds_as_duration(seconds: float) -> str:
    """``8h50m``, ``90s``."""
    whole = round(seconds)
    parts = ((whole // 3600, "h"), (whole % 3600 // 60, "m"), (whole % 60, "s"))
    return "".join(f"{amount}{unit}" for amount, unit in parts if amount)


def show(value: Any) -> str:
    """A value as an error shows it: short, on one line."""
    text = whole(value)
    return text if len(text) <= 80 else text[:77] + "..."


def whole(value: Any) -> str:
    """A value on one line, in full: where somebody is to agree to it."""
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else repr(value)


def _line(origin: str) -> int:
    tail = origin.rpartition(":")[2]
    return int(tail) if tail.isdigit() else 0
