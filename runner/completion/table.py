"""Commands, their options and what each takes, read off the command line itself and kept, for a shell does not wait so long."""

from __future__ import annotations

import hashlib
import json
from contextlib import suppress
from pathlib import Path
from typing import Any, get_args

from runner.folders import cache_folder, keep
from runner.version import lastrun_version


def table() -> dict[str, Any]:
    """``commands``: by name (``data import``), each with ``help``, ``options`` (what each takes; empty: nothing), ``helps``,
    ``arguments`` and the ``inner`` commands of a group; ``keys``: those of the configuration; ``values``: by option."""
    path = cache_folder() / "completion" / f"table-{_digest()}.json"
    with suppress(OSError, ValueError):
        found: dict[str, Any] = json.loads(path.read_bytes())
        return found
    made = read_off()
    keep(path, made)
    return made


def _digest() -> str:
    """Of the code: a clone's changes from one moment to the next."""
    files = sorted((Path(__file__).parents[1] / "commands").glob("*.py"))
    about = [lastrun_version(), *(f"{path} {path.stat().st_mtime_ns}" for path in files)]
    return hashlib.sha256("\n".join(about).encode()).hexdigest()[:16]


def read_off() -> dict[str, Any]:
    """The same, off the command line."""
    from typer.main import get_command

    from last_e.config import VARIANTS
    from last_e.layers import known_keys
    from runner.commands.app import app
    from runner.launchers import LAUNCHERS
    from runner.spec import JobSpec
    from runner.view.jobs import COLUMNS
    from runner.view.wanted import STATES

    commands: dict[str, Any] = {}

    def add(name: str, command: Any) -> None:
        if command.hidden:
            return
        options = [each for each in command.params if each.param_type_name == "option"]
        words = {word: "" if each.is_flag else str(each.metavar or "VALUE") for each in options for word in each.opts}
        helps = {word: str(each.help or "") for each in options for word in each.opts}
        arguments = [str(each.metavar or each.name) for each in command.params if each.param_type_name == "argument"]
        said = (command.help or "").strip().split("\n")[0]
        inner = getattr(command, "commands", {})
        commands[name] = {"help": said, "options": words, "helps": helps, "arguments": arguments, "inner": sorted(inner)}
        for each in inner.values():
            add(f"{name} {each.name}".strip(), each)

    add("", get_command(app))
    for name, about in commands.items():
        about["inner"] = [inner for inner in about["inner"] if f"{name} {inner}".strip() in commands]
    envs = get_args(known_keys(JobSpec)["env"].annotation)
    values = {"--env": list(envs), "--launcher": list(LAUNCHERS), "--model": list(VARIANTS)}
    values |= {"--state": list(STATES), "--columns": list(COLUMNS)}
    return {"commands": commands, "keys": sorted(known_keys(JobSpec)), "values": values}
