"""What one Docker engine of a test run keeps for another, with layers that are no image's: the engines are in tests/e2e."""

from __future__ import annotations

import shutil
import subprocess
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.docker_engine import IMAGE, SharedImage


def stand_in(folder: Path, driver: str = "overlay2") -> Any:
    """Of an engine what is looked at."""
    client = SimpleNamespace(info=lambda: {"Driver": driver})
    return SimpleNamespace(folder=folder, client=client, build=lambda: None)


def may_take_mounts_apart() -> bool:
    program = shutil.which("unshare")  # Linux alone has it
    return (
        program is not None and subprocess.run([program, "--mount", "true"], capture_output=True, check=False).returncode == 0
    )


def test_what_is_kept_lies_in_the_folder_of_the_run_and_goes_with_it(tmp_path: Path) -> None:
    if not may_take_mounts_apart():
        pytest.skip("nobody here may take apart what is mounted")
    built, other, run = (tmp_path / name for name in ("built", "other", "run"))
    for folder in (built / "data" / "image", built / "data" / "overlay2", other, run):
        folder.mkdir(parents=True)
    (built / "data" / "overlay2" / "layer").write_text("a layer")
    (built / "data" / "image" / "names").write_text("names")
    shared = SharedImage(run / IMAGE)
    shared.announce()
    shared.build(stand_in(built))
    shared.give_up()  # as whoever builds says at its end
    assert SharedImage(run / IMAGE).load(stand_in(other))
    assert (other / "data" / "overlay2" / "layer").samefile(built / "data" / "overlay2" / "layer")
    assert (other / "data" / "image" / "names").read_text() == "names"
    kept = {path for path in run.iterdir() if path.is_dir()}
    assert len(kept) == 1
    SharedImage(run / IMAGE).remove()
    deadline = time.monotonic() + 60
    while any(path.exists() for path in kept):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert (other / "data" / "overlay2" / "layer").exists()


def test_an_engine_that_keeps_its_layers_otherwise_keeps_nothing_for_others(tmp_path: Path) -> None:
    shared = SharedImage(tmp_path / IMAGE)
    shared.announce()
    shared.build(stand_in(tmp_path, driver="vfs"))
    assert not shared.load(stand_in(tmp_path / "other"))
    SharedImage(tmp_path / IMAGE).remove()
