"""Preparations that were cut, meet each other or find no room, and what they may replace."""

from __future__ import annotations

import errno
import os
import zipfile

import pytest
from filelock import FileLock

from last_e import whole
from last_e.data import read_clips
from last_e.datafile import DataError
from last_e.prepare import ntu
from last_e.prepare.ntu import prepare_ntu
from tests.ntu_files import motion, name_of, one_person, tar_of, text_of, write_tree, write_zip
from tests.ntu_prepare import interrupted, prepare

pytestmark = pytest.mark.usefixtures("small_parts")


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


def test_half_of_an_archive_that_was_being_unpacked_goes_before_it_is_unpacked_anew(tree, tmp_path, monkeypatch):
    archive = tar_of(tree, tmp_path / "all.tar.gz", "w:gz")
    unpacked = tmp_path / ".out.parts" / "unpacked"
    unpacked.mkdir(parents=True)
    unpacked.parent.chmod(0o700)
    (unpacked / ".0123.4567.part").write_bytes(b"half")
    seen = []
    prepare(archive, tmp_path / "out", watch=lambda *_: seen.append({path.name for path in unpacked.iterdir()}))
    assert seen
    assert all(".0123.4567.part" not in names for names in seen)


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


@pytest.mark.parametrize("kind", ["zip in zip", "tar.gz in a folder"])
def test_a_disk_that_is_too_small_to_unpack_costs_no_recording(tree, small_disk, tmp_path, kind):
    """An archive for which there is no room is none that cannot be read: without it the set would be smaller."""
    raw = tmp_path / "raw"
    raw.mkdir()
    write_tree(raw, [(name_of(17, 3, 40, 2, 60), text_of(one_person(motion(3, 20))))])
    if kind == "zip in zip":
        with zipfile.ZipFile(tmp_path / "inner.zip", "w") as archive:
            for file in sorted(tree.rglob("*.skeleton")):
                archive.write(file, file.name)
        with zipfile.ZipFile(raw / "outer.zip", "w") as archive:
            archive.write(tmp_path / "inner.zip", "inner.zip")
    else:
        tar_of(tree, raw / "all.tar.gz", "w:gz")
    (small_disk / "filler").write_bytes(b"x" * 1_900_000)
    with pytest.raises(OSError, match="No space left") as caught:
        prepare(raw, small_disk / "out")
    assert caught.value.errno == errno.ENOSPC
    assert not (small_disk / "out").exists()
    (small_disk / "filler").unlink()
    tmp_path.joinpath("roomy").mkdir()
    report = prepare(raw, tmp_path / "roomy" / "out")
    assert (report.clips, report.left_out) == (25, [])


def test_an_existing_file_is_replaced_only_by_a_whole_one(tree, tmp_path):
    (tmp_path / "out").write_bytes(b"old")
    interrupted(tree, tmp_path / "out", 24)
    assert (tmp_path / "out").read_bytes() == b"old"
    prepare(tree, tmp_path / "out")
    assert len(read_clips(tmp_path / "out", 60)) == 24


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


def test_a_folder_cannot_be_the_file(tree, tmp_path):
    with pytest.raises(DataError, match="a folder; name a file in it"):
        prepare(tree, tmp_path)


def test_a_file_with_other_clips_is_replaced_only_when_that_is_asked_for(files, tree, tmp_path):
    out = tmp_path / "out"
    prepare(tree, out)
    before = out.read_bytes()
    fewer = write_tree(tmp_path / "fewer", list(files.items())[:6])
    with pytest.raises(
        DataError, match=r"another prepared file \(ntu60, NTU RGB\+D .skeleton files \(24\)\).*--overwrite"
    ) as told:
        prepare(fewer, out, overwrite=False)
    assert told.value.missing, "exit code 2"
    assert out.read_bytes() == before
    prepare(tree, out, overwrite=False)
    assert out.read_bytes() == before, "the same clips"
    prepare(fewer, out)
    assert out.read_bytes() != before


def test_another_file_whose_source_has_the_same_names_and_sizes_is_not_replaced(files, tmp_path):
    tree = write_tree(tmp_path / "raw", files.items())
    prepare(tree, tmp_path / "out")
    before = (tmp_path / "out").read_bytes()
    changed = next(path for path in tree.rglob("*.skeleton") if b"0.1" in path.read_bytes())
    changed.write_bytes(changed.read_bytes().replace(b"0.1", b"0.2"))
    with pytest.raises(DataError, match="another prepared file"):
        prepare(tree, tmp_path / "out", overwrite=False)
    assert (tmp_path / "out").read_bytes() == before
    assert prepare(tree, tmp_path / "out").resumed == 24, "the work is kept for who adds --overwrite"


def test_a_file_that_is_no_prepared_one_is_not_replaced(tree, tmp_path):
    (tmp_path / "out").write_bytes(b"thesis")
    with pytest.raises(DataError, match=r"a file that is no prepared one \(6 bytes\)"):
        prepare(tree, tmp_path / "out", overwrite=False)
    assert (tmp_path / "out").read_bytes() == b"thesis"


def test_all_places_that_cannot_be_read_are_told_at_once(tree, tmp_path):
    (tmp_path / "cut.zip").write_bytes(b"PK\3\4")
    with pytest.raises(DataError) as told:
        prepare_ntu("ntu60", [tmp_path / "cut.zip", tree, tmp_path / "none"], tmp_path / "out", workers=1)
    first, second = str(told.value).splitlines()
    assert "cut.zip: not a whole zip file" in first
    assert "none: no such folder or archive" in second
    assert told.value.missing, "exit code 2: a name is wrong"
