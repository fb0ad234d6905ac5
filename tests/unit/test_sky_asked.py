"""What becomes of what SkyPilot is asked for, where its server does what the real one cannot be brought to: its library is made
up (:mod:`tests.sky_library`); the process that has it, and what is said between, are the real ones."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import pytest

from runner import machine
from runner.errors import EngineError, PausedError, StoreError
from runner.job.job import Job
from runner.launch.sky import launcher, terms
from runner.launch.sky.engine import NOTES, sky
from runner.launch.sky.launcher import SkyLauncher
from runner.launch.sky.started import StartedThere
from runner.resolve import resolve_spec
from runner.store.directory import DirectoryStore
from tests.conftest import Cli
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
    sky()._end()
    sky.cache_clear()
    terms.everything.cache_clear()
    yield found
    sky()._end()
    sky.cache_clear()
    terms.everything.cache_clear()


@pytest.fixture
def job(tmp_path: Path) -> Job:
    return Job.create(DirectoryStore(tmp_path / "store"), "x", ITEMS, {}, "0")


def test_skypilot_is_found_where_pythonpath_says(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """With PYTHONSAFEPATH, which every command sets for those it starts, Python puts no folder of a script before it."""
    monkeypatch.setenv("PYTHONSAFEPATH", "1")
    assert sky().look(NAME).state == "gone"


def test_who_took_a_machine_down_is_told_by_what_came_after_it_was_last_asked_for(server: Server) -> None:
    """Each kind that is full is taken down, too, under the same name."""
    server.write(launches=["full", "up", "up"])
    sky().launch({}, NAME, 2)
    server.request("down", NAME, "SUCCEEDED")
    assert sky().look(NAME).given_back  # what was asked for last was
    sky().launch({}, NAME, 2)
    server.write(clusters={})  # a spot machine, taken away
    assert not sky().look(NAME).given_back
    assert not sky().down(NAME)  # that comes too late
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


Begin = Callable[..., object]


@pytest.fixture
def begin(server: Server, job: Job, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> Begin:
    """Starts an attempt; what its machine is told is not made up."""
    monkeypatch.setattr(launcher, "_PAUSE_SECONDS", 0.0)
    monkeypatch.setattr(SkyLauncher, "_task", lambda *words: {"run": "true"})
    config = resolve_spec(tiny, "gcp", [], "sky").config

    def start(*launches: str) -> object:
        server.write(launches=launches)
        return SkyLauncher(config).start(job, [], TOKEN, output=None)

    return start


def test_a_machine_whose_request_was_not_heard_of_is_not_asked_for_any_more(server: Server, begin: Begin) -> None:
    """It stands in SkyPilot's queue, where there is no cluster yet to be taken down."""
    with pytest.raises(
        EngineError, match=r"does not answer \(.*\): sky api status\. lastrun resume \S+ asks for another machine$"
    ):
        begin("lost")
    assert (server.seen("launch"), NOTES.read(TOKEN)) == (["CANCELLED"], None)


@pytest.mark.parametrize("away", [False, True])
def test_who_leaves_before_a_request_is_heard_of_leaves_none_without_a_word(server: Server, begin: Begin, away: bool) -> None:
    def leave() -> None:
        while not server.seen("launch"):
            time.sleep(0.01)
        server.write(away=away)
        os.kill(os.getpid(), signal.SIGINT)

    leaving = threading.Thread(target=leave)
    leaving.start()
    with pytest.raises(
        EngineError if away else PausedError, match=r"^interrupted; its machine may be left|: interrupted before"
    ):
        begin("held")
    leaving.join()
    assert (server.seen("launch"), NOTES.read(TOKEN) is None) == (["PENDING" if away else "CANCELLED"], not away)


def test_a_machine_that_may_yet_come_up_is_named_and_remembered(server: Server, begin: Begin, job: Job) -> None:
    with pytest.raises(
        EngineError, match=rf"may come up all the same: sky down -y lastrun-{job.id}-{TOKEN} ends it then, and"
    ) as e:
        begin("never")
    assert f"lastrun stop {job.reference}" in str(e.value)
    assert NOTES.read(TOKEN) is not None
    with pytest.raises(EngineError, match=r"^SkyPilot: a task like that is not taken \(ValueError\)\. lastrun resume \S+ asks"):
        begin("no")  # that is an answer
    assert NOTES.read(TOKEN) is None


def test_who_asks_for_one_kind_of_machine_after_the_other_hears_a_request_to_stop(
    server: Server, begin: Begin, job: Job, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where one is full no cluster is there."""

    def stop(*words: Any) -> dict[str, Any]:
        stopped = cli("stop", job.id)
        assert (stopped.returncode, stopped.stderr) == (0, "")
        assert f"SkyPilot cluster lastrun-{job.id}-{TOKEN} is being asked for; what waits there leaves as" in stopped.stdout
        return {"run": "true"}

    job.requests.ask_to_stop(now=False)  # an earlier attempt
    monkeypatch.setattr(SkyLauncher, "_task", stop)
    with pytest.raises(PausedError, match=f"stopped before its attempt began; lastrun resume {job.reference} begins it"):
        begin("full", "up")
    assert (server.seen("launch"), server.read()["clusters"], NOTES.read(TOKEN)) == (["FAILED"], {}, None)


def test_what_stands_in_a_queue_there_is_taken_out_and_what_is_long_ago_does_not_wait(
    server: Server, begin: Begin, job: Job, cli: Cli
) -> None:
    begin("up")
    server.write(clusters={})
    ended = cli("stop", job.id)
    assert (ended.returncode, "there is nothing to stop" in ended.stderr) == (2, True)
    NOTES.write(TOKEN, job=job.id, cluster=NAME, asked=f"{time.time() - 1900:.0f}")
    ended = cli("stop", job.id)
    assert (ended.returncode, "there is nothing to stop" in ended.stderr) == (2, True)
    asker = {"machine": machine.identity(), "pid": f"{os.getpid()}", "process": "another"}  # that command was killed
    NOTES.write(TOKEN, job=job.id, cluster=NAME, asked=f"{time.time():.0f}", **asker)
    ended = cli("stop", job.id)
    assert (ended.returncode, "there is nothing to stop" in ended.stderr) == (2, True)
    server.request("launch", NAME, "PENDING")
    assert f"SkyPilot cluster {NAME} is being asked for" in cli("status", job.id).stdout
    taken = cli("stop", job.id)
    assert f"{job.id}: SkyPilot cluster {NAME} was taken out of the queue" in taken.stdout
    assert (server.seen("launch")[-1], NOTES.read(TOKEN), job.requests.keys()) == ("CANCELLED", None, [])
