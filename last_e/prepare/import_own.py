"""``lastrun data import`` of keypoints: from files of any program's to an own set."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from last_e.datafile import DataError, output_path
from last_e.described import IN_THE_IMAGE, UNITS, in_a_line
from last_e.prepare.detections import read_coco, read_openpose
from last_e.prepare.keypoints import (
    Found,
    Told,
    json_of,
    layout_of_csv,
    read_csv,
    read_json,
    read_mediapipe,
    read_npz,
    read_table,
)
from last_e.prepare.own import OwnClip, Progress, Split, Written, write_dataset
from last_e.prepare.pyskl_own import read_pyskl
from last_e.skeletons import COCO17, LAYOUTS, MEDIAPIPE33, OPENPOSE25, Skeleton

KINDS: dict[str, Callable[[Path, Told], Iterator[Found]]] = {
    "csv": read_csv,
    "npz": read_npz,
    "json": read_json,
    "mediapipe": read_mediapipe,
    "openpose": read_openpose,
    "coco": read_coco,
    "pyskl": read_pyskl,
}
_USUAL = {"mediapipe": MEDIAPIPE33, "openpose": OPENPOSE25, "coco": COCO17}
_IN_PIXELS = ("coco17", "openpose18", "openpose25")
PART = "part"
"""What the split is called that a file or a table of clips brings along."""


@dataclass(frozen=True)
class Wanted:
    """What is said of an own set beside its files."""

    layout: str | None = None
    """A name of :data:`last_e.skeletons.LAYOUTS`, or a JSON file of a skeleton."""
    classes: str | None = None
    """Names, with commas between them, or a file with one a line; default: the labels as they come, sorted."""
    clips: Path | None = None
    """A table of clips."""
    units: str | None = None
    fps: float = 30.0
    people: int = 1
    """Most that are followed where a file does not tell who is who."""
    name: str | None = None
    source: str | None = None
    split: str | None = None
    """What the split is called."""
    train_list: str | None = None
    """Which of a pickle's lists names who trains."""
    by: Literal["subject", "clip"] | None = None
    """Default: by subject, where subjects are known."""
    train: str | None = None
    test: str | None = None
    validation: str | None = None
    seed: int = 0
    mirrored: str | None = None
    """Classes that change places in a mirror: ``A=B,C=D``, or ``none``."""


def import_keypoints(
    kind: str, path: Path, out: Path, wanted: Wanted, *, overwrite: bool = False, progress: Progress | None = None
) -> Written:
    """Read keypoints and write a prepared file that says itself what it holds.

    Args:
        kind: a key of :data:`KINDS`.
        path: the file, or a folder of files.
        out: the prepared file.
        wanted: what the files do not say.
        overwrite: replace a file with other clips.
        progress: told how many clips are done.

    Raises:
        DataError: with what is wrong: the files, or what is said of them.
        OSError: the disk is full.
    """
    path = Path(path)
    if not path.exists():
        raise DataError(f"{path}: no such file or folder", missing=True)
    if wanted.units not in (None, *UNITS):
        raise DataError(f"--units: found {wanted.units}; allowed: {', '.join(UNITS)}", missing=True)
    out = output_path(Path(out), path, *([] if wanted.clips is None else [wanted.clips]), example="my.safetensors")
    table = {} if wanted.clips is None else read_table(wanted.clips)
    skeleton = (
        _skeleton(wanted.layout) if wanted.layout else _USUAL.get(kind) or (layout_of_csv(path) if kind == "csv" else None)
    )
    if skeleton is None:
        hint = f"--layout {', '.join(LAYOUTS)}, or a JSON file with joints, bones and centre"
        raise DataError(f"{path}: nothing says which joint is which: {hint}", missing=True)
    units = wanted.units or _usual_units(kind, skeleton)
    reader = KINDS[kind](path, Told(table, skeleton, wanted.people, wanted.train_list, units in IN_THE_IMAGE))
    first = next(reader, None)
    if first is None:
        raise DataError(f"{path}: not one clip in it", other=True)
    parts: dict[str, list[str]] = {}
    names: list[str] = []

    def clips() -> Iterator[OwnClip]:
        for one in _from(first, reader):
            if one.part is not None:
                parts.setdefault(one.part, []).append(one.clip.name)
            names.append(one.clip.name)
            yield one.clip
        if table and (lost := sorted(set(table) - set(names))):
            more = f" and {len(lost) - 5} more" if len(lost) > 5 else ""
            raise DataError(f"{wanted.clips}: clips that are not in {path}: {', '.join(lost[:5])}{more}", missing=True)
        if own and len(names) != sum(map(len, parts.values())):
            raise DataError(f"{path}: only some clips say in which part they are", missing=True)

    own = first.part is not None and wanted.train is None and wanted.test is None
    drawn = {"--by": wanted.by == "subject", "--validation": wanted.validation is not None, "--seed": wanted.seed != 0}
    if own and (flags := [flag for flag, given in drawn.items() if given]):
        hint = "the clips say themselves in which part they are; another split needs --test or --train"
        raise DataError(f"{', '.join(flags)}: {hint}", missing=True)
    split = (
        Split("clip", train=parts.setdefault("train", []), validation=parts.setdefault("validation", []))
        if own
        else _split(wanted, known=first.knows_subject)
    )
    return write_dataset(
        out,
        clips(),
        classes=None if wanted.classes is None else _classes(wanted.classes),
        skeleton=skeleton,
        splits={wanted.split or (PART if own else split.by): split},
        name=wanted.name,
        units=units,
        fps=wanted.fps,
        source=f"imported from {kind}: {path.name}" if wanted.source is None else wanted.source,
        mirrored=None if wanted.mirrored is None else _pairs(wanted.mirrored),
        overwrite=overwrite,
        progress=progress,
        of=path,
    )


def _pairs(text: str) -> list[tuple[str, str]]:
    """Names of classes in pairs."""
    if text.strip() == "none":
        return []
    pairs = [tuple(name.strip() for name in one.split("=")) for one in text.split(",")]
    if wrong := [one for one in pairs if len(one) != 2 or not all(one)]:
        told = f"{'='.join(wrong[0])!r} is no pair"
        raise DataError(f"--mirrored {text}: {told}; allowed: two names with = between them, or none", missing=True)
    return [(one[0], one[1]) for one in pairs]


def _from(first: Found, others: Iterator[Found]) -> Iterator[Found]:
    yield first
    yield from others


def _usual_units(kind: str, skeleton: Skeleton) -> str:
    if kind == "mediapipe":
        return "image"
    flat = kind in ("openpose", "coco") or skeleton in (LAYOUTS[name] for name in _IN_PIXELS)
    return "pixels" if flat else "metres"


def _skeleton(layout: str) -> Skeleton:
    if layout in LAYOUTS:
        return LAYOUTS[layout]
    path = Path(layout)
    if not path.is_file():
        raise DataError(
            f"--layout: found {layout}; allowed: {', '.join(LAYOUTS)}, or a JSON file with joints and bones", missing=True
        )
    told = json_of(path)
    try:
        return Skeleton.model_validate_json(json.dumps(told))
    except ValidationError as error:
        raise DataError(f"{path}: no skeleton: {in_a_line(error)}", missing=True) from None


def _classes(text: str) -> list[str]:
    path = Path(text)
    if "," not in text and path.is_file():
        try:
            return [line.strip() for line in path.read_text("utf-8-sig").splitlines() if line.strip()]
        except (OSError, UnicodeDecodeError):
            raise DataError(f"{path}: no text with a name of a class on each line", missing=True) from None
    return [name.strip() for name in text.split(",") if name.strip()]


def _split(wanted: Wanted, *, known: bool) -> Split:
    train, test = _who(wanted.train, "--train"), _who(wanted.test, "--test")
    if isinstance(train, float):
        raise DataError("--train: names, with commas between them; a fraction is said of --test", missing=True)
    if train is None and test is None:
        test = 0.25
    by = wanted.by or ("subject" if known else "clip")
    return Split(by, train=train, test=test, validation=_who(wanted.validation, "--validation") or (), seed=wanted.seed)


def _who(text: str | None, flag: str) -> Sequence[int | str] | float | None:
    """A fraction, names with commas between them, or ``@FILE`` with one a line."""
    if text is None:
        return None
    try:
        if "." in text and 0 < (part := float(text)) < 1:
            return part
    except ValueError:
        pass
    if text.startswith("@"):
        try:
            return [line.strip() for line in Path(text[1:]).read_text("utf-8-sig").splitlines() if line.strip()]
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"{flag} {text}: cannot be read: {error}", missing=True) from None
    return [name.strip() for name in text.split(",") if name.strip()]
