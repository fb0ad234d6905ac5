"""What becomes of what SkyPilot is asked for, where its server does what the real one cannot be brought to: its library is made
up (:mod:`tests.sky_library`); the process that has it, and what is said between, are the real ones."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import pytest

from runner.errors import EngineError, StoreError
from runner.job.job import Job
from runner.launch.sky import terms
from runner.launch.sky.engine import sky
from runner.launch.sky.started import StartedThere
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


class Away(DirectoryStore):
    def _is_away(self, *words: Any, **more: Any) -> NoReturn:
        raise StoreError("the store is away")

    get = scan = entries = put = _is_away


def test_who_leaves_is_heard_through_the_store_where_skypilot_does_not_answer(server: Server, job: Job) -> None:
    server.write(away=True)
    started = StartedThere(job, NAME, TOKEN, None)
    started.hand_on(signal.SIGINT)
    assert list(job.requests.new([]).values()) == ["save"]
    started.hand_on(signal.SIGINT)
    assert sorted(job.requests.new([]).values()) == ["now", "save"]
    server.write(away=False, clusters={NAME: "UP"})
    started.hand_on(signal.SIGINT)
    assert server.read()["clusters"] == {}


def test_who_leaves_is_told_what_ends_the_machine_where_the_store_does_not_answer(server: Server, tmp_path: Path) -> None:
    started = StartedThere(Job(Away(tmp_path / "store"), "x"), NAME, TOKEN, None)
    with pytest.raises(EngineError, match=f"^the store is away; sky down -y {NAME} ends it without saving$"):
        started.hand_on(signal.SIGINT)
