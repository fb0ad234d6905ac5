"""Who is in the clips that come with the package, without their motion: what decides which of them train. Torch-free."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from last_e.text import one_line

IRDS = Path(__file__).parent / "data" / "irds" / "healthy.npz"
"""The embedded IRDS recordings."""
SYNTHETIC_CLIPS, SYNTHETIC_PERFORMERS = 360, 12
"""How many clips ``synthetic`` has, and of how many people."""


def columns_of(dataset: str, num_classes: int) -> dict[str, npt.NDArray[Any]]:
    """What a prepared file of ``irds`` or ``synthetic`` would say of each of its N clips: ``label``, ``performer``, ``camera``,
    ``setup`` and ``bodies``, (N,) int64 each.

    Raises:
        ValueError: the recordings' file is missing or damaged, so the installation is.
    """
    if dataset == "irds":
        label, performer = (column.astype(np.int64) for column in _read("label", "subject"))
        bodies = np.ones_like(label)
    else:
        clip = np.arange(SYNTHETIC_CLIPS)
        label, performer = clip % num_classes, 1 + clip // num_classes % SYNTHETIC_PERFORMERS
        bodies = 1 + (label % 3 == 2)  # every third class has two people
    ones = np.ones_like(label)
    return {"label": label, "performer": performer, "camera": ones, "setup": ones, "bodies": bodies}


def stands() -> npt.NDArray[np.bool_]:
    """(N,) bool: in which of the embedded recordings somebody stands, and does not sit.

    Raises:
        ValueError: as :func:`columns_of`.
    """
    return _read("standing")[0].astype(np.bool_)


def _read(*names: str) -> list[npt.NDArray[Any]]:
    try:
        with np.load(IRDS, allow_pickle=False) as file:
            return [file[name] for name in names]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"{IRDS}: missing, cut short or damaged ({one_line(error)}): install lastrun again") from None
