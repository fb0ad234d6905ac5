"""pyskl's ``.pkl``, and mmaction2's: ``split`` and ``annotations`` with 3-D keypoints (M, T, 25, 3).

mmaction2's older script writes lists of annotations, those that train and those to test with in files of their own
(``train.pkl``, ``val.pkl``), with keypoints (3, T, 25, M) that are filled up by repeating a clip behind its ``total_frames``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from last_e.datafile import DataError
from last_e.joints import NUM_JOINTS
from last_e.prepare.arrays import MOST_CLIP_BYTES
from last_e.prepare.clipfile import MOST_CLASSES, MOST_PEOPLE, Array
from last_e.prepare.names import read_name
from last_e.prepare.opened import Foreign, Opened
from last_e.prepare.pickles import are_names, found_instead, read_pickle
from last_e.text import shown

_NAME_KEYS = ("frame_dir", "filename")
"""What an annotation calls its clip: pyskl and mmaction2, and older lists of the latter."""
_ENDINGS = re.compile(r"(?i)(\.skeleton|\.avi|\.mp4|\.npy|\.json|_rgb)+$")
_HALF = re.compile(r"(?i)(?P<set>.*?)(?P<part>train|val|test)")
"""The name of a file, without its ending, that holds half of the clips."""
_OTHERS = {"train": ("val", "test"), "val": ("train",), "test": ("train",)}


def open_pyskl(path: Path, split: str | None, train_list: str | None = None) -> Opened:
    """A file of pyskl's or mmaction2's, which is read whole. ``train_list`` names which of its lists trains.

    Raises:
        DataError: it is damaged, another one, or does not say who trains.
    """
    content = read_pickle(path)
    annotations = _annotations(content, path)
    lists = content.get("split") if isinstance(content, dict) else None
    beside: tuple[Path, ...] = ()
    missing: tuple[str, ...] = ()
    trains: set[int] | None = None
    half = _HALF.fullmatch(path.stem)
    if half and not lists:
        other = _other_half(path, half)
        rest = _annotations(read_pickle(other), other)
        first, second = (annotations, rest) if half["part"].lower() == "train" else (rest, annotations)
        annotations, trains, beside = [*first, *second], set(range(len(first))), (other,)
    names = [next(one[key] for key in _NAME_KEYS if key in one) for one in annotations]
    names_known = all(read_name(name) is not None for name in names) and train_list is None
    if trains is None and names_known:
        trains = set()  # the names tell
    elif trains is None:
        trains, split, missing = who_trains(path, lists if isinstance(lists, dict) else {}, split, train_list, names)

    def clips() -> Iterator[Foreign]:
        for number, (name, one) in enumerate(zip(names, annotations)):
            yield Foreign(_joints(one), int(one["label"]), name, number in trains)

    return Opened(len(annotations), names_known, split, clips(), missing, beside)


def _annotations(content: Any, path: Path) -> list[dict[str, Any]]:
    """The annotations of a file, in whatever they are kept: under their key or alone, in a list or by their clips' names."""
    kept = content.get("annotations", content) if isinstance(content, dict) else content
    if isinstance(kept, dict) and kept and all(isinstance(one, dict) for one in kept.values()):
        kept = [{"frame_dir": name, **one} for name, one in kept.items()]
    if not isinstance(kept, (list, tuple)) or not kept:
        raise DataError(
            f"{path}: not a file of pyskl or mmaction2: no list of annotations in it; {found_instead(content)}", other=True
        )
    wrong = next((number for number, one in enumerate(kept) if not _is_annotation(one)), None)
    if wrong is not None:
        raise DataError(
            f"{path}: annotation {wrong}: needs frame_dir (or filename), label (a whole number) and "
            "keypoint (floats, (people, frames, 25, 3)); "
            f"{found_instead(kept[wrong])}",
            other=True,
        )
    return list(kept)


def _other_half(path: Path, half: re.Match[str]) -> Path:
    """The file with the clips to test with of one with those that train, or the other way round."""
    places = [path.with_name(f"{half['set']}{part}{path.suffix}") for part in _OTHERS[half["part"].lower()]]
    there = next((place for place in places if place.exists()), None)
    if there is None:
        raise DataError(
            f"{path}: by its name half of the clips, and no {' or '.join(place.name for place in places)} beside it; put it "
            "there, or rename this one if it holds all",
            missing=True,
        )
    return there


def who_trains(
    path: Path, lists: Mapping[Any, Any], split: str | None, train_list: str | None, names: list[str]
) -> tuple[set[int], str | None, tuple[str, ...]]:
    """The numbers of the clips that train, by a file's own list of names or numbers; what their split is called; what to tell
    of names that no clip has."""
    there = f"; its lists are {', '.join(map(shown, list(lists)[:9]))}" if lists else "; it has no lists"
    keys = [key for key in lists if isinstance(key, str) and key.endswith("train")]
    chosen = [key for key in keys if split is None or key == f"{split}_train"] or keys
    if train_list is not None:
        if train_list not in lists:
            raise DataError(f"{path}: no list {train_list!r}{there}", missing=True)
        chosen = [train_list]
    if not chosen or (split is not None and len(chosen) > 1):
        raise DataError(
            f"{path}: neither names like NTU's nor a list of the clips that train ({split or 'xsub'}_train, or train){there}"
            + ("; say which one it is with --train-list" if lists else ""),
            other=True,
        )
    key, called = chosen[0], shown(chosen[0])
    listed = list(lists[key]) if isinstance(lists[key], (list, tuple, set, frozenset, np.ndarray)) else None
    if listed is None or not are_names(listed):
        raise DataError(
            f"{path}: neither names like NTU's nor a list of the clips that train: {called} holds no names or numbers; "
            f"{found_instead(lists[key])}",
            other=True,
        )
    found = _listed(listed, names)
    if not found or len(found) == len(names):
        first = f"{shown(listed[0])!r}" if listed else "nothing"
        raise DataError(
            f"{path}: of the {len(listed)} names in {called}, {len(found)} are among its {len(names)} clips: some have to "
            f"train, and some to test; it has {shown(names[0])!r}, and {called} {first}",
            other=True,
        )
    wanted = len(set(listed))
    absent = wanted - len(found if _numbers(listed) else {names[number] for number in found})
    told = (f"{called}: {absent} of its {wanted} names are none of a clip here",) if absent > 0 else ()
    told = (*told, *_of_those_that_test(key, lists, found, names))
    return found, split or key.removesuffix("train").rstrip("_") or None, told


def _of_those_that_test(key: str, lists: Mapping[Any, Any], trains: set[int], names: list[str]) -> tuple[str, ...]:
    """What to tell where a file's own list of those that test is not simply the rest."""
    tests: set[int] = set()
    for end in ("val", "test"):
        listed = lists.get(f"{key.removesuffix('train')}{end}") if key.endswith("train") else None
        if isinstance(listed, (list, tuple, set, frozenset, np.ndarray)) and are_names(list(listed)):
            tests |= _listed(list(listed), names)
    if not tests:
        return ()
    both, neither = len(tests & trains), len(names) - len(tests | trains)
    told = [f"{both} of the clips to test with train as well, and do not test"] if both else []
    are = (
        "1 clip is in none of the file's own lists, and tests"
        if neither == 1
        else f"{neither} clips are in none of them, and test"
    )
    told += [are] if neither else []
    return tuple(f"{shown(key)}: {words}; see whether its lists are what you mean" for words in told)


def _listed(listed: Sequence[Any], names: list[str]) -> set[int]:
    """The numbers of the clips that a list tells, by their numbers or their names."""
    if _numbers(listed):
        return {int(one) for one in listed if 0 <= int(one) < len(names)}
    wanted = set(map(str, listed))
    found = {number for number, name in enumerate(names) if name in wanted}
    if not found:  # in one of the two as a path, or with an ending
        stems = set(map(_stem, wanted))
        found = {number for number, name in enumerate(names) if _stem(name) in stems}
    return found


def _numbers(listed: Sequence[Any]) -> bool:
    return all(isinstance(one, (int, np.integer)) for one in listed)


def _stem(name: str) -> str:
    return _ENDINGS.sub("", re.split(r"[/\\]", name)[-1])


_MOST_AT_ONCE = 6
"""A Kinect sees no more people; a file may tell of as many as there are frames, by all that were seen one after the other."""


def _is_annotation(one: Any) -> bool:
    if not isinstance(one, dict) or not any(isinstance(one.get(key), str) for key in _NAME_KEYS):
        return False
    if any(key in one and not isinstance(one[key], str) for key in _NAME_KEYS):
        return False
    keypoint, label = one.get("keypoint"), one.get("label")
    return (
        isinstance(keypoint, np.ndarray)
        and keypoint.dtype.kind == "f"
        and keypoint.ndim == 4
        and (keypoint.shape[2:] == (NUM_JOINTS, 3) or _is_channels_first(keypoint))
        and keypoint.shape[0] <= max(keypoint.shape[1], _MOST_AT_ONCE)  # frames first: people and frames have changed places
        and keypoint.nbytes <= MOST_CLIP_BYTES
        and isinstance(label, (int, np.integer))
        and not isinstance(label, bool)
        and 0 <= int(label) < MOST_CLASSES
    )


def _is_channels_first(keypoint: Array) -> bool:
    channels, _, joints, people = keypoint.shape
    return (channels, joints) == (3, NUM_JOINTS) and 1 <= people <= MOST_PEOPLE


def _joints(one: Mapping[str, Any]) -> Array:
    """(M, T, 25, 3) of an annotation, without what fills it up."""
    joints: Array = one["keypoint"]
    if _is_channels_first(joints):
        joints = joints.transpose(3, 1, 2, 0)
    frames = one.get("total_frames")
    if isinstance(frames, (int, np.integer)) and not isinstance(frames, bool) and 0 < frames < joints.shape[1]:
        return joints[:, : int(frames)]
    return joints
