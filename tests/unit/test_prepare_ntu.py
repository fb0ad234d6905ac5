"""From a tree or a zip file of recordings to a file that can be trained, restarts and damage included."""

from __future__ import annotations

import bz2
import errno
import gzip
import json
import lzma
import os
import shutil
import signal
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from filelock import FileLock
from hypothesis import given, settings
from hypothesis import strategies as st

from last_e import whole
from last_e.data import Clips, read_clips
from last_e.data.splits import train_mask
from last_e.datafile import DataError
from last_e.prepare import archives, ntu
from last_e.prepare.clipfile import CONTENT_HASH, content_hash, names_of, read_columns
from last_e.prepare.names import NtuName, broken, read_name
from last_e.prepare.ntu import Report, prepare_ntu
from last_e.prepare.people import choose_people
from last_e.prepare.pool import run_all
from last_e.prepare.skeleton import MAX_BYTES, parse
from last_e.splits import OFFICIAL, trains
from tests.ntu_files import GHOST, motion, name_of, one_person, text_of, two_people, write_tree, write_zip

BROKEN = "S001C002P005R002A008"


def recordings(count: int = 24) -> dict[str, bytes]:
    """Recordings of several people, cameras, setups and classes, every third with two people."""
    files = {}
    for number in range(count):
        scene = one_person(motion(number, 20 + number))
        if number % 3 == 0:
            scene = two_people(motion(number, 20 + number), motion(number + 50, 20 + number))
        if number % 5 == 0:
            scene[3].append((GHOST, motion(9, 1)[0]))
        if number % 7 == 0:
            scene[1] = []
        name = name_of(1 + number % 17, 1 + number % 3, 1 + number % 40, 2 - number % 2, 1 + number % 60)
        files[name] = text_of(scene, ending="\r\n" if number % 4 == 0 else "\n")
    return files


@pytest.fixture(scope="module")
def files() -> dict[str, bytes]:
    return recordings()


@pytest.fixture(scope="module")
def tree(files: dict[str, bytes], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tree(tmp_path_factory.mktemp("raw"), files.items())


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ntu, "PART_SIZE", 5)


def prepare(raw: Path, out: Path, dataset: str = "ntu60", **more) -> Report:
    return prepare_ntu(dataset, [raw], out, workers=1, **more)


def why(report: Report) -> dict[str, str]:
    return {one.name: one.reason for one in report.left_out}


def test_a_tree_becomes_a_file_that_the_trainer_reads(files, tree, tmp_path):
    out = tmp_path / "new" / "ntu60.safetensors"
    report = prepare(tree, out)
    assert [path.name for path in out.parent.iterdir()] == [out.name]
    clips = read_clips(out, 60)
    assert report.clips == len(clips) == len(files)
    names = sorted(files)
    for number, name in enumerate(names):
        expected = choose_people(parse(files[name])).joints
        rows = int(clips.length[number] * clips.bodies[number])
        assert (int(clips.bodies[number]), int(clips.length[number])) == expected.shape[:2]
        begin = int(clips.start[number])
        assert np.array_equal(clips.joints[begin : begin + rows].numpy(), expected.reshape(-1, 25, 3))
    parts = [read_name(name) for name in names]
    for column, values in (
        (clips.label, [part.action - 1 for part in parts]),
        (clips.performer, [part.performer for part in parts]),
        (clips.camera, [part.camera for part in parts]),
        (clips.setup, [part.setup for part in parts]),
    ):
        assert column.tolist() == values
    assert set(clips.bodies.tolist()) == {1, 2}
    assert report.frames == int(clips.length.sum())
    assert report.two_people == int((clips.bodies == 2).sum())


def test_the_columns_beside_what_training_needs_and_where_it_all_comes_from(files, tree, tmp_path):
    prepare(tree, tmp_path / "out")
    columns, metadata = read_columns(tmp_path / "out")
    assert names_of(columns) == sorted(files)
    rows = columns["length"] * columns["bodies"]
    assert columns["offset"].tolist() == [0, *rows.cumsum()[:-1].tolist()]
    assert columns["replication"].tolist() == [read_name(name).replication for name in sorted(files)]
    assert metadata["dataset"] == "ntu60"
    assert metadata[CONTENT_HASH] == content_hash(tmp_path / "out")
    assert json.loads(metadata["rules"])["unit"] == "int16 millimetres"
    assert {"python", "numpy", "lastrun"} <= json.loads(metadata["versions"]).keys()
    assert json.loads(metadata["report"])["clips"] == len(files)
    assert len(metadata["source_sha256"]) == 64
    assert str(tmp_path) not in json.dumps(metadata)
    assert str(tree) not in json.dumps(metadata)


def test_one_file_has_every_split_counted_against_the_official_one(tree, tmp_path):
    report = prepare(tree, tmp_path / "out")
    clips = read_clips(tmp_path / "out", 60)
    assert set(report.splits) == {"xsub", "xview"}
    for split, count in report.splits.items():
        mask = train_mask(clips, "ntu60", split)
        assert (count["train"], count["test"]) == (int(mask.sum()), int((~mask).sum()))
        assert (count["official_train"], count["official_test"]) == OFFICIAL["ntu60", split]
    assert set(prepare(tree, tmp_path / "other", "ntu120").splits) == {"xsub", "xset"}


def test_the_zip_file_gives_the_same_bytes_as_the_tree(files, tree, tmp_path):
    write_zip(tmp_path / "raw.zip", list(files.items()))
    prepare(tree, tmp_path / "a")
    prepare(tmp_path / "raw.zip", tmp_path / "b")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


FOLDERS = st.sampled_from(["a", "b/c", "z"])
COPIES = st.sampled_from(["copies/{}.skeleton", "0/{}.again.skeleton", "notes/{}x.skeleton", "y/{}.txt"])
DAMAGE = st.one_of(st.just(None), st.integers(0, 2**16), st.just(b""), st.tuples(st.integers(0, 2**16), st.binary(max_size=9)))
"""None, where it is cut, all that is left of it, or other bytes somewhere in it."""
TREES = st.lists(
    st.tuples(st.integers(0, 23), FOLDERS, DAMAGE, st.lists(st.tuples(COPIES, DAMAGE), max_size=2)),
    min_size=1, max_size=6, unique_by=lambda one: one[0],
)  # fmt: skip


def hurt(content: bytes, damage: int | bytes | tuple[int, bytes] | None) -> bytes:
    if damage is None:
        return content
    if isinstance(damage, int):
        return content[: damage % len(content)]
    if isinstance(damage, bytes):
        return damage
    at = damage[0] % len(content)
    return content[:at] + damage[1] + content[at + 3 :]


@pytest.mark.slow
@settings(max_examples=25, derandomize=True, deadline=None, database=None)
@given(TREES, st.randoms(use_true_random=False))
def test_any_tree_gives_the_same_bytes_as_its_zip_file(tree, random):
    """Whatever is damaged, missing, twice or of another name in it, in whatever folders, however it was packed."""
    files = sorted(recordings().items())
    paths = {f"whole/{files[0][0]}.skeleton": files[0][1]}
    for number, folder, damage, copies in tree:
        name, content = files[number]
        paths[f"{folder}/{name}.skeleton"] = hurt(content, damage)
        paths |= {copy.format(name): hurt(content, damage) for copy, damage in copies}
    with tempfile.TemporaryDirectory() as temporary:
        place = Path(temporary)
        for path, content in paths.items():
            (place / "tree" / path).parent.mkdir(parents=True, exist_ok=True)
            (place / "tree" / path).write_bytes(content)
        with zipfile.ZipFile(place / "raw.zip", "w") as archive:
            for path in random.sample(sorted(paths), len(paths)):
                archive.writestr(path, paths[path], random.choice([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED]))
        reports = [prepare(place / "tree", place / "a"), prepare(place / "raw.zip", place / "b")]
        assert reports[0] == reports[1]
        assert (place / "a").read_bytes() == (place / "b").read_bytes()


@pytest.mark.slow
def test_several_processes_give_the_same_bytes_as_one(tree, tmp_path):
    prepare(tree, tmp_path / "a")
    prepare_ntu("ntu60", [tree], tmp_path / "b", workers=2)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_workers_leave_ctrl_c_to_the_first_process():
    assert list(run_all(signal.getsignal, [signal.SIGINT] * 3, workers=2)) == [signal.SIG_IGN] * 3
    assert list(run_all(signal.getsignal, [signal.SIGINT], workers=1)) == [signal.getsignal(signal.SIGINT)]


def test_a_folder_with_the_distributed_zip_files_is_read_as_it_is(files, tmp_path):
    half = len(files) // 2
    folder = tmp_path / "downloads"
    folder.mkdir()
    write_zip(folder / "nturgbd_skeletons_s001_to_s017.zip", list(files.items())[:half])
    write_zip(folder / "nturgbd_skeletons_s018_to_s032.zip", list(files.items())[half:])
    assert prepare(folder, tmp_path / "out", "ntu120").clips == len(files)
    zips = sorted(folder.iterdir())
    assert prepare_ntu("ntu120", zips, tmp_path / "out2", workers=1).clips == len(files)
    assert (tmp_path / "out").read_bytes() == (tmp_path / "out2").read_bytes()


# --- what is left out ----------------------------------------------------------------------------------------------------


def test_the_lists_of_broken_recordings_are_the_published_ones():
    assert (len(broken("ntu60")), len(broken("ntu120"))) == (302, 535)
    assert broken("ntu60") < broken("ntu120")
    assert all(str(read_name(name)) == name for name in broken("ntu120"))


def test_the_official_counts_follow_from_the_list_and_the_published_totals():
    """56,880 recordings: 40,320 and 16,560 of xsub (Shahroudy et al.), a third from each camera."""
    names = [read_name(name) for name in broken("ntu60")]
    columns = [np.array([getattr(name, key) for name in names]) for key in ("performer", "camera", "setup")]
    for split, (train, test) in (("xsub", (40_320, 16_560)), ("xview", (37_920, 18_960))):
        out = int(trains("ntu60", split, *columns).sum())
        assert OFFICIAL["ntu60", split] == (train - out, test - (302 - out))
    assert {sum(OFFICIAL["ntu120", split]) for split in ("xsub", "xset")} == {114_480 - 535}


def test_what_gives_no_clip_is_told_with_the_reason(files, tmp_path):
    good = dict(list(files.items())[:2])
    whole = files[next(iter(files))]
    odd = {
        BROKEN: whole,
        name_of(18, 1, 1, 1, 1): whole,
        name_of(1, 1, 1, 1, 61): whole,
        name_of(1, 1, 39, 1, 1): whole[: len(whole) // 2],
        name_of(1, 2, 39, 1, 1): b"0\r\n",
        name_of(1, 3, 39, 1, 1): b"",
        name_of(2, 1, 39, 1, 1): b"5" + whole[2:],
        "S001-notes": b"hello",
    }
    raw = write_tree(tmp_path / "raw", {**good, **odd}.items())
    twice = next(iter(good))
    (raw / "copy").mkdir()
    (raw / "copy" / f"{twice}.skeleton").write_bytes(whole)
    report = prepare(raw, tmp_path / "out")
    assert report.clips == 2
    assert why(report) == {
        BROKEN: "broken",
        name_of(18, 1, 1, 1, 1): "elsewhere",
        name_of(1, 1, 1, 1, 61): "elsewhere",
        name_of(1, 1, 39, 1, 1): "damaged",
        name_of(1, 2, 39, 1, 1): "nobody",
        name_of(1, 3, 39, 1, 1): "damaged",
        name_of(2, 1, 39, 1, 1): "damaged",
        "S001-notes": "unnamed",
        twice: "twice",
    }
    kinds = report.to_dict()["left_out"]
    assert {reason: kind["count"] for reason, kind in kinds.items()} == {
        "damaged": 3, "nobody": 1, "broken": 1, "elsewhere": 2, "twice": 1, "unnamed": 1, "unreadable": 0,
    }  # fmt: skip
    assert any("line " in file for file in kinds["damaged"]["files"])
    assert report.to_dict(1)["left_out"]["damaged"]["files"] == kinds["damaged"]["files"][:1]
    assert prepare(raw, tmp_path / "out120", "ntu120").clips == 4, "ntu120 has the later setups and actions"


@pytest.mark.parametrize("place", ["a", "z"])
@pytest.mark.parametrize("bad", ["cut", "nobody"])
def test_of_two_copies_a_whole_one_is_taken_wherever_it_lies(files, tmp_path, place, bad):
    raw = write_tree(tmp_path / "raw", files.items())
    prepare(raw, tmp_path / "expected")
    name = list(files)[1]
    (raw / place).mkdir()
    copy = raw / place / f"{name}.skeleton"
    copy.write_bytes(files[name][:-200] if bad == "cut" else b"0\n")
    report = prepare(raw, tmp_path / "out")
    assert report.clips == len(files)
    before = place < "nturgbd"
    assert why(report) == {name: ("damaged" if bad == "cut" else "nobody") if before else "twice"}
    assert report.left_out[0].detail.startswith(f"{place}/{name}.skeleton")
    columns = [read_columns(tmp_path / file)[0] for file in ("expected", "out")]
    assert all(np.array_equal(columns[0][key], columns[1][key]) for key in columns[0])
    assert read_clips(tmp_path / "out", 60).fingerprint() == read_clips(tmp_path / "expected", 60).fingerprint()


def test_copies_that_are_all_damaged_are_all_told(files, tmp_path):
    raw = write_tree(tmp_path / "raw", files.items())
    name = list(files)[1]
    for folder in ("a", "b", next(raw.rglob(f"{name}.skeleton")).parent.relative_to(raw)):
        (raw / folder).mkdir(exist_ok=True)
        (raw / folder / f"{name}.skeleton").write_bytes(b"1\n")
    report = prepare(raw, tmp_path / "out")
    assert report.clips == len(files) - 1
    assert [(one.name, one.reason) for one in report.left_out] == [(name, "damaged")] * 3


def test_names_that_say_the_same_are_one_recording(files, tmp_path):
    raw = write_tree(tmp_path / "raw", files.items())
    name = list(files)[1]
    (raw / f"{name}.copy.skeleton").write_bytes(files[name])
    report = prepare(raw, tmp_path / "out")
    assert report.clips == len(files)
    assert [(one.name, one.reason) for one in report.left_out] == [(f"{name}.copy", "twice")]


def test_links_to_folders_are_followed_and_circles_left(files, tmp_path):
    elsewhere = write_tree(tmp_path / "elsewhere", files.items())
    (elsewhere / "up").symlink_to(elsewhere)
    (elsewhere / "self").symlink_to("self")
    raw = tmp_path / "raw"
    raw.mkdir()
    (raw / "link").symlink_to(elsewhere)
    (raw / "other").symlink_to(elsewhere, target_is_directory=True)
    (raw / "file.zip").symlink_to(write_zip(tmp_path / "one.zip", [(name_of(9, 1, 9, 1, 9), files[next(iter(files))])]))
    report = prepare(raw, tmp_path / "out")
    assert report.clips == len(files) + 1
    assert [(one.name, one.reason) for one in report.left_out] == [("link/self", "unreadable")]
    assert prepare_ntu("ntu60", [raw, raw / "link", elsewhere], tmp_path / "two", workers=1).files == report.files


@pytest.fixture
def nobody_special() -> Iterator[Path]:
    """A folder of a user to whom permissions apply (to root they do not)."""
    folder = Path(tempfile.mkdtemp(dir="/tmp"))
    root = os.geteuid() == 0
    if root:
        os.chown(folder, 65534, 65534)
        os.seteuid(65534)
    try:
        yield folder
    finally:
        if root:
            os.seteuid(0)
        shutil.rmtree(folder)


def test_what_cannot_be_read_in_a_tree_is_told_and_the_rest_prepared(files, nobody_special):
    raw = write_tree(nobody_special / "raw", files.items())
    (raw / "locked").mkdir(mode=0)
    (raw / "S001").symlink_to("nowhere")
    (raw / "gone.skeleton").symlink_to("nowhere")
    (raw / "cut.zip").write_bytes(b"PK\x03\x04 and no more")
    (raw / "other.zip").write_bytes(b"")
    write_zip(raw / "locked.zip", [("a", b"")]).chmod(0)
    with zipfile.ZipFile(raw / "fine.zip", "w") as archive:
        archive.writestr("readme.txt", "nothing of ours")
    unreadable = name_of(8, 1, 8, 1, 8)
    (raw / f"{unreadable}.skeleton").write_bytes(b"1\n")
    (raw / f"{unreadable}.skeleton").chmod(0)
    report = prepare(raw, nobody_special / "out")
    assert report.clips == len(files)
    told = {one.name: one.detail for one in report.left_out if one.reason == "unreadable"}
    assert told.keys() == {"locked", "S001", "gone.skeleton", "cut.zip", "other.zip", "locked.zip"}
    assert told["locked"] == told["locked.zip"] == "cannot be read: Permission denied"
    assert told["S001"] == "cannot be read: No such file or directory (a link)"
    assert told["cut.zip"].startswith("not a whole zip file")
    assert [(one.name, one.reason, one.detail) for one in report.left_out if one.reason == "damaged"] == [
        (unreadable, "damaged", "cannot be read: Permission denied")
    ]
    kept = json.loads(read_columns(nobody_special / "out")[1]["report"])["left_out"]["unreadable"]
    assert "locked: cannot be read: Permission denied" in kept["files"]
    with pytest.raises(DataError, match="Permission denied"):
        prepare(raw / "locked", nobody_special / "out")
    with pytest.raises(DataError, match="Permission denied"):
        prepare(raw / "locked" / "below", nobody_special / "out")
    (raw / "empty").mkdir()
    (raw / "empty" / "gone.skeleton").symlink_to("nowhere")
    with pytest.raises(DataError, match=r"no \.skeleton file in there.*gone\.skeleton: cannot be read"):
        prepare(raw / "empty", nobody_special / "out")


def test_folders_too_deep_to_be_named_are_told(files, tmp_path):
    raw = write_tree(tmp_path / "raw", files.items())
    here = os.open(raw, os.O_RDONLY)
    for _ in range(20):
        os.mkdir("d" * 250, dir_fd=here)
        below = os.open("d" * 250, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)
    report = prepare(raw, tmp_path / "out")
    assert report.clips == len(files)
    (left,) = report.left_out
    assert (left.reason, left.detail) == ("unreadable", "cannot be read: File name too long")


def test_sightings_without_usable_coordinates_are_counted(tmp_path):
    points = motion(3, 20)
    points[4, 5, 1] = np.nan
    points[9, 0] = 1e9
    report = prepare(write_tree(tmp_path / "raw", [(name_of(), text_of(one_person(points)))]), tmp_path / "out")
    assert report.unusable == 2
    assert report.frames == 18


def test_a_tree_without_one_whole_recording_is_refused(tmp_path):
    raw = write_tree(tmp_path / "raw", [(name_of(), b"0\n"), (name_of(2), b"what?")])
    with pytest.raises(DataError, match=r"none of the 2 files could be read; S001C001P001R001A001: nobody is seen"):
        prepare(raw, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda path: path, "no such folder or archive"),
        (lambda path: path.mkdir(), "no .skeleton file in there"),
        (lambda path: write_tree(path, [("notes", b"")]), "none of the 1 files is a recording of ntu60"),
        (lambda path: path.write_bytes(b"PK\x03\x04 and no more"), "not a whole zip file"),
        (lambda path: path.write_bytes(b""), "an empty file; download it again"),
        (lambda path: path.write_bytes(b"<html>Sign in</html>"), "a web page, perhaps one that asks to log in"),
        (lambda path: path.write_bytes(b"7z\xbc\xaf\x27\x1c\0"), "a 7z archive: unpack it with 7z x raw, and name the folder"),
        (lambda path: path.write_bytes(b"Rar!\x1a\x07\0"), "a RAR archive: unpack it with unrar x raw"),
        (lambda path: path.write_bytes(b"\x28\xb5\x2f\xfd\0"), "packed by zstd: unpack it with zstd -d raw"),
        (lambda path: path.write_bytes(gzip.compress(b"no tar")), "packed by gz, and no tar file in it"),
        (lambda path: path.write_bytes(gzip.compress(b"x" * 9999)[:40]), "not whole, or damaged"),
        (lambda path: path.write_bytes(bz2.compress(bytes(9999))[:30]), "not whole, or damaged"),
        (lambda path: path.write_bytes(lzma.compress(bytes(9999))[:30]), "not whole, or damaged"),
        (lambda path: path.write_bytes(b"\0" * 600), "no archive that is known here"),
    ],
)
def test_a_place_without_recordings_is_refused(tmp_path, make, expected):
    make(tmp_path / "raw")
    with pytest.raises(DataError) as caught:
        prepare(tmp_path / "raw", tmp_path / "out")
    assert expected in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_a_folder_cannot_be_the_file(tree, tmp_path):
    with pytest.raises(DataError, match="a folder; name a file in it"):
        prepare(tree, tmp_path)


def test_names_are_taken_apart_and_put_together():
    name = read_name("a/b/S017C003P040R002A060.skeleton")
    assert name == NtuName(17, 3, 40, 2, 60)
    assert str(name) == "S017C003P040R002A060"
    for other in ("", "S1C1P1R1A1", "S017C003P040R002A060x", "xS017C003P040R002A060", "S017C003P040R002"):
        assert read_name(other) is None
    assert not NtuName(0, 1, 1, 1, 1).belongs_to("ntu60")


# --- zip files -----------------------------------------------------------------------------------------------------------


def test_a_damaged_entry_of_a_zip_file_is_one_damaged_file(files, tmp_path):
    path = write_zip(tmp_path / "raw.zip", list(files.items())[:4])
    content = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        info = archive.infolist()[1]
        content[info.header_offset + 200] ^= 0xFF
    path.write_bytes(content)
    report = prepare(path, tmp_path / "out")
    assert report.clips == 3
    (left,) = report.left_out
    assert left.name == list(files)[1]
    assert "damaged in the zip file" in left.detail


def test_a_zip_bomb_is_not_unpacked(files, tmp_path, monkeypatch):
    """Neither one that says how large it is, nor one that hides it."""
    import tracemalloc

    honest, lying = name_of(3, 1, 9), name_of(4, 1, 9)
    path = write_zip(tmp_path / "raw.zip", [*list(files.items())[:1], (honest, b"0" * 70_000_000), (lying, b"0" * 50_000_000)])
    content = bytearray(path.read_bytes())
    for at in range(len(content) - 4):  # both places where the zip says the size of the third entry
        if content[at : at + 4] == (50_000_000).to_bytes(4, "little"):
            content[at : at + 4] = (1000).to_bytes(4, "little")
    path.write_bytes(content)
    tracemalloc.start()
    report = prepare(path, tmp_path / "out")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 30_000_000
    assert report.clips == 1
    assert why(report) == {honest: "damaged", lying: "damaged"}


def test_an_encrypted_entry_is_one_damaged_file(files, tmp_path):
    path = write_zip(tmp_path / "raw.zip", list(files.items())[:2])
    content = bytearray(path.read_bytes())
    at = content.index(b"PK\x01\x02")
    content[at + 8] |= 1
    path.write_bytes(content)
    report = prepare(path, tmp_path / "out")
    assert "encrypted" in report.left_out[0].detail
    assert report.clips == 1


# --- restarts ------------------------------------------------------------------------------------------------------------


class Stop(Exception):
    pass


def interrupted(tree: Path, out: Path, after: int) -> None:
    """A run that ends when so many recordings are done."""

    def progress(done: int, total: int) -> None:
        if done >= after:
            raise Stop

    with pytest.raises(Stop):
        prepare(tree, out, progress=progress)


def test_an_interrupted_run_goes_on_where_it_was(tree, tmp_path, monkeypatch):
    prepare(tree, tmp_path / "whole")
    interrupted(tree, tmp_path / "out", 10)
    assert not (tmp_path / "out").exists()
    read = []
    monkeypatch.setattr(ntu, "prepare_part", lambda task, do=ntu.prepare_part: read.append(task) or do(task))
    told: list[tuple[int, int]] = []
    report = prepare(tree, tmp_path / "out", progress=lambda *numbers: told.append(numbers))
    assert report.resumed == 10
    assert told[0] == (10, 24)
    assert told[-1] == (24, 24)
    assert [len(task.recordings) for task in read] == [5, 5, 4]
    assert (tmp_path / "out").read_bytes() == (tmp_path / "whole").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "whole"]


def test_parts_of_other_files_or_other_rules_are_not_used(files, tmp_path, monkeypatch):
    tree = write_tree(tmp_path / "raw", files.items())
    changed = next(tree.rglob("*.skeleton"))
    os.utime(changed, ns=(1, 1))

    def resumed(after: int = 10) -> int:
        interrupted(tree, tmp_path / "out", after)
        return prepare(tree, tmp_path / "out").resumed

    interrupted(tree, tmp_path / "out", 10)
    os.utime(changed, ns=(2, 2))
    assert prepare(tree, tmp_path / "out").resumed == 0, "a file was written again"
    interrupted(tree, tmp_path / "out", 10)
    monkeypatch.setitem(ntu.RULES, "version", 999)
    assert prepare(tree, tmp_path / "out").resumed == 0, "the rules have changed"
    interrupted(tree, tmp_path / "out", 10)
    assert prepare(tree, tmp_path / "out", "ntu120").resumed == 0, "another data set"
    assert resumed() == 10


def test_a_part_that_was_half_written_is_no_part(tree, tmp_path):
    interrupted(tree, tmp_path / "out", 10)
    folder = tmp_path / ".out.parts"
    half = folder / ".000003.part.4711.part"
    half.write_bytes(b"half")
    (folder / ".out.4711.part").write_bytes(b"half of the whole")  # killed while the parts were joined
    assert prepare(tree, tmp_path / "out").resumed == 10
    assert not folder.exists()


# --- archives as people make them --------------------------------------------------------------------------------------


def tar_of(tree: Path, path: Path, mode: str) -> Path:
    with tarfile.open(path, mode) as archive:
        archive.add(tree, "nturgb+d_skeletons")
    return path


def zip_in_zip(tree: Path, path: Path) -> Path:
    inner = path.with_name("inner.zip")
    with zipfile.ZipFile(inner, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(tree.rglob("*.skeleton")):
            archive.write(file, file.name)
    with zipfile.ZipFile(path, "w") as archive:
        archive.write(inner, "part/inner.zip")
    inner.unlink()
    return path


def each_packed(tree: Path, path: Path) -> Path:
    path.mkdir()
    packers = [("gz", gzip.compress), ("bz2", bz2.compress), ("xz", lzma.compress), ("", bytes)]
    for number, file in enumerate(sorted(tree.rglob("*.skeleton"))):
        ending, pack = packers[number % 4]
        (path / f"{file.name}{'.' if ending else ''}{ending}").write_bytes(pack(file.read_bytes()))
    return path


ARCHIVES = {
    "tar": lambda tree, path: tar_of(tree, path / "all.tar", "w"),
    "tar.gz": lambda tree, path: tar_of(tree, path / "all.tar.gz", "w:gz"),
    "tgz by another name": lambda tree, path: tar_of(tree, path / "download", "w:gz"),
    "tar.bz2": lambda tree, path: tar_of(tree, path / "all.tar.bz2", "w:bz2"),
    "tar.xz": lambda tree, path: tar_of(tree, path / "all.TXZ", "w:xz"),
    "zip in zip": lambda tree, path: zip_in_zip(tree, path / "outer.zip"),
    "each packed": lambda tree, path: each_packed(tree, path / "packed"),
    "in a folder": lambda tree, path: tar_of(tree, path / "all.tar.gz", "w:gz").parent,
}


@pytest.mark.parametrize("kind", ARCHIVES)
def test_an_archive_gives_the_same_clips_as_its_tree(files, tree, tmp_path, kind):
    (tmp_path / "raw").mkdir()
    made = ARCHIVES[kind](tree, tmp_path / "raw")
    report = prepare(made, tmp_path / "out")
    assert report.clips == len(files)
    prepare(tree, tmp_path / "expected")
    ours, theirs = read_clips(tmp_path / "out", 60), read_clips(tmp_path / "expected", 60)
    assert ours.fingerprint() == theirs.fingerprint()
    assert not list(tmp_path.glob(".*")), "nothing stays of what was unpacked"


def test_what_was_unpacked_is_taken_by_the_next_run(tree, tmp_path, monkeypatch):
    archive = tar_of(tree, tmp_path / "all.tar.gz", "w:gz")
    interrupted(archive, tmp_path / "out", 10)
    monkeypatch.setattr(archives, "whole_file", None)  # it would unpack with that
    assert prepare(archive, tmp_path / "out").resumed == 10


def test_a_packed_file_that_is_cut_is_told_by_name_and_the_rest_is_read(files, tree, tmp_path):
    folder = each_packed(tree, tmp_path / "packed")
    bad = next(folder.glob("*.gz"))
    bad.write_bytes(bad.read_bytes()[:-20])
    (folder / "also.tar.gz").write_bytes(b"\x1f\x8b no more")
    report = prepare(folder, tmp_path / "out")
    assert report.clips == len(files) - 1
    told = {one.name: one.detail for one in report.left_out}
    assert told[bad.name.split(".")[0]].startswith("damaged, or not whole")
    assert "not whole, or damaged" in told["also.tar.gz"]


def test_what_unpacks_to_a_thousand_times_its_size_fills_no_disk(tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "_LEAST_BOUND", 1 << 20)
    (tmp_path / "bomb.tar.gz").write_bytes(gzip.compress(bytes(1 << 24)))
    with pytest.raises(DataError, match="unpacks to more than 100 times its size, as no recordings do"):
        prepare(tmp_path / "bomb.tar.gz", tmp_path / "out")
    (tmp_path / "raw").mkdir()
    name = "S001C001P001R001A001.skeleton.gz"
    (tmp_path / "raw" / name).write_bytes(gzip.compress(bytes(MAX_BYTES + 1)))
    with pytest.raises(DataError, match="larger than"):
        prepare(tmp_path / "raw", tmp_path / "out")


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("{}.skeleton", lambda data: b"\xef\xbb\xbf" + data),
        ("{}.skeleton", lambda data: data.decode().encode("utf-16")),
        ("{}.skeleton", lambda data: b"\xfe\xff" + data.decode().encode("utf-16-be")),
        ("{}.skeleton", lambda data: data.replace(b"\r", b"").replace(b"\n", b"\r\n")),
        ("{}.skeleton", lambda data: data.replace(b"\r", b"").replace(b"\n", b"\r")),
        ("{}.skeleton", lambda data: data + b"\x1a"),
        ("{}.skeleton", lambda data: data + b"\n\n\0\0\0"),
        ("{}.SKELETON", bytes),
        ("{}.Skeleton.txt", bytes),
        ("{}.skeleton.skeleton", bytes),
        ("{}.skeleton.GZ", gzip.compress),
    ],
)
def test_a_recording_as_editors_and_copies_leave_it_is_read(files, tmp_path, name, change):
    known, data = next(iter(files.items()))
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / name.format(known.lower())).write_bytes(change(data))
    (tmp_path / "plain").mkdir()
    (tmp_path / "plain" / f"{known}.skeleton").write_bytes(data)
    assert prepare(tmp_path / "raw", tmp_path / "out").clips == 1
    prepare(tmp_path / "plain", tmp_path / "expected")
    assert read_clips(tmp_path / "out", 60).fingerprint() == read_clips(tmp_path / "expected", 60).fingerprint()
    single = next((tmp_path / "raw").iterdir())
    assert prepare(single, tmp_path / "one").clips == 1


def test_two_preparations_of_one_file_do_not_meet(tree, tmp_path):
    (tmp_path / ".out.parts").mkdir()
    with FileLock(tmp_path / ".out.parts" / ".lock"), pytest.raises(DataError, match="being prepared by another process"):
        prepare(tree, tmp_path / "out")


def test_a_full_disk_leaves_what_was_there_and_a_way_on(tree, tmp_path, monkeypatch):
    """The real thing, on a small file system, is in tests/integration/test_data_commands.py."""
    (tmp_path / "out").write_bytes(b"old")
    real = os.fsync

    def full(fd: int) -> None:
        if full.left == 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        full.left -= 1
        real(fd)

    full.left = 2
    monkeypatch.setattr(whole.os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        prepare(tree, tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == b"old"
    monkeypatch.setattr(whole.os, "fsync", real)
    assert prepare(tree, tmp_path / "out").resumed == 10


def test_an_existing_file_is_replaced_only_by_a_whole_one(tree, tmp_path):
    (tmp_path / "out").write_bytes(b"old")
    interrupted(tree, tmp_path / "out", 24)
    assert (tmp_path / "out").read_bytes() == b"old"
    prepare(tree, tmp_path / "out")
    assert len(read_clips(tmp_path / "out", 60)) == 24


# --- reading prepared files without torch --------------------------------------------------------------------------------


def test_a_damaged_file_is_told_in_one_line(tree, tmp_path):
    path = tmp_path / "out"
    prepare(tree, path)
    content = path.read_bytes()
    for size in (0, 7, 100, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:size])
        with pytest.raises(DataError) as caught:
            read_columns(path)
        assert len(str(caught.value).splitlines()) == 1
    path.unlink()
    with pytest.raises(DataError, match="no such file"):
        read_columns(path)


def test_a_file_that_brings_its_own_split_trains_by_it_and_by_no_other():
    two = torch.ones(2, dtype=torch.int64)
    joints = torch.zeros(2, 25, 3, dtype=torch.int16)
    plain = Clips(joints, two, two, two * 0, two, two, two)
    own = Clips(joints, two, two, two * 0, two, two, two, own_splits={"xsub": torch.tensor([False, True])})
    assert train_mask(own, "ntu60", "xsub").tolist() == [False, True]
    with pytest.raises(DataError, match="knows only xsub"):
        train_mask(own, "ntu60", "xview")
    assert own.fingerprint() != plain.fingerprint()
    bad = Clips(joints, two, two, two * 0, two, two, two, own_splits={"xsub": torch.tensor([1, 0])})
    with pytest.raises(DataError, match="split xsub"):
        bad.check(1, "here")


@pytest.mark.slow
def test_the_preparation_is_part_of_last_e_data_but_loaded_only_when_asked_for():
    import subprocess
    import sys

    import last_e.data

    assert last_e.data.prepare_ntu is prepare_ntu
    with pytest.raises(AttributeError, match="prepare_nto"):
        last_e.data.prepare_nto  # noqa: B018
    code = "import sys, last_e.train; assert not {'numba', 'last_e.prepare'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])


@pytest.mark.slow
def test_nothing_of_the_preparation_needs_torch(tree, tmp_path):
    import subprocess
    import sys

    code = (
        "import sys, pkgutil, importlib, last_e.prepare\n"
        "from pathlib import Path\n"
        "names = [module.name for module in pkgutil.walk_packages(last_e.prepare.__path__, 'last_e.prepare.')]\n"
        "assert len(names) > 10\n"
        "for name in names: importlib.import_module(name)\n"
        "from last_e.prepare.ntu import prepare_ntu\n"
        f"prepare_ntu('ntu60', [Path({str(tree)!r})], Path({str(tmp_path / 'out')!r}), workers=1)\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])
    shutil.rmtree(tmp_path, ignore_errors=True)


@pytest.mark.parametrize("method", [zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2, zipfile.ZIP_DEFLATED])
def test_a_damaged_entry_is_one_damaged_file_however_it_was_compressed(files, tmp_path, method):
    path = tmp_path / "raw.zip"
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in list(files.items())[:4]:
            archive.writestr(f"{name}.skeleton", content)
        begin = archive.infolist()[1].header_offset + 60
    content = bytearray(path.read_bytes())
    content[begin : begin + 40] = b"\xff" * 40
    path.write_bytes(content)
    report = prepare_ntu("ntu60", [path], tmp_path / "out", workers=1)
    assert report.clips == 3


@pytest.mark.parametrize("out", ["raw.zip", "other-name.zip", "link.zip", "raw/S001C001P001R001A001.skeleton", "pipe"])
def test_neither_what_is_read_nor_a_device_is_replaced(files, tmp_path, out):
    raw = write_zip(tmp_path / "raw.zip", list(files.items()))
    (tmp_path / "other-name.zip").hardlink_to(raw)
    (tmp_path / "link.zip").symlink_to(raw)
    os.mkfifo(tmp_path / "pipe")
    write_tree(tmp_path / "raw", list(files.items()))
    (tmp_path / "raw" / "S001C001P001R001A001.skeleton").write_bytes(b"")
    before = {path: path.lstat() for path in tmp_path.rglob("*")}
    with pytest.raises(DataError, match="which the result would replace"):
        prepare_ntu("ntu60", [raw, tmp_path / "raw"], tmp_path / out, workers=1)
    assert {path: (path.lstat().st_ino, path.lstat().st_size) for path in before} == {
        path: (about.st_ino, about.st_size) for path, about in before.items()
    }


def test_a_link_to_a_file_elsewhere_stays_a_link(files, tree, tmp_path):
    place = tmp_path / "large disk"
    place.mkdir()
    (tmp_path / "out.safetensors").symlink_to(place / "real.safetensors")
    prepare_ntu("ntu60", [tree], tmp_path / "out.safetensors", workers=1)
    assert (tmp_path / "out.safetensors").is_symlink()
    assert len(read_clips(place / "real.safetensors", 60)) == len(files)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["large disk", "out.safetensors"]


def test_a_zip_file_that_was_put_right_is_read_anew_in_the_same_process(files, tmp_path):
    some = list(files.items())[:4]
    raw = write_zip(tmp_path / "raw.zip", [*some[:3], (some[3][0], b"damaged")])
    assert prepare_ntu("ntu60", [raw], tmp_path / "out", workers=1).clips == 3
    os.replace(write_zip(tmp_path / "new.zip", some), raw)
    assert prepare_ntu("ntu60", [raw], tmp_path / "out", workers=1).clips == 4


def test_names_in_a_zip_file_may_have_the_slashes_of_windows(files, tmp_path):
    with zipfile.ZipFile(tmp_path / "raw.zip", "w") as archive:
        for name, text in list(files.items())[:3]:
            info = zipfile.ZipInfo("x")
            info.filename = f"nturgb+d_skeletons\\{name}.skeleton"
            archive.writestr(info, text)
    assert prepare_ntu("ntu60", [tmp_path / "raw.zip"], tmp_path / "out", workers=1).clips == 3
