"""Keypoints of other programs' files, imported as own sets: every kind shows the same people doing the same."""

from __future__ import annotations

import json
import os
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from last_e.data import read_clips
from last_e.data.clips import Clips
from last_e.data.splits import held_out, train_mask
from last_e.datafile import DataError
from last_e.prepare.import_own import KINDS as READERS
from last_e.prepare.import_own import Wanted, import_keypoints
from last_e.problems import ConfigError
from last_e.skeletons import COCO17, KINECT20, LAYOUTS, MEDIAPIPE33, Skeleton
from runner.commands.data import OWN_KINDS

LABELS = ("wave", "sit", "wave", "sit")
FRAMES = (5, 6, 7, 8)


def points(number: int, joints: int, sides: int = 3) -> np.ndarray[Any, Any]:
    """(T, V, D) of a clip, with a joint that is not seen in the second frame."""
    found = np.random.default_rng(number).uniform(1, 9, (FRAMES[number], joints, sides)).round(3)
    found[1, 3] = np.nan
    return found


def told(number: int) -> dict[str, Any]:
    return {"name": f"take{number}", "label": LABELS[number], "subject": f"s{number // 2}"}


def csv_of(path: Path, skeleton: Skeleton, sides: str = "xyz", numbered: bool = False) -> Path:
    names = [f"{side}{n}" if numbered else f"{joint}_{side}" for n, joint in enumerate(skeleton.joints) for side in sides]
    lines = [",".join(["clip", "frame", "label", "subject", *names])]
    for number in range(4):
        about = told(number)
        for frame, at in enumerate(points(number, len(skeleton.joints), len(sides))):
            values = ["" if np.isnan(value) else f"{value}" for value in at.ravel()]
            lines.append(",".join([about["name"], str(frame), about["label"], about["subject"], *values]))
    path.write_text("\n".join(lines) + "\n")
    return path


def npz_of(path: Path, joints: int) -> Path:
    found = np.zeros((4, max(FRAMES), joints, 3))
    for number in range(4):
        found[number, : FRAMES[number]] = points(number, joints)
    about = [told(number) for number in range(4)]
    np.savez(path, joints=found, length=np.array(FRAMES), **{key: np.array([one[key] for one in about]) for key in about[0]})
    return path


def plain(array: np.ndarray[Any, Any]) -> Any:
    """Lists with null for a joint that is not seen."""
    return [[None if np.isnan(joint).any() else joint.tolist() for joint in frame] for frame in array]


def json_of(path: Path, joints: int) -> Path:
    records = [{**told(number), "joints": plain(points(number, joints))} for number in range(4)]
    if path.suffix == ".jsonl":
        path.write_text("\n".join(map(json.dumps, records)) + "\n")
    elif path.suffix:
        path.write_text(json.dumps({"clips": records}))
    else:
        for record in records:
            folder = path / record.pop("label")
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{record['name']}.json").write_text(json.dumps(record))
    return path


def mediapipe_of(path: Path, *, world: bool = False) -> Path:
    key = "pose_world_landmarks" if world else "pose_landmarks"
    path.mkdir()
    for number in range(4):
        frames = []
        for frame in points(number, 33):
            marks = [
                dict(zip("xyz", np.nan_to_num(at).tolist())) | {"visibility": float(not np.isnan(at).any())} for at in frame
            ]
            frames.append({key: [marks]})
        frames.append({key: []})  # nobody is there any more
        (path / f"take{number}.json").write_text(json.dumps({**told(number), "frames": frames}))
    return path


def openpose_of(path: Path, *, stranger: bool = False) -> Path:
    for number in range(4):
        folder = path / LABELS[number] / f"take{number}"
        folder.mkdir(parents=True)
        for frame, at in enumerate(points(number, 25, 2)):
            keypoints = np.nan_to_num(np.concatenate([at, np.where(np.isnan(at[:, :1]), 0, 0.9)], axis=1))
            people = [{"pose_keypoints_2d": keypoints.ravel().tolist()}]
            if stranger:  # seen worse, and listed first now and then
                other = np.where(keypoints > 0, keypoints + np.array([500, 0, -0.5]), 0)
                people.insert(frame % 2, {"pose_keypoints_2d": other.ravel().tolist()})
            (folder / f"take_{frame:012}_keypoints.json").write_text(json.dumps({"version": 1.3, "people": people}))
    return path


def coco_of(path: Path) -> Path:
    images, annotations = [], []
    for number in range(4):
        for frame, at in enumerate(points(number, 17, 2)):
            images.append({"id": len(images), "file_name": f"{LABELS[number]}/take{number}/{frame:06}.jpg"})
            keypoints = np.nan_to_num(np.concatenate([at, np.where(np.isnan(at[:, :1]), 0, 2)], axis=1))
            annotations.append({"image_id": len(images) - 1, "category_id": 1, "keypoints": keypoints.ravel().tolist()})
    path.write_text(json.dumps({"images": images[::-1], "annotations": annotations, "categories": []}))
    return path


def pyskl_of(path: Path) -> Path:
    annotations = []
    for number in range(4):
        at = points(number, 17, 2)[None]
        one = {"frame_dir": f"take{number}", "label": int(LABELS[number] == "wave"), "img_shape": (1080, 1920)}
        annotations.append(one | {"keypoint": np.nan_to_num(at), "keypoint_score": (~np.isnan(at[..., 0])).astype(np.float16)})
    lists = {"sub_train": ["take0", "take3"], "sub_val": ["take1", "take2"]}
    path.write_bytes(pickle.dumps({"split": lists, "annotations": annotations}))
    return path


def imported(kind: str, path: Path, **wanted: Any) -> Clips:
    out = path.parent / "own.safetensors"
    import_keypoints(kind, path, out, Wanted(**{"test": "0.5", "by": "clip"} | wanted), overwrite=True)
    return read_clips(out, 2)


KINDS: dict[str, tuple[str, Callable[[Path], Path], dict[str, Any], int, tuple[float, ...]]] = {
    "csv": ("csv", lambda p: csv_of(p / "a.csv", COCO17), {"units": "metres"}, 17, (1000, 1000, 1000)),
    "csv flat": ("csv", lambda p: csv_of(p / "a.csv", COCO17, "xy"), {}, 17, (4, -4)),
    "csv Kinect": (
        "csv",
        lambda p: csv_of(p / "a.csv", KINECT20, numbered=True),
        {"layout": "kinect20"},
        20,
        (1000, 1000, 1000),
    ),
    "npz": ("npz", lambda p: npz_of(p / "a.npz", 25), {"layout": "kinect25"}, 25, (1000, 1000, 1000)),
    "json": ("json", lambda p: json_of(p / "a.json", 25), {"layout": "ntu25"}, 25, (1000, 1000, 1000)),
    "json lines": ("json", lambda p: json_of(p / "a.jsonl", 25), {"layout": "ntu25"}, 25, (1000, 1000, 1000)),
    "json folder": ("json", lambda p: json_of(p / "a", 25), {"layout": "ntu25"}, 25, (1000, 1000, 1000)),
    "mediapipe": ("mediapipe", lambda p: mediapipe_of(p / "a"), {}, 33, (2000, -2000)),
    "openpose": ("openpose", lambda p: openpose_of(p / "a"), {}, 25, (4, -4)),
    "openpose of two": ("openpose", lambda p: openpose_of(p / "a", stranger=True), {}, 25, (4, -4)),
    "coco": ("coco", lambda p: coco_of(p / "a.json"), {}, 17, (4, -4)),
    "pyskl": ("pyskl", lambda p: pyskl_of(p / "a.pkl"), {"layout": "coco17", "classes": "sit,wave", "test": None}, 17, (4, -4)),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_gives_the_same_clips(kind: str, tmp_path: Path) -> None:
    of, made, wanted, joints, scale = KINDS[kind]
    found = imported(of, made(tmp_path), **wanted)
    about = found.description
    assert about is not None
    assert about.classes == ("sit", "wave")
    order = np.argsort(found.length.numpy(), kind="stable")
    assert found.length[order].tolist() == list(FRAMES)
    assert [about.classes[label] for label in found.label[order].tolist()] == list(LABELS)
    sides = 2 if kind == "csv flat" or of in ("openpose", "coco", "pyskl") else 3
    if of == "pyskl":  # by its own list
        assert train_mask(found, "own", "part")[order].tolist() == [True, False, False, True]
    for number in range(4):
        begin = int(found.start[order[number]])
        expected = points(number, joints, sides)[..., : len(scale)] * scale
        seen = ~np.isnan(expected)
        ours = found.joints[begin : begin + FRAMES[number], :, : len(scale)].numpy()
        assert np.abs(ours - expected)[seen].max() <= 0.5
        between = (expected[0, 3] + expected[2, 3]) / 2
        assert np.abs(ours[1, 3] - between).max() <= 1  # where it was not seen


def test_landmarks_of_the_world_are_metres_and_upright(tmp_path: Path) -> None:
    found = imported("mediapipe", mediapipe_of(tmp_path / "a", world=True), units="metres")
    assert found.description is not None
    assert found.description.skeleton == MEDIAPIPE33
    expected = points(0, 33)[0] * (1000, -1000, -1000)
    assert np.abs(found.joints[0].numpy() - expected).max() <= 0.5


def test_units_say_which_of_two_kinds_of_landmarks_are_meant(tmp_path: Path) -> None:
    def frames_of(**kinds: float) -> list[Any]:
        return [
            {f"pose_{kind}": [{"x": at + joint / 99, "y": 0.25, "z": 0.5} for joint in range(33)] for kind, at in kinds.items()}
        ] * 3

    def found(frames: list[Any], units: str | None) -> list[int]:
        lines = [json.dumps({"label": label, "name": label, "frames": frames}) for label in ("a", "b")]
        (tmp_path / "a.jsonl").write_text("\n".join(lines))
        return list(imported("mediapipe", tmp_path / "a.jsonl", units=units, test="b").joints[0, 0].tolist())

    both = frames_of(landmarks=0.25, world_landmarks=0.125)
    assert found(both, None) == [500, -500, 0]  # parts of the image: y goes down, and there is no z
    assert found(both, "metres") == [125, -250, -500]
    bare = [frame["pose_landmarks"] for frame in both]
    assert found(bare, "metres") == [250, -250, -500]
    image, world = frames_of(landmarks=0.25), frames_of(world_landmarks=0.25)
    for frames, units in ((world, None), ([*image, *world], None), (image, "metres"), ([*world, *image], "metres")):
        with pytest.raises(DataError, match=r"a.jsonl:1: .*pose_(world_)?landmarks alone.*--units"):
            found(frames, units)


def test_sets_in_space_are_not_taken_for_those_of_an_image(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"a.csv:1: columns of z, and units of an image: --units metres"):
        imported("csv", csv_of(tmp_path / "a.csv", COCO17))
    with pytest.raises(DataError, match=r"its third number goes from 1.\d+ to 8.\d+, and is how well a joint is seen"):
        imported("json", json_of(tmp_path / "a.json", 17), layout="coco17")
    # Beside a score z is not wanted, and in space the score is not.
    head, *rows = csv_of(tmp_path / "a.csv", COCO17, "xyz").read_text().splitlines()
    scores = ",".join(f"{joint}_score" for joint in COCO17.joints)
    (tmp_path / "a.csv").write_text("\n".join([f"{head},{scores}", *(row + ",0.5" * 17 for row in rows)]))
    assert (imported("csv", tmp_path / "a.csv").joints[..., 2] == 0).all()
    found = imported("csv", tmp_path / "a.csv", units="metres").joints
    assert np.abs(found[0].numpy() - points(0, 17)[0] * 1000).max() <= 0.5
    with pytest.raises(DataError, match=r"allowed: .*, 3"):
        imported("csv", csv_of(tmp_path / "a.csv", COCO17, "xyc"), units="metres")


def test_a_table_tells_what_the_files_do_not(tmp_path: Path) -> None:
    openpose_of(tmp_path / "a")
    rows = ["name,label,subject,part", "take0,run,a,train", "take1,rest,b,train", "take2,run,c,validation", "take3,rest,d,test"]
    (tmp_path / "clips.csv").write_text("\n".join(rows))
    found = imported("openpose", tmp_path / "a", clips=tmp_path / "clips.csv", test=None, classes="run,rest")
    order = torch.argsort(found.length)
    assert found.description is not None
    assert found.description.splits == {"part": "by clip: train take1 take0, validation take2"}
    assert found.label[order].tolist() == [0, 1, 0, 1]
    train = train_mask(found, "own", "part")
    assert train[order].tolist() == [True, True, False, False]
    assert held_out(found, train, "part")[order].tolist() == [False, False, False, True]


@pytest.mark.parametrize(
    ("wanted", "split", "trains"),
    [
        ({"by": None, "test": "s1"}, "subject", [True, True, False, False]),
        ({"by": None, "test": None, "train": "s1"}, "subject", [False, False, True, True]),
        ({"test": "@LIST", "split": "mine"}, "mine", [False, True, True, False]),
    ],
    ids=["subject", "train", "file"],
)
def test_splits_by_subject_and_by_list(wanted: dict[str, Any], split: str, trains: list[bool], tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text("take0\ntake3\n")
    wanted = {key: f"@{tmp_path / 'names.txt'}" if value == "@LIST" else value for key, value in wanted.items()}
    found = imported("csv", csv_of(tmp_path / "a.csv", COCO17, "xy"), **wanted)
    assert train_mask(found, "own", split).tolist() == trains


def test_several_people_of_a_csv_file_and_columns_in_any_order(tmp_path: Path) -> None:
    skeleton = tmp_path / "stick.json"
    skeleton.write_text(json.dumps({"joints": ["low", "high"], "bones": [[1, 0]]}))
    rows = [
        "high_y,high_x,low_x,low_y,high_z,low_z,frame,person,label",
        "2,1,3,4,0,1,0,a,x",
        "2,1,3,4,0,1,0,b,x",
        "2,1,3,5,0,1,2,a,x",
    ]
    folder = tmp_path / "csv"
    folder.mkdir()
    (folder / "one.csv").write_text("\n".join(rows))
    (folder / "two.csv").write_text("\n".join(rows).replace(",x", ",y"))
    found = imported("csv", folder, layout=str(skeleton), test="two")
    assert found.bodies.tolist() == [2, 2]
    assert found.length.tolist() == [2, 2]
    assert found.joints[:4].tolist() == [
        [[3000, 4000, 1000], [1000, 2000, 0]],
        [[3000, 5000, 1000], [1000, 2000, 0]],
        [[3000, 4000, 1000], [1000, 2000, 0]],
        [[3000, 4000, 1000], [1000, 2000, 0]],
    ]


def test_a_clip_that_shows_nobody_ends_no_import_with_parts(tmp_path: Path) -> None:
    records = [
        {"label": "ab"[n % 2], "name": f"c{n}", "part": ("train", "test")[n > 3], "joints": points(n % 4, 17)[2:].tolist()}
        for n in range(8)
    ]
    dark = [{"label": "a", "name": f"dark {part}", "part": part, "joints": [[[None] * 3] * 17] * 3}
            for part in ("train", "test", "validation")]  # fmt: skip
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, [*dark, *records])))
    found = imported("json", tmp_path / "a.jsonl", layout="coco17", units="metres", test=None, by=None)
    assert train_mask(found, "own", "part").tolist() == [n < 4 for n in range(8)]


@pytest.mark.parametrize(
    ("wanted", "flag"), [({"validation": "0.2"}, "--validation"), ({"by": "subject"}, "--by"), ({"seed": 3}, "--seed")]
)
def test_how_to_draw_is_not_said_of_clips_that_are_shared_out_already(
    wanted: dict[str, Any], flag: str, tmp_path: Path
) -> None:
    lines = [{**told(n), "part": ("train", "test")[n // 2], "joints": plain(points(n, 17))} for n in range(4)]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, lines)))
    with pytest.raises(DataError, match=f"{flag}: the clips say themselves .* --test or --train"):
        imported("json", tmp_path / "a.jsonl", layout="coco17", units="metres", **{"test": None} | wanted)
    found = imported("json", tmp_path / "a.jsonl", layout="coco17", units="metres", **{"test": "0.5"} | wanted)
    assert found.description is not None
    assert "part" not in found.description.splits


def test_frames_and_people_may_be_null(tmp_path: Path) -> None:
    whole = points(0, 17)[2:].tolist()
    nobody = [None] * 17
    cases = [[*whole, None], [None, *whole], [nobody, *whole], [whole, [None, *whole[1:]]], [None, whole], whole]
    dark: list[Any] = [[None, None], [nobody] * 2, [[nobody]] * 2, []]
    lines = [{"label": "ab"[n % 2], "name": f"c{n}", "joints": one} for n, one in enumerate([*cases, *dark])]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, lines)))
    found = imported("json", tmp_path / "a.jsonl", layout="coco17", units="metres", test="c0,c1")
    assert found.length.tolist() == [3] * 6
    assert found.bodies.tolist() == [1, 1, 1, 2, 1, 1]
    rows = found.joints.reshape(-1, 3, 17, 3)
    assert all(torch.equal(rows[number], rows[0]) for number in (1, 2, 3, 5, 6))
    marks = mediapipe_of(tmp_path / "landmarks")
    (marks / "dark.json").write_text(json.dumps({"label": "sit", "frames": [None, {"pose_landmarks": []}]}))
    assert len(imported("mediapipe", marks)) == 4


def test_frames_come_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    def marks(number: int, joints: int) -> list[float]:
        return [value for joint in range(joints) for value in (10 * number + 1, 10 * joint + 1, 1)]

    images, annotations = [], []
    for label in ("a", "b"):
        for number in range(12):
            file = tmp_path / "openpose" / label / f"of {label}" / f"{number}_keypoints.json"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(json.dumps({"people": [{"pose_keypoints_2d": marks(number, 25)}]}))
            images.append({"id": len(images), "file_name": f"{label}/of {label}/{number}.jpg"})
            annotations.append({"image_id": len(images) - 1, "keypoints": marks(number, 17)})
    (tmp_path / "coco.json").write_text(json.dumps({"images": images, "annotations": annotations}))
    for kind, path in (("openpose", tmp_path / "openpose"), ("coco", tmp_path / "coco.json")):
        assert imported(kind, path, test="of b").joints[:12, 0, 0].tolist() == [40 * number + 4 for number in range(12)], kind


def ragged(path: Path) -> Path:
    path.write_text("clip,frame,label,x0,y0,x1,y1\na,0,x,1,2,3\n")
    return path


def text_in_numbers(path: Path) -> Path:
    path.write_text("clip,frame,label,x0,y0,x1,y1\na,0,x,1,2,3,4\na,1,x,1,2,tall,4\n")
    return path


def objects(path: Path) -> Path:
    np.savez(path, joints=np.array([{"a": 1}], dtype=object), label=np.array([0]))
    return path


def other(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def said(path: Path, more: str) -> Path:
    return other(path, f'{{"joints": {json.dumps(points(0, 25)[2:].tolist())}, "label": "sit", {more}}}')


def length_of(path: Path, length: float) -> Path:
    np.savez(path, joints=np.ones((2, 3, 25, 3)), label=np.array([0, 1]), length=np.array([length, 3]))
    return path


def pickled(path: Path) -> Path:
    path.write_bytes(pickle.dumps({"annotations": [{"frame_dir": "a", "label": 0}]}))
    return path


class Attack:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch attacked",)


def code(path: Path) -> Path:
    path.write_bytes(pickle.dumps({"annotations": [Attack()]}))
    return path


def rows(folder: Path, *lines: str) -> Path:
    return other(
        folder / "a.csv", "\n".join(["frame,label,subject,person,x0,y0,x1,y1", *(f"{line},1,2,3,4" for line in lines)])
    )


CSV = {"layout": "PAIR", "units": "pixels"}
PAIR = {"joints": ["a", "b"], "bones": [[0, 1]]}
WRONG: dict[str, tuple[str, Callable[[Path], Path], dict[str, Any], str]] = {
    "ragged": ("csv", lambda p: ragged(p / "a.csv"), {"layout": "PAIR"}, r"a.csv:2: 6 values in 7 columns"),
    "text": ("csv", lambda p: text_in_numbers(p / "a.csv"), {"layout": "PAIR"}, r"a.csv:3: .*tall"),
    "joints": ("csv", lambda p: csv_of(p / "a.csv", COCO17), {"layout": "kinect20"}, "columns of 17 joints; the layout has 20"),
    "no layout": ("npz", lambda p: npz_of(p / "a.npz", 25), {}, "nothing says which joint is which: --layout ntu25"),
    "layout": ("npz", lambda p: npz_of(p / "a.npz", 25), {"layout": "kinekt"}, "--layout: found 'kinekt'; allowed: ntu25"),
    "pickle": ("npz", lambda p: objects(p / "a.npz"), {"layout": "ntu25"}, r"joints is object \(1,\); allowed: numbers"),
    "no label": ("json", lambda p: other(p / "a.json", '{"joints": []}'), {"layout": "ntu25"}, "nothing says of which class"),
    "no JSON": ("json", lambda p: other(p / "a.json", "{"), {"layout": "ntu25"}, "a.json: no JSON"),
    "deep": ("json", lambda p: other(p / "a.json", "[" * 100_000), {"layout": "ntu25"}, "a.json: no JSON"),
    "a part": ("json", lambda p: other(p / "a.json", '{"joints": [], "label": "a", "part": "dev"}'), {"layout": "ntu25"},
               "part dev; allowed: train, test, validation"),
    "no coco": ("coco", lambda p: other(p / "a.json", '{"images": 3}'), {}, "not what COCO's keypoints are"),
    "no openpose": ("openpose", lambda p: other(p / "a.json", "{}"), {}, "openpose is one with a folder for each clip"),
    "classes": ("csv", lambda p: csv_of(p / "a.csv", COCO17, "xy"), {"classes": "sit,run"}, "label 'wave' has no name"),
    "test": ("csv", lambda p: csv_of(p / "a.csv", COCO17, "xy"), {"test": "anna"}, "no clip is called anna"),
    "camera": ("json", lambda p: said(p / "a.json", '"camera": 1e400'), {"layout": "ntu25"}, "camera is no text and no whole"),
    "far camera": ("json", lambda p: said(p / "a.json", f'"camera": {10**30}'), {"layout": "ntu25"}, "or camera is no text"),
    "subject": ("json", lambda p: said(p / "a.json", f'"subject": {10**30}'), {"layout": "ntu25"}, "subject or camera is no"),
    "length": ("npz", lambda p: length_of(p / "a.npz", np.nan), {"layout": "ntu25"}, "clip a-000000: length nan: no whole"),
    "endless": ("npz", lambda p: length_of(p / "a.npz", np.inf), {"layout": "ntu25"}, "clip a-000000: length inf"),
    "no list": ("pyskl", lambda p: pyskl_of(p / "a.pkl"), {"layout": "coco17", "train_list": "x"}, "no list 'x'; its lists"),
    "not of theirs": ("pyskl", lambda p: pickled(p / "a.pkl"), {"layout": "coco17"}, "annotation 0: needs frame_dir"),
    "code": ("pyskl", lambda p: code(p / "a.pkl"), {"layout": "coco17"}, "os.system|posix.system"),
    "two labels": ("csv", lambda p: rows(p, "0,x,,", "1,y,,"), CSV, "a.csv:3: clip a: label y, which was x before"),
    "two subjects": ("csv", lambda p: rows(p, "0,x,s,", "1,x,t,"), CSV, "a.csv:3: clip a: subject t"),
    "twice": ("csv", lambda p: rows(p, "0,x,,", "1,x,,", "0.0,x,,"), CSV, "a.csv:4: .*frame 0 .*there"),
    "no frame": ("csv", lambda p: rows(p, ",x,,0", ",x,,1"), CSV, "a.csv:3: clip a: several people, and no frame"),
    "no number": ("csv", lambda p: rows(p, "nan,x,,0"), CSV, "a.csv:2: clip a: frame nan"),
    "two columns": ("csv", lambda p: other(p / "a.csv", "label,x0,x_0,y0,x1,y1\na,1,1,2,3,4\n"), CSV, "a.csv:1: .*x0 and x_0"),
    "missing": ("csv", lambda p: p / "none.csv", {}, "none.csv: no such file or folder"),
    "device": ("npz", lambda p: Path("/dev/null"), {"layout": "ntu25"}, "/dev/null: a device, a pipe or the like; name a file"),
    "a device of names": ("csv", lambda p: csv_of(p / "a.csv", COCO17), {"test": "@/dev/null"}, "--test: .*: no plain"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_what_cannot_be_read_is_told_with_its_place_and_nothing_is_written(case: str, tmp_path: Path) -> None:
    kind, made, wanted, words = WRONG[case]
    (tmp_path / "pair.json").write_text(json.dumps(PAIR))
    wanted = {key: str(tmp_path / "pair.json") if value == "PAIR" else value for key, value in wanted.items()}
    with pytest.raises((DataError, ConfigError), match=words):
        imported(kind, made(tmp_path), **wanted)
    assert not list(tmp_path.glob("*own.safetensors*"))


@pytest.mark.parametrize(
    ("said", "found"),
    [
        (None, None),
        ("none", ()),
        ("wave=sit", ((1, 0),)),
        ("wave", "'wave', which is no pair"),
        ("wave=lie", "no class is called lie"),
    ],
)
def test_classes_that_change_places_in_a_mirror_are_said_in_pairs(said: str | None, found: Any, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    np.savez(tmp_path / "k.npz", joints=random.normal(size=(8, 5, 17, 2)) * 50 + 300, label=np.array(["sit", "wave"] * 4))
    out, wanted = tmp_path / "k.safetensors", Wanted(layout="coco17", test="0.5", mirrored=said)
    if isinstance(found, str):
        with pytest.raises((DataError, ConfigError), match=found):
            import_keypoints("npz", tmp_path / "k.npz", out, wanted)
    else:
        assert import_keypoints("npz", tmp_path / "k.npz", out, wanted).description.mirrored == found


@pytest.mark.parametrize(
    ("said", "told"),
    [
        (
            {"units": "metres"},
            r"{path}: clip take0: its joints are \(1, 5, 17, 2\); allowed: \(people, frames, 17, 3\), in metres",
        ),
        ({"classes": "a,b"}, r"{path}: clip take0: label 'wave' has no name: the classes are 0 to 1, a, b"),
        ({"train": "take0,take1,take2,take3", "test": None}, "{path}: split clip: no clip to test"),
    ],
    ids=["joints", "labels", "split"],
)
def test_what_is_wrong_with_what_is_read_is_not_told_of_what_is_written(
    said: dict[str, Any], told: str, tmp_path: Path
) -> None:
    path, out = csv_of(tmp_path / "a.csv", COCO17, "xy"), tmp_path / "out.safetensors"
    with pytest.raises(DataError, match=told.format(path=re.escape(str(path)))) as found:
        import_keypoints("csv", path, out, Wanted(**{"test": "0.5", "by": "clip"} | said))
    assert "out.safetensors" not in str(found.value)
    assert not out.exists()


def test_all_that_is_said_amiss_is_told_at_once_by_its_flag_before_anything_is_read(tmp_path: Path) -> None:
    path, names = tmp_path / "a.csv", tmp_path / "names.txt"
    path.write_text("nothing of all this")
    names.write_bytes(b"\xff")
    wanted: Any = {
        "name": "a/b",
        "classes": "sit,sit",
        "units": "feet",
        "by": "day",
        "layout": "coco18",
        "mirrored": "sit",
        "split": "By Hand",
        "train": "0.5",
        "test": f"@{names}",
    }
    with pytest.raises(ConfigError) as error:
        import_keypoints("csv", path, tmp_path / "own.safetensors", Wanted(**wanted))
    assert str(error.value).splitlines() == [
        "--by: found 'day'; allowed: subject, clip",
        "--classes: found sit more than once; allowed: each name once",
        f"--layout: found 'coco18'; allowed: {', '.join(LAYOUTS)}, or a JSON file with joints and bones",
        "--mirrored: found 'sit', which is no pair; allowed: two names with = between them, or none",
        "--name: found 'a/b'; allowed: letters, digits, spaces and ._+=-, the first a letter, a digit or _",
        "--split: found 'By Hand'; allowed: small letters, digits, _ and -, the first a letter or a digit",
        f"--test: found {names}: bytes that are not UTF-8; allowed: a file of text with a name on each line",
        "--train: found 0.5; allowed: names, with commas between them; a fraction is said of --test",
        "--units: found 'feet'; allowed: metres, centimetres, millimetres, pixels, image",
    ]


def test_a_skeleton_of_ones_own_is_told_by_its_file_and_classes_by_their_flag(tmp_path: Path) -> None:
    layout = tmp_path / "mine.json"
    layout.write_text(json.dumps(PAIR | {"joints": ["one"], "name": 3}))
    with pytest.raises(ConfigError) as error:
        import_keypoints("csv", layout, tmp_path / "own.safetensors", Wanted(layout=str(layout), classes="a"))
    assert [line for line in str(error.value).splitlines() if "--classes" in line or ": joints:" in line] == [
        "--classes: found ('a',); allowed: at least 2 of them",
        f"{layout}: joints: found ['one']; allowed: at least 2 of them",
    ]
    assert "should" not in str(error.value)


def test_a_file_whose_clips_show_nobody_is_told_by_its_name(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"joints": [[[None, None]] * 17], "label": "x"}) + "\n")
    with pytest.raises(DataError, match=rf"{re.escape(str(path))}: 1 clip, and nobody is seen in any frame$") as found:
        import_keypoints("json", path, tmp_path / "out.safetensors", Wanted(layout="coco17"))
    assert found.value.other


def test_the_command_knows_every_kind() -> None:
    assert tuple(READERS) == (*OWN_KINDS, "pyskl")  # of NTU's unless a layout is said
    assert set(READERS) == {of for of, *_ in KINDS.values()}


def test_layouts_are_recognised_by_the_names_of_their_joints(tmp_path: Path) -> None:
    for name, skeleton in LAYOUTS.items():
        found = imported("csv", csv_of(tmp_path / "a.csv", skeleton), units="metres")
        assert found.skeleton == skeleton, name
