"""An own data set from its file to a trained network, as a user has it: ``dataset: my.safetensors`` is all a job says of it."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from last_e.data import OwnClip, Split, read_clips, write_clips, write_dataset
from last_e.skeletons import COCO17
from runner.store.open import open_store
from tests.conftest import Cli

JOB = """\
model: nano
dataset: my.safetensors
training: {epochs: 2, batch_size: 8, input_frames: 16, warmup_epochs: 0}
store: {uri: ./jobs}
"""
STANDING = {"nose": (0, 0), "eye": (8, -8), "ear": (14, -4), "shoulder": (35, 40), "elbow": (45, 95), "wrist": (48, 145),
            "hip": (22, 150), "knee": (24, 230), "ankle": (25, 310)}  # fmt: skip


def person(label: int, seed: int) -> np.ndarray:
    """(T, 17, 2) pixels of somebody who stands, or waves with both arms."""
    random = np.random.default_rng(seed)
    frames, at, size = int(random.integers(20, 40)), random.uniform(200, 400, 2), random.uniform(0.6, 1.2)
    joints = np.zeros((frames, 17, 2))
    for number, name in enumerate(COCO17.joints):
        side, _, part = name.rpartition("_")
        x, y = STANDING[part]
        joints[:, number] = (x if side == "left" else -x, y)
    if label:
        swing = np.sin(np.arange(frames) / 3 + random.uniform(0, 6))
        for number in (7, 8, 9, 10):  # elbows and wrists
            joints[:, number, 1] -= (90 if number < 9 else 180) * (1 + 0.3 * swing)
    return at + size * joints + random.normal(0, 1.5, joints.shape)


def people() -> Iterator[OwnClip]:
    for number in range(48):
        yield OwnClip(person(number % 2, number), ("still", "waving")[number % 2], f"c{number}", f"person {number // 6}")


@pytest.fixture
def own(tmp_path: Path) -> Path:
    split = Split(test=["person 6", "person 7"])
    write_dataset(tmp_path / "my.safetensors", people(), classes=["still", "waving"], skeleton="coco17", units="pixels",
                  splits={"people": split}, source="made up")  # fmt: skip
    (tmp_path / "job.yaml").write_text(JOB)
    return tmp_path / "my.safetensors"


def test_a_job_trains_on_a_file_alone_and_holds_to_it(own: Path, cli: Cli, tmp_path: Path) -> None:
    assert "nano_e_v3 on my.safetensors people, 2 epochs" in cli("validate", "job.yaml").stdout
    done = cli("submit", "job.yaml")
    assert done.returncode == 0, done.stderr
    assert "nano_e_v3 (69,810 parameters) on my.safetensors people: 36 clips to train, 12 to test" in done.stdout + done.stderr
    (job,) = (tmp_path / "jobs").glob("nano-*")
    assert job.name.startswith("nano-e-v3-my-people-")
    config = json.loads((job / "job.json").read_text())["config"]
    assert (config["dataset"], config["data.num_classes"], config["data.joints"]) == ("my.safetensors", 2, 17)
    done = cli("evaluate", job.name, "--store", "jobs", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["names"] == ["still", "waving"]
    # What is said of its clips is said of the same recordings in another kind of file.
    assert cli("evaluate", job.name, "--store", "jobs", "--csv", "said.csv").returncode == 0
    with (tmp_path / "said.csv").open() as file:
        said = {row["name"]: row for row in csv.DictReader(file)}
    lines = [json.dumps({"name": one.name, "joints": np.asarray(one.joints).tolist()}) for one in people() if one.name in said]
    (tmp_path / "test.jsonl").write_text("\n".join(lines))
    # Another set under the same name is another run.
    write_dataset(own, people(), classes=["still", "waving", "lying"], skeleton="coco17", units="pixels",
                  splits={"people": Split(test=["person 6", "person 7"])}, overwrite=True)  # fmt: skip
    more = ("--set", "training.epochs=3", "--allow-change", "training.epochs")
    refused = cli("resume", job.name, "--store", "jobs", *more)
    assert refused.returncode != 0
    assert "it is not the set that the job was made with" in refused.stderr
    own.unlink()
    done = cli("predict", job.name, "test.jsonl", "--store", "jobs", "--json")  # which needs no data set
    assert done.returncode == 0, done.stderr
    told = {one["clip"]: one["top"][0] for one in json.loads(done.stdout)["predictions"]}
    assert {name: one["class"] for name, one in told.items()} == {name: row["said_name"] for name, row in said.items()}
    assert all(one["probability"] == pytest.approx(float(said[name]["probability"]), abs=1e-5) for name, one in told.items())
    assert "docs/own-data.md" in cli("validate", "job.yaml").stderr


def test_a_job_is_found_again_whatever_its_sets_file_is_called(own: Path, cli: Cli, tmp_path: Path) -> None:
    name = "My Set_v2.1.safetensors"
    own.rename(tmp_path / name)
    (tmp_path / "job.yaml").write_text(JOB.replace("my.safetensors", name).replace("epochs: 2", "epochs: 1"))
    done = cli("submit", "job.yaml")
    assert done.returncode == 0, done.stderr
    (job,) = (tmp_path / "jobs").glob("nano-*")
    assert job.name.startswith("nano-e-v3-my-set-v2-1-people-")
    assert job.name in cli("list", "--store", "jobs").stdout
    assert cli("status", job.name, "--store", "jobs").returncode == 0
    more = ("--set", "training.epochs=2", "--allow-change", "training.epochs")
    done = cli("resume", job.name, "--store", "jobs", *more)
    assert done.returncode == 0, done.stderr


def test_who_takes_no_file_says_what_to_do_with_the_key_that_names_it(own: Path, cli: Cli) -> None:
    words = ("--store", "s3://bucket/jobs", "--dry-run")
    refused = cli("submit", "job.yaml", "--launcher", "kaggle", *words, KAGGLE_API_TOKEN="none")
    assert "dataset: " in refused.stdout + refused.stderr
    told = " ".join((refused.stdout + refused.stderr).split())
    assert "is not there" in told
    assert "name it without a folder (dataset: my.safetensors" in told
    assert "leave out data.uri" not in told


@pytest.mark.xdist_group("ceph")
def test_a_set_in_a_bucket_is_read_before_there_is_a_job(
    own: Path, bucket: str, clean_env: dict[str, str], cli: Cli, tmp_path: Path
) -> None:
    store = open_store(clean_env["LASTRUN_STORE"])
    store.put_file("data/my.safetensors", own)
    store.put_file("data/other.safetensors", tmp_path / "job.yaml")
    here = json.loads(cli("validate", "job.yaml", "--json").stdout)["config"]
    own.unlink()
    place, _, options = clean_env["LASTRUN_STORE"].partition("?")

    def there(name: str) -> str:
        (tmp_path / "job.yaml").write_text(JOB.replace("my.safetensors", f"{place}/data/{name}?{options}"))
        return f"{place}/data/{name}"

    uri = there("my.safetensors")
    done = cli("validate", "job.yaml", "--json")
    assert done.returncode == 0, done.stderr
    config = json.loads(done.stdout)["config"]
    assert config["data.uri"].startswith(uri)
    for key in ("dataset", "data.content", "data.num_classes", "data.splits", "data.joints", "split_type"):
        assert config[key] == here[key], key
    for name, told in (
        ("none.safetensors", "there is no such object"),
        ("other.safetensors", "no header of a safetensors file"),
    ):
        there(name)
        done = cli("validate", "job.yaml")
        assert (done.returncode, told in done.stderr) == (2, True), done.stderr


def test_a_set_that_cannot_be_trained_with_is_inspected_and_refused(own: Path, cli: Cli) -> None:
    good = read_clips(own, 2)
    write_clips(replace(good, label=good.label + 1), own, {"data_sha256": "0" * 64})
    shown = cli("data", "inspect", own)
    assert shown.returncode == 1
    assert "warning: 24 labels without a name: 2, and the classes are 0 to 1" in shown.stdout
    assert "nothing can be trained with it" in shown.stderr
    refused = cli("submit", "job.yaml")
    assert refused.returncode == 2
    assert "job.yaml:2: dataset: found my.safetensors: 24 labels without a name: 2" in refused.stderr


def test_plan_counts_a_sets_clips_and_joints(own: Path, cli: Cli) -> None:
    done = cli("plan", "job.yaml", "--env", "local", "--json")
    assert done.returncode == 0, done.stderr
    plan = json.loads(done.stdout)
    assert (plan["dataset"], plan["clips"]["train"], plan["clips"]["test"]) == ("my.safetensors", 36, 12)
    assert math.isfinite(plan["steps_per_epoch"])


def test_keypoints_come_in_by_the_command(cli: Cli, tmp_path: Path) -> None:
    names = [f"{joint}_{axis}" for joint in COCO17.joints for axis in "xy"]
    rows = [",".join(["clip", "frame", "label", "subject", *names])]
    for clip in people():
        rows += [
            ",".join([clip.name, str(frame), str(clip.label), str(clip.subject), *(f"{value:.2f}" for value in at.ravel())])
            for frame, at in enumerate(np.asarray(clip.joints))
        ]
    (tmp_path / "all.csv").write_text("\n".join(rows))
    words = ("data", "import", "csv", "all.csv", "--out", "my.safetensors", "--test", "person 6,person 7")
    done = cli(*words)
    assert done.returncode == 0, done.stderr
    assert "my.safetensors: 48 clips" in done.stdout
    assert "2 classes: still, waving\n17 joints, in pixels, 30 frames a second\nsubject: 36 to train, 12 to test" in done.stdout
    facts = json.loads(cli(*words, "--json").stdout)  # the same once more
    assert (facts["kind"], facts["clips"], facts["splits"]) == ("csv", 48, {"subject": {"train": 36, "test": 12}})
    other = cli(*words[:-1], "person 5")
    assert other.returncode == 2
    assert "add --overwrite" in other.stderr
    for wrong, told in (
        (("csv", "all.csv", "--out", "b.safetensors", "--by", "room"), "--by: found 'room'; allowed: subject, clip"),
        (("ctrgcn", "a.npz", "--out", "b.safetensors", "--fps", "20", "--layout", "coco17"), "--layout: ctrgcn is of NTU's"),
        (("xlsx", "a.xlsx", "--out", "b.safetensors"), "allowed: ctrgcn, pyskl, npy, csv, npz, json"),
        (("csv", "all.csv", "--out", "b.csv"), "a set's file is called NAME.safetensors"),
    ):
        done = cli("data", "import", *wrong)
        assert (done.returncode, told in done.stderr) == (2, True), done.stderr
    assert not list(tmp_path.glob("*b.*"))
