"""From recordings to a file that can be trained: what is in it, what is left out and why."""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest

from last_e.data import read_clips
from last_e.data.splits import train_mask
from last_e.datafile import DataError
from last_e.prepare.clipfile import content_hash, names_of, read_columns
from last_e.prepare.names import read_name
from last_e.prepare.ntu import prepare_ntu
from last_e.prepare.people import choose_people
from last_e.prepare.pool import run_all
from last_e.prepare.replace import CONTENT_HASH
from last_e.prepare.skeleton import parse
from last_e.splits import OFFICIAL
from tests.ntu_files import motion, name_of, one_person, text_of, write_tree
from tests.ntu_prepare import BROKEN, prepare, why

pytestmark = pytest.mark.usefixtures("small_parts")


def test_a_tree_becomes_a_file_that_the_trainer_reads(files, tree, tmp_path):
    out = tmp_path / "new" / "ntu60.safetensors"
    report = prepare(tree, out)
    assert [path.name for path in out.parent.iterdir()] == [out.name]
    clips = read_clips(out, 60)
    assert report.clips == len(clips) == len(files)
    names = sorted(files)
    for number, name in enumerate(names):
        expected = choose_people(parse(files[name])).joints
        rows = int(clips.length[number] * clips.bodies[number])
        assert (int(clips.bodies[number]), int(clips.length[number])) == expected.shape[:2]
        begin = int(clips.start[number])
        assert np.array_equal(clips.joints[begin : begin + rows].numpy(), expected.reshape(-1, 25, 3))
    parts = [read_name(name) for name in names]
    for column, values in (
        (clips.label, [part.action - 1 for part in parts]),
        (clips.performer, [part.performer for part in parts]),
        (clips.camera, [part.camera for part in parts]),
        (clips.setup, [part.setup for part in parts]),
    ):
        assert column.tolist() == values
    assert set(clips.bodies.tolist()) == {1, 2}
    assert report.frames == int(clips.length.sum())
    assert report.two_people == int((clips.bodies == 2).sum())


def test_the_columns_beside_what_training_needs_and_where_it_all_comes_from(files, tree, tmp_path):
    prepare(tree, tmp_path / "out")
    columns, metadata = read_columns(tmp_path / "out")
    assert names_of(columns) == sorted(files)
    rows = columns["length"] * columns["bodies"]
    assert columns["offset"].tolist() == [0, *rows.cumsum()[:-1].tolist()]
    assert columns["replication"].tolist() == [read_name(name).replication for name in sorted(files)]
    assert metadata["dataset"] == "ntu60"
    assert metadata[CONTENT_HASH] == content_hash(tmp_path / "out")
    assert json.loads(metadata["rules"])["unit"] == "int16 millimetres"
    assert {"python", "numpy", "lastrun"} <= json.loads(metadata["versions"]).keys()
    assert json.loads(metadata["report"])["clips"] == len(files)
    assert len(metadata["source_sha256"]) == 64
    assert str(tmp_path) not in json.dumps(metadata)
    assert str(tree) not in json.dumps(metadata)


def test_one_file_has_every_split_counted_against_the_official_one(tree, tmp_path):
    report = prepare(tree, tmp_path / "out")
    clips = read_clips(tmp_path / "out", 60)
    assert set(report.splits) == {"xsub", "xview"}
    for split, count in report.splits.items():
        mask = train_mask(clips, "ntu60", split)
        assert (count["train"], count["test"]) == (int(mask.sum()), int((~mask).sum()))
        assert (count["official_train"], count["official_test"]) == OFFICIAL["ntu60", split]
    assert set(prepare(tree, tmp_path / "other", "ntu120").splits) == {"xsub", "xset"}


@pytest.mark.slow
def test_several_processes_give_the_same_bytes_as_one(tree, tmp_path):
    prepare(tree, tmp_path / "a")
    prepare_ntu("ntu60", [tree], tmp_path / "b", workers=2)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_workers_leave_ctrl_c_to_the_first_process():
    assert list(run_all(signal.getsignal, [signal.SIGINT] * 3, workers=2)) == [signal.SIG_IGN] * 3
    assert list(run_all(signal.getsignal, [signal.SIGINT], workers=1)) == [signal.getsignal(signal.SIGINT)]


def test_what_gives_no_clip_is_told_with_the_reason(files, tmp_path):
    good = dict(list(files.items())[:2])
    whole = files[next(iter(files))]
    odd = {
        BROKEN: whole,
        name_of(18, 1, 1, 1, 1): whole,
        name_of(1, 1, 1, 1, 61): whole,
        name_of(1, 1, 39, 1, 1): whole[: len(whole) // 2],
        name_of(1, 2, 39, 1, 1): b"0\r\n",
        name_of(1, 3, 39, 1, 1): b"",
        name_of(2, 1, 39, 1, 1): b"5" + whole[2:],
        "S001-notes": b"hello",
    }
    raw = write_tree(tmp_path / "raw", {**good, **odd}.items())
    twice = next(iter(good))
    (raw / "copy").mkdir()
    (raw / "copy" / f"{twice}.skeleton").write_bytes(whole)
    report = prepare(raw, tmp_path / "out")
    assert report.clips == 2
    assert why(report) == {
        BROKEN: "broken",
        name_of(18, 1, 1, 1, 1): "elsewhere",
        name_of(1, 1, 1, 1, 61): "elsewhere",
        name_of(1, 1, 39, 1, 1): "damaged",
        name_of(1, 2, 39, 1, 1): "nobody",
        name_of(1, 3, 39, 1, 1): "damaged",
        name_of(2, 1, 39, 1, 1): "damaged",
        "S001-notes": "unnamed",
        twice: "twice",
    }
    kinds = report.to_dict()["left_out"]
    assert {reason: kind["count"] for reason, kind in kinds.items()} == {
        "damaged": 3, "nobody": 1, "broken": 1, "elsewhere": 2, "twice": 1, "unnamed": 1, "unreadable": 0, "other": 0,
    }  # fmt: skip
    assert any("line " in file for file in kinds["damaged"]["files"])
    assert report.to_dict(1)["left_out"]["damaged"]["files"] == kinds["damaged"]["files"][:1]
    assert prepare(raw, tmp_path / "out120", "ntu120").clips == 4, "ntu120 has the later setups and actions"


def test_sightings_without_usable_coordinates_are_counted(tmp_path):
    points = motion(3, 20)
    points[4, 5, 1] = np.nan
    points[9, 0] = 1e9
    report = prepare(write_tree(tmp_path / "raw", [(name_of(), text_of(one_person(points)))]), tmp_path / "out")
    assert report.unusable == 2
    assert report.frames == 18


def test_a_tree_without_one_whole_recording_is_refused(tmp_path):
    raw = write_tree(tmp_path / "raw", [(name_of(), b"0\n"), (name_of(2), b"what?")])
    with pytest.raises(DataError, match=r"of 2 files none could be read; S001C001P001R001A001: nobody is seen"):
        prepare(raw, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_the_preparation_is_part_of_last_e_data_but_loaded_only_when_asked_for():
    import subprocess
    import sys

    import last_e.data

    assert last_e.data.prepare_ntu is prepare_ntu
    with pytest.raises(AttributeError, match="prepare_nto"):
        last_e.data.prepare_nto  # noqa: B018
    code = "import sys, last_e.train; assert not {'numba', 'last_e.prepare'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])


@pytest.mark.slow
def test_nothing_of_the_preparation_needs_torch(tree, tmp_path):
    import subprocess
    import sys

    code = (
        "import sys, pkgutil, importlib, last_e.prepare\n"
        "from pathlib import Path\n"
        "names = [module.name for module in pkgutil.walk_packages(last_e.prepare.__path__, 'last_e.prepare.')]\n"
        "assert len(names) > 10\n"
        "for name in names: importlib.import_module(name)\n"
        "from last_e.prepare.ntu import prepare_ntu\n"
        f"prepare_ntu('ntu60', [Path({str(tree)!r})], Path({str(tmp_path / 'out')!r}), workers=1)\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])
    shutil.rmtree(tmp_path, ignore_errors=True)
