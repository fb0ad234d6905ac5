"""Prepared files of other projects, read into ours. Joints only: velocity and bone are derived from them when training.

=========  =====================================================================================================
ctrgcn     CTR-GCN's ``.npz``: ``x_train`` (N, T, 150), one-hot ``y_train``, ``x_test``, ``y_test``
pyskl      pyskl's ``.pkl``, and mmaction2's: ``split`` and ``annotations`` with 3-D keypoints (M, T, 25, 3)
npy        a folder with ``train_joint.npy`` (N, 3, T, 25, M), ``train_label.pkl``, and the same with ``val`` or ``test``
=========  =====================================================================================================

Zeros are padding, or a person who is not seen. People come from NTU's file names where a file has these; else the split that
the file brings is kept, under the name that the user gives.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from last_e.datafile import DataError, output_path, see_that_it_is_there
from last_e.prepare.account import count_splits, guess_dataset, versions
from last_e.prepare.clipfile import About, NoClipsError, Part, write_streamed
from last_e.prepare.ctrgcn import open_ctrgcn
from last_e.prepare.kinds import see_that_it_is
from last_e.prepare.names import read_name
from last_e.prepare.opened import Opened
from last_e.prepare.original import open_original
from last_e.prepare.people import NobodyError, take_people
from last_e.prepare.pyskl import open_pyskl
from last_e.prepare.replace import see_that_it_may_be_made
from last_e.text import counted, plain

BATCH, BATCH_BYTES = 256, 32 * 2**20
SPLITS = ("xsub", "xview", "xset")
_SPLIT_WORDS = {
    **dict.fromkeys(("cs", "csub", "xsub"), "xsub"),
    **dict.fromkeys(("cv", "xview"), "xview"),
    **dict.fromkeys(("cset", "xset", "xsetup"), "xset"),
}

Progress = Callable[[int, int], None]


@dataclass
class Imported:
    """How an import went."""

    kind: str
    dataset: str = ""
    """``ntu60`` or ``ntu120``, by the classes."""
    clips: int = 0
    frames: int = 0
    two_people: int = 0
    splits: dict[str, dict[str, int | None]] = field(default_factory=dict)
    own_split: str | None = None
    """The split that the file brought; None where the people are known and every split can be made."""
    unusable: int = 0
    error_mm: float = 0.0
    left_out: list[str] = field(default_factory=list)
    other_labels: int = 0
    """Clips whose label is not the action that their name tells: another numbering, or the labels of other clips."""


def import_file(
    kind: str,
    path: Path,
    out: Path,
    *,
    split: str | None = None,
    train_list: str | None = None,
    progress: Progress | None = None,
    overwrite: bool = True,
) -> Imported:
    """Read another project's file and write a prepared one.

    Args:
        kind: a key of :data:`READERS`.
        path: the file, or the folder for ``npy``.
        out: the prepared file.
        split: what the file's own split is called; needed where neither its clips' names nor its own name tell.
        train_list: which of a pickle's lists names the clips that train; default: the one that is called as the split is.
        progress: told how many clips are done, and of how many.
        overwrite: replace a file with other clips, too.

    Raises:
        DataError: the file is missing, damaged, of another kind, or does not say who trains, or another file is not to be
            overwritten.
        OSError: the disk is full.
    """
    path, out = Path(path), Path(out)
    see_that_it_is_there(path)
    out = output_path(out, path)
    source = {"source": f"imported from {kind}: {path.name}"}
    if not overwrite:
        see_that_it_may_be_made(out, source)
    see_that_it_is(kind, path)
    if train_list is not None and kind != "pyskl":
        raise DataError(f"{path}: {kind} has no lists of clips; only pyskl's files have some to choose from", missing=True)
    chosen = {} if train_list is None else {"train_list": train_list}
    opened = READERS[kind](path, split or split_in(path), **chosen)
    out = output_path(out, path, *opened.beside)
    own = None
    if not opened.names_known:
        own = opened.split
        if own not in SPLITS:
            raise DataError(
                f"{path}: its clips have no names, so only the file knows who trains; say which split that is with --split "
                f"{', '.join(SPLITS)}",
                missing=True,
            )
    report = Imported(kind, own_split=own, left_out=list(opened.passed_over))
    metadata = {**source, "versions": json.dumps(versions())}
    try:
        columns = write_streamed(_parts(opened, own, report, progress), out, metadata, overwrite)
    except NoClipsError:
        why = report.left_out[len(opened.passed_over) :][:1] or ["it holds none"]
        hint = "; allowed: numbers, in metres, of at most 32" if "usable coordinates" in why[0] else ""
        raise DataError(
            f"{path}: of {counted(opened.total, 'clip')} none can be used; {plain(why[0][:200])}{hint}", other=True
        ) from None
    report.dataset = guess_dataset(columns)
    report.clips, report.frames = len(columns["label"]), int(columns["length"].sum())
    report.two_people = int((columns["bodies"] == 2).sum())
    report.splits = count_splits(report.dataset, columns)
    return report


def _parts(opened: Opened, own: str | None, report: Imported, progress: Progress | None) -> Iterator[Part]:
    """Parts of few clips and few bytes: what a file claims or unpacks to never decides how much memory is taken."""
    part, size = Part(), 0
    seen: set[str] = set()
    for done, one in enumerate(opened.clips, 1):
        name = read_name(one.name)
        try:
            if str(name) in seen:
                raise NobodyError("there already under the same name")
            clip = take_people(one.joints)
        except NobodyError as error:
            report.left_out.append(f"{one.name}: {error}")
        else:
            about = About(one.label)
            if name is not None:
                seen.add(str(name))
                about = About(one.label, name.performer, name.camera, name.setup, name.replication)
                report.other_labels += one.label != name.action - 1
            part.add(clip.joints, about, one.name, {own: one.trains} if own else None)
            size += clip.joints.nbytes
            report.unusable += clip.unusable
            report.error_mm = max(report.error_mm, clip.error)
        if len(part.joints) == BATCH or size >= BATCH_BYTES:
            yield part
            part, size = Part(), 0
        if progress and (done % BATCH == 0 or done == opened.total):
            progress(done, opened.total)
    yield part


def split_in(path: Path) -> str | None:
    """``xsub`` of ``NTU60_CS.npz``, or of ``xsub/train.pkl``."""
    stem = path.parent.name if path.stem in ("train", "val", "test") else path.stem
    words = stem.lower().replace("-", "_").split("_")
    return next((_SPLIT_WORDS[word] for word in words if word in _SPLIT_WORDS), None)


READERS: dict[str, Callable[..., Opened]] = {"ctrgcn": open_ctrgcn, "pyskl": open_pyskl, "npy": open_original}
