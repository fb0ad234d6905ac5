"""The drawing of docs/architecture.md is what the code is: imports go down its lines, and nowhere in a circle."""

from __future__ import annotations

import ast
import re
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "architecture.md"
PACKAGES = ("runner", "last_e")
LONGEST_CLASS = 265
VOCABULARY = {
    *(
        "choosing",
        "init",
        "config",
        "console",
        "counts",
        "process",
        "refusal",
        "set_by",
        "shipped",
        "whole",
        "datafile",
        "described",
        "environment",
        "events",
        "joints",
        "layers",
        "manifest",
        "metrics",
        "own_set",
        "predictions",
        "problems",
        "reading",
        "skeletons",
    ),
    *("bar", "progress", "redact", "resume", "terminal", "text"),
}


def modules(package: str, root: Path = ROOT) -> dict[str, Path]:
    """Every module by its name; a package is its ``__init__``."""
    found = {}
    for path in sorted((root / package).rglob("*.py")):
        found[".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__")] = path
    return found


@cache
def parsed(source: str) -> ast.Module:
    """Each source once: there are three hundred, and most tests here look at all."""
    return ast.parse(source)


@cache
def named(source: str) -> frozenset[str]:
    """All modules, and what they may have in them, that a source imports anywhere in it but under TYPE_CHECKING."""
    names: set[str] = set()
    ahead: list[ast.AST] = [parsed(source)]
    while ahead:
        node = ahead.pop()
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        ahead += ast.iter_child_nodes(node)
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "imports name their whole path"
            names |= {f"{node.module}.{alias.name}" for alias in node.names} | {str(node.module)}
    return frozenset(names)


def imports(source: str, known: set[str]) -> set[str]:
    """Known modules that a source imports."""
    found = named(source) & known
    return {name for name in found if not any(other.startswith(f"{name}.") for other in found)}


def graph(package: str, root: Path = ROOT) -> dict[str, set[str]]:
    found = modules(package, root)
    return {name: imports(path.read_text(), set(found)) - {name} for name, path in found.items()}


def lines_of(package: str) -> dict[str, int]:
    """On which line of the drawing each part of a package stands, 0 the topmost."""
    block = re.search(rf"```layers {package}\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert block is not None
    rows = [re.split(r"\s{2,}", row)[0].split() for row in block[1].splitlines()]
    return {name.rstrip("/"): number for number, names in enumerate(rows) for name in names}


def breaches(edges: dict[str, set[str]], lines: dict[str, int]) -> list[str]:
    """Imports that do not go down, and modules that are not in the drawing."""
    found = []
    for name, others in edges.items():
        for other in (name, *others):
            if "." in other and other.split(".")[1] not in lines:
                found.append(f"{other} is not in the drawing")
        parts = [one.split(".")[1] for one in (name, *others) if "." in one]
        if not set(parts) <= set(lines):
            continue
        own = lines[parts[0]] if "." in name else -1
        found += [f"{name} imports {part}" for part in parts[1:] if lines[part] < own]
    return found


@pytest.mark.parametrize("package", PACKAGES)
def test_no_import_is_part_of_a_circle(package: str) -> None:
    try:
        TopologicalSorter(graph(package)).prepare()
    except CycleError as error:
        raise AssertionError(" -> ".join(error.args[1])) from None


@pytest.mark.parametrize("package", PACKAGES)
def test_imports_go_down_the_lines_of_the_drawing(package: str) -> None:
    assert breaches(graph(package), lines_of(package)) == []


@pytest.mark.parametrize("package", PACKAGES)
def test_the_drawing_names_nothing_that_is_not_there(package: str) -> None:
    there = {path.stem if path.suffix == ".py" else path.name for path in (ROOT / package).iterdir()}
    assert set(lines_of(package)) <= there


def test_a_circle_and_a_breach_are_found_also_inside_functions(tmp_path: Path) -> None:
    (tmp_path / "runner" / "job").mkdir(parents=True)
    (tmp_path / "runner" / "job" / "job.py").write_text("def f():\n    from runner.commands import app\n    return app\n")
    (tmp_path / "runner" / "commands").mkdir()
    (tmp_path / "runner" / "commands" / "app.py").write_text("import runner.job.job\n")
    (tmp_path / "runner" / "new.py").write_text("")
    edges = graph("runner", tmp_path)
    with pytest.raises(CycleError):
        TopologicalSorter(edges).prepare()
    assert breaches(edges, lines_of("runner")) == ["runner.job.job imports commands", "runner.new is not in the drawing"]


def test_the_trainer_knows_no_runner() -> None:
    runner = set(modules("runner"))
    for path in modules("last_e").values():
        assert imports(path.read_text(), runner) == set(), path


def test_the_runner_reaches_the_trainer_only_through_its_torch_free_vocabulary() -> None:
    trainer = set(modules("last_e"))
    by_module = {name: imports(path.read_text(), trainer) for name, path in modules("runner").items()}
    assert by_module["runner.api"] >= {"last_e.load"}  # where somebody asks for the network itself
    by_module["runner.api"] -= {"last_e.load"}
    reached = {name.split(".")[1] for names in by_module.values() for name in names}
    assert reached == VOCABULARY | {"prepare"}  # which is called by the data commands and by plan, and needs no torch either


def test_no_class_is_so_long_that_it_must_be_two_things() -> None:
    long = {
        f"{path.name}:{node.name}": node.end_lineno - node.lineno
        for package in PACKAGES
        for path in modules(package).values()
        for node in ast.walk(parsed(path.read_text()))
        if isinstance(node, ast.ClassDef) and node.end_lineno is not None and node.end_lineno - node.lineno > LONGEST_CLASS
    }
    assert long == {}
