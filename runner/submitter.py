"""Who submits jobs from here: what a job's record says of that, and what ``list --mine`` looks for."""

from __future__ import annotations

import os
import socket
from contextlib import suppress

from last_e.redact import redact
from last_e.text import plain
from runner.errors import UsageError
from runner.settings import read_settings

VARIABLE = "LASTRUN_SUBMITTER"
LONGEST = 100
"""Characters."""


def submitter() -> str | None:
    """What the variable says, else ``submitter`` in the user's settings, else ``USER@HOST``; None: it is to be told of nobody.

    Raises:
        UsageError: it is no name.
    """
    where, name = VARIABLE, os.environ.get(VARIABLE)
    if name is None:
        where, name = "submitter in config.toml", read_settings().submitter
    if name is None:
        return f"{_user()}@{socket.gethostname()}"[:LONGEST]
    if len(name) > LONGEST or name != plain(name).strip() or "\n" in name or "\t" in name or redact(name) != name:
        raise UsageError(
            f"{where}: found a name that cannot be kept with a job; allowed: one line of {LONGEST} characters at most, "
            "without white space around it and without a secret; empty: jobs do not say who submitted them"
        )
    return name or None


def _user() -> str:
    from getpass import getuser

    with suppress(KeyError, OSError, ImportError):  # a container's user may have no name
        return getuser()
    return str(os.getuid())
