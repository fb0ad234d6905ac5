"""Arrays that claim or unpack to more than there is, odd headers: what they fill is no memory."""

from __future__ import annotations

import io
import subprocess
import sys
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest

from last_e.datafile import DataError
from last_e.prepare.foreign import import_file
from tests.foreign_files import ctrgcn, original, padded, refused


def test_an_array_that_claims_more_than_there_is_fills_no_memory(tmp_path):
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": (1, 10**12, 150)})
    with zipfile.ZipFile(tmp_path / "NTU60_CS.npz", "w") as archive:
        for part in ("train", "test"):
            archive.writestr(f"x_{part}.npy", header.getvalue())
            labels = io.BytesIO()
            np.save(labels, np.eye(60)[:1])
            archive.writestr(f"y_{part}.npy", labels.getvalue())
    refused("ctrgcn", tmp_path / "NTU60_CS.npz", "allowed: at most 1,000,000 clips of 16 MiB each")


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

    peak(9)  # whatever libraries take once, they have taken
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
    with pytest.raises(DataError, match=r"allowed: at most 1,000,000 clips of 16 MiB each"):
        import_file("npy", folder, tmp_path / "out")


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


@pytest.mark.parametrize("version", [b"\x02\x00", b"\x03\x00"])
def test_a_header_that_claims_gigabytes_is_not_read(tmp_path, version):
    header = b"\x93NUMPY" + version + (2**31).to_bytes(4, "little") + b" " * 10_000
    path = tmp_path / "NTU60_CS.npz"
    with zipfile.ZipFile(ctrgcn(path), "a", zipfile.ZIP_DEFLATED) as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        archive.writestr("y_train.npy", header)
    with pytest.raises(DataError, match="its header has 2,147,483,648 bytes"):
        import_file("ctrgcn", path, tmp_path / "out")
