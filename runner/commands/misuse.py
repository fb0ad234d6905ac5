"""Mistakes in how a command was called, in our words: what was found, what is allowed, what to do next; all values at once.

What the library says of them differs between its versions, so that only its parser and what we have declared are asked.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any, get_args, get_type_hints

from last_e.problems import ConfigError, Problem, show
from runner.errors import UsageError

_KINDS = {int: "a whole number", float: "a number"}
_MADE = {"JOB.YAML": "the job's file; lastrun init writes one"}


def in_our_words(error: Any, words: Sequence[str], root: Any) -> ConfigError | UsageError:
    """What to say of an ``error`` of the library's, of a command line of these ``words``, whose commands are below ``root``."""
    said = str(error.format_message()).rstrip(".")
    ctx = getattr(error, "ctx", None)
    if ctx is None:  # of an option whose value is missing, or that takes none
        command, path = root, ["lastrun"]
        while (below := getattr(command, "commands", {}).get(words[len(path) - 1])) is not None:
            command, path = below, [*path, words[len(path) - 1]]
        return _of_option(str(getattr(error, "option_name", "")), command, " ".join(path))
    command, called = ctx.command, ctx.command_path
    if option := getattr(error, "option_name", None):
        return _of_option(option, command, called)
    rest = list(words[len(called.split()) - 1 :])
    if hasattr(command, "list_commands"):
        names = command.list_commands(ctx)
        name = next((word for word in rest if not word.startswith("-")), None)
        if name is not None and name not in names:
            return UsageError(f"{name}: no command of {called}{_meant(name, names)}; {called} --help lists them")
    taken: dict[str, Any] = {}
    more: list[str] = []
    with suppress(Exception):  # the first mistake was told of these very words; a second one of them may hide all values
        taken, more, _ = command.make_parser(ctx).parse_args(args=rest)
    missing = [one for one in command.params if taken and one.required and not _is_given(taken.get(one.name))]
    declared = _declared(command)
    wrong = [
        Problem(_name(one), "-", "nothing", _MADE.get(_name(one)) or declared[one.name][1].help or "a value") for one in missing
    ]
    if wrong := [*wrong, *_wrong_values(command, taken)]:
        return ConfigError(wrong)
    if more:
        hint = "--set takes KEY=VALUE" if "--set" in words else f"{called} --help tells what it takes"
        return UsageError(f"{' '.join(map(str, more))}: more than {called} takes; {hint}")
    return UsageError(f"{said.removeprefix('Invalid value for ')}; {called} --help tells more")


def _of_option(name: str, command: Any, called: str) -> ConfigError | UsageError:
    """Of one that there is not, that takes no value, or that lacks one."""
    options = {opt: one for one in command.params for opt in one.opts if opt.startswith("-")}
    if name not in options:
        return UsageError(f"{name}: no option of {called}{_meant(name, options)}; {called} --help lists them")
    option = options[name]
    if getattr(option, "is_flag", False):
        return UsageError(f"{name}: found a value; allowed: the option alone")
    kind = _numbers(command).get(option.name)
    allowed = f"a value, as in {name} {option.metavar or 'VALUE'}" if kind is None else _allowed(*kind)
    return ConfigError([Problem(name, "-", "nothing", allowed)])


def _wrong_values(command: Any, taken: dict[str, Any]) -> Iterator[Problem]:
    """Every number that is none, or out of bounds."""
    names = {one.name: one.opts[0] for one in command.params}
    for name, (kind, least, most) in _numbers(command).items():
        said = taken.get(name)
        if not isinstance(said, str):
            continue
        try:
            number = kind(said)
            fits = math.isfinite(number) and (least is None or number >= least) and (most is None or number <= most)
        except ValueError:
            fits = False
        if not fits:
            yield Problem(names[name], "-", show(said), _allowed(kind, least, most))


def _numbers(command: Any) -> dict[str, tuple[type[int] | type[float], float | None, float | None]]:
    """The options of a command that take a number: of what kind, and from where to where."""
    found = {}
    for name, (declared, option) in _declared(command).items():
        kind = next((one for one in (declared, *get_args(declared)) if one in _KINDS), None)
        if kind is not None:
            found[name] = kind, option.min, option.max
    return found


def _declared(command: Any) -> dict[str, tuple[Any, Any]]:
    """The type of each parameter of a command's function, and what Typer is told of it."""
    hints = get_type_hints(getattr(command.callback, "__wrapped__", command.callback), include_extras=True)
    found = {}
    for name, hint in hints.items():
        marked = next((one for one in (hint, *get_args(hint)) if hasattr(one, "__metadata__")), None)  # 3.10: in Optional[...]
        if marked is not None:
            found[name] = get_args(marked)[0], marked.__metadata__[0]
    return found


def _allowed(kind: type[int] | type[float], least: float | None, most: float | None) -> str:
    if least is None:
        return _KINDS[kind]
    return f"{_KINDS[kind]} of at least {least:,}" if most is None else f"{_KINDS[kind]} from {least:,} to {most:,}"


def _is_given(value: Any) -> bool:
    return isinstance(value, str) or (isinstance(value, (list, tuple)) and bool(value))


def _name(parameter: Any) -> str:
    """As the usage line has it."""
    return str(parameter.opts[0] if parameter.opts[0].startswith("-") else parameter.metavar or parameter.name.upper())


def _meant(name: str, names: Any) -> str:
    near = difflib.get_close_matches(name, names, n=1)
    return f"; did you mean {near[0]}?" if near else ""
