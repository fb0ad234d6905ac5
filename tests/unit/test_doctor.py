"""``lastrun doctor``: what it finds, and that nothing stays of it."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from threading import Event
from typing import Any

import pytest

from runner.doctor import store as doctor_store
from runner.doctor.finding import State
from runner.doctor.machine import findings_of, looks
from runner.launchers import LAUNCHERS
from runner.store.directory import DirectoryStore
from runner.store.protocol import Entry
from tests.conftest import Cli

TORCH: dict[str, Any] = {"torch": "2.13.0", "cuda": "12.6", "gpus": [], "problem": "no GPU"}
T4 = {"name": "Tesla T4", "capability": [7, 5], "problem": None}


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def test_it_tells_what_works_and_what_is_missing_and_leaves_nothing(cli: Cli, tmp_path: Path) -> None:
    before = files(tmp_path)
    done = cli("doctor", "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    told = json.loads(done.stdout)
    assert told["well"] is True
    found = {(one["part"], one["name"]): one for one in told["findings"]}
    assert {name for part, name in found if part == "launcher"} == set(LAUNCHERS)
    assert found["machine", "torch"]["state"] == "well"
    assert found["launcher", "local"]["state"] == "well"
    assert found["launcher", "hf"]["state"] == "missing"
    assert "hf auth login" in found["launcher", "hf"]["said"] or "pip install" in found["launcher", "hf"]["said"]
    assert "the first lastrun submit makes it" in found["store", "address"]["said"]
    assert files(tmp_path) == before

    (tmp_path / "store").mkdir()
    done = cli("doctor")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "what is put or deleted is seen at once" in done.stdout
    assert done.stdout.splitlines()[-1] == "all that is set up works"
    assert files(tmp_path) == {*before, "store"}


def test_what_does_not_work_is_told_and_is_the_exit_code(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "store").write_text("no folder")
    done = cli("doctor")
    assert done.returncode == 1
    assert "WRONG" in done.stdout
    assert "not a folder" in done.stdout
    assert done.stdout.splitlines()[-1].startswith("1 of ")


def test_who_does_not_answer_is_left_after_a_while(clean_env: dict[str, str], tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        env = {**clean_env, "DOCKER_HOST": f"tcp://127.0.0.1:{silent.getsockname()[1]}", "LASTRUN_WAITS": "engine=60 doctor=2"}
        code = (
            "import json\nfrom runner.doctor import examine\n"
            "print(json.dumps([(one.name, one.state.value, one.said) for one in examine(None)]))"
        )
        began = time.monotonic()
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, env=env, cwd=tmp_path, timeout=60, check=False
        )
    assert done.returncode == 0, done.stderr
    assert time.monotonic() - began < 50
    assert ["docker", "wrong", "no answer within 2 s"] in json.loads(done.stdout)


@pytest.mark.parametrize(
    ("load", "state", "says"), [(99.0, "note", "the machine is busy (load 99, "), (0.0, "wrong", "a slow disk")]
)
def test_torch_is_not_blamed_for_what_others_do(monkeypatch: pytest.MonkeyPatch, load: float, state: str, says: str) -> None:
    monkeypatch.setattr("runner.doctor.machine._TORCH_SECONDS", 0.001)
    monkeypatch.setattr(os, "getloadavg", lambda: (load, 0.0, 0.0))
    (found,) = looks()["machine", "torch"]()
    assert found.state.value == state
    assert says in found.said


@pytest.mark.parametrize(
    ("torch", "driver", "names", "states", "says"),
    [
        (TORCH | {"gpus": [T4]}, "560.35.03", ["Tesla T4"], ["well", "well"], "compute capability 7.5: it computes"),
        (TORCH | {"cuda": None}, "560.35.03", ["Tesla T4"], ["wrong", "wrong"], "install a build for CUDA"),
        (TORCH | {"gpus": [T4]}, "470.57.02", ["Tesla T4"], ["wrong", "well"], "that needs 525.60.13 or newer"),
        (
            TORCH | {"gpus": [T4 | {"problem": "it computes wrongly"}]},
            "560.35.03",
            [],
            ["well", "wrong"],
            "it computes wrongly",
        ),
        (TORCH, "560.35.03", ["Tesla T4"], ["well", "wrong"], "Tesla T4, and torch cannot use it: no GPU"),
        (TORCH, None, [], ["well", "missing"], "attempts here train on the CPU"),
    ],
    ids=["well", "CPU build", "old driver", "broken GPU", "hidden GPU", "no GPU"],
)
def test_torch_is_compared_with_driver_and_gpus(
    torch: dict[str, Any], driver: str | None, names: list[str], states: list[str], says: str
) -> None:
    found = findings_of(torch, driver, names)
    assert [one.state.value for one in found] == states
    assert says in " ".join(one.said for one in found)


class Stale(DirectoryStore):
    """Lists what was there a while ago, as one behind a cache does."""

    def scan(self, prefix: str, after: str = "") -> Iterator[Entry]:
        return iter([])


class Ahead(DirectoryStore):
    """Its files are written down by a machine whose clock is an hour ahead."""

    def put(self, key: str, data: bytes) -> None:
        super().put(key, data)
        path = self.root / key
        os.utime(path, (time.time() + 3600, time.time() + 3600))


@pytest.mark.parametrize(
    ("kind", "name", "state", "says"),
    [
        (Stale, "listing", State.WRONG, "what was put is not listed at once"),
        (Ahead, "clock", State.NOTE, "s ahead of this machine's: one of them is wrong"),
    ],
)
def test_a_store_that_is_none_is_found_out(
    kind: type[DirectoryStore], name: str, state: State, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "store").mkdir()
    monkeypatch.setattr(doctor_store, "existing_store", lambda uri: kind(tmp_path / "store"))
    [look] = doctor_store.looks(None, Event()).values()
    [found] = [one for one in look() if one.name == name]
    assert found.state is state
    assert says in found.said


def test_what_a_killed_look_left_goes_with_a_later_one(cli: Cli, tmp_path: Path) -> None:
    for name, age in (("old", 2 * 3600), ("young", 0)):
        path = tmp_path / "store" / f".doctor-{name}" / "speed"
        path.parent.mkdir(parents=True)
        path.write_text("left")
        os.utime(path, (time.time() - age, time.time() - age))
    assert cli("doctor").returncode == 0
    assert files(tmp_path / "store") == {".doctor-young", ".doctor-young/speed"}


def test_errors_of_the_store_point_to_it_on_a_terminal_and_nowhere_else(clean_env: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "store").write_text("no folder")
    command, hint = [sys.executable, "-m", "runner", "list"], "lastrun doctor looks at this machine"
    piped = subprocess.run(command, capture_output=True, text=True, env=clean_env, cwd=tmp_path, check=False)
    assert (piped.returncode, hint in piped.stderr) == (4, False)
    ours, theirs = os.openpty()
    try:
        done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=theirs, env=clean_env, cwd=tmp_path, check=False)
        assert (done.returncode, hint in os.read(ours, 4096).decode()) == (4, True)
    finally:
        os.close(ours)
        os.close(theirs)
