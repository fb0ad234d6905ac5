"""Groups: made whole whatever cuts it, found by their names."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
import typer

from runner.commands.keep import stop
from runner.errors import Exit, NoSuchJobError, StoreError, UsageError
from runner.job.attempts import Attempt
from runner.job.find import find, find_group, find_job
from runner.job.group import Group
from runner.job.job import Job
from runner.resolve import resolve_points
from runner.store.directory import DirectoryStore
from runner.view.groups import group_status
from tests.conftest import Cli
from tests.counting.store import CountingStore
from tests.groups import make

pytestmark = pytest.mark.usefixtures("own_place")


def contents(root: Path, group: Group) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file() and group.id in str(p)}


def test_a_submit_that_is_cut_anywhere_is_completed_to_the_same(tmp_path: Path) -> None:
    class Cut(DirectoryStore):
        left = 10**6

        def put(self, key: str, data: bytes) -> None:
            if self.left <= 0:
                raise StoreError("killed")
            self.left -= 1
            super().put(key, data)

    store = Cut(tmp_path / "store")
    group = make(store, tmp_path)
    assert group.complete() == 3
    whole = contents(tmp_path / "store", group)
    assert sum(name.endswith("job.json") for name in whole) == 3
    for survived in range(7):
        for name in whole:
            if not name.endswith("group.json"):
                (tmp_path / "store" / name).unlink()
        store.left = survived
        with pytest.raises(StoreError):
            Group(store, group.id).complete()
        store.left = 10**6
        Group(store, group.id).complete()
        assert contents(tmp_path / "store", group) == whole


def test_a_job_that_was_deleted_is_not_made_again(tmp_path: Path) -> None:
    group = make(store := DirectoryStore(tmp_path / "store"), tmp_path)
    group.complete()
    group.jobs()[1].delete()
    assert Group(store, group.id).complete() == 0
    status = group_status(group)
    assert (status["missing"], status["missing_because"], [p["point"] for p in status["points"]]) == ([2], "deleted", [1, 3])


def test_a_point_is_a_job_like_any_other_and_says_of_which_group(tmp_path: Path) -> None:
    group = make(DirectoryStore(tmp_path / "store"), tmp_path)
    group.complete()
    job = group.jobs()[1]
    expected = resolve_points(tmp_path / "job.yaml", "local", []).points[1].job.items()
    assert job.record()["config"] == json.loads(json.dumps(expected))
    assert list(job.record()["config"]) != []
    assert job.record()["group"] == {"id": group.id, "index": 2, "count": 3, "values": {"training.lr": 0.02}}


def test_names_mean_a_group_a_job_of_it_or_say_what_they_could_mean(tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path / "store")
    group = make(store, tmp_path)
    group.complete()
    uri = store.uri
    found = [find(name, uri) for name in ("sw", group.id, f"{uri}/{group.id}", f"{group.id}p0002", f"{group.id}p000")[:4]]
    assert [one.id for one in found] == [*[group.id] * 3, f"{group.id}p0002"]
    assert find_group("sw", uri).id == group.id
    with pytest.raises(NoSuchJobError, match=rf"{group.id}p000 could be any of these, the newest first: {group.id}p0001, "):
        find(f"{group.id}p000", uri)
    with pytest.raises(UsageError, match=rf"is a group; this takes one job of it, such as {group.id}p0001"):
        find_job("sw", uri)
    with pytest.raises(UsageError, match="is one job; this takes a group"):
        find_group(f"{group.id}p0001", uri)
    with pytest.raises(UsageError, match=rf"this takes a whole ID, such as {group.id}"):
        find("sw", uri, whole=True)
    job = Job.create(store, "sw", group.jobs()[0].record()["config"], {}, "0")
    with pytest.raises(NoSuchJobError, match="sw could be any of these, the newest first: sw-"):
        find("sw", uri)
    assert find(job.id, uri).id == job.id


def test_what_others_write_into_a_group_is_told_or_passed_over(tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path / "store")
    group = make(store, tmp_path)
    group.complete()
    store.put(f"{group.paths.index}x-y", b"")
    store.put(f"{group.paths.point(7)}/job.json", b"{}")
    assert len(group.jobs()) == 3
    store.put(group.jobs()[0].paths.record, b"{")
    assert "damaged" in group_status(group)["points"][0]["error"]
    for text, told in ((b"[]", "not a JSON object"), (b'{"format": 1}', "damaged"), (b'{"format": 2}', "format 2")):
        store.put(group.paths.record, text)
        with pytest.raises(StoreError, match=told):
            find(group.id, store.uri)


def test_a_group_is_shown_in_few_round_trips_however_many_points_it_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = CountingStore(tmp_path / "store")
    monkeypatch.setattr("runner.job.find.open_store", lambda uri: store)
    group = make(store, tmp_path, 40)
    group.complete()
    for job in group.jobs()[:20]:
        one = Attempt("0001-aaaaaaaa", "elsewhere", 1, "1", time.time(), phase="running", began=True)
        job.attempts.write(one)
        job.attempts.write_heartbeat(one, {"step": 1, "seconds_left": 60.0})
    before = store.depth
    status = group_status(find_group("sw", store.uri))
    assert status["states"] == {"running": 20, "queued": 20}
    assert status["points"][0]["seconds_left"] == 60.0
    assert store.depth - before <= 9


def test_stop_names_the_point_that_cannot_be_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = DirectoryStore(tmp_path / "store")
    group = make(store, tmp_path)
    group.complete()
    bad = group.jobs()[1]
    store.put(bad.paths.attempt("0001-aaaaaaaa"), b"{")
    with pytest.raises(typer.Exit) as end:
        stop(group.id, json=True)
    told = json.loads(capsys.readouterr().out)
    assert end.value.exit_code == Exit.STORE
    assert [problem.partition(" cannot be read: ")[0] for problem in told["problems"]] == [bad.id]


def test_what_one_job_alone_can_be_told_is_refused(tmp_path: Path, cli: Cli) -> None:
    told = "is a sweep: found run.auto_continue: "
    group = make(DirectoryStore(tmp_path / "store"), tmp_path)
    group.complete()
    for words in (("submit", tmp_path / "job.yaml"), ("resume", group.id, "--store", tmp_path / "store")):
        refused = cli(*words, "--set", "run.auto_continue=2")
        assert (refused.returncode, told in refused.stderr) == (2, True), refused.stdout + refused.stderr


def test_a_group_is_deleted_with_its_jobs(tmp_path: Path) -> None:
    group = make(DirectoryStore(tmp_path / "store"), tmp_path)
    group.complete()
    assert group.delete() == 2 + 3
    assert contents(tmp_path / "store", group) == {}
