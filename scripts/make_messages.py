#!/usr/bin/env python3
"""Writes docs/messages.md: every message that somebody can meet, read off the source. A test sees that the page is so.

A message is what an error of ours is made of (wherever one is made, not only where it is raised), a mistake in what a user gave
(``Problem``), why an attempt ended, and what is said on the side (``show(..., error=True)``, ``say``, ``note``, ``Message``,
texts that begin with ``note:`` or ``warning:``). What is only known when it happens stands in braces.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from runner.errors import Exit, Reason

HEAD = """\
# Messages

<!-- Written by scripts/make_messages.py from the source: do not edit by hand. -->

Everything that lastrun says when something is wrong, or worth a word, by what it is about. Look for some words of what you
read. What stands in braces is known only when it happens; `(a / b)` is one of both, and what stands in `[brackets]` is there at
times. An error says what was found, what is allowed and what to do next; its number is the command's
[exit code](commands.md#exit-codes). *Part of another* stands in others, at `{error}` or `{why}`. What to do by reason, and
questions: [when something is wrong](troubleshooting.md).
"""
AREAS = {
    "A job's file, its keys, and --set": """
        last_e/choosing last_e/config last_e/described last_e/known last_e/layers last_e/problems last_e/reading
        last_e/set_by last_e/text runner/commands/check runner/commands/init runner/draft runner/halving runner/own_data
        runner/resolve runner/search runner/spec runner/sweep
    """,
    "Jobs, checkpoints and groups": """
        last_e/manifest last_e/metrics runner/api runner/commands/app runner/commands/copy runner/commands/groups
        runner/commands/keep runner/commands/look runner/commands/misuse runner/commands/options runner/commands/run
        runner/commands/shell runner/commands/show runner/commands/wanted runner/completion/ runner/errors runner/job/
        runner/signals runner/submitter runner/view/
    """,
    "The store": """
        runner/store/
    """,
    "What a job may do here": """
        last_e/redact runner/folders runner/machine runner/settings runner/trust runner/version runner/waits
    """,
    "An attempt and its trainer": """
        last_e/__main__ last_e/average last_e/balance last_e/bar last_e/checkpoint last_e/cli last_e/console last_e/environment
        last_e/evaluate last_e/events last_e/gpu last_e/graph last_e/init/ last_e/light last_e/load last_e/machine_code
        last_e/model/ last_e/optim last_e/precision last_e/process last_e/progress last_e/ranks/ last_e/resume
        last_e/rng last_e/schedule last_e/set_up last_e/state last_e/step last_e/stop last_e/terminal last_e/train last_e/whole
        runner/attempt/ runner/gpus runner/hub_files runner/models runner/weights
    """,
    "Data": """
        last_e/before_after last_e/counts last_e/data/ last_e/datafile last_e/joints last_e/own_set last_e/predictions
        last_e/prepare/ last_e/shipped last_e/skeletons last_e/splits runner/commands/data
    """,
    "Scoring, predicting, exporting": """
        last_e/export/ last_e/predict/ last_e/score/ runner/child runner/commands/export runner/commands/judge
        runner/commands/predict runner/demo_page runner/evaluate runner/export runner/page/ runner/predict
    """,
    "Pages": """
        runner/commands/ui runner/ui/
    """,
    "Plan, bench and doctor": """
        last_e/bench/ runner/commands/bench runner/doctor/ runner/plan/
    """,
    "Launchers": """
        runner/commands/host runner/commands/image runner/launch/ runner/launchers
    """,
    "Kaggle": """
        runner/kaggle
    """,
    "Being told, and trackers": """
        runner/commands/watch runner/notify/ runner/tracking/ runner/watch
    """,
}
"""By the file of the source, its longest beginning."""
_ERRORS = {"LastrunError", "ConfigError", "DataError", "DamagedCheckpoint", "NoGpu", "PeerGone", "RanksDiffer", "DataChanged"}
_ERRORS |= {"Differs", "UnsetVariable"}
"""Classes, with what is made of them, whose text somebody reads."""
_SAYING = {"show", "say", "note", "warn", "_say", "tell", "_tell", "Message", "stop", "warning"}
_ON_THE_SIDE = re.compile(r"(note|warning): ")
_OF_PAGES = {"HTTPException": 1, "_told": 1, "_refused": 0}
"""What answers a browser in place of a page, and which of its arguments says why."""
_MOST = 40
"""So many ways to say one thing are told apart."""
_GATHERED = {"wrong", "problems", "told", "notes", "warnings", "fatal", "missing", "lacks", "silent", "obstacles", "reasons"}
"""Lists of sentences."""
_FEWEST_WORDS = 4
"""Of a sentence that is gathered: less is a name."""
_TOLD_ELSEWHERE = {
    "nearest": "did you mean ...?",
    "allowed_values": "{what the key takes}",
    "lastrun_version": "{version}",
    "percent": "{percent}",
    "one_line": "{why}",
    "in_a_line": "{why}",
    "misspelt": "did you mean ...?",
    "ended_by": "{signal}",
}
"""Functions of which every message would repeat all that they may say: what stands in their place."""
_SHOWING = {
    "show",
    "redact",
    "plain",
    "seconds_text",
    "number",
    "str",
    "repr",
    "quote",
    "int",
    "float",
    "round",
    "len",
    "sorted",
}
"""Functions that show what they are given."""


@dataclass
class Source:
    """A module: what its names stand for, and what its functions return."""

    path: Path
    tree: ast.Module
    constants: dict[str, ast.expr] = field(default_factory=dict)
    functions: dict[str, ast.FunctionDef] = field(default_factory=dict)
    imported: dict[str, str] = field(default_factory=dict)
    nodes: list[ast.AST] = field(default_factory=list)


def sources(root: Path) -> dict[str, Source]:
    """Every module of both packages by its name."""
    found = {}
    for package in ("runner", "last_e"):
        for path in sorted((root / package).rglob("*.py")):
            tree = ast.parse(path.read_text())
            one = Source(path.relative_to(root), tree, nodes=list(ast.walk(tree)))
            for node in one.nodes:
                if isinstance(node, ast.FunctionDef):
                    one.functions.setdefault(node.name, node)
                elif isinstance(node, ast.ImportFrom):
                    one.imported |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
            for node in tree.body:
                target = (
                    node.targets[0]
                    if isinstance(node, ast.Assign)
                    else node.target
                    if isinstance(node, ast.AnnAssign)
                    else None
                )
                if isinstance(target, ast.Name) and node.value is not None:
                    one.constants[target.id] = node.value
            found[".".join(one.path.with_suffix("").parts)] = one
    return found


class Words:
    """What an expression may say, in a place of the source."""

    def __init__(self, all_sources: dict[str, Source]) -> None:
        self._sources = all_sources
        self._names: dict[int, dict[str, list[ast.expr]]] = {}

    def of(self, node: ast.expr | None, one: Source, inside: ast.AST | None, deep: int = 0) -> list[str] | None:
        """Every way in which it may be put; None: it is known only when it happens."""
        if node is None or deep > 8:
            return None
        if isinstance(node, ast.Constant):
            return [node.value] if isinstance(node.value, str) else None
        if isinstance(node, ast.JoinedStr):
            return self._joined([self._part(value, one, inside, deep) for value in node.values])
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
            parts = [self.of(side, one, inside, deep) for side in (node.left, node.right)]
            if parts == [None, None]:
                return None
            return self._joined([part or [_hole(side)] for part, side in zip(parts, (node.left, node.right))])
        if isinstance(node, ast.IfExp):
            return self._some([self.of(side, one, inside, deep) for side in (node.body, node.orelse)], (node.body, node.orelse))
        if isinstance(node, ast.BoolOp):
            return self._some([self.of(side, one, inside, deep) for side in node.values], node.values)
        if isinstance(node, (ast.Name, ast.Attribute)):
            return self._named(node, one, inside, deep)
        if isinstance(node, ast.Call):
            return self._called(node, one, inside, deep)
        return None

    def _part(self, value: ast.expr, one: Source, inside: ast.AST | None, deep: int) -> list[str]:
        if isinstance(value, ast.Constant):
            return [str(value.value)]
        assert isinstance(value, ast.FormattedValue)
        inner = value.value
        found = self.of(inner, one, inside, deep + 1)
        if not found or len(found) > 4 or any("\n" in text for text in found):
            return [_hole(inner)]
        if isinstance(inner, (ast.IfExp, ast.BoolOp)) or len(found) > 1:
            rest = sorted(text for text in found if text)
            return [f"[{' / '.join(rest)}]"] if "" in found else [f"({' / '.join(rest)})"] if len(rest) > 1 else rest
        return found

    def _named(self, node: ast.Name | ast.Attribute, one: Source, inside: ast.AST | None, deep: int) -> list[str] | None:
        if isinstance(node, ast.Attribute):
            return None
        if inside is not None:
            given = self._given(inside).get(node.id, [])
            own = [value for value in given if value is not None and not any(n is node for n in ast.walk(value))]
            if given:
                return self._some([self.of(value, one, inside, deep + 1) for value in own], own) if own else None
        if node.id in one.constants:
            return self.of(one.constants[node.id], one, None, deep + 1)
        module, _, name = one.imported.get(node.id, "").rpartition(".")
        if other := self._sources.get(module):
            return self.of(other.constants.get(name), other, None, deep + 1)
        return None

    def _given(self, inside: ast.AST) -> dict[str, list[ast.expr]]:
        """What the names of a function are set to."""
        if id(inside) not in self._names:
            found: dict[str, list[ast.expr]] = {}
            for part in ast.walk(inside):
                if isinstance(part, (ast.Assign, ast.NamedExpr, ast.AnnAssign)) and part.value is not None:
                    for target in part.targets if isinstance(part, ast.Assign) else [part.target]:
                        if isinstance(target, ast.Name):
                            found.setdefault(target.id, []).append(part.value)
            self._names[id(inside)] = found
        return self._names[id(inside)]

    def _called(self, node: ast.Call, one: Source, inside: ast.AST | None, deep: int) -> list[str] | None:
        if isinstance(node.func, ast.Attribute):
            if node.func.attr == "format":
                found = self.of(node.func.value, one, inside, deep + 1)
                return found and [_filled(text, node) for text in found]
            if node.func.attr in ("rstrip", "strip", "replace", "capitalize"):
                return self.of(node.func.value, one, inside, deep + 1)
            return None
        if not isinstance(node.func, ast.Name):
            return None
        if node.func.id in _TOLD_ELSEWHERE and (node.func.id not in one.functions or one.path.stem in ("text", "problems")):
            return [_TOLD_ELSEWHERE[node.func.id]]
        if node.func.id == "counted":
            return [f"{_hole(node.args[0])} {self._counted(node)}"]
        if node.func.id in _SHOWING:
            return [_hole(node.args[0])] if node.args else None
        where, function = one, one.functions.get(node.func.id)
        if function is None:
            module, _, name = one.imported.get(node.func.id, "").rpartition(".")
            where = self._sources.get(module, one)
            function = where.functions.get(name) if where is not one else None
        if function is None or ast.unparse(function.returns or ast.Constant(None)) not in ("str", "str | None"):
            return None
        returns = [part.value for part in ast.walk(function) if isinstance(part, ast.Return) and part.value is not None]
        found = [text for value in returns for text in self.of(value, where, function, deep + 1) or []]
        return found or None

    @staticmethod
    def _counted(node: ast.Call) -> str:
        word = node.args[1] if len(node.args) > 1 else None
        return f"{word.value}s" if isinstance(word, ast.Constant) else "{things}"

    @staticmethod
    def _joined(parts: list[list[str]]) -> list[str]:
        found = [""]
        for part in parts:
            found = [text + more for text in found for more in part][:_MOST]
        return found

    @staticmethod
    def _some(
        found: list[list[str] | None], nodes: Iterator[ast.expr] | list[ast.expr] | tuple[ast.expr, ...]
    ) -> list[str] | None:
        if all(each is None for each in found):
            return None
        told = [(each, node) for each, node in zip(found, nodes) if each or not isinstance(node, ast.Constant)]
        return [text for each, node in told for text in (each if each is not None else [_hole(node)])]


def _filled(text: str, call: ast.Call) -> str:
    """A template with what is put in by its place; what is put in by name has its name already."""
    for argument in call.args:
        text = text.replace("{}", _hole(argument), 1)
    return text


def _hole(node: ast.expr) -> str:
    """What stands for something that is known only when it happens: a name for it, in braces."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    text = ast.unparse(node)
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "join":
        return "{" + _word(node.args[0] if node.args else node.func) + ", ...}"
    return "{" + _word(node) + "}" if text else "{...}"


def _word(node: ast.AST) -> str:
    if isinstance(node, ast.Name):
        return node.id.strip("_")
    if isinstance(node, ast.Attribute):
        return f"{_word(node.value)}.{node.attr}" if node.attr in ("id", "name", "uri") else node.attr.strip("_")
    if isinstance(node, ast.Call):
        if node.args and isinstance(node.func, ast.Name) and not isinstance(node.args[0], ast.Constant):
            return _word(node.args[0])
        return _word(node.func)
    if isinstance(node, ast.Subscript):
        is_named = isinstance(node.slice, ast.Constant) and isinstance(node.slice.value, str)
        return _word(node.slice) if is_named else _word(node.value)
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, (ast.GeneratorExp, ast.ListComp, ast.SetComp)):
        return _word(node.generators[0].iter)
    if isinstance(node, ast.BinOp):
        return _word(node.left) if not isinstance(node.left, ast.Constant) else _word(node.right)
    if isinstance(node, (ast.IfExp,)):
        return _word(node.body)
    if isinstance(node, ast.BoolOp):
        return _word(node.values[0])
    if isinstance(node, ast.Starred):
        return _word(node.value)
    return "..."


@dataclass(frozen=True, order=True)
class Found:
    """A message, of which source, and what it is."""

    text: str
    kind: str
    code: str
    path: str


def messages(root: Path = ROOT) -> list[Found]:
    """All of them."""
    everything = sources(root)
    words, errors, found = Words(everything), _errors(everything), set()
    for one in everything.values():
        inside = _functions(one.tree)
        pieces = {id(part) for node in one.nodes if isinstance(node, ast.JoinedStr) for part in ast.walk(node)}
        for node in one.nodes:
            if isinstance(node, ast.Constant) and id(node) in pieces:
                continue
            for kind, code, texts in _said(node, one, words, errors, inside.get(id(node))):
                for text in texts:
                    text = " ".join(text.split())
                    if re.search(r"[a-z]{3}", re.sub(r"\{[^}]*\}", "", text)):
                        found.add(Found(text, kind, code, str(one.path)))
    return sorted(found)


def _errors(everything: dict[str, Source]) -> dict[str, str]:
    """Every class of error whose text somebody reads, with the exit code of a command that it ends."""
    bases = {
        node.name: ([ast.unparse(base).rpartition(".")[2] for base in node.bases], node)
        for one in everything.values()
        for node in one.nodes
        if isinstance(node, ast.ClassDef)
    }

    def code(name: str) -> str | None:
        if name not in bases:
            return None
        for line in bases[name][1].body:
            if isinstance(line, ast.Assign) and ast.unparse(line.targets[0]) == "exit_code":
                return str(int(Exit[ast.unparse(line.value).rpartition(".")[2]]))
        return next((found for base in bases[name][0] if (found := code(base)) is not None), None)

    def is_read(name: str) -> bool:
        return name in _ERRORS or any(is_read(base) for base in bases.get(name, ([], None))[0])

    return {name: code(name) or "" for name in bases if is_read(name)}


def _functions(tree: ast.Module) -> dict[int, ast.AST]:
    """The innermost function of each node."""
    found: dict[int, ast.AST] = {}

    def walk(node: ast.AST, inside: ast.AST | None) -> None:
        for child in ast.iter_child_nodes(node):
            if inside is not None:
                found[id(child)] = inside
            walk(child, child if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef)) else inside)

    walk(tree, None)
    return found


def _said(
    node: ast.AST, one: Source, words: Words, errors: dict[str, str], inside: ast.AST | None
) -> Iterator[tuple[str, str, list[str]]]:
    """What a node says, if it is one that says something: its kind, the exit code, and each way to say it."""
    if isinstance(node, (ast.JoinedStr, ast.Constant, ast.BinOp)):
        texts = words.of(node, one, inside) if not isinstance(node, ast.BinOp) else None
        if texts and _ON_THE_SIDE.match(texts[0]):
            yield texts[0].partition(":")[0], "", texts
    if isinstance(node, ast.Tuple) and len(node.elts) == 2 and re.match(r"Reason\.[A-Z_]+$", ast.unparse(node.elts[0])):
        reason = Reason[ast.unparse(node.elts[0]).partition(".")[2]]
        yield reason.value, str(int(reason.ending.exit_code)), words.of(node.elts[1], one, inside) or []
    yield from _pieces(node, one, words, inside)
    if not isinstance(node, ast.Call):
        return
    name = ast.unparse(node.func).rpartition(".")[2]
    first = node.args[0] if node.args else None
    if name in errors:
        yield "error", errors[name], words.of(first, one, inside) or []
    elif name in ("ValueError", "TypeError", "RuntimeError", "OSError"):
        yield "part", "", words.of(node.args[-1] if node.args else None, one, inside) or []
    elif name == "Problem" and len(node.args) == 4:
        parts = [words.of(each, one, inside) or [_hole(each)] for each in node.args]
        parts[0] = words.of(node.args[0], one, inside) or ["{file}"]
        where = [f"{{file}}: {key}" if key != "-" else place for key in parts[1] for place in parts[0]]
        said = [a if a.startswith("did you mean") else f"allowed: {a}" for a in parts[3]]
        yield "error", "2", [f"{w}: found {f}; {a}" for w in dict.fromkeys(where) for f in parts[2] for a in said][:_MOST]
    elif name in _OF_PAGES and one.path.is_relative_to("runner/ui") and len(node.args) > _OF_PAGES[name]:
        yield "page", "", words.of(node.args[_OF_PAGES[name]], one, inside) or []
    elif name == "Finding" and len(node.args) > 3:
        yield "doctor", "", words.of(node.args[3], one, inside) or []
    elif name in _SAYING and (name != "show" or not one.path.is_relative_to("runner/view") or _is_told_as_an_error(node)):
        yield "said", "", words.of(first, one, inside) or []


def _pieces(node: ast.AST, one: Source, words: Words, inside: ast.AST | None) -> Iterator[tuple[str, str, list[str]]]:
    """Sentences that are gathered, to be told together, and those that a function gives back to whoever tells them."""
    given: list[ast.expr] = []
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "append":
        given = node.args if _word(node.func.value) in _GATHERED else []
    elif (isinstance(node, ast.AugAssign) and _word(node.target) in _GATHERED) or (
        isinstance(node, ast.Assign) and _word(node.targets[0]) in _GATHERED
    ):
        given = [node.value]
    elif isinstance(node, ast.Return) and isinstance(inside, ast.FunctionDef) and node.value is not None:
        returns = ast.unparse(inside.returns) if inside.returns is not None else ""
        given = [node.value] if returns in ("str | None", "list[str]") else []
    for each in given:
        inner = each.elts if isinstance(each, ast.List) else [each.elt] if isinstance(each, ast.ListComp) else [each]
        texts = [text for expression in inner for text in words.of(expression, one, inside) or []]
        yield "part", "", [text for text in texts if len(re.sub(r"\{[^}]*\}", "", text).split()) >= _FEWEST_WORDS]


def _is_told_as_an_error(call: ast.Call) -> bool:
    return any(keyword.arg == "error" for keyword in call.keywords)


def render() -> str:
    """The whole page."""
    by_area: dict[str, list[Found]] = {title: [] for title in AREAS}
    text = HEAD + "\n## Why an attempt ended\n\n| reason | state | code | what is told to do next |\n|---|---|---|---|\n"
    for reason in Reason:
        end = reason.ending
        advice = _cell(end.advice.replace("{job}", "JOB"))
        text += f"| [`{reason.value}`](troubleshooting.md#by-reason) | {end.state.value} | {int(end.exit_code)} | {advice} |\n"
    for one in messages():
        by_area[_area(one.path)].append(one)
    for title, found in by_area.items():
        text += f"\n## {title}\n\n| message | what it is |\n|---|---|\n"
        rows: dict[str, set[str]] = {}
        for one in found:
            if _kind(one) not in _PART or len(one.text) <= _LONGEST_PART:
                rows.setdefault(one.text, set()).add(_kind(one))
        for message in sorted(rows, key=lambda each: (rows[each] <= _SAID, each)):  # errors first
            text += f"| {_cell(message)} | {', '.join(sorted(rows[message] - _PART or rows[message]))} |\n"
    return text


_PART = {"part of another"}
_LONGEST_PART = 400
"""Of what is put together from many: each of those is there by itself."""
_SAID = {"word", "note", "warning", "part of another"}


def _area(path: str) -> str:
    likely = [(len(begin), title) for title, begins in AREAS.items() for begin in begins.split() if path.startswith(begin)]
    if not likely:
        raise SystemExit(f"{path} is in no area of docs/messages.md: name it in AREAS")
    return max(likely)[1]


def _kind(one: Found) -> str:
    if one.kind == "error":
        return f"error {one.code}".strip()
    if one.kind in [reason.value for reason in Reason]:
        return f"[`{one.kind}`](troubleshooting.md#by-reason) {one.code}"
    return {"part": "part of another", "said": "word", "doctor": "`lastrun doctor`", "page": "a page's"}.get(one.kind, one.kind)


def _cell(text: str) -> str:
    return "`" + text.replace("`", "'").replace("|", "/") + "`"


if __name__ == "__main__":
    (ROOT / "docs" / "messages.md").write_text(render())
