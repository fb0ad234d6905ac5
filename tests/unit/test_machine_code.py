"""Machine code on disk: what is wrong there costs time, never a result."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import numba
import pytest
from numba.core.caching import FunctionCache

from last_e.machine_code import compiled
from last_e.prepare import scan


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder in which numba keeps machine code."""
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path / "kept"))
    return tmp_path / "kept"


@pytest.fixture
def full_disk(small_disk: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same on a disk on which nothing more finds room."""
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(small_disk / "kept"))
    size = shutil.disk_usage(small_disk).free
    (small_disk / "all").write_bytes(bytes(size))
    assert shutil.disk_usage(small_disk).free == 0
    return small_disk / "kept"


def twice(x: float) -> float:
    return 2 * x


def files(kept: Path) -> dict[str, list[Path]]:
    return {suffix: list(kept.rglob(f"*.{suffix}")) for suffix in ("nbi", "nbc")}


def test_it_is_kept_and_damaged_files_are_written_anew(kept):
    assert compiled("float64(float64)", twice)(4.0) == 8.0
    assert [len(found) for found in files(kept).values()] == [1, 1]
    for suffix in ("nbi", "nbc"):
        (file,) = files(kept)[suffix]
        whole = file.read_bytes()
        file.write_bytes(whole[: len(whole) // 2])
        assert compiled("float64(float64)", twice)(4.0) == 8.0
        assert compiled("float64(float64)", twice)(4.0) == 8.0
        assert len(files(kept)[suffix][0].read_bytes()) >= len(whole) // 2 + 1
        assert compiled("float64(float64)", twice).stats.cache_hits, "what was damaged is whole again"


def test_without_room_it_is_compiled_all_the_same(full_disk):
    assert compiled("float64(float64)", twice)(4.0) == 8.0
    assert files(full_disk)["nbc"] == []


def test_without_a_place_it_is_compiled_all_the_same(monkeypatch):
    monkeypatch.setattr(numba.core.caching.CacheImpl, "_locator_classes", [])
    assert compiled("float64(float64)", twice)(4.0) == 8.0


@pytest.fixture
def new_reader() -> Iterator[None]:
    """The fast reader of recordings as in a process that has not read one yet."""
    scan._machine_code.cache_clear()
    yield
    scan._machine_code.cache_clear()


ONE_BODY = f"1\n1\n7{' 0' * 9}\n25\n{'1 2 3' + ' 0' * 9 + chr(10)}" + ("4 5 6" + " 0" * 9 + "\n") * 24


def read_a_recording() -> None:
    found = scan.scan(ONE_BODY.encode())
    assert found is not None
    joints, frame, body, frames = found
    assert joints[0, :2].tolist() == [[1, 2, 3], [4, 5, 6]]
    assert (frame.tolist(), body.tolist(), frames) == ([0], [7], 1)


@pytest.mark.slow  # compiled anew
@pytest.mark.usefixtures("new_reader")
def test_recordings_are_read_fast_with_damaged_files(kept):
    kept_by_numba = FunctionCache(scan._scan)
    index = kept / Path(kept_by_numba.cache_path).name / f"{kept_by_numba._impl.filename_base}.nbi"
    index.parent.mkdir(parents=True, exist_ok=True)
    index.write_bytes(b"\x80\x05\x95half of a pickle")
    read_a_recording()
    assert FunctionCache(scan._scan)._cache_file._load_index() == {}, "the next process writes it anew"


@pytest.mark.slow
@pytest.mark.usefixtures("full_disk", "new_reader")
def test_recordings_are_read_fast_without_room():
    read_a_recording()
