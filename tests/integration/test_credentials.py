"""Keys that change while a run lasts, and what is said where they will not do."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.credentials import SSOProvider

from runner.errors import StoreError
from runner.job.job import Job
from runner.launch.settle import state_of
from runner.store import s3_calls
from runner.store.open import open_store
from tests.ceph import Ceph
from tests.jobs import jobs_in, some_step_is_stored, wait_until
from tests.key_server import KeyServer

pytestmark = pytest.mark.xdist_group("ceph")

STORES = (Path(__file__).parents[2] / "docs" / "stores.md").read_text()


def write_key(file: Path, key: str) -> None:
    file.write_text(f"[default]\naws_access_key_id = {key}\naws_secret_access_key = {2 * key}\n")


def write_environment(file: Path, key: str) -> None:
    """As systemd's EnvironmentFile, ``docker run --env-file`` and a shell read it."""
    file.write_text(f"# trainer\nAWS_ACCESS_KEY_ID={key}\nexport AWS_SECRET_ACCESS_KEY='{2 * key}'\nAWS_REGION=us-east-1\n")


@pytest.fixture
def rotating(ceph: Ceph, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, str, str, str]:
    """The file with a user's key, the user, the key, and the URI of a store of the user's own."""
    user = f"r{abs(hash(tmp_path)) % 10**8}"
    key, file = f"{user}old", tmp_path / "credentials"
    ceph.make_user(user, key)
    write_key(file, key)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(file))
    boto3.session.Session().client("s3", endpoint_url=ceph.endpoint, region_name="us-east-1").create_bucket(Bucket=user)
    return file, user, key, ceph.uri("jobs").replace("s3://lastrun/", f"s3://{user}/")


def test_a_key_that_is_rotated_is_read_again(ceph: Ceph, rotating: tuple[Path, str, str, str]) -> None:
    file, user, key, uri = rotating
    store = open_store(uri)
    store.put("a", b"1")
    ceph.rotate_key(user, key, f"{user}new")
    write_key(file, f"{user}new")
    store.put("a", b"2")
    assert store.get("a") == b"2"
    write_key(file, "nobody")
    stranger = open_store(uri)
    with pytest.raises(StoreError, match="the server does not know this access key") as caught:
        stranger.get("a")
    assert caught.value.lasting  # it has never worked: nothing will come of waiting


def test_an_environment_file_is_read_again_though_the_process_has_its_old_key(
    ceph: Ceph, rotating: tuple[Path, str, str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process was started with what the file held then."""
    _, user, key, uri = rotating
    file = tmp_path / "keys.env"
    told = {"AWS_SHARED_CREDENTIALS_FILE": "/dev/null", "AWS_ACCESS_KEY_ID": key, "AWS_SECRET_ACCESS_KEY": 2 * key}
    for name, value in {**told, "LASTRUN_ENV_FILE": str(file)}.items():
        monkeypatch.setenv(name, value)
    write_environment(file, key)
    store = open_store(uri)
    store.put("a", b"1")
    ceph.rotate_key(user, key, f"{user}new")
    file.write_text("")  # it is just being written
    with pytest.raises(StoreError, match=r"keys\.env has no line AWS_ACCESS_KEY_ID=\.\.\. and no line") as caught:
        store.put("a", b"2")
    assert not caught.value.lasting
    write_environment(file, f"{user}new")
    time.sleep(2)  # so long it is not looked for again
    store.put("a", b"2")
    assert store.get("a") == b"2"


@pytest.fixture
def keys(rotating: tuple[Path, str, str, str]) -> Iterator[KeyServer]:
    server = KeyServer(rotating[2])
    yield server
    server.close()


def from_an_instance(keys: KeyServer, folder: Path) -> dict[str, str]:
    return {"AWS_EC2_METADATA_SERVICE_ENDPOINT": keys.url}


def from_a_container(keys: KeyServer, folder: Path) -> dict[str, str]:
    return {"AWS_CONTAINER_CREDENTIALS_FULL_URI": f"{keys.url}/v2/credentials"}


def from_a_web_identity(keys: KeyServer, folder: Path) -> dict[str, str]:
    (folder / "token").write_text("who I am")
    told = {"AWS_ROLE_ARN": "arn:aws:iam::123456789012:role/trainer", "AWS_WEB_IDENTITY_TOKEN_FILE": str(folder / "token")}
    return {**told, "AWS_ENDPOINT_URL_STS": keys.url, "AWS_DEFAULT_REGION": "us-east-1"}


def from_single_sign_on(keys: KeyServer, folder: Path) -> dict[str, str]:
    start = "https://example.org/start"
    lines = ("[default]", f"sso_start_url = {start}", "sso_region = us-east-1", "sso_account_id = 123456789012")
    (folder / "config").write_text("\n".join([*lines, "sso_role_name = trainer", ""]))
    token = {"startUrl": start, "region": "us-east-1", "accessToken": "t", "expiresAt": "2999-01-01T00:00:00Z"}
    (folder / f"{hashlib.sha1(start.encode()).hexdigest()}.json").write_text(json.dumps(token))
    return {"AWS_CONFIG_FILE": str(folder / "config"), "AWS_ENDPOINT_URL_SSO": keys.url}


def from_a_program(keys: KeyServer, folder: Path) -> dict[str, str]:
    ask = f"import urllib.request as r, json; print(json.dumps({{'Version': 1, **json.load(r.urlopen({keys.url!r}))}}))"
    (folder / "ask.py").write_text(ask)
    (folder / "config").write_text(f"[default]\ncredential_process = {sys.executable} {folder}/ask.py\n")
    return {"AWS_CONFIG_FILE": str(folder / "config")}


@pytest.mark.parametrize(
    "source", [from_an_instance, from_a_container, from_a_web_identity, from_single_sign_on, from_a_program]
)
def test_a_key_is_asked_for_again_wherever_it_comes_from(
    ceph: Ceph,
    rotating: tuple[Path, str, str, str],
    keys: KeyServer,
    source: Callable[[KeyServer, Path], dict[str, str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _, user, key, uri = rotating
    monkeypatch.setattr(SSOProvider, "_SSO_TOKEN_CACHE_DIR", tmp_path)  # botocore looked for the home when it was imported
    for name, value in {"AWS_SHARED_CREDENTIALS_FILE": "/dev/null", **source(keys, tmp_path)}.items():
        monkeypatch.setenv(name, value)
    store = open_store(uri)
    store.put("a", b"1")
    asked = keys.asked
    assert asked
    ceph.rotate_key(user, key, f"{user}new")
    keys.key = f"{user}new"
    store.put("a", b"2")  # what was handed out had most of its hour to live
    assert store.get("a") == b"2"
    assert keys.asked > asked


def test_a_run_waits_for_its_new_key_as_for_a_server_that_is_away(
    ceph: Ceph, rotating: tuple[Path, str, str, str], clean_env: dict[str, str], run: Any, tiny: Path, tmp_path: Path
) -> None:
    file, user, key, uri = rotating
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        clean_env.pop(name, None)
    clean_env.update(LASTRUN_STORE=uri, AWS_SHARED_CREDENTIALS_FILE=str(file), AWS_CONFIG_FILE="/dev/null")
    clean_env["AWS_CA_BUNDLE"] = ceph.credentials()["AWS_CA_BUNDLE"]
    current = run("submit", tiny, "--set", "training.epochs=5000")
    current.wait_for(some_step_is_stored)
    job: Job = current.job
    shutil.copy(file, tmp_path / "old")
    ceph.rotate_key(user, key, f"{user}new")

    def waits() -> str:
        """What the log says of it that cannot be sent, once that is known."""
        text = "".join(path.read_text() for path in (tmp_path / "tmp").glob("lastrun-*/outbox/*/attempts/*/log/*.txt"))
        return text if "uploads wait" in text else ""

    wait_until(waits)
    assert re.search(r"the server does not know this access key|these credentials may not do that", waits())
    write_key(file, f"{user}new")
    fresh = Job(open_store(uri), job.id)
    before = fresh.checkpoints.all()[-1].manifest.step
    wait_until(lambda: fresh.checkpoints.all()[-1].manifest.step > before)

    # It ends while its key is away again, and waits for it with all that it has saved.
    ceph.rotate_key(user, f"{user}new", f"{user}newer")
    wait_until(waits)
    current.press_ctrl_c()
    wait_until(lambda: list((tmp_path / "tmp").glob("lastrun-*/outbox/*/attempts/*/end.json")))
    time.sleep(6)  # longer than what nobody will ever take is waited for
    assert current.process.poll() is None
    write_key(file, f"{user}newer")
    code, out = current.end()
    assert code == 75, out
    assert "uploads go on" in out
    last = Job(open_store(uri), job.id)
    assert state_of(last)[0].value == "paused"
    assert last.checkpoints.all()[-1].manifest.step == last.attempts.all()[-1].scores["step"]
    assert list((tmp_path / "tmp").glob("lastrun-*")) == []


def test_who_has_no_key_for_google_is_told_which_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with pytest.raises(StoreError, match="an HMAC key pair"):
        open_store("gs://bucket/jobs?endpoint_url=http://127.0.0.1:9").get("a")


@pytest.mark.parametrize(
    ("config", "told"),
    [
        ("role_arn = arn:aws:iam::123456789012:role/trainer\nweb_identity_token_file = {}/token", r"/token: No such file"),
        ("credential_process = {}/away", r"/away: No such file"),
        ("credential_process = {}/locked", r"/locked: Permission denied"),
        ("credential_process = echo please log in", "the program of credential_process"),
        ("credential_process = echo '[]'", "the program of credential_process"),
        ("credential_process = echo '{{\"Version\": 1}}'", "the program of credential_process|Missing required key"),
    ],
)
def test_what_hands_out_keys_and_is_away_is_no_file_of_ours(
    config: str, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else what is to be sent is taken for gone, and an outbox drops it: a token is not there while it is written anew."""
    _look_for_keys_in(tmp_path, config.format(tmp_path), monkeypatch)
    (tmp_path / "locked").write_text("")
    (tmp_path / "file").write_text("what is to be sent")
    for call in (lambda store: store.put_file("a", tmp_path / "file"), lambda store: store.get("a")):
        with pytest.raises(StoreError, match=told) as caught:
            call(open_store(NOWHERE))
        assert "\n" not in str(caught.value)
        assert "object store" not in str(caught.value)


def test_what_has_handed_out_keys_may_go_away_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    until = (datetime.now(timezone.utc) + timedelta(minutes=5)).isoformat()  # so late that each call asks for newer ones
    keys = {"Version": 1, "AccessKeyId": "a", "SecretAccessKey": "b", "SessionToken": "c", "Expiration": until}
    (tmp_path / "keys").write_text(f"#!/bin/sh\necho '{json.dumps(keys)}'\n")
    (tmp_path / "keys").chmod(0o700)
    (tmp_path / "file").write_text("what is to be sent")
    _look_for_keys_in(tmp_path, f"credential_process = {tmp_path}/keys", monkeypatch)
    store = open_store(NOWHERE)
    (tmp_path / "keys").rename(tmp_path / "away")
    with pytest.raises(StoreError, match=r"no credentials: .*/keys: No such file"):
        store.put_file("a", tmp_path / "file")
    with pytest.raises(FileNotFoundError):
        store.put_file("a", tmp_path / "gone")


@pytest.mark.parametrize("text", ["\ufeff[default]\nregion = a\n".encode(), "[default]\n".encode("utf-16"), b"export A=b\n"])
def test_a_file_of_keys_that_is_none_is_told_with_what_it_should_be(
    text: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _look_for_keys_in(tmp_path, "", monkeypatch)
    (tmp_path / "config").write_bytes(text)
    with pytest.raises(StoreError, match=r"/config; allowed: a line \[default\] and lines of NAME = VALUE, in UTF-8"):
        open_store(NOWHERE)


NOWHERE = "s3://bucket/jobs?endpoint_url=http://127.0.0.1:9"


def _look_for_keys_in(folder: Path, config: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(folder / "config"))
    (folder / "config").write_text(f"[default]\n{config}\n")


def test_what_the_server_says_of_a_key_is_told_without_it() -> None:
    """A server may answer with all that it was asked."""
    secret = "kZ3vQ9xT1bLw7RfUe5NcYh2PjDs8GmAo4XiBtVqE"
    url = f"https://u:{secret}@host/b?X-Amz-Signature={64 * 'a'}"
    told = s3_calls._told("AccessDenied", f"explicit deny for aws_secret_access_key={secret} in {url}\x1b[31m")
    assert "explicit deny for" in told
    for text in (f"the key is {secret}.", f"key={secret}", f"secret-{secret}", f"'{secret}='"):
        assert secret not in s3_calls._told("AccessDenied", text)
    assert not any(one in told for one in (secret, 64 * "a", "\x1b"))


@pytest.mark.usefixtures("rotating")
def test_who_may_not_write_is_told(ceph: Ceph) -> None:
    store = open_store(ceph.uri("foreign"))
    denied = r"these credentials may not do that.*; it takes {}, see docs/stores\.md$"
    with pytest.raises(StoreError, match="cannot write a: " + denied.format("s3:PutObject")):
        store.put("a", b"")
    with pytest.raises(StoreError, match="cannot list the store: " + denied.format("s3:ListBucket")):
        list(store.scan(""))
    with pytest.raises(StoreError, match="cannot read a: " + denied.format("s3:GetObject")):
        store.get("a")


@pytest.mark.parametrize("may_delete", [True, False])
def test_the_least_that_is_to_be_allowed_is_enough_and_who_may_not_delete_keeps_everything(
    ceph: Ceph, rotating: tuple[Path, str, str, str], clean_env: dict[str, str], cli: Any, tiny: Path, may_delete: bool
) -> None:
    """The actions that docs/stores.md names."""
    file, user, _, _ = rotating
    actions = ["s3:ListBucket", "s3:ListBucketMultipartUploads", "s3:GetObject", "s3:PutObject", "s3:AbortMultipartUpload"]
    actions += ["s3:DeleteObject"] if may_delete else []
    assert all(f'"{action}"' in STORES for action in actions)
    uri = ceph.uri(f"kept{may_delete}")
    bucket, allowed = "arn:aws:s3:::lastrun", {"Effect": "Allow", "Principal": {"AWS": [f"arn:aws:iam:::user/{user}"]}}
    policy = {"Version": "2012-10-17", "Statement": [{**allowed, "Action": actions, "Resource": [bucket, f"{bucket}/*"]}]}
    credentials = ceph.credentials()
    owner = boto3.client(
        "s3",
        endpoint_url=ceph.endpoint,
        region_name="us-east-1",
        aws_access_key_id=credentials["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=credentials["AWS_SECRET_ACCESS_KEY"],
    )
    owner.put_bucket_policy(Bucket="lastrun", Policy=json.dumps(policy))
    try:
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            clean_env.pop(name, None)
        clean_env.update(LASTRUN_STORE=uri, AWS_SHARED_CREDENTIALS_FILE=str(file), AWS_CONFIG_FILE="/dev/null")
        clean_env["AWS_CA_BUNDLE"] = credentials["AWS_CA_BUNDLE"]
        done = cli("submit", tiny)
        assert done.returncode == 0, done.stdout + done.stderr
        assert done.stdout.count("cannot be deleted, so all are kept") == (0 if may_delete else 1)
        (job,) = jobs_in(open_store(uri))
        assert (len(job.checkpoints.all()) > 4) is not may_delete  # three are kept by the rule, and the best
        removed = cli("rm", job.id)
        assert removed.returncode == (0 if may_delete else 4), removed.stderr
        assert ("these credentials may not do that" in removed.stderr) is not may_delete
    finally:
        owner.delete_bucket_policy(Bucket="lastrun")
