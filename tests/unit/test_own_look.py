"""``data inspect`` of an own set: it is compared with itself, and nothing with NTU."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from last_e.data import OwnClip, Split, write_dataset
from last_e.own_set import mistakes_in, read_own
from last_e.prepare.inspect import animate, summarize
from last_e.skeletons import COCO17
from runner.view.prepared import summary_text

WAYS = {"people": Split(test=[3]), "mixed": Split("clip", test=0.25, validation=0.25, seed=1)}


def walk(seed: int, frames: int = 20) -> np.ndarray[Any, Any]:
    random = np.random.default_rng(seed)
    at, swing = random.uniform(-1, 1, (2, 1, 17, 3))
    at[:, 5], at[:, 11] = (0, 0.5, 0), (0, 0, 0)  # a torso of half a metre
    swing[:, [5, 11]] = 0
    return at + 0.1 * swing * np.sin(np.arange(frames) / 3)[:, None, None]


def odd_set(path: Path) -> Path:
    joints = {number: walk(number) for number in range(16)}
    joints[1] = 5 * joints[1]
    joints[2] = joints[2] / 5
    joints[3] = joints[3].copy()
    joints[3][10, 9] += 3
    joints[4] = joints[4][:1].repeat(12, axis=0)
    joints[5] = joints[5][:1]
    joints[6] = joints[6].copy()
    joints[6][:, [*range(6, 11), *range(12, 17)]] = np.nan
    joints[15] = joints[0] + (1.5, 0, 2)  # the same clip elsewhere, in the other part of both splits
    joints[8] = joints[7]
    some = [OwnClip(joints[n], int(n % 4 == 0), f"c{n}", n // 4) for n in range(16)]
    write_dataset(path, some, classes=["sit", "jump"], skeleton=COCO17, splits=WAYS, fps=25)
    return path


def test_an_own_set_is_compared_with_itself(tmp_path: Path) -> None:
    path = odd_set(tmp_path / "ntu60.safetensors")  # whatever it is called
    summary = summarize(path)
    look = summary.own
    assert look is not None
    assert [(one["name"], one["clips"], one["people"]) for one in look.classes] == [
        ("sit", 12, {"train": 9, "test": 3}),
        ("jump", 4, {"train": 3, "test": 1}),
    ]
    assert look.classes[1]["mixed"] == {"train": 2, "test": 1, "validation": 1}
    assert summary.splits["people"]["official_train"] is None
    assert look.subjects == 4
    assert next(iter(look.missing)) == "right_shoulder"
    assert set(look.missing) == {*COCO17.joints[6:]} - {"left_hip"}
    assert look.mostly_missing == ["c6"]
    told = {what: [re.sub(":.*", "", one) for one in clips] for what, clips in look.outliers.items()}
    assert told == {
        "a torso much longer than others": ["c1"],
        "a torso much shorter than others": ["c2"],
        "a joint jumps in one frame": ["c3"],
        "nothing moves": ["c4"],
        "one frame alone": ["c5"],
    }
    assert look.outliers["a torso much longer than others"] == ["c1: 5.0 times"]
    assert look.twice == [["c0", "c15"], ["c7", "c8"]]
    assert look.leaks["people"] == [["c0", "c15"]]
    json.dumps(summary.to_dict())
    text = summary_text(summary, path)
    assert "official" not in text
    assert "warning: split people: 1 pair of clips that show the same in two parts: c0 = c15" in text
    assert "  1 jump ####              4  mixed 2 / 1 / 1  people 3 / 1" in text
    assert "unlike the others, nothing moves: c4: 12 frames" in text
    parts = [line.split()[-1] for line in text.splitlines() if line.startswith(("mixed: ", "people: "))]
    assert parts == ["train", "validate", "test", "train", "test"]  # split by split


def test_clips_that_are_nearly_the_same_in_two_parts_are_told(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    joints = {number: walk(number, 40) for number in range(60)}
    joints[57] = 1.7 * (joints[1] + random.normal(0, 0.004, joints[1].shape)) + (2, 0, 1)  # noise, larger, elsewhere
    joints[58] = joints[2][:-1]  # a frame shorter
    joints[59] = joints[3] + random.normal(0, 0.08, joints[3].shape)  # too much to be the same
    joints[5] = joints[4] + random.normal(0, 0.004, joints[4].shape)  # in the same part
    some = [OwnClip(joints[n], n % 2, f"c{n}", n // 15) for n in range(60)]
    path = tmp_path / "own.safetensors"
    write_dataset(path, some, classes=["sit", "jump"], skeleton=COCO17, splits={"people": Split(test=[3])})
    summary = summarize(path)
    assert summary.own is not None
    assert summary.own.nearly == {"people": [["c1", "c57"], ["c2", "c58"]]}
    assert summary.own.leaks == {}
    told = "warning: split people: 2 pairs of clips that show nearly the same in two parts: c1 ~ c57, c2 ~ c58"
    assert told in summary_text(summary, path)


def test_a_clip_of_an_own_set_is_played_on_its_own_skeleton(tmp_path: Path) -> None:
    path = odd_set(tmp_path / "own.safetensors")
    assert animate(path, "c3", tmp_path / "clip.html") == "c3"
    page = (tmp_path / "clip.html").read_text()
    found = re.search(r'<script type="application/json" id="clip">(.*?)</script>', page)
    assert found is not None
    data = json.loads(found[1])
    assert np.abs(np.array(data["joints"])[0, 0] / 1000 - walk(3)[0]).max() <= 0.0005
    assert [tuple(bone) for bone in data["bones"]] == list(COCO17.bones)
    assert (sorted(data["right"]), data["head"], data["fps"]) == ([2, 4, 6, 8, 10, 12, 14, 16], 0, 25)
    assert "c3: class 0 (sit), 20 frames, 1 person" in page


@pytest.mark.parametrize(
    ("scale", "units", "told"),
    [
        ((1, 1, 0), "metres", "z hardly changes: coordinates of an image, which are pixels or image, not metres"),
        ((200, 200, 0.1), "millimetres", "z hardly changes"),  # x, y and a score
        ((8, 8, 8), "metres", None),
        ((30, 30, 30), "millimetres", "a torso is 0.015 m long: pixels, or another unit, in place of millimetres"),
        (
            (70, 70, 70),
            "millimetres",
            "a torso is 0.035 m long: pixels, or another unit, in place of millimetres (units)? A clip is "
            "scaled as if it were at least 0.05",
        ),
        ((120, 120, 120), "millimetres", None),
        ((14, 14, 14), "metres", "a torso is 7 m long: pixels"),
        ((1, 1, 1), "metres", None),
    ],
    ids=["flat", "score", "large", "small", "a hand's", "larger", "pixels", "metres"],
)
def test_coordinates_that_are_not_what_they_are_said_to_be(scale: Any, units: str, told: str | None, tmp_path: Path) -> None:
    path = tmp_path / "own.safetensors"
    some = [OwnClip(walk(n) * scale, n % 2, subject=n // 4) for n in range(16)]
    report = write_dataset(path, some, classes=["a", "b"], skeleton="coco17", splits={"people": Split(test=[3])}, units=units)
    with path.open("rb") as file:
        by_job = [mistake.text for mistake in mistakes_in(read_own(file, path.stat().st_size, path))]
    own = summarize(path).own
    assert own is not None
    for found in (report.warnings, by_job, own.mistakes):
        assert [text[: len(told)] if told else text for text in found] == ([told] if told else [])


def test_parts_of_an_image_are_no_metres(tmp_path: Path) -> None:
    some = [OwnClip(0.5 + 0.3 * np.tanh(walk(n)), n % 2, subject=n // 4) for n in range(16)]
    report = write_dataset(tmp_path / "own.safetensors", some, skeleton="coco17", splits={"people": Split(test=[3])})
    assert report.warnings == [
        "x and y all lie between 0 and 1 m: parts of an image's width, which are image, not metres (units)?"
    ]
    assert report.description.classes == ("0", "1")


def test_metres_are_no_pixels(tmp_path: Path) -> None:
    some = [OwnClip(walk(n)[..., :2], n % 2, subject=n // 4) for n in range(16)]
    report = write_dataset(
        tmp_path / "own.safetensors", some, skeleton="coco17", units="pixels", splits={"people": Split(test=[3])}
    )
    [told] = report.warnings
    assert re.match(r"a torso is [\d.]+ pixels long: metres, or another unit, in place of pixels \(units\)\?", told)
    assert told.endswith("at least 12.5")
    some = [OwnClip(0.5 + walk(n)[..., :2] * 0.03, n % 2, subject=n // 4) for n in range(16)]
    split = {"people": Split(test=[3])}
    report = write_dataset(tmp_path / "b.safetensors", some, skeleton="coco17", units="image", splits=split)
    [told] = report.warnings
    assert told.startswith("a torso is 0.01")
    assert told.endswith("at least 0.025")


def test_a_clip_is_found_by_its_name_whatever_letters_that_has(tmp_path: Path) -> None:
    names = ["Übung-1", "歩く", "a" * 300 + "é", "plain"]
    clips = [OwnClip(walk(number), number % 2, name) for number, name in enumerate(names)]
    write_dataset(tmp_path / "my.safetensors", clips, classes=["sit", "jump"], skeleton=COCO17,
                  splits={"s": Split("clip", test=names[2:])})  # fmt: skip
    for name in (*names[:2], "plain"):
        assert animate(tmp_path / "my.safetensors", name, tmp_path / "clip.html") == name
        assert name in (tmp_path / "clip.html").read_text("utf-8")
