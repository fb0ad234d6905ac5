"""What must hold for any bytes in the place of a pickle, an ``.npz``, keypoints or a prepared file: read, or a named error."""

from __future__ import annotations

import io
import json
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from last_e.data import OwnClip, Skeleton, Split, write_dataset
from last_e.datafile import DataError
from last_e.prepare.clipfile import read_columns
from last_e.prepare.foreign import import_file
from last_e.prepare.import_own import Wanted, import_keypoints
from last_e.prepare.inspect import animate, summarize
from last_e.prepare.pickles import read_pickle
from last_e.prepare.synth import synthesize

MOST_MISTAKES = 11
"""That an own set tells at once, a line each."""
PARTS = ("x_train", "y_train", "x_test", "y_test")


def check_pickle(data: bytes, folder: Path) -> None:
    """Read as any pickle, as pyskl's file, and as the labels beside arrays."""
    path = folder / "a.pkl"
    path.write_bytes(data)
    attempt(lambda: read_pickle(path))
    imported("pyskl", path, folder / "out")
    for part in ("train", "val"):
        np.save(folder / f"{part}_joint.npy", np.ones((2, 3, 4, 25, 1), dtype=np.float32))
        (folder / f"{part}_label.pkl").write_bytes(data)
    imported("npy", folder, folder / "out")


def check_npz(data: bytes, folder: Path) -> None:
    """The first byte says whether the rest is a whole file or one of the arrays in it, as zip files check their content."""
    path = folder / "a_cs.npz"
    if data[:1] in [bytes([n]) for n in range(4)]:
        arrays = _arrays()
        arrays[PARTS[data[0]]] = data[1:]
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in arrays.items():
                archive.writestr(f"{name}.npy", content)
        if data[0] == 0:
            for part in ("train", "val"):
                (folder / f"{part}_joint.npy").write_bytes(data[1:])
                (folder / f"{part}_label.pkl").write_bytes(pickle.dumps([1, 2]))
            imported("npy", folder, folder / "out")
    else:
        path.write_bytes(data[1:])
    imported("ctrgcn", path, folder / "out")


def check_prepared(data: bytes, folder: Path) -> None:
    """The first byte says whether the rest is a whole file or its header, to which its length and the data are added."""
    path = folder / "a.safetensors"
    header = data[1:]
    path.write_bytes(len(header).to_bytes(8, "little") + header + _body(header) if data[:1] == b"\0" else header)
    attempt(lambda: summarize(path))
    attempt(lambda: animate(path, "0", folder / "a.html"))
    if attempt(lambda: read_columns(path)) is not None:
        attempt(lambda: synthesize(str(path), folder / "b", clips=2))


def _body(header: bytes) -> bytes:
    """Ones, as many as a header announces."""
    try:
        ends = [int(one["data_offsets"][1]) for name, one in json.loads(header).items() if name != "__metadata__"]
    except (ValueError, TypeError, KeyError, AttributeError, IndexError, RecursionError, OverflowError):
        return b""
    size = min(max(ends, default=0), 1 << 16)
    return (b"\1\0\0\0\0\0\0\0" * (max(size, 0) // 8 + 1))[:size]


def imported(kind: str, path: Path, out: Path) -> None:
    report = attempt(lambda: import_file(kind, path, out, split="xsub"))
    if report is not None:
        assert summarize(out).clips == report.clips
        out.unlink()
    assert not list(out.parent.glob(".out*"))


def attempt(call: Callable[[], Any]) -> Any:
    try:
        return call()
    except DataError as error:
        message = str(error)
        assert message
        assert len(message.splitlines()) <= MOST_MISTAKES
        assert len(message) < 2000 * len(message.splitlines())
        return None


def _npy(array: Any) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def _arrays() -> dict[str, bytes]:
    rows, labels = np.ones((2, 3, 150), dtype=np.float32), np.eye(3)[:2]
    return {name: _npy(rows if name.startswith("x") else labels) for name in PARTS}


def check_keypoints(data: bytes, folder: Path) -> None:
    """The first byte says as which kind of keypoints the rest is read."""
    if not data or data[0] >= len(KEYPOINTS):
        return
    kind, name = KEYPOINTS[data[0]]
    path, out = folder / "in" / name, folder / "own.safetensors"
    path.parent.mkdir()
    path.write_bytes(data[1:])
    of = path.parent if kind == "openpose" else path
    if attempt(lambda: import_keypoints(kind, of, out, Wanted(layout="coco17", units="pixels"))) is not None:
        assert summarize(out).clips
        out.unlink()
    assert [left.name for left in folder.iterdir()] == ["in"]


KEYPOINTS = [
    ("csv", "a.csv"),
    ("npz", "a.npz"),
    ("json", "a.jsonl"),
    ("mediapipe", "a.json"),
    ("openpose", "0_keypoints.json"),
    ("coco", "a.json"),
    ("pyskl", "a.pkl"),
]
CHECKS = {"pickle": check_pickle, "npz": check_npz, "prepared": check_prepared, "keypoints": check_keypoints}


def seeds(kind: str, folder: Path) -> list[bytes]:
    """Good files to begin with, made here."""
    if kind == "pickle":
        joints = np.ones((1, 4, 25, 3), dtype=np.float16)
        names = ["S001C001P001R001A001", "S001C001P002R001A002"]
        people = [{"frame_dir": name, "label": 1, "keypoint": joints, "total_frames": 4} for name in names]
        values = [
            {"split": {"xsub_train": names[:1]}, "annotations": people},
            (names, [1, 2]),
            [1, np.int64(2)],
            np.array([1, 2]),
        ]
        return [pickle.dumps(value, protocol) for value in values for protocol in (2, 4)]
    if kind == "npz":
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w") as archive:
            for name, content in _arrays().items():
                archive.writestr(f"{name}.npy", content)
        original = _npy(np.ones((2, 3, 4, 25, 1), dtype=np.float32))
        return [b"\xff" + packed.getvalue(), b"\0" + original, *(bytes([n]) + _arrays()[name] for n, name in enumerate(PARTS))]
    if kind == "keypoints":
        return _keypoints()
    plain = _header("length", "bodies", "label", "performer", "camera", "setup")
    path = folder / "seed"
    synthesize("ntu60", path, clips=1)
    content = path.read_bytes()
    size = 8 + int.from_bytes(content[:8], "little")
    path.unlink()
    own = folder / "own.safetensors"
    some = [OwnClip(np.ones((1, 2, 3)) * n, n % 2, subject=n) for n in range(4)]
    pair = Skeleton(joints=("a", "b"), bones=((0, 1),))
    write_dataset(own, some, classes=["a", "b"], skeleton=pair, splits={"it": Split(test=[2, 3], validation=[1])})
    whole = own.read_bytes()
    own.unlink()
    found = [b"\xff" + len(plain).to_bytes(8, "little") + plain + _body(plain), b"\0" + plain, b"\0" + content[8:size]]
    return [*found, b"\xff" + whole]


def _keypoints() -> list[bytes]:
    """A file of two clips of each kind."""
    points = np.arange(2 * 17 * 3, dtype=float).reshape(2, 17, 3)
    rows = ["clip,frame,label,person," + ",".join(f"{axis}{n}" for n in range(17) for axis in "xy")]
    rows += [f"c{n},{frame},{n},p," + ",".join(["1.5", "2"] * 17) for n in range(2) for frame in range(2)]
    packed = io.BytesIO()
    np.savez(packed, joints=np.stack([points, points + 1]), label=np.array(["a", "b"]), length=np.array([2, 1]))
    records = [{"name": f"c{n}", "label": n, "subject": f"s{n}", "joints": (points + n).tolist()} for n in range(2)]
    marks = [{"x": 0.5, "y": 0.1, "z": 0.2, "visibility": 0.9}] * 17
    frames = [{"frames": [marks, None, {"pose_landmarks": [marks]}], "label": n, "name": f"c{n}"} for n in range(2)]
    people = {"people": [{"pose_keypoints_2d": points[0].ravel().tolist()}]}
    images = [{"id": n, "file_name": f"{n % 2}/c{n % 2}/{n}.jpg"} for n in range(4)]
    marked = [{"image_id": n, "keypoints": (points[0] + 1).ravel().tolist()} for n in range(4)]
    score = np.ones((1, 2, 17), dtype=np.float16)
    seen = [{"frame_dir": f"c{n}", "label": n, "keypoint": points[None, ..., :2], "keypoint_score": score} for n in range(2)]
    contents = [
        "\n".join(rows).encode(),
        packed.getvalue(),
        "\n".join(map(json.dumps, records)).encode(),
        json.dumps(frames).encode(),
        json.dumps(people).encode(),
        json.dumps({"images": images, "annotations": marked}).encode(),
        pickle.dumps({"split": {"a_train": ["c0"]}, "annotations": seen}),
    ]
    return [bytes([number]) + content for number, content in enumerate(contents)]


def _header(*columns: str) -> bytes:
    """Of a file with a clip of one frame; the data are ones."""
    header: dict[str, Any] = {"__metadata__": {"format": "lastrun-clips-1", "dataset": "ntu60"}}
    for number, name in enumerate(columns):
        header[name] = {"dtype": "I64", "shape": [1], "data_offsets": [8 * number, 8 * number + 8]}
    end = 8 * len(columns)
    header["joints"] = {"dtype": "I16", "shape": [1, 25, 3], "data_offsets": [end, end + 150]}
    header["name"] = {"dtype": "U8", "shape": [1, 2], "data_offsets": [end + 150, end + 152]}
    return json.dumps(header).encode()
