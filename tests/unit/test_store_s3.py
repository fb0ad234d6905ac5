"""What only a bucket can go through: servers that die in mid-upload, and clients that do."""

from __future__ import annotations

import datetime
import email.utils
import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import botocore.exceptions
import pytest

from runner.errors import StoreError
from runner.job.attempts import Attempt
from runner.job.job import Job
from runner.store import s3 as s3_module
from runner.store import s3_calls
from runner.store.open import open_store
from runner.store.s3 import S3Store
from tests.ceph import Ceph
from tests.faultproxy import Faults, fault_proxy

pytestmark = pytest.mark.xdist_group("ceph")
PART = 5 << 20


@pytest.fixture
def large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that goes up in four parts."""
    monkeypatch.setattr(s3_module, "MULTIPART_BYTES", PART)
    path = tmp_path / "large"
    path.write_bytes(os.urandom(3 * PART + 1))
    return path


def uploads(store: S3Store) -> int:
    return len(store._client.now.list_multipart_uploads(Bucket=store.bucket, Prefix=store._prefix).get("Uploads", []))


def opened(uri: str) -> S3Store:
    store = open_store(uri)
    assert isinstance(store, S3Store)
    return store


def test_a_large_file_goes_in_parts_and_comes_back(ceph: Ceph, large: Path, tmp_path: Path) -> None:
    store = opened(ceph.uri("large/whole"))
    store.put_file("k", large)
    assert "-4" in store._client.now.head_object(**store._at("k"))["ETag"]
    store.get_file("k", tmp_path / "back")
    assert hashlib.sha256((tmp_path / "back").read_bytes()).digest() == hashlib.sha256(large.read_bytes()).digest()


def test_a_server_killed_in_the_middle_of_a_large_upload_costs_nothing(ceph: Ceph, large: Path, tmp_path: Path) -> None:
    with fault_proxy(ceph.port) as proxy:
        store = opened(ceph.uri("large/killed", tls=False, port=proxy.port))
        proxy.set(Faults(kilobytes_per_second=6000))
        upload = threading.Thread(target=store.put_file, args=("k", large))
        upload.start()
        time.sleep(1)
        assert upload.is_alive()
        ceph.kill_gateway()
        proxy.set(Faults())
        ceph.start_gateway()
        upload.join(60)
        assert not upload.is_alive()
    opened(ceph.uri("large/killed")).get_file("k", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == large.read_bytes()


def test_a_large_upload_that_fails_is_given_up_as_a_whole(ceph: Ceph, large: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3_calls, "PATIENCE_SECONDS", 0)
    direct = opened(ceph.uri("large/failed"))
    with fault_proxy(ceph.port) as proxy:
        store = opened(ceph.uri("large/failed", tls=False, port=proxy.port))
        proxy.set(Faults(cut_up=PART // 2))
        with pytest.raises(StoreError, match="cannot write k"):
            store.put_file("k", large)
        assert proxy.seen["cut"] >= 5
    assert list(direct.scan("")) == []
    assert uploads(direct) <= 1  # nobody could tell the server, when the network was gone for that as well
    direct.sweep("", keep=lambda key: False)
    assert uploads(direct) == 0


def test_a_writer_killed_in_the_middle_of_a_large_upload_is_swept(ceph: Ceph, large: Path) -> None:
    direct = opened(ceph.uri("large/dead"))
    with fault_proxy(ceph.port) as proxy:
        proxy.set(Faults(kilobytes_per_second=3000))
        code = (
            "import sys; from pathlib import Path; from runner.store import s3\nfrom runner.store.open import open_store\n"
            "s3.MULTIPART_BYTES = 5 << 20; open_store(sys.argv[1]).put_file('j/k', Path(sys.argv[2]))"
        )
        uri = ceph.uri("large/dead", tls=False, port=proxy.port)
        writer = subprocess.Popen([sys.executable, "-c", code, uri, str(large)])
        deadline = time.monotonic() + 30
        while uploads(direct) == 0 and time.monotonic() < deadline:
            time.sleep(0.05)
        writer.send_signal(signal.SIGKILL)
        writer.wait()
    assert list(direct.scan("")) == []
    assert uploads(direct) == 1
    direct.sweep("j/", keep=lambda key: False)
    assert uploads(direct) == 0


def test_a_large_download_is_taken_up_again_where_its_connection_broke(ceph: Ceph, tmp_path: Path) -> None:
    path = tmp_path / "large"
    path.write_bytes(os.urandom(12_000_000))
    opened(ceph.uri("large/down")).put_file("k", path)
    with fault_proxy(ceph.port) as proxy:
        store = opened(ceph.uri("large/down", tls=False, port=proxy.port))
        proxy.set(Faults(cut_down=3_000_000))
        store.get_file("k", tmp_path / "back")
        assert proxy.seen["cut"] >= 3  # no connection lives long enough for the whole
    assert (tmp_path / "back").read_bytes() == path.read_bytes()


def test_one_stalled_connection_is_not_the_end(ceph: Ceph) -> None:
    opened(ceph.uri("stalled")).put("k", b"x")
    with fault_proxy(ceph.port) as proxy:
        store = opened(ceph.uri("stalled", tls=False, port=proxy.port))
        proxy.set(Faults(stall_down=10, share=0.01))  # the first
        assert store.get("k") == b"x"
        assert proxy.seen["stalled"] == 1


def test_a_job_with_objects_of_other_programs_lives_and_goes_whole(ceph: Ceph) -> None:
    store = opened(ceph.uri("foreign"))
    job = Job(store, "a-20260101-000000-aaaa")
    store.put(job.paths.record, b"{}")
    odd = ["/", "/checkpoints/", "/requests/", "/attempts//x", "/we\\ird", "/attempts/20261123145647-x/foo"]
    for name in odd:
        store._client.now.put_object(Bucket=store.bucket, Key=f"{store._prefix}{job.id}{name}", Body=b"")
    store._client.now.create_multipart_upload(**store._at(job.paths.checkpoint("5-a", "state.pt")))
    assert (job.checkpoints.all(), job.attempts.all(), job.attempts.next_number(), job.requests.keys()) == ([], [], 1, [])
    job.checkpoints.sweep(Attempt("0002-bbbbbbbb", "here", 1, "1", 0.0, phase="running"))
    job.delete()
    assert store._client.now.list_objects_v2(Bucket=store.bucket, Prefix=store._prefix)["KeyCount"] == 0
    assert uploads(store) == 0


@pytest.mark.parametrize("page", [b"<html>Please log in</html>", b"", b'<?xml version="1.0"?><html/>'])
def test_a_page_that_is_no_object_store_is_not_taken_for_one(page: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3_calls, "PATIENCE_SECONDS", 0)

    class Portal(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            self.send_response(200)
            self.send_header("Content-Length", str(len(page)))
            self.end_headers()
            self.wfile.write(page)

        do_PUT = do_DELETE = do_GET

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Portal)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "x")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "x")
        store = opened(f"s3://b/p?endpoint_url=http://127.0.0.1:{server.server_port}")
        for call in (lambda: store.put("k", b"x"), lambda: list(store.scan("")), lambda: store.folders("")):
            with pytest.raises(StoreError, match=r"object store|cannot"):
                call()
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_of_several_requests_that_a_wrong_clock_made_fail_all_are_sent_again(monkeypatch: pytest.MonkeyPatch) -> None:
    ahead = datetime.timedelta(hours=2)
    date = email.utils.format_datetime(datetime.datetime.now(datetime.timezone.utc) + ahead)
    monkeypatch.setattr(s3_calls, "_clock_offset", datetime.timedelta(0))
    answers = []

    def call() -> str:
        answers.append(s3_calls._clock_offset)
        if len(answers) == 1:
            monkeypatch.setattr(s3_calls, "_clock_offset", ahead)  # another request has been told, and was faster
            told = {"Error": {"Code": "RequestTimeTooSkewed"}, "ResponseMetadata": {"HTTPHeaders": {"date": date}}}
            raise botocore.exceptions.ClientError(told, "GetObject")  # type: ignore[arg-type]
        return "answer"

    assert s3_calls.Calls("s3://b", lambda: None).do("read", "k", call) == "answer"
    assert answers == [datetime.timedelta(0), ahead]


_OVER = {"accessToken": "gone", "expiresAt": "2020-01-01T00:00:00Z", "region": "eu-west-1", "startUrl": "https://x.example"}


def test_keys_that_have_worked_may_be_renewed() -> None:
    answer = {"Error": {"Code": "AccessDenied"}, "ResponseMetadata": {"HTTPStatusCode": 403}}

    def refuse() -> None:
        raise botocore.exceptions.ClientError(answer, "PutObject")  # type: ignore[arg-type]

    calls = s3_calls.Calls("s3://b", lambda: None)
    for worked in (False, True):
        with pytest.raises(StoreError) as caught:
            calls.do("write", "a", refuse)
        assert (caught.value.lasting, caught.value.renewable) == (True, worked)
        calls.do("write", "a", lambda: None)


def test_calls_that_are_refused_together_all_go_on_with_the_new_keys() -> None:
    answer = {"Error": {"Code": "AccessDenied"}, "ResponseMetadata": {"HTTPStatusCode": 403}}
    keys, refused = ["old"], threading.Barrier(3)

    def call() -> str:
        if (key := keys[-1]) == "old":
            refused.wait(20)  # the others have asked with it, too
            raise botocore.exceptions.ClientError(answer, "GetObject")  # type: ignore[arg-type]
        return key

    calls = s3_calls.Calls("s3://b", lambda: keys.append("new"))
    calls.do("read", "a", lambda: None)
    with ThreadPoolExecutor(3) as pool:
        assert [one.result() for one in [pool.submit(calls.do, "read", "a", call) for _ in range(3)]] == ["new"] * 3
    assert keys == ["old", "new"]


@pytest.mark.parametrize("way", ["a profile's own", "a session shared by profiles"])
@pytest.mark.parametrize("token", [None, _OVER], ids=["never logged in", "expired"])
def test_an_sso_session_that_is_over_names_the_command_that_renews_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, way: str, token: dict[str, str] | None
) -> None:
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AWS_PROFILE", "work")
    monkeypatch.setattr(s3_calls, "PATIENCE_SECONDS", 0)
    login = "sso_start_url = https://x.example\nsso_region = eu-west-1\n"
    role = "sso_account_id = 123456789012\nsso_role_name = trainer\n"
    own = way.startswith("a profile")
    text = f"[profile work]\n{role}{login}" if own else f"[profile work]\n{role}sso_session = us\n[sso-session us]\n{login}"
    cache = tmp_path / ".aws/sso/cache"
    cache.mkdir(parents=True)
    (tmp_path / ".aws/config").write_text(text)
    if token is not None:
        name = hashlib.sha1(b"https://x.example" if own else b"us").hexdigest()
        (cache / f"{name}.json").write_text(json.dumps(token))
    store = opened("s3://bucket/runs")
    with pytest.raises(StoreError, match="aws sso login renews the session") as refused:
        store.put("k", b"x")
    assert refused.value.lasting
