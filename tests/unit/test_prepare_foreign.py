"""Whatever other projects have prepared, read into one file: splits, people who are not seen, names."""

from __future__ import annotations

import gzip
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest

from last_e.data import read_clips
from last_e.datafile import DataError
from last_e.prepare.clipfile import names_of, read_columns
from last_e.prepare.foreign import import_file, split_in
from last_e.prepare.synth import synthesize
from runner.view.prepared import imported_text
from tests.foreign_files import annotations, check, ctrgcn, names, original, pyskl, refused
from tests.ntu_files import motion


@pytest.mark.parametrize(("name", "split"), [("NTU60_CV", "xview"), ("NTU120_CSet", "xset"), ("ntu120_csub", "xsub")])
def test_the_split_is_in_the_name_of_the_file(tmp_path, name, split):
    assert import_file("ctrgcn", ctrgcn(tmp_path / f"{name}.npz"), tmp_path / "out").own_split == split


def test_a_split_that_nobody_knows_has_to_be_given(tmp_path):
    path = ctrgcn(tmp_path / "data.npz")
    with pytest.raises(DataError, match="--split xsub, xview, xset"):
        import_file("ctrgcn", path, tmp_path / "out")
    assert import_file("ctrgcn", path, tmp_path / "out", split="xview").own_split == "xview"


def test_frames_in_which_one_of_two_is_not_seen_are_filled_and_with_nobody_cut(tmp_path):
    rows = np.zeros((1, 64, 150), dtype=np.float32)
    walk = motion(3, 20).reshape(20, 75)
    rows[0, 5:25, :75] = walk
    rows[0, 10:20, 75:] = walk[5:15] + 1
    rows[0, 12] = 0
    one = np.eye(60)[:1]
    import_file("ctrgcn", ctrgcn(tmp_path / "NTU60_CS.npz", x_train=rows, y_train=one), tmp_path / "out")
    clips = read_clips(tmp_path / "out", 60)
    assert (int(clips.bodies[0]), int(clips.length[0])) == (2, 19)
    second = clips.joints[19:38].numpy().reshape(19, 75) / 1000
    assert np.abs(second[:5] - (walk[5] + 1)).max() < 0.001


def test_a_clip_with_nobody_is_left_out_with_a_word(tmp_path):
    rows = np.zeros((2, 64, 150), dtype=np.float32)
    rows[1, :9] = 1
    rows[1, 3, 7] = np.nan
    path = ctrgcn(tmp_path / "NTU60_CS.npz", x_train=rows, y_train=np.eye(60)[:2])
    report = import_file("ctrgcn", path, tmp_path / "out")
    assert report.left_out == ["train-000000: nobody is seen in any frame"]
    assert report.unusable == 1
    assert report.clips == 3


def test_a_clip_without_frames_or_people_is_nobody(tmp_path):
    clips = [{"frame_dir": name, "label": 1, "keypoint": np.ones((people, frames, 25, 3))}
             for name, people, frames in zip(names(), (1, 0, 1), (9, 9, 0))]  # fmt: skip
    assert import_file("pyskl", pyskl(tmp_path / "a.pkl", annotations=clips), tmp_path / "out").clips == 1


def test_names_that_are_no_text_make_a_file_that_can_be_read(tmp_path):
    """Half of a character, as a file's name on disk or a pickle can have one."""
    report = import_file("ctrgcn", ctrgcn(tmp_path / os.fsdecode(b"bad\xff_CS.npz")), tmp_path / "out")
    assert report.clips == 6
    assert read_columns(tmp_path / "out")[1]["source"] == "imported from ctrgcn: bad\\udcff_CS.npz"
    clips = [{"frame_dir": name, "label": 1, "keypoint": np.ones((1, 9, 25, 3))} for name in ("\ud800", "b")]
    path = pyskl(tmp_path / "a.pkl", known=False, annotations=clips, split={"xsub_train": ["\ud800"]})
    import_file("pyskl", path, tmp_path / "out")
    assert names_of(read_columns(tmp_path / "out")[0]) == ["\\ud800", "b"]


@pytest.mark.parametrize(
    ("kind", "other", "expected"),
    [
        ("pyskl", "ctrgcn", "a .npz file, and pyskl is a pickle; for this one: lastrun data import ctrgcn"),
        ("npy", "ctrgcn", "a .npz file, and npy is a folder; for this one: lastrun data import ctrgcn"),
        ("ctrgcn", "pyskl", "a pickle, and ctrgcn is a .npz file; for this one: lastrun data import pyskl"),
        ("npy", "pyskl", "a pickle, and npy is a folder; for this one: lastrun data import pyskl"),
        ("ctrgcn", "npy", "a folder, and ctrgcn is a .npz file; for this one: lastrun data import npy"),
        ("npy", "array", "an array alone; name its folder: lastrun data import npy FOLDER"),
        ("pyskl", "array", "an array alone; name its folder: lastrun data import npy FOLDER"),
        ("npy", "text", "no folder; npy is a folder with train_joint.npy, train_label.pkl and the like"),
        ("pyskl", "text", "damaged or no pickle ("),
        ("pyskl", "nothing", "an empty file; copy or download it again"),
        ("ctrgcn", "nothing", "an empty file; copy or download it again"),
        ("ctrgcn", "page", "a web page, perhaps one that asks to log in; download it in a browser"),
        ("pyskl", "lfs", "a pointer of Git LFS, in place of the file; fetch it: git lfs pull"),
        ("ctrgcn", "annex", "a pointer of git-annex, in place of the file; fetch it: git annex get"),
        ("pyskl", "gz", "packed by gz: unpack it with gunzip"),
        ("ctrgcn", "7z", "a 7z archive: unpack it with 7z x"),
        ("pyskl", "prepared", "perhaps a prepared file already, which needs no import"),
        ("pyskl", "zip of a pickle", "not one of numpy's: it holds a.pkl; unpack it with unzip"),
        ("ctrgcn", "zip of a pickle", "not one of numpy's: it holds a.pkl; unpack it with unzip"),
    ],
)
def test_who_mixes_the_kinds_up_is_told_which_one_it_is(tmp_path, kind, other, expected):
    path = tmp_path / "one"
    made = {
        "ctrgcn": lambda: ctrgcn(path.with_suffix(".npz")).rename(path),
        "pyskl": lambda: pyskl(path),
        "npy": lambda: original(path),
        "array": lambda: np.save(path.with_suffix(".npy"), np.ones(3)) or path.with_suffix(".npy").rename(path),
        "text": lambda: path.write_bytes(b"hello"),
        "nothing": path.touch,
        "page": lambda: path.write_bytes(b"<html>"),
        "lfs": lambda: path.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0123\nsize 12\n"),
        "annex": lambda: path.write_bytes(b"/annex/objects/SHA256E-s12--0123.npz\n"),
        "gz": lambda: path.write_bytes(gzip.compress(b"x")),
        "7z": lambda: path.write_bytes(b"7z\xbc\xaf\x27\x1c\0"),
        "prepared": lambda: synthesize("ntu60", path, clips=2),
        "zip of a pickle": lambda: zipfile.ZipFile(path, "w").writestr("a.pkl", b"x"),
    }
    made[other]()
    refused(kind, path, expected)


def test_only_a_file_with_lists_has_one_to_choose(tmp_path):
    with pytest.raises(DataError, match="ctrgcn has no lists of clips; only pyskl's files have some to choose from"):
        import_file("ctrgcn", ctrgcn(tmp_path / "NTU60_CS.npz"), tmp_path / "out", train_list="train")


@pytest.mark.parametrize(
    ("name", "split"), [("xsetup/train", "xset"), ("xview/val", "xview"), ("xsub/other", None), ("ntu120_xset_train", "xset")]
)
def test_the_split_is_in_the_name_of_the_folder_of_a_half(name, split):
    assert split_in(Path(f"{name}.pkl")) == split


def test_a_clip_that_is_there_twice_is_taken_once(tmp_path):
    twice = [*annotations(), {**annotations()[1], "frame_dir": f"again/{names()[1].lower()}.skeleton"}]
    report = import_file("pyskl", pyskl(tmp_path / "a.pkl", annotations=twice), tmp_path / "out")
    check(tmp_path / "out", [0, 1, 2, 3, 4, 5])
    assert report.left_out == [f"again/{names()[1].lower()}.skeleton: there already under the same name"]


@pytest.mark.parametrize("shift", [0, 1])
def test_labels_that_are_not_those_of_the_names_are_counted_and_told(tmp_path, shift):
    """Counted from 1, as NTU's actions are, they would train, and be off by one."""
    labels = [{**one, "label": one["label"] + shift} for one in annotations()]
    report = import_file("pyskl", pyskl(tmp_path / "a.pkl", annotations=labels), tmp_path / "out")
    assert report.other_labels == 6 * shift
    assert ("the clip's name tells: 6 of 6" in imported_text(report, tmp_path / "out")) == bool(shift)


def test_a_pipe_among_the_files_is_not_waited_for(tmp_path):
    folder = original(tmp_path / "data")
    (folder / "train_label.pkl").unlink()
    os.mkfifo(folder / "train_label.pkl")
    refused("npy", folder, "cannot be read: no plain file")
    os.mkfifo(tmp_path / "pipe")
    for kind in ("pyskl", "ctrgcn", "npy"):
        refused(kind, tmp_path / "pipe", ": a device, a pipe or the like; name a file or a folder")


def test_another_import_is_not_replaced_unasked(tmp_path):
    out = tmp_path / "out"
    import_file("ctrgcn", ctrgcn(tmp_path / "NTU60_CS.npz"), out)
    import_file("ctrgcn", tmp_path / "NTU60_CS.npz", out, overwrite=False)
    before = out.read_bytes()
    for name, more in (("other_CS.npz", {}), ("NTU60_CS.npz", {"split": "xview"})):
        with pytest.raises(DataError, match=r"imported from ctrgcn: NTU60_CS.npz.*--overwrite"):
            import_file("ctrgcn", ctrgcn(tmp_path / name), out, overwrite=False, **more)
        assert out.read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["NTU60_CS.npz", "other_CS.npz", "out"]
