"""Each launcher: what it would use, or what is missing for it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from runner.doctor.finding import Finding, State
from runner.errors import LastrunError
from runner.launch.settle import launcher_class
from runner.launchers import LAUNCHERS

PART = "launcher"


def looks() -> dict[tuple[str, str], Callable[[], list[Finding]]]:
    """By part and name; classes are loaded here, one after the other: Python's imports are not made for several at once."""
    return {(PART, name): partial(_look, name, launcher_class(name).ready) for name in LAUNCHERS}


def _look(name: str, ready: Callable[[], str]) -> list[Finding]:
    try:
        return [Finding(PART, name, State.WELL, ready())]
    except LastrunError as error:
        return [Finding(PART, name, State.MISSING, str(error))]
