"""``lastrun predict``: what an evaluation says of clips, of any file; over time; and what is bad told without stopping."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from last_e.data.clips import Clips
from last_e.data.files import write_clips
from last_e.data.synthetic import synthetic_clips
from tests.checkpoints import config_of, untrained
from tests.conftest import Cli
from tests.ntu_files import motion, one_person, text_of

pytestmark = pytest.mark.slow


@pytest.fixture
def model(tmp_path: Path) -> Path:
    clips = synthetic_clips()
    write_clips(clips, tmp_path / "clips.safetensors", {"dataset": "synthetic"})
    return untrained(tmp_path / "model", config_of())


def joints_of(clips: Clips, number: int) -> np.ndarray:
    """(M, T, 25, 3) metres."""
    begin, length, bodies = (int(each[number]) for each in (clips.start, clips.length, clips.bodies))
    return clips.joints[begin : begin + length * bodies].numpy().reshape(bodies, length, 25, 3) / 1000


def asked(cli: Cli, *words: str | Path, code: int = 0) -> dict[str, Any]:
    done = cli("predict", *words, "--json")
    assert done.returncode == code, done.stdout + done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_what_an_evaluation_says_of_a_clip_is_said_of_its_file(cli: Cli, model: Path, tmp_path: Path) -> None:
    done = cli("evaluate", model, "--csv", "said.csv")
    assert done.returncode == 0, done.stderr
    with (tmp_path / "said.csv").open() as file:
        said = {row["name"]: row for row in csv.DictReader(file)}
    assert len({row["said"] for row in said.values()}) > 2

    # All clips of the prepared file, in other batches than those of the evaluation.
    found = asked(cli, model, "clips.safetensors", "--top", "1")
    assert len(found["predictions"]) == found["speed"]["clips"] == 360
    for one in found["predictions"]:
        if one["clip"] in said:
            (best,) = one["top"]
            row = said[one["clip"]]
            assert (str(best["number"]), best["class"]) == (row["said"], row["said_name"])
            assert best["probability"] == pytest.approx(float(row["probability"]), abs=1e-5)

    # The same clips as arrays, and as JSON lines with a bad one between them, which is told.
    clips = synthetic_clips()
    numbers = list(map(int, said))[:5]
    lines = [json.dumps({"name": str(number), "joints": joints_of(clips, number).tolist()}) for number in numbers]
    (tmp_path / "clips.jsonl").write_text("\n".join([*lines[:2], "{", *lines[2:]]))
    np.save(tmp_path / "one.npy", joints_of(clips, numbers[0]))
    found = asked(cli, model, "clips.jsonl", "nowhere.npy", "one.npy", code=1)
    assert [one["clip"] for one in found["predictions"]] == [*map(str, numbers), "one"]
    for one, number in zip(found["predictions"], [*numbers, numbers[0]]):
        row = said[str(number)]
        assert one["top"][0]["class"] == row["said_name"]
        assert one["top"][0]["probability"] == pytest.approx(float(row["probability"]), abs=1e-5)
    assert [one["error"].split(": ")[0] for one in found["problems"]] == ["clips.jsonl:3", "nowhere.npy"]


def test_a_recording_is_told_over_time_in_every_form(cli: Cli, model: Path, tmp_path: Path) -> None:
    (tmp_path / "long.skeleton").write_bytes(text_of(one_person(motion(0, 150))))
    done = cli("predict", model, "long.skeleton", "--window", "40", "--stride", "0.5s", "--csv", "long.csv")
    assert done.returncode == 0, done.stderr
    first, *stretches = done.stdout.splitlines()
    assert first == "long.skeleton:"
    assert stretches[0].startswith("      0.00 s to ")
    assert " 5.00 s  class " in stretches[-1]
    assert "9 windows of 1 recording in " in done.stderr
    assert "ready after " in done.stderr
    with (tmp_path / "long.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(int(row["begin"]), int(row["end"])) for row in rows] == [
        *((begin, begin + 40) for begin in range(0, 110, 15)),
        (110, 150),
    ]
    found = asked(cli, model, "long.skeleton", "--window", "40", "--stride", "15", "--fps", "15")
    assert [one["top"][0]["class"] for one in found["predictions"]] == [row["class_1"] for row in rows]
    line = found["timeline"]
    assert (line[0]["begin"], line[-1]["end"], line[-1]["end_seconds"]) == (0, 150, 10.0)
    assert all(before["end"] == after["begin"] for before, after in pairwise(line))

    # A line each, as it is found: the first is there while standard input is still open.
    command = [sys.executable, "-m", "runner", "predict", str(model), "-", "--lines", "--quiet"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True, cwd=tmp_path) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps({"joints": motion(3).tolist()}) + "\n")
        process.stdin.flush()
        one = json.loads(process.stdout.readline())
        assert (one["kind"], one["clip"], one["source"]) == ("clip", "line-000001", "standard input")
        process.stdin.write("none\n")
        process.stdin.close()
        assert json.loads(process.stdout.readline())["error"].startswith("standard input:2: no JSON")
        assert process.wait() == 1
        assert process.stderr is not None
        assert [line.partition(": ")[0] for line in process.stderr] == ["error"]  # and not how fast it was


def test_what_cannot_be_asked_is_refused_before_anything_is_read(cli: Cli, model: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "one.npy", motion(0))
    (tmp_path / "there.csv").write_text("mine")

    def refused(*words: str | Path) -> str:
        done = cli("predict", *words)
        assert done.returncode in (1, 2, 3), done.stdout + done.stderr
        assert done.stdout == ""
        assert "Traceback" not in done.stderr
        return done.stderr

    assert "nowhere.npy: no such file or folder; - reads JSON lines" in refused(model, "nowhere.npy")
    assert "--window: found x; allowed: frames, such as 64, or seconds" in refused(model, "one.npy", "--window", "x")
    assert "--stride is between windows" in refused(model, "one.npy", "--stride", "3")
    assert "it is longer than a window (10)" in refused(model, "one.npy", "--window", "10", "--stride", "11")
    assert "--kind: found pickle; allowed: skeleton" in refused(model, "one.npy", "--kind", "pickle")
    assert "the model was trained on synthetic, in metres" in refused(model, "one.npy", "--units", "pixels")
    told = asked(cli, model, "one.npy", "--units", "pixels", code=2)  # one object, whenever it is that something is wrong
    assert (told["predictions"], told["exit_code"]) == ([], 2)
    assert "in metres" in told["error"]
    assert "is there already" in refused(model, "one.npy", "--csv", "there.csv")
    assert "no job nobody" in refused("nobody", "one.npy")
    state = model / "state.pt"
    data = bytearray(state.read_bytes())
    data[len(data) // 2] ^= 1
    state.write_bytes(data)
    assert "damaged checkpoint: state.pt is not what was written" in refused(model, "one.npy")
    assert (tmp_path / "there.csv").read_text() == "mine"
