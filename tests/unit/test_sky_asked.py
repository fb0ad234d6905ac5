"""What becomes of what SkyPilot is asked for, where its server does what the real one cannot be brought to: its library is made
up (:mod:`tests.sky_library`); the process that has it, and what is said between, are the real ones."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from runner.job.job import Job
from runner.launch.sky import terms
from runner.launch.sky.engine import sky
from runner.store.directory import DirectoryStore
from tests.sky_library import Server, install

TOKEN = "0123abcd"
NAME = f"lastrun-x-{TOKEN}"
ITEMS = {"model.variant": "nano_e_v3", "dataset": "synthetic", "split_type": "xsub", "env": "local", "training.epochs": 5}


@pytest.fixture
def server(tmp_path: Path, own_place: None, clean_env: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    found, variables = install(tmp_path / "sky")
    clean_env |= variables
    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    sky.cache_clear()
    terms.everything.cache_clear()
    yield found
    sky()._end()
    sky.cache_clear()
    terms.everything.cache_clear()


@pytest.fixture
def job(tmp_path: Path) -> Job:
    return Job.create(DirectoryStore(tmp_path / "store"), "x", ITEMS, {}, "0")


def test_who_took_a_machine_down_is_told_by_what_came_after_it_was_last_asked_for(server: Server) -> None:
    """Each kind that is full is taken down, too, under the same name."""
    server.write(launches=["full", "up", "up"])
    sky().launch({}, NAME, 2)
    server.request("down", NAME, "SUCCEEDED")
    assert sky().look(NAME).given_back  # what was asked for last was
    sky().launch({}, NAME, 2)
    server.write(clusters={})  # a spot machine, taken away
    assert not sky().look(NAME).given_back
    sky().down(NAME)  # that comes too late
    assert not sky().look(NAME).given_back
    sky().launch({}, "lastrun-x-89abcdef", 2)
    sky().down("lastrun-x-89abcdef")
    assert sky().look("lastrun-x-89abcdef").given_back
    assert not sky().look(NAME).given_back
