"""Several looks at what may be missing, and one error that says all of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from last_e.problems import ConfigError
from runner.errors import LastrunError


def see_to_all(looks: Iterable[Callable[[], object]]) -> None:
    """Call each.

    Raises:
        LastrunError: all that is missing, with the exit code of the first.
    """
    missing: list[LastrunError] = []
    for look in looks:
        try:
            look()
        except LastrunError as error:
            missing.append(error)
    raise_all(missing)


def raise_all(errors: Iterable[LastrunError | ConfigError]) -> None:
    """Raise one that says all, each once."""
    told: dict[str, LastrunError | ConfigError] = {}
    for error in errors:
        told.setdefault(str(error), error)
    if not told:
        return
    if wrong := [problem for error in told.values() if isinstance(error, ConfigError) for problem in error.problems]:
        raise ConfigError(wrong)
    first = next(iter(told.values()))
    first.args = ("\n".join(dict.fromkeys(line for text in told for line in text.split("\n"))),)
    raise first
