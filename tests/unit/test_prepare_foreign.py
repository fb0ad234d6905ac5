"""Other projects' prepared files, made here as their code makes them, and pickles that mean harm."""

from __future__ import annotations

import io
import os
import pickle
import subprocess
import sys
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest

from last_e.data import read_clips
from last_e.data.splits import train_mask
from last_e.datafile import DataError
from last_e.prepare.clipfile import names_of, read_columns
from last_e.prepare.foreign import import_file
from last_e.prepare.pickles import read_pickle
from tests.ntu_files import Points, motion, name_of

PEOPLE = (1, 2, 3, 6, 7, 8)
"""Performers of the clips: 1 2 8 train in xsub."""
LABELS = (0, 5, 59, 3, 3, 12)


def people(number: int) -> list[Points]:
    """One or two people of a clip."""
    first = motion(number, 30 + number)
    return [first] if number % 2 else [first, motion(number + 50, 30 + number) + np.array([1.0, 0, 0])]


def names() -> list[str]:
    return [name_of(performer=person, camera=1 + n % 3, action=LABELS[n] + 1) for n, person in enumerate(PEOPLE)]


def padded(number: int, frames: int = 64) -> Points:
    """(2, frames, 25, 3): zeros where nobody is."""
    whole = np.zeros((2, frames, 25, 3), dtype=np.float32)
    for person, points in enumerate(people(number)):
        whole[person, : len(points)] = points
    return whole


def check(out: Path, order: list[int]) -> None:
    """The clips of a file are those of here, in this order."""
    clips = read_clips(out, 60)
    assert clips.label.tolist() == [LABELS[number] for number in order]
    for row, number in enumerate(order):
        expected = np.stack(people(number))
        assert (int(clips.bodies[row]), int(clips.length[row])) == expected.shape[:2]
        begin = int(clips.start[row])
        found = clips.joints[begin : begin + expected.shape[0] * expected.shape[1]].numpy().reshape(expected.shape)
        assert np.abs(found / 1000 - expected).max() <= 0.00051


# --- CTR-GCN -----------------------------------------------------------------------------------------------------------


def ctrgcn(path: Path, save=np.savez, **changes) -> Path:
    rows = np.stack([padded(n).transpose(1, 0, 2, 3).reshape(64, 150) for n in range(6)])
    one_hot = np.eye(60, dtype=np.float64)[list(LABELS)]
    parts = {"x_train": rows[:4], "y_train": one_hot[:4], "x_test": rows[4:], "y_test": one_hot[4:]}
    save(path, **{**parts, **changes})
    return path


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


BAD_NPZ = {
    "no y_test": (lambda path: np.savez(path, x_train=np.zeros((1, 2, 150)), y_train=np.eye(60)[:1]), "no y_test"),
    "labels as numbers": (lambda path: ctrgcn(path, y_train=np.arange(4)), "allowed are numbers in rows"),
    "labels not one-hot": (lambda path: ctrgcn(path, y_train=np.ones((4, 60))), "not one-hot"),
    "one joint too few": (lambda path: ctrgcn(path, x_train=np.zeros((4, 9, 144))), "not (clips, frames, 150)"),
    "one row too many": (lambda path: ctrgcn(path, x_train=np.ones((5, 9, 150))), "a row for each of y_train"),
    "one row too few": (lambda path: ctrgcn(path, x_train=np.ones((3, 9, 150))), "a row for each of y_train"),
    "objects": (lambda path: ctrgcn(path, x_train=np.array([None] * 4)), "allowed are numbers in rows"),
    "no zip": (lambda path: path.write_bytes(b"hello"), "not a whole .npz file"),
    "nothing": (lambda path: path.write_bytes(b""), "not a whole .npz file"),
}


@pytest.mark.parametrize("bad", BAD_NPZ)
def test_a_wrong_npz_is_told_in_one_line(tmp_path, bad):
    make, expected = BAD_NPZ[bad]
    make(tmp_path / "NTU60_CS.npz")
    refused("ctrgcn", tmp_path / "NTU60_CS.npz", expected)


def refused(kind: str, path: Path, expected: str) -> None:
    out = path.parent / "out"
    with pytest.raises(DataError) as caught:
        import_file(kind, path, out)
    assert expected in str(caught.value)
    assert str(caught.value).startswith(str(path.parent))
    assert len(str(caught.value).splitlines()) == 1
    assert not out.exists()
    assert not list(path.parent.glob(".out*")), "what was half-written is gone"


def test_a_damaged_npz_is_told_in_one_line(tmp_path):
    path = ctrgcn(tmp_path / "NTU60_CS.npz", np.savez_compressed)
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 0xFF
    path.write_bytes(content)
    refused("ctrgcn", path, "is damaged")


def test_an_array_that_claims_more_than_there_is_fills_no_memory(tmp_path):
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": (1, 10**12, 150)})
    with zipfile.ZipFile(tmp_path / "NTU60_CS.npz", "w") as archive:
        for part in ("train", "test"):
            archive.writestr(f"x_{part}.npy", header.getvalue())
            labels = io.BytesIO()
            np.save(labels, np.eye(60)[:1])
            archive.writestr(f"y_{part}.npy", labels.getvalue())
    refused("ctrgcn", tmp_path / "NTU60_CS.npz", "allowed are at most 1,000,000 clips of 16 MiB each")


@pytest.mark.slow
def test_memory_does_not_hang_on_the_number_of_clips(tmp_path):
    import tracemalloc

    def peak(clips: int) -> int:
        rows = np.repeat(padded(0).transpose(1, 0, 2, 3).reshape(1, 64, 150), clips, axis=0)
        path = ctrgcn(tmp_path / "NTU60_CS.npz", x_train=rows, y_train=np.eye(60)[[0] * clips])
        del rows
        tracemalloc.start()
        import_file("ctrgcn", path, tmp_path / "out")
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    assert peak(2000) < 1.3 * peak(600)


LIMITED = """
import resource, sys
from last_e.prepare.foreign import import_file
import numpy as np
np.ones(9) @ np.ones(9)  # whatever libraries take once, they have taken
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 400 * 2**20,) * 2)
report = import_file(sys.argv[1], sys.argv[2], sys.argv[3], split="xsub")
print(report.clips)
"""


def imported_in_400_mib(kind: str, path: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "error", "-c", LIMITED, kind, str(path), str(path.parent / "out")]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)


@pytest.mark.slow
def test_a_file_that_unpacks_to_a_thousand_times_its_size_takes_no_more_memory_than_others(tmp_path):
    """28 rows of 16 MiB in a file of less than one: real limits, in a process of its own, which has 400 MiB."""
    rows, frames = 28, 2**24 // 600
    path = tmp_path / "NTU60_CS.npz"
    with zipfile.ZipFile(ctrgcn(path), "a", zipfile.ZIP_DEFLATED, compresslevel=1) as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with archive.open("x_train.npy", "w") as file:
            describe = {"descr": "<f4", "fortran_order": False, "shape": (rows, frames, 150)}
            np.lib.format.write_array_header_1_0(file, describe)
            for _ in range(rows):
                file.write(np.ones((frames, 150), dtype="<f4").tobytes())
        with archive.open("y_train.npy", "w") as file:
            np.save(file, np.eye(60)[[0] * rows])
    assert path.stat().st_size < 2**23
    done = imported_in_400_mib("ctrgcn", path)
    assert done.stdout == f"{rows + 2}\n", done.stderr[-2000:]


def test_a_sparse_file_that_claims_gigabytes_for_a_clip_is_refused(tmp_path):
    folder = original(tmp_path / "data")
    with (folder / "train_joint.npy").open("wb") as file:
        describe = {"descr": "<f4", "fortran_order": False, "shape": (3, 3, 2**22, 25, 2)}
        np.lib.format.write_array_header_1_0(file, describe)
        file.truncate(3 * 3 * 2**22 * 50 * 4 + 1000)
    with pytest.raises(DataError, match=r"allowed are at most 1,000,000 clips of 16 MiB each"):
        import_file("npy", folder, tmp_path / "out")


# --- pyskl -------------------------------------------------------------------------------------------------------------


def pyskl(path: Path, known: bool = True, **changes) -> Path:
    annotations = [
        {
            "frame_dir": name if known else f"clip{number}",
            "label": LABELS[number],
            "keypoint": np.stack(people(number)).astype(np.float32),
            "total_frames": 30 + number,
        }
        for number, name in enumerate(names())
    ]
    ids = [one["frame_dir"] for one in annotations]
    split = {"xsub_train": [ids[0], ids[1], ids[5]], "xsub_val": ids[2:5], "xview_train": ids[:2], "xview_val": ids[2:]}
    path.write_bytes(pickle.dumps({"split": split, "annotations": annotations, **changes}))
    return path


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


BAD_PYSKL = {
    "no annotations": ({"annotations": 3}, "no list of annotations"),
    "2-D keypoints": (
        {"annotations": [{"frame_dir": "a", "label": 1, "keypoint": np.zeros((1, 9, 17, 2))}]},
        "annotation 0: needs frame_dir (or filename), label and a keypoint array (people, frames, 25, 3)",
    ),
    "a label that is a word": (
        {"annotations": [{"frame_dir": "a", "label": "x", "keypoint": np.zeros((1, 9, 25, 3))}]},
        "annotation 0",
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


# --- the original project ------------------------------------------------------------------------------------------------


def original(folder: Path, labels=None) -> Path:
    folder.mkdir()
    for part, chosen in (("train", [0, 1, 5]), ("val", [2, 3, 4])):
        joints = np.stack([padded(number).transpose(3, 1, 2, 0) for number in chosen])
        assert joints.shape == (3, 3, 64, 25, 2)
        np.save(folder / f"{part}_joint.npy", joints)
        np.save(folder / f"{part}_velocity.npy", np.zeros(1))
        content = ([f"{names()[number]}.skeleton" for number in chosen], [LABELS[number] for number in chosen])
        (folder / f"{part}_label.pkl").write_bytes(pickle.dumps(labels(content) if labels else content))
    return folder


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
    with pytest.raises(DataError, match=r"allowed is \(clips, 3, frames, 25, people\)"):
        import_file("npy", folder, tmp_path / "out")
    (folder / "val_joint.npy").write_bytes(b"hello")
    with pytest.raises(DataError, match="damaged or no array"):
        import_file("npy", folder, tmp_path / "out")
    (folder / "val_joint.npy").unlink()
    with pytest.raises(DataError, match="no such file"):
        import_file("npy", folder, tmp_path / "out")
    with pytest.raises(DataError, match="no such file or folder"):
        import_file("npy", tmp_path / "none", tmp_path / "out")


# --- pickles -------------------------------------------------------------------------------------------------------------


class Harm:
    def __init__(self, *what: object) -> None:
        self.what = what

    def __reduce__(self):
        return self.what


@pytest.mark.parametrize("protocol", range(6))
def test_containers_and_arrays_of_every_protocol_are_read(tmp_path, protocol):
    value = {
        "a": [1, 2.5, None, True, "text \u00e9", b"bytes\xff", (1, (2,))],
        "arrays": [
            np.arange(6, dtype=np.int16).reshape(2, 3),
            np.asfortranarray(np.eye(3, dtype=np.float32)),
            np.array(["ab"]),
        ],
        "numbers": [np.int64(7), np.float32(0.5), np.bool_(True)],
    }
    path = tmp_path / "a.pkl"
    path.write_bytes(pickle.dumps(value, protocol))
    again = read_pickle(path)
    assert again["a"] == value["a"]
    for a, b in zip(again["arrays"], value["arrays"]):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)
    assert again["numbers"] == value["numbers"]


def test_nothing_in_a_pickle_is_run(tmp_path):
    import os
    import subprocess

    trace, path = tmp_path / "ran", tmp_path / "a.pkl"
    for harm in (
        Harm(Path.touch, (trace,)),
        Harm(os.system, (f"touch {trace}",)),
        Harm(subprocess.check_call, (["touch", str(trace)],)),
        Harm(eval, (f"open({str(trace)!r}, 'w')",)),
        Harm(getattr, ("", "join")),
        Harm(np.load, (str(trace),)),
    ):
        for value in (harm, [harm], {"annotations": [harm]}, np.array([harm], dtype=object)):
            path.write_bytes(pickle.dumps(value))
            with pytest.raises(DataError) as caught:
                read_pickle(path)
            assert "which could run code" in str(caught.value) or "allowed are arrays" in str(caught.value)
            assert len(str(caught.value).splitlines()) == 1
    assert not trace.exists()


def test_arrays_of_objects_are_refused(tmp_path):
    path = tmp_path / "a.pkl"
    path.write_bytes(pickle.dumps(np.array([1, "a"], dtype=object)))
    with pytest.raises(DataError, match="allowed are arrays of numbers and texts"):
        read_pickle(path)


def test_a_pickle_cannot_ask_for_more_memory_than_it_has_bytes(tmp_path):
    import tracemalloc

    _reconstruct = np.empty(0).__reduce__()[0]  # its module has moved between versions

    path = tmp_path / "a.pkl"
    tracemalloc.start()
    for content in (
        b"\x80\x04B\xff\xff\xff\x7f",  # bytes, 2 GB
        b"\x80\x04\x8e" + (2**40).to_bytes(8, "little"),  # bytes, 1 TB
        b"\x80\x04\x95" + (2**40).to_bytes(8, "little"),  # a frame of 1 TB
        b"\x80\x04]r\xff\xff\xff\x7f.",  # place 2**31 - 1 of the memo
        pickle.dumps(Harm(_reconstruct, (np.ndarray, (10**9,), b"b"))),
    ):
        path.write_bytes(content)
        try:
            read_pickle(path)
        except DataError as error:
            assert len(str(error).splitlines()) == 1  # noqa: PT017
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**22


def test_a_damaged_pickle_is_told_in_one_line(tmp_path):
    content = pyskl(tmp_path / "a.pkl").read_bytes()
    path = tmp_path / "b.pkl"
    for size in (0, 1, 100, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:size])
        with pytest.raises(DataError) as caught:
            read_pickle(path)
        assert len(str(caught.value).splitlines()) == 1
    for at in range(0, 1200, 13):
        changed = bytearray(content)
        changed[at] ^= 0x55
        path.write_bytes(changed)
        try:
            read_pickle(path)
        except DataError as error:
            assert len(str(error).splitlines()) == 1  # noqa: PT017


def forged(function, arguments, state=None):
    """What numpy would never write, with the names that numpy writes."""

    class Forged:
        def __reduce__(self):
            return (function, arguments) if state is None else (function, arguments, state)

    return Forged()


def shared(levels):
    value = []
    for _ in range(levels):
        value = [value, value]
    return value


RECONSTRUCT = np.zeros(1).__reduce__()[0]
NESTED_KEY = b"\x80\x04}(K\x01" + b"\x85" * 200_000 + b"K\x01u."
DOUBLING_KEY = b"\x80\x04}(K\x01\x85" + b"2\x86" * 40 + b"K\x01u."


@pytest.mark.parametrize(
    "content",
    [
        pickle.dumps(forged(np.ndarray, ((1,), "O", b"AAAAAAAA"))),
        pickle.dumps(forged(np.ndarray, ((200, 25, 3),))),
        pickle.dumps(forged(np.ndarray, ((10**7,), "i8", b"\0" * 8, 0, (0,)))),
        pickle.dumps(forged(np.dtype, ("S8",), (3, "|", None, None, None, 2**20, 1, 0))) + b"",
        pickle.dumps(forged(RECONSTRUCT, (np.ndarray, (0,), b"b"), (1, (4,), np.dtype("f8"), False, b"short"))),
        pickle.dumps(forged(RECONSTRUCT, (np.ndarray, (0,), b"b"), (1, (-1, -8), np.dtype("f8"), False, b"\0" * 64))),
        pickle.dumps(forged(RECONSTRUCT, (np.ndarray, (0,), b"b"), (1, (1,), np.dtype("O"), False, [1]))),
        NESTED_KEY,
        DOUBLING_KEY,
        b"\x80\x05\x96" + (2**37).to_bytes(8, "little") + b"x.",
        pickle.dumps(np.ndarray),
    ],
)
def test_what_is_admitted_cannot_be_turned_against_us(tmp_path, content):
    path = tmp_path / "harm.pkl"
    path.write_bytes(content)
    try:
        value = read_pickle(path)
    except DataError:
        return
    assert isinstance(value, np.dtype)  # of what was asked for, not of the size that was forged
    assert value == np.dtype("S8")


def test_what_is_written_once_is_made_once(tmp_path):
    path = tmp_path / "shared.pkl"
    path.write_bytes(pickle.dumps(shared(40)))
    value = read_pickle(path)
    assert value[0] is value[1]


def test_arrays_of_the_other_byte_order_keep_their_numbers(tmp_path):
    path = tmp_path / "big.pkl"
    for dtype in (">f8", ">i4", ">U3"):
        array = np.arange(3).astype(dtype)
        path.write_bytes(pickle.dumps({"a": array, "one": array[1]}))
        again = read_pickle(path)
        assert again["a"].tolist() == array.tolist()
        assert again["one"] == array[1]


def test_an_array_that_forges_its_shape_is_told_and_mistakes_keep_their_own_words(tmp_path):
    path = ctrgcn(tmp_path / "NTU60_CS.npz", y_train=np.zeros((4, 60)))
    with pytest.raises(DataError) as caught:
        import_file("ctrgcn", path, tmp_path / "out")
    assert "one-hot" in str(caught.value)
    assert "not a whole .npz file" not in str(caught.value)
    header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (1, -1), }"
    for content in (header, header[:30], header.replace(b"(1, -1)", b"(1, 10**30)")):
        with zipfile.ZipFile(ctrgcn(path), "a") as archive, pytest.warns(UserWarning, match="Duplicate name"):
            archive.writestr("y_train.npy", b"\x93NUMPY\x01\x00" + len(content).to_bytes(2, "little") + content + bytes(10**6))
        with pytest.raises(DataError, match="y_train"):
            import_file("ctrgcn", path, tmp_path / "out")


# --- odd headers and labels ----------------------------------------------------------------------------------------------

HEADERS = {
    "no expression": "{{{",
    "a list": "[1]",
    "nested deep": "(" * 3000,
    "no shape": "{'descr': '<f4', 'fortran_order': False}",
    "a negative shape": "{'descr': '<f4', 'fortran_order': False, 'shape': (-1, 3, 9, 25, 2)}",
    "a shape beyond 64 bits": f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({10**30}, 3, 9, 25, 2)}}",
    "a shape that wraps around": f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({2**62}, 3, 9, 25, 2)}}",
    "a shape of 5000 digits": f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({'9' * 5000}, 3, 9, 25, 2)}}",
    "no frames": "{'descr': '<f4', 'fortran_order': False, 'shape': (3, 3, 0, 25, 2)}",
    "no clips": "{'descr': '<f4', 'fortran_order': False, 'shape': (0, 3, 9, 25, 2)}",
    "a single value": "{'descr': '<f4', 'fortran_order': False, 'shape': ()}",
    "a comma for a type": "{'descr': ',', 'fortran_order': False, 'shape': (3, 3, 9, 25, 2)}",
    "dates": "{'descr': 'M8[ns]', 'fortran_order': False, 'shape': (3, 3, 9, 25, 2)}",
    "a record": "{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (3, 3, 9, 25, 2)}",
    "keys of several kinds": "{1: 2, 'a': 3}",
    "more than there is": "{'descr': '<f4', 'fortran_order': False, 'shape': (3, 3, 900, 25, 2)}",
}


@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0), (9, 9)])
@pytest.mark.parametrize("odd", HEADERS)
def test_an_odd_header_is_told_in_one_line(tmp_path, odd, version):
    header = HEADERS[odd].encode()
    array = b"\x93NUMPY" + bytes(version) + len(header).to_bytes(2 if version == (1, 0) else 4, "little") + header + bytes(9000)
    folder = original(tmp_path / "data")
    (folder / "train_joint.npy").write_bytes(array)
    with pytest.raises(DataError) as caught:
        import_file("npy", folder, tmp_path / "out", split="xsub")
    assert len(str(caught.value).splitlines()) == 1
    assert str(caught.value).startswith(f"{folder}/train_joint.npy")
    for name in ("x_train", "y_test"):
        path = ctrgcn(tmp_path / "NTU60_CS.npz")
        with warnings.catch_warnings(), zipfile.ZipFile(path, "a") as archive:
            warnings.simplefilter("ignore")
            archive.writestr(f"{name}.npy", array)
        refused("ctrgcn", path, f"{path}: ")


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


# --- what would never end, or takes memory without end -----------------------------------------------------------------


@pytest.mark.parametrize("version", [b"\x02\x00", b"\x03\x00"])
def test_a_header_that_claims_gigabytes_is_not_read(tmp_path, version):
    header = b"\x93NUMPY" + version + (2**31).to_bytes(4, "little") + b" " * 10_000
    path = tmp_path / "NTU60_CS.npz"
    with zipfile.ZipFile(ctrgcn(path), "a", zipfile.ZIP_DEFLATED) as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        archive.writestr("y_train.npy", header)
    with pytest.raises(DataError, match="its header has 2,147,483,648 bytes"):
        import_file("ctrgcn", path, tmp_path / "out")


def test_lists_that_share_their_lists_are_no_names(tmp_path):
    """Their text would have 2 to the power of 60 brackets."""
    clips = [{"frame_dir": name, "label": 1, "keypoint": np.ones((1, 9, 25, 3))} for name in "ab"]
    path = pyskl(tmp_path / "a.pkl", known=False, annotations=clips, split={"xsub_train": ["a", shared(45)]})
    refused("pyskl", path, "neither names like NTU's nor a list of the clips that train")
    folder = original(tmp_path / "data")
    (folder / "train_label.pkl").write_bytes(pickle.dumps(([shared(45)] * 3, [0, 1, 2])))
    refused("npy", folder, "its names are no texts")


def test_an_empty_array_of_endless_shape_is_refused(tmp_path):
    endless = forged(RECONSTRUCT, (np.ndarray, (0,), b"b"), (1, (10**12, 0, 25, 3), np.dtype("f8"), False, b""))
    clips = [{"frame_dir": names()[0], "label": 1, "keypoint": endless}]
    refused("pyskl", pyskl(tmp_path / "a.pkl", annotations=clips), "an empty array of a shape that no recordings have")


# --- as the field writes them ------------------------------------------------------------------------------------------


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
        ({"xsub_train": [[1]]}, None, "xsub_train holds no names or numbers"),
        ({"train": ["clip0"]}, None, "say which split that is with --split"),
    ],
)
def test_who_trains_that_cannot_be_told_says_what_is_there(tmp_path, split, own, expected):
    with pytest.raises(DataError) as caught:
        import_file("pyskl", pyskl(tmp_path / "a.pkl", annotations=unknown(), split=split), tmp_path / "out", split=own)
    assert expected in str(caught.value)


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


def test_what_was_found_instead_is_said(tmp_path):
    (tmp_path / "a.pkl").write_bytes(pickle.dumps({"data": np.ones((3, 4)), "labels": [1]}))
    refused("pyskl", tmp_path / "a.pkl", "no list of annotations in it; found data float64 (3, 4), labels")
