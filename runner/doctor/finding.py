"""What one look tells."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class State(str, Enum):
    """How it stands."""

    WELL = "well"
    NOTE = "note"
    """It works, and something about it is worth knowing."""
    MISSING = "missing"
    """It is not set up; who does not need it need not care."""
    WRONG = "wrong"
    """It does not work as it should."""


@dataclass(frozen=True)
class Finding:
    """One line."""

    part: str
    """``machine``, ``launcher`` or ``store``."""
    name: str
    state: State
    said: str
    """What was found; where something is to be done, what."""
