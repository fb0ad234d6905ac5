"""The outbox: in order, the newest bytes, nothing lost, nothing half."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from runner.attempt import outbox as outbox_module
from runner.attempt.leftovers import clear_leftovers, send_leftovers
from runner.attempt.outbox import Outbox, waiting
from runner.attempt.scratch import make_scratch
from runner.errors import StoreError
from runner.job.attempts import Attempt
from runner.job.job import Job
from runner.store.directory import DirectoryStore
from tests.counting.store import CountingStore

SET = ["j/checkpoints/5-a/state.pt", "j/checkpoints/5-a/config.json", "j/checkpoints/5-a/MANIFEST.json"]


class InRounds(DirectoryStore):
    """What is done side by side is done in a round, which nothing breaks into that has the ``lock``."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.lock = threading.RLock()

    def in_parallel(self, calls: Sequence[Callable[[], Any]]) -> list[Any]:
        with self.lock:
            return super().in_parallel(calls)


class Blockable:
    """A store in whose way stands a file where it needs a folder, until that is taken away between two rounds: in the middle of
    one its last object would go, and its first come with the next."""

    def __init__(self, root: Path) -> None:
        self.store = InRounds(root)
        self.obstacle = root / "j"
        root.mkdir()

    def block(self) -> None:
        self.obstacle.write_text("in the way")

    def unblock(self) -> None:
        with self.store.lock:
            self.obstacle.unlink()


@pytest.fixture
def server(tmp_path: Path) -> Blockable:
    return Blockable(tmp_path / "store")


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def sent() -> list[str]:
    return []


@pytest.fixture
def outbox(server: Blockable, tmp_path: Path, said: list[str], sent: list[str]) -> Iterator[Outbox]:
    box = Outbox(server.store, tmp_path / "outbox", said.append, sent.append)
    yield box
    box.close()


def test_objects_arrive_in_the_order_they_were_put(outbox: Outbox, server: Blockable, sent: list[str]) -> None:
    keys = [f"j/{n}" for n in (3, 1, 4, 1, 5, 9, 2, 6)]
    server.block()
    for n, key in enumerate(keys):
        outbox.put(key, str(n).encode())
    assert not outbox.drain(0.3)
    assert outbox.lag_seconds > 0
    server.unblock()
    assert outbox.drain(20)
    assert sent == ["j/3", "j/1", "j/4", "j/5", "j/9", "j/2", "j/6"]
    assert server.store.get("j/1") == b"3"  # the newest bytes, at the oldest place
    assert waiting(outbox.folder) == []
    assert outbox.lag_seconds == 0


class Slow(CountingStore):
    """A store that is in the middle of its first upload until it is let go."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.entered, self.release = threading.Event(), threading.Event()

    def put_file(self, key: str, path: Path) -> None:
        self.entered.set()
        assert self.release.wait(20)
        super().put_file(key, path)


def test_what_waits_is_sent_at_once_but_for_what_has_to_come_after_it(tmp_path: Path) -> None:
    store = Slow(tmp_path / "store")
    later = [key.replace("5-a", "6-a") for key in SET]
    metrics, log, end = (f"j/attempts/0001-a/{name}" for name in ("metrics.jsonl", "log/1.txt", "end.json"))
    depths: dict[str, int] = {}
    box = Outbox(store, tmp_path / "outbox", print, lambda key: depths.update({key: store.depth}))
    box.put("j/first", b"x")
    assert store.entered.wait(20)  # meanwhile the others come together
    for key in (metrics, *SET, log, *later, end):
        box.put(key, b"x")
    store.release.set()
    assert box.drain(20)
    box.close()
    together = [[key for key in depths if depths[key] == depth] for depth in sorted(set(depths.values()))]
    assert together == [["j/first"], [metrics, *SET[:2]], [SET[2], log, *later[:2]], [later[2]], [end]]


def test_a_failing_store_is_told_once_and_so_is_its_return(outbox: Outbox, server: Blockable, said: list[str]) -> None:
    server.block()
    outbox.put("j/a", b"1")
    assert not outbox.drain(2.5)  # several tries
    assert [word.split(":")[0] for word in said] == ["uploads wait"]
    assert outbox.error is not None
    server.unblock()
    assert outbox.drain(20)
    assert said[1:] == ["uploads go on"]
    assert outbox.error is None


@pytest.mark.parametrize("renewable", [False, True])
def test_of_what_a_store_refuses_only_keys_that_have_worked_are_waited_for(outbox: Outbox, renewable: bool) -> None:
    """A server may call a key that is being rotated denied, and an attempt that ends waits for the next one all the same."""
    error = StoreError("these credentials may not do that")
    error.lasting, error.renewable = True, renewable
    outbox._after([error], 0.0)
    assert outbox.lasting is not renewable


def test_files_are_sent_as_they_were_when_put(outbox: Outbox, server: Blockable, tmp_path: Path) -> None:
    server.block()
    file = tmp_path / "state.pt"
    file.write_bytes(b"as it was")
    outbox.put_file("j/state.pt", file)
    file.unlink()  # as the trainer's pruning does
    server.unblock()
    assert outbox.drain(20)
    assert server.store.get("j/state.pt") == b"as it was"


def test_draining_waits_for_what_follows_the_last_object(server: Blockable, tmp_path: Path) -> None:
    followed: list[str] = []
    entered, release = threading.Event(), threading.Event()

    def follow(key: str) -> None:
        if key == "j/b":
            entered.set()
            assert release.wait(20)
        time.sleep(0.3)
        followed.append(key)

    box = Outbox(server.store, tmp_path / "outbox", print, follow)
    box.put("j/a", b"1")
    assert box.drain(20)
    assert followed == ["j/a"]
    box.put("j/b", b"1")
    assert entered.wait(20)
    assert box.drain(0.1)  # all is sent, though not all has been done
    assert followed == ["j/a"]
    release.set()
    box.close()


def test_a_set_of_which_nothing_was_sent_can_be_dropped(tmp_path: Path) -> None:
    store = Slow(tmp_path / "store")
    box = Outbox(store, tmp_path / "outbox", print, lambda key: None)
    box.put("j/first", b"x")
    assert store.entered.wait(20)  # alone: what is being tried may be there
    for key in [*SET, "j/last"]:
        box.put(key, b"x")
    assert box.drop(SET)
    assert sorted(waiting(box.folder)) == ["j/first", "j/last"]
    assert not box.drop(SET)  # once
    store.release.set()
    assert box.drain(20)
    box.close()
    assert [entry.key for entry in store.scan("")] == ["j/first", "j/last"]


def test_a_set_that_is_on_its_way_goes_as_a_whole(outbox: Outbox, server: Blockable) -> None:
    server.block()
    for key in SET:
        outbox.put(key, b"x")
    deadline = time.monotonic() + 20
    while outbox.error is None:  # the first one has been tried
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert not outbox.drop(SET)
    server.unblock()
    assert outbox.drain(20)
    assert sorted(entry.key for entry in server.store.scan("")) == sorted(SET)


def test_what_a_killed_attempt_left_is_sent_from_its_files_and_half_a_checkpoint_is_not(
    server: Blockable, tmp_path: Path
) -> None:
    folder = tmp_path / "left"
    whole = [key.replace("5-a", "6-a") for key in SET]
    for key in [*SET[:2], *whole, "j/attempts/1/attempt.json", "j/attempts/1/log/1.txt"]:
        (folder / key).parent.mkdir(parents=True, exist_ok=True)
        (folder / key).write_text(key)
    (folder / "j/half-written.part").write_text("")
    assert send_leftovers(server.store, folder) == 5
    keys = [entry.key for entry in server.store.scan("")]
    assert keys == sorted([*whole, "j/attempts/1/attempt.json", "j/attempts/1/log/1.txt"])
    assert send_leftovers(server.store, folder) == 0


@pytest.mark.parametrize(
    ("left", "stored", "after"),
    [
        ("running", "lost", "lost"),
        ("claiming", "ended", "ended"),
        ("running", "running", "running"),
        ("ended", "lost", "ended"),
        ("running", None, "running"),
        ("", "lost", "lost"),
    ],
)
def test_a_record_from_when_an_attempt_ran_does_not_replace_its_end(
    server: Blockable, tmp_path: Path, left: str, stored: str | None, after: str
) -> None:
    key = "j/attempts/0001-aabb/attempt.json"
    path = tmp_path / "left" / key
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({"phase": left, "from": "left"}) if left else "")
    if stored is not None:
        server.store.put(key, json.dumps({"phase": stored}).encode())
    send_leftovers(server.store, tmp_path / "left")
    assert json.loads(server.store.get(key))["phase"] == after
    assert not path.exists()


def test_a_file_that_somebody_deleted_is_told_and_the_others_go(outbox: Outbox, server: Blockable, said: list[str]) -> None:
    server.block()
    for name in ("one", "two", "three"):
        outbox.put(f"j/attempts/a/{name}", b"x")
    (outbox.folder / "j/attempts/a/two").unlink()
    server.unblock()
    assert outbox.drain(20)
    assert [entry.key for entry in server.store.scan("")] == ["j/attempts/a/one", "j/attempts/a/three"]
    assert [line for line in said if "attempts/a/two is gone" in line]


def test_after_an_outage_one_looks_before_one_sends_and_a_job_that_was_taken_gets_nothing(
    server: Blockable, tmp_path: Path, said: list[str], sent: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox_module, "QUIET_SECONDS", 0.5)
    looks: list[bool] = []

    def lost() -> bool:
        looks.append(len(looks) > 0)  # the first look finds nothing, the next one another attempt
        return looks[-1]

    box = Outbox(server.store, tmp_path / "outbox", said.append, sent.append, lost)
    box.put("j/a", b"1")
    assert box.drain(20)
    assert looks == []  # nobody looks who has just been heard
    for name in ("b", "c"):
        time.sleep(0.6)
        box.put(f"j/{name}", b"1")
        box.drain(2)
    assert looks == [False, True]
    assert sent == ["j/a", "j/b"]
    assert waiting(box.folder) == ["j/c"]
    box.close()


def test_a_set_of_which_something_was_sent_is_not_dropped(server: Blockable, tmp_path: Path, sent: list[str]) -> None:
    box = Outbox(server.store, tmp_path / "outbox", print, sent.append)
    try:
        box.put("j/checkpoints/1-a/state.pt", b"1")
        assert box.drain(10)
        with box.together():
            box.put("j/checkpoints/1-a/MANIFEST.json", b"{}")
            box.drop(["j/checkpoints/1-a/state.pt", "j/checkpoints/1-a/MANIFEST.json"])
        assert box.drain(10)
        assert sent == ["j/checkpoints/1-a/state.pt", "j/checkpoints/1-a/MANIFEST.json"]
    finally:
        box.close()


def test_what_a_store_will_not_take_stays_and_keeps_no_new_attempt_from_beginning(tmp_path: Path) -> None:
    class Full(DirectoryStore):
        lasting = True

        def put_file(self, key: str, path: Path) -> None:
            error = StoreError("no room")
            error.lasting = self.lasting
            raise error

    job = Job(store := Full(tmp_path / "store"), "j")
    ended = Attempt("0001-aaaaaaaa", "elsewhere", 1, "1", time.time(), phase="ended", began=True)
    job.attempts.write(ended)
    left = make_scratch(job, ended.id, tmp_path)
    piece = left / "outbox" / job.paths.log(ended.id, 1)
    piece.parent.mkdir(parents=True)
    piece.write_text("its last words")
    said: list[str] = []
    clear_leftovers(job, tmp_path, said.append)
    assert said[1].startswith("it cannot be sent (no room); it stays there, and lastrun sync ")
    assert piece.exists()
    store.lasting = False
    with pytest.raises(StoreError):  # it may be there in a moment
        clear_leftovers(job, tmp_path, said.append)
