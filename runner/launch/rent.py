"""A machine that is got elsewhere because this one is not what the profile is for: what is said of it, and asked where it costs
money."""

from __future__ import annotations

import sys
from typing import NamedTuple

from last_e.environment import fits
from last_e.layers import Resolved
from runner.errors import UsageError
from runner.launch.kaggle import account as kaggle
from runner.launch.sky import engine as sky
from runner.launchers import DEFAULT
from runner.spec import JobSpec

_GETS = {"gcp": "sky", "lambda": "sky", "a100": "sky", "kaggle": "kaggle"}
"""Which launcher gets a machine that a profile is for."""


class Instead(NamedTuple):
    """Of this machine."""

    launcher: str
    found: str
    """What this one is."""

    @property
    def is_paid(self) -> bool:
        """Whether whoever pays has to say so."""
        return self.launcher == "sky"


def instead(resolved: Resolved[JobSpec], here: bool) -> Instead | None:
    """What gets a machine that the profile is for; None: there is no such launcher, this is one, somebody has said where to
    begin, or nothing to get one with is set up."""
    launcher, named = _GETS.get(resolved.env), resolved.origins["run.launcher"].name
    if here or launcher is None or resolved.config.run.launcher != DEFAULT or named.startswith("--"):
        return None
    fitting, found = fits(resolved.env)
    is_set_up = sky.is_set_up() if launcher == "sky" else kaggle.is_set_up()
    return Instead(launcher, found) if fitting is False and is_set_up else None


def agree(env: str, other: Instead, yes: bool, *, may_ask: bool) -> None:
    """Whoever pays has said so: machine and price have just been told.

    Raises:
        UsageError: not so.
    """
    told = f"env {env}: this machine {other.found}"
    if not other.is_paid:
        sys.stderr.write(f"{told}; a session of Kaggle is begun instead (--here trains on this machine with that profile)\n")
        return
    told = f"{told}; SkyPilot would rent that one"
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
