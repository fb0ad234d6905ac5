"""What is asked amiss of a command is told in the words of everything else: found, allowed, what to do next; all at once."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any
from unittest.mock import patch

import pytest
import typer

from last_e.problems import ConfigError
from runner.commands.app import app
from runner.commands.misuse import _numbers, in_our_words
from runner.errors import UsageError
from tests.conftest import Cli


@pytest.fixture(autouse=True)
def own_environment() -> Iterator[None]:
    """A command is a process of its own and may leave variables as it likes (``--quiet`` does): here others come after it."""
    with patch.dict(os.environ):
        yield


@pytest.fixture(scope="module")
def root() -> Any:
    return typer.main.get_command(app)


def said(root: Any, *words: str) -> str:
    with pytest.raises(Exception) as found:  # noqa: PT011  (typer's own class moves between its versions)
        app(args=list(words), prog_name="lastrun", standalone_mode=False)
    return str(in_our_words(found.value, words, root))


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("list --limit x", "--limit: found 'x'; allowed: a whole number from 1 to 1,000,000"),
        ("list --limit 3 --limit 0", "--limit: found '0'; allowed: a whole number from 1 to 1,000,000"),
        ("list --limit", "--limit: found nothing; allowed: a whole number from 1 to 1,000,000"),
        ("list --store", "--store: found nothing; allowed: a value, as in --store URI"),
        ("list --json=3", "--json: found a value; allowed: the option alone"),
        ("list --limt 3", "--limt: no option of lastrun list; did you mean --limit?; lastrun list --help lists them"),
        ("list all of it", "all of it: more than lastrun list takes; lastrun list --help tells what it takes"),
        ("bench --seconds nan", "--seconds: found 'nan'; allowed: a number from 0.1 to 600"),
        ("submit a.yaml --parallel 1.5", "--parallel: found '1.5'; allowed: a whole number from 1 to 256"),
        ("lst", "lst: no command of lastrun; did you mean list?; lastrun --help lists them"),
        ("data prepar", "prepar: no command of lastrun data; did you mean prepare?; lastrun data --help lists them"),
        ("submit a.yaml --set a b", "b: more than lastrun submit takes; --set takes KEY=VALUE"),
        ("--store x list", "--store: no option of lastrun; lastrun --help lists them"),
        ("data --what", "--what: no option of lastrun data; lastrun data --help lists them"),
    ],
)
def test_one_mistake_in_a_command_line_is_told(root: Any, line: str, told: str) -> None:
    assert said(root, *line.split()) == told


def test_all_values_that_are_wrong_are_told_at_once(root: Any) -> None:
    assert said(root, "evaluate", "--crops", "0", "--step", "z").splitlines() == [
        "--crops: found '0'; allowed: a whole number from 1 to 50",
        "--step: found 'z'; allowed: a whole number of at least 0",
        "JOB|FOLDER: found nothing; allowed: a job, or the folder of a checkpoint",
    ]


@pytest.mark.parametrize(
    ("line", "flags"),
    [
        ("evaluate x --missing 2 --motion -1 --noise nan --part all", ("--missing", "--motion", "--noise", "--part")),
        ("predict x y --window 0 --stride z --kind avi --units feet", ("--window", "--stride", "--kind", "--units")),
        ("watch --every 0 --stalled-after soon --once", ("--every", "--stalled-after")),
        ("bench --model huge --part y --ranks 0 --env moon", ("--model", "--part", "--ranks", "--env")),
    ],
)
def test_all_words_that_are_wrong_are_told_at_once(line: str, flags: tuple[str, ...]) -> None:
    with pytest.raises((ConfigError, UsageError)) as found:
        app(args=line.split(), prog_name="lastrun", standalone_mode=False)
    assert [flag for flag in flags if f"{flag}: " not in str(found.value)] == []
    assert str(found.value).count("; allowed: ") == len(flags)


def commands(command: Any, *path: str) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every command, with its name and those of the groups that it is in."""
    below = getattr(command, "commands", {})
    for name in below:
        yield from commands(below[name], *path, name)
    if not below:
        yield path, command


def test_no_number_of_any_command_is_told_in_the_words_of_a_library(root: Any) -> None:
    refused = 0
    for path, command in commands(root):
        for option in (one.opts[0] for one in command.params if one.opts[0].startswith("--")):
            try:
                command.make_context(" ".join(["lastrun", *path]), [option, "x"])
            except Exception as error:  # typer's own; the class moves between its versions
                if option not in str(error.format_message()):  # type: ignore[attr-defined]
                    continue  # what else is missing
                refused += 1
                told = str(in_our_words(error, [*path, option, "x"], root)).splitlines()
                assert any(line.startswith(f"{option}: found 'x'; allowed: a ") for line in told), (path, option, told)
    assert refused > 20


def test_the_first_page_of_help_has_whole_lines_and_a_number_says_what_it_counts(root: Any, cli: Cli) -> None:
    done = cli("--help", COLUMNS="80")
    lines = done.stdout.partition("Commands:\n")[2].splitlines()
    assert len(lines) > 25
    assert [line for line in lines if line.rstrip(". ").endswith(",") or "..." in line] == []
    numbers = [one for _, command in commands(root) for one in command.params if one.name in _numbers(command)]
    assert [one.name for one in numbers if not one.metavar] == []


def test_a_wrong_number_ends_with_code_2_and_one_line(cli: Cli) -> None:
    done = cli("list", "--limit", "x", "--json")
    assert (done.returncode, done.stderr) == (2, "error: --limit: found 'x'; allowed: a whole number from 1 to 1,000,000\n")
    assert '"origin": "--limit"' in done.stdout
