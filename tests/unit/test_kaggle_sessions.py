"""What comes back from a session of Kaggle: whole or not at all, and nothing but what its attempt has written; what Kaggle
says, in words that tell what to do."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import requests

from runner.errors import DamagedObjectError, EngineError, UsageError
from runner.job.attempts import Attempt
from runner.job.job import Job
from runner.launch.docker.image import code_digest
from runner.launch.kaggle import begin, launcher, parcel
from runner.launch.kaggle.account import Account, explained
from runner.launch.kaggle.launcher import slug_of
from runner.launch.ssh.relayed import write_object
from runner.launch.ssh.wheel import this_version
from runner.resolve import resolve_spec
from runner.store.directory import DirectoryStore

ROOT = Path(__file__).parents[2]
TOKEN = "0123abcd"
OWN = f"0002-{TOKEN}"
ID = "tiny-20261129-091500-3f2a"


def job_in(folder: Path) -> Job:
    job = Job(DirectoryStore(folder), ID)
    config = resolve_spec(ROOT / "jobs" / "quickstart.yaml", "local", []).items()
    record = {"format": 1, "id": ID, "name": "tiny", "created_at": 1.0, "config": config, "origins": {}}
    job.store.put(job.paths.record, json.dumps(record).encode())
    return job


def came_back(job: Job, objects: dict[str, bytes], **other: Any) -> tuple[dict[str, Any], io.BytesIO]:
    """A parcel with these objects, and what tells of it."""
    file = io.BytesIO()
    for key, data in objects.items():
        write_object(file, key, data)
    file.seek(0)
    about = {"id": OWN, "code": 0, "sha256": parcel._digest(file), "size": file.tell(), "checkpoints": []}
    return {**about, **other}, file


def test_a_job_goes_there_and_comes_back_with_what_its_attempt_has_written(tmp_path: Path) -> None:
    here, there = job_in(tmp_path / "here"), Job(DirectoryStore(tmp_path / "working" / "lastrun"), ID)
    here.attempts.write(Attempt("0001-aaaaaaaa", "", 0, "", 1.0, phase="ended", began=True, inherited=[], reason="time_limit"))
    sent = tmp_path / "sent"
    sent.write_bytes(parcel.pack(here))
    with pytest.raises(UsageError, match="is not what was put into its data set"):
        parcel.unpack(sent, "0" * 64, there)
    with sent.open("rb") as file:
        parcel.unpack(sent, parcel._digest(file), there)
    assert [attempt.id for attempt in there.attempts.all()] == ["0001-aaaaaaaa"]
    assert there.attempts.next_number() == here.attempts.next_number()  # so both choose one ID

    there.attempts.write(Attempt(OWN, "m", 1, "p", 2.0, phase="running", began=True, inherited=[]))
    there.store.put(there.paths.metrics(OWN), b"{}\n")
    parcel.leave(there, TOKEN, -9, tmp_path / "working")
    assert not (tmp_path / "working" / "lastrun").exists()
    name, record = parcel.names(TOKEN)
    about = json.loads((tmp_path / "working" / record).read_text())
    for _ in range(2):  # the second time changes nothing
        with (tmp_path / "working" / name).open("rb") as file:
            assert parcel.join(here, TOKEN, about, file) == 2
    mine = Job(here.store, ID).attempts.all()[-1]
    assert (mine.id, mine.phase, mine.message) == (OWN, "lost", "its process in the session was killed")
    assert here.store.get(here.paths.metrics(OWN)) == b"{}\n"


def test_what_is_not_whole_or_not_its_own_is_not_taken(tmp_path: Path) -> None:
    job = job_in(tmp_path)
    before = sorted(entry.key for entry in job.store.scan(""))
    own = {job.paths.metrics(OWN): b"{}\n"}
    about, file = came_back(job, own)
    for wrong in (
        {"sha256": "0" * 64},
        {"size": 1},
        {"id": "0001-ffffffff"},
        {"id": "../../x-0123abcd"},
        {"id": 7},
    ):
        with pytest.raises(DamagedObjectError):
            parcel.join(job, TOKEN, {**about, **wrong}, file)
    cut = io.BytesIO(file.getvalue()[:-1])
    with pytest.raises(DamagedObjectError):
        parcel.join(job, TOKEN, {**about, "sha256": parcel._digest(cut), "size": cut.tell()}, cut)
    assert sorted(entry.key for entry in job.store.scan("")) == before
    foreign = (job.paths.record, job.paths.metrics("0001-ffffffff"), f"other/attempts/{OWN}/end.json", f"{ID}/requests/x.json")
    about, file = came_back(job, {**dict.fromkeys(foreign, b"x"), **own, f"{job.paths.attempts}{OWN}/../../x": b"x"})
    assert parcel.join(job, TOKEN, about, file) == 1
    assert sorted(entry.key for entry in job.store.scan("")) == sorted([*before, *own])
    assert parcel.join(job, TOKEN, *came_back(job, {}, id=None)) == 0  # it never had the job


@pytest.mark.parametrize(
    ("code", "said", "told"),
    [
        (401, "Unauthenticated", "Kaggle: it does not take your key: make another one at kaggle.com/settings"),
        (
            429,
            "Too many requests",
            "Kaggle: it has been asked too often; it may answer again in some minutes (Too many requests)",
        ),
        (403, "You must verify your phone number", "Kaggle: your account has no verified phone"),
        (400, "Maximum weekly GPU quota of 30.00 hours reached", "Kaggle: your quota of this week is used up"),
        (500, "evil\x1b[2J", r"Kaggle: it answers with error 500 (evil\x1b[2J)"),
        (404, "404 Client Error: Not Found for url: https://x/?token=secret", "Kaggle: it knows of no such thing"),
    ],
)
def test_what_kaggle_says_is_told_in_words(code: int, said: str, told: str) -> None:
    response = requests.Response()
    response.status_code = code
    with pytest.raises(EngineError) as error, explained():
        raise requests.HTTPError(said, response=response)
    assert str(error.value).startswith(told)
    assert "\x1b" not in str(error.value)
    assert "secret" not in str(error.value)


def test_kaggle_answers_not_or_nonsense() -> None:
    for error, told in (
        (requests.ConnectionError("x"), "Kaggle does not answer (ConnectionError): is this machine online?"),
        (requests.Timeout("x"), "Kaggle does not answer (Timeout): is this machine online?"),
        (requests.exceptions.JSONDecodeError("x", "", 0), "Kaggle answers what its library does not understand"),
        (KeyError("x"), "Kaggle answers what its library does not understand (KeyError)"),
    ):
        with pytest.raises(EngineError) as found, explained():
            raise error
        assert str(found.value).startswith(told)


def test_a_session_without_its_secrets_ends_before_anything_is_installed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class BackendError(Exception):
        pass

    class UserSecretsClient:
        def get_secret(self, name: str) -> str:
            if name != "ONE":
                raise BackendError(name)
            return "1"

    monkeypatch.setitem(sys.modules, "kaggle_secrets", SimpleNamespace(UserSecretsClient=UserSecretsClient))
    asked = {"private": False, "secrets": ["ONE", "TWO"], "about": {"name": "me/lastrun-x"}, "code": "another"}
    with pytest.raises(SystemExit):
        begin.main({**asked, "wheel": "no.whl"})
    said = capsys.readouterr()
    assert said.err.startswith(
        "error: secrets TWO are not attached to this script: nothing was trained. A push attaches none: "
    )
    assert "open https://www.kaggle.com/code/me/lastrun-x, Edit" in said.err
    assert said.err.endswith("\nthe attempt ended with code 2\n")
    assert "bringing" not in said.out


def test_what_a_session_needs_attached_is_what_lives_as_long_as_it_is_there(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        monkeypatch.setenv(name, "made-up")
    monkeypatch.setattr(launcher, "account", lambda: Account("me"))
    uri = f"s3://bucket/jobs/{ID}?endpoint_url=https://host:1/"
    asked = {}
    for private in ("false", "true"):
        spec = resolve_spec(ROOT / "jobs" / "quickstart.yaml", "local", [f"run.kaggle.private_dataset={private}"])
        asked[private] = launcher.KaggleLauncher(spec.config)._asked(uri, [], TOKEN)
    assert (asked["false"]["secrets"], asked["false"]["if_attached"]) == (
        ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"],
        ["AWS_SESSION_TOKEN"],
    )
    assert asked["true"]["secrets"][-1] == "AWS_SESSION_TOKEN"
    assert asked["false"]["about"]["name"] == f"me/lastrun-{ID}"


def test_what_a_session_is_called_fits_what_kaggle_takes() -> None:
    assert slug_of(ID) == f"lastrun-{ID}"
    long = slug_of(f"{'a-very-long-name' * 4}--x-20261129-091500-3f2a")
    assert len(long) <= 50
    assert long.endswith("-x-20261129-091500-3f2a")
    assert "--" not in long


def test_a_wheel_says_what_its_own_code_comes_to() -> None:
    """Read once: who edits a clone while it is uploaded gets a session of what was uploaded."""
    assert this_version().code == code_digest()
