"""pyskl's ``.pkl`` of keypoints in any layout, such as COCO's in images, as an own set: annotations and lists of who trains."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from last_e.datafile import DataError
from last_e.prepare.clipfile import Array
from last_e.prepare.keypoints import Found, Told
from last_e.prepare.pickles import found_instead, read_pickle
from last_e.prepare.pyskl import who_trains
from last_e.text import shown


def read_pyskl(path: Path, told: Told) -> Iterator[Found]:
    """The clips of a file, which is read whole, by the reader that runs nothing."""
    content = read_pickle(path)
    annotations = content.get("annotations") if isinstance(content, dict) else content
    if not isinstance(annotations, list) or not annotations:
        raise DataError(f"{path}: no list of annotations in it; {found_instead(content)}", other=True)
    wrong = next((number for number, one in enumerate(annotations) if not _is_annotation(one)), None)
    if wrong is not None:
        needs = "needs frame_dir, label (a whole number) and keypoint (numbers, (people, frames, joints, 2 or 3))"
        raise DataError(f"{path}: annotation {wrong}: {needs}; {found_instead(annotations[wrong])}", other=True)
    names = [one["frame_dir"] for one in annotations]
    lists = content.get("split") if isinstance(content, dict) else None
    trains: set[int] | None = None
    if isinstance(lists, dict) and lists:
        trains, _, _ = who_trains(path, lists, None, told.train_list, names)
    elif told.train_list is not None:
        raise DataError(f"{path}: no list {shown(told.train_list)}: it has no lists", missing=True)
    for number, one in enumerate(annotations):
        said: dict[str, Any] = {"label": int(one["label"])}
        if trains is not None:
            said["part"] = "train" if number in trains else "test"
        yield told.found(names[number], _points(one), said)


def _is_annotation(one: Any) -> bool:
    if not isinstance(one, dict) or not isinstance(one.get("frame_dir"), str):
        return False
    keypoint, label = one.get("keypoint"), one.get("label")
    if isinstance(label, bool) or not isinstance(label, (int, np.integer)):
        return False
    return (
        isinstance(keypoint, np.ndarray) and keypoint.dtype.kind in "fiu" and keypoint.ndim == 4 and keypoint.shape[3] in (2, 3)
    )


def _points(one: dict[str, Any]) -> Array:
    """(M, T, V, D) of an annotation, with the scores of joints in an image."""
    points: Array = one["keypoint"]
    score: Any = one.get("keypoint_score")
    if points.shape[3] == 3:
        return np.where(np.any(points, axis=(2, 3), keepdims=True), points, np.nan)  # zeros: nobody
    if not isinstance(score, np.ndarray) or score.dtype.kind not in "fiu" or score.shape != points.shape[:3]:
        score = np.any(points, axis=3)
    return np.concatenate([points.astype(np.float64), score[..., None].astype(np.float64)], axis=3)
