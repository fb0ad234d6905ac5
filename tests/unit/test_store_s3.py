"""What only a bucket can go through: servers that die in mid-upload, and clients that do."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from runner.errors import StoreError
from runner.store import open_store
from runner.store import s3 as s3_module
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
    return len(store._client.list_multipart_uploads(Bucket=store.bucket, Prefix=store._prefix).get("Uploads", []))


def opened(uri: str) -> S3Store:
    store = open_store(uri)
    assert isinstance(store, S3Store)
    return store


def test_a_large_file_goes_in_parts_and_comes_back(ceph: Ceph, large: Path, tmp_path: Path) -> None:
    store = opened(ceph.uri("large/whole"))
    store.put_file("k", large)
    assert "-4" in store._client.head_object(**store._at("k"))["ETag"]
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
    monkeypatch.setattr(s3_module, "PATIENCE_SECONDS", 0)
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
            "import sys; from pathlib import Path; from runner.store import open_store, s3\n"
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
