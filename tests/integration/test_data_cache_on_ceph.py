"""Data in a bucket of a real Ceph gateway, fetched into a cache: once, whole, and where it was cut."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from last_e.data import read_clips
from last_e.prepare.synth import synthesize
from runner.attempt import data_cache
from runner.attempt.data_cache import fetch_data
from runner.errors import DamagedObjectError, LastrunError, MissingKeyError, PausedError, UsageError
from runner.store.open import open_store
from runner.store.s3 import S3Store
from runner.store.uri import StoreUri
from tests.ceph import Ceph

pytestmark = pytest.mark.xdist_group("ceph")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("made") / "ntu60.safetensors"
    synthesize("ntu60", path, clips=200)
    return path


class Remote:
    """A place in the bucket, and a record of what is asked of the server."""

    def __init__(self, uri: str, cache: Path) -> None:
        self.folder, self.cache = uri, cache
        self.uri = str(StoreUri.parse(uri).child("ntu60.safetensors"))
        self.store = open_store(uri)
        self.asked: list[str] = []

    def fetch(self, **more: Any) -> Path:
        return fetch_data(self.uri, cache=self.cache, **more)

    def raw_put(self, content: bytes) -> None:
        """As other programs put it: without a word about its sha256."""
        assert isinstance(self.store, S3Store)
        self.store._client.now.put_object(Bucket=self.store.bucket, Key=self.store._key("ntu60.safetensors"), Body=content)

    def partial(self) -> Path:
        (found,) = [path for path in (self.cache / "partial").iterdir() if not path.name.endswith(".lock")]
        return found


@pytest.fixture
def remote(ceph: Ceph, tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Remote]:
    remote = Remote(ceph.uri(f"data/{request.node.name}"), tmp_path / "cache")
    append = data_cache._append

    def recorded(store: S3Store, key: str, about: Any, partial: Path, *others: Any) -> None:
        begin = partial.stat().st_size if partial.exists() else 0
        remote.asked.append(f"{begin}-{about.size}")
        append(store, key, about, partial, *others)

    monkeypatch.setattr(data_cache, "_append", recorded)
    monkeypatch.setattr(data_cache, "PAUSE_SECONDS", 0.01)
    yield remote
    remote.store.delete([entry.key for entry in remote.store.scan("")])


def test_it_is_fetched_once_and_kept_by_content(remote: Remote, prepared: Path) -> None:
    remote.store.put_file("ntu60.safetensors", prepared)
    said: list[str] = []
    path = remote.fetch(say=said.append)
    assert path.name == hashlib.sha256(prepared.read_bytes()).hexdigest()
    assert len(read_clips(path, 60)) == 200
    assert len(said) == 1
    assert said[0].startswith("fetching ntu60.safetensors, ")
    assert remote.fetch(say=said.append) == path
    assert len(said) == len(remote.asked) == 1
    remote.store.put_file("copy.safetensors", prepared)
    copy = fetch_data(str(StoreUri.parse(remote.folder).child("copy.safetensors")), cache=remote.cache)
    assert copy == path
    assert len(remote.asked) == 1, "the same content under another name is not fetched again"
    assert not os.access(path, os.W_OK) or os.geteuid() == 0
    assert path.stat().st_mode & 0o222 == 0


def test_a_download_that_was_cut_goes_on_where_it_was(remote: Remote, prepared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    remote.raw_put(prepared.read_bytes())
    with monkeypatch.context() as patch:
        patch.setattr(data_cache, "_verify", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            remote.fetch()
    whole = prepared.read_bytes()
    remote.partial().write_bytes(whole[:300_001])
    said: list[str] = []
    path = remote.fetch(say=said.append)
    assert remote.asked == [f"0-{len(whole)}", f"300001-{len(whole)}"]
    assert path.read_bytes() == whole
    assert said[0].endswith("(0 are here)")


def test_what_was_begun_of_other_content_is_not_continued(
    remote: Remote, prepared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    remote.raw_put(b"x" * 500_000)
    monkeypatch.setattr(data_cache, "_verify", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        remote.fetch()
    monkeypatch.undo()
    remote.partial().write_bytes(b"x" * 1000)
    remote.raw_put(prepared.read_bytes())
    assert remote.fetch().read_bytes() == prepared.read_bytes()


def test_what_was_replaced_while_one_waited_is_fetched_as_it_is_now(remote: Remote) -> None:
    remote.raw_put(b"a" * 500_000)
    remote.fetch()
    remote.raw_put(b"b" * 500_000)
    (lock,) = (remote.cache / "partial").glob("*.lock")
    other = FileLock(lock)
    other.acquire()

    def say(line: str) -> None:
        if "waiting" in line:
            remote.raw_put(b"c" * 400_000)
            other.release()

    assert remote.fetch(say=say).read_bytes() == b"c" * 400_000


def test_what_was_replaced_and_is_no_longer_used_is_deleted_after_a_week(remote: Remote) -> None:
    kept = []
    for content, days in ((b"a", 8), (b"b", 8), (b"c", 0)):
        remote.raw_put(content * 500_000)
        kept.append(remote.fetch())
        used = time.time() - 86400 * days
        os.utime(kept[-1], (used, used))
        if content == b"b":
            remote.fetch()  # used again today
    assert [path.exists() for path in kept] == [False, True, True]
    os.utime(kept[2], (0, 0))
    assert remote.fetch() == kept[2], "what its address leads to stays, however long it was not used"


@pytest.mark.parametrize("told_by", ["the server", "the file's own header", "the server's tag"])
def test_what_an_earlier_run_left_damaged_is_fetched_once_more(
    remote: Remote, prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, told_by: str
) -> None:
    """As a power cut leaves it: of the right size, full of zeros."""
    whole = prepared.read_bytes() if told_by == "the file's own header" else os.urandom(500_000)
    if told_by == "the server":
        (tmp_path / "whole").write_bytes(whole)
        remote.store.put_file("ntu60.safetensors", tmp_path / "whole")
    else:
        remote.raw_put(whole)
    for left in (bytes(100_000), bytes(len(whole)), whole[:100_000] + bytes(100_000)):
        with monkeypatch.context() as patch:
            patch.setattr(data_cache, "_verify", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
            with pytest.raises(KeyboardInterrupt):
                remote.fetch()
        remote.partial().write_bytes(left)
        remote.asked.clear()
        said: list[str] = []
        assert remote.fetch(say=said.append).read_bytes() == whole
        assert remote.asked == [f"{len(left)}-{len(whole)}", f"0-{len(whole)}"]
        assert any("what was here of it is damaged; fetching all of it" in line for line in said)
        for path in [*(remote.cache / "objects").iterdir(), *(remote.cache / "uris").iterdir()]:
            path.unlink()


def test_a_tag_that_is_no_md5_does_not_refuse_what_has_just_come(remote: Remote, monkeypatch: pytest.MonkeyPatch) -> None:
    """Encrypted objects have tags that look like one."""
    remote.raw_put(b"a" * 500_000)
    about = data_cache._look(remote.store, "ntu60.safetensors")  # type: ignore[arg-type]
    path = remote.cache / "a"
    path.parent.mkdir()
    path.write_bytes(b"b" * 500_000)
    assert data_cache._verify(path, about, "a", lambda: False) == hashlib.sha256(b"b" * 500_000).hexdigest()


def test_a_copy_that_is_damaged_later_is_fetched_again(remote: Remote, prepared: Path) -> None:
    remote.raw_put(prepared.read_bytes())
    path = remote.fetch()
    path.chmod(0o644)
    content = bytearray(prepared.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with path.open("rb") as still_read:  # by another job
        said: list[str] = []
        assert remote.fetch(say=said.append) == path
        assert path.read_bytes() == prepared.read_bytes()
        assert still_read.read() == content
    assert f"{path}: damaged since it was fetched; fetching it again" in said
    assert len(remote.asked) == 2
    remote.fetch()
    assert len(remote.asked) == 2


def test_whoever_waits_or_fetches_hears_a_stop(remote: Remote, prepared: Path) -> None:
    remote.raw_put(prepared.read_bytes())

    def some_has_come() -> bool:
        found = [path for path in (remote.cache / "partial").glob("*") if path.suffix != ".lock"]
        return any(path.stat().st_size for path in found)

    with pytest.raises(PausedError, match="the same command goes on where it was"):
        remote.fetch(stop=some_has_come)
    part = remote.partial().stat().st_size
    assert 0 < part < prepared.stat().st_size
    (lock,) = (remote.cache / "partial").glob("*.lock")
    end = time.monotonic() + 0.5
    with FileLock(lock), pytest.raises(PausedError):
        remote.fetch(stop=lambda: time.monotonic() > end)
    assert time.monotonic() < end + 30  # nobody waits for the lock, which is held all the while
    assert remote.fetch().read_bytes() == prepared.read_bytes()
    assert remote.asked[-1] == f"{part}-{prepared.stat().st_size}"


def test_new_content_of_the_same_size_under_the_same_name_is_fetched(remote: Remote) -> None:
    remote.raw_put(b"a" * 500_000)
    first = remote.fetch()
    remote.raw_put(b"b" * 500_000)
    second = remote.fetch()
    assert second.read_bytes() == b"b" * 500_000
    assert first.read_bytes() == b"a" * 500_000, "a job may still be reading it"


@pytest.mark.parametrize("told_by", ["the server", "the file's own header"])
def test_damaged_content_is_refused_and_thrown_away(remote: Remote, prepared: Path, tmp_path: Path, told_by: str) -> None:
    """Bytes that are wrong in what has already come: nobody but a checksum can notice."""
    if told_by == "the server":
        whole = os.urandom(400_000)
        (tmp_path / "whole").write_bytes(whole)
        remote.store.put_file("ntu60.safetensors", tmp_path / "whole")
    else:
        whole = prepared.read_bytes()
        remote.raw_put(whole)
    about = data_cache._look(remote.store, "ntu60.safetensors")  # type: ignore[arg-type]
    assert (about.sha256 is None) == (told_by != "the server")
    path = remote.cache / "a"
    path.parent.mkdir()
    path.write_bytes(whole)
    assert data_cache._verify(path, about, "ntu60.safetensors", lambda: False) == hashlib.sha256(whole).hexdigest()
    path.write_bytes(whole[:-9000] + bytes([whole[-9000] ^ 1]) + whole[-8999:])
    with pytest.raises(DamagedObjectError, match="sha256 differs"):
        data_cache._verify(path, about, "ntu60.safetensors", lambda: False)
    assert not path.exists()


def test_what_is_not_there_or_no_address_is_told(remote: Remote) -> None:
    with pytest.raises(MissingKeyError, match="nothing under ntu60"):
        remote.fetch()
    with pytest.raises(UsageError, match="names a bucket"):
        fetch_data("s3://bucket")
    with pytest.raises(UsageError):
        fetch_data("ftp://somewhere/a")


def test_no_room_is_told_before_anything_is_fetched(remote: Remote, prepared: Path, small_disk: Path) -> None:
    remote.raw_put(prepared.read_bytes())
    assert prepared.stat().st_size > 2 * 2**20
    with pytest.raises(LastrunError, match=r"no room for ntu60\.safetensors: 3 MiB are needed"):
        fetch_data(remote.uri, cache=small_disk)
    assert remote.asked == []


def test_several_processes_fetch_it_once(remote: Remote, prepared: Path, tmp_path: Path) -> None:
    remote.raw_put(prepared.read_bytes())
    context = multiprocessing.get_context("spawn")
    with context.Pool(3) as pool:
        found = pool.starmap(_fetch_in_process, [(remote.uri, str(remote.cache), str(tmp_path))] * 3, chunksize=1)
    assert len(set(found)) == 1
    assert len(list(tmp_path.glob("fetched-*"))) == 1


def _fetch_in_process(uri: str, cache: str, notes: str) -> str:
    def say(line: str) -> None:
        if line.startswith("fetching"):
            (Path(notes) / f"fetched-{os.getpid()}").touch()

    append = data_cache._append

    def slow(*arguments: Any) -> None:
        append(*arguments)
        time.sleep(1)

    data_cache._append = slow  # in this process alone
    (Path(notes) / f"ready-{os.getpid()}").touch()
    while len(list(Path(notes).glob("ready-*"))) < 3:  # all at once, however long a process takes to start
        time.sleep(0.01)
    return str(fetch_data(uri, cache=Path(cache), say=say))


def test_a_local_path_is_itself(tmp_path: Path) -> None:
    assert fetch_data(str(tmp_path / "a.safetensors")) == tmp_path / "a.safetensors"
    assert fetch_data(f"file://{tmp_path}/a.safetensors") == tmp_path / "a.safetensors"
