"""The wheel as a user installs it: alone it is light and everything but training works; nothing it needs is missing."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.jobs import PATIENCE

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True, timeout=PATIENCE)
    return next(folder.glob("lastrun-*.whl"))


@pytest.fixture(scope="module")
def light(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment with ``pip install lastrun`` and nothing else."""
    folder = tmp_path_factory.mktemp("light") / "venv"
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True, timeout=PATIENCE)
    install = [folder / "bin" / "pip", "install", "-q", "-c", ROOT / "constraints.txt", wheel]
    done = subprocess.run(list(map(str, install)), capture_output=True, text=True, timeout=PATIENCE, check=False)
    if done.returncode != 0:
        pytest.skip(f"the runner's dependencies cannot be installed here: {done.stderr.strip().splitlines()[-1]}")
    return folder / "bin"


def call(light: Path, folder: Path, *words: str | Path) -> subprocess.CompletedProcess[str]:
    env = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "LASTRUN_STORE")}
    env.update(HOME=str(folder), LASTRUN_STORE=str(folder / "store"))
    return subprocess.run(
        list(map(str, words)), capture_output=True, text=True, env=env, cwd=folder, timeout=PATIENCE, check=False
    )


def test_the_wheel_holds_the_recordings_with_their_notice_and_every_configuration(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    expected = {path.relative_to(ROOT).as_posix() for path in (ROOT / "last_e").rglob("*.yaml")}
    assert len(expected) == 15
    assert expected | {"last_e/data/irds/healthy.npz", "last_e/data/irds/NOTICE.md"} <= names
    of_prepare = ("animation.html", "ntu/missing_ntu60.txt", "ntu/missing_ntu120.txt")
    assert {f"last_e/prepare/{name}" for name in of_prepare} <= names
    assert "last_e/skeletons.js" in names
    of_report = (
        "report.html",
        "report.css",
        "report.js",
        "curves.js",
        "vendor/uPlot.iife.min.js",
        "vendor/uPlot.min.css",
        "vendor/LICENSE.uPlot.txt",
    )
    assert {f"runner/view/report/{name}" for name in of_report} <= names
    of_ui = [path for folder in ("pages", "static") for path in (ROOT / "runner" / "ui" / folder).iterdir()]
    assert len(of_ui) == 13
    assert {path.relative_to(ROOT).as_posix() for path in of_ui} <= names
    assert any(name.endswith(".dist-info/licenses/runner/view/report/vendor/LICENSE.uPlot.txt") for name in names)
    assert {"runner/plan/gpus.toml", "runner/plan/prices.toml"} <= names
    assert any(name.startswith("runner/plan/measured/") for name in names)
    assert {name.split("/")[0] for name in names if ".dist-info" not in name} == {"last_e", "runner"}


def test_without_torch_everything_but_training_works(light: Path, tmp_path: Path) -> None:
    lastrun, spec = light / "lastrun", ROOT / "jobs" / "quickstart.yaml"
    assert not list(light.parent.glob("lib/*/site-packages/torch"))
    for words in (
        ["--help"],
        ["validate", spec],
        ["explain", spec],
        ["plan", spec],
        ["list"],
        ["--version"],
    ):
        done = call(light, tmp_path, lastrun, *words)
        assert done.returncode == 0, (words, done.stderr)
        assert done.stdout
    assert call(light, tmp_path, lastrun, "status", "none").returncode == 3
    told = call(light, tmp_path, lastrun, "validate", spec).stdout
    assert "note: on this machine it could not start: training here needs torch, numpy, safetensors, not installed in" in told

    done = call(light, tmp_path, lastrun, "submit", spec)
    assert done.returncode == 6
    assert len(done.stderr.splitlines()) == 1
    assert "pip install '.[train]'" in done.stderr
    assert not (tmp_path / "store").exists()
    dry = call(light, tmp_path, lastrun, "submit", spec, "--dry-run")
    assert dry.returncode == 6  # as the start itself: what is approved can run
    assert "pip install '.[train]'" in dry.stdout
    assert not (tmp_path / "store").exists()

    done = call(light, tmp_path, lastrun, "data", "inspect", tmp_path / "none")
    assert done.returncode == 6
    assert done.stderr == "error: this needs numpy, which is not installed; from a clone of lastrun: pip install '.[data]'\n"

    done = call(light, tmp_path, light / "python", "-m", "last_e", "--dataset", "irds")
    assert done.returncode == 6
    assert done.stderr == "error: torch is not installed; from a clone of lastrun: pip install '.[train]'\n"


def test_without_torch_a_job_can_be_followed(light: Path, tmp_path: Path) -> None:
    (tmp_path / "tiny.yaml").write_text(
        "name: tiny\nmodel: nano\ndataset: synthetic\ntraining: {epochs: 1, batch_size: 120, input_frames: 16}\n"
    )
    command = [sys.executable, "-m", "runner", "submit", tmp_path / "tiny.yaml", "--store", tmp_path / "store"]
    subprocess.run(list(map(str, command)), check=True, capture_output=True, timeout=PATIENCE, cwd=ROOT)
    assert "succeeded" in call(light, tmp_path, light / "lastrun", "status", "tiny").stdout
    assert "epoch 1/1" in call(light, tmp_path, light / "lastrun", "logs", "tiny").stdout
    done = call(light, tmp_path, light / "lastrun", "report", "tiny", "--out", tmp_path / "tiny.html")
    assert done.returncode == 0, done.stderr
    assert "Confusion matrix" in (tmp_path / "tiny.html").read_text()
