"""Nothing that lies there is passed over in silence: what is named as a recording, archives, links, and what cannot be read."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import os
import tarfile
import warnings
import zipfile

import pytest

from last_e.data import read_clips
from last_e.datafile import DataError
from last_e.prepare.clipfile import names_of, read_columns
from last_e.prepare.ntu import Report, prepare_ntu
from tests.ntu_files import name_of, tar_of, write_tree, write_zip
from tests.ntu_prepare import prepare, recordings


def told(report: Report) -> dict[str, tuple[str, str]]:
    return {one.name: (one.reason, one.detail) for one in report.left_out}


OTHERS = (".skeleton.npy", ".skeleton.bak", ".skeleton.part", "_rgb.avi", "~", " (1)")


def test_what_is_named_as_a_recording_is_read_or_told(files, tmp_path):
    """Without its ending, as text, packed; of another kind: what other programs made of it, videos."""
    (first, second, third), (bad, *_) = list(files)[:3], list(files)[3:]
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / first).write_bytes(files[first])
    (tmp_path / "raw" / f"{second}.txt").write_bytes(files[second])
    (tmp_path / "raw" / f"{third}.gz").write_bytes(gzip.compress(files[third]))
    (tmp_path / "raw" / f"{bad}.txt").write_bytes(b"my notes")
    for ending in OTHERS:
        (tmp_path / "raw" / f"{bad}{ending}").write_bytes(files[bad])
    (tmp_path / "raw" / "readme.txt").write_bytes(b"3\n")
    write_tree(tmp_path / "plain", [(name, files[name]) for name in (first, second, third)])
    prepare(tmp_path / "plain", tmp_path / "expected")
    with zipfile.ZipFile(tmp_path / "raw.zip", "w") as archive:
        for path in sorted((tmp_path / "raw").iterdir()):
            archive.write(path, f"in/{path.name}")
    for raw in (tmp_path / "raw", tmp_path / "raw.zip", tar_of(tmp_path / "raw", tmp_path / "raw.tar", "w")):
        report = prepare(raw, tmp_path / "out")
        assert read_clips(tmp_path / "out", 60).fingerprint() == read_clips(tmp_path / "expected", 60).fingerprint()
        others = {f"{bad}{ending}": ("other", "") for ending in OTHERS}
        assert told(report) == {**others, bad: ("damaged", "line 1: 2 values where the number of frames has 1")}


def test_a_folder_of_nothing_but_videos_says_so(tmp_path):
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / f"{name_of()}_rgb.avi").touch()
    with pytest.raises(DataError, match=r"no \.skeleton file in there.*_rgb\.avi is named as one, but ends otherwise"):
        prepare(tmp_path / "raw", tmp_path / "out")


UNREAD = {
    "s018.7z": (b"7z\xbc\xaf\x27\x1c\0", "a 7z archive: unpack it with 7z x s018.7z"),
    "s.rar": (b"Rar!\x1a\x07\0", "a RAR archive: unpack it with unrar x s.rar"),
    "s.tar.zst": (b"\x28\xb5\x2f\xfd", "packed by zstd: unpack it with zstd -d s.tar.zst"),
    "s.tar.lz": (b"LZIP\1", "packed by lzip: unpack it with lzip -d s.tar.lz"),
    "s.tar.Z": (b"\x1f\x9d\x90", "packed by compress: unpack it with uncompress s.tar.Z"),
    "without-ending": (b"7z\xbc\xaf\x27\x1c\0", "a 7z archive: unpack it with 7z x without-ending"),
    "s.zip.001": (b"PK\3\4", "a piece of an archive; put the pieces together"),
    "s.z01": (b"PK\3\4", "a piece of an archive"),
    "s.part1.rar": (b"Rar!", "a piece of an archive"),
    "s.zip.crdownload": (b"PK\3\4", "a download that has not ended"),
    "s.tar.part": (b"", "a download that has not ended"),
    "s.zip": (b"PK\3\4", "not a whole zip file"),
}


def test_an_archive_in_a_folder_that_cannot_be_read_is_told(files, tmp_path):
    raw = write_tree(tmp_path / "raw", list(files.items())[:1])
    for name, (content, _) in UNREAD.items():
        (raw / name).write_bytes(content)
    write_zip(raw / "whole-without-ending", list(files.items())[1:2])
    write_zip(raw / "again.zip.1", list(files.items())[2:3])
    os.mkfifo(raw / "pipe.zip")
    os.mkfifo(raw / f"{name_of()}.skeleton")
    (raw / "notes").write_bytes(b"nothing of ours")
    report = prepare(raw, tmp_path / "out")
    assert report.clips == 3
    found = told(report)
    assert found.keys() == {*UNREAD, "pipe.zip", f"{name_of()}.skeleton"}
    for name, (_, expected) in UNREAD.items():
        assert found[name][0] == "unreadable"
        assert found[name][1].startswith(expected)
    assert found["pipe.zip"] == ("unreadable", "no plain file: a pipe, a device or the like")


def member(name: str, content: bytes = b"", **about: object) -> tuple[tarfile.TarInfo, io.BytesIO]:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    vars_of = {"type": tarfile.REGTYPE, "linkname": "", **about}
    info.type, info.linkname = vars_of["type"], vars_of["linkname"]
    return info, io.BytesIO(content)


def test_links_in_a_tar_file_are_followed_to_its_own_files_or_told(files, tmp_path):
    first, second, third, fourth, *_ = files
    with tarfile.open(tmp_path / "raw.tar", "w") as archive:
        archive.addfile(*member(f"a/{first}.skeleton", files[first]))
        archive.addfile(*member(f"../../{second}.skeleton", type=tarfile.LNKTYPE, linkname=f"a/{first}.skeleton"))
        archive.addfile(*member(f"a/{third}.skeleton", type=tarfile.SYMTYPE, linkname="/etc/passwd"))
        archive.addfile(*member(f"a/{fourth}.skeleton", type=tarfile.LNKTYPE, linkname="elsewhere"))
        archive.addfile(*member(f"{name_of(9)}.skeleton", type=tarfile.CHRTYPE))
        archive.addfile(*member(f"{name_of(8)}.skeleton", type=tarfile.DIRTYPE))
    report = prepare(tmp_path / "raw.tar", tmp_path / "out")
    columns, metadata = read_columns(tmp_path / "out")
    assert names_of(columns) == sorted([first, second])
    assert len(set(columns["length"].tolist())) == 1
    link = ("unreadable", "a link in raw.tar: unpack it, and name the folder")
    assert told(report) == {
        f"a/{third}.skeleton": link,
        f"a/{fourth}.skeleton": link,
        f"{name_of(9)}.skeleton": ("unreadable", "no file in raw.tar: unpack it, and name the folder"),
    }
    assert str(tmp_path) not in json.dumps(metadata)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "raw.tar"], "nothing is written beside"


def test_the_oldest_tar_files_have_no_mark(files, tmp_path):
    """As ``tar --format=v7`` writes them."""
    name, content = next(iter(files.items()))
    with tarfile.open(tmp_path / "new.tar", "w", format=tarfile.USTAR_FORMAT) as archive:
        archive.addfile(*member(f"{name}.skeleton", content))
    data = bytearray((tmp_path / "new.tar").read_bytes())
    data[257:512], data[148:156] = bytes(255), b" " * 8
    data[148:156] = b"%06o\0 " % sum(data[:512])
    (tmp_path / "old").write_bytes(data)
    assert b"ustar" not in data
    assert prepare(tmp_path / "old", tmp_path / "out").clips == 1


@pytest.mark.parametrize("order", [1, -1])
def test_of_two_members_of_one_name_in_a_zip_file_each_is_itself(files, tmp_path, order):
    """A zip file that was added to; by its name alone, the last would be read for both."""
    name, content = next(iter(files.items()))
    with zipfile.ZipFile(tmp_path / "raw.zip", "w") as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for data in (b"damaged", content)[::order]:
            archive.writestr(f"{name}.skeleton", data)
    report = prepare(tmp_path / "raw.zip", tmp_path / "out")
    assert report.clips == 1
    assert [one.reason for one in report.left_out] == ["damaged"]


def test_two_archives_with_the_same_recordings_give_each_once(files, tmp_path):
    places = [write_zip(tmp_path / f"{name}.zip", list(files.items())) for name in "ab"]
    report = prepare_ntu("ntu60", places, tmp_path / "out", workers=1)
    assert (report.files, report.clips) == (2 * len(files), len(files))
    assert {one.reason for one in report.left_out} == {"twice"}


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress])
def test_a_single_packed_recording_is_read_whatever_it_is_called(files, tmp_path, pack):
    name, content = next(iter(files.items()))
    for path in (tmp_path / name, tmp_path / f"{name}.packed"):
        path.write_bytes(pack(content))
        assert prepare(path, tmp_path / "out").clips == 1


@pytest.mark.parametrize("ending", ["zip", "tar", "tar.gz", "tar.bz2", "tar.xz"])
def test_an_archive_that_is_cut_anywhere_is_told_in_one_line(tree, tmp_path, ending):
    """After each of its first blocks and before each of its last; only a few bytes do not tell what they were."""
    mode = f"w:{ending[4:]}"
    whole = write_zip(tmp_path / "w", [*recordings(3).items()]) if ending == "zip" else tar_of(tree, tmp_path / "w", mode)
    data = whole.read_bytes()
    end = len(data) - (20480 if ending == "tar" else 0)
    for size in (1, 4, 6, 12, 300, 511, 512, 513, len(data) // 2, end - 22, end - 1):
        (tmp_path / f"a.{ending}").write_bytes(data[:size])
        with pytest.raises(DataError) as caught:
            prepare(tmp_path / f"a.{ending}", tmp_path / "out")
        assert len(str(caught.value).splitlines()) == 1
        assert size < 300 or "download it again" in str(caught.value)
    assert not list(tmp_path.glob(".*"))


# --- what cannot be read ----------------------------------------------------------------------------------------------


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


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda path: path, "no such folder or archive"),
        (lambda path: path.mkdir(), "no .skeleton file in there"),
        (lambda path: write_tree(path, [("notes", b"")]), "of 1 file none is a recording of ntu60"),
        (lambda path: path.write_bytes(b"PK\x03\x04 and no more"), "not a whole zip file"),
        (lambda path: path.write_bytes(b""), "an empty file; copy or download it again"),
        (lambda path: path.write_bytes(b"<html>Sign in</html>"), "a web page, perhaps one that asks to log in"),
        (lambda path: path.write_bytes(b"version https://git-lfs.github.com/spec/v1\n"), "a pointer of Git LFS"),
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
    is_cut = any(word in expected for word in ("not a whole", "not whole", "empty"))
    assert ("download it again" in str(caught.value)) is is_cut  # what is whole and something else would come the same again
