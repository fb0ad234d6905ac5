"""An own data set from arrays to a prepared file that says itself what it holds: :func:`write_dataset`."""

from __future__ import annotations

import json
import operator
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from types import NoneType
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from pydantic import ValidationError

from last_e.datafile import OWN_SPLIT, VALIDATION, DataError, output_path
from last_e.described import DESCRIPTION, FILE_NAME, MOST_PEOPLE, UNITS, Description, in_a_line
from last_e.own_set import OwnSet, doubtful_units, mistakes_in
from last_e.prepare.account import versions
from last_e.prepare.clipfile import About, Array, NoClipsError, Part, write_streamed
from last_e.prepare.own_look import MISSING, torso_of
from last_e.prepare.replace import see_that_it_may_be_made
from last_e.skeletons import LAYOUTS, Skeleton
from last_e.text import counted, one_line, shown

BATCH, BATCH_BYTES = 256, 32 * 2**20
FARTHEST = 32_767
BEST_SCORE = 1.25
"""Of a joint in an image; detectors exceed 1 by a little."""
MOST_FRAMES = 1_000_000
_MOST_TOLD = 10
_UNKNOWN = ("0", "1")
"""Classes that stand in until the labels' names are known."""

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class OwnClip:
    """One clip of an own set."""

    joints: npt.ArrayLike
    """(T, V, D) of one body, or (M, T, V, D) of several, the main one first. NaN where a joint is not seen. D is 3; of two
    dimensions it may be 2, and a third number is how well a joint is seen: 0 means not at all."""
    label: int | str
    """A class by its number, or its name."""
    name: str = ""
    """Its own; default: its number."""
    subject: int | str = 0
    """Who moves."""
    camera: int = 0


@dataclass(frozen=True)
class Split:
    """How clips are shared out: by their subjects, or one by one (``by="clip"``).

    Either ``train`` or ``test`` says who: a list (of subjects, or of clips' names), or for ``test`` a fraction, drawn by the
    ``seed``, of clips from each class alike. ``validation`` is a list, too, or a fraction of all, cut off from
    what trains.
    """

    by: Literal["subject", "clip"] = "subject"
    train: Sequence[int | str] | None = None
    test: Sequence[int | str] | float | None = None
    validation: Sequence[int | str] | float = ()
    seed: int = 0

    def __str__(self) -> str:
        parts = {"train": self.train, "test": self.test, "validation": self.validation or None}
        told = [f"{name} {value if isinstance(value, float) else ' '.join(map(str, value))}"
                for name, value in parts.items() if value is not None]  # fmt: skip
        seed = f", seed {self.seed}" if any(isinstance(value, float) for value in parts.values()) else ""
        return f"by {self.by}: {', '.join(told)}"[:500] + seed


@dataclass
class Written:
    """How a set was written."""

    description: Description
    clips: int = 0
    frames: int = 0
    splits: dict[str, dict[str, int]] = field(default_factory=dict)
    missing: dict[str, float] = field(default_factory=dict)
    """By joint, where it was not always seen: in which part of the frames it was not."""
    left_out: list[str] = field(default_factory=list)
    """Clips that show nobody, each with the reason."""
    warnings: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """All of it in plain values."""
        return {**vars(self), "description": self.description.model_dump(mode="json")}


def write_dataset(
    path: Path | str,
    clips: Iterable[OwnClip],
    *,
    classes: Sequence[str] | None = None,
    skeleton: Skeleton | str,
    splits: Mapping[str, Split],
    name: str | None = None,
    units: str = "metres",
    fps: float = 30.0,
    source: str = "",
    mirrored: Sequence[tuple[str, str]] | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
    of: Path | None = None,
) -> Written:
    """Write a prepared file that is all a job needs (``dataset: FILE``). Clips are taken one by one, and never all in memory.

    A joint that is not seen for some frames moves on a straight line between two sightings, and stands before the first and
    after the last; one that is never seen in a clip lies where its parent is. Frames in which nobody is seen are cut.

    Args:
        path: the file, NAME.safetensors.
        clips: what it holds.
        classes: names of the classes, in the order of their numbers; default: the labels as they come, sorted.
        skeleton: one, or a name of :data:`last_e.skeletons.LAYOUTS`.
        splits: by name; a job takes the first unless it says otherwise.
        name: what people call the set; default: the file's name.
        units: ``metres``, ``centimetres``, ``millimetres``, or of two dimensions ``pixels`` or ``image`` (parts of its width).
        fps: frames a second.
        source: where it comes from.
        mirrored: classes that change places when left and right do, in pairs of names; none do where it is empty; default:
            nobody knows, and clips cannot be mirrored.
        overwrite: replace a file with other clips.
        progress: told how many clips are done, and 0 for how many are to come.
        of: the file or folder that the clips are read from, which mistakes in them name; default: ``path``.

    Raises:
        DataError: with every mistake at once: in the description, in labels and coordinates, in the splits.
        OSError: the disk is full.
    """
    path = output_path(Path(path), example="my.safetensors")
    if not re.fullmatch(FILE_NAME, path.name):
        allowed = "NAME.safetensors, of letters, digits and ._+=-"
        raise DataError(f"{path}: a set's file is called {allowed}: jobs know it by that", missing=True)
    of = of or path
    name = path.stem if name is None else name
    description = _description(of, classes, skeleton, splits, name, units, fps, source)
    metadata = {"dataset": description.name, "source": source or "written by last_e.data.write_dataset"}
    if not overwrite:
        see_that_it_may_be_made(path, metadata)
    writer = _Writer(description, splits, metadata, str(of), names_come=classes is None, mirrored=mirrored)
    try:
        write_streamed(writer.parts(clips, progress), path, {}, overwrite, writer.finish)
    except NoClipsError:
        if not (empty := len(writer.written.left_out)):
            raise
        raise DataError(f"{of}: {counted(empty, 'clip')}, and nobody is seen in any frame", other=True) from None
    return writer.written


def _description(
    of: Path,
    classes: Sequence[str] | None,
    skeleton: Skeleton | str,
    splits: Mapping[str, Split],
    name: str,
    units: str,
    fps: float,
    source: str,
) -> Description:
    if isinstance(skeleton, str):
        if skeleton not in LAYOUTS:
            raise DataError(
                f"skeleton: found {skeleton!r}; allowed: {', '.join(LAYOUTS)}, or a Skeleton of your own", missing=True
            )
        skeleton = LAYOUTS[skeleton]
    if classes is not None and (isinstance(classes, str) or not isinstance(classes, Iterable)):
        raise DataError(f"{of}: classes is {shown(repr(classes))}; it is a list of names", missing=True)
    for split, how in splits.items():
        if how.by not in ("subject", "clip"):
            raise DataError(f"split {split}: by {shown(repr(how.by))}; allowed: subject, clip", missing=True)
        for name_of_part, part in (("train", how.train), ("test", how.test), ("validation", how.validation)):
            if isinstance(part, str) or not isinstance(part, (float, Sequence, Set, NoneType)):
                told = f"{name_of_part} is {shown(repr(part))}; it is a list, or a fraction between 0 and 1"
                raise DataError(f"split {split}: {told}", missing=True)
        if (how.train is None) == (how.test is None):
            raise DataError(f"split {split}: say who trains, or who tests", missing=True)
        for part in (how.train, how.test, how.validation):
            if isinstance(part, float) and not 0 < part < 1:
                raise DataError(f"split {split}: {part} is no fraction between 0 and 1", missing=True)
    try:
        return Description.model_validate(
            {
                "name": name,
                "classes": _UNKNOWN if classes is None else tuple(classes),
                "skeleton": skeleton,
                "people": MOST_PEOPLE,  # until it is known
                "units": units,
                "fps": fps,
                "splits": {split: str(how) for split, how in splits.items()},
                "source": source,
            }
        )
    except ValidationError as error:
        raise DataError(f"{of}: {in_a_line(error)}", missing=True) from None


def as_whole(value: Any) -> int | None:
    """A whole number of 64 bits, also one that is written with a point; None of anything else."""
    try:
        number = int(value) if isinstance(value, (float, np.floating)) and value.is_integer() else operator.index(value)
    except TypeError:
        return None
    return None if isinstance(value, bool) or not -(2**63) <= number < 2**63 else number


class _Writer:
    """Clips on their way to a file, and what is found out about them."""

    def __init__(
        self,
        description: Description,
        splits: Mapping[str, Split],
        metadata: Mapping[str, str],
        where: str,
        *,
        names_come: bool,
        mirrored: Sequence[tuple[str, str]] | None,
    ) -> None:
        self._mirrored = mirrored
        self.written = Written(description)
        self._splits, self._metadata, self._where = splits, metadata, where
        self._names_come = names_come
        self._numbers = {} if names_come else {name: number for number, name in enumerate(description.classes)}
        self._subjects: dict[int | str, int] = {}
        self._unused: dict[str, set[str]] = {"clip": set(), "subject": set()}  # of clips that are left out
        self._names: dict[str, None] = {}  # whole and in order, as a file does not keep them
        self._unseen = np.zeros(len(description.skeleton.joints), dtype=np.int64)
        self._sightings = 0
        self._torso: list[float] = []
        self._low, self._high = np.full(3, np.inf), np.full(3, -np.inf)
        self._wrong: list[str] = []
        self._more_wrong = 0

    def parts(self, clips: Iterable[OwnClip], progress: Progress | None) -> Iterator[Part]:
        """Parts of few clips and few bytes."""
        part, size, number = Part(), 0, -1
        for number, clip in enumerate(clips):
            self._add(part, clip, f"clip-{number:06}" if clip.name == "" else clip.name)
            size += part.joints[-1].nbytes if part.joints else 0
            if len(part.joints) == BATCH or size >= BATCH_BYTES:
                yield part
                part, size = Part(), 0
            if progress and number % BATCH == 0:
                progress(number + 1, 0)
        if self._wrong:
            more = [f"and {self._more_wrong:,} more"] if self._more_wrong else []
            raise DataError("\n".join(f"{self._where}: {text}" for text in [*self._wrong, *more]), missing=True)
        yield part
        if progress:
            progress(number + 1, number + 1)

    def _add(self, part: Part, clip: OwnClip, name: str) -> None:
        try:
            if not isinstance(name, str):
                raise DataError(f"its name is {name!r}, no text")
            label, camera = self._label(clip.label), as_whole(clip.camera)
            subject = clip.subject if isinstance(clip.subject, str) else as_whole(clip.subject)
            if subject is None:
                raise DataError(f"subject {clip.subject!r} is no text and no whole number of 64 bits")
            if camera is None:
                raise DataError(f"camera {clip.camera!r} is no whole number of 64 bits")
            if name in self._names:
                raise DataError("there already under the same name")
            made = in_whole_numbers(clip.joints, self.written.description)
        except DataError as error:
            if len(self._wrong) < _MOST_TOLD:
                self._wrong.append(f"clip {shown(str(name))}: {error}")
            else:
                self._more_wrong += 1
            return
        if made is None:
            self.written.left_out.append(f"{name}: nobody is seen in any frame")
            self._unused["clip"].add(name)
            self._unused["subject"].add(str(subject))
            return
        joints, unseen = made.joints, made.unseen
        self._names[name] = None
        self._unseen += unseen
        self._sightings += joints.shape[0] * joints.shape[1]
        self._torso.append(torso_of(joints, self.written.description.skeleton.measure))
        self._low = np.minimum(self._low, joints.min(axis=(0, 1, 2)))
        self._high = np.maximum(self._high, joints.max(axis=(0, 1, 2)))
        # One that is no number gets one, beyond those that are.
        person = self._subjects.setdefault(subject, 1 + len(self._subjects))
        part.more.setdefault(MISSING, []).append(int(unseen.sum()))
        part.add(joints, About(label, person, camera), name)

    def _label(self, label: int | str) -> int:
        number = None if isinstance(label, str) else as_whole(label)
        if self._names_come:
            if not isinstance(label, str) and number is None:
                raise DataError(f"label {label!r} is no text and no whole number of 64 bits")
            return self._numbers.setdefault(str(label if number is None else number), len(self._numbers))
        classes = self.written.description.classes
        if isinstance(label, str) and label in self._numbers:
            return self._numbers[label]
        if number is None or not 0 <= number < len(classes):
            raise DataError(
                f"label {label!r} has no name: the classes are 0 to {len(classes) - 1}, {shown(', '.join(classes))}"
            )
        return number

    def finish(self, columns: dict[str, Array]) -> tuple[dict[str, Array], dict[str, str]]:
        """The splits of all clips, and what the file says of itself."""
        written = self.written
        named = {number: subject for subject, number in self._subjects.items()}
        if all(isinstance(subject, (int, np.integer)) for subject in self._subjects):
            columns["performer"] = np.array([named[one] for one in columns["performer"].tolist()], dtype=np.int64)
            named = {}
        subjects = [str(named.get(one, one)) for one in columns["performer"].tolist()]
        masks: dict[str, Array] = {}
        for split, how in self._splits.items():
            masks.update(shared_out(split, how, list(self._names), subjects, columns["label"], self._unused[how.by]))
        if self._names_come:
            names = sorted(self._numbers, key=lambda name: (int(name) if name.isdecimal() else -1, name))
            place = np.array([names.index(name) for name in self._numbers], dtype=np.int64)
            columns["label"] = place[columns["label"]]
            written.description = self._with(classes=tuple(names))
        if self._mirrored is not None:
            written.description = self._with(mirrored=pairs_of_classes(self._mirrored, written.description.classes))
        people = int(columns["bodies"].max())
        words = {split: str(how) for split, how in self._splits.items()}  # whose lists may have come with the clips
        written.description = written.description.model_copy(update={"people": people, "splits": words})
        mistakes = mistakes_in(OwnSet(written.description, "", {**columns, **masks}))
        if fatal := [mistake.text for mistake in mistakes if mistake.fatal]:
            raise DataError("\n".join(f"{self._where}: {text}" for text in fatal), missing=True)
        written.warnings = [mistake.text for mistake in mistakes]
        written.warnings += doubtful_units(written.description, np.array(self._torso), self._low, self._high)
        written.clips, written.frames = len(columns["label"]), int(columns["length"].sum())
        for split in self._splits:
            train, validation = masks[OWN_SPLIT + split], masks.get(VALIDATION + split)
            written.splits[split] = {"train": int(train.sum())}
            written.splits[split] |= {} if validation is None else {"validation": int(validation.sum())}
            written.splits[split]["test"] = written.clips - sum(written.splits[split].values())
        joints = written.description.skeleton.joints
        written.missing = {joint: count / self._sightings for joint, count in zip(joints, self._unseen.tolist()) if count}
        told = {DESCRIPTION: written.description.to_json(), "versions": json.dumps(versions())}
        told |= {MISSING: json.dumps(written.missing)} if written.missing else {}
        told |= {"subjects": json.dumps({str(number): str(subject) for number, subject in named.items()})} if named else {}
        return masks, {**self._metadata, **told}

    def _with(self, **found: Any) -> Description:
        """The description with what the clips turned out to have."""
        try:
            return Description.model_validate({**dict(self.written.description), **found})
        except ValidationError as error:
            raise DataError(f"{self._where}: {in_a_line(error)}", missing=True) from None


def pairs_of_classes(mirrored: Sequence[tuple[str, str]], classes: Sequence[str]) -> tuple[tuple[int, int], ...]:
    """Classes that change places in a mirror, by their numbers.

    Raises:
        DataError: there is no such class.
    """
    unknown = sorted({name for pair in mirrored for name in pair} - set(classes))
    if unknown:
        told, known = ", ".join(map(shown, unknown[:6])), shown(", ".join(classes))
        raise DataError(f"mirrored: no class is called {told}; they are {known}", missing=True)
    return tuple((classes.index(a), classes.index(b)) for a, b in mirrored)


class Made(NamedTuple):
    """A clip in whole numbers."""

    joints: npt.NDArray[np.int16]
    """(M, T, V, 3), as they stand in a prepared file."""
    unseen: Array
    """(V,): in how many frames, of all people, a joint was not seen and is guessed."""
    frame: Array
    """(T,): which of the frames that were given these are; those in which nobody is seen are cut."""
    frames: int
    """How many were given."""


def in_whole_numbers(given: npt.ArrayLike, description: Description) -> Made | None:
    """A clip's joints, (T, V, D) or (M, T, V, D) as :class:`OwnClip` has them, as a set so described holds them; None where
    nobody is seen.

    Raises:
        DataError: they are not of this skeleton, these dimensions or these units.
    """
    count, flat = len(description.skeleton.joints), description.is_flat
    try:
        joints = np.asarray(given, dtype=np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        raise DataError(f"its joints are no numbers ({one_line(error)})") from None
    if joints.ndim == 3:
        joints = joints[None]
    sides = (2, 3) if flat else (3,)
    if joints.ndim != 4 or joints.shape[2] != count or joints.shape[3] not in sides or joints.shape[1] > MOST_FRAMES:
        allowed = f"(people, frames, {count}, {' or '.join(map(str, sides))})"
        raise DataError(f"its joints are {joints.shape}; allowed: {allowed}, in {description.units}")
    if not 1 <= joints.shape[0] <= MOST_PEOPLE:
        raise DataError(f"{joints.shape[0]} people; allowed: 1 to {MOST_PEOPLE}")
    if flat:
        if joints.shape[3] == 3:
            _see_that_it_is_a_score(joints[..., 2], description.units)
        is_seen = joints[..., 2:3] != 0 if joints.shape[3] == 3 else True
        joints = np.where(is_seen, joints[..., :2] * (1.0, -1.0), np.nan)  # y goes down in an image
        joints = np.concatenate([joints, np.zeros_like(joints[..., :1])], axis=3)
    seen = np.asarray(np.isfinite(joints).all(axis=3))
    there = np.asarray(seen.any(axis=2))
    bodies, frame = np.any(there, axis=1), np.any(there, axis=0)
    joints, seen = joints[bodies][:, frame], seen[bodies][:, frame]
    if not joints.size:
        return None
    joints = np.rint(_filled(joints, seen, description.skeleton) * UNITS[description.units])
    if (most := float(np.abs(joints).max())) > FARTHEST:
        at, unit = most / UNITS[description.units], description.units
        hint = "" if flat else "; are they pixels? Then say so (units)"
        raise DataError(f"a coordinate of {at:,.0f} {unit}; allowed: at most {FARTHEST / UNITS[unit]:,.0f}{hint}")
    return Made(joints.astype(np.int16), (~seen).sum(axis=(0, 1)), np.flatnonzero(frame), len(frame))


def _see_that_it_is_a_score(third: npt.NDArray[np.float64], units: str) -> None:
    """See that a third number beside x and y is how well a joint is seen, or one of the flags 0, 1, 2, and no z."""
    if ((third < 0) | ((third > BEST_SCORE) & (third != 2))).any():
        found = f"goes from {np.nanmin(third):.3g} to {np.nanmax(third):.3g}"
        raise DataError(
            f"its third number {found}, and is how well a joint is seen, 0 to 1; is it a z? Then {units} are wrong (units)"
        )


def shared_out(
    split: str, how: Split, names: Sequence[str], subjects: Sequence[str], label: Array, unused: Set[str]
) -> dict[str, Array]:
    """The columns of a split, (N,) bool each. It may name what is ``unused``, too: of clips that are left out.

    Raises:
        DataError: it names what is not there.
    """
    keys = list(subjects if how.by == "subject" else names)
    everyone = {*keys, *unused}
    unknown = [
        str(one)
        for part in (how.train, how.test, how.validation)
        if part is not None and not isinstance(part, float)
        for one in part
        if str(one) not in everyone
    ]
    if unknown:
        told = ", ".join(map(shown, unknown[:6])) + (f" and {len(unknown) - 6} more" if len(unknown) > 6 else "")
        raise DataError(f"split {split}: no {how.by} is called {told}", missing=True)
    everything = np.ones(len(keys), dtype=np.bool_)
    if how.train is not None:
        trains = _chosen(how.train, how, keys, everything, label, "train")
        tests = ~trains
    else:
        assert how.test is not None
        tests = _chosen(how.test, how, keys, everything, label, "test")
        trains = ~tests
    masks = {OWN_SPLIT + split: trains}
    if how.validation:
        of = trains if isinstance(how.validation, float) else everything
        validation = _chosen(how.validation, how, keys, of, label, "validation")
        if how.train is None and (validation & tests).any():
            raise DataError(f"split {split}: the same {how.by} both to test and to validate", missing=True)
        masks = {OWN_SPLIT + split: trains & ~validation, VALIDATION + split: validation}
    return masks


def _chosen(part: Sequence[int | str] | float, how: Split, keys: list[str], of: Array, label: Array, what: str) -> Array:
    """Which of the clips ``of`` (N,) a part of a split has."""
    if not isinstance(part, float):
        wanted = {str(one) for one in part}
        return np.asarray(of & np.array([key in wanted for key in keys]))
    order = {key: sha256(f"{how.seed} {what} {key}".encode()).digest() for key in set(keys)}
    groups = [of] if how.by == "subject" else [of & (label == one) for one in np.unique(label)]
    total = [np.ones_like(of)] if how.by == "subject" else [label == one for one in np.unique(label)]
    wanted = set()
    for group, whole in zip(groups, total):
        among = sorted({keys[n] for n in np.flatnonzero(group)}, key=order.__getitem__)
        count = len({keys[n] for n in np.flatnonzero(whole)})
        wanted |= set(among[: min(len(among) - 1, max(1, round(part * count)))])
    return np.asarray(of & np.array([key in wanted for key in keys]))


def _filled(joints: npt.NDArray[np.float64], seen: npt.NDArray[np.bool_], skeleton: Skeleton) -> npt.NDArray[np.float64]:
    """Joints (M, T, V, 3) with a place for those that are not ``seen`` (M, T, V)."""
    if seen.all():
        return joints
    joints = np.where(seen[..., None], joints, 0.0)
    time = np.arange(joints.shape[1])
    order = sorted(range(len(skeleton.parents)), key=lambda joint: _depth(skeleton, joint))
    for body in range(len(joints)):
        nowhere = [joint for joint in order if not seen[body, :, joint].any()]
        for joint in order:
            at = np.flatnonzero(seen[body, :, joint])
            if 0 < len(at) < len(time):
                for axis in range(3):
                    joints[body, :, joint, axis] = np.interp(time, at, joints[body, at, joint, axis])
        for joint in nowhere:  # parents first, so that a whole limb lies where it begins
            parent = skeleton.parents[joint]
            if parent != joint:
                joints[body, :, joint] = joints[body, :, parent]
            else:  # the centre: the middle of what is there
                there = [other for other in order if other not in nowhere]
                joints[body, :, joint] = joints[body][:, there].mean(axis=1)
    return joints


def _depth(skeleton: Skeleton, joint: int) -> int:
    return 0 if skeleton.parents[joint] == joint else 1 + _depth(skeleton, skeleton.parents[joint])
