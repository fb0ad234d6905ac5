"""The contract that every store keeps; a new store is one line in ``stores``."""

from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
import sys
import tempfile
import threading
import uuid
from pathlib import Path
from typing import IO

import pytest

from runner.errors import DamagedObjectError, MissingKeyError, StoreError, UsageError
from runner.store.directory import DirectoryStore
from runner.store.open import existing_store, open_store
from runner.store.protocol import Store
from runner.store.s3 import S3Store
from runner.store.uri import StoreUri

ON_CEPH = pytest.mark.xdist_group("ceph")


@pytest.fixture(params=["directory", pytest.param("ceph-http", marks=ON_CEPH), pytest.param("ceph-https", marks=ON_CEPH)])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    if request.param == "directory":
        return DirectoryStore(tmp_path / "store")
    ceph = request.getfixturevalue("ceph")
    return open_store(ceph.uri(f"contract/{uuid.uuid4().hex}", tls=request.param == "ceph-https"))


def test_bytes_come_back_as_they_were_put(store: Store) -> None:
    data = bytes(range(256)) * 4096
    store.put("a/b/c.bin", data)
    assert store.get("a/b/c.bin") == data


def test_a_put_replaces(store: Store) -> None:
    store.put("k", b"old and longer")
    store.put("k", b"new")
    assert store.get("k") == b"new"


def test_files_go_up_and_come_down(store: Store, tmp_path: Path) -> None:
    source, target = tmp_path / "up", tmp_path / "new-folder" / "down"
    source.write_bytes(os.urandom(3_000_000))
    store.put_file("x/file", source)
    store.get_file("x/file", target)
    assert target.read_bytes() == source.read_bytes()
    assert [path.name for path in target.parent.iterdir()] == ["down"]


def test_what_is_larger_than_it_can_be_is_not_fetched(store: Store, tmp_path: Path) -> None:
    store.put("k", b"four")
    with pytest.raises(DamagedObjectError, match="it has 4 bytes, and what belongs there never more than 3"):
        store.get_file("k", tmp_path / "f", most=3)
    assert list(tmp_path.glob("*f")) == []
    store.get_file("k", tmp_path / "f", most=4)
    assert (tmp_path / "f").read_bytes() == b"four"


@pytest.mark.parametrize("key", ["none", "a", "a/b", "a/b/c/d"])
def test_a_missing_key_says_so(store: Store, tmp_path: Path, key: str) -> None:
    store.put("a/b/c", b"")
    with pytest.raises(MissingKeyError, match=key):
        store.get(key)
    with pytest.raises(MissingKeyError, match=key):
        store.get_file(key, tmp_path / "f")
    assert not (tmp_path / "f").exists()


def test_scan_lists_keys_below_a_prefix_in_order_with_sizes(store: Store) -> None:
    for key in ("j/b/2", "j/a", "j/b/1", "jj/a", "k"):
        store.put(key, key.encode())
    assert [tuple(entry) for entry in store.scan("j/")] == [("j/a", 3), ("j/b/1", 5), ("j/b/2", 5)]
    assert [entry.key for entry in store.scan("j")] == ["j/a", "j/b/1", "j/b/2", "jj/a"]
    assert [entry.key for entry in store.scan("")] == ["j/a", "j/b/1", "j/b/2", "jj/a", "k"]
    assert list(store.scan("nothing/here")) == []


def test_folders_are_the_names_one_level_down(store: Store) -> None:
    for key in ("j2/x/y", "j1/x", "top"):
        store.put(key, b"")
    assert store.folders("") == ["j1", "j2"]
    assert store.folders("j2/") == ["x"]
    assert store.folders("none/") == []


def test_delete_takes_what_is_there_and_passes_over_what_is_not(store: Store) -> None:
    store.put("a/1", b"")
    store.put("a/2", b"")
    store.delete(["a/1", "never/was"])
    assert [entry.key for entry in store.scan("")] == ["a/2"]
    store.delete(["a/2"])
    assert store.folders("") == []


def test_the_age_of_a_key_goes_by_the_stores_own_clock(store: Store) -> None:
    store.put("k", b"")
    assert -2 < store.age("k") < 30
    with pytest.raises(MissingKeyError):
        store.age("none")


def test_what_a_killed_writer_left_half_written_is_swept_and_nothing_else(store: Store) -> None:
    store.put("j/whole", b"w")
    for key in ("j/checkpoints/5-dead/state.pt", "j/checkpoints/6-alive/state.pt", "other/checkpoints/5-dead/state.pt"):
        leave_half_written(store, key)
    assert [entry.key for entry in store.scan("")] == ["j/whole"]
    store.sweep("j/", keep=lambda key: "-alive/" in key)
    assert half_written(store) == ["j/checkpoints/6-alive/state.pt", "other/checkpoints/5-dead/state.pt"]
    assert store.get("j/whole") == b"w"
    store.sweep("nobody/", keep=lambda key: False)
    store.sweep("", keep=lambda key: False)
    assert half_written(store) == []


def leave_half_written(store: Store, key: str) -> None:
    """What is there after kill -9 in the middle of a large object, in the store's own way."""
    if isinstance(store, DirectoryStore):
        file = store.root / key
        file.parent.mkdir(parents=True)
        Path(tempfile.mkstemp(prefix=f".part-{file.name}-", dir=file.parent)[1]).write_bytes(b"half")
    else:
        assert isinstance(store, S3Store)
        store._client.now.create_multipart_upload(**store._at(key))


def half_written(store: Store) -> list[str]:
    if isinstance(store, DirectoryStore):
        return sorted(str(p.parent.relative_to(store.root) / p.name[6:-9]) for p in store.root.rglob(".part-*"))
    assert isinstance(store, S3Store)
    uploads = store._client.now.list_multipart_uploads(Bucket=store.bucket, Prefix=store._prefix).get("Uploads", [])
    return sorted(upload["Key"].removeprefix(store._prefix) for upload in uploads)


@pytest.mark.parametrize("key", ["../out", "a/../../out", "/etc/passwd", "a//b", "", ".", "a/.", "a\\..\\b", "nul\0"])
def test_a_key_cannot_leave_the_store(store: Store, tmp_path: Path, key: str) -> None:
    with pytest.raises(StoreError):
        store.put(key, b"evil")
    with pytest.raises(StoreError):
        store.get(key)
    assert not (tmp_path / "out").exists()


def test_readers_of_a_key_that_is_being_replaced_see_one_of_the_versions_whole(store: Store) -> None:
    versions = [bytes([n]) * 100_000 for n in range(8)]
    store.put("k", versions[0])
    seen: set[bytes] = set()
    done = threading.Event()

    def read() -> None:
        while not done.is_set():
            seen.add(store.get("k"))

    reader = threading.Thread(target=read)
    reader.start()
    for version in versions * 5:
        store.put("k", version)
    done.set()
    reader.join()
    assert seen <= set(versions)
    assert seen


def test_a_directory_store_is_private_and_leaves_no_temporary_files(tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path / "private")
    store.put("job/secret", b"x")
    assert stat.S_IMODE((tmp_path / "private" / "job").stat().st_mode) == 0o700
    assert stat.S_IMODE((tmp_path / "private" / "job" / "secret").stat().st_mode) == 0o600
    assert [path.name for path in (tmp_path / "private" / "job").iterdir()] == ["secret"]


def test_a_directory_store_follows_no_symbolic_link(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    store = DirectoryStore(tmp_path / "store")
    store.put("job/a", b"")
    (tmp_path / "store" / "job" / "link").symlink_to(outside)
    with pytest.raises(StoreError, match="symbolic link"):
        store.put("job/link/evil", b"")
    assert list(outside.iterdir()) == []
    assert [entry.key for entry in store.scan("job/") if "link/" in entry.key] == []


def test_a_full_disk_is_a_store_error_and_what_was_there_stays(small_disk: Path) -> None:
    store = DirectoryStore(small_disk)
    store.put("good", b"g" * 1_000_000)
    with pytest.raises(StoreError, match="No space left"):
        store.put("good", b"b" * 3_000_000)
    assert store.get("good") == b"g" * 1_000_000
    assert [entry.key for entry in store.scan("")] == ["good"]


def test_where_the_disk_is_full_to_which_something_is_brought_no_store_is_blamed(small_disk: Path, tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path)
    store.put("large", b"g" * 3_000_000)
    with pytest.raises(StoreError) as error:
        store.get_file("large", small_disk / "large")
    assert str(error.value) == f"{small_disk}: the disk is full (No space left on device); free some space there"
    assert error.value.lasting
    assert list(small_disk.iterdir()) == []


def test_a_store_is_named_by_a_path_or_a_file_uri(tmp_path: Path) -> None:
    assert open_store(str(tmp_path)).uri == open_store(f"file://{tmp_path}").uri == tmp_path.as_uri()
    odd = tmp_path / "with space #?%20"
    assert open_store(str(odd)).uri == open_store(odd.as_uri()).uri == odd.as_uri()
    for uri in ("ftp://x", "s3://", "s3:///no-bucket", "file://relative", "s3://b/p?colour=red"):
        with pytest.raises(UsageError):
            open_store(uri)


@pytest.mark.parametrize("slashes", ["", "/", "//", "///"])
def test_a_uri_holds_no_credentials(slashes: str) -> None:
    with pytest.raises(UsageError) as caught:
        StoreUri.parse(f"s3:{slashes}AKIAKEY:verysecret@bucket/prefix")
    assert "verysecret" not in str(caught.value)
    assert "AKIAKEY" not in str(caught.value)


@pytest.mark.parametrize("uri", ["s3://b", "gs://b/p/q", "s3://b/p?endpoint_url=https://x:1&region=r", "file:///a%20b"])
def test_a_jobs_uri_is_made_and_taken_apart(uri: str) -> None:
    parsed = StoreUri.parse(uri)
    assert str(parsed) == uri
    assert StoreUri.parse(str(parsed.child("job-1"))).parent() == (parsed, "job-1")


@pytest.mark.parametrize(
    ("uri", "word"),
    [
        ("s3//bucket/x", "did you mean s3://bucket/x"),
        ("s3:/bucket/x", "did you mean s3://bucket/x"),
        ("gs:bucket", "did you mean gs://bucket"),
        ("s3://b?endpoint_url=127.0.0.1:1", "allowed: http://HOST"),
        ("ftp://b", "allowed: a folder"),
        ("S3://bucket/x", r"did you mean s3://bucket/x\?"),
        ("gcs://bucket", r"did you mean gs://bucket\?"),
        ("s3a://bucket/x?region=r", r"did you mean s3://bucket/x\?"),
        ("File:///x", r"did you mean file:///x\?"),
        ("s3;//bucket/x", r"did you mean s3://bucket/x\?"),
        ("s3\uff1a//bucket/x", r"did you mean s3://bucket/x\?"),
        ("gs ://bucket", r"did you mean gs://bucket\?"),
        ("s3:\\\\bucket\\x", r"did you mean s3://bucket/x\?"),
        ("arn:aws:s3:::bucket/x", r"did you mean s3://bucket/x\?"),
        ("C:\\runs", r"C: is no kind of store; a folder of that name is \./C:"),
        ("s3://b/../x", r"a name in a bucket has no parts \. and \.\."),
        ("s3://b?region=a&region=b", "region is given twice"),
        ("azure:/b", r"azure: is no kind of store; a folder of that name is ./azure:/b"),
        ("s3://", "allowed: a folder"),
        ("s3://b?endpoint_url=http://h:99999", "allowed: http://HOST"),
        ("s3://b?endpoint_url=http://:80", "allowed: http://HOST"),
        ("s3://b?addressing=odd", "addressing is 'odd'; allowed: path, virtual, auto"),
        ("s3://b?region=a/b%20c", "region is 'a/b c'; allowed: letters, digits, dashes"),
        ("s3://b /x", "a bucket's name has letters, digits"),
        ("s3://b%20c", "a bucket's name has letters, digits"),
        ("~nobody9/x", r"there is no user nobody9 here; a folder of that name is \./~nobody9"),
    ],
)
def test_a_mistyped_uri_does_not_become_a_folder(uri: str, word: str) -> None:
    with pytest.raises(UsageError, match=word):
        StoreUri.parse(uri)


def test_variables_are_those_of_this_machine_and_an_unset_one_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MY_BUCKET", "b")
    monkeypatch.setenv("EMPTY", "")
    assert str(StoreUri.typed("s3://${MY_BUCKET}/$MY_BUCKET-x")) == "s3://b/b-x"
    for odd in ("${HOME", "/data/$(whoami)/x", "s3://b/${MY BUCKET}"):
        with pytest.raises(UsageError, match=r"\$\{NAME\} or \$NAME|the variable MY BUCKET is not set"):
            StoreUri.typed(odd)
    for uri, name in (("${NO_SUCH}/jobs", "NO_SUCH"), ("s3://$EMPTY/x", "EMPTY"), ("~/${}", "${}")):
        with pytest.raises(UsageError, match=re.escape(f"the variable {name} is not set")):
            open_store(uri)
    assert str(StoreUri.parse("file:///a/$MY_BUCKET")) == "file:///a/%24MY_BUCKET"  # as a job has kept it


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("", "found nothing; allowed: a folder, file:///folder, s3://bucket/prefix or gs://bucket/prefix"),
        (" ", "found nothing"),
        ("s3://b/x\r", "found white space around it, or a control character in it"),
        ("/srv/jobs ", "white space around it"),
        (" s3://b/x", "white space around it"),
        ("${LINE}/jobs", "a control character in it"),
    ],
)
def test_what_nobody_sees_of_a_name_does_not_become_a_folder(monkeypatch: pytest.MonkeyPatch, name: str, told: str) -> None:
    """Of a variable that is not set, or comes from a file with the ends of lines of Windows."""
    monkeypatch.setenv("LINE", "s3://b\r")
    with pytest.raises(UsageError, match=told) as caught:
        open_store(name)
    assert "\r" not in str(caught.value)


@pytest.mark.parametrize(
    "endpoint",
    [
        "https%3A%2F%2Fuser%3Ahunter2hunter2%40127.0.0.1:1",
        "https://hunter2hunter2@host",
        "https://u:pa/hunter2@h",
        "https://h/?t=hunter2",
    ],
)
def test_an_endpoint_holds_no_credentials(endpoint: str) -> None:
    with pytest.raises(UsageError) as caught:
        StoreUri.parse(f"s3://b/p?endpoint_url={endpoint}")
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("name", [b"n\xff", "\u00fc \u0142".encode(), b"100%25"])
@pytest.mark.parametrize("locale", ["C", "C.UTF-8"])
def test_a_folder_may_be_called_anything_in_any_locale(tmp_path: Path, name: bytes, locale: str) -> None:
    """The URI of what is in it leads back to it, in another process."""
    folder = tmp_path / os.fsdecode(name)
    folder.mkdir()
    code = (
        "import sys; from runner.store.open import open_store; from runner.store.uri import StoreUri\n"
        "inner = StoreUri.parse(open_store(sys.argv[1]).uri).child('job')\n"
        "open_store(str(StoreUri.parse(str(inner)))).put('a', b'1')"
    )
    env = {**os.environ, "LC_ALL": locale, "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    subprocess.run([sys.executable, "-c", code, folder], check=True, env=env)
    assert (folder / "job/a").read_bytes() == b"1"


def test_above_what_lies_in_the_root_folder_is_the_root_folder() -> None:
    for uri, name in (("/", ""), ("/job-1", "job-1")):
        parent, found = StoreUri.parse(uri).parent()
        assert (open_store(parent).uri, found) == ("file:///", name)


def test_a_link_to_what_is_not_there_is_no_folder_that_could_be_made(tmp_path: Path) -> None:
    """``--dry-run`` took it for one, and a list said that the first job makes it."""
    (tmp_path / "usb").symlink_to("/mnt/nothing/jobs")
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(
        StoreError, match=r"usb is a link to /mnt/nothing/jobs, which is not there; is its disk mounted\?; name a"
    ):
        DirectoryStore(tmp_path / "usb")
    for name in ("usb/x/y", "loop", "loop/x"):
        with pytest.raises(StoreError, match=r"is a link to .*, which is not there"):
            existing_store(str(tmp_path / name))
    assert DirectoryStore(tmp_path / "new" / "jobs").check() is None


def test_a_file_where_the_folder_would_be_is_told_with_where_to_name_another(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match=r"make its folder .*/file: a file is in its place; name a folder .* LASTRUN_STORE"):
        DirectoryStore(tmp_path / "file" / "jobs").put("a", b"")


def test_a_folder_that_cannot_be_written_is_told_with_where_to_name_another() -> None:
    with pytest.raises(StoreError, match=r"name a folder that you may write to, or a bucket, with --store or LASTRUN_STORE"):
        DirectoryStore(Path("/proc/none")).put("a", b"")


def test_a_file_that_is_swept_while_it_is_put_is_whole_in_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody who takes its writer for dead removes what is half-written: the next try began at the end of the file."""
    store, source = DirectoryStore(tmp_path / "store"), tmp_path / "file"
    source.write_bytes(b"x" * 1000)
    copy, swept = shutil.copyfileobj, []

    def copied(here: IO[bytes], there: IO[bytes], size: int) -> None:
        copy(here, there, size)
        if not swept:
            swept.append(store.sweep("", keep=lambda key: False))

    monkeypatch.setattr(shutil, "copyfileobj", copied)
    store.put_file("j/a", source)
    assert swept
    assert store.get("j/a") == b"x" * 1000
