"""What a reader of another project's file gives: its clips, one at a time, before anything is decided about them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class Foreign:
    """One clip of another project's file."""

    joints: npt.NDArray[np.floating[Any]]
    """(M, T, 25, 3) metres; zeros where nobody is."""
    label: int
    name: str
    trains: bool


@dataclass(frozen=True)
class Opened:
    """Another project's file, not yet read."""

    total: int
    names_known: bool
    """Whether every clip has one of NTU's names, so that the people are known."""
    split: str | None
    clips: Iterator[Foreign]
    passed_over: tuple[str, ...] = ()
    """Files that were not read although they look like part of it, each with the reason."""
    beside: tuple[Path, ...] = ()
    """Files that are read beside the one that was named."""
