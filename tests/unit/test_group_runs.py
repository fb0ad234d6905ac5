"""The points of groups, run side by side: by attempts whose ends are given, so that their order is known."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from threading import Thread
from typing import Any, TextIO, cast

import pytest

from runner import gpus, machine
from runner.errors import DamagedObjectError, Exit, LastrunError, PausedError, StoreError
from runner.halving import Halving
from runner.job.attempts import Attempt
from runner.job.group import Group
from runner.job.job import Job
from runner.launch import background
from runner.launch.away import Away
from runner.launch.hosts import at_work as hosts_at_work
from runner.launch.hosts import preparing, with_its_hosts
from runner.launch.line import HalvedLine, Line
from runner.launch.outcome import Outcome
from runner.launch.points import Task, find_tasks
from runner.launch.protocol import Launcher
from runner.launch.ready import How, Ready
from runner.launch.side_by_side import SideBySide
from runner.launch.signs import Running
from runner.launch.slots import Slot, host_slots, make_slots
from runner.launch.ssh.connection import FarError
from runner.resolve import resolve_points
from runner.store.directory import DirectoryStore
from runner.trust import Trust, UntrustedError
from runner.waits import Waits
from tests.groups import SPEC, make

pytestmark = pytest.mark.usefixtures("own_place")


class Given:
    """A launcher whose attempts end as they are told to."""

    def __init__(self, ends: dict[int, str], told: list[str]) -> None:
        self.ends, self.told, self.gpus = ends, told, list[str | None]()

    def clean(self) -> None:
        self.told.append("clean")

    def start(self, job: Job, arguments: list[str], token: str, *, output: TextIO | None) -> Any:
        number = int(job.id[-4:])
        self.gpus.append(os.environ.get("CUDA_VISIBLE_DEVICES"))
        end = self.ends.get(number, "completed")
        self.told.append(f"{number} {' '.join(arguments)}".strip())
        if end == "left":
            raise PausedError("interrupted before its attempt began")
        one = Attempt(f"0001-{token}", machine.identity(), 1, "1", time.time(), phase="ended", began=True, reason=end)
        one.message = f"message of {end}"
        if end != "none":
            job.attempts.write(one)
        elif output is not None:
            output.write("error: it could not begin\n")
        code = {"completed": 0, "preempted": 75, "none": 6}.get(end, 1)
        return type("Ended", (), {"wait": lambda self, seconds: code, "hand_on": lambda self, signum: None})()


class Quiet:
    def __init__(self) -> None:
        self.ends: list[str] = []

    def started(self, task: Any, host: str | None) -> None: ...

    def given_back(self, task: Any, why: str) -> None:
        self.ends.append(f"{task.number} given back, {why}")

    def ended(self, outcome: Outcome) -> None:
        self.ends.append(f"{outcome.task.number} {outcome.kind} {outcome.why}".strip())

    def beats(self, beats: Any) -> None: ...

    def note(self, text: str) -> None: ...


Runs = Callable[..., tuple[SideBySide, list[str], list[str]]]


@pytest.fixture
def runs(tmp_path: Path) -> Runs:
    def run(ends: dict[int, str], count: int = 8, stop_after: int = 3, how: How | None = None) -> Any:
        store = DirectoryStore(tmp_path / "store")
        group = make(store, tmp_path, count)
        group.complete()
        tasks = find_tasks(group.jobs(), how or How(), lambda: Trust(store.uri, all_of_it=True))
        told: list[str] = []
        for task in tasks:
            object.__setattr__(task.go, "launcher", Given(ends, told))
        view = Quiet()
        one = SideBySide(group, Line(tasks), [Slot("0")], stop_after, view)
        one.run()
        return one, view.ends, told

    return run


def test_a_point_that_fails_does_not_stop_the_others(runs: Runs) -> None:
    one, ends, told = runs({2: "diverged", 4: "none", 5: "out_of_memory"}, 6)
    assert ends == [
        "1 succeeded", "2 failed diverged", "3 succeeded", "4 failed it could not begin", "5 failed out_of_memory",
        "6 succeeded",
    ]  # fmt: skip
    assert (one.left, one.failing, one.exit_code) == (0, None, Exit.FAILED)
    assert told[0] == "clean"


def test_the_same_failure_in_a_row_ends_the_group_and_says_why(runs: Runs) -> None:
    ends = {2: "data_error", 3: "diverged", 4: "data_error", 5: "data_error", 6: "data_error"}
    one, seen, _ = runs(ends)
    assert seen[-1] == "6 failed data_error"
    assert one.left == 2
    assert one.failing == "3 points in a row failed for the same reason, data_error: message of data_error"
    assert one.exit_code == Exit.FAILED


def test_a_pause_is_no_failure_and_the_others_go_on(runs: Runs) -> None:
    one, ends, _ = runs({1: "preempted"}, 2)
    assert ends == ["1 paused preempted", "2 succeeded"]
    assert one.exit_code == Exit.PAUSED


def test_who_leaves_while_a_point_is_being_started_leaves_the_whole_group(runs: Runs) -> None:
    one, ends, _ = runs({2: "left"}, 4)
    assert ends == ["1 succeeded"]
    assert (one.left, one.exit_code) == (3, Exit.PAUSED)


def test_what_somebody_else_began_meanwhile_is_left_to_them(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    begin = SideBySide._begin_next

    def beside(self: SideBySide, slot: Slot) -> None:
        task = self._line._left[0]
        if task.number in (1, 2):
            end = "completed" if task.number == 1 else "diverged"
            job = Job(task.job.store, task.job.id)
            job.attempts.write(
                Attempt("0001-bbbbbbbb", "elsewhere", 1, "1", time.time(), phase="ended", began=True, reason=end)
            )
        begin(self, slot)

    monkeypatch.setattr(SideBySide, "_begin_next", beside)
    one, ends, told = runs({}, 3)
    assert ends == ["1 succeeded", "2 elsewhere failed by another", "3 succeeded"]
    assert [word.split()[0] for word in told] == ["clean", "3"]
    assert one.exit_code == Exit.CLAIMED


def test_a_session_is_as_long_for_all_points_as_for_one(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter(range(0, 10**6, 500))
    monkeypatch.setattr("runner.launch.side_by_side.time.monotonic", lambda: float(next(now)))
    one, ends, told = runs({}, 6, how=How(settings=("hardware.session_limit=1800", "hardware.stop_margin=600")))
    assert ends == ["1 succeeded", "2 succeeded"]
    assert [word.rpartition("hardware.session_limit=")[2] for word in told[1:]] == ["1300", "800"]
    assert (one.left, one.leaving, one.exit_code) == (4, "the session's time is over", Exit.PAUSED)


# --- slots ----------------------------------------------------------------------------------------------------------------


def test_an_attempt_sees_the_gpu_of_its_slot_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-1,GPU-2")
    group = make(store := DirectoryStore(tmp_path / "store"), tmp_path, 4)
    group.complete()
    tasks = find_tasks(group.jobs(), How(), lambda: Trust(store.uri))
    assert tasks[0].go is not None
    slots = make_slots(None, tasks[0].go.resolved.config, len(tasks))
    launcher = Given({}, [])
    for task in tasks:
        object.__setattr__(task.go, "launcher", launcher)
    SideBySide(group, Line(tasks), slots, 5, Quiet()).run()
    assert launcher.gpus == ["GPU-1", "GPU-2"] * 2
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "GPU-1,GPU-2"


LISTED = """\
GPU 0: NVIDIA A100 (UUID: GPU-aaaa-1)
  MIG 1g.5gb Device 0: (UUID: MIG-bbbb-1)
  MIG 1g.5gb Device 1: (UUID: MIG-bbbb-2)
GPU 1: NVIDIA A100 (UUID: GPU-cccc-1)
"""


def test_each_gpu_gets_a_point_by_its_uuid_and_what_is_set_already_is_respected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "job.yaml").write_text(SPEC)
    config = resolve_points(tmp_path / "job.yaml", "local", []).points[0].job.config
    assert gpus.gpus_listed(LISTED) == ["MIG-bbbb-1", "MIG-bbbb-2", "GPU-cccc-1"]
    for given, named in (("", []), ("GPU-1,GPU-2", ["GPU-1", "GPU-2"]), ("0,-1,2", ["0"])):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", given)
        assert gpus.gpus_to_use() == named
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-1,GPU-2")
    dealt = [slot.variables["CUDA_VISIBLE_DEVICES"] for slot in make_slots(3, config, 9)]
    assert dealt == ["GPU-1", "GPU-2", "GPU-1"]
    assert [slot.arguments for slot in make_slots(3, config, 9)] == [("--set", "run.share_gpus=true")] * 3
    assert [slot.arguments for slot in make_slots(None, config, 9)] == [()] * 2
    for asked, each in ((2, []), ("all", []), ([1], []), (1, ["GPU-1", "GPU-2"])):
        of_each = config.model_copy(update={"run": config.run.model_copy(update={"gpus": asked})})
        found = [slot.variables.get("CUDA_VISIBLE_DEVICES") for slot in make_slots(None, of_each, 9)]
        assert found == (each or [None])
    on_cpu = config.model_copy(update={"hardware": config.hardware.model_copy(update={"device": "cpu"})})
    monkeypatch.setattr("runner.launch.slots.usable_cores", lambda: 8)
    assert [slot.arguments for slot in make_slots(3, on_cpu, 9)] == [("--set", "hardware.cpu_threads=2")] * 3
    assert [slot.arguments for slot in make_slots(None, on_cpu, 9)] == [()]
    in_containers = config.model_copy(update={"run": config.run.model_copy(update={"launcher": "docker"})})
    assert [slot.arguments for slot in make_slots(2, in_containers, 9)] == [("--set", "run.share_gpus=true")] * 2
    assert [slot.arguments for slot in make_slots(None, in_containers, 9)] == [()]


# --- hosts: attempts that are as they are set up, so that it is known which of them is silent ------------------------------


class Silent:
    """A launcher of attempts that never end by themselves: on one host they give no sign, or are not begun, on another they do
    it well."""

    refusing = False

    def __init__(self, host: str, begun: list[str], bad: str) -> None:
        self.host, self.begun, self.bad = host, begun, bad

    def clean(self) -> None: ...

    def start(self, job: Job, arguments: list[str], token: str, *, output: TextIO | None) -> Any:
        number = job.attempts.next_number()
        if self.refusing and self.host == self.bad:
            raise FarError(f"{self.host}: No space left on device")
        self.begun.append(f"{int(job.id[-4:])} on {self.host}")
        one = Attempt(f"{number:04d}-{token}", "elsewhere", 1, "1", time.time(), phase="running", began=True)
        one.container = {"launcher": "ssh", "what": "process on", "name": self.host, "token": token}
        job.attempts.write(one)
        if self.host == self.bad:
            return type("Silence", (), {"wait": lambda self, seconds: None, "hand_on": lambda self, signum: None})()
        one.phase, one.reason = "ended", "completed"
        job.attempts.write(one)
        return type("Ended", (), {"wait": lambda self, seconds: 0, "hand_on": lambda self, signum: None})()


@pytest.fixture
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    short = Waits(heartbeat=0.05, follow=0.05, engine=1.0)
    for place in ("signs", "away"):
        monkeypatch.setattr(f"runner.launch.{place}.WAITS", short)
    monkeypatch.setattr("runner.job.attempts.EXPIRY_SECONDS", 0.5)


class Bringer(Silent):
    """Of attempts that need something there: it comes to two hosts at once, or to none."""

    together = threading.Barrier(2, timeout=60)

    def to_bring(self) -> tuple[str, str]:
        return self.host, "data"

    def bring(self) -> None:
        self.together.wait()
        if self.refusing and self.host == self.bad:
            raise FarError(f"{self.host}: No space left on device")
        self.begun.append(f"data on {self.host}")


def dealt_out(
    folder: Path, hosts: tuple[str, ...], bad: str, count: int, at_work: int = 0, kind: type[Silent] = Silent
) -> tuple[SideBySide, list[str], list[str]]:
    """The group's command, what became of its points, and what was begun where."""
    store = DirectoryStore(folder / "store")
    group = make(store, folder, count)
    group.complete()
    how, begun, view = How(on=hosts), list[str](), Quiet()
    prepare = preparing(how, lambda: Trust(store.uri))

    def prepared(task: Task, host: str) -> Ready:
        return replace(prepare(task, host), launcher=cast(Launcher, kind(host, begun, bad)))

    for job in group.jobs()[:at_work]:
        Silent(bad, [], bad).start(job, [], "0123abcd", output=None)
    tasks = find_tasks(group.jobs(), how.at(hosts[0]), lambda: Trust(store.uri))
    running = hosts_at_work([task for task in tasks if task.kind == "running"], hosts)
    slots = host_slots(hosts, None)
    one = SideBySide(group, Line([task for task in tasks if task.kind == "to do"]), slots, 5, view, prepared, running)
    one.run()
    return one, view.ends, begun


@pytest.mark.usefixtures("short_waits")
def test_a_point_of_a_host_that_dies_is_in_line_again_and_no_more_are_begun_there(tmp_path: Path) -> None:
    one, ends, begun = dealt_out(tmp_path, ("a.invalid", "b.invalid"), "b.invalid", 4)
    assert [word for word in begun if word.endswith("on b.invalid")] == ["2 on b.invalid"]
    assert begun[-1] == "2 on a.invalid"
    assert [end.partition(", ")[0] for end in ends if end.startswith("2")] == ["2 given back", "2 succeeded"]
    assert "b.invalid: " in next(end for end in ends if "given back" in end)
    assert (one.left, one.stranded, one.exit_code) == (0, None, Exit.DONE)


@pytest.mark.usefixtures("short_waits")
def test_an_earlier_commands_point_takes_a_place_on_its_host_until_it_is_dead(tmp_path: Path) -> None:
    one, ends, begun = dealt_out(tmp_path, ("a.invalid", "b.invalid"), "b.invalid", 3, at_work=1)
    assert begun == ["2 on a.invalid", "3 on a.invalid", "1 on a.invalid"]
    assert ends[-1] == "1 succeeded"
    assert one.exit_code == Exit.DONE


@pytest.mark.usefixtures("short_waits")
def test_without_a_host_left_the_command_ends_and_says_why(tmp_path: Path) -> None:
    one, ends, begun = dealt_out(tmp_path, ("b.invalid",), "b.invalid", 3)
    assert begun == ["1 on b.invalid"]
    assert [end.partition(", ")[0] for end in ends] == ["1 given back"]
    assert (one.left, one.exit_code) == (3, Exit.NO_ENGINE)
    assert (one.stranded or "").startswith("no host is left: b.invalid: ")


@pytest.mark.usefixtures("short_waits")
def test_a_host_that_cannot_begin_points_does_not_go_through_all_of_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Silent, "refusing", True)
    one, ends, begun = dealt_out(tmp_path, ("a.invalid", "b.invalid"), "b.invalid", 6)
    assert sorted(begun) == [f"{number} on a.invalid" for number in range(1, 7)]
    assert sum("b.invalid: No space left on device" in end for end in ends) == 2
    assert one.exit_code == Exit.DONE


@pytest.mark.parametrize(("says", "told"), [("far: 3.0 of 9.0 MB", "^far: 3.0 of 9.0 MB"), ("", "no sign of a point within")])
def test_who_begins_points_in_the_background_waits_as_long_as_something_is_said_to_come(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, says: str, told: str
) -> None:
    """Data that are sent to hosts first take their time."""
    code = f"import sys, time; [(sys.stderr.write({says!r}), sys.stderr.flush(), time.sleep(0.2)) for _ in range(10)]"
    code += "; sys.exit(7)"
    monkeypatch.setattr(background, "START_SECONDS", 1.0)
    monkeypatch.setattr(background, "run_module", lambda name: [sys.executable, "-c", code])
    group = make(DirectoryStore(tmp_path / "store"), tmp_path)
    with pytest.raises(LastrunError, match=told):
        background.run_in_background(group, [], [])


@pytest.mark.usefixtures("short_waits")
def test_data_go_to_all_hosts_side_by_side_once_and_points_begin_where_they_are(tmp_path: Path) -> None:
    one, ends, begun = dealt_out(tmp_path, ("a.invalid", "b.invalid"), "", 6, kind=Bringer)
    assert sorted(word for word in begun if word.startswith("data")) == ["data on a.invalid", "data on b.invalid"]
    assert [end for end in ends if "succeeded" not in end] == []
    assert (len(begun), one.exit_code) == (8, Exit.DONE)


@pytest.mark.usefixtures("short_waits")
def test_a_host_that_has_no_room_for_the_data_keeps_nobody_waiting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Silent, "refusing", True)
    monkeypatch.setattr(Bringer, "together", threading.Barrier(1))
    one, ends, begun = dealt_out(tmp_path, ("a.invalid", "b.invalid"), "b.invalid", 6, kind=Bringer)
    assert sorted(begun) == [*(f"{number} on a.invalid" for number in range(1, 7)), "data on a.invalid"]
    assert sum("b.invalid: No space left on device" in end for end in ends) <= 2
    assert one.exit_code == Exit.DONE


@pytest.mark.usefixtures("short_waits")
@pytest.mark.parametrize("end", ["completed", None])
def test_a_point_whose_attempt_comes_back_while_it_is_in_line_is_left_to_that(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, end: str | None
) -> None:
    """It was silent for as long as the dead are; before its turn came again it had gone on, or to its end."""
    give_back = Line.give_back

    def and_back_to_life(self: Line, task: Task) -> None:
        give_back(self, task)
        job = Job(task.job.store, task.job.id)
        (attempt,) = job.attempts.all()
        attempt.phase = "running"
        job.attempts.write(attempt)
        if end is None:
            Thread(target=goes_on, args=(job, attempt), daemon=True).start()
        else:
            attempt.phase, attempt.reason = "ended", end
            job.attempts.write(attempt)

    def goes_on(job: Job, attempt: Attempt) -> None:
        for beat in range(30):
            job.attempts.write_heartbeat(attempt, {"step": beat})
            time.sleep(0.05)
        attempt.phase, attempt.reason = "ended", "completed"
        job.attempts.write(attempt)

    monkeypatch.setattr(Line, "give_back", and_back_to_life)
    one, ends, begun = dealt_out(tmp_path, ("a.invalid", "b.invalid"), "b.invalid", 3)
    assert [word for word in begun if word.startswith("2")] == ["2 on b.invalid"]
    assert ends[-1] == "2 succeeded"
    assert one.exit_code == Exit.DONE


@pytest.mark.usefixtures("short_waits")
def test_more_points_of_earlier_commands_than_places_are_all_looked_after(tmp_path: Path) -> None:
    one, ends, begun = dealt_out(tmp_path, ("a.invalid", "b.invalid"), "b.invalid", 3, at_work=2)
    assert sorted(begun) == [f"{number} on a.invalid" for number in (1, 2, 3)]
    assert (one.unfollowed, one.exit_code) == ([], Exit.DONE)
    assert sum(end.endswith("succeeded") for end in ends) == 3


def test_who_asks_twice_waits_for_no_attempt_that_is_heard_of_through_the_store_alone(tmp_path: Path) -> None:
    group = make(store := DirectoryStore(tmp_path / "store"), tmp_path, 1)
    group.complete()
    (task,) = find_tasks(group.jobs(), How(), lambda: Trust(store.uri))
    one = SideBySide(group, Line([]), [Slot("a", host="a")], 5, Quiet())
    one._running.append(Running(task, Slot("a", host="a"), Away(task.job, own=True), "0123abcd", None))
    for asked, waits in ((0, True), (1, True), (2, False)):
        assert one._signals_heard == asked
        assert one._waits_for_some() is waits
        one._hear(signal.SIGINT)
    assert one.unfollowed == [task]


def test_a_point_of_which_the_store_does_not_tell_how_it_fares_is_not_begun_for_ever(tmp_path: Path) -> None:
    group = make(store := DirectoryStore(tmp_path / "store"), tmp_path, 2)
    group.complete()
    tasks = find_tasks(group.jobs(), How(), lambda: Trust(store.uri))
    line = HalvedLine(group, Halving(1, 2), tasks)
    first, words = line.take(at_work=False)
    assert (first.number, words) == (1, ["--until", "1"])
    with pytest.raises(DamagedObjectError, match="its metrics do not tell of epoch 1"):
        line.came_as_far(first)
    line.drop(first)
    assert line.take(at_work=False)[0].number == 2
    assert not line.may_begin(at_work=False)


def test_each_host_has_a_place_or_as_many_as_are_asked_for() -> None:
    assert [slot.name for slot in host_slots(("a", "b"), None)] == ["a", "b"]
    assert [(slot.name, slot.host) for slot in host_slots(("a", "b"), 2)] == [
        ("a 1", "a"), ("b 1", "b"), ("a 2", "a"), ("b 2", "b"),
    ]  # fmt: skip


def test_a_group_keeps_its_hosts_and_its_store_names_none_that_the_user_has_not(tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path / "store")
    made = make(store, tmp_path)
    record = json.loads(store.get(made.paths.record))
    store.put(made.paths.record, json.dumps({**record, "hosts": ["a", "b"]}).encode())
    group, trust = Group(store, made.id), Trust(store.uri)
    trust.remember({"run.host": "a"})
    with pytest.raises(UntrustedError, match="was begun on a, b, as the store says; you have not named b from here"):
        with_its_hosts(group, How(), trust)
    for how in (How(launcher="local"), How(settings=("run.host=c",)), How(on=("c",))):
        assert with_its_hosts(group, how, trust) == how
    trust.remember({"run.host": "b"})
    assert with_its_hosts(group, How(), trust).on == ("a", "b")
    store.put(made.paths.record, json.dumps({**record, "hosts": ["-oProxyCommand=x"]}).encode())
    with pytest.raises(StoreError, match="damaged"):
        Group(store, made.id).hosts()
