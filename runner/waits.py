"""How long the runner waits for what.

The variable ``LASTRUN_WAITS`` (``heartbeat=0.5 expiry=8``) sets them anew, for tests, which would else mostly wait. Whoever
shares a job has to agree on them.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, fields

from runner.errors import UsageError

VARIABLE = "LASTRUN_WAITS"


@dataclass(frozen=True)
class Waits:
    """Seconds."""

    heartbeat: float = 5.0
    """From one heartbeat of an attempt to the next."""
    expiry: float = 60.0
    """Age of a heartbeat from which on an attempt elsewhere counts as dead."""
    follow: float = 2.0
    """Between two looks of ``status -w`` and ``logs -f``."""
    steps: float = 30.0
    """Between two uploads of figures within an epoch."""
    save: float = 120.0
    """What a trainer that is asked to stop may take to save."""
    notice: float = 25.0
    """What a spot machine leaves between its notice and its end."""
    drain: float = 600.0
    """What the end of an attempt waits for its last uploads, where nothing hurries it."""
    report: float = 5.0
    """What it waits for its report, once the store has all else."""
    read: float = 10.0
    """What a bucket's server may take to answer, or to go on."""
    patience: float = 15.0
    """How long a call to a bucket is tried again."""
    pause: float = 30.0
    """The longest pause of uploads between two tries."""
    track: float = 15.0
    """What the end of an attempt waits for a tracker to take the rest."""
    notify: float = 10.0
    """What those who are told how an attempt ended may take to hear of it, all at once."""
    doctor: float = 10.0
    """What all that ``lastrun doctor`` looks at may take to answer."""
    engine: float = 5.0
    """What a container engine may take to say whether it is there, and to take a signal."""


def read_waits(text: str) -> Waits:
    """``NAME=SECONDS`` words.

    Raises:
        UsageError: an unknown name, or no number of seconds.
    """
    known = [field.name for field in fields(Waits)]
    values: dict[str, float] = {}
    for word in text.split():
        name, _, value = word.partition("=")
        try:
            seconds = float(value)
        except ValueError:
            seconds = -1.0
        if name not in known or not 0 < seconds < 1e6:
            raise UsageError(f"{VARIABLE}: {word}; allowed: NAME=SECONDS with {', '.join(known)}")
        values[name] = seconds
    return Waits(**values)


WAITS = read_waits(os.environ.get(VARIABLE, ""))
