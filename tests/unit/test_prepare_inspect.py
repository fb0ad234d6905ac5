"""Made-up data sets of NTU's shape, and what is told and drawn of a prepared file."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file
from safetensors.torch import save_file as save_tensors

from last_e.before_after import write_page
from last_e.config import AugmentationsConfig
from last_e.data import Clips, read_clips, write_clips
from last_e.data.batches import TestBatches
from last_e.data.files import read_irds
from last_e.datafile import FORMAT, DataError
from last_e.joints import BONES
from last_e.prepare import synth
from last_e.prepare.clipfile import read_columns
from last_e.prepare.inspect import animate, summarize
from last_e.prepare.names import read_name
from last_e.prepare.synth import synthesize
from last_e.splits import OFFICIAL, trains
from tests.unit.test_own_sets import written as written_own


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("synth") / "ntu60.safetensors"
    assert synthesize("ntu60", path, clips=600) == 600
    return path


# --- made-up data ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("dataset", "other"), [("ntu60", "xview"), ("ntu120", "xset")])
def test_the_plan_has_the_published_numbers(dataset, other):
    plan = synth._plan(dataset, 0)
    label, performer, camera, setup, replication = plan.about.T
    for split in ("xsub", other):
        mask = trains(dataset, split, performer, camera, setup)
        train, test = OFFICIAL[dataset, split]
        assert len(mask) == train + test
        assert int(mask.sum()) == train if split == "xsub" else abs(int(mask.sum()) / train - 1) < 0.08
    classes = np.bincount(label)
    assert len(classes) == int(dataset.removeprefix("ntu"))
    assert classes.min() > 930
    assert classes.max() <= 960
    assert set(camera) == {1, 2, 3}
    assert set(replication) == {1, 2}
    assert set(plan.bodies[np.isin(label + 1, [50, 60, 106, 120])]) == {2}
    assert set(plan.bodies[np.isin(label + 1, [1, 49, 61, 105])]) == {1}
    assert (plan.length.min(), plan.length.max()) == (26, 300)
    assert 75 < plan.length.mean() < 85
    assert len(set(plan.names)) == len(plan.names)
    for name, row in zip(plan.names[:50], plan.about):
        parts = read_name(name)
        assert (parts.action - 1, parts.performer, parts.camera, parts.setup, parts.replication) == tuple(row)
        assert parts.belongs_to(dataset)


@pytest.mark.parametrize("read", [read_columns, lambda path: read_clips(path, 60)], ids=["columns", "clips"])
def test_a_pipe_is_no_prepared_file_and_nobody_waits_for_it(read: Any, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(DataError, match="pipe: no file; name a prepared file"):
        read(tmp_path / "pipe")


def test_made_up_clips_are_read_by_the_trainer_and_the_same_every_time(made, tmp_path):
    clips = read_clips(made, 60)
    assert len(clips) == 600
    assert set(clips.label.tolist()) == set(range(60))
    synthesize("ntu60", tmp_path / "fewer", clips=100)
    fewer = read_clips(tmp_path / "fewer", 60)
    assert torch.equal(fewer.joints, clips.joints[: len(fewer.joints)]), "a smaller set is the beginning of a larger one"
    synthesize("ntu60", tmp_path / "other", clips=100, seed=1)
    assert read_clips(tmp_path / "other", 60).fingerprint() != fewer.fingerprint()


def test_made_up_people_are_of_human_size_and_move(made):
    clips = read_clips(made, 60)
    joints = clips.joints.double().numpy() / 1000
    for child, parent in BONES:
        bones = np.linalg.norm(joints[:, child] - joints[:, parent], axis=1)
        assert 0.02 < bones.mean() < 0.6
    for clip in range(0, 600, 50):
        begin = int(clips.start[clip])
        body = joints[begin : begin + int(clips.length[clip])]
        assert np.ptp(body, axis=0).max() > 0.1, "something moves"
        assert 1.3 < np.ptp(body[..., 1]) < 2.4, "as tall as people are"


def test_classes_differ_by_their_movement(made):
    """What moves most is the same within a class: otherwise nothing could be learned from it."""
    clips = read_clips(made, 60)

    def moving(clip: int) -> tuple[int, ...]:
        begin = int(clips.start[clip])
        body = clips.joints[begin : begin + int(clips.length[clip])].double()
        body = body - body[:, :1]
        return tuple((body.std(dim=0).norm(dim=1) > 25).nonzero()[:, 0].tolist())

    for label in (0, 7, 30):
        of_class = [clip for clip in range(600) if int(clips.label[clip]) == label and int(clips.length[clip]) > 60]
        assert len(of_class) > 2
        assert len({moving(clip) for clip in of_class}) == 1
    assert len({moving(int((clips.label == label).nonzero()[0])) for label in range(20)}) > 10


def test_more_clips_than_the_original_has_repeat_its_plan_but_not_its_motion(made, tmp_path):
    columns, _ = read_columns(made)
    assert synthesize(str(made), tmp_path / "more", clips=650) == 650
    more, metadata = read_columns(tmp_path / "more")
    for name in ("length", "bodies", "label", "performer", "camera", "setup", "replication"):
        assert np.array_equal(more[name][:600], columns[name])
        assert np.array_equal(more[name][600:], columns[name][:50])
    assert json.loads(metadata["synth"])["like"] == made.name, "no path in the header"
    assert np.array_equal(more["name"][:600], columns["name"])
    clips = read_clips(tmp_path / "more", 60)
    rows = int(clips.length[0] * clips.bodies[0])
    begin = int(clips.start[600])
    assert not torch.equal(clips.joints[:rows], clips.joints[begin : begin + rows])


def test_a_split_of_the_original_is_kept(tmp_path):
    """Of a file whose people are not known, which the trainer could not split in any other way."""
    mask = np.array([True, False, True])
    like = written(tmp_path / "like", performer=np.zeros(3, dtype=np.int64), **{"train.xview": mask})
    assert synthesize(str(like), tmp_path / "made", clips=5) == 5
    clips = read_clips(tmp_path / "made", 60)
    assert {name: split.tolist() for name, split in clips.own_splits.items()} == {"xview": [True, False, True, True, False]}


def test_what_is_left_of_a_killed_process_goes_and_what_a_living_one_makes_stays(tmp_path):
    like = written(tmp_path / "like", length=[30, 30, 30], joints=np.zeros((90, 25, 3), dtype=np.int16))
    out, begun = tmp_path / "out", tmp_path / "begun"
    code = (
        "import sys, time\nfrom pathlib import Path\nfrom last_e.prepare.synth import synthesize\n"
        "def wait(*_): Path(sys.argv[3]).touch(); time.sleep(60)\n"
        "synthesize(sys.argv[1], Path(sys.argv[2]), clips=600, progress=wait)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(like), str(out), str(begun)])
    try:
        while not begun.exists():
            assert process.poll() is None
            time.sleep(0.02)
        with pytest.raises(DataError, match="is being prepared by another process"):
            synthesize(str(like), out)
    finally:
        process.kill()
        process.wait()
    (left,) = tmp_path.glob(".out*")
    (left / "000007.part").write_bytes(b"of a longer one")
    (left / ".000008.part.4711.part").write_bytes(b"half a part")
    (left / ".out.4711.part").write_bytes(b"half a file")
    assert synthesize(str(like), out) == 3
    assert sorted(path.name for path in tmp_path.iterdir()) == ["begun", "like", "out"]


def test_what_it_cannot_be_like_is_told(tmp_path):
    with pytest.raises(DataError, match="no such file"):
        synthesize(str(tmp_path / "none"), tmp_path / "out")
    assert not list(tmp_path.iterdir())


# --- in numbers --------------------------------------------------------------------------------------------------------------


def test_the_summary_counts_what_is_there(made):
    clips, summary = read_clips(made, 60), summarize(made)
    assert (summary.clips, summary.frames) == (600, int(clips.length.sum()))
    assert sum(summary.bodies.values()) == 600
    assert summary.bodies[2] == int((clips.bodies == 2).sum())
    assert sum(count for *_, count in summary.lengths) == 600
    for first, last, count in summary.lengths:
        assert count == int(((clips.length >= first) & (clips.length <= last)).sum())
    assert (summary.shortest, summary.longest) == (int(clips.length.min()), int(clips.length.max()))
    assert summary.mean == pytest.approx(float(clips.length.double().mean()))
    assert summary.classes == {label: int((clips.label == label).sum()) for label in range(60)}
    assert summary.whole is True
    assert summary.splits["xsub"]["official_train"] == 40_091
    assert summary.provenance["synth"]["like"] == "ntu60"
    json.dumps(asdict(summary))


def test_a_file_of_the_trainers_own_writer_is_summarized_too(tmp_path):
    write_clips(read_irds(), tmp_path / "irds")
    summary = summarize(tmp_path / "irds")
    assert summary.clips == 1406
    assert summary.whole is None, "it carries no checksum"


def test_a_changed_byte_is_noticed(made, tmp_path):
    content = bytearray(made.read_bytes())
    content[-100_000] ^= 1
    (tmp_path / "changed").write_bytes(content)
    assert summarize(tmp_path / "changed").whole is False


def written(path: Path, metadata: dict[str, str] | None = None, drop: str = "", **changes: Any) -> Path:
    """A file of three clips with one thing that is odd."""
    one = np.ones(3, dtype=np.int64)
    columns = {name: one.copy() for name in ("length", "bodies", "label", "performer", "camera", "setup")}
    columns |= {"joints": np.zeros((3, 25, 3), dtype=np.int16), **changes}
    columns.pop(drop, None)
    save_file({name: np.asarray(column) for name, column in columns.items()}, path, {"format": FORMAT, **(metadata or {})})
    return path


ODD: dict[str, tuple[dict[str, Any], str]] = {
    "a negative label": ({"label": [-1, 0, 0]}, "a label is out of range"),
    "a label beyond all classes": ({"label": [100_000, 0, 0]}, "a label is out of range"),
    "a label that takes exabytes to count": ({"label": [2**62, 0, 0]}, "a label is out of range"),
    "labels with fractions": ({"label": [0.5, 1.0, 2.0]}, "label is float64 (3,), not int64 (clips,)"),
    "labels in a table": ({"label": [[1], [1], [1]]}, "label is int64 (3, 1), not int64 (clips,)"),
    "short numbers": ({"camera": np.ones(3, dtype=np.int32)}, "camera is int32 (3,), not int64 (clips,)"),
    "a single camera": ({"camera": np.int64(1)}, "camera is int64 (), not int64 (clips,)"),
    "a negative length": ({"length": [-1, 3, 1]}, "out of range"),
    "lengths that overflow": ({"length": [2**62, 2**62, 2**63 - 1]}, "out of range"),
    "a product that overflows": ({"length": [2**62, 1, 2], "bodies": [4, 1, 1]}, "out of range"),
    "three people": ({"bodies": [3, 1, 1]}, "out of range"),
    "nobody": ({"bodies": [0, 1, 2]}, "out of range"),
    "too few rows": ({"length": [2, 1, 1]}, "3 rows of joints are not what the clips' lengths add up to"),
    "metres": ({"joints": np.zeros((3, 25, 3), dtype=np.float32)}, "joints are F32 (3, 25, 3), not int16"),
    "other joints": ({"joints": np.zeros((3, 17, 3), dtype=np.int16)}, "joints are I16 (3, 17, 3), not int16 (rows, 25, 3)"),
    "flat joints": ({"joints": np.zeros(225, dtype=np.int16)}, "joints are I16 (225,), not int16 (rows, 25, 3)"),
    "names in a row": ({"name": np.zeros(3, dtype=np.uint8)}, "name is uint8 (3,), not uint8 (clips, width)"),
    "names of numbers": ({"name": np.zeros((3, 4), dtype=np.int64)}, "name is int64 (3, 4), not uint8 (clips, width)"),
    "a split of numbers": ({"train.xsub": np.ones(3, dtype=np.int64)}, "train.xsub is int64 (3,), not bool (clips,)"),
    "a split of other clips": ({"train.xsub": np.ones(2, dtype=bool)}, "the lists of clips differ in length"),
    "no setup": ({"drop": "setup"}, "it has no setup"),
    "no joints": ({"drop": "joints"}, "damaged or not a prepared data file"),
}


@pytest.mark.parametrize("odd", ODD)
def test_an_odd_file_is_told_in_one_line(tmp_path: Path, odd: str) -> None:
    changes, expected = ODD[odd]
    path = written(tmp_path / "odd", **changes)
    for look in (lambda: summarize(path), lambda: animate(path, "0", tmp_path / "clip.html")):
        with pytest.raises(DataError) as caught:
            look()
        assert expected in str(caught.value)
        assert len(str(caught.value).splitlines()) == 1
    assert [one.name for one in tmp_path.iterdir()] == ["odd"]


def test_a_folder_and_a_device_are_told_as_what_they_are(tmp_path: Path) -> None:
    for path, kind in ((tmp_path, "a folder"), (Path("/dev/null"), "no file")):
        for look in (summarize, lambda path: read_clips(path, 9)):
            with pytest.raises(DataError, match=f"^{path}: {kind}; name a prepared file$") as caught:
                look(path)
            assert caught.value.missing


def test_numbers_of_a_kind_that_numpy_does_not_know_are_told(tmp_path: Path) -> None:
    columns = {name: torch.ones(3, dtype=torch.int64) for name in ("length", "bodies", "label", "performer", "setup")}
    columns |= {"joints": torch.zeros(3, 25, 3, dtype=torch.int16), "camera": torch.ones(3, dtype=torch.bfloat16)}
    save_tensors(columns, tmp_path / "odd", {"format": FORMAT})
    with pytest.raises(DataError, match="bfloat16"):
        summarize(tmp_path / "odd")


@pytest.mark.parametrize(
    ("metadata", "splits"),
    [
        ({"dataset": "kinetics"}, set()),
        ({"dataset": "irds"}, {"xsub"}),
        ({"dataset": ""}, {"xsub", "xview"}),
        ({"report": "[" * 100_000}, {"xsub", "xview"}),
        ({"report": "[" + "9" * 5000 + "]"}, {"xsub", "xview"}),
        ({"report": "{]"}, {"xsub", "xview"}),
    ],
)
def test_odd_metadata_are_shown_as_they_are(tmp_path: Path, metadata: dict[str, str], splits: set[str]) -> None:
    summary = summarize(written(tmp_path / "odd", metadata))
    assert summary.splits.keys() == splits
    assert metadata.items() <= summary.provenance.items()


def test_more_may_stand_beside_what_is_known_and_names_may_be_empty(tmp_path: Path) -> None:
    path = written(
        tmp_path / "odd", zz=np.zeros((7, 7)), name=np.zeros((3, 0), dtype=np.uint8), camera=[2**63 - 1, -(2**63), 0]
    )
    assert summarize(path).cameras == 3
    assert animate(path, "2", tmp_path / "clip.html") == ""


# --- as an animation -------------------------------------------------------------------------------------------------------


def drawn(page: Path) -> dict[str, object]:
    text = page.read_text()
    found = re.search(r'<script type="application/json" id="clip">(.*?)</script>', text, re.DOTALL)
    assert found is not None
    return json.loads(found[1])


def test_the_page_holds_the_clip_and_needs_nothing_from_elsewhere(made, tmp_path):
    clips = read_clips(made, 60)
    number = int((clips.bodies == 2).nonzero()[0])
    name = animate(made, str(number), tmp_path / "new" / "clip.html")
    data = drawn(tmp_path / "new" / "clip.html")
    begin, length = int(clips.start[number]), int(clips.length[number])
    expected = clips.joints[begin : begin + 2 * length].view(2, length, 25, 3)
    assert torch.equal(torch.tensor(data["joints"], dtype=torch.int16), expected)
    assert [tuple(bone) for bone in data["bones"]] == list(BONES)
    assert data["fps"] == 30
    text = (tmp_path / "new" / "clip.html").read_text()
    assert not re.search(r"https?://|src=|@import|url\(", text)
    assert f"<title>{name}: class {int(clips.label[number])} " in text
    assert "2 people</title>" in text
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["clip.html"]
    assert animate(made, name, tmp_path / "again.html") == name
    assert (tmp_path / "again.html").read_text() == text


def test_a_clip_is_shown_before_and_after_each_augmentation(made, tmp_path):
    clips = read_clips(made, 60)
    number = int((clips.bodies == 2).nonzero()[0])
    name = write_page(made, str(number), tmp_path / "both.html", seed=3)
    text = (tmp_path / "both.html").read_text()
    assert not re.search(r"https?://|src=|@import|url\(", text)
    assert f"<title>{name}: class {int(clips.label[number])} " in text
    found = re.search(r'<script type="application/json" id="clips">(.*?)</script>', text, re.DOTALL)
    assert found is not None
    told = json.loads(found[1])
    pictures = {one["name"]: torch.tensor(one["joints"]) for one in told["shown"]}
    single = {name for name in AugmentationsConfig.model_fields if name not in ("motion_range", "motion_from", "mixup")}
    assert set(pictures) == {"as it tests", "training.augment", *single}
    assert {tuple(joints.shape) for joints in pictures.values()} == {(2, 64, 25, 3)}
    (test,) = TestBatches(clips, torch.tensor([number]), 64, 1)
    assert (test.streams["joint"].permute(0, 2, 3, 1) * 1000 - pictures["as it tests"]).abs().max() <= 0.5
    plain = pictures.pop("training.augment")
    assert all(not torch.equal(joints, plain) for joints in pictures.values()), "each is seen"
    with pytest.raises(DataError, match="allowed: 0 to 599 and names such as S"):
        write_page(made, "600", tmp_path / "other.html")


def test_who_says_what_a_mirror_changes_has_it_shown_and_who_does_not_has_no_such_picture(tmp_path):
    for name, mirrored in (("said", [("</script>sit", "stand")]), ("silent", None)):
        written_own(tmp_path / f"{name}.safetensors", classes=["</script>sit", "stand"], mirrored=mirrored)
        write_page(tmp_path / f"{name}.safetensors", "c0", tmp_path / f"{name}.html")
        text = (tmp_path / f"{name}.html").read_text()
        assert text.count("</script>") == 2, "a name of a class ends no script"
        assert ("its class becomes stand" in text) is (mirrored is not None)
        assert ('"name":"mirror"' in text) is (mirrored is not None)


def test_a_clip_that_is_not_there_is_told(made, tmp_path):
    for clip in ("600", "-1", "S001", "", "9" * 5000, "\u00b2", "\udcff"):
        with pytest.raises(DataError, match="allowed: 0 to 599 and names such as S"):
            animate(made, clip, tmp_path / "clip.html")
    assert not list(tmp_path.iterdir())
    with pytest.raises(DataError, match="a folder; name a file in it"):
        animate(made, "0", tmp_path)


def test_a_name_cannot_write_into_the_page(tmp_path):
    from last_e.prepare.inspect import render

    page = render(np.zeros((1, 1, 25, 3), dtype=np.int16), "</title><script>alert(1)</script>__DATA__")
    assert "alert(1)</script>" not in page
    assert page.count("<script") == 2


def test_a_file_without_names_is_drawn_by_number(tmp_path):
    one = torch.ones(2, dtype=torch.int64)
    clips = Clips(torch.zeros(2, 25, 3, dtype=torch.int16), one, one, one * 0, one, one, one)
    write_clips(clips, tmp_path / "plain")
    assert animate(tmp_path / "plain", "1", tmp_path / "clip.html") == "1"


def test_a_page_never_replaces_the_file_that_it_shows(tmp_path):
    path = tmp_path / "a.safetensors"
    synthesize("ntu60", path, clips=2)
    whole = path.read_bytes()
    with pytest.raises(DataError, match="what is to be read"):
        animate(path, "0", path)
    with pytest.raises(DataError, match="what is to be read"):
        synthesize(str(path), path, clips=2)
    assert path.read_bytes() == whole
