"""Folders of arrays as ST-GCN and its successors write them, memory maps and labels of every kind."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest

from last_e.data import read_clips
from last_e.data.splits import train_mask
from last_e.datafile import DataError
from last_e.prepare.foreign import import_file
from tests.foreign_files import LABELS, check, names, original, people, pyskl, refused


def test_the_original_projects_folder(tmp_path):
    report = import_file("npy", original(tmp_path / "data"), tmp_path / "out")
    check(tmp_path / "out", [0, 1, 5, 2, 3, 4])
    assert report.own_split is None
    assert train_mask(read_clips(tmp_path / "out", 60), "ntu60", "xsub").tolist() == [True] * 3 + [False] * 3


@pytest.mark.parametrize("labels", [lambda c: c[1], lambda c: np.array(c[1]), lambda c: tuple(c[1])])
def test_labels_without_names_need_the_name_of_the_split(tmp_path, labels):
    folder = original(tmp_path / "data", labels)
    with pytest.raises(DataError, match="--split"):
        import_file("npy", folder, tmp_path / "out")
    assert import_file("npy", folder, tmp_path / "out", split="xsub").own_split == "xsub"
    assert train_mask(read_clips(tmp_path / "out", 60), "ntu60", "xsub").tolist() == [True] * 3 + [False] * 3


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (lambda c: (c[0], c[1][:2]), "3 names, but 2 labels"),
        (lambda c: c[1][:2], "2 labels for 3 clips"),
        (lambda c: [-1, 2, 3], "a label is negative"),
        (lambda c: {"a": 1}, "neither (names, labels) nor a list of labels"),
        (lambda c: [0.5, 1.0, 2.0], "neither (names, labels) nor a list of labels"),
    ],
)
def test_wrong_labels_are_told_in_one_line(tmp_path, labels, expected):
    folder = original(tmp_path / "data", labels)
    with pytest.raises(DataError) as caught:
        import_file("npy", folder, tmp_path / "out", split="xsub")
    assert expected in str(caught.value)
    assert str(caught.value).startswith(str(folder))


def test_a_folder_without_its_arrays_or_with_others_is_told(tmp_path):
    folder = original(tmp_path / "data")
    np.save(folder / "val_joint.npy", np.zeros((3, 64, 25, 3)))
    with pytest.raises(DataError, match=r"allowed: \(clips, 3, frames, 25, people\)"):
        import_file("npy", folder, tmp_path / "out")
    (folder / "val_joint.npy").write_bytes(b"hello")
    with pytest.raises(DataError, match="damaged or no array"):
        import_file("npy", folder, tmp_path / "out")
    (folder / "val_joint.npy").unlink()
    with pytest.raises(DataError, match="no such file"):
        import_file("npy", folder, tmp_path / "out")
    with pytest.raises(DataError, match="no such file or folder"):
        import_file("npy", tmp_path / "none", tmp_path / "out")


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ([2**63, 0, 1], "100,000 or more"),
        (np.array([2**63] * 3, dtype=np.uint64), "100,000 or more"),
        ([2**70, 0, 1], "100,000 or more"),
        ([100_000, 0, 1], "100,000 or more"),
        ([[1], [2, 3], 1], "neither (names, labels) nor a list of labels"),
        ([True, False, True], "neither (names, labels) nor a list of labels"),
        (np.array(3), "neither (names, labels) nor a list of labels"),
        ((np.array("x"), [1, 2, 3]), "neither (names, labels) nor a list of labels"),
    ],
)
def test_odd_labels_are_told_in_one_line(tmp_path, labels, expected):
    folder = original(tmp_path / "data", lambda _: labels)
    with pytest.raises(DataError) as caught:
        import_file("npy", folder, tmp_path / "out", split="xsub")
    assert expected in str(caught.value)
    path = pyskl(tmp_path / "a.pkl", annotations=[{"frame_dir": "a", "label": 2**63, "keypoint": np.ones((1, 9, 25, 3))}])
    refused("pyskl", path, "annotation 0")


@pytest.mark.parametrize(
    ("joints", "test"), [("{}_joint", "val"), ("{}_data_joint", "val"), ("{}_data", "val"), ("{}_data_joint", "test")]
)
def test_the_folders_of_neighbouring_projects_have_their_own_names(tmp_path, joints, test):
    folder = original(tmp_path / "data")
    for part in ("train", "val"):
        to = test if part == "val" else part
        (folder / f"{part}_joint.npy").rename(folder / f"{joints.format(to)}.npy")
        (folder / f"{part}_label.pkl").rename(folder / f"{to}_label.pkl")
    assert (
        import_file("npy", folder, tmp_path / "out").clips == import_file("npy", original(tmp_path / "b"), tmp_path / "o").clips
    )


def written(folder: Path, stem: str, content: object) -> None:
    """Labels as an array, in the place of a pickle."""
    (folder / f"{stem}.pkl").unlink()
    np.save(folder / f"{stem}.npy", np.array(content))


@pytest.mark.parametrize("end", ["_label", "_labels"])
@pytest.mark.parametrize(
    "content",
    [
        lambda names, labels: labels,
        lambda names, labels: np.eye(60)[labels],
        lambda names, labels: np.array(labels, dtype=">i8"),
        lambda names, labels: (names, labels),  # numpy makes texts of both
    ],
)
def test_labels_may_be_an_array(tmp_path, content, end):
    folder = original(tmp_path / "data")
    for part, chosen in (("train", [0, 1, 5]), ("val", [2, 3, 4])):
        (folder / f"{part}_label.pkl").rename(folder / f"{part}{end}.pkl")
        written(folder, f"{part}{end}", content([names()[n] for n in chosen], [LABELS[n] for n in chosen]))
    import_file("npy", folder, tmp_path / "out", split="xsub")
    check(tmp_path / "out", [0, 1, 5, 2, 3, 4])
    assert train_mask(read_clips(tmp_path / "out", 60), "ntu60", "xsub").tolist() == [True] * 3 + [False] * 3


@pytest.mark.parametrize("protocol", range(6))
def test_labels_of_every_protocol_are_read(tmp_path, protocol):
    folder = original(tmp_path / "data")
    for path in folder.glob("*.pkl"):
        path.write_bytes(pickle.dumps(pickle.loads(path.read_bytes()), protocol))  # our own
    import_file("npy", folder, tmp_path / "out")
    check(tmp_path / "out", [0, 1, 5, 2, 3, 4])


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (["a", "b", "c"], "<U1 (3,): holds neither"),
        ([True, False, True], "True, which is no number of a class"),
        ([[1, 2], [3, 4], [5, 6]], "not one-hot"),
        ([-1, 2, 3], "a label is negative"),
        ([0.5, 1, 2], "0.5, which is no number of a class"),
        ([["a", "b", "c"], ["1", "2", "x"]], "holds neither"),
        ([1, 2], "2 labels for 3 clips"),
    ],
)
def test_an_array_that_holds_no_labels_is_told(tmp_path, content, expected):
    folder = original(tmp_path / "data")
    written(folder, "train_label", content)
    refused("npy", folder, expected)


@pytest.mark.parametrize(
    "change",
    [
        np.asfortranarray,
        lambda joints: joints.astype(">f8"),
        lambda joints: np.asfortranarray(joints.astype(">f4")),
        lambda joints: joints[..., :1],
        lambda joints: joints[..., 0],
    ],
)
def test_memory_maps_of_every_order_keep_their_places(tmp_path, change):
    """As ``open_memmap`` makes them, in which these projects write."""
    folder = original(tmp_path / "data")
    for path in folder.glob("*_joint.npy"):
        joints = change(np.load(path))
        order = not joints.flags.c_contiguous
        mapped = np.lib.format.open_memmap(path, "w+", joints.dtype, joints.shape, fortran_order=order)
        mapped[:] = joints
        mapped.flush()
    import_file("npy", folder, tmp_path / "out")
    clips = read_clips(tmp_path / "out", 60)
    if clips.bodies.max() == 2:
        check(tmp_path / "out", [0, 1, 5, 2, 3, 4])
    else:
        assert np.abs(clips.joints[:30].numpy() / 1000 - people(0)[0]).max() <= 0.00051


def test_float16_is_read_as_exactly_as_it_is(tmp_path):
    folder = original(tmp_path / "data")
    joints = np.load(folder / "train_joint.npy").astype(np.float16)
    np.save(folder / "train_joint.npy", joints)
    import_file("npy", folder, tmp_path / "out")
    found = read_clips(tmp_path / "out", 60).joints[:30].numpy()
    expected = np.rint(joints[0, :, :30, :, 0].transpose(1, 2, 0).astype(np.float64) * 1000)
    assert np.array_equal(found, expected)


def test_what_is_not_read_of_a_folder_is_told(tmp_path):
    folder = original(tmp_path / "data")
    for name in ("test_joint.npy", "train_data_joint.npy"):
        np.save(folder / name, np.ones((3, 3, 9, 25, 2)))
    report = import_file("npy", folder, tmp_path / "out")
    assert report.clips == 6
    assert report.left_out == [
        "test_joint.npy: not read, beside train_joint.npy and val_joint.npy",
        "train_data_joint.npy: not read, beside train_joint.npy and val_joint.npy",
    ]


def test_two_sets_in_a_folder_are_not_mixed(tmp_path):
    folder = original(tmp_path / "data")
    for part in ("train", "val"):
        np.save(folder / f"xview_{part}_joint.npy", np.ones((3, 3, 9, 25, 2)))
    refused("npy", folder, "holds several sets ('', 'xview_'): give each a folder of its own")
    for path in [*folder.glob("*n_*"), *folder.glob("*l_*")]:
        if not path.name.startswith("xview"):
            path.unlink()
    refused("npy", folder, "xview_train_label.pkl: no such file, nor xview_train_label.npy: labels belong to")


def test_a_folder_that_lacks_something_says_what_it_has(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "train_data_bone.npy").touch()
    refused(
        "npy", tmp_path / "data", "joints of train; the folder needs train_joint.npy, train_data_joint.npy or train_data.npy"
    )
    refused("npy", tmp_path / "data", "found train_data_bone.npy")


def test_labels_of_joints_and_bones_in_one_list_are_twice_too_many(tmp_path):
    """As where somebody ran the script for bones again and it appended to the labels."""
    refused("npy", original(tmp_path / "data", lambda c: (c[0] * 2, c[1] * 2)), "6 labels for 3 clips")
