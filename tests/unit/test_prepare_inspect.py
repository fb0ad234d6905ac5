"""Made-up data sets of NTU's shape, and what is told and drawn of a prepared file."""

from __future__ import annotations

import json
import re
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch

from last_e.data import Clips, read_clips, write_clips
from last_e.data.files import read_irds
from last_e.datafile import DataError
from last_e.joints import BONES
from last_e.prepare import synth
from last_e.prepare.clipfile import read_columns
from last_e.prepare.inspect import animate, summarize
from last_e.prepare.names import read_name
from last_e.prepare.synth import synthesize
from last_e.splits import OFFICIAL, trains


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


@pytest.mark.parametrize("name", ["label", "length", "bodies"])
def test_numbers_out_of_range_are_refused(tmp_path, name):
    columns = {"length": [1, 1], "bodies": [1, 1], "label": [0, 0], "performer": [1, 1], "camera": [1, 1], "setup": [1, 1]}
    columns[name] = [-1, 3] if name != "label" else [-1, 0]
    from safetensors.torch import save_file

    tensors = {key: torch.tensor(values) for key, values in columns.items()}
    rows = int((tensors["length"] * tensors["bodies"]).sum())
    tensors["joints"] = torch.zeros(rows, 25, 3, dtype=torch.int16)
    save_file(tensors, tmp_path / "bad", {"format": "lastrun-clips-1"})
    with pytest.raises(DataError, match="out of range"):
        summarize(tmp_path / "bad")


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


def test_a_clip_that_is_not_there_is_told(made, tmp_path):
    for clip in ("600", "-1", "S001", ""):
        with pytest.raises(DataError, match="allowed are 0 to 599 and names such as S"):
            animate(made, clip, tmp_path / "clip.html")
    assert not list(tmp_path.iterdir())


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
