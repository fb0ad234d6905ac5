"""Who it is at Kaggle, and what Kaggle is asked again: its own client against a stand-in of its server."""

from __future__ import annotations

import io
import json
import os
import time
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from runner import machine
from runner.errors import EngineError, UsageError
from runner.job.job import Job
from runner.launch import again, followed
from runner.launch.kaggle import account as kaggle
from runner.launch.kaggle import kept
from runner.launch.kaggle.account import Account, account
from runner.launch.kaggle.launcher import KaggleLauncher
from runner.launch.kaggle.started import StartedThere
from runner.store.directory import DirectoryStore
from tests.jobs import PATIENCE

if TYPE_CHECKING:
    from tests.kaggle_server import KaggleServer


@pytest.fixture
def here(kaggle_server: KaggleServer, clean_env: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """This process is a user of it."""
    for name in [name for name in os.environ if name.startswith("KAGGLE_")]:  # whoever runs the tests may be somebody there
        monkeypatch.delenv(name)
    for name in ("HOME", *kaggle_server.environment()):
        monkeypatch.setenv(name, clean_env[name])
    monkeypatch.setattr(again, "_FIRST_SECONDS", 0.01)
    kaggle._own.cache_clear()
    account.cache_clear()
    yield
    kaggle._own.cache_clear()
    account.cache_clear()


def is_me() -> bool:
    kaggle._own.cache_clear()
    account.cache_clear()
    return account().name == "me" and account().quota().left == 30 * 3600


def test_whoever_has_a_key_a_token_or_a_login_is_known(
    here: None, kaggle_server: KaggleServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert is_me()  # by variables
    for name in ("KAGGLE_USERNAME", "KAGGLE_KEY"):
        monkeypatch.delenv(name)
    with pytest.raises(UsageError, match="kaggle auth login, or "):
        is_me()
    folder = tmp_path / ".kaggle"
    folder.mkdir()
    (folder / "kaggle.json").write_text("no key")
    with pytest.raises(UsageError, match=r"kaggle\.json is no key as kaggle\.com/settings gives it"):
        is_me()
    (folder / "kaggle.json").write_text(json.dumps({"username": "me", "key": kaggle_server.key}))
    assert is_me()
    (folder / "kaggle.json").rename(tmp_path / "kaggle.json")
    monkeypatch.setenv("KAGGLE_CONFIG_DIR", str(tmp_path))
    assert is_me()
    monkeypatch.delenv("KAGGLE_CONFIG_DIR")
    (folder / "access_token").write_text(f"{kaggle_server.key}\n")
    assert is_me()
    (folder / "access_token").write_text("another")
    with pytest.raises(EngineError, match="it does not take your key"):
        is_me()
    (folder / "access_token").unlink()
    monkeypatch.setenv("KAGGLE_API_TOKEN", kaggle_server.key)
    assert is_me()
    kaggle_server.busy = [503, 429]
    assert is_me()
    monkeypatch.delenv("KAGGLE_API_TOKEN")

    kaggle_server.oauth = "good-for-half-a-day"
    until = datetime.now(timezone.utc) + timedelta(hours=1)
    login = {"refresh_token": f"renews {kaggle_server.key}", "access_token": kaggle_server.oauth, "username": "me"}
    (folder / "credentials.json").write_text(json.dumps({**login, "access_token_expiration": until.isoformat()}))
    assert is_me()
    kaggle_server.oauth = "another"  # a session lasts longer than it was good for
    kaggle_server.busy_at["GenerateAccessToken"] = [503]
    assert account().quota().left == 30 * 3600
    assert (kaggle_server.oauth, json.loads((folder / "credentials.json").read_text())["access_token"]) == ("another+",) * 2
    kaggle_server.asked_for.clear()
    assert account().quota().left == 30 * 3600
    assert len(kaggle_server.asked_for) == 1
    kaggle_server.oauth = "another one"
    over = {**login, "refresh_token": "renews nothing"}
    for hours in (1, -1):  # it is renewed when it is not taken, or before
        until = datetime.now(timezone.utc) + timedelta(hours=hours)
        (folder / "credentials.json").write_text(json.dumps({**over, "access_token_expiration": until.isoformat()}))
        with pytest.raises(EngineError, match=r"^Kaggle: your login there is over: kaggle auth login$"):
            is_me()


def test_a_busy_kaggle_is_asked_again_for_a_while_but_not_what_it_may_have_heard(
    here: None, kaggle_server: KaggleServer, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    me = Account("me")

    def push() -> str:
        return me.push("tiny", "pass", gpu=False, seconds=60, datasets=[])

    kaggle_server.machines = False
    kaggle_server.busy = [429, 503]
    assert push() == "1"
    assert "Kaggle is busy (error 429): asked again for" in capsys.readouterr().err
    kaggle_server.busy = [504]
    with pytest.raises(EngineError, match="it is busy, or down; it may answer again in some minutes"):
        push()
    assert len(kaggle_server.sessions()) == 1
    kaggle_server.busy = [502, 503, 504]
    assert me.quota().left == 30 * 3600
    monkeypatch.setattr(again, "MOST_SECONDS", 0.1)
    kaggle_server.busy = [429] * 20
    with pytest.raises(EngineError, match="it has been asked too often; it may answer again in some minutes"):
        me.quota()
    assert len(kaggle_server.busy) > 10
    kaggle_server.busy = [429]
    kaggle_server.retry_after = 900
    with pytest.raises(EngineError, match="wants to be left alone for 15m00s: try again then"):
        me.quota()


def test_a_data_set_that_is_being_made_is_waited_for(
    here: None, kaggle_server: KaggleServer, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    me, name = Account("me"), "me/lastrun-code-1"
    assert not me.has_data("lastrun-code-1")
    kaggle_server.slow = 3
    me.put_data("lastrun-code-1", {"a": b"1"})
    assert kaggle_server.unready[name] == 0
    kaggle_server.unready[name] = 2
    assert me.has_data("lastrun-code-1")
    assert f"data set {name} is still being made there; it is waited for" in capsys.readouterr().err
    kaggle_server.unready[name] = 2
    me.put_data("lastrun-code-1", {"a": b"1"})  # another machine was faster
    assert kaggle_server.unready[name] == 0
    kaggle_server.unready[name] = 10**6
    monkeypatch.setattr(kaggle, "_READY_SECONDS", 0.3)
    with pytest.raises(EngineError, match=f"has not made data set {name} within 0 minutes: the same command waits for it"):
        me.has_data("lastrun-code-1")


def test_who_follows_a_session_bears_with_a_kaggle_that_is_away(
    here: None, kaggle_server: KaggleServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(followed, "LOOK_SECONDS", 0.0)
    kaggle_server.machines, said, me = False, io.StringIO(), Account("me")
    version = me.push("lastrun-tiny", "pass", gpu=False, seconds=60, datasets=[])
    job = Job(DirectoryStore(tmp_path / "store"), "tiny-20261130-000000-abcd")
    one = StartedThere(job, me, "lastrun-tiny", version, "0123abcd", said)
    kaggle_server.busy = [503] * 3
    assert one.wait(0.1) is None  # it is the next look that asks again
    assert one.wait(0.1) is None
    assert (
        said.getvalue().count("it may answer again in some minutes (made up for tests); the attempt is not touched by that")
        == 1
    )
    monkeypatch.setattr(followed, "SILENCE_SECONDS", 0.0)
    ended = r"https://www\.kaggle\.com/code/me/lastrun-tiny, Cancel Run, ends it without saving"
    with pytest.raises(EngineError, match=rf"lastrun stop \S+/{job.id} has it save and end; {ended}$"):
        one.wait(0.1)
    assert one.wait(0.1) is None
    assert said.getvalue().endswith("Kaggle session me/lastrun-tiny waits for a machine\n")


def test_a_log_goes_on_over_connections_that_end(
    here: None, kaggle_server: KaggleServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(followed, "LOOK_SECONDS", 0.1)
    kaggle_server.cut_logs, said, me, gate = 3, io.StringIO(), Account("me"), tmp_path / "gate"
    wait = f"while not os.path.exists({str(gate)!r}): time.sleep(0.1)"
    text = f"import os, time\nfor n in range(4): print('line', n)\n{wait}\n"
    version = me.push("lastrun-log", text, gpu=False, seconds=60, datasets=[])
    job = Job(DirectoryStore(tmp_path / "store"), "tiny-20261130-000000-abcd")
    one = StartedThere(job, me, "lastrun-log", version, "0123abcd", said)
    deadline = time.monotonic() + PATIENCE
    while kaggle_server.cut_logs:
        assert one.wait(0.1) is None
        assert time.monotonic() < deadline, said.getvalue()
    gate.touch()
    while one.wait(0.1) is None:
        assert time.monotonic() < deadline
    assert [line for line in said.getvalue().splitlines() if "line" in line] == [f"line {n}" for n in range(4)]


def test_a_data_set_that_may_only_be_being_made_is_not_forgotten_before_it_is_deleted(
    here: None, kaggle_server: KaggleServer
) -> None:
    """Who was interrupted while it was made may hear that there is none, and a moment later there is."""
    me, token, kaggle_server.machines = Account("me"), "0123abcd", False
    note = {"job": "x", "slug": "lastrun-late", "user": "me", "folder": "0", "pid": "999999999", "version": "", "before": "1"}
    me.push("lastrun-late", "pass", gpu=False, seconds=60, datasets=[])
    kaggle_server.cancel(kaggle_server.sessions()[0])  # the session before
    kept.NOTES.write(token, **note, data="lastrun-data")
    kept.drop(token, {**note, "data": "lastrun-data"})
    kept.clean()
    assert kept.NOTES.read(token) is not None
    me.put_data("lastrun-data", {"lastrun-variables.json": b"{}"})
    os.utime(kept.NOTES.place(token), (0, kept.NOTES.place(token).stat().st_mtime - kept.ABSENT_SECONDS))
    kept.clean()
    assert (kaggle_server.datasets, kept.NOTES.read(token)) == ({}, None)
    kept.NOTES.write(token, **note, data="lastrun-data")
    os.utime(kept.NOTES.place(token), (0, kept.NOTES.place(token).stat().st_mtime - kept.ABSENT_SECONDS))
    kept.clean()  # it has never come
    assert kept.NOTES.read(token) is None


def hidden(pid: int) -> str:
    raise machine.HiddenProcessError(str(pid))


def test_a_session_that_is_being_begun_counts_as_one_that_waits(
    here: None, kaggle_server: KaggleServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is put there may take minutes, and who asks meanwhile is heard. Nobody needs to be asked for that."""
    job = Job(DirectoryStore(tmp_path / "store"), "tiny-20261130-000000-abcd")
    about = {"slug": "lastrun-tiny", "user": "me", "folder": "0", "data": "", "version": ""}
    kept.NOTES.write("0123abcd", job=job.id, pid=str(os.getpid()), **about)
    kaggle_server.asked_for.clear()
    assert KaggleLauncher.waiting([job]) == [job]
    assert KaggleLauncher.waits(job) == f"Kaggle session me/lastrun-tiny is being begun by process {os.getpid()}"
    assert kaggle_server.asked_for == []
    own = {"pid": str(os.getpid()), "process": machine.process_identity(os.getpid()) or ""}
    kept.NOTES.write("0123abcd", job=job.id, **own, **about)
    assert KaggleLauncher.waiting([job]) == [job]
    kept.NOTES.write("0123abcd", job=job.id, **{**own, "process": "1"}, **about)  # who began it was killed: another has its pid
    assert KaggleLauncher.waiting([job]) == []
    kept.NOTES.write("0123abcd", job=job.id, **own, **about)
    with monkeypatch.context() as patch:  # the same, by somebody whose processes this system does not show
        patch.setattr(machine, "process_identity", hidden)
        assert KaggleLauncher.waiting([job]) == []
    kept.let_go("0123abcd")
    assert KaggleLauncher.waiting([job]) == []
    assert kaggle_server.asked_for != []
