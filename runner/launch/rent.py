"""A machine that is rented because this one is not what the profile is for: what is said of it, and asked."""

from __future__ import annotations

import sys

from last_e.environment import fits
from last_e.layers import Resolved
from runner.errors import UsageError
from runner.launch.sky.engine import is_set_up
from runner.launchers import DEFAULT
from runner.spec import JobSpec

LAUNCHER = "sky"
_CLOUDS = ("gcp", "lambda", "a100")
"""Profiles for machines that can be rented."""


def why_rent(resolved: Resolved[JobSpec], here: bool) -> str | None:
    """What was found here instead of what the profile is for, where a machine of a cloud could be rented; None: it is not for
    such a machine, this is one, somebody has said where to begin, or nothing to rent one with is set up."""
    named = resolved.origins["run.launcher"].name
    if here or resolved.env not in _CLOUDS or resolved.config.run.launcher != DEFAULT or named.startswith("--"):
        return None
    fitting, found = fits(resolved.env)
    return found if fitting is False and is_set_up() else None


def agree(env: str, found: str, yes: bool, *, may_ask: bool) -> None:
    """Whoever pays has said so: machine and price have just been told.

    Raises:
        UsageError: not so.
    """
    told = f"env {env}: this machine {found}; SkyPilot would rent that one"
    if yes:
        sys.stderr.write(f"{told}: --yes\n")
        return
    ways = "--yes rents it, --here trains on this machine with that profile, --env auto with the one that fits here"
    if not may_ask:
        raise UsageError(f"{told}: {ways}; nothing was written")
    sys.stderr.write(f"{told}. Rent it? [y/N] ")
    sys.stderr.flush()
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise UsageError(f"nothing was rented, and nothing was written: {ways}")
