"""A group that others may have written, or that lies where it can only be read: what it may decide, and how it goes on."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from last_e.problems import ConfigError
from runner.commands.groups import resume_group
from runner.errors import Exit, LastrunError, StoreError, UsageError
from runner.job.carry import carry_group, to_carry
from runner.job.find import find, find_group
from runner.job.group import Group, PointRecord
from runner.job.json_objects import dump
from runner.launch.protocol import Queue
from runner.launch.ready import How
from runner.launch.slurm.launcher import SlurmLauncher
from runner.resolve import resolve_points
from runner.store.directory import DirectoryStore
from runner.trust import UntrustedError
from runner.view.groups import group_status
from tests.conftest import TINY


@pytest.fixture(autouse=True)
def own_place(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("XDG_DATA_HOME", "XDG_CONFIG_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("LASTRUN_STORE", str(tmp_path / "home"))


def made(store: DirectoryStore, folder: Path, **values: Any) -> Group:
    """A group of three as somebody else may have put it there: any values, any origins."""
    (folder / "job.yaml").write_text(f"{TINY}sweep: {{grid: {{training.lr: [0.1, 0.2, 0.3]}}}}\n")
    records = []
    for point in resolve_points(folder / "job.yaml", None, []).points:
        config = {**point.job.items(), **{key.replace("__", "."): value for key, value in values.items()}}
        records.append(PointRecord(values=point.values, config=config, origins=dict.fromkeys(config, "job.yaml:3")))
    return Group.create(store, "sw", records, "0")


def resumed(group: Group, **options: Any) -> None:
    given = {"trust_all": False, "parallel": None, "stop_after": None, "detach": False, "json": True}
    resume_group(group, How(), **{**given, **options})


def files(root: Path) -> set[str]:
    return {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}


def test_a_stored_group_asks_before_it_decides_anything_here_and_nothing_is_started(tmp_path: Path) -> None:
    group = made(DirectoryStore(tmp_path / "home"), tmp_path, run__launcher="docker", run__image="evil:1")
    with pytest.raises(UntrustedError) as refused:
        resumed(group)
    assert str(refused.value).count("run.image = 'evil:1'") == 1, "once, not for each of its points"
    assert "--trust takes all of it" in str(refused.value)
    assert [job.attempts.names() for job in group.jobs()] == [[], [], []]
    written = {name.partition("/")[0] for name in files(tmp_path / "home")} - {".index"}
    assert written == {group.id, *(job.id for job in group.jobs())}, "its jobs lie where their IDs say, nowhere else"


def test_a_group_whose_jobs_would_be_gigabytes_is_none(tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path / "home")
    group = made(store, tmp_path)
    record = json.loads(store.get(group.paths.record))
    record["config"]["model.note"] = "x" * (1 << 20)
    record["points"] = record["points"] * 300
    store.put(group.paths.record, dump(record))
    with pytest.raises(StoreError, match="its jobs would be larger than any"):
        Group(store, group.id).complete()
    assert files(tmp_path / "home") == {group.paths.record}


def test_a_deletion_that_is_cut_is_gone_on_with_by_the_same_command(tmp_path: Path) -> None:
    class Cut(DirectoryStore):
        left = 10**6

        def delete(self, keys: Any) -> None:
            if self.left <= 0:
                raise StoreError("killed")
            self.left -= 1
            super().delete(keys)

    for survived in range(8):
        store = Cut(tmp_path / "home")
        group = made(store, tmp_path)
        group.complete()
        store.left = survived
        with pytest.raises(StoreError):
            group.delete()
        store.left = 10**6
        again = find_group(group.id, store.uri)
        assert again.complete() == 0, "none of its jobs is made again"
        again.delete()
        assert files(tmp_path / "home") == set()


# --- where it can only be read ---------------------------------------------------------------------------------------------


@pytest.fixture
def attached(tmp_path: Path) -> Iterator[Group]:
    """A group as another machine has it, in a place where it can only be read, copied without hidden folders."""
    group = made(DirectoryStore(tmp_path / "far"), tmp_path)
    group.complete()
    shutil.rmtree(tmp_path / "far" / ".index")
    place = tmp_path / "input"
    place.mkdir()
    if subprocess.run(["mount", "--bind", tmp_path / "far", place], capture_output=True, check=False).returncode != 0:
        pytest.skip("a folder cannot be mounted to be read only here")
    subprocess.run(["mount", "-o", "remount,bind,ro", place], check=True)
    yield find_group(group.id, str(place))
    subprocess.run(["umount", "-l", place], check=True)


def test_a_group_that_can_only_be_read_is_copied_whole_and_goes_on_where_it_can_be_written(
    attached: Group, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[tuple[str, list[int]]] = []

    def run(group: Group, how: How, make_trust: Any, *rest: Any) -> None:
        from runner.launch.points import find_tasks

        ran.append((group.store.uri, [task.number for task in find_tasks(group.jobs(), how, make_trust) if task.go]))

    monkeypatch.setattr("runner.commands.groups._run", run)
    assert [point["state"] for point in group_status(attached)["points"]] == ["queued"] * 3
    resumed(attached)
    home = DirectoryStore(tmp_path / "home")
    assert ran == [(home.uri, [1, 2, 3])]
    copy = find_group("sw", home.uri)
    assert copy.record() == attached.record()
    assert [job.record() for job in copy.jobs()] == [job.record() for job in attached.jobs()]
    copy.jobs()[0].requests.ask_to_stop(now=False)
    before = files(tmp_path / "home")
    resumed(attached)  # what the copy has all of is not copied again
    assert files(tmp_path / "home") == before
    assert len(ran) == 2
    copy.jobs()[1].delete()
    resumed(attached)
    assert ran[2:] == [(home.uri, [1, 3])], "what was deleted here does not come back"
    home.put(copy.paths.record, home.get(copy.paths.record).replace(b'"name": "sw"', b'"name": "so"'))
    with pytest.raises(UsageError, match="has another group with the ID"):
        resumed(attached)


def test_nothing_is_copied_of_a_group_that_asks_for_what_was_not_taken(attached: Group, tmp_path: Path) -> None:
    record = tmp_path / "far" / attached.jobs()[1].id / "job.json"
    values = json.loads(record.read_text())
    values["config"]["run.launcher"] = "docker"
    record.write_text(json.dumps(values))
    with pytest.raises(UntrustedError, match=r"run\.launcher = 'docker'"):
        resumed(attached)
    assert not (tmp_path / "home").exists()


def test_a_group_that_was_cut_while_it_was_made_brings_the_first_weights_of_all_its_points(tmp_path: Path) -> None:
    source, store = made(DirectoryStore(tmp_path / "far"), tmp_path), DirectoryStore(tmp_path / "home")
    for number, job in enumerate(source.jobs()[:2], 1):
        source.store.put(job.paths.init, b"%d" % number)
    home = Group(store, source.id)
    carry_group(source, home, to_carry(source, home), print)
    assert home.complete() == 3
    first, second, third = home.jobs()
    assert [store.get(job.paths.init) for job in (first, second)] == [b"1", b"2"]
    assert list(store.scan(third.paths.init)) == []


# --- lines in a queue ------------------------------------------------------------------------------------------------------


class Lines(SlurmLauncher):
    """A queue that takes so many."""

    def __init__(self, takes: int) -> None:
        self.takes = takes
        self.told: list[tuple[str, str | None]] = []

    def line_up(self, job: Any, arguments: list[str], token: str, after: str | None) -> str:
        if len(self.told) >= self.takes:
            raise LastrunError("Slurm: too many jobs of yours")
        self.told.append((job.id[-4:], after))
        return job.id[-4:]


def test_points_stand_in_so_many_lines_and_what_a_queue_refuses_is_told_with_what_it_has(tmp_path: Path) -> None:
    from runner.launch.line_up import line_up
    from runner.launch.points import find_tasks
    from runner.trust import Trust

    group = made(DirectoryStore(tmp_path / "home"), tmp_path)
    group.complete()
    for takes in (99, 2):
        queue = Lines(takes)
        assert isinstance(queue, Queue)
        tasks = find_tasks(group.jobs(), How(), lambda: Trust(group.store.uri))
        for task in tasks:
            object.__setattr__(task.go, "launcher", queue)
        if takes == 99:
            assert line_up(tasks, 2) == 3
            assert queue.told == [("0001", None), ("0002", None), ("0003", "0001")]
        else:
            with pytest.raises(LastrunError, match="too many jobs of yours; 2 of 3 points are in the queue"):
                line_up(tasks, 2)


# --- before there is a group -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "tty", "code", "told"),
    [
        (["--json"], False, Exit.USAGE, "21 points: --yes begins more than 20; nothing was written"),
        ([], False, Exit.USAGE, "21 points: --yes begins more than 20; nothing was written"),
        ([], True, Exit.USAGE, "begin 21 points? [y/N]"),
        (["--set", "hardware.data_root=/nowhere", "dataset=ntu60", "split_type=xsub"], True, Exit.USAGE, "/nowhere"),
        (["--dry-run"], False, Exit.DONE, "nothing was written"),
    ],
)
def test_count_and_cost_are_told_and_many_points_are_asked_about_before_anything_is_written(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    tty: bool,
    code: int,
    told: str,
) -> None:
    import io
    import sys

    from runner.commands.app import main

    (tmp_path / "job.yaml").write_text(f"{TINY}sweep: {{grid: {{training.seed: {list(range(21))}}}}}\n")
    answer = io.StringIO("n\n")
    monkeypatch.setattr(answer, "isatty", lambda: tty)
    monkeypatch.setattr(sys, "stdin", answer)
    monkeypatch.setattr(sys, "argv", ["lastrun", "submit", str(tmp_path / "job.yaml"), *words])
    with pytest.raises(SystemExit) as left:
        main()
    said = "".join(capsys.readouterr())
    assert (left.value.code or 0) == code, said
    assert told in said
    assert not (tmp_path / "home").exists()
    if "data_root" not in "".join(words):
        assert "21 points" in said


def test_whatever_stands_in_a_sweep_is_points_or_a_mistake_that_says_what_is_allowed(tmp_path: Path) -> None:
    for sweep, found in (
        ("{grid: {hardware.micro_batch: [null, 4]}}", [{"hardware.micro_batch": None}, {"hardware.micro_batch": 4}]),
        ("{grid: {training.lr: [null]}}", "training.lr: found null; allowed: a number > 0"),
        ("{grid: {training.lr: '0.1,0.2'}}", "found '0.1,0.2'; allowed: a list of values, such as [0.1,0.2]"),
        ("{grid: {training.lr: null}}", "found null; allowed: a list of values"),
        ("{grid: {model: ['nano,small', nano]}}", "model.variant: found 'nano,small'; allowed: one of nano_e_v3"),
        ("{grid: {training.lr: [[0.2]]}}", "training.lr: found [0.2]; allowed: a number"),
        ("{grid: {training.lr: [0.1], training.lr: [0.2]}}", "training.lr is set twice"),
        ("{grid: {training.lr: [.nan]}}", "training.lr: found nan"),
        ("{grid: {training.seed: [1, true]}}", "training.seed: found true; allowed: a whole number"),
    ):
        (tmp_path / "job.yaml").write_text(f"{TINY}sweep: {sweep}\n")
        if isinstance(found, list):
            assert [point.values for point in resolve_points(tmp_path / "job.yaml", "local", []).points] == found
            continue
        with pytest.raises(ConfigError) as caught:
            resolve_points(tmp_path / "job.yaml", "local", [])
        [problem] = caught.value.problems
        assert found in str(problem)


def test_set_can_bring_a_whole_sweep_or_other_values_for_one(tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    for sweep, words, count in (
        ("", ["sweep.grid.training.lr=[0.1,0.2]"], 2),
        ("", ["sweep={grid: {training.lr: [0.1, 0.2]}, seeds: 2}"], 4),
        ("", ["sweep.points=[{},{training.lr: 0.3}]"], 2),
        ("sweep: {grid: {training.lr: [0.1]}}\n", ["sweep.grid.training.lr=[0.5,0.6,0.7]"], 3),
    ):
        path.write_text(f"{TINY}{sweep}")
        assert len(resolve_points(path, "local", words).points) == count


def test_a_point_that_somebody_removed_is_told_and_keeps_nobody_from_the_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from runner.launch.points import find_tasks
    from runner.trust import Trust
    from runner.view.compare import compare, print_comparison

    group = made(DirectoryStore(tmp_path / "home"), tmp_path)
    group.complete()
    first, second, third = group.jobs()
    second.delete()
    group.store.put(third.paths.record, b"{")
    facts = compare(group.jobs())
    assert (facts["jobs"], list(facts["without"])) == (1, [second.id, third.id])
    print_comparison(facts)
    assert f"without {second.id}: it is not there: deleted" in capsys.readouterr().out
    third.delete()
    tasks = find_tasks(find(group.id, group.store.uri).jobs(), How(), lambda: Trust(group.store.uri))
    assert [(task.job.id, task.number) for task in tasks] == [(first.id, 1)]
