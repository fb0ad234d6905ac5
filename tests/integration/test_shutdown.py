"""``run.after: shutdown``: when a machine is switched off after an attempt, and when it stays on.

Nothing here switches anything off: the programs ``shutdown``, ``systemctl`` and ``sudo`` that are found first only write down
how they were called, and where they are not first in line ``LASTRUN_SHUTDOWN`` names one that does nothing
(``tests/conftest.py``). Each test has a process namespace of its own, where no attempts of others run.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from runner.attempt import shutdown
from runner.errors import Reason
from runner.job.job import Job
from runner.store.directory import DirectoryStore
from tests.jobs import PATIENCE, at_rest, command_lines, jobs_in, some_step_is_stored, wait_until
from tests.sshd import Sshd

YES = ("--set", "run.after=shutdown", "--yes-shut-down")
RECORDER = '#!/bin/sh\necho "$(basename "$0") $*" >>{calls}\n{then}\n'
Inside = Callable[..., subprocess.CompletedProcess[str]]


class Programs:
    """Those that are called instead."""

    def __init__(self, folder: Path) -> None:
        self.bin, self._calls = folder / "programs", folder / "calls"
        self.bin.mkdir()
        for name in ("shutdown", "systemctl"):
            self.write(name)
        self.write("sudo", 'case "$2" in -l) exit 0;; esac; shift; exec "$@"')

    def write(self, name: str, then: str = "exit 0") -> None:
        (self.bin / name).write_text(RECORDER.format(calls=self._calls, then=then))
        (self.bin / name).chmod(0o755)

    @property
    def path(self) -> str:
        path = f"{self.bin}:{os.environ['PATH']}"
        assert all(shutil.which(name, path=path) == str(self.bin / name) for name in ("shutdown", "systemctl", "sudo"))
        return path

    @property
    def calls(self) -> list[str]:
        return self._calls.read_text().splitlines() if self._calls.exists() else []


@pytest.fixture
def programs(tmp_path: Path) -> Programs:
    return Programs(tmp_path)


@pytest.fixture
def namespace() -> Iterator[list[str]]:
    """What a command begins with to run in a process namespace of its own."""
    process = subprocess.Popen(["unshare", "-pf", "--mount-proc", "sleep", "1000"], start_new_session=True)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    try:
        with suppress(FileNotFoundError):
            wait_until(lambda: process.poll() is not None or children.read_text().split(), seconds=10)
        if process.poll() is not None:
            pytest.skip("no process namespace can be made here")
        inner = children.read_text().split()[0]
        wait_until(lambda: Path(f"/proc/{inner}/comm").read_text() == "sleep\n", seconds=10)
        yield ["nsenter", "-t", inner, "-p", "-m"]
        with suppress(ProcessLookupError):  # a test that took as long as it sleeps has failed already
            os.kill(int(inner), 9)
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def inside(namespace: list[str], programs: Programs, clean_env: dict[str, str], tmp_path: Path) -> Inside:
    """``lastrun`` in there."""

    def call(*words: str | Path, **env: str) -> subprocess.CompletedProcess[str]:
        command = [*namespace, sys.executable, "-m", "runner", *map(str, words)]
        env = {**clean_env, "PATH": programs.path, "LASTRUN_SHUTDOWN": "", **env}
        return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, env=env, cwd=tmp_path, check=False)

    return call


def the_jobs(env: dict[str, str]) -> list[Job]:
    return jobs_in(DirectoryStore(Path(env["LASTRUN_STORE"])))


@pytest.mark.slow
def test_a_machine_is_switched_off_only_where_it_was_said_twice(
    inside: Inside, programs: Programs, clean_env: dict[str, str], tiny: Path
) -> None:
    """At a time limit as well; a job that is stored does not say it for the next attempt."""
    refused = inside("submit", tiny, "--set", "run.after=shutdown")
    assert refused.returncode == 2
    assert "run.after: shutdown would switch this machine off when the attempt has ended" in refused.stderr
    refused = inside("submit", tiny, "--yes-shut-down")
    assert "--yes-shut-down: found run.after: nothing" in refused.stderr
    for words, told in {
        ("--launcher", "slurm"): "found shutdown with launcher slurm; allowed: with local and ssh alone",
        ("--launcher", "docker"): "found shutdown with launcher docker",
        ("--on", "far", "--relay"): "found shutdown with --relay",
        ("--set", "sweep.seeds=2"): "is a sweep: found run.after: shutdown",
    }.items():
        refused = inside("submit", tiny, *YES, *words)
        assert (refused.returncode, told in refused.stderr) == (2, True), refused.stderr
    refused = inside("submit", tiny, *YES, LASTRUN_SHUTDOWN="/nowhere/off")
    assert (refused.returncode, "names /nowhere/off, which is no program" in refused.stderr) == (6, True), refused.stderr
    assert the_jobs(clean_env) == []
    assert programs.calls == []

    limits = ("hardware.session_limit=3", "hardware.stop_margin=1", "training.epochs=5000")
    paused = inside("submit", tiny, *YES, "--set", *limits)
    assert paused.returncode == 75, paused.stdout + paused.stderr
    assert "run.after: this machine is switched off a minute after the attempt has ended" in paused.stdout
    assert "run.after: this machine is switched off in 1 minute; sudo shutdown -c keeps it on" in paused.stdout
    assert programs.calls == ["shutdown -h +1"]
    [job] = the_jobs(clean_env)
    assert job.attempts.all()[-1].reason == "time_limit"
    assert "switched off a minute after" in "".join(job.log())
    refused = inside("resume", job.id)
    assert (refused.returncode, "--yes-shut-down says that it may" in refused.stderr) == (2, True), refused.stderr
    assert inside("resume", job.id, "--set", "run.after=nothing", *limits[:2]).returncode == 75
    assert programs.calls == ["shutdown -h +1"]


@pytest.mark.slow
def test_it_stays_on_for_whoever_stops_the_attempt_and_for_others_at_work(
    inside: Inside, namespace: list[str], programs: Programs, clean_env: dict[str, str], tiny: Path
) -> None:
    env = {**clean_env, "PATH": programs.path, "LASTRUN_SHUTDOWN": ""}
    words = ["submit", str(tiny), *YES, "--set", "training.epochs=5000"]
    command = [*namespace, sys.executable, "-m", "runner", *words]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env, start_new_session=True)
    try:
        wait_until(lambda: the_jobs(clean_env) and some_step_is_stored(the_jobs(clean_env)[0]))
        with at_rest(the_jobs(clean_env)[0]):
            other = inside("submit", tiny, *YES)
        assert other.returncode == 0, other.stdout + other.stderr
        assert "this machine stays on, though run.after says shutdown: process" in other.stdout
        assert "is at work here" in other.stdout
        long = next(job for job in the_jobs(clean_env) if job.attempts.all()[-1].open)
        assert inside("stop", long.id, "--wait").returncode == 0
        out, _ = process.communicate(timeout=PATIENCE)
    finally:
        process.kill()  # a failure need not wait for 5000 epochs
        process.wait()
    assert "this machine stays on, though run.after says shutdown: the attempt has ended as stop_requested" in out
    assert programs.calls == []


@pytest.mark.slow
@pytest.mark.xdist_group("ssh")
def test_a_host_is_switched_off_by_its_own_means(
    far: Sshd, inside: Inside, namespace: list[str], programs: Programs, clean_env: dict[str, str], tiny: Path
) -> None:
    """It says itself, before there is a job, whether it can be."""
    clean_env["PATH"] = f"{far.bin}:{os.environ['PATH']}"
    rc = far.folder / "home" / "rc"
    enter = f'exec {" ".join(namespace)} /bin/sh -c "$BASH_EXECUTION_STRING"\n'
    rc.write_text(f"export LASTRUN_SHUTDOWN=/nowhere/off; {enter}")

    def submit() -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "runner", "submit", str(tiny), "--on", "far", *YES]
        return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, env=clean_env, check=False)

    refused = submit()
    assert (refused.returncode, "far: run.after: LASTRUN_SHUTDOWN names /nowhere/off" in refused.stderr) == (6, True), refused
    assert the_jobs(clean_env) == []
    rc.write_text(f"unset LASTRUN_SHUTDOWN; export PATH={programs.path}; {enter}")
    done = submit()
    assert done.returncode == 0, done.stdout + done.stderr
    assert "run.after: this machine is switched off in 1 minute" in done.stdout
    assert programs.calls == ["shutdown -h +1"]


ENDS = """\
import sys, time
from pathlib import Path
from runner.attempt import shutdown
from runner.errors import Reason
folder = Path(sys.argv[3])
while not (folder / "go").exists():
    time.sleep(0.01)
why = shutdown.why_not(Reason.COMPLETED, folder)
(folder / f"{sys.argv[4]}.told").write_text(str(why))
while not (folder / "leave").exists():
    time.sleep(0.01)
"""
WORKS = "import sys, time; time.sleep(float(sys.argv[3]))"


@pytest.mark.parametrize(("works", "off"), [(0, 1), (2, 1), (60, 0)], ids=["alone", "beside one that leaves", "beside one"])
def test_of_several_that_end_at_once_the_last_one_switches_off(
    namespace: list[str], clean_env: dict[str, str], tmp_path: Path, works: int, off: int
) -> None:
    """None waits for another that has ended like itself and is but on its way out; for one that works, all do."""

    def begin(*words: str) -> subprocess.Popen[bytes]:
        code, *rest = words
        return subprocess.Popen([*namespace, sys.executable, "-c", code, "runner", "attempt", *rest], env=clean_env)

    def told() -> list[str]:
        return [text for path in tmp_path.glob("*.told") if (text := path.read_text())]

    begun = [begin(ENDS, str(tmp_path), str(number)) for number in range(3)]
    other = begin(WORKS, str(works))
    try:
        wait_until(lambda: len([line for line in command_lines().values() if str(tmp_path).encode() in line]) >= 3)
        if not works:
            other.wait()
        (tmp_path / "go").touch()
        wait_until(lambda: len(told()) == 3)
        assert told().count("None") == off, told()
        assert all("is at work here" in one for one in told() if one != "None")
    finally:
        (tmp_path / "leave").touch()
        other.kill()
        for process in (*begun, other):
            process.wait()


@pytest.mark.parametrize("reason", Reason)
def test_only_an_end_that_nobody_has_brought_about_switches_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reason: Reason
) -> None:
    monkeypatch.setattr(shutdown, "at_work", lambda: [])
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    stays = ("preempted", "stop_requested", "interrupted", "store_unreachable", "lease_lost", "job_deleted", "epoch_reached")
    why = shutdown.why_not(reason, tmp_path)
    assert why == (f"the attempt has ended as {reason.value}" if reason.value in stays else None)
    (tmp_path / "lastrun-j-0001-x" / "outbox").mkdir(parents=True)
    (tmp_path / "lastrun-j-0001-x" / "outbox" / "left").write_text("")
    assert shutdown.why_not(reason, tmp_path) is not None


def test_what_another_at_work_is_still_sending_is_not_said_to_be_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutdown, "others_at_work", lambda: [7])
    (tmp_path / "lastrun-j-0001-x" / "outbox").mkdir(parents=True)
    (tmp_path / "lastrun-j-0001-x" / "outbox" / "on its way").write_text("")
    assert shutdown.why_not(Reason.COMPLETED, tmp_path) == "process 7 of lastrun's is at work here"


def test_who_is_not_root_asks_sudo_and_what_does_not_wait_is_begun_later(programs: Programs, clean_env: dict[str, str]) -> None:
    """In a user's namespace nobody is root."""
    code = "from runner.attempt.shutdown import _way, problem; print(_way() and list(_way().command), problem())"

    def asked(**env: str) -> str:
        command = ["unshare", "-U", sys.executable, "-c", code]
        env = {**clean_env, "PATH": programs.path, "LASTRUN_SHUTDOWN": "", **env}
        done = subprocess.run(command, capture_output=True, text=True, env=env, check=False)
        if "unshare failed" in done.stderr:
            pytest.skip("no user namespace can be made here")
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    sudo, off = programs.bin / "sudo", programs.bin / "shutdown"
    assert asked() == f"['{sudo}', '-n', '{off}', '-h', '+1'] None"
    assert programs.calls[0] == f"sudo -n -l {off} -h +1"
    programs.write("sudo", "exit 1")
    assert asked().startswith("None run.after: this user may not switch it off: sudo -n shutdown has to work")
    assert asked(LASTRUN_SHUTDOWN="true") == "['true'] None"
