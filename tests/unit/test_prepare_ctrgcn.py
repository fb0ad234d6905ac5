"""CTR-GCN's ``.npz``, and what is none."""

from __future__ import annotations

import numpy as np
import pytest

from last_e.data import read_clips
from last_e.data.splits import train_mask
from last_e.datafile import DataError
from last_e.prepare.foreign import import_file
from tests.foreign_files import LABELS, check, ctrgcn, padded, people, refused


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_ctrgcn(tmp_path, save):
    report = import_file("ctrgcn", ctrgcn(tmp_path / "NTU60_CS.npz", save), tmp_path / "out")
    check(tmp_path / "out", [0, 1, 2, 3, 4, 5])
    assert (report.clips, report.own_split, report.dataset) == (6, "xsub", "ntu60")
    assert (report.splits["xsub"]["train"], report.splits["xsub"]["test"]) == (4, 2)
    clips = read_clips(tmp_path / "out", 60)
    assert train_mask(clips, "ntu60", "xsub").tolist() == [True] * 4 + [False] * 2
    with pytest.raises(DataError, match="knows only xsub"):
        train_mask(clips, "ntu60", "xview")


@pytest.mark.parametrize(
    "labels",
    [
        lambda one_hot: one_hot.argmax(axis=1),
        lambda one_hot: one_hot.argmax(axis=1).astype(float),
        lambda one_hot: one_hot.argmax(axis=1)[:, None],
        lambda one_hot: one_hot.astype(bool),
        lambda one_hot: one_hot.astype(">i2"),
    ],
)
def test_labels_are_numbers_of_classes_or_one_hot(tmp_path, labels):
    one_hot = np.eye(60)[list(LABELS)]
    path = ctrgcn(tmp_path / "NTU60_CS.npz", y_train=labels(one_hot[:4]), y_test=labels(one_hot[4:]))
    import_file("ctrgcn", path, tmp_path / "out")
    check(tmp_path / "out", [0, 1, 2, 3, 4, 5])


@pytest.mark.parametrize("dtype", ["<f2", ">f4", "<f8", ">f8"])
def test_joints_of_every_width_and_byte_order_keep_their_places(tmp_path, dtype):
    rows = np.stack([padded(n).transpose(1, 0, 2, 3).reshape(64, 150) for n in range(6)]).astype(dtype)
    import_file("ctrgcn", ctrgcn(tmp_path / "NTU60_CS.npz", x_train=rows[:4], x_test=rows[4:]), tmp_path / "out")
    if dtype == "<f2":  # as far as it tells them
        found = read_clips(tmp_path / "out", 60).joints[:30].numpy() / 1000
        assert np.abs(found - people(0)[0]).max() < 0.003
    else:
        check(tmp_path / "out", [0, 1, 2, 3, 4, 5])


BAD_NPZ = {
    "no y_test": (lambda path: np.savez(path, x_train=np.zeros((1, 2, 150)), y_train=np.eye(60)[:1]), "no y_test"),
    "labels that are no whole numbers": (lambda path: ctrgcn(path, y_train=np.arange(4) / 3), "which is no number of a class"),
    "labels below zero": (lambda path: ctrgcn(path, y_train=np.array([0, -1, 2, 3])), "a label is negative"),
    "labels that are no numbers": (
        lambda path: ctrgcn(path, y_train=np.array([np.nan] * 4)),
        "nan, which is no number of a class",
    ),
    "labels of yes and no": (lambda path: ctrgcn(path, y_train=np.array([True] * 4)), "True, which is no number of a class"),
    "labels as texts": (lambda path: ctrgcn(path, y_train=np.array(list("abcd"))), "y_train is <U1"),
    "one label for all": (lambda path: ctrgcn(path, y_train=np.array(3)), "allowed: numbers in rows"),
    "texts for joints": (
        lambda path: ctrgcn(path, x_train=np.full((4, 9, 150), "a")),
        "x_train is <U1 (4, 9, 150), not numbers",
    ),
    "complex joints": (lambda path: ctrgcn(path, x_train=np.ones((4, 9, 150), complex)), "allowed: numbers in rows"),
    "by columns": (lambda path: ctrgcn(path, x_train=np.asfortranarray(np.ones((4, 9, 150)))), "np.ascontiguousarray"),
    "other arrays": (lambda path: np.savez(path, data=np.ones(3)), "found data"),
    "labels not one-hot": (lambda path: ctrgcn(path, y_train=np.ones((4, 60))), "not one-hot"),
    "one joint too few": (lambda path: ctrgcn(path, x_train=np.zeros((4, 9, 144))), "not numbers (clips, frames, 150)"),
    "one row too many": (lambda path: ctrgcn(path, x_train=np.ones((5, 9, 150))), "of y_train, which has 4"),
    "one row too few": (lambda path: ctrgcn(path, x_train=np.ones((3, 9, 150))), "of y_train, which has 4"),
    "objects": (lambda path: ctrgcn(path, x_train=np.array([None] * 4)), "allowed: numbers in rows"),
    "no zip": (lambda path: path.write_bytes(b"hello"), "not a whole .npz file"),
    "nothing": (lambda path: path.write_bytes(b""), "an empty file; copy or download it again"),
}


@pytest.mark.parametrize("bad", BAD_NPZ)
def test_a_wrong_npz_is_told_in_one_line(tmp_path, bad):
    make, expected = BAD_NPZ[bad]
    make(tmp_path / "NTU60_CS.npz")
    refused("ctrgcn", tmp_path / "NTU60_CS.npz", expected)


def test_a_damaged_npz_is_told_in_one_line(tmp_path):
    path = ctrgcn(tmp_path / "NTU60_CS.npz", np.savez_compressed)
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 0xFF
    path.write_bytes(content)
    refused("ctrgcn", path, "is damaged")


@pytest.mark.parametrize("entry", range(4))
@pytest.mark.parametrize(("at", "value", "expected"), [(8, 1, "encrypted"), (10, 99, "compression")])
def test_an_encrypted_entry_or_one_packed_in_an_unknown_way_is_told(tmp_path, entry, at, value, expected):
    path = ctrgcn(tmp_path / "NTU60_CS.npz")
    content, place = bytearray(path.read_bytes()), -1
    for _ in range(entry + 1):
        place = content.find(b"PK\x01\x02", place + 1)
    content[place + at] |= value
    path.write_bytes(content)
    refused("ctrgcn", path, expected)
