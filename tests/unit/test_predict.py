"""Recordings of every kind as a network takes them, and what is said of long ones over time."""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from last_e.datafile import DataError
from last_e.described import Description
from last_e.known import description_of
from last_e.predict.recordings import Reader, Recording, Unread, see_that_units_fit
from last_e.predict.timeline import Segment, Timeline, windows
from last_e.prepare.own import OwnClip, Split, write_dataset
from last_e.skeletons import COCO17, NTU25
from runner.errors import UsageError
from runner.models import Choice
from tests.ntu_files import motion, one_person, text_of

IRDS = description_of("irds", 9)
FLAT = Description(name="waves", classes=("still", "waving"), skeleton=COCO17, units="pixels", splits={"people": ""})


def read(model: Description, *places: Path, **said: Any) -> tuple[list[Recording], list[str]]:
    items = list(Reader(model, **said).read(map(str, places)))
    assert None not in items
    return (
        [one for one in items if isinstance(one, Recording)],
        [one.why for one in items if isinstance(one, Unread)],
    )


def points(frames: int = 12, seed: int = 0) -> np.ndarray:
    """(T, 17, 2) pixels."""
    return np.random.default_rng(seed).uniform(100, 400, (frames, 17, 2)).round(2)


def test_the_same_recording_is_the_same_in_every_kind_of_file(tmp_path: Path) -> None:
    joints = motion(0)
    (tmp_path / "one.skeleton").write_bytes(text_of(one_person(joints)))
    (tmp_path / "two.skeleton.gz").write_bytes(gzip.compress(text_of(one_person(joints))))
    np.save(tmp_path / "three.npy", joints)
    np.save(tmp_path / "four.npy", joints[None])
    np.save(tmp_path / "five.npy", np.stack([joints[None], joints[None]]))
    np.savez(tmp_path / "six.npz", joints=joints[None])
    (tmp_path / "seven.json").write_text(json.dumps({"joints": joints.tolist()}))
    (tmp_path / "eight.jsonl").write_text(json.dumps({"joints": joints.tolist(), "name": "mine"}) + "\n")
    rows = ["frame," + ",".join(f"{axis}{joint}" for joint in range(25) for axis in "xyz")]
    rows += [f"{number}," + ",".join(map(repr, frame.reshape(-1).tolist())) for number, frame in enumerate(joints)]
    (tmp_path / "nine.csv").write_text("\n".join(rows))
    clips = [OwnClip(joints, number % 2, name=f"p{number}") for number in range(4)]
    write_dataset(tmp_path / "ten.safetensors", clips, classes=["a", "b"], skeleton="ntu25",
                  splits={"s": Split("clip", test=["p2", "p3"])})  # fmt: skip
    (tmp_path / "notes.txt").write_text("no recording")
    found, unread = read(IRDS, tmp_path)  # a folder: all that are recordings, by their names
    assert unread == []
    assert len(found) == 8 + 2 + 4
    assert all(np.array_equal(one.joints, found[0].joints) for one in found)
    assert all(one.frames == len(joints) == len(one.frame) for one in found)
    names = {Path(one.source).stem.split(".")[0]: one.name for one in found}
    assert (names["eight"], names["six"], names["ten"]) == ("mine", "six-000000", "p3")
    assert not any(one.doubts for one in found)


def test_detections_of_an_image_are_read_without_labels(tmp_path: Path) -> None:
    joints = points()
    out = tmp_path / "out" / "take"
    out.mkdir(parents=True)
    images, annotations = [], []
    for number, frame in enumerate(joints):
        numbers = np.concatenate([frame, np.ones((17, 1))], axis=1).reshape(-1).tolist()
        person = {"people": [{"pose_keypoints_2d": numbers}]}
        (out / f"take_{number:012}_keypoints.json").write_text(json.dumps(person))
        images.append({"id": number, "file_name": f"take/{number:06}.jpg"})
        annotations.append({"image_id": number, "keypoints": numbers})
    (tmp_path / "coco.json").write_text(json.dumps({"images": images, "annotations": annotations}))
    landmarks = [[{"x": x, "y": y, "visibility": 1} for x, y in frame] for frame in joints.tolist()]
    (tmp_path / "mp.json").write_text(json.dumps({"frames": [{"pose_landmarks": [frame]} for frame in landmarks]}))
    np.save(tmp_path / "plain.npy", joints)
    found, unread = read(FLAT, tmp_path)
    assert unread == []
    assert [one.name for one in found] == ["take", "mp", "plain", "take"]
    assert all(np.array_equal(one.joints, found[0].joints) for one in found)


def test_one_that_is_bad_is_told_and_the_others_are_read(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", motion(0))
    (tmp_path / "b.npy").write_bytes(b"no array")
    (tmp_path / "c.skeleton").write_text("3\n1\n")
    np.save(tmp_path / "d.npy", points())
    np.save(tmp_path / "e.npy", np.full((5, 25, 3), np.nan))
    lines = ["{", json.dumps({"joints": motion(1).tolist()}), "[]", json.dumps({"joints": [[[1, 2, 3]]]}), "{}"]
    (tmp_path / "f.jsonl").write_text("\n".join(lines))
    (tmp_path / "g.csv").write_text("a,b\n1,2\n")
    (tmp_path / "0.json").write_text(f'{{"joints": [[[1, 2, {"3" * 5000}]]]}}')  # before all others
    (tmp_path / "1.json").write_text(f'{{"joints": [[[1, 2, {"3" * 400}]]]}}')
    found, unread = read(IRDS, tmp_path, tmp_path / "nowhere", tmp_path / "h.xyz")
    assert [Path(one.source).name for one in found] == ["a.npy", "f.jsonl"]
    text = "\n".join(unread)
    assert len(unread) == 13
    assert "0.json: no JSON: line 1: a whole number of more than 4300 digits" in text
    assert "1.json" in text
    assert "b.npy is damaged or no array" in text
    assert "c.skeleton: line 3: the file ends where" in text
    told = "d.npy: its joints are (1, 12, 17, 2); allowed: (people, frames, 25, 3), in metres, as in irds, which the model was"
    assert told in text
    assert "e.npy: nobody is seen in any frame" in text
    assert "f.jsonl:1: no JSON" in text
    assert "f.jsonl:3: no record of a clip" in text
    assert "f.jsonl:4: its joints are (1, 1, 1, 3)" in text
    assert "f.jsonl:5: no joints in it" in text
    assert "g.csv:1: no columns of joints" in text
    assert f"{tmp_path / 'nowhere'}: no such file or folder" in text
    (tmp_path / "h.xyz").touch()
    assert "its name does not say what it is; allowed: .skeleton" in read(IRDS, tmp_path / "h.xyz")[1][0]
    assert "/dev/null: a device, a pipe or the like; name a file" in read(IRDS, Path("/dev/null"))[1][0]
    (tmp_path / "empty").mkdir()
    assert "no .safetensors, .npy, .npz, .csv" in read(IRDS, tmp_path / "empty")[1][0]


def test_a_model_and_data_that_do_not_fit_are_told_with_both_sides(tmp_path: Path) -> None:
    (tmp_path / "one.skeleton").write_bytes(text_of(one_person(motion(0))))
    (why,) = read(FLAT, tmp_path / "one.skeleton")[1]
    assert "has 25 joints in three dimensions (spine_base, spine_mid, neck, ...)" in why
    assert "trained on waves, with 17 joints in two dimensions (nose, left_eye, right_eye, ...)" in why
    clips = [OwnClip(points(seed=number), number % 2, name=f"c{number}") for number in range(4)]
    write_dataset(tmp_path / "my.safetensors", clips, classes=["a", "b"], skeleton="coco17", units="pixels",
                  splits={"s": Split("clip", test=["c2", "c3"])})  # fmt: skip
    assert "17 joints in two dimensions" in read(IRDS, tmp_path / "my.safetensors")[1][0]
    np.save(tmp_path / "deep.npy", np.random.default_rng(0).normal(0, 0.3, (9, 17, 3)))
    assert "its third number goes from" in read(FLAT, tmp_path / "deep.npy")[1][0]
    with pytest.raises(DataError, match="--units metres: the model was trained on waves, in pixels: pixels and image are"):
        see_that_units_fit(FLAT, "metres")
    # Pixels in place of metres, and metres in place of millimetres.
    np.save(tmp_path / "px.npy", motion(0) * 500)
    assert "are they pixels?" in read(IRDS, tmp_path / "px.npy")[1][0]
    np.save(tmp_path / "m.npy", motion(0))
    (one,), _ = read(IRDS, tmp_path / "m.npy", units="millimetres")
    assert "a torso is 0.001 m long: pixels, or another unit, in place of millimetres" in one.doubts[0]


def test_frames_in_which_nobody_is_seen_keep_their_time(tmp_path: Path) -> None:
    joints = motion(0, 30)
    joints[10:20] = np.nan
    np.save(tmp_path / "gap.npy", joints)
    scene = one_person(motion(0, 30))
    scene[10:20] = [[]] * 10
    (tmp_path / "gap.skeleton").write_bytes(text_of(scene))
    found, _ = read(IRDS, tmp_path)
    for one in found:
        assert one.frames == 30
        assert one.frame.tolist() == [*range(10), *range(20, 30)]
        assert one.joints.shape == (1, 20, 25, 3)


def test_standard_input_is_answered_as_it_comes() -> None:
    there, other = os.pipe()
    kept = os.dup(0)
    os.dup2(there, 0)
    try:
        items = Reader(IRDS).read(["-"])
        assert next(items) is None  # nothing there yet
        line = json.dumps({"joints": motion(0).tolist()}).encode()
        os.write(other, line[:1000])
        assert next(items) is None  # half a line
        os.write(other, line[1000:] + b"\n\n[]\n")
        one = next(items)
        assert isinstance(one, Recording)
        assert (one.source, one.name) == ("standard input", "line-000001")
        bad = next(items)
        assert isinstance(bad, Unread)
        assert bad.why.startswith("standard input:3: no record")
        os.write(other, line.replace(b"{", b'{"name": "last", ', 1))
        os.close(other)
        left = [item for item in items if item is not None]
        assert [one.name for one in left if isinstance(one, Recording)] == ["last"]
    finally:
        os.dup2(kept, 0)
        os.close(kept)
        os.close(there)


def test_windows_cover_every_frame() -> None:
    assert list(windows(10, 4, 2)) == [(0, 4), (2, 6), (4, 8), (6, 10)]
    assert list(windows(11, 4, 3)) == [(0, 4), (3, 7), (6, 10), (7, 11)]
    assert list(windows(3, 4, 2)) == [(0, 3)]
    assert list(windows(4, 4, 2)) == [(0, 4)]


def over_time(*said: tuple[int, int, list[float]]) -> list[Segment]:
    timeline = Timeline()
    found = [one for begin, end, row in said for one in timeline.add(begin, end, np.array(row))]
    return [*found, *timeline.close()]


def test_what_is_said_of_a_frame_is_the_mean_of_its_windows() -> None:
    first, second = [0.9, 0.1], [0.3, 0.7]
    assert over_time((0, 4, first), (2, 6, first)) == [Segment(0, 6, 0, pytest.approx(0.9))]
    # Where both are heard the first wins: 0.6 to 0.4.
    assert over_time((0, 4, first), (2, 6, second)) == [
        Segment(0, 4, 0, pytest.approx((0.9 * 2 + 0.6 * 2) / 4)),
        Segment(4, 6, 1, pytest.approx(0.7)),
    ]
    # Between two windows nobody was seen.
    assert over_time((0, 4, first), (8, 12, first)) == [Segment(0, 4, 0, 0.9), Segment(8, 12, 0, 0.9)]
    assert over_time() == []


def test_the_classes_of_known_sets_have_names() -> None:
    assert description_of("ntu60", 60).classes[:2] == ("drink water", "eat meal")
    assert description_of("ntu60", 60).classes[59] == "walking apart"
    assert description_of("ntu120", 120).classes[119] == "rock-paper-scissors"
    assert len(set(description_of("ntu120", 120).classes)) == 120
    assert description_of("irds", 9).classes[8] == "side tap right"
    assert description_of("synthetic", 6).classes == tuple(f"class {n}" for n in range(6))
    assert description_of("ntu60", 61).classes[60] == "class 60"
    assert description_of("irds", 9).skeleton == NTU25


def test_one_checkpoint_is_named_once() -> None:
    assert Choice(step=3).step == 3
    with pytest.raises(UsageError, match="--last and --step name one checkpoint each"):
        Choice(last=True, step=3)
