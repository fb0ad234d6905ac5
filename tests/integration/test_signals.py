"""Whatever a system sends, and whoever gets it: the job is saved and paused. Where nobody reads any more, it goes on."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from runner.job.attempts import Attempt
from runner.job.job import Job
from runner.store.directory import DirectoryStore
from tests.conftest import TINY, Cli
from tests.integration.test_ranks import ranks_of
from tests.jobs import (
    LONGER,
    PATIENCE,
    Run,
    assert_same,
    has_pending,
    has_saved,
    jobs_in,
    some_step_is_stored,
    stand_still,
    trainer_of,
    wait_until,
)

LONG = ("--set", "training.epochs=5000")


def pids(current: Run) -> dict[str, int]:
    """Of the command, its attempt and the trainer."""
    attempt = current.job.attempts.all()[-1]
    children = Path(f"/proc/{attempt.pid}/task/{attempt.pid}/children").read_text().split()
    return {"command": current.process.pid, "attempt": attempt.pid, "trainer": int(children[0])}


def test_what_is_cut_is_continued_by_itself_as_often_as_the_job_says(run: Any, tiny: Path, uninterrupted: Any) -> None:
    """But not what somebody has asked to end."""
    current = run("submit", tiny, *LONGER, "run.auto_continue=2")
    for number, signum in enumerate((signal.SIGTERM, signal.SIGKILL), 1):
        with current.held(lambda job, number=number: len(job.attempts.all()) == number and has_saved(job)):
            os.kill(current.job.attempts.all()[-1].pid, signum)
    code, out = current.end()
    assert code == 0, out
    assert out.count("continued by itself") == 2
    assert "preempted; continued by itself (1 of 2, run.auto_continue)" in out
    assert [one.reason for one in current.job.attempts.all()] == ["preempted", None, "completed"]
    assert_same(current.job, uninterrupted)

    first = current.job.id
    current = run("submit", tiny, *LONG, "run.auto_continue=1")
    current.wait_for(lambda job: job.id != first and some_step_is_stored(job))
    os.kill(current.job.attempts.all()[-1].pid, signal.SIGUSR1)
    current.wait_for(lambda job: len(job.attempts.all()) == 2 and has_saved(job))
    current.press_ctrl_c()
    code, out = current.end()
    assert code == 75, out
    assert "continued by itself (1 of 1" in out
    assert "it is not continued" not in out


@pytest.mark.parametrize(
    ("signum", "whom"),
    [
        *((signum, "group") for signum in (signal.SIGUSR1, signal.SIGHUP, signal.SIGTERM)),
        *(pytest.param(signum, "group", marks=pytest.mark.full) for signum in (signal.SIGUSR2, signal.SIGXCPU)),
        (signal.SIGUSR1, "command"),
        (signal.SIGXCPU, "attempt"),
        (signal.SIGUSR2, "trainer"),
    ],
)
def test_a_notice_saves_and_pauses_whichever_process_gets_it(run: Any, tiny: Path, signum: signal.Signals, whom: str) -> None:
    current = run("submit", tiny, *LONG)
    current.wait_for(some_step_is_stored)
    before = max(stored.manifest.step for stored in current.job.checkpoints.all())
    if whom == "group":
        os.killpg(current.process.pid, signum)
    else:
        os.kill(pids(current)[whom], signum)
    code, out = current.end()
    assert code == 75, out
    assert "Traceback" not in out
    state, attempt, reason = current.job.state()
    assert [state.value, reason.value] == ["paused", "preempted"]
    assert current.job.checkpoints.all()[-1].manifest.step > before
    assert attempt.message != "nothing was trained"


@pytest.mark.parametrize("whom", ["group", "rank 1"])
def test_a_notice_saves_and_pauses_all_ranks_whichever_gets_it(run: Any, tiny: Path, whom: str) -> None:
    current = run("submit", tiny, *LONG, "hardware.ranks=2", "hardware.micro_batch=20")
    current.wait_for(some_step_is_stored)
    before = max(stored.manifest.step for stored in current.job.checkpoints.all())
    if whom == "group":
        os.killpg(current.process.pid, signal.SIGUSR1)
    else:
        os.kill(ranks_of(current.job.id)[1], signal.SIGUSR1)
    code, out = current.end()
    assert code == 75, out
    assert "Traceback" not in out
    assert [one.reason for one in current.job.attempts.all()] == ["preempted"], out
    assert current.job.checkpoints.all()[-1].manifest.step > before


def test_a_notice_while_the_trainer_starts_waits_until_it_can_be_heard(run: Any, tiny: Path) -> None:
    current = run("submit", tiny, *LONG)
    wait_until(lambda: jobs_in(current.store) and current.job.attempts.all() and has_child(current.job.attempts.all()[-1].pid))
    os.kill(pids(current)["trainer"], signal.SIGUSR1)
    code, out = current.end()
    assert code == 75, out
    assert current.job.state()[0].value == "paused"


def test_who_presses_ctrl_c_while_the_job_is_claimed_loses_nothing(run: Any, tiny: Path) -> None:
    current = run("submit", tiny, *LONG)
    wait_until(lambda: list(current.store.root.glob("tiny-*/attempts/*/claim.json")))
    current.press_ctrl_c()
    code, out = current.end()
    assert code == 75, out
    assert "Traceback" not in out
    assert current.job.state()[0].value in ("queued", "paused")


def has_child(pid: int) -> bool:
    return bool(Path(f"/proc/{pid}/task/{pid}/children").read_text().split())


def test_under_nohup_a_closed_terminal_stops_nothing(clean_env: dict[str, str], tiny: Path, tmp_path: Path) -> None:
    command = ["nohup", sys.executable, "-m", "runner", "submit", str(tiny)]
    process = subprocess.Popen(command, env=clean_env, cwd=tmp_path, stdout=subprocess.PIPE, start_new_session=True)
    store = DirectoryStore(Path(clean_env["LASTRUN_STORE"]))
    wait_until(lambda: jobs_in(store) and jobs_in(store)[0].attempts.all())
    os.killpg(process.pid, signal.SIGHUP)
    process.communicate(timeout=PATIENCE)
    assert process.returncode == 0
    assert jobs_in(store)[0].state()[0].value == "succeeded"


def test_an_attempt_whose_command_is_gone_is_seen_and_can_be_stopped(run: Any, cli: Cli, tiny: Path) -> None:
    current = run("submit", tiny, *LONG)
    with current.held(some_step_is_stored):
        current.process.kill()
        current.process.wait()
        assert json.loads(cli("status", "tiny", "--json").stdout)["state"] == "running"
    done = cli("stop", "tiny", "--wait")
    assert done.returncode == 0, done.stderr
    assert current.job.state()[0].value == "stopped"
    current.process.communicate(timeout=PATIENCE)


# --- stop --------------------------------------------------------------------------------------------------------------------


def test_a_stop_shows_that_it_is_on_its_way_and_can_be_waited_for(run: Any, cli: Cli, tiny: Path) -> None:
    current = run("submit", tiny, *LONG)
    with current.held(some_step_is_stored) as trainer:  # it cannot save
        asked = cli("stop", "tiny")
        assert asked.stdout == f"{current.job.id} is stopping; lastrun status {current.job.id} tells when it has stopped\n"
        wait_until(lambda: has_pending(trainer, signal.SIGTERM))
        wait_until(lambda: json.loads(cli("status", "tiny", "--json").stdout)["state"] == "stopping")
        assert "stopping" in cli("list").stdout
    waited = cli("stop", "tiny", "--wait", "--json")
    if waited.returncode == 2:  # it was over before it was asked again
        assert "is stopped: there is nothing to stop" in waited.stderr
    else:
        assert json.loads(waited.stdout)["jobs"] == [{"id": current.job.id, "asked": "save", "state": "stopped"}]
    assert current.end()[0] == 75


def test_all_that_run_can_be_stopped_together(run: Any, cli: Cli, tiny: Path) -> None:
    nothing = cli("stop", "--all")
    assert (nothing.returncode, nothing.stdout) == (0, "no job runs\n")
    both = [run("submit", tiny, *LONG) for _ in range(2)]
    store = both[0].store
    wait_until(lambda: len(jobs_in(store)) == 2 and all(some_step_is_stored(job) for job in jobs_in(store)))
    done = cli("stop", "--all", "--wait")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(" is stopping;") == 2
    assert done.stdout.count(": stopped at step ") == 2
    assert {job.state()[0].value for job in jobs_in(store)} == {"stopped"}
    assert [one.end()[0] for one in both] == [75, 75]
    for words, said in (
        (["stop"], "name a job, or say --all;"),
        (["stop", "tiny", "--all"], "name a job or say --all, not both;"),
    ):
        assert (wrong := cli(*words)).returncode == 2
        assert said in wrong.stderr


def test_what_was_allowed_counts(cli: Cli, clean_env: dict[str, str]) -> None:
    store = DirectoryStore(Path(clean_env["LASTRUN_STORE"]))
    config = {"model.variant": "nano_e_v3", "dataset": "synthetic", "split_type": "xsub", "env": "local", "training.epochs": 5}
    job = Job.create(store, "more", config, {}, "0")
    ended = Attempt("0001-aaaaaaaa", "m", 1, "1", time.time(), phase="ended", began=True, reason="preempted", epochs=80)
    ended.scores = {"epoch": 7.0}
    job.attempts.write(ended)
    assert "7 of 80 epochs done" in cli("status", "more").stdout
    assert "7/80" in cli("list").stdout


# --- nobody reads ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "where",
    [
        *("| head -n 1", "> /dev/full", ">&- 2>&- <&-"),
        *(pytest.param(where, marks=pytest.mark.full) for where in (">&-", "> /dev/full --json")),
    ],
)
def test_a_job_that_succeeds_says_so_by_its_exit_code_wherever_its_output_goes(
    clean_env: dict[str, str], tmp_path: Path, where: str
) -> None:
    (tmp_path / "tiny.yaml").write_text(TINY.replace("epochs: 3", "epochs: 1"))
    line = f"set -o pipefail; {sys.executable} -m runner submit tiny.yaml {where}"
    done = subprocess.run(
        ["bash", "-c", line], env=clean_env, cwd=tmp_path, capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    (job,) = jobs_in(DirectoryStore(Path(clean_env["LASTRUN_STORE"])))
    assert job.state()[0].value == "succeeded"
    assert "completed at step" in "".join(job.log())


# --- at a terminal -----------------------------------------------------------------------------------------------------------


class Terminal:
    """``lastrun`` at a terminal of its own, of which it is the foreground: its keys reach every process there."""

    def __init__(self, env: dict[str, str], *words: str | Path) -> None:
        self.pid, self._keys = pty.fork()
        if self.pid == 0:
            os.chdir(env["HOME"])
            os.execve(sys.executable, [sys.executable, "-m", "runner", *map(str, words)], {**env, "TERM": "xterm"})
        self._shown: list[bytes] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def press(self, key: str) -> None:
        os.write(self._keys, key.encode())

    def end(self) -> tuple[int, str]:
        """Its exit code, and all that was on the screen, without what moves the cursor and colours."""
        _, status = os.waitpid(self.pid, 0)
        self._reader.join(PATIENCE)
        os.close(self._keys)
        text = b"".join(self._shown).decode()
        return os.waitstatus_to_exitcode(status), re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", text).replace("\r\n", "\n")

    @property
    def shown(self) -> str:
        return b"".join(self._shown).decode(errors="replace")

    def _read(self) -> None:
        with suppress(OSError):  # what a terminal says when nobody has it open any more
            while data := os.read(self._keys, 4096):
                self._shown.append(data)


@pytest.mark.parametrize(("asked", "state", "reason"), [(False, "paused", "interrupted"), (True, "stopped", "stop_requested")])
def test_ctrl_c_twice_at_a_terminal_prints_cleanly_and_the_first_wish_counts(
    clean_env: dict[str, str], tiny: Path, asked: bool, state: str, reason: str
) -> None:
    store = DirectoryStore(Path(clean_env["LASTRUN_STORE"]))
    screen = Terminal(clean_env, "submit", tiny, *LONG)
    wait_until(lambda: jobs_in(store) and some_step_is_stored(jobs_in(store)[0]))
    (job,) = jobs_in(store)
    trainer = trainer_of(job)
    stand_still(trainer)  # it cannot save
    if asked:
        job.requests.ask_to_stop(now=False)
        wait_until(lambda: "asked to stop from another terminal" in screen.shown)
    screen.press("\x03")
    wait_until(lambda: "Ctrl-C again to leave without" in screen.shown)
    screen.press("\x03")
    code, text = screen.end()
    assert code == 130, text
    assert [value.value for value in job.state()[::2] if value] == [state, reason]
    assert "Traceback" not in text
    assert "KeyboardInterrupt" not in text
    lines = [line.rsplit("\r", 1)[-1] for line in text.splitlines()]
    assert lines[-2:] == [f"job:  {job.uri}", f"next: lastrun resume {job.id}"], text
