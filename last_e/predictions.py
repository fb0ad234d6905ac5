"""What the best epoch says of each clip that is scored, and a few of those clips to look at: a small file of safetensors beside
the history. Reading it needs neither torch nor numpy."""

from __future__ import annotations

import io
import sys
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from last_e.datafile import read_header
from last_e.described import ClassName
from last_e.skeletons import Joint, Pair
from last_e.whole import whole_file

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from last_e.described import Description

FILE = "predictions.safetensors"
MOST_BYTES = 32 << 20
"""Of the file: of 100,000 clips it has 2 MB."""
SHOWN = 8
"""So many clips can be looked at."""
_ALIKE = 2
"""At most so many of them take one class for the same other."""
_FRAMES = 64
_PEOPLE = 2
_BYTES = 60_000
"""Of a clip that can be looked at: of large skeletons there are fewer frames."""
_KINDS = {"I32": "i", "F32": "f", "I16": "h"}
_NUMBERS = ("clip", "label", "said", "confidence")


class _Drawn(BaseModel):
    """How a set's joints are drawn."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    joints: Annotated[int, Field(ge=1, le=512)]
    bones: tuple[Pair, ...]
    """Child and parent, by their numbers."""
    right: tuple[Joint, ...]
    head: Joint | None
    turn: Annotated[float, Field(allow_inf_nan=False)]
    """By how much somebody is turned who is looked at, in radians: 0 for two dimensions."""


class _Look(BaseModel):
    """A clip that can be looked at."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    row: Annotated[int, Field(ge=0)]
    """Its place in the lists."""
    people: Annotated[int, Field(ge=1, le=_PEOPLE)]
    frames: Annotated[int, Field(ge=1, le=_FRAMES)]
    fps: Annotated[float, Field(gt=0, le=1000, allow_inf_nan=False)]


class _About(BaseModel):
    """What the file says of itself."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    version: Annotated[int, Field(ge=1, le=1)]
    epoch: Annotated[int, Field(ge=1)]
    part: Annotated[str, Field(max_length=40)]
    """Which clips they are: ``test`` or ``validation``."""
    top1: Annotated[float, Field(ge=0, le=1)]
    classes: Annotated[tuple[ClassName, ...], Field(min_length=2, max_length=100_000)]
    drawn: _Drawn
    shown: Annotated[tuple[_Look, ...], Field(max_length=SHOWN)]


@dataclass(frozen=True)
class Predictions:
    """Of N clips, in the order of the data file."""

    about: _About
    clip: array[int]
    """(N,) their numbers in the data file."""
    label: array[int]
    """(N,) what they are,"""
    said: array[int]
    """(N,) and what is said of them: classes, 0-based."""
    confidence: array[float]
    """(N,) the probability of what is said."""
    joints: tuple[bytes, ...]
    """Of each clip that can be looked at (``about.shown``): (M, T, V, 3) int16, millimetres, little-endian."""


def write_predictions(
    path: Path,
    *,
    epoch: int,
    part: str,
    description: Description,
    numbers: dict[str, npt.NDArray[Any]],
    joints_of: Callable[[int], npt.NDArray[np.int16]],
) -> None:
    """Write the file, whole or not at all.

    Args:
        path: where.
        epoch: which one it is, from 1 on.
        part: which clips they are.
        description: names and skeleton of the set.
        numbers: ``clip``, ``label``, ``said`` and ``confidence``, each (N,).
        joints_of: the joints of a clip by its number, (M, T, V, 3) int16.

    Raises:
        OSError: there is no room for it.
    """
    import numpy as np
    from safetensors.numpy import save

    skeleton = description.skeleton
    looks, pieces = [], []
    for row in _worth_a_look(numbers["label"], numbers["said"], numbers["confidence"]):
        joints = joints_of(int(numbers["clip"][row]))[:_PEOPLE]
        room = max(1, min(_FRAMES, _BYTES // (6 * joints.shape[0] * joints.shape[2])))
        step = -(-joints.shape[1] // room)
        joints = joints[:, ::step]
        looks.append(_Look(row=row, people=joints.shape[0], frames=joints.shape[1], fps=description.fps / step))
        pieces.append(joints.astype("<i2").ravel())
    about = _About(
        version=1,
        epoch=epoch,
        part=part,
        top1=float((numbers["label"] == numbers["said"]).mean()),
        classes=description.classes,
        drawn=_Drawn(
            joints=len(skeleton.joints),
            bones=skeleton.bones,
            right=tuple(right for _, right in skeleton.pairs),
            head=next((n for n, name in enumerate(skeleton.joints) if name in ("head", "nose")), None),
            turn=0.0 if description.is_flat else 0.4,
        ),
        shown=tuple(looks),
    )
    tensors = {name: numbers[name].astype("<f4" if name == "confidence" else "<i4") for name in _NUMBERS}
    tensors["joints"] = np.concatenate(pieces) if pieces else np.zeros(0, "<i2")
    with whole_file(path) as beside:
        beside.write_bytes(save(tensors, {"about": about.model_dump_json()}))


def _worth_a_look(label: npt.NDArray[Any], said: npt.NDArray[Any], confidence: npt.NDArray[Any]) -> list[int]:
    """Rows: the mistakes it is surest of first, not too many alike; then, where there are few, what it is right in and least
    sure of."""
    import numpy as np

    wrong = label != said
    found: list[int] = []
    pairs: dict[tuple[int, int], int] = {}
    for row in np.flatnonzero(wrong)[np.argsort(-confidence[wrong], kind="stable")].tolist():
        pair = int(label[row]), int(said[row])
        pairs[pair] = pairs.get(pair, 0) + 1
        if pairs[pair] <= _ALIKE:
            found.append(row)
        if len(found) == SHOWN:
            return found
    right = np.flatnonzero(~wrong)[np.argsort(confidence[~wrong], kind="stable")]
    found += right[: SHOWN - len(found)].tolist()
    return found


def read_predictions(data: bytes) -> Predictions:
    """What the bytes of such a file say.

    Raises:
        ValueError: they are none, are damaged, or of another version.
    """
    file = io.BytesIO(data)
    header, begin = read_header(file)
    try:
        about = _About.model_validate_json(header["__metadata__"]["about"])
        found = {name: _column(data, begin, header[name]) for name in (*_NUMBERS, "joints")}
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        raise ValueError(f"no predictions: {error}") from None
    clips, classes = len(found["clip"]), len(about.classes)
    if not clips or any(len(found[name]) != clips for name in _NUMBERS):
        raise ValueError("the lists of clips differ in length, or are empty")
    if any(not 0 <= min(found[name]) <= max(found[name]) < classes for name in ("label", "said")):
        raise ValueError("a class has no name")
    if not all(0 <= one <= 1 for one in found["confidence"]):  # also false for what is no number
        raise ValueError("a confidence is none")
    if any(joint >= about.drawn.joints for bone in about.drawn.bones for joint in bone):
        raise ValueError("a bone has no joint")
    pieces, at = [], 0
    for look in about.shown:
        size = look.people * look.frames * about.drawn.joints * 3
        if look.row >= clips or at + size > len(found["joints"]):
            raise ValueError("a clip that can be looked at is not there")
        pieces.append(_little(found["joints"][at : at + size]))
        at += size
    return Predictions(about, found["clip"], found["label"], found["said"], found["confidence"], tuple(pieces))


def _column(data: bytes, begin: int, about: dict[str, Any]) -> array[Any]:
    first, last = about["data_offsets"]
    if not (isinstance(first, int) and isinstance(last, int) and 0 <= first <= last <= len(data) - begin):
        raise ValueError("cut short")
    column = array(_KINDS[about["dtype"]])
    if (last - first) % column.itemsize:
        raise ValueError("cut short")
    column.frombytes(data[begin + first : begin + last])
    if sys.byteorder == "big":
        column.byteswap()
    return column


def _little(column: Sequence[int]) -> bytes:
    values = array("h", column)
    if sys.byteorder == "big":
        values.byteswap()
    return values.tobytes()
