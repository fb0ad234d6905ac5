"""From recordings to a file that can be trained, restarts and damage included."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from filelock import FileLock

from last_e import whole
from last_e.data import Clips, read_clips
from last_e.data.splits import train_mask
from last_e.datafile import DataError
from last_e.prepare import ntu
from last_e.prepare.clipfile import CONTENT_HASH, content_hash, names_of, read_columns
from last_e.prepare.names import NtuName, broken, read_name
from last_e.prepare.ntu import prepare_ntu
from last_e.prepare.people import choose_people
from last_e.prepare.pool import run_all
from last_e.prepare.skeleton import parse
from last_e.splits import OFFICIAL, trains
from tests.ntu_files import motion, name_of, one_person, text_of, write_tree, write_zip
from tests.ntu_prepare import BROKEN, interrupted, prepare, recordings, why


@pytest.fixture(scope="module")
def files() -> dict[str, bytes]:
    return recordings()


@pytest.fixture(scope="module")
def tree(files: dict[str, bytes], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tree(tmp_path_factory.mktemp("raw"), files.items())


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ntu, "PART_SIZE", 5)


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


@pytest.mark.slow
def test_several_processes_give_the_same_bytes_as_one(tree, tmp_path):
    prepare(tree, tmp_path / "a")
    prepare_ntu("ntu60", [tree], tmp_path / "b", workers=2)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_workers_leave_ctrl_c_to_the_first_process():
    assert list(run_all(signal.getsignal, [signal.SIGINT] * 3, workers=2)) == [signal.SIG_IGN] * 3
    assert list(run_all(signal.getsignal, [signal.SIGINT], workers=1)) == [signal.getsignal(signal.SIGINT)]


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


# --- restarts ------------------------------------------------------------------------------------------------------------


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
