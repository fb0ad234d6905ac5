"""What the command line does by itself."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, TextIO

import pytest
import typer

from runner import machine
from runner.commands.run import start
from runner.errors import Exit, PausedError
from runner.job.attempts import Attempt
from runner.job.job import Job
from runner.launch import start as launch
from runner.launch.local import LocalLauncher, StartedProcess
from runner.resolve import resolve_spec
from runner.signals import LEAVING
from runner.store.directory import DirectoryStore
from tests.conftest import Cli

RESOLVED = resolve_spec(Path(__file__).parents[2] / "jobs" / "quickstart.yaml", "local", [])
QUICKSTART = RESOLVED.config


@pytest.mark.parametrize("detach", [False, True])
@pytest.mark.parametrize("signum", LEAVING)
def test_who_leaves_before_the_launcher_listens_is_told_how_the_job_goes_on(
    tmp_path: Path, signum: signal.Signals, detach: bool
) -> None:
    class Slow(LocalLauncher):
        @staticmethod
        def clean() -> None:
            os.kill(os.getpid(), signum)
            time.sleep(60)
            raise AssertionError("the signal was not heard")

    handlers = [signal.getsignal(each) for each in LEAVING]
    with pytest.raises(PausedError, match=r"interrupted before its attempt began; lastrun resume .*j begins it"):
        start(lambda: Job(DirectoryStore(tmp_path), "j"), [], detach, True, "resume", Slow(QUICKSTART))
    assert [signal.getsignal(each) for each in LEAVING] == handlers


def test_who_leaves_before_the_attempt_has_the_job_is_told_in_which_state_that_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    class Ended(LocalLauncher):
        def start(self, job: Job, arguments: list[str], token: str, *, output: TextIO | None) -> StartedProcess:
            process = subprocess.Popen(["sleep", "60"])
            process.send_signal(signal.SIGINT)  # as a terminal does, while Python still imports
            return StartedProcess(process, None)

    job = Job.create(DirectoryStore(tmp_path), "early", RESOLVED.items(), {}, "0")
    with pytest.raises(typer.Exit) as left:
        start(lambda: job, [], False, False, "submit", Ended(QUICKSTART))
    assert left.value.exit_code == Exit.PAUSED
    said = capsys.readouterr().out
    assert "left before its attempt began: the job is queued, and nothing was trained\nnext: lastrun resume " in said


@pytest.mark.parametrize("signum", LEAVING)
def test_a_signal_just_before_the_attempt_is_started_is_not_passed_over(tmp_path: Path, signum: signal.Signals) -> None:
    class Late(LocalLauncher):
        def start(self, job: Job, arguments: list[str], token: str, *, output: TextIO | None) -> StartedProcess:
            raise AssertionError("it was started")

    def tidied(launcher: LocalLauncher, job: Job) -> None:
        os.kill(os.getpid(), signum)
        time.sleep(0.01)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(launch, "_tidy", tidied)  # what follows it, before anything is started
        with pytest.raises(PausedError, match="interrupted; lastrun resume"):
            start(lambda: Job(DirectoryStore(tmp_path), "j"), [], False, True, "submit", Late(QUICKSTART))


@pytest.mark.parametrize("signum", LEAVING)
def test_a_job_is_made_whole_before_its_command_is_left_unless_that_is_asked_twice(
    tmp_path: Path, signum: signal.Signals
) -> None:
    made: list[str] = []

    def make(times: int) -> Job:
        made.append("begun")
        for _ in range(times):
            os.kill(os.getpid(), signum)
            time.sleep(0.01)  # where a signal is heard
        made.append("whole")
        return Job(DirectoryStore(tmp_path), "j")

    launcher: Any = None  # none is asked
    with pytest.raises(PausedError, match=r"interrupted; lastrun resume .*j goes on with it"):
        start(lambda: make(1), [], False, True, "submit", launcher)
    assert made == ["begun", "whole"]
    with pytest.raises(KeyboardInterrupt):
        start(lambda: make(2), [], False, True, "submit", launcher)
    assert made == ["begun", "whole", "begun"]


_PAUSES = """
from runner.commands.app import _run_app
from runner.errors import Exit, PausedError
from runner.view.console import say

def run():
    say("a line that nobody sees")
    raise PausedError("saved; lastrun resume j goes on with it")

_run_app(run)
"""


@pytest.mark.parametrize("where", ["a terminal that was closed", "a full disk", "a pipe that nobody reads"])
def test_words_that_cannot_be_printed_change_no_exit_code(clean_env: dict[str, str], where: str) -> None:
    if where == "a full disk":
        inside = os.open("/dev/full", os.O_WRONLY)
    else:
        outside, inside = pty.openpty() if where.startswith("a terminal") else os.pipe()
        os.close(outside)
    command = [sys.executable, "-c", _PAUSES]
    done = subprocess.run(command, stdout=inside, stderr=inside, env=clean_env, timeout=60, check=False)
    os.close(inside)
    assert done.returncode == PausedError.exit_code == 75


def test_validate_counts_the_clips_of_a_small_set_that_comes_with_lastrun(cli: Cli, tiny: Path) -> None:
    told = cli("validate", tiny, "--set", "training.batch_size=241")
    assert (told.returncode, "at most 240 clips a step" in told.stderr) == (2, True), told.stdout + told.stderr


@pytest.mark.parametrize("command", [("status", "nope", "--store", "s3:/b"), ("validate", "nope.yaml")])
def test_a_reader_who_has_gone_changes_no_exit_code_of_a_command_that_fails(
    clean_env: dict[str, str], command: tuple[str, ...]
) -> None:
    outside, inside = os.pipe()
    os.close(outside)
    words = [sys.executable, "-m", "runner", *command, "--json"]
    done = subprocess.run(words, stdout=inside, stderr=subprocess.PIPE, text=True, env=clean_env, timeout=60, check=False)
    os.close(inside)
    assert (done.returncode, "Traceback" in done.stderr) == (2, False), done.stderr


def test_a_store_that_somebody_names_is_there(cli: Cli, tmp_path: Path) -> None:
    for command in (["list"], ["status", "j"]):
        done = cli(*command, "--store", tmp_path / "typo")
        assert done.returncode == 2
        assert "typo: there is no such folder" in done.stderr
    assert not (tmp_path / "typo").exists()


@pytest.mark.slow
@pytest.mark.parametrize("place", ["--store", "LASTRUN_STORE", "config.toml", "store.uri", "data.uri"])
def test_a_variable_is_replaced_wherever_a_name_stands_and_an_unset_one_told_before_anything_is_written(
    cli: Cli, tiny: Path, clean_env: dict[str, str], place: str
) -> None:
    words = ["submit", str(tiny), "--dry-run"]
    named = "${MY_PLACE}/jobs"
    if place == "--store":
        words += [place, named]
    elif place == "LASTRUN_STORE":
        clean_env[place] = named
    elif place == "config.toml":
        del clean_env["LASTRUN_STORE"]
        folder = Path(clean_env["HOME"]) / ".config" / "lastrun"
        folder.mkdir(parents=True)
        (folder / place).write_text(f'store = "{named}"\n')
    else:
        tiny.write_text(f"{tiny.read_text()}{place}: {named}\n".replace("dataset: synthetic", "dataset: irds"))
    there = cli(*words, MY_PLACE=str(tiny.parent / "mine"))
    assert f"{tiny.parent}/mine/jobs" in there.stdout + there.stderr, there
    before = sorted(tiny.parent.rglob("*"))
    for way in (words, words[:2] + words[3:]):
        done = cli(*way)
        assert (done.returncode, done.stderr.count("the variable MY_PLACE is not set")) == (2, 1), done.stdout + done.stderr
    assert sorted(tiny.parent.rglob("*")) == before


def test_a_store_that_is_named_by_nothing_is_not_the_default_one(cli: Cli, tiny: Path, tmp_path: Path) -> None:
    for words in (("submit", tiny), ("submit", tiny, "--dry-run"), ("validate", tiny), ("list",), ("status", "j")):
        done = cli(*words, "--store", "")
        assert (done.returncode, "store '': found nothing" in done.stderr) == (2, True), (words, done.stdout + done.stderr)
    assert not (tmp_path / "store").exists()


def test_who_asks_for_a_job_that_is_not_there_is_told_how_to_list_that_very_store(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "other one").mkdir()
    (tmp_path / "store").mkdir()
    there = f"file://{tmp_path}/other%20one"
    assert f"no job j in {there}; lastrun list --store {there} shows" in cli("status", "j", "--store", "other one").stderr
    assert "; lastrun list shows those there are" in cli("status", "j", "--store", tmp_path / "store").stderr


def test_a_home_folder_is_replaced_where_no_shell_does_it(cli: Cli, clean_env: dict[str, str], tmp_path: Path) -> None:
    home = Path(clean_env["HOME"])
    done = cli("data", "synth", "--like=ntu60", "--clips=3", "--out=~/made.safetensors")
    assert done.returncode == 0, done.stderr
    assert (home / "made.safetensors").is_file()
    shown = cli("data", "inspect", "~/made.safetensors", "--animate=~/clip.html")
    assert shown.returncode == 0, shown.stderr
    assert (home / "clip.html").is_file()
    assert f"{home}/raw: no such folder" in cli("data", "prepare", "ntu60", "--raw=~/raw", "--out=~/x").stderr
    assert not (tmp_path / "~").exists()


def test_an_error_as_json_names_the_whole_command(cli: Cli) -> None:
    for words in (("data", "inspect"), ("host", "list"), ("status", "j")):
        assert json.loads(cli(*words, "--json", "--bogus").stdout)["lastrun"] == " ".join(
            words[:1] if words[1] == "j" else words
        )


def test_a_name_that_several_jobs_have_shows_them_newest_first(cli: Cli, tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path / "store")
    names = [f"far-2026010{day}-000000-{code}" for day, code in ((1, "ffff"), (3, "aaaa"), (2, "bbbb"))]
    for name in names:
        store.put(Job(store, name).paths.index, b"")
        store.put(Job(store, name).paths.record, b"{}")
    done = cli("status", "far")
    assert f"newest first: {names[1]}, {names[2]}, {names[0]}" in done.stderr


def test_validate_reads_the_name_of_the_store(cli: Cli, tiny: Path) -> None:
    done = cli("validate", tiny, "--store", "s3:/b")
    assert done.returncode == 2
    assert "did you mean s3://b?" in done.stderr


@pytest.mark.parametrize("record", [b"{", b'{"phase": "running"}', None])
def test_stop_all_names_what_cannot_be_read(tmp_path: Path, cli: Cli, clean_env: dict[str, str], record: bytes | None) -> None:
    store = DirectoryStore(Path(clean_env["LASTRUN_STORE"]))
    config = {"model.variant": "nano_e_v3", "dataset": "synthetic", "split_type": "xsub", "env": "local", "training.epochs": 5}
    job = Job.create(store, "x", config, {}, "0")
    one = Attempt("0001-aaaaaaaa", machine.identity(), 10**30, "1", time.time(), phase="running", began=True)
    job.attempts.write(one)
    if record is not None:
        store.put(job.paths.attempt(one.id), record)
    done = cli("stop", "--all", "--json")
    told = json.loads(done.stdout)
    assert (done.returncode, "Traceback" in done.stderr) == (0 if record is None else 4, False), done.stdout
    assert told["jobs"] == []
    unread = [problem.partition(" cannot be read: ")[0] for problem in told["problems"] if " cannot be read: " in problem]
    assert unread == ([] if record is None else [job.id])
    assert cli("status", job.id).returncode == (0 if record is None else 4)
