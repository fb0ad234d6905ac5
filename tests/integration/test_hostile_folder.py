"""The folder one stands in is not code, whatever its files are called."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from last_e import process
from tests.conftest import TINY
from tests.ntu_files import motion, name_of, one_person, text_of, write_tree

NAMES = ("random", "types", "signal", "json", "numpy", "torch", "typer", "multiprocessing", "runner", "last_e", "sitecustomize")


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """A folder full of modules that leave a mark and end the program that imports them."""
    folder = tmp_path / "here"
    folder.mkdir()
    for name in NAMES:
        code = f"import sys\nopen({str(tmp_path / 'ran')!r}, 'a').write({name!r})\nsys.exit('imported {name} from here')\n"
        (folder / f"{name}.py").write_text(code)
    return folder


def lastrun(here: Path, env: dict[str, str], *words: str) -> subprocess.CompletedProcess[str]:
    """As it is called by the script that is installed."""
    command = [str(Path(sys.executable).parent / "lastrun"), *words]
    return subprocess.run(command, cwd=here, env=env, capture_output=True, text=True, timeout=300, check=False)


@pytest.mark.parametrize("how", [["--detach"], ["--set", "hardware.ranks=2", "hardware.micro_batch=20"]])
def test_a_job_is_trained_by_our_code_alone(here: Path, clean_env: dict[str, str], tmp_path: Path, how: list[str]) -> None:
    (here / "tiny.yaml").write_text(TINY.replace("epochs: 3", "epochs: 1"))
    done = lastrun(here, clean_env, "submit", "tiny.yaml", *how)
    assert done.returncode == 0, done.stdout + done.stderr
    if how == ["--detach"]:
        while '"state": "running"' in (status := lastrun(here, clean_env, "status", "tiny", "--json").stdout):
            pass
        assert '"state": "succeeded"' in status
    assert not (tmp_path / "ran").exists()


def test_workers_import_nothing_from_here(here: Path, clean_env: dict[str, str], tmp_path: Path) -> None:
    files = [(name_of(action=action), text_of(one_person(motion(action)))) for action in (1, 2, 3)]
    raw = write_tree(tmp_path / "raw", files)
    done = lastrun(here, clean_env, "data", "prepare", "ntu60", "--raw", str(raw), "--out", "made", "--workers", "2")
    assert done.returncode == 0, done.stdout + done.stderr
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("safe", [True, False])
def test_every_python_starts_its_modules_from_elsewhere(
    here: Path, clean_env: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, safe: bool
) -> None:
    if safe and sys.version_info < (3, 11):
        pytest.skip("this Python has no -P")
    monkeypatch.setattr(process, "_SAFE", safe)
    command = [*process.run_module("last_e"), "--help"]
    done = subprocess.run(command, cwd=here, env=clean_env, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("usage: python -m last_e ")
    assert not (tmp_path / "ran").exists()
    monkeypatch.chdir(here)
    with process.elsewhere():
        assert (Path.cwd() == here) is safe
    assert Path.cwd() == here


def test_an_empty_part_of_pythonpath_is_not_this_folder(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(here)
    monkeypatch.setenv("PYTHONPATH", f"{os.pathsep}/opt/own{os.pathsep}")
    monkeypatch.setenv("PYTHONSAFEPATH", "")
    monkeypatch.setattr(sys, "path", ["", str(here), "/opt/own"])
    process.import_nothing_from_here()
    assert (os.environ["PYTHONPATH"], sys.path) == ("/opt/own", ["/opt/own"])
