"""Recordings as they lie there: folders, zip files and archives as people make them, copies, links, and what cannot be read."""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import tarfile
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from last_e.data import read_clips
from last_e.datafile import DataError
from last_e.prepare import archives
from last_e.prepare.clipfile import read_columns
from last_e.prepare.ntu import prepare_ntu
from last_e.prepare.skeleton import MAX_BYTES
from tests.ntu_files import name_of, tar_of, write_tree, write_zip
from tests.ntu_prepare import interrupted, prepare, recordings, why

pytestmark = pytest.mark.usefixtures("small_parts")


# --- zip files --------------------------------------------------------------------------------------------------------


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


# --- archives as people make them -------------------------------------------------------------------------------------


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


def test_of_several_archives_in_a_tar_file_each_is_read(files, tmp_path):
    """What follows an archive in a tar file is no part of it: a zip file is read from its end."""
    with tarfile.open(tmp_path / "all.tar", "w") as archive:
        for number, one in enumerate(files.items()):
            archive.add(write_zip(tmp_path / f"{number}.zip", [one]), f"{number}.zip")
    report = prepare(tmp_path / "all.tar", tmp_path / "out")
    assert (report.clips, report.left_out) == (len(files), [])


@pytest.mark.parametrize("kind", ["tar", "tar.gz", "tar.xz", "zip in zip", "in a folder"])
def test_how_much_of_an_archive_has_been_read_is_told(tree, tmp_path, kind, monkeypatch):
    monkeypatch.setattr(archives, "_CHUNK_BYTES", 10_000)
    (tmp_path / "raw").mkdir()
    told: list[tuple[str, int, int]] = []
    prepare(ARCHIVES[kind](tree, tmp_path / "raw"), tmp_path / "out", watch=lambda *one: told.append(one))
    names = dict.fromkeys(name for name, *_ in told)
    assert all(name.startswith(str(tmp_path / "raw")) for name in names)
    steps = [(done, total) for name, done, total in told if name == next(iter(names))]
    assert len(steps) >= 5
    assert all(0 < done <= total for done, total in steps)
    first = [done for done, total in steps if total == steps[0][1]]
    assert first == sorted(first)
    assert first[-1] > 0.9 * steps[0][1]


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


# --- copies and links -------------------------------------------------------------------------------------------------


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


@pytest.mark.parametrize("kind", ["below zero", "a long name", "pax"])
def test_a_tar_file_whose_headers_lie_about_their_length_is_told_at_once(files, tmp_path, kind):
    """Python's reader goes round for ever on the first (CVE-2025-8194), and asks for all that the others name."""
    name, data = next(iter(files.items()))
    info = tarfile.TarInfo(name)
    info.size = len(data)
    lies = tarfile.TarInfo("more")
    lies.type = {"below zero": tarfile.REGTYPE, "a long name": tarfile.GNUTYPE_LONGNAME, "pax": tarfile.XHDTYPE}[kind]
    lies.size = 1
    header = bytearray(lies.tobuf(tarfile.GNU_FORMAT))
    size = -512 if kind == "below zero" else 20 << 30
    header[124:136] = (b"\xff" if size < 0 else b"\x80") + (size % (1 << 88)).to_bytes(11, "big")
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    padding = bytes(-len(data) % 512)
    path = tmp_path / "lies.tar"
    path.write_bytes(info.tobuf(tarfile.GNU_FORMAT) + data + padding + bytes(header) + bytes(1024))
    with path.open("ab") as file:
        file.truncate(30 << 30)  # with holes
    with pytest.raises(DataError, match="not a whole tar file"):
        prepare(path, tmp_path / "out")
