"""Which ends of attempts ``run.auto_continue`` goes on after; the attempts are made up."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from runner import machine
from runner.commands.keep import stop
from runner.errors import Exit, UsageError
from runner.job.attempts import Attempt
from runner.job.job import Job
from runner.launch import continued
from runner.launch.hf.launcher import HfLauncher
from runner.launch.local import LocalLauncher
from runner.launch.slurm.either import EitherLauncher
from runner.launch.slurm.launcher import SlurmLauncher
from runner.launch.start import Ended
from runner.resolve import resolve_spec
from runner.store.directory import DirectoryStore
from tests.unit.test_job import store_checkpoint

RESOLVED = resolve_spec(Path(__file__).parents[2] / "jobs" / "quickstart.yaml", "local", [])
CONFIG, ITEMS = RESOLVED.config, RESOLVED.items()
CONTINUED = "continued by itself (1 of 1, run.auto_continue)"


class Attempts:
    """Each ends as it is told to: its reason (None: lost), how far it has come, whether it was asked to."""

    def __init__(self, job: Job, *ends: tuple[str | None, int, bool]) -> None:
        self.job, self.ends, self.began = job, list(ends), list[list[str]]()

    def run(self, launcher: Any, job: Job, arguments: list[str], *, quiet: bool, look: object = None) -> Ended:
        self.began.append(arguments)
        reason, step, asked = self.ends[len(self.began) - 1]
        token = f"{len(self.began):08x}"
        before = [stored.manifest.step for stored in self.job.checkpoints.all()]
        one = Attempt(f"{len(self.began):04d}-{token}", machine.identity(), 10**9, "1", time.time(), phase="ended", began=True)
        one.is_continued = True
        one.phase, one.reason, one.resumed_step = "ended" if reason else "lost", reason, before[-1] if before else 0
        self.job.attempts.write(one)
        if step > one.resumed_step:
            store_checkpoint(self.job, step, one.id)
        return Ended(Exit.DONE if reason == "completed" else Exit.PAUSED if reason else Exit.FAILED, token, asked)


@pytest.mark.parametrize(
    ("most", "ends", "said"),
    [
        (0, [("preempted", 5, False)], []),
        (2, [("preempted", 5, False), (None, 9, False), ("completed", 12, False)], ["preempted; c", "lost (it ended without"]),
        (1, [("preempted", 5, False), ("preempted", 9, False)], ["preempted; c", "not continued: run.auto_continue is 1"]),
        (9, [("time_limit", 5, False)], []),
        (9, [("preempted", 5, False), ("preempted", 5, False)], ["preempted; c", "it has made no progress"]),
        (9, [("preempted", 5, True)], []),
        (9, [("stop_requested", 5, False)], []),
        (9, [("interrupted", 5, False)], []),
        (9, [("trainer_error", 5, False)], []),
        (9, [("store_unreachable", 5, False)], []),
        (9, [("completed", 5, False)], []),
    ],
)
def test_only_what_was_cut_and_made_progress_is_continued(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most: int, ends: list[Any], said: list[str]
) -> None:
    job = Job.create(DirectoryStore(tmp_path), "x", ITEMS, {}, "0")
    attempts, told = Attempts(job, *ends), list[str]()
    monkeypatch.setattr(continued, "run", attempts.run)
    code, token = continued.run_on(LocalLauncher(CONFIG), job, ["--takeover", "--here"], most, quiet=False, say=told.append)
    assert attempts.began == [["--takeover", "--here"], *[["--here", "--heard", ""]] * (len(ends) - 1)]
    assert (code == Exit.DONE, token) == (ends[-1][0] == "completed", f"{len(ends):08x}")
    assert len(told) == len(said)
    assert all(part in text for part, text in zip(said, told)), told


def test_what_somebody_else_has_taken_meanwhile_is_left_to_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = Job.create(DirectoryStore(tmp_path), "x", ITEMS, {}, "0")
    attempts = Attempts(job, ("preempted", 5, False))

    def run(*words: Any, **how: Any) -> Ended:
        ended = attempts.run(*words, **how)
        job.attempts.write(Attempt("0009-ffffffff", "elsewhere", 1, "1", time.time(), phase="running", began=True))
        return ended

    monkeypatch.setattr(continued, "run", run)
    code, _ = continued.run_on(LocalLauncher(CONFIG), job, [], 9, quiet=False, say=pytest.fail)
    assert (code, len(attempts.began)) == (Exit.PAUSED, 1)


@pytest.mark.parametrize("kind", [HfLauncher, EitherLauncher])
def test_a_time_limit_is_one_of_a_machine_and_who_gets_another_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: Any
) -> None:
    job = Job.create(DirectoryStore(tmp_path), "x", ITEMS, {}, "0")
    attempts, told = Attempts(job, ("time_limit", 5, False), ("completed", 9, False)), list[str]()
    monkeypatch.setattr(continued, "run", attempts.run)
    assert continued.run_on(kind(CONFIG), job, [], 1, quiet=False, say=told.append)[0] == Exit.DONE
    assert told == ["time_limit; continued by itself (1 of 1, run.auto_continue)"]


def test_who_asks_one_that_is_leaving_already_means_the_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And who asked an earlier attempt does not."""
    job = Job.create(DirectoryStore(tmp_path), "x", ITEMS, {}, "0")
    job.requests.ask_to_stop(now=False)
    [old] = job.requests.keys()
    attempts = Attempts(job, ("preempted", 5, False), ("preempted", 9, False))

    def run(*words: Any, **how: Any) -> Ended:
        if attempts.began:
            job.requests.ask_to_stop(now=False)
        return attempts.run(*words, **how)

    monkeypatch.setattr(continued, "run", run)
    code, _ = continued.run_on(LocalLauncher(CONFIG), job, [], 9, quiet=False, say=lambda text: None)
    assert (code, attempts.began) == (Exit.PAUSED, [[], ["--heard", "", "--heard", old]])


@pytest.mark.usefixtures("own_place")
@pytest.mark.parametrize("all_", [True, False])
@pytest.mark.parametrize("reason", ["preempted", None])
def test_who_stops_a_job_between_two_attempts_is_heard_by_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], all_: bool, reason: str | None
) -> None:
    job = Job.create(DirectoryStore(tmp_path / "store"), "x", ITEMS, {}, "0")
    attempts = Attempts(job, (reason, 5, False), ("stop_requested", 9, False))
    monkeypatch.setattr(continued, "run", attempts.run)

    def say(text: str) -> None:
        if "continued by itself" in text:
            stop(None if all_ else job.id, all_=all_)

    continued.run_on(LocalLauncher(CONFIG), job, [], 9, quiet=False, say=say)
    told = capsys.readouterr().out
    assert "nothing of it runs; whoever follows it begins no other attempt by itself (run.auto_continue)" in told
    assert attempts.began == [[], ["--heard", ""]]
    assert list(job.requests.new([]).values()) == ["save"]
    with pytest.raises(UsageError, match="is stopped: there is nothing to stop"):
        stop(job.id)


def test_what_was_asked_between_two_attempts_is_not_old_to_a_queue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = Job.create(DirectoryStore(tmp_path), "x", ITEMS, {}, "0")
    job.requests.ask_to_stop(now=False)
    [old] = job.requests.keys()
    scripts = list[str]()
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr("runner.launch.slurm.queue.queued", lambda name: [])
    monkeypatch.setattr("runner.launch.slurm.queue.submit", lambda script, *_: scripts.append(script) or "1")
    launcher = SlurmLauncher(CONFIG.model_copy(update={"run": CONFIG.run.model_copy(update={"gpus": 0})}))
    launcher.line_up(job, [], "0123abcd", None)
    launcher.line_up(job, ["--heard", ""], "0123abcd", None)
    assert [old in script for script in scripts] == [True, False]


@pytest.mark.parametrize(("code", "goes_on"), [(Exit.FAILED, True), (137, True), (Exit.STORE, False), (Exit.CLAIMED, False)])
@pytest.mark.parametrize("by_its_launcher", [True, False])
def test_one_elsewhere_that_was_heard_of_just_now_and_seen_to_end_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, goes_on: bool, by_its_launcher: bool
) -> None:
    job = Job.create(DirectoryStore(tmp_path), "x", ITEMS, {}, "0")
    began, told = list[str](), list[str]()

    def run(*words: Any, **how: Any) -> Ended:
        began.append(f"{len(began) + 1:08x}")
        if len(began) > 1:
            return Ended(Exit.DONE, began[-1], asked=False)
        one = Attempt(f"0001-{began[0]}", "elsewhere", 1, "1", time.time(), phase="running", began=True)
        job.attempts.write(one)
        job.attempts.write_heartbeat(one, {})
        store_checkpoint(job, 5, one.id)
        if by_its_launcher:
            job.attempts.write_lost(one, f"it ended with code {code}, and without a word")
        return Ended(code, began[0], asked=False)

    monkeypatch.setattr(continued, "run", run)
    continued.run_on(LocalLauncher(CONFIG), job, [], 1, quiet=False, say=told.append)
    assert len(began) == 1 + goes_on
    assert told == ([f"lost (it ended with code {int(code)}, and without a word); {CONTINUED}"] if goes_on else [])


def test_progress_is_what_an_attempt_has_stored_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A newer checkpoint that is damaged, so that all go on from one before, is none."""
    job = Job.create(DirectoryStore(tmp_path), "x", ITEMS, {}, "0")
    attempts = Attempts(job, ("preempted", 50, False), ("preempted", 0, False))

    def run(*words: Any, **how: Any) -> Ended:
        ended = attempts.run(*words, **how)
        if len(attempts.began) == 2:
            one = job.attempts.of(ended.token)
            assert one is not None
            one.resumed_step = 10
            job.attempts.write(one)
        return ended

    monkeypatch.setattr(continued, "run", run)
    told = list[str]()
    continued.run_on(LocalLauncher(CONFIG), job, [], 9, quiet=False, say=told.append)
    assert len(attempts.began) == 2
    assert "it has made no progress" in told[-1]
