"""pyskl's and mmaction2's pickles, newer and older, and who trains by their lists."""

from __future__ import annotations

import pickle
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest

from last_e.data import read_clips
from last_e.data.splits import train_mask
from last_e.datafile import DataError
from last_e.prepare.clipfile import names_of, read_columns
from last_e.prepare.foreign import import_file
from tests.foreign_files import LABELS, PEOPLE, check, names, padded, pyskl, refused


def test_pyskl(tmp_path):
    report = import_file("pyskl", pyskl(tmp_path / "ntu60_3danno.pkl"), tmp_path / "out")
    check(tmp_path / "out", [0, 1, 2, 3, 4, 5])
    columns, _ = read_columns(tmp_path / "out")
    assert names_of(columns) == names()
    assert columns["performer"].tolist() == list(PEOPLE)
    assert report.own_split is None
    clips = read_clips(tmp_path / "out", 60)
    assert train_mask(clips, "ntu60", "xsub").tolist() == [True, True, False, False, False, True]
    assert train_mask(clips, "ntu60", "xview").tolist() == [False, True, True] * 2


@pytest.mark.parametrize("train", [["a.skel", "b.skel"], ["a", "b", "c"]])
def test_a_pyskl_split_that_leaves_nobody_to_train_or_to_test_is_refused(tmp_path, train):
    clips = [{"frame_dir": name, "label": 0, "keypoint": np.ones((1, 9, 25, 3))} for name in "abc"]
    path = pyskl(tmp_path / "a.pkl", annotations=clips, split={"xsub_train": train, "xsub_val": []})
    refused("pyskl", path, "some have to train, and some to test")


def test_pyskl_whose_names_are_not_ntus_keeps_its_split(tmp_path):
    path = pyskl(tmp_path / "own.pkl", known=False)
    assert import_file("pyskl", path, tmp_path / "out").own_split == "xsub"
    assert train_mask(read_clips(tmp_path / "out", 60), "ntu60", "xsub").tolist() == [True, True, False, False, False, True]
    assert import_file("pyskl", path, tmp_path / "out", split="xview").own_split == "xview"
    assert train_mask(read_clips(tmp_path / "out", 60), "ntu60", "xview").tolist() == [True, True] + [False] * 4


def test_lists_of_a_split_that_are_not_each_others_rest_are_told(tmp_path):
    """Else the clips that test are not those that the file names, and nobody hears of it."""
    called = [f"clip{number}" for number in range(6)]

    def told(**split) -> list[str]:
        path = pyskl(tmp_path / "own.pkl", known=False, split=split)
        (tmp_path / "out").unlink(missing_ok=True)
        return import_file("pyskl", path, tmp_path / "out", split="xsub").left_out

    assert told(xsub_train=called[:4], xsub_val=called[4:]) == []
    assert told(xsub_train=called[:4], xsub_val=called[4:5], xsub_test=called[5:]) == []
    assert told(xsub_train=called[:4]) == []
    (both,) = told(xsub_train=called[:4], xsub_val=called[3:])
    assert both.startswith("xsub_train: 1 of the clips to test with train as well, and do not test")
    (neither,) = told(xsub_train=[0, 1, 2], xsub_val=[3, 4])
    assert neither.startswith("xsub_train: 1 clip is in none of the file's own lists, and tests")


BAD_PYSKL = {
    "frames before people": (
        {"annotations": [{"frame_dir": "a", "label": 1, "keypoint": np.zeros((30, 2, 25, 3))}]},
        "keypoint (floats, (people, frames, 25, 3)); found frame_dir (str), label (int), keypoint (float64 (30, 2, 25, 3))",
    ),
    "millimetres": (
        {"annotations": [{"frame_dir": n, "label": 1, "keypoint": np.full((1, 9, 25, 3), 2000.0)} for n in names()]},
        "of 6 clips none can be used; S001C001P001R001A001: no sighting has usable coordinates; allowed: numbers, in metres",
    ),
    "no annotations": ({"annotations": 3}, "no list of annotations"),
    "2-D keypoints": (
        {"annotations": [{"frame_dir": "a", "label": 1, "keypoint": np.zeros((1, 9, 17, 2))}]},
        "annotation 0: needs frame_dir (or filename), label (a whole number) and keypoint (floats, (people, frames, 25, 3)); "
        "found frame_dir (str), label (int), keypoint (float64 (1, 9, 17, 2))",
    ),
    "a label that is a word": (
        {"annotations": [{"frame_dir": "a", "label": "x", "keypoint": np.zeros((1, 9, 25, 3))}]},
        "annotation 0",
    ),
    "a name in bytes": (
        {"annotations": [{"frame_dir": b"a", "label": 1, "keypoint": np.zeros((1, 9, 25, 3))}]},
        "found frame_dir (bytes), label (int)",
    ),
    "whole millimetres": (
        {"annotations": [{"frame_dir": "a", "label": 1, "keypoint": np.zeros((1, 9, 25, 3), int)}]},
        "keypoint (int64 (1, 9, 25, 3))",
    ),
    "a negative label": (
        {"annotations": [{"frame_dir": "a", "label": -1, "keypoint": np.zeros((1, 9, 25, 3))}]},
        "annotation 0",
    ),
    "no names and no split": (
        {"split": None, "annotations": [{"frame_dir": "a", "label": 1, "keypoint": np.zeros((1, 9, 25, 3))}]},
        "neither names like NTU's nor a list of the clips that train",
    ),
}


@pytest.mark.parametrize("bad", BAD_PYSKL)
def test_a_wrong_pyskl_file_is_told_in_one_line(tmp_path, bad):
    changes, expected = BAD_PYSKL[bad]
    refused("pyskl", pyskl(tmp_path / "a.pkl", **changes), expected)


def unknown(**changes) -> list[dict]:
    clips = [{"frame_dir": f"clip{number}", "label": number, "keypoint": np.ones((1, 9, 25, 3))} for number in range(4)]
    return [{**one, **changes} for one in clips]


def renamed(names, key="frame_dir"):
    return [{key: name, **{k: v for k, v in one.items() if k != "frame_dir"}} for name, one in zip(names, unknown())]


@pytest.mark.parametrize(
    ("annotations", "split", "own"),
    [
        (unknown(), {"xsub_train": ["clip0", "clip2"], "xsub_val": ["clip1", "clip3"]}, None),
        (unknown(), {"xsub_train": [0, 2], "xsub_val": [1, 3]}, None),
        (unknown(), {"xsub_train": np.array([0, 2])}, None),
        (unknown(), OrderedDict(xsub_train={"clip0", "clip2"}), None),
        (tuple(unknown()), {"xsub_train": ["clip0", "clip2"]}, None),
        (OrderedDict((f"clip{n}", one) for n, one in enumerate(unknown())), {"xsub_train": [0, 2]}, None),
        ({f"clip{n}": {"label": n, "keypoint": np.ones((1, 9, 25, 3))} for n in range(4)}, {"xsub_train": [0, 2]}, None),
        (unknown(), {"train": ["clip0", "clip2"], "val": ["clip1", "clip3"]}, "xsub"),
        (unknown(), {"my_train": ("clip0", "clip2"), "my_val": ()}, "xsub"),
        (unknown(), {"xview_train": ["clip1"], "xsub_train": ["clip0", "clip2"]}, "xsub"),
        (unknown(), {"xsub_train": ["data/clip0.avi", "data/clip2.skeleton"]}, None),
        (renamed([f"some/where/clip{n}_rgb.avi" for n in range(4)]), {"xsub_train": ["clip0", "clip2"]}, None),
        (renamed([f"clip{n}" for n in range(4)], "filename"), {"xsub_train": ["clip0", "clip2"]}, None),
    ],
)
def test_who_trains_is_read_from_every_kind_of_list(tmp_path, annotations, split, own):
    path = pyskl(tmp_path / "a.pkl", annotations=annotations, split=split)
    report = import_file("pyskl", path, tmp_path / "out", split=own)
    assert report.own_split == "xsub"
    columns, _ = read_columns(tmp_path / "out")
    assert columns["label"][columns["train.xsub"]].tolist() == [0, 2]


def test_a_plain_list_of_annotations_with_names_of_ntu_needs_no_split(tmp_path):
    content = pickle.loads(pyskl(tmp_path / "whole.pkl").read_bytes())  # our own
    (tmp_path / "list.pkl").write_bytes(pickle.dumps(content["annotations"]))
    assert import_file("pyskl", tmp_path / "list.pkl", tmp_path / "out").clips == 6


@pytest.mark.parametrize(
    ("split", "own", "expected"),
    [
        ({"a_train": ["clip0"], "b_train": ["clip1"]}, "xsub", "its lists are a_train, b_train"),
        (
            {"xsub_train": ["elsewhere"]},
            None,
            "some have to train, and some to test; it has 'clip0', and xsub_train 'elsewhere'",
        ),
        ({"xsub_train": list(range(4))}, None, "4 are among its 4 clips"),
        ({"xsub_train": [[1]]}, None, "xsub_train holds no names or numbers; found list of 1 (list)"),
        ({"xsub_train": "clip0"}, None, "xsub_train holds no names or numbers; found str"),
        ({"xsub_train": []}, None, "xsub_train nothing"),
        ({"xsub_train": ["clip0", 10**5000]}, None, "xsub_train holds no names or numbers"),
        ({"a\nb": []}, None, "its lists are a\\nb; say which one it is with --train-list"),
        ({"train": ["clip0"]}, None, "say which split that is with --split"),
    ],
)
def test_who_trains_that_cannot_be_told_says_what_is_there(tmp_path, split, own, expected):
    with pytest.raises(DataError) as caught:
        import_file("pyskl", pyskl(tmp_path / "a.pkl", annotations=unknown(), split=split), tmp_path / "out", split=own)
    assert expected in str(caught.value)


def test_what_was_found_instead_is_said(tmp_path):
    (tmp_path / "a.pkl").write_bytes(pickle.dumps({"data": np.ones((3, 4)), "labels": [1]}))
    refused("pyskl", tmp_path / "a.pkl", "no list of annotations in it; found data (float64 (3, 4)), labels (list)")


@pytest.mark.parametrize(
    ("lists", "chosen"),
    [
        ({"a_train": ["clip0", "clip2"], "b_train": ["clip1"]}, "a_train"),
        ({"training": ["clip0", "clip2"], "testing": ["clip1", "clip3"]}, "training"),
        ({"xsub_train": ["clip1"], "fold 3": [0, 2]}, "fold 3"),
    ],
)
def test_a_list_of_any_name_can_be_chosen(tmp_path, lists, chosen):
    path = pyskl(tmp_path / "a.pkl", annotations=unknown(), split=lists)
    with pytest.raises(DataError, match="no list 'c_train'; its lists are "):
        import_file("pyskl", path, tmp_path / "out", split="xsub", train_list="c_train")
    with pytest.raises(DataError, match="say which split that is with --split"):
        import_file("pyskl", path, tmp_path / "out", train_list=chosen)
    assert import_file("pyskl", path, tmp_path / "out", split="xsub", train_list=chosen).own_split == "xsub"
    columns, _ = read_columns(tmp_path / "out")
    assert columns["label"][columns["train.xsub"]].tolist() == [0, 2]


def test_a_list_that_is_chosen_counts_before_the_names(tmp_path):
    lists = {"tiny": [names()[0]]}
    path = pyskl(tmp_path / "a.pkl", split=lists)
    assert import_file("pyskl", path, tmp_path / "out").own_split is None
    assert import_file("pyskl", path, tmp_path / "out", split="xsub", train_list="tiny").own_split == "xsub"
    assert train_mask(read_clips(tmp_path / "out", 60), "ntu60", "xsub").tolist() == [True] + [False] * 5


# --- mmaction2's older lists -------------------------------------------------------------------------------------------


def older(number: int, name: str, frames: int = 64) -> dict:
    """An annotation as the older script writes it: channels first, and a clip that goes on from its beginning."""
    clip = padded(number, 30 + number)
    repeated = clip[:, np.arange(frames) % clip.shape[1]]
    return {
        "keypoint": repeated.transpose(3, 1, 2, 0),
        "keypoint_score": np.ones((3, frames, 25), dtype=np.float32),
        "frame_dir": name,
        "img_shape": (1080, 1920),
        "total_frames": clip.shape[1],
        "label": LABELS[number],
    }


def halves(folder: Path, pattern: str = "{}.pkl", known: bool = True, test: str = "val") -> Path:
    folder.mkdir()
    for part, numbers in (("train", [0, 1, 5]), (test, [2, 3, 4])):
        listed = [older(number, names()[number] if known else f"clip{number}") for number in numbers]
        (folder / pattern.format(part)).write_bytes(pickle.dumps(listed))
    return folder


@pytest.mark.parametrize(
    ("pattern", "named", "test"),
    [
        ("{}.pkl", "train", "val"),
        ("{}.pkl", "val", "val"),
        ("ntu60_xsub_{}.pkl", "train", "val"),
        ("{}.pickle", "test", "test"),
    ],
)
@pytest.mark.parametrize("known", [True, False])
def test_older_lists_of_those_that_train_and_those_to_test_with_are_read_together(tmp_path, pattern, named, test, known):
    folder = halves(tmp_path / "xsub", pattern, known, test)
    report = import_file("pyskl", folder / pattern.format(named), tmp_path / "out")
    assert report.own_split == (None if known else "xsub")
    check(tmp_path / "out", [0, 1, 5, 2, 3, 4])
    assert train_mask(read_clips(tmp_path / "out", 60), "ntu60", "xsub").tolist() == [True] * 3 + [False] * 3


def test_half_of_the_clips_is_no_set(tmp_path):
    folder = halves(tmp_path / "xsetup")
    with pytest.raises(DataError, match="which the result would replace"):
        import_file("pyskl", folder / "train.pkl", folder / "val.pkl")
    (folder / "val.pkl").rename(folder / "other.pkl")
    with pytest.raises(DataError, match=r"half of the clips, and no val\.pkl or test\.pkl beside it; put it there, or rename"):
        import_file("pyskl", folder / "train.pkl", tmp_path / "out")
    (folder / "train.pkl").rename(folder / "all.pkl")
    assert import_file("pyskl", folder / "all.pkl", tmp_path / "out").clips == 3


def test_what_fills_a_clip_up_is_cut(tmp_path):
    """Else the older lists' clips begin anew behind their end, up to 300 frames."""
    clips = [{**older(n, name), "keypoint": np.ascontiguousarray(older(n, name)["keypoint"].transpose(3, 1, 2, 0))}
             for n, name in enumerate(names())]  # fmt: skip
    assert clips[0]["keypoint"].shape == (2, 64, 25, 3)
    import_file("pyskl", pyskl(tmp_path / "a.pkl", annotations=clips), tmp_path / "out")
    check(tmp_path / "out", [0, 1, 2, 3, 4, 5])


@pytest.mark.parametrize("frames", [0, -3, 500, 10**400, "9", None, True])
def test_a_number_of_frames_that_cannot_be_cuts_nothing(tmp_path, frames):
    clips = [{"frame_dir": name, "label": 1, "keypoint": np.ones((1, 9, 25, 3)), "total_frames": frames} for name in names()]
    assert import_file("pyskl", pyskl(tmp_path / "a.pkl", annotations=clips), tmp_path / "out").frames == 54


def test_names_in_a_list_that_no_clip_has_are_counted(tmp_path):
    lists = {"xsub_train": ["clip0", "clip0", "elsewhere", "nowhere"]}
    report = import_file("pyskl", pyskl(tmp_path / "a.pkl", annotations=unknown(), split=lists), tmp_path / "out")
    assert report.left_out == ["xsub_train: 2 of its 3 names are none of a clip here"]
    lists = {"xsub_train": [0, 2, 99]}
    report = import_file("pyskl", pyskl(tmp_path / "a.pkl", annotations=unknown(), split=lists), tmp_path / "out")
    assert report.left_out == ["xsub_train: 1 of its 3 names are none of a clip here"]
