"""``lastrun data import`` of keypoints: from files of any program's to an own set."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from last_e.datafile import DataError, output_path, see_that_it_is_there
from last_e.described import IN_THE_IMAGE, UNITS, Description, wrong_in
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
from last_e.problems import ConfigError, Problem, show
from last_e.skeletons import COCO17, LAYOUTS, MEDIAPIPE33, OPENPOSE25, Skeleton
from last_e.whole import read_bounded

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
MOST_LIST_BYTES = 16 << 20
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
        ConfigError: with all that is wrong in what is ``wanted``.
        DataError: with what is wrong with the files, or with what is said of them.
        OSError: the disk is full.
    """
    path = Path(path)
    see_that_it_is_there(path)
    said, classes, mirrored = _said(wanted)
    if wanted.clips is not None:
        see_that_it_is_there(wanted.clips)
    out = output_path(Path(out), path, *([] if wanted.clips is None else [wanted.clips]), example="my.safetensors")
    table = {} if wanted.clips is None else read_table(wanted.clips)
    skeleton = said or _USUAL.get(kind) or (layout_of_csv(path) if kind == "csv" else None)
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
        classes=classes,
        skeleton=skeleton,
        splits={wanted.split or (PART if own else split.by): split},
        name=wanted.name,
        units=units,
        fps=wanted.fps,
        source=f"imported from {kind}: {path.name}" if wanted.source is None else wanted.source,
        mirrored=mirrored,
        overwrite=overwrite,
        progress=progress,
        of=path,
    )


_FLAGS = {"name": "--name", "classes": "--classes", "splits": "--split", "source": "--source", "fps": "--fps"}
"""What each part of a description is said with."""


def _said(wanted: Wanted) -> tuple[Skeleton | None, list[str] | None, list[tuple[str, str]] | None]:
    """The skeleton, the classes and their pairs in a mirror, as far as they are said; all that is said is looked at, before
    any file is read.

    Raises:
        ConfigError: with all that is wrong in it.
    """
    problems: list[Problem] = []
    skeleton, classes, mirrored = (
        None if text is None else _kept(problems, read, text)
        for read, text in ((_skeleton, wanted.layout), (_classes, wanted.classes), (_pairs, wanted.mirrored))
    )
    _kept(problems, lambda _: _split(wanted, known=True), "")
    for flag, word, allowed in (("--units", wanted.units, tuple(UNITS)), ("--by", wanted.by, ("subject", "clip"))):
        if word not in (None, *allowed):
            problems.append(Problem(flag, "-", show(word), ", ".join(allowed)))
    names = ["a", "b"] if classes is None else classes
    if twice := sorted({name for name in names if names.count(name) > 1}):
        problems.append(Problem("--classes", "-", f"{', '.join(twice[:5])} more than once", "each name once"))
        names = ["a", "b"]
    said = {"name": wanted.name or "a", "fps": wanted.fps, "source": wanted.source or "", "splits": {wanted.split or PART: ""}}
    try:
        Description.model_validate({**said, "classes": tuple(names), "skeleton": COCO17})
    except ValidationError as error:
        told = wrong_in(error)
        problems += [Problem(_FLAGS[place.split(".")[0]], "-", found, can or "another") for place, found, can in told]
    if problems:
        raise ConfigError(problems)
    return skeleton, classes, mirrored


def _kept(problems: list[Problem], read: Callable[[str], Any], text: str) -> Any:
    """What was read, or None, and what is wrong with it is told later."""
    try:
        return read(text)
    except ConfigError as error:
        problems += error.problems
        return None


def _pairs(text: str) -> list[tuple[str, str]]:
    """Names of classes in pairs."""
    if text.strip() == "none":
        return []
    pairs = [tuple(name.strip() for name in one.split("=")) for one in text.split(",")]
    if wrong := [one for one in pairs if len(one) != 2 or not all(one)]:
        raise _refused("--mirrored", f"{'='.join(wrong[0])!r}, which is no pair", "two names with = between them, or none")
    return [(one[0], one[1]) for one in pairs]


def _refused(flag: str, found: str, allowed: str) -> ConfigError:
    return ConfigError([Problem(flag, "-", found, allowed)])


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
        raise _refused("--layout", show(layout), f"{', '.join(LAYOUTS)}, or a JSON file with joints and bones")
    told = json_of(path)
    try:
        return Skeleton.model_validate_json(json.dumps(told))
    except ValidationError as error:
        usual = "a skeleton as docs/own-data.md has it"
        raise ConfigError(
            Problem(str(path), at or "-", found, allowed or usual) for at, found, allowed in wrong_in(error)
        ) from None


def _classes(text: str) -> list[str]:
    path = Path(text)
    if "," not in text and path.is_file():
        return _lines("--classes", path)
    return [name.strip() for name in text.split(",") if name.strip()]


def _lines(flag: str, path: Path) -> list[str]:
    try:
        raw = read_bounded(path, MOST_LIST_BYTES)
        return [line.strip() for line in raw.decode("utf-8-sig").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "bytes that are not UTF-8"
        raise _refused(flag, f"{path}: {why}", "a file of text with a name on each line") from None


def _split(wanted: Wanted, *, known: bool) -> Split:
    problems: list[Problem] = []
    train, test, validation = (
        _kept(problems, lambda text: _who(text, flag), text) if text is not None else None  # noqa: B023 (called at once)
        for flag, text in (("--train", wanted.train), ("--test", wanted.test), ("--validation", wanted.validation))
    )
    if isinstance(train, float):
        problems.append(Problem("--train", "-", show(train), "names, with commas between them; a fraction is said of --test"))
    if problems:
        raise ConfigError(problems)
    if train is None and test is None:
        test = 0.25
    by = wanted.by or ("subject" if known else "clip")
    return Split(by, train=train, test=test, validation=validation or (), seed=wanted.seed)


def _who(text: str, flag: str) -> Sequence[int | str] | float:
    """A fraction, names with commas between them, or ``@FILE`` with one a line."""
    try:
        if "." in text and 0 < (part := float(text)) < 1:
            return part
    except ValueError:
        pass
    if text.startswith("@"):
        return _lines(flag, Path(text[1:]))
    return [name.strip() for name in text.split(",") if name.strip()]
