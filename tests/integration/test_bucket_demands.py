"""Buckets that want more of a write than others: encryption, checksums, that who asks pays; and data that lie in one."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import boto3
import pytest

from runner.errors import StoreError
from runner.store import s3_calls
from runner.store.open import open_store
from runner.store.s3 import S3Store
from tests.ceph import Ceph
from tests.conftest import Cli
from tests.integration.test_approved import data, job  # noqa: F401 -- a fixture
from tests.jobs import jobs_in

ON_CEPH = pytest.mark.xdist_group("ceph")
KEY = "testkey-1"


def owner(ceph: Ceph) -> Any:
    return boto3.client("s3", endpoint_url=ceph.endpoint, region_name="us-east-1")


def store_in(ceph: Ceph, bucket: str, **options: str) -> str:
    return ceph.uri("jobs").replace("s3://lastrun/", f"s3://{bucket}/") + "".join(f"&{k}={v}" for k, v in options.items())


@pytest.fixture(scope="module")
def forced(ceph: Ceph) -> str:
    """A bucket whose policy refuses what is not to be encrypted with a key."""
    server, name = owner(ceph), "forced"
    server.create_bucket(Bucket=name)
    header, resource = "s3:x-amz-server-side-encryption", f"arn:aws:s3:::{name}/*"
    refused = {"Effect": "Deny", "Principal": "*", "Action": "s3:PutObject", "Resource": resource}
    conditions: list[dict[str, Any]] = [{"Null": {header: "true"}}, {"StringNotEquals": {header: "aws:kms"}}]
    policy = {"Version": "2012-10-17", "Statement": [{**refused, "Condition": each} for each in conditions]}
    server.put_bucket_policy(Bucket=name, Policy=json.dumps(policy))
    return name


@ON_CEPH
def test_a_doctor_tries_a_bucket_and_leaves_nothing_there(ceph: Ceph, bucket: str, cli: Cli, clean_env: dict[str, str]) -> None:
    done = cli("doctor", "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    found = {one["name"]: one for one in json.loads(done.stdout)["findings"] if one["part"] == "store"}
    assert {name: one["state"] for name, one in found.items()} == dict.fromkeys(
        ("address", "speed", "listing", "clock", "checksums", "conditional puts"), "well"
    )
    assert "it has them" in found["conditional puts"]["said"]  # this gateway has
    assert list(open_store(clean_env["LASTRUN_STORE"]).scan("")) == []

    ceph.kill_gateway()
    try:
        done = cli("doctor")
    finally:
        ceph.start_gateway()
    assert done.returncode == 1, done.stdout + done.stderr
    assert "WRONG" in done.stdout


@ON_CEPH
def test_what_is_written_is_encrypted_as_the_spec_says(
    ceph: Ceph, forced: str, clean_env: dict[str, str], cli: Cli, tiny: Path
) -> None:
    clean_env.update(ceph.credentials())
    options = ("store.sse=aws:kms", f"store.sse_kms_key_id={KEY}", f"store.endpoint_url={ceph.endpoint}")
    uri = store_in(ceph, forced, sse="aws:kms", sse_kms_key_id=KEY)
    bare = f"s3://{forced}/jobs"
    done = cli("submit", tiny, "--set", *options, f"store.uri={bare}")
    assert done.returncode == 0, done.stderr
    (found,) = jobs_in(open_store(uri))
    for entry in found.store.scan(found.paths.all):
        about = owner(ceph).head_object(Bucket=forced, Key=f"jobs/{entry.key}")
        assert (about["ServerSideEncryption"], about["SSEKMSKeyId"]) == ("aws:kms", KEY), entry.key


@ON_CEPH
def test_who_has_not_said_how_to_encrypt_is_told(ceph: Ceph, forced: str, monkeypatch: pytest.MonkeyPatch) -> None:
    store = open_store(store_in(ceph, forced))
    with pytest.raises(StoreError, match=r"set store\.sse and store\.sse_kms_key_id") as caught:
        store.put("a", b"1")
    assert caught.value.lasting
    with pytest.raises(StoreError, match="may not do that"):
        store.put("a", b"1")  # tried once


@ON_CEPH
def test_a_bucket_that_keeps_every_version_holds_a_job(ceph: Ceph, clean_env: dict[str, str], cli: Cli, tiny: Path) -> None:
    server = owner(ceph)
    server.create_bucket(Bucket="locked", ObjectLockEnabledForBucket=True)
    rule = {"DefaultRetention": {"Mode": "GOVERNANCE", "Days": 1}}
    server.put_object_lock_configuration(
        Bucket="locked", ObjectLockConfiguration={"ObjectLockEnabled": "Enabled", "Rule": rule}
    )
    clean_env.update(ceph.credentials(), LASTRUN_STORE=store_in(ceph, "locked"))
    assert cli("submit", tiny).returncode == 0
    store = open_store(clean_env["LASTRUN_STORE"])
    (found,) = jobs_in(store)
    assert found.state()[0].value == "succeeded"
    assert cli("rm", found.id).returncode == 0
    assert jobs_in(store) == []


@ON_CEPH
def test_who_asks_pays_where_the_spec_says_so(ceph: Ceph, clean_env: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    server, name = owner(ceph), "payer"
    server.create_bucket(Bucket=name)
    server.put_bucket_request_payment(Bucket=name, RequestPaymentConfiguration={"Payer": "Requester"})
    allowed = {"Effect": "Allow", "Principal": "*", "Action": "s3:*"}
    resources = [f"arn:aws:s3:::{name}", f"arn:aws:s3:::{name}/*"]
    policy = {"Version": "2012-10-17", "Statement": [{**allowed, "Resource": resources}]}
    server.put_bucket_policy(Bucket=name, Policy=json.dumps(policy))
    ceph.make_user("payer", "payerkey")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "payerkey")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", 2 * "payerkey")
    with pytest.raises(StoreError, match="may not do that"):
        list(open_store(store_in(ceph, name)).scan(""))
    store = open_store(store_in(ceph, name, requester_pays="true"))
    store.put("a/b", b"1")
    assert [entry.key for entry in store.scan("a/")] == ["a/b"]
    assert (store.get("a/b"), store.age("a/b") < 60) == (b"1", True)
    store.clear("a/")
    assert list(store.scan("")) == []


class _Demanding(BaseHTTPRequestHandler):
    """As AWS answers of a bucket with Object Lock, or with a policy that wants encryption; no server that can be had does."""

    demands: str
    puts: list[dict[str, str]]
    busy: ClassVar[list[int]] = []
    """Numbers of the puts that are answered with 503."""

    def do_PUT(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.puts.append(headers)
        if len(self.puts) in self.busy:
            self.answer(503, "SlowDown", "Please reduce your request rate.")
            return
        if self.demands == "checksum" and not any("checksum" in name or name == "content-md5" for name in headers):
            words = "Content-MD5 OR x-amz-checksum- HTTP header is required for Put Object requests with Object Lock parameters"
            self.answer(400, "InvalidRequest", words)
        elif self.demands not in ("checksum", headers.get("x-amz-server-side-encryption")):
            self.answer(403, "AccessDenied", "User is not authorized to perform: s3:PutObject with an explicit deny")
        else:
            self.send_response(200)
            self.send_header("ETag", '"1"')
            self.send_header("Content-Length", "0")
            self.end_headers()

    def answer(self, status: int, code: str, words: str) -> None:
        body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{words}</Message></Error>".encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *words: object) -> None:
        pass


Demanding = tuple[S3Store, list[dict[str, str]]]


@pytest.fixture
def demanding(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Demanding]:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "x")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    puts: list[dict[str, str]] = []
    demands, busy = request.param if isinstance(request.param, tuple) else (request.param, [])
    monkeypatch.setattr(_Demanding, "busy", [*busy])
    handler = type("Handler", (_Demanding,), {"demands": demands, "puts": puts})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    store = open_store(f"s3://b/jobs?endpoint_url=http://127.0.0.1:{server.server_port}")
    assert isinstance(store, S3Store)
    yield store, puts
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize(("demanding", "tries"), [("checksum", 2), ("AES256", 2), ("aws:kms", 3)], indirect=["demanding"])
def test_what_a_bucket_demands_is_found_at_the_first_write_and_kept(demanding: Demanding, tries: int) -> None:
    store, puts = demanding
    store.put("a", b"1")
    assert len(puts) == tries
    store.put("b", b"2")
    assert len(puts) == tries + 1


@pytest.mark.parametrize("demanding", [("checksum", [2]), ("AES256", [1]), ("AES256", [2]), ("aws:kms", [3])], indirect=True)
def test_a_server_that_is_busy_meanwhile_spoils_nothing(demanding: Demanding) -> None:
    store, puts = demanding
    store.put("a", b"1")
    found = len(puts)
    store.put("b", b"2")
    assert len(puts) == found + 1  # it is known


@pytest.mark.parametrize("demanding", [(kind, range(2, 99)) for kind in ("checksum", "AES256", "aws:kms")], indirect=True)
def test_a_server_that_answers_nobody_meanwhile_is_asked_anew(demanding: Demanding, monkeypatch: pytest.MonkeyPatch) -> None:
    store, puts = demanding
    monkeypatch.setattr(s3_calls, "PATIENCE_SECONDS", 0.5)
    with pytest.raises(StoreError, match="reduce your request rate") as caught:
        store.put("a", b"1")
    assert not caught.value.lasting  # an outbox goes on trying
    _Demanding.busy.clear()
    store.put("a", b"1")
    found = len(puts)
    store.put("b", b"2")
    assert len(puts) == found + 1


@pytest.mark.parametrize(("said", "tries"), [("when_supported", 1), ("when_required", 2)])
@pytest.mark.parametrize("demanding", ["checksum"], indirect=True)
def test_what_the_environment_says_of_checksums_holds(
    demanding: Demanding, said: str, tries: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the second does not allow is told in the server's words."""
    monkeypatch.setenv("AWS_REQUEST_CHECKSUM_CALCULATION", said)
    store = open_store(demanding[0].uri)
    if said == "when_supported":
        store.put("a", b"1")
    else:
        with pytest.raises(StoreError, match="is required for Put Object requests with Object Lock"):
            store.put("a", b"1")
    assert len(demanding[1]) == tries


@pytest.mark.parametrize("demanding", ["nothing that there is"], indirect=True)
def test_who_may_not_write_at_all_is_asked_three_times_once(demanding: Demanding) -> None:
    store, puts = demanding
    for tries in (3, 4, 5):
        with pytest.raises(StoreError, match="explicit deny") as caught:
            store.put("a", b"1")
        assert str(caught.value).count("s3:PutObject") == 1  # in the server's words
        assert len(puts) == tries


@ON_CEPH
def test_data_in_a_bucket_are_looked_at_before_there_is_a_job(
    ceph: Ceph,
    clean_env: dict[str, str],
    cli: Cli,
    tmp_path: Path,
    data: Path,  # noqa: F811
) -> None:
    clean_env.update(ceph.credentials(), LASTRUN_STORE=ceph.uri("approved"))
    server, options = owner(ceph), {"endpoint_url": ceph.endpoint}
    whole = data.read_bytes()
    for name, content, values, told in (
        ("none", None, {}, "there is no such object in the bucket lastrun"),
        ("cut", whole[:-1], {}, "cut short"),
        ("other", 100 * b"other ", {}, "not a prepared data file"),
        ("whole", whole, {"num_classes": 2}, "its labels go from 0 to 2, and data.num_classes is 2"),
    ):
        if content is not None:
            server.put_object(Bucket="lastrun", Key=f"data/{name}.safetensors", Body=content)
        place = {"uri": f"s3://lastrun/data/{name}.safetensors", **values}
        spec = job(tmp_path, data=place, store=options)
        all_ways: tuple[tuple[str, ...], ...] = (("submit",),)
        if name == "none":
            assert cli("validate", spec).returncode == 0  # reads no network
            all_ways += (("validate", "--deep"), ("submit", "--dry-run"))
        for words in all_ways:
            done = cli(*words, spec)
            assert done.returncode == 2, (words, done.stdout, done.stderr)
            assert told in done.stdout + done.stderr, words
    assert list(open_store(ceph.uri("approved")).scan("")) == []
    spec = job(tmp_path, data={"uri": "s3://lastrun/data/whole.safetensors"}, store=options)
    for words in (("validate", "--deep"), ("submit", "--dry-run")):
        done = cli(*words, spec)
        assert done.returncode == 0, done.stderr
    assert list(open_store(ceph.uri("approved")).scan("")) == []  # nothing stays of the look at the store
