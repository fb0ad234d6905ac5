"""CTR-GCN's ``.npz``: ``x_train`` (N, T, 150), one-hot ``y_train``, ``x_test``, ``y_test``."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from last_e.datafile import DataError
from last_e.joints import NUM_JOINTS
from last_e.prepare.archives import NOT_WHOLE, beginning_of
from last_e.prepare.arrays import Rows, array_in_zip, labels_in
from last_e.prepare.opened import Foreign, Opened
from last_e.text import one_line

PEOPLE = 2


def open_ctrgcn(path: Path, split: str | None) -> Opened:
    """A file of CTR-GCN's; its joints are read with its clips.

    Raises:
        DataError: it is damaged or another one.
    """
    labels = {}
    for part in ("train", "test"):
        with _array(path, f"y_{part}") as rows:
            labels[part] = labels_in(rows.each, f"{path}: y_{part}")

    def clips() -> Iterator[Foreign]:
        for part, numbers in labels.items():
            with _array(path, f"x_{part}") as rows:
                fits = len(rows.shape) == 3 and rows.shape[2] == PEOPLE * NUM_JOINTS * 3 and rows.dtype.kind in "fiu"
                if not fits or rows.shape[0] != len(numbers):
                    raise DataError(
                        f"{path}: x_{part} is {rows.dtype} {rows.shape}, not numbers (clips, frames, 150) with a row for each "
                        f"of y_{part}, which has {len(numbers)}",
                        other=True,
                    )
                for number, (row, label) in enumerate(zip(rows.each, numbers)):
                    joints = row.reshape(len(row), PEOPLE, NUM_JOINTS, 3).swapaxes(0, 1)
                    yield Foreign(joints, label, f"{part}-{number:06}", part == "train")

    return Opened(sum(map(len, labels.values())), False, split, clips())


@contextmanager
def _array(path: Path, name: str) -> Iterator[Rows]:
    """An array of the file, with its own words for what is wrong with it."""
    try:
        archive = zipfile.ZipFile(path)
    except NOT_WHOLE as error:
        other = not beginning_of(path).startswith(b"PK") and path.stat().st_size > 0
        raise DataError(f"{path}: not a whole .npz file ({one_line(error)})", other=other) from None
    with archive:
        try:
            with array_in_zip(archive, name, f"{path}: {name}") as rows:
                yield rows
        except DataError:
            raise
        except KeyError:
            there = ", ".join(info.filename.removesuffix(".npy")[:40] for info in archive.infolist()[:9])
            raise DataError(
                f"{path}: no {name} in it; CTR-GCN's files hold x_train, y_train, x_test, y_test; found {there or 'nothing'}",
                other=True,
            ) from None
        except NOT_WHOLE as error:
            raise DataError(f"{path}: {name} is damaged ({one_line(error)})") from None
