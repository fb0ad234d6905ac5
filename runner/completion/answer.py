"""``lastrun __complete SHELL CURRENT LINE``: what could stand where somebody has pressed Tab, a line each.

The first line says what they are: ``words``; ``open``, words after which something else comes at once; or ``files``, which the
shell completes by itself. Behind a tabulator stands what one means.
"""

from __future__ import annotations

import shlex
import sys
from typing import Any

from runner.completion import jobs
from runner.completion.table import table

_JOBS, _FILES = ("JOB", "GROUP"), ("FILE", "YAML", "FOLDER", "DIR", "HTML", "PATH", "ARCHIVE", "OUT", "CSV")


def main(words: list[str]) -> None:
    """Print the answer; whatever goes wrong, a shell is told nothing."""
    if words[:1] == [jobs.REFRESH]:
        jobs.main(words[1:])
    shell, current, line = (*words, "", "", "")[:3]
    kind, found = answer(line)
    typed = split(line)[-1]
    # Bash begins a word behind a colon and an equals sign.
    cut = len(typed) - len(current) if shell == "bash" and typed.endswith(current) else 0
    lines = [f"{word[cut:]}\t{said}" if said else word[cut:] for word, said in found]
    sys.stdout.write("\n".join([kind, *lines]) + "\n")


def split(line: str) -> list[str]:
    """The words of a command's line, the last one the one that is being written."""
    try:
        words = shlex.split(line)
    except ValueError:  # a quote that is still open
        words = line.split()
    return [*words, ""] if not line or line[-1].isspace() else words


def answer(line: str) -> tuple[str, list[tuple[str, str]]]:
    """What comes next in a line, of which each word begins as the last one does; with what each means."""
    *before, current = split(line)[1:] or [""]
    known = table()
    name, before = _command(known["commands"], before)
    about = known["commands"][name]
    if about["inner"] and not before:
        inner = [(each, known["commands"][f"{name} {each}".strip()]["help"]) for each in about["inner"]]
        return "words", _that_begin(current, [*inner, *_options(about)] if current.startswith("-") else inner)
    if about["inner"]:  # what is no command
        return "words", []
    option = _open_option(about, before)
    if "=" in current and current.startswith("--"):
        option, _, _ = current.partition("=")
        kind, found = _values(known, about, option, before, current.partition("=")[2])
        return kind, [(f"{option}={word}", said) for word, said in found]
    if current.startswith("-"):
        return "words", _that_begin(current, _options(about))
    return _values(known, about, option, before, current)


def _command(commands: dict[str, Any], words: list[str]) -> tuple[str, list[str]]:
    """The command, and what stands behind its name."""
    name = ""
    while words and words[0] in commands[name]["inner"]:
        name, words = f"{name} {words[0]}".strip(), words[1:]
    return name, words


def _open_option(about: dict[str, Any], before: list[str]) -> str | None:
    """The option whose value comes next; ``--set`` takes as many as there are."""
    for number, word in enumerate(reversed(before)):
        if word.startswith("-"):
            takes = about["options"].get(word, "")
            return word if takes and (number == 0 or word == "--set") else None
    return None


def _values(
    known: dict[str, Any], about: dict[str, Any], option: str | None, before: list[str], current: str
) -> tuple[str, list[tuple[str, str]]]:
    """Of an option, or of the next argument."""
    if option in ("--set", "--allow-change"):
        end = "=" if option == "--set" else ""
        return "open" if end else "words", _that_begin(current, [(f"{key}{end}", "") for key in known["keys"]])
    if option in known["values"] and about["options"].get(option, "").endswith(",..."):
        given, comma, _ = current.rpartition(",")
        others = [value for value in known["values"][option] if value not in given.split(",")]
        return "open", _that_begin(current, [(f"{given}{comma}{value}", "") for value in others])
    if option in known["values"]:
        return "words", _that_begin(current, [(value, "") for value in known["values"][option]])
    if option is None:
        arguments = about["arguments"] or [""]
        takes = arguments[min(_arguments(about, before), len(arguments) - 1)]
    else:
        takes = about["options"].get(option, "")
    if takes == "bash|zsh|fish":
        return "words", _that_begin(current, [(shell, "") for shell in takes.split("|")])
    kinds = takes.replace("[", "").replace("]", "").replace(".", "|").split("|")
    if any(kind.startswith(_JOBS) for kind in kinds) and "YAML" not in kinds:
        names = _that_begin(current, [(each, "") for each in jobs.known_jobs(_after(before, "--store"))])
        return ("words", names) if names or not any(kind.startswith(_FILES) for kind in kinds) else ("files", [])
    return ("files", []) if any(kind.startswith(_FILES) for kind in kinds) or option is None else ("words", [])


def _arguments(about: dict[str, Any], before: list[str]) -> int:
    """How many arguments there are already."""
    number, skip = 0, False
    for word in before:
        if skip or word.startswith("-"):
            skip = not skip and bool(about["options"].get(word, ""))
        else:
            number += 1
    return number


def _after(before: list[str], option: str) -> str | None:
    if option in before[:-1]:
        return before[before.index(option) + 1]
    return next((word.partition("=")[2] for word in before if word.startswith(f"{option}=")), None)


def _options(about: dict[str, Any]) -> list[tuple[str, str]]:
    return [(word, about["helps"].get(word, "")) for word in [*about["options"], "--help"] if word.startswith("--")]


def _that_begin(current: str, words: list[tuple[str, str]]) -> list[tuple[str, str]]:
    return [(word, said) for word, said in dict(words).items() if word.startswith(current)]
