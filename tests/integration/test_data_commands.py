"""``lastrun data`` as a user calls it: real trees, interruptions, full disks, and training on what comes out."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import pty
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from last_e.prepare.names import broken, read_name
from last_e.prepare.ntu import prepare_ntu
from tests.conftest import Cli
from tests.jobs import PATIENCE
from tests.ntu_files import motion, name_of, one_person, text_of, two_people, write_tree, write_zip


def without_progress(errors: str) -> list[str]:
    """Lines of standard error, but for those that a slow machine writes of how far it is."""
    return [line for line in errors.splitlines() if not re.search(r" of [\d,]+ .* left(;|$)", line)]


def recordings(count: int) -> dict[str, bytes]:
    files = {}
    for number in range(count):
        walk = motion(number % 1400, 24 + number % 20)
        scene = two_people(walk, motion(number + 1, len(walk))) if number % 6 == 0 else one_person(walk)
        files[name_of(1 + number % 17, 1 + number % 3, 1 + number % 40, 2, 1 + number % 60)] = text_of(scene)
    assert not files.keys() & broken("ntu60")
    return files


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tree(tmp_path_factory.mktemp("raw") / "tree", recordings(120).items())


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """1,200 recordings that are names for a few files: a second of work for each of two processes."""
    root = tmp_path_factory.mktemp("large")
    sources = []
    for number in range(4):
        sources.append(root / f"source{number}")
        sources[-1].write_bytes(text_of(two_people(motion(number, 120), motion(number + 9, 120))))
    folder = root / "tree"
    folder.mkdir()
    for number in range(1200):
        name = name_of(1 + number % 17, 1 + number % 3, 1 + number % 40, 1 + number // 600, 1 + number % 60)
        os.link(sources[number % 4], folder / f"{name}.skeleton")
    return folder


@pytest.fixture(scope="module")
def whole(large: Path, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """What an uninterrupted run makes of them."""
    out = tmp_path_factory.mktemp("whole") / "out"
    prepare_ntu("ntu60", [large], out, workers=1)
    return out.read_bytes()


def test_prepared_inspected_drawn_and_trained(tree: Path, tmp_path: Path, cli: Cli) -> None:
    out = tmp_path / "ntu60.safetensors"
    done = cli("data", "prepare", "ntu60", "--raw", tree, "--out", out)
    assert done.returncode == 0, done.stderr
    assert "120 clips of 120 files" in done.stdout
    assert "of the official 40,091 to train" in done.stdout
    assert f"next: lastrun data inspect {out}" in done.stdout

    done = cli("data", "inspect", out, "--animate", tmp_path / "clip.html", "--clip", "3")
    assert done.returncode == 0, done.stderr
    assert "120 clips" in done.stdout
    assert "60 classes" in done.stdout
    assert "whole: its bytes are those that its header says" in done.stdout
    assert (tmp_path / "clip.html").read_text().startswith("<!doctype html>")
    (tmp_path / "mine.yaml").write_text("a: 1")
    done = cli("data", "inspect", out, "--animate", tmp_path / "mine.yaml")
    assert (done.returncode, (tmp_path / "mine.yaml").read_text()) == (2, "a: 1")
    assert "mine.yaml is there already, and is no page: name another file, or say --overwrite" in done.stderr
    done = cli("data", "inspect", out, "--animate", tmp_path / "both.html", "--augment")
    assert done.returncode == 0, done.stderr
    assert "training.augmentations: {mirror: 1.0}" in (tmp_path / "both.html").read_text()
    assert cli("data", "inspect", out, "--augment").returncode == 2

    spec = tmp_path / "job.yaml"
    spec.write_text(
        "name: ntu\nmodel: {variant: nano_e_v3, stem_channels: 8, channels: [8, 8, 16]}\ndataset: ntu60\n"
        "training: {epochs: 1, batch_size: 20, input_frames: 16, warmup_epochs: 0}\nhardware: {cpu_threads: 1}\n"
    )
    done = cli("submit", spec, "--set", f"data.uri={out}", "split_type=xview")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "on ntu60 xview: 80 clips to train, 40 to test" in done.stdout
    assert "completed" in done.stdout


def test_a_zip_file_and_json(tree: Path, tmp_path: Path, cli: Cli) -> None:
    files = [*recordings(12).items(), ("S001C001P001R001A001", b"3\n1\n"), (next(iter(broken("ntu60"))), b"0\n")]
    raw = write_zip(tmp_path / "raw.zip", files)
    done = cli("data", "prepare", "ntu60", "--raw", raw, "--out", tmp_path / "out", "--json", "--workers", "1")
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout)
    assert (facts["lastrun"], facts["version"]) == ("data prepare", 1)
    assert facts["clips"] == 12
    assert facts["left_out"]["damaged"]["files"] == ["S001C001P001R001A001: line 3: the file ends where a body should stand"]
    assert facts["left_out"]["broken"]["count"] == 1
    assert sum(facts["splits"]["xsub"][part] for part in ("train", "test")) == 12
    facts = json.loads(cli("data", "inspect", tmp_path / "out", "--json").stdout)
    assert facts["lastrun"] == "data inspect"
    assert facts["clips"] == 12
    assert facts["whole"] is True
    assert facts["provenance"]["report"]["clips"] == 12


def test_other_projects_files_and_made_up_ones(tmp_path: Path, cli: Cli) -> None:
    people = [
        {"frame_dir": name, "label": read_name(name).action - 1, "keypoint": motion(3, 30)[None]} for name in recordings(8)
    ]
    (tmp_path / "a.pkl").write_bytes(pickle.dumps({"split": {}, "annotations": people}))
    done = cli("data", "import", "pyskl", tmp_path / "a.pkl", "--out", tmp_path / "a")
    assert done.returncode == 0, done.stderr
    assert "8 clips, 240 frames" in done.stdout
    rows, one_hot = np.ones((2, 20, 150), dtype=np.float32), np.eye(60)[:2]
    np.savez(tmp_path / "x.npz", x_train=rows, y_train=one_hot, x_test=rows, y_test=one_hot)
    done = cli("data", "import", "ctrgcn", tmp_path / "x.npz", "--out", tmp_path / "b")
    assert done.returncode == 2
    assert "--split" in done.stderr
    facts = json.loads(
        cli(
            "data", "import", "ctrgcn", tmp_path / "x.npz", "--split", "xview", "--out", tmp_path / "b", "--overwrite", "--json"
        ).stdout
    )
    assert facts["own_split"] == "xview"
    assert facts["splits"]["xview"] == {"train": 2, "test": 2, "official_train": 37_646, "official_test": 18_932}
    done = cli("data", "synth", "--like", "ntu120", "--clips", "300", "--out", tmp_path / "c")
    assert done.returncode == 0, done.stderr
    assert json.loads(cli("data", "inspect", tmp_path / "c", "--json").stdout)["clips"] == 300


MISTAKES = [
    (["prepare", "ntu61", "--raw", ".", "--out", "x"], 2, "data set: found 'ntu61'; allowed: ntu60, ntu120"),
    (["prepare", "ntu60", "--raw", "none", "--out", "x"], 2, "none: no such folder or archive"),
    (["prepare", "ntu60", "--raw", ".", "--out", "x"], 2, "no .skeleton file in there"),
    (["import", "xlsx", ".", "--out", "x"], 2, "kind: found 'xlsx'; allowed: ctrgcn, pyskl, npy, csv"),
    (["import", "pyskl", "none.pkl", "--out", "x"], 2, "none.pkl: no such file"),
    (
        ["import", "ctrgcn", "none.npz", "--split", "xtest", "--out", "x"],
        2,
        "--split: found 'xtest'; allowed: xsub, xview, xset",
    ),
    (
        ["synth", "--like", "ntu60", "--clips", "3", "--out", "job.yaml/x"],
        2,
        "job.yaml/x: cannot be written there: File exists; name another file with --out",
    ),
    (["synth", "--like", "ntu30", "--out", "x"], 2, "ntu30: no such file"),
    (["inspect", "none"], 2, "none: no such file"),
    (["inspect", "bad"], 1, "bad: cut short, damaged or not a prepared data file"),
    (["inspect", "job.yaml"], 2, "job.yaml: cut short, damaged or not a prepared data file"),
    (["import", "ctrgcn", "a.pkl", "--out", "x"], 2, "a.pkl: a pickle, and ctrgcn is a .npz file"),
    (["import", "ctrgcn", "job.yaml", "--out", "x"], 2, "job.yaml: not a whole .npz file"),
    (["import", "ctrgcn", "other.npz", "--out", "x"], 2, "no y_train in it"),
    (["import", "ctrgcn", "half.npz", "--out", "x"], 1, "half.npz: not a whole .npz file"),
    (["import", "pyskl", "a.pkl", "--split", "xsub", "--out", "x"], 2, "no list of annotations in it"),
    (["import", "pyskl", "code.pkl", "--split", "xsub", "--out", "x"], 2, "could run code"),
    (["import", "pyskl", "half.pkl", "--split", "xsub", "--out", "x"], 1, "half.pkl: cut short, or damaged"),
    (["import", "pyskl", "job.yaml", "--split", "xsub", "--out", "x"], 2, "job.yaml: damaged or no pickle"),
    (["import", "npy", "job.yaml", "--out", "x"], 2, "job.yaml: no folder"),
]


@pytest.mark.parametrize(
    ("words", "code", "expected"), MISTAKES, ids=lambda value: " ".join(value) if isinstance(value, list) else ""
)
def test_mistakes_are_told_in_one_line(tmp_path: Path, cli: Cli, words: list[str], code: int, expected: str) -> None:
    (tmp_path / "bad").write_bytes(b"hello")
    (tmp_path / "job.yaml").write_text("model: nano_e_v3\ndataset: irds\n")
    np.savez(tmp_path / "other.npz", data=np.zeros(1000))
    (tmp_path / "half.npz").write_bytes((tmp_path / "other.npz").read_bytes()[:1000])
    (tmp_path / "a.pkl").write_bytes(pickle.dumps({"a": 1}))
    (tmp_path / "half.pkl").write_bytes(pickle.dumps(list(range(999)))[:-9])
    (tmp_path / "code.pkl").write_bytes(pickle.dumps(Path("a")))
    done = cli("data", *words, "--json")
    assert done.returncode == code, done.stderr
    assert expected in done.stderr
    assert len(without_progress(done.stderr)) == 1
    assert not (tmp_path / "x").exists()
    told = json.loads(done.stdout)
    assert expected in told["error"]
    assert told["exit_code"] == code
    assert told["lastrun"] == f"data {words[0]}"


def test_paths_that_are_no_text_are_shown_escaped(tmp_path: Path, cli: Cli) -> None:
    odd = tmp_path / os.fsdecode(b"odd\xff")
    for words in (
        ["synth", "--like", "ntu60", "--clips", "3", "--out", odd],
        ["synth", "--like", odd, "--clips", "3", "--out", tmp_path / "plain", "--json"],
        ["inspect", odd, "--animate", tmp_path / os.fsdecode(b"clip\xff.html")],
        ["inspect", tmp_path / "plain", "--json"],
    ):
        done = cli("data", *words)
        assert done.returncode == 0, done.stderr
        assert "odd\\udcff" in done.stdout.replace("\\\\", "\\")


def test_what_is_inspected_fits_80_columns_and_is_the_same_in_a_pipe(
    tmp_path: Path, cli: Cli, clean_env: dict[str, str]
) -> None:
    cli("data", "synth", "--like", "ntu120", "--out", "ntu120.safetensors", "--clips", "2000")
    piped = cli("data", "inspect", "ntu120.safetensors").stdout
    assert max(map(len, piped.splitlines())) <= 80
    assert "\x1b" not in piped
    command = [sys.executable, "-m", "runner", "data", "inspect", "ntu120.safetensors"]
    ours, theirs = pty.openpty()
    with subprocess.Popen(command, stdout=theirs, stderr=theirs, cwd=tmp_path, env={**clean_env, "COLUMNS": "80"}) as process:
        os.close(theirs)
        shown = b""
        with contextlib.suppress(OSError):  # what a terminal says when its last writer has gone
            while piece := os.read(ours, 65536):
                shown += piece
    os.close(ours)
    assert process.returncode == 0
    assert shown.decode().replace("\r\n", "\n") == piped
    short = subprocess.run(
        f"{shlex.join(command)} | head -1", shell=True, capture_output=True, text=True, cwd=tmp_path, env=clean_env, check=False
    )
    assert short.stdout == piped.splitlines(keepends=True)[0]
    assert short.stderr == ""


def test_one_of_each_is_told_as_one(tmp_path: Path, cli: Cli) -> None:
    name = name_of(1, 1, 1, 1, 1)
    write_tree(tmp_path / "raw", [(name, text_of(one_person(motion(3, 24))))])
    made = cli("data", "prepare", "ntu60", "--raw", "raw", "--out", "a.safetensors")
    assert "a.safetensors: 1 clip of 1 file, 24 frames, 0 clips with two people" in made.stdout, made.stderr
    shown = made.stdout + cli("data", "inspect", "a.safetensors").stdout
    shown += cli("data", "synth", "--like", "ntu60", "--clips", "1", "--out", "b.safetensors").stdout
    assert "1 person, 1 camera, 1 setup\n" in shown
    assert not re.search(r"(?<![\d,.])1 (made-up )?(clips|files|frames|recordings|people|cameras|setups|classes)\b", shown), (
        shown
    )


def test_a_damaged_file_is_shown_and_refused(tmp_path: Path, cli: Cli) -> None:
    cli("data", "synth", "--like", "ntu60", "--clips", "20", "--out", tmp_path / "a")
    content = bytearray((tmp_path / "a").read_bytes())
    content[-5000] ^= 1
    (tmp_path / "a").write_bytes(content)
    done = cli("data", "inspect", tmp_path / "a")
    assert done.returncode == 1
    assert "20 clips" in done.stdout
    assert "damaged" in done.stderr


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("https://host/ntu60.safetensors", "allowed: a path, file:///path, s3://bucket/key or gs://bucket/key"),
        ("s3://bucket", "names a bucket; allowed: a file in it"),
        ("s3://bucket/a?colour=red", "unknown option colour"),
    ],
)
def test_a_place_that_data_cannot_come_from_is_told_before_a_job_is_made(
    tmp_path: Path, cli: Cli, tiny: Path, uri: str, expected: str
) -> None:
    done = cli("submit", tiny, "--set", "dataset=ntu60", f"data.uri={uri}")
    assert done.returncode == 2, done.stdout + done.stderr
    assert expected in done.stderr
    assert len(without_progress(done.stderr)) == 1
    assert not (tmp_path / "store").exists() or not list((tmp_path / "store").rglob("job.json"))


# --- interruptions -----------------------------------------------------------------------------------------------------------


class Preparation:
    """A preparation in a process group of its own, as in a terminal."""

    def __init__(self, raw: Path, out: Path, env: dict[str, str]) -> None:
        words = ["data", "prepare", "ntu60", "--raw", str(raw), "--out", str(out), "--workers", "2"]
        self.parts = out.with_name(f".{out.name}.parts")
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(
            [sys.executable, "-m", "runner", *words], stdout=pipe, stderr=pipe, text=True, env=env, start_new_session=True
        )

    def wait_for_a_part(self) -> None:
        end = time.monotonic() + PATIENCE
        while not list(self.parts.glob("0*.part")):
            assert self.process.poll() is None, self.process.communicate()
            assert time.monotonic() < end
            time.sleep(0.005)

    def alive(self) -> list[int]:
        """The processes of the group that have not ended."""
        found = []
        for stat in Path("/proc").glob("[0-9]*/stat"):
            try:
                fields = stat.read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[2]) == self.process.pid and fields[0] not in "ZX":
                found.append(int(stat.parent.name))
        return found


@pytest.fixture
def preparation(large: Path, tmp_path: Path, clean_env: dict[str, str]) -> Iterator[Preparation]:
    one = Preparation(large, tmp_path / "out", clean_env)
    yield one
    if one.alive():
        os.killpg(one.process.pid, signal.SIGKILL)
    one.process.communicate()


def goes_on(large: Path, tmp_path: Path, cli: Cli, whole: bytes) -> None:
    """The same command finishes, uses what was done, and gives the bytes of an uninterrupted run."""
    done = cli("data", "prepare", "ntu60", "--raw", large, "--out", tmp_path / "out", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["resumed"] >= 128
    assert (tmp_path / "out").read_bytes() == whole
    assert not list(tmp_path.glob(".*.parts"))


@pytest.mark.parametrize("how", ["ctrl-c", pytest.param("sigterm", marks=pytest.mark.full)])
def test_an_interrupted_preparation_goes_on(
    how: str, preparation: Preparation, large: Path, tmp_path: Path, cli: Cli, whole: bytes
) -> None:
    preparation.wait_for_a_part()
    if how == "ctrl-c":
        os.killpg(preparation.process.pid, signal.SIGINT)  # a terminal sends it to every process
    else:
        preparation.process.terminate()
    output, errors = preparation.process.communicate(timeout=PATIENCE)
    assert preparation.process.returncode == 75, output + errors
    assert "the same command goes on" in errors
    assert len(without_progress(errors)) == 1
    assert not (tmp_path / "out").exists()
    assert not list(preparation.parts.glob(".*.part")), "parts that had begun were finished"
    goes_on(large, tmp_path, cli, whole)


def test_a_killed_preparation_leaves_no_process_and_goes_on(
    preparation: Preparation, large: Path, tmp_path: Path, cli: Cli, whole: bytes
) -> None:
    preparation.wait_for_a_part()
    preparation.process.kill()
    preparation.process.communicate()
    end = time.monotonic() + PATIENCE
    while preparation.alive():
        assert time.monotonic() < end, "workers outlive their parent"
        time.sleep(0.05)
    goes_on(large, tmp_path, cli, whole)


def test_a_killed_worker_ends_the_command_with_a_word(
    preparation: Preparation, large: Path, tmp_path: Path, cli: Cli, whole: bytes
) -> None:
    preparation.wait_for_a_part()
    for pid in preparation.alive():
        if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes() and pid != preparation.process.pid:
            os.kill(pid, signal.SIGKILL)
            break
    _, errors = preparation.process.communicate(timeout=PATIENCE)
    assert preparation.process.returncode == 1
    assert "a worker process was ended from outside" in errors
    assert len(without_progress(errors)) == 1
    goes_on(large, tmp_path, cli, whole)


def test_a_full_disk_is_told_and_the_same_command_goes_on(tree: Path, small_disk: Path, tmp_path: Path, cli: Cli) -> None:
    filler = small_disk / "filler"
    filler.write_bytes(b"x" * 1_400_000)
    done = cli("data", "prepare", "ntu60", "--raw", tree, "--out", small_disk / "out")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "the disk is full; free some space" in done.stderr
    assert len(without_progress(done.stderr)) == 1
    assert not (small_disk / "out").exists()
    filler.unlink()
    assert cli("data", "prepare", "ntu60", "--raw", tree, "--out", small_disk / "out").returncode == 0
    assert sorted(path.name for path in small_disk.iterdir()) == ["out"]


def test_progress_is_lines_in_a_log() -> None:
    code = (
        "import time\nfrom last_e.bar import Bar\n"
        "with Bar('recordings', between=0) as bar:\n"
        "    for done in (1, 20, 40): bar.update_bytes('/a/b.tar.gz', done * 10**6, 40 * 10**6); time.sleep(0.1)\n"
        "    bar.update_bytes('small.tar', 100, 1000)\n"
        "    for done in (100, 150, 300): bar.update(done, 300); time.sleep(0.1)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    read, lines = done.stderr.splitlines()[:3], done.stderr.splitlines()[3:]
    assert read[0] == "1 of 40 MB of b.tar.gz, - left"
    assert read[1].startswith("20 of 40 MB of b.tar.gz, ")
    assert lines[0] == "100 of 300 recordings, - left"
    assert lines[1].startswith("150 of 300 recordings, ")
    assert lines[1].endswith("/s, 0s left")
    assert done.stdout == ""
