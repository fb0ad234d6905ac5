"""What ``list`` is asked for, with every mistake in it at once."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from runner.view.wanted import Wanted


def wanted(states: list[str], since: str | None, mine: bool, columns: str | None) -> Wanted:
    """Which jobs; ``columns`` are looked at, too, so that all mistakes are told together.

    Raises:
        ConfigError: there are some.
        UsageError: who calls is not to be told.
    """
    from last_e.problems import ConfigError, Problem
    from runner.errors import UsageError
    from runner.submitter import VARIABLE, submitter
    from runner.view.jobs import COLUMNS
    from runner.view.wanted import STATES, Wanted, moment

    asked = [word for text in states for word in _words(text)]
    problems = [Problem("--state", "-", repr(word), ", ".join(STATES)) for word in asked if word not in STATES]
    if states and not asked:
        problems.append(Problem("--state", "-", "nothing", ", ".join(STATES)))
    named = None if columns is None else _words(columns)
    problems += [Problem("--columns", "-", repr(word), ", ".join(COLUMNS)) for word in named or [] if word not in COLUMNS]
    if named == []:
        problems.append(Problem("--columns", "-", "nothing", ", ".join(COLUMNS)))
    when = None if since is None else moment(since)
    if since is not None and when is None:
        example = "a time ago such as 2h, 3d or 1d12h, or a date such as 2026-11-30 or 2026-11-30T14:00"
        problems.append(Problem("--since", "-", repr(since), example))
    if problems:
        raise ConfigError(problems)
    by = submitter() if mine else None
    if mine and by is None:
        raise UsageError(
            f"--mine: jobs from here do not say who submitted them; {VARIABLE}, or submitter in config.toml, names you"
        )
    return Wanted(frozenset(asked), when, by)


def chosen_columns(columns: str | None) -> list[str]:
    """Their names; empty: those that are shown by default."""
    return [] if columns is None else _words(columns)


def _words(text: str) -> list[str]:
    return [word.strip().lower() for word in text.split(",") if word.strip()]
