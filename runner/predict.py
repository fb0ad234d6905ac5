"""What a model says of recordings, by a child (``last_e.predict``)."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from last_e.text import expand
from runner.child import said_by
from runner.errors import UsageError, refuse
from runner.models import Choice, Model, bring

KINDS = ("skeleton", "prepared", "npy", "csv", "npz", "json", "openpose", "coco")
UNITS = ("metres", "centimetres", "millimetres", "pixels", "image")
_SPAN = re.compile(r"(\d+(?:\.\d+)?)(s?)")


@dataclass(frozen=True)
class How:
    """How recordings are read, and how much is told."""

    top: int = 5
    """So many classes of each."""
    kind: str | None = None
    """One of :data:`KINDS`; default: as each file's name says."""
    units: str | None = None
    """One of :data:`UNITS`; default: those of the set that the model was trained on."""
    window: str | int | float | None = None
    """Frames (``64``), or seconds (``2s``; a float)."""
    stride: str | int | float | None = None
    """The same; default: half a window."""
    fps: float | None = None
    """Frames a second; default: as in the set that the model was trained on."""
    crops: int = 1
    """Pieces of each, whose probabilities are averaged."""
    mirror: bool = False
    """Each piece in a mirror, too."""


def predict(
    model: str, places: Sequence[str], choice: Choice, how: How, say: Callable[[str], None]
) -> Iterator[dict[str, Any]]:
    """What a model says, as it is found: ``ready``; then ``clip``, or ``window`` and ``segment``, and ``problem`` of what
    cannot be read and ``doubt`` of what is odd; at last ``result``: how many there were, and how long it took.

    Args:
        model: a job or the folder of a checkpoint.
        places: files, folders, and ``-`` for standard input.
        choice: which checkpoint of a job.
        how: see there.
        say: told which checkpoint is taken.

    Raises:
        LastrunError: there is no such model, it is damaged, or what is asked cannot be.
    """
    wrong: list[str] = []
    window, stride = _span("--window", how.window, wrong), _span("--stride", how.stride, wrong)
    for flag, value, allowed in (("--kind", how.kind, KINDS), ("--units", how.units, UNITS)):
        if value is not None and value not in allowed:
            wrong.append(f"{flag}: found {value}; allowed: {', '.join(allowed)}")
    refuse(wrong)
    if stride is not None and window is None:
        raise UsageError("--stride is between windows: say how long one is with --window")
    if window is not None and stride is not None and type(window) is type(stride) and stride > window:
        raise UsageError(f"--stride {how.stride}: it is longer than a window ({how.window}), so frames would be left out")
    what = {
        "places": list(places),
        "top": how.top,
        "kind": how.kind,
        "units": how.units,
        "window": window,
        "stride": stride,
        "fps": how.fps,
        "crops": how.crops,
        "mirror": how.mirror,
    }
    files = [expand(place) for place in places if place != "-"]
    if files and len(files) == len(places) and not any(map(os.path.lexists, files)):
        raise UsageError(f"{', '.join(map(str, files))}: no such file or folder; - reads JSON lines from standard input")
    begun = time.time()
    with ExitStack() as held:
        asked = bring(Model(model), choice, held, say)
        yield from said_by("last_e.predict", {**asked, "what": what, "begun": begun}, "the prediction", reads_input=True)


def _span(flag: str, value: str | int | float | None, wrong: list[str]) -> int | float | None:
    """Frames as a whole number, seconds as another; what is no such thing is told in ``wrong``."""
    said = value
    if isinstance(value, str):
        found = _SPAN.fullmatch(value.strip())
        if found is None or ("." in found[1] and not found[2]):
            wrong.append(f"{flag}: found {said}; allowed: frames, such as 64, or seconds, such as 2s or 1.5s")
            return None
        value = float(found[1]) if found[2] else int(found[1])
    if value is not None and not 0 < value <= 1_000_000:
        wrong.append(f"{flag}: found {said}; allowed: more than 0, and at most 1,000,000 frames or seconds")
    return value
