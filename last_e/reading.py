"""Reading settings: YAML as people mean it, and ``KEY=VALUE`` words. A layer is a flat mapping from dotted key to value and
origin."""

from __future__ import annotations

import codecs
import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

import yaml

from last_e.problems import Origin, Problem, show
from last_e.redact import secret_in

MAX_YAML_BYTES = 1_000_000
_UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


@dataclass(frozen=True)
class Entry:
    """A value and where it was set."""

    value: Any
    origin: Origin


Layer = dict[str, Entry]


class _Loader(yaml.SafeLoader):
    """Strict YAML: ``1e-4`` is a number, ``no`` a word, ``010`` too; a key stands once; no tags, no aliases."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        event: Any = self.peek_event()  # type: ignore[no-untyped-call]
        if isinstance(event, yaml.AliasEvent):
            raise _refused("aliases (*name) are not used here", event)
        if getattr(event, "tag", None) is not None:
            raise _refused(f"tags ({event.tag}) are not used here", event)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        seen: dict[str, int] = {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise _refused("a key must be a word", key)
            line = key.start_mark.line + 1
            if key.value in seen:
                first = "" if seen[key.value] == line else f" (first in line {seen[key.value]})"
                raise _refused(f"{key.value} is set twice{first}", key)
            seen[key.value] = line
        return super().construct_mapping(node, deep)


_Loader.yaml_implicit_resolvers = {}  # our own few instead of YAML 1.1's
_DIGITS = "-+0123456789"
for _tag, _pattern, _first in (
    ("null", r"^(?:null|Null|NULL|~|)$", ["n", "N", "~", ""]),
    ("bool", r"^(?:true|True|TRUE|false|False|FALSE)$", list("tTfF")),
    ("int", r"^[-+]?(?:0|[1-9][0-9_]*)$", list(_DIGITS)),
    (
        "float",
        r"^(?:[-+]?(?:(?:0|[1-9][0-9_]*)\.[0-9_]*|\.[0-9]+|[0-9]+(?=[eE]))(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$",
        list(_DIGITS + "."),
    ),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(_pattern), _first)


def _refused(message: str, at: Any) -> yaml.MarkedYAMLError:
    return yaml.constructor.ConstructorError(None, None, message, at.start_mark)


# What PyYAML lets through from its depths on odd input, beside its own errors.
_YAML_ERRORS = (yaml.YAMLError, ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError, RecursionError)


def parse_value(text: str) -> Any:
    """The value of a flag or of ``--set KEY=VALUE``, read as YAML.

    Raises:
        ValueError: the text is not YAML.
    """
    try:
        return yaml.load(text, _Loader)  # noqa: S506 (a SafeLoader)
    except _YAML_ERRORS as error:
        raise ValueError(_message(error)) from None


def load_file(path: Path, name: str | None = None) -> tuple[Layer, list[Problem]]:
    """Read a YAML file into a layer; what is wrong with it comes back beside it, so that it can be told with the rest."""
    name = name or str(path)
    try:
        if path.is_dir():
            return {}, [Problem(name, "-", "a folder", "the path of a YAML file")]
        if path.is_fifo() and not path.resolve().is_relative_to("/proc") and not path.is_relative_to("/dev"):
            # Of one that a shell gives (<(...), /dev/stdin) the other end is at work; at this one nobody may ever write.
            return {}, [Problem(name, "-", "a pipe", "the path of a YAML file")]
        with path.open("rb") as file:
            data = file.read(MAX_YAML_BYTES + 1)
        if len(data) > MAX_YAML_BYTES:
            return {}, [Problem(name, "-", f"more than {MAX_YAML_BYTES} bytes", f"at most {MAX_YAML_BYTES} bytes of YAML")]
        text = data.decode("utf-8").lstrip("\ufeff")
        if data.count(0) > len(data) // 3:  # in UTF-16 every other byte of English text is zero, and UTF-8 admits it
            raise UnicodeDecodeError("utf-8", data, 0, 1, "UTF-16")
    except UnicodeDecodeError as error:
        wide = data.startswith(_UTF_16) or error.reason == "UTF-16"
        found = "text in UTF-16" if wide else "bytes that are not UTF-8"
        return {}, [Problem(name, "-", found, "YAML text in UTF-8; editors ask for it where they save a file under a name")]
    except FileNotFoundError:
        there = {one.name: one for folder in (Path("jobs"), path.parent) for one in sorted(folder.glob("*.y*ml"))}
        meant = difflib.get_close_matches(path.name, there, n=1)
        hint = f"; did you mean {there[meant[0]]}?" if meant else ""
        return {}, [Problem(name, "-", "no such file", f"the path of a YAML file{hint}")]
    except (OSError, ValueError) as error:
        found = getattr(error, "strerror", None) or str(error)
        return {}, [Problem(name, "-", found, "the path of a YAML file")]
    if "\0" in text:
        line = text[: text.index("\0")].count("\n") + 1
        return {}, [Problem(f"{name}:{line}", "-", "a null character", "text alone")]
    try:
        loader = _Loader(text)
        try:
            node = loader.get_single_node()
            lines: dict[str, int] = {}
            _key_lines(node, "", lines)
            values = loader.construct_document(node) if node is not None else {}
        finally:
            loader.dispose()
    except _YAML_ERRORS as error:
        return {}, [_told(error, name, text)]
    if not isinstance(values, dict):
        return {}, [_no_keys(values, name, text)]
    return _flat_layer(values, name, lines)


def layer_of(values: Mapping[Any, Any], name: str) -> tuple[Layer, list[Problem]]:
    """The same of what such a file would hold, nested or with dots. Paths stand for their text, tuples for lists."""

    def plain(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {str(key): plain(item) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            return [plain(item) for item in value]
        return str(value) if isinstance(value, PurePath) else value

    return _flat_layer(plain(values), name, {})


def _flat_layer(values: Mapping[Any, Any], name: str, lines: dict[str, int]) -> tuple[Layer, list[Problem]]:
    """A key may be written nested or with dots, but once."""
    layer: Layer = {}
    problems = []
    for key, value in flat_items(values):
        if key in layer:
            origin = str(Origin(name, lines.get(key)))
            problems.append(Problem(origin, key, "the key twice, nested and with dots", "each key once"))
        if odd := next((name for character, name in _ODD.items() if character in key), None):
            origin = str(Origin(name, lines.get(key)))
            problems.append(Problem(origin, "-", f"{odd} in {key}", _ORDINARY))
            continue
        if value is None and (joined := _JOINED.search(key)):
            told = f"{joined[0]}, with no space after the colon"
            problems.append(Problem(str(Origin(name, lines.get(key))), "-", told, f"{joined[1]}: {joined[2]}"))
            continue
        layer[key] = Entry(value, Origin(name, lines.get(key)))
    return layer, problems


def set_layer(assignments: Iterable[str], name: str = "--set") -> tuple[Layer, list[Problem]]:
    """``KEY=VALUE`` words into a layer, in order; a later one wins."""
    layer: Layer = {}
    problems = []
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        if not equals or not key.strip():
            problems.append(Problem(name, assignment, "no KEY=VALUE", "for example training.gradient_clip=2.0"))
            continue
        try:
            value = parse_value(text)
        except ValueError as error:
            problems.append(
                Problem(name, key, f"{'a secret' if secret_in(key, text) else show(text)} ({error})", "a YAML value")
            )
            continue
        for full, leaf in flat_items({key.strip(): value}):
            layer.pop(full, None)  # a key may have several names, of which the last counts
            layer[full] = Entry(leaf, Origin(name))
    return layer, problems


def flat_items(values: Mapping[Any, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    """Nested mappings as dotted keys and their leaves; of a list of mappings each by its number (``sweep.points.0.model``)."""
    for key, value in values.items():
        full = f"{prefix}{key}"
        if isinstance(value, Mapping) and value:
            yield from flat_items(value, f"{full}.")
        elif isinstance(value, list) and value and all(isinstance(item, Mapping) for item in value):
            yield from flat_items(dict(enumerate(value)), f"{full}.")
        else:
            yield full, value


def no_mapping(value: Any) -> tuple[str, str]:
    """What was found where a mapping should stand, and what is allowed."""
    if isinstance(value, str) and (joined := _JOINED.match(value)):
        return f"{show(value)}, with no space after the colon", f"{joined[1]}: {joined[2]}"
    return show(value), "a mapping of keys to values"


_EQUALS = re.compile(r"([A-Za-z_][\w.]*)\s*=\s*(\S.*)$")


def _no_keys(value: Any, name: str, text: str) -> Problem:
    """What is wrong with a text that is no mapping, by its first line."""
    lines = ((number, line.strip()) for number, line in enumerate(text.splitlines(), 1))
    at, line = next(((number, line) for number, line in lines if line and line[0] != "#"), (1, ""))
    told = None
    if odd := next((words for character, words in _ODD.items() if character in line), None):
        told = f"{odd} in {show(line)}", _ORDINARY
    elif _JOINED.match(line):
        told = no_mapping(line)
    elif equals := _EQUALS.match(line):
        told = f"{show(line)}, with = for a colon", f"{equals[1]}: {equals[2]}"
    elif re.match(r"(?i)<(!doctype|html|\?xml)", line):
        told = "a web page, or another file of tags", "lines of KEY: VALUE"
    if told is None:
        return Problem(name, "-", *no_mapping(value))
    return Problem(f"{name}:{at}", "-", *told)


def _key_lines(node: Any, prefix: str, lines: dict[str, int]) -> None:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            full = f"{prefix}{key.value}"
            lines[full] = key.start_mark.line + 1
            _key_lines(value, f"{full}.", lines)
    elif isinstance(node, yaml.SequenceNode):
        for number, value in enumerate(node.value):
            lines[f"{prefix}{number}"] = value.start_mark.line + 1
            _key_lines(value, f"{prefix}{number}.", lines)


_JOINED = re.compile(r"(?<![^.])([A-Za-z_]\w*):([^\s:/]\S*)$")
"""A key and its value that are one word to YAML."""
_ODD = {"\u00a0": "a no-break space", "\u201c": "a typographic quote", "\u201d": "a typographic quote"}
_ODD |= {"\u2018": "a typographic quote", "\u2019": "a typographic quote", "\u2013": "a dash", "\uff1a": "a full-width colon"}
"""What word processors and web pages put where YAML wants an ordinary character."""
_ORDINARY = "the ordinary character that it stands for"
_QUOTES = "quotes around a text that begins with such a character"
_ALIKE = "keys of one mapping below each other, indented alike"
_ONE = "one document: nothing after a line --- or ..."
_IN_OUR_WORDS = (
    ("set twice", None, "each key once"),
    ("thousands of digits", None, "a number of a few digits"),
    ("no character", None, r"a character up to \U0010FFFF, or single quotes around a text with \ in it"),
    ("aliases", None, "the values themselves, written out"),
    ("tags", None, "the value without its tag"),
    ("a tab", None, "spaces"),
    ("document start", "more after the end of what stands above it", _ONE),
    ("another document", None, _ONE),
    ("unknown escape", None, r"single quotes around a text with \ in it"),
    ("could not find expected ':'", "no colon", "lines of KEY: VALUE, with a space after the colon"),
    ("mapping values are not", "': ' a second time", "one KEY: VALUE a line, and quotes around a text that holds ': '"),
    ("but found '-'", "an entry of a list among keys", "either KEY: VALUE or - VALUE in each line of one mapping"),
    ("but found '<scalar>'", "more after the end of a value", "quotes around the whole of a text"),
    ("expected <block end>", "a key that is indented like none before it", _ALIKE),
    ("end of stream", "a quote that is not closed", "a second quote like the first"),
    ("cannot start any token", None, _QUOTES),
    (
        "expected ',' or",
        "a bracket that is not closed, or no comma after an entry,",
        "a comma between entries, and a bracket for each that was opened",
    ),
    ("expected the node", "a bracket or comma where a value should be", "a value, or quotes around a text of such characters"),
    ("expected chomping", "> or | before a text", _QUOTES),
    ("expected alphabetic", "* or & before a text", _QUOTES),
)
"""What the parser says, what people are told of it where that is something else, and what to write instead."""
_BEGAN_BEFORE = ("could not find expected ':'", "end of stream", "expected ',' or")
"""The parser notices these only further on."""


def _told(error: BaseException, name: str, text: str) -> Problem:
    """What was found in a text that is no YAML, and what to write instead."""
    said = _said(error)
    mark = getattr(error, "problem_mark", None)
    if any(part in said for part in _BEGAN_BEFORE):
        mark = getattr(error, "context_mark", None) or mark
    lines = text.splitlines()
    found = _message(error)
    allowed = next((instead for part, _, instead in _IN_OUR_WORDS if part in said), "YAML: lines of KEY: VALUE")
    if mark is None or not lines:
        return Problem(name, "-", found, allowed)
    at = min(mark.line, len(lines) - 1)
    for number in (at, max(at - 1, 0)):  # an odd character is often seen only in what follows it
        line = lines[number].strip()
        if odd := next((words for character, words in _ODD.items() if character in line), None):
            return Problem(f"{name}:{number + 1}", "-", f"{odd} in {show(line)}", _ORDINARY)
        if section := re.fullmatch(r"\[([A-Za-z_][\w.]*)\]\s*", lines[number]):
            told = f"{show(line)}, as INI and TOML files have it"
            return Problem(f"{name}:{number + 1}", "-", told, f"{section[1]}: and its keys below it, indented")
    if "mapping values are not allowed" in said and (misplaced := _misplaced(lines, at)):
        return Problem(f"{name}:{at + 1}", "-", *misplaced)
    line = lines[at].strip()
    return Problem(f"{name}:{mark.line + 1}", "-", f"{found} in {show(line)}" if line else found, allowed)


def _misplaced(lines: list[str], at: int) -> tuple[str, str] | None:
    """What is wrong with a line whose KEY: VALUE YAML takes for more of the value above it."""
    above = next((line for line in reversed(lines[:at]) if line.strip() and line.lstrip()[0] != "#"), None)
    if above is None:
        return None
    if joined := _JOINED.search(above.strip()):
        return f"{show(joined[0])} above it, with no space after the colon", f"{joined[1]}: {joined[2]}"
    own, other = (len(line) - len(line.lstrip()) for line in (lines[at], above))
    if own <= other:
        return None
    return f"{own} spaces before {show(lines[at].strip())}, and {other} in the line above", _ALIKE


def _message(error: BaseException) -> str:
    said = _said(error)
    return next((words or said for part, words, _ in _IN_OUR_WORDS if part in said), said).replace(
        " that cannot start any token", " before a text"
    )


def _said(error: BaseException) -> str:
    if isinstance(error, RecursionError):
        return "nested too deep"
    if "integer string conversion" in str(error):
        return "a whole number of thousands of digits"
    if "chr()" in str(error):
        return "a \\U... in double quotes that is no character (\\U0010FFFF is the last)"
    if "\\t" in str(getattr(error, "problem", "")):
        return "a tab (YAML indents with spaces)"
    text = str(getattr(error, "problem", None) or (error if isinstance(error, (yaml.YAMLError, ValueError)) else ""))
    return text.splitlines()[0].removeprefix("but ").removeprefix("found ") if text else "not valid YAML"
