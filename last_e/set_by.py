"""Who may set a key: what a job that lies where others write may bring along, and what only who runs it decides."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class SetBy:
    """Stands in the ``Annotated`` of a field, or as ``set_by`` of a section for all its fields."""

    who: Literal["learning", "here", "asks"]
    """``learning``: how it trains, and what is kept of it; a job brings it along. ``here``: what lies where on one machine; a
    job's word counts where this user gave it. ``asks``: what a job may name, but only with this user's word."""
    does: str = ""
    """What a value would do here, where that is worth a word; of ``learning``, what whoever makes the job does for it."""
    harmless: tuple[object, ...] = ()
    """Values that are no matter of the machine: any job may bring them along."""


LEARNING = SetBy("learning")
HERE = SetBy("here")
