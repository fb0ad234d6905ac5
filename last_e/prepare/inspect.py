"""What is in a prepared file, in numbers; and one clip as an animation, so that one sees whether a human moves."""

from __future__ import annotations

import html
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from last_e.datafile import DataError, output_path
from last_e.described import Description, described
from last_e.prepare.account import count_splits, guess_dataset
from last_e.prepare.clipfile import content_hash, names_of, read_columns, read_joints
from last_e.prepare.own_look import OwnLook, look_at
from last_e.prepare.replace import CONTENT_HASH
from last_e.skeletons import NTU25, PLAYER, Skeleton
from last_e.text import plain
from last_e.whole import whole_file

TEMPLATE = Path(__file__).parent / "animation.html"
FRAMES_PER_SECOND = 30
BINS = 12


@dataclass(frozen=True)
class Summary:
    """A prepared file in numbers."""

    dataset: str
    clips: int
    frames: int
    bodies: dict[int, int]
    """Number of clips by number of people."""
    lengths: list[tuple[int, int, int]]
    """Histogram: first length, last length, clips."""
    shortest: int
    mean: float
    longest: int
    classes: dict[int, int]
    """Number of clips by class (0-based); classes without clips have 0."""
    people: int
    cameras: int
    setups: int
    splits: dict[str, dict[str, int | None]]
    whole: bool | None
    """Whether the bytes are those that the header says; None where it does not say."""
    provenance: dict[str, Any]
    own: OwnLook | None = None
    """What is found in a set of one's own, compared with itself."""

    def to_dict(self) -> dict[str, Any]:
        """All of it in plain values."""
        return {**vars(self), "own": None if self.own is None else self.own.to_dict()}


def summarize(path: Path) -> Summary:
    """Count what a prepared file holds.

    Raises:
        DataError: missing, damaged, or another kind of file.
    """
    columns, metadata = read_columns(path)
    length, label = columns["length"], columns["label"]
    if not len(length):
        raise DataError(f"{path}: holds no clips")
    own = described(metadata)
    dataset = own.name if own else metadata.get("dataset") or guess_dataset(columns)
    edges = np.unique(np.linspace(length.min(), length.max() + 1, BINS + 1).astype(int))
    counts, _ = np.histogram(length, edges)
    told = metadata.get(CONTENT_HASH)
    return Summary(
        dataset=dataset,
        clips=len(length),
        frames=int(length.sum()),
        bodies={int(number): int(count) for number, count in zip(*np.unique(columns["bodies"], return_counts=True))},
        lengths=[(int(a), int(b) - 1, int(n)) for a, b, n in zip(edges[:-1], edges[1:], counts)],
        shortest=int(length.min()),
        mean=float(length.mean()),
        longest=int(length.max()),
        classes=dict(enumerate(np.bincount(label, minlength=len(own.classes) if own else 0).tolist())),
        people=len(np.unique(columns["performer"])),
        cameras=len(np.unique(columns["camera"])),
        setups=len(np.unique(columns["setup"])),
        splits=count_splits("" if own else dataset, columns),  # a set of one's own may be called as it likes
        whole=None if told is None else content_hash(path) == told,
        provenance={key: _value(text) for key, text in metadata.items()},
        own=look_at(path, own, columns, metadata) if own else None,
    )


class One(NamedTuple):
    """A clip of a prepared file."""

    name: str
    number: int
    title: str
    """For people: its name, class, length and people."""
    label: int
    joints: npt.NDArray[np.int16]
    """(M, T, V, 3)."""
    own: Description | None
    dataset: str


def clip_of(path: Path, clip: str) -> One:
    """A clip by its name, or its number (0-based).

    Raises:
        DataError: there is no such clip, or the file is damaged.
    """
    columns, metadata = read_columns(path)
    own = described(metadata)
    names = names_of(columns)
    if clip in names:
        number = names.index(clip)
    elif clip.isdecimal() and len(clip) < 10 and int(clip) < len(names):
        number = int(clip)
    else:
        raise DataError(f"{path}: no clip {clip!r}; allowed: 0 to {len(names) - 1} and names such as {names[0]}", missing=True)
    length, bodies = int(columns["length"][number]), int(columns["bodies"][number])
    frames = columns["length"] * columns["bodies"]
    begin = int(frames[:number].sum())
    joints = read_joints(path, begin, begin + length * bodies).reshape(bodies, length, -1, 3)
    label = int(columns["label"][number])
    people = "1 person" if bodies == 1 else f"{bodies} people"
    known = own.classes[label : label + 1] if own else (f"A{label + 1:03}",)
    title = f"{names[number]}: class {label} ({', '.join(known)}), {length} frames, {people}"
    dataset = own.name if own else str(metadata.get("dataset") or guess_dataset(columns))
    return One(names[number], number, plain(title), label, joints, own, dataset)


def animate(path: Path, clip: str, out: Path) -> str:
    """Write a clip as an HTML page that plays it, without anything from elsewhere; returns the clip's name.

    Args:
        path: a prepared file.
        clip: a clip's name, or its number (0-based).
        out: the page to write.

    Raises:
        DataError: there is no such clip, or the file is damaged.
    """
    out = output_path(out, path, example="clip.html")
    one = clip_of(path, clip)
    out.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(out) as part:
        part.write_text(render(one.joints, one.title, one.own), encoding="utf-8")
    return one.name


def render(joints: npt.NDArray[np.int16], title: str, own: Description | None = None) -> str:
    """The page for joints (M, T, V, 3) in millimetres, NTU's but in an own set."""
    data = {"joints": joints.tolist(), **drawn_with(own)}
    page = TEMPLATE.read_text(encoding="utf-8")
    page = page.replace("__PLAYER__", PLAYER.read_text(encoding="utf-8").rstrip())
    return page.replace("__TITLE__", html.escape(title)).replace("__DATA__", json.dumps(data, separators=(",", ":")))


def drawn_with(own: Description | None) -> dict[str, Any]:
    """What the player is told beside a clip's joints."""
    skeleton: Skeleton = own.skeleton if own else NTU25
    return {
        "bones": skeleton.bones,
        "right": [right for _, right in skeleton.pairs],
        "head": next((n for n, name in enumerate(skeleton.joints) if name in ("head", "nose")), None),
        "turn": 0 if own and own.is_flat else 0.4,
        "fps": own.fps if own else FRAMES_PER_SECOND,
    }


def _value(text: str) -> Any:
    """A value of the metadata, which may be JSON."""
    try:
        return json.loads(text) if text.startswith(("{", "[")) else text
    except (ValueError, RecursionError):
        return text
