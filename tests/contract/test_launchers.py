"""What every launcher has to do, tried on each: an attempt runs to its end, saves when asked, lives on alone, is found dead.

One of them is new: it comes with one file and one line.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from runner.errors import StoreError
from runner.job.attempts import Attempt
from runner.job.job import Job
from runner.launch import start
from runner.launch.local import LocalLauncher
from runner.launch.settle import settled
from runner.launchers import LAUNCHERS
from runner.resolve import resolve_spec
from runner.store.directory import DirectoryStore
from runner.store.open import open_store
from tests.conftest import Cli
from tests.hub import Hub
from tests.jobs import PATIENCE, at_rest, command_lines, jobs_in, some_step_is_stored, wait_until
from tests.sky_server import SkyServer
from tests.slurm import Slurm
from tests.sshd import Sshd

if TYPE_CHECKING:
    from tests.kaggle_server import KaggleServer

ROOT = Path(__file__).parents[2]
LONG = ("--set", "training.epochs=5000")


@dataclass
class Case:
    """A launcher, and what only it knows: how to kill an attempt of its without a word, and what to refuse."""

    name: str
    kill: Callable[[Attempt], None]
    impossible: str
    """A setting with which nothing of its can start."""
    settings: tuple[str, ...] = ()
    """What its jobs need besides."""
    at_once: bool = True
    """Whether what was started runs when the command returns."""
    asked: str = "preempted"
    """Why one has left that was sent a signal; where there is no way to send one, it is asked through the store."""
    leaves: bool = True
    """Whether there is a disk on which one that was killed leaves something."""

    def submit(self, tiny: Path, *words: str) -> list[str | Path]:
        return ["submit", tiny, "--launcher", self.name, *words, *(["--set", *self.settings] if self.settings else [])]


def kill_process(attempt: Attempt) -> None:
    os.kill(attempt.pid, signal.SIGKILL)


@pytest.fixture
def case(request: pytest.FixtureRequest) -> Case:
    return request.getfixturevalue(request.param)


@pytest.fixture
def local() -> Case:
    return Case("local", kill_process, "data.uri=/nowhere/ntu60.safetensors dataset=ntu60")


@pytest.fixture
def docker(request: pytest.FixtureRequest) -> Case:
    engine = request.getfixturevalue("engine")
    request.getfixturevalue("clean_engine")
    return Case("docker", lambda attempt: engine.container().kill(), "run.image=nowhere/nothing:1")


@pytest.fixture
def ssh(far: Sshd, tiny: Path) -> Case:
    """The far side is this machine, with another home."""
    text = tiny.read_text().replace("hardware: {", f"hardware: {{scratch_root: {tiny.parent}/scratch, ")
    tiny.write_text(f"{text}run: {{host: far}}\n")
    return Case("ssh", kill_process, "run.host=root@nowhere.invalid")


@pytest.fixture
def relay(ssh: Case, far: Sshd, clean_env: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Case:
    """The store's folder is hidden from it: its job is kept there, and fetched by whoever asks, also by the test itself."""
    store = Path(clean_env["LASTRUN_STORE"])
    store.mkdir()
    for name in ("PATH", "XDG_RUNTIME_DIR", "HOME"):
        monkeypatch.setenv(name, clean_env[name])
    box = 'hostname gpubox; mount -t tmpfs none "$0"; exec /bin/sh -c "$1"'
    (far.folder / "home" / "rc").write_text(f"exec unshare -mu /bin/sh -c '{box}' {store} \"$BASH_EXECUTION_STRING\"\n")
    return replace(ssh, settings=("run.relay=true",), leaves=False)  # its host sends what is left when it tells of the end


@pytest.fixture
def batch(slurm: Slurm, tmp_path: Path) -> Case:
    needed = ("run.gpus=0", f"hardware.scratch_root={tmp_path}/scratch")
    return Case("slurm", kill_process, "run.slurm.partition=nowhere", needed, at_once=False)


@pytest.fixture
def login(far: Sshd, slurm: Slurm, tiny: Path, clean_env: dict[str, str]) -> Case:
    """The far side is a login node; this one knows of no cluster."""
    del clean_env["SLURM_CONF"]
    (far.folder / "home" / "rc").write_text(f"export SLURM_CONF={slurm.conf}\n")
    needed = ("run.host=far", "run.gpus=0", f"hardware.scratch_root={tiny.parent}/scratch")
    return Case("slurm", kill_process, "run.slurm.partition=nowhere", needed, at_once=False)


@pytest.fixture
def hf(hub: Hub) -> Case:
    """With its store in a bucket: a folder here is not there."""
    return Case(
        "hf", kill_process, "run.hf.flavor=nowhere", ("run.gpus=0",), at_once=False, asked="stop_requested", leaves=False
    )


@pytest.fixture
def sky(sky_server: SkyServer) -> Case:
    """Each machine has a T4, and trains on its CPU."""
    needed = ("run.gpus=0", "run.resources.gpu=T4")
    impossible = "run.resources.cloud=aws"
    return Case("sky", kill_process, impossible, needed, at_once=False, asked="stop_requested", leaves=False)


@pytest.fixture
def kaggle(bucket: str, kaggle_server: KaggleServer) -> Case:
    """With its store in a bucket, whose keys lie in a private data set."""
    needed = ("run.gpus=0", "run.kaggle.private_dataset=true")
    return Case("kaggle", kill_process, "env=gcp", needed, at_once=False, asked="stop_requested", leaves=False)


@pytest.fixture
def dummy(tmp_path_factory: pytest.TempPathFactory, clean_env: dict[str, str]) -> Iterator[Case]:
    """In a copy of the code: one file, one line."""
    copy = tmp_path_factory.mktemp("copy")
    for package in ("last_e", "runner"):
        shutil.copytree(ROOT / package, copy / package, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(Path(__file__).with_name("dummy.py"), copy / "runner" / "launch" / "dummy.py")
    table = copy / "runner" / "launchers.py"
    line = '    "dummy": Kind("runner.launch.dummy:DummyLauncher", gpus="few"),\n'
    table.write_text(table.read_text().replace("LAUNCHERS = {\n", f"LAUNCHERS = {{\n{line}"))
    clean_env["PYTHONPATH"] = str(copy)
    return Case("dummy", kill_process, "run.image=any:1")


CASES = [
    pytest.param("local"),
    pytest.param("docker", marks=[pytest.mark.xdist_group("containers"), pytest.mark.slow]),
    pytest.param("batch", id="slurm", marks=pytest.mark.xdist_group("slurm")),
    pytest.param("ssh", marks=[pytest.mark.xdist_group("ssh"), pytest.mark.slow]),
    pytest.param("login", id="slurm by ssh", marks=[pytest.mark.xdist_group("ssh"), pytest.mark.slow]),
    pytest.param("hf", marks=[pytest.mark.xdist_group("clouds"), pytest.mark.slow]),
    pytest.param("sky", marks=[pytest.mark.xdist_group("clouds"), pytest.mark.slow]),
    pytest.param("relay", marks=[pytest.mark.xdist_group("ssh"), pytest.mark.slow]),
    pytest.param("kaggle", marks=[pytest.mark.xdist_group("clouds"), pytest.mark.slow]),
    pytest.param("dummy"),
]
each_launcher = pytest.mark.parametrize("case", CASES, indirect=True)


def test_every_launcher_is_held_to_the_contract() -> None:
    assert {param.id or param.values[0] for param in CASES} == {*LAUNCHERS, "slurm by ssh", "relay", "dummy"}


@each_launcher
def test_an_attempt_runs_to_its_end_and_what_cannot_start_makes_no_job(
    case: Case, cli: Cli, tiny: Path, clean_env: dict[str, str]
) -> None:
    refused = cli(*case.submit(tiny, "--set", *case.impossible.split()))
    assert refused.returncode in (2, 6), refused.stdout + refused.stderr
    assert refused.stderr.startswith("error: ")
    assert len(refused.stderr.splitlines()) == 1
    store = open_store(clean_env["LASTRUN_STORE"])
    assert jobs_in(store) == []

    done = cli(*case.submit(tiny))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "epoch 3/3" in done.stdout
    [job] = jobs_in(store)
    [attempt] = job.attempts.all()
    assert (attempt.launcher, attempt.phase, attempt.reason) == (case.name, "ended", "completed")
    assert not list((tiny.parent / "tmp").glob("lastrun-*"))
    if case.name != "slurm" or "run.host=far" not in case.settings:  # there, that of a login node
        assert looked_at(case.name, clean_env)


def looked_at(name: str, env: dict[str, str]) -> str:
    """What ``lastrun doctor`` tells of a launcher that can be used."""
    code = f"from runner.launch.settle import launcher_class; print(launcher_class({name!r}).ready())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, cwd=env["HOME"], check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@each_launcher
def test_an_attempt_is_asked_to_save_through_the_command_that_follows_it(case: Case, cli: Cli, run: Any, tiny: Path) -> None:
    current = run(*case.submit(tiny, *LONG))
    current.wait_for(some_step_is_stored)
    current.process.send_signal(signal.SIGTERM)
    code, out = current.end()
    assert code == 75, out
    [attempt] = current.job.attempts.all()
    assert (attempt.phase, attempt.reason) == ("ended", case.asked)
    assert attempt.scores["step"] == current.job.checkpoints.all()[-1].manifest.step


@each_launcher
def test_an_attempt_in_the_background_has_its_job_alone_and_is_found_dead_when_it_was_killed(
    case: Case, cli: Cli, tiny: Path, clean_env: dict[str, str]
) -> None:
    started = cli(*case.submit(tiny, "--detach", *LONG))
    assert started.returncode == 0, started.stdout + started.stderr
    [job] = jobs_in(open_store(clean_env["LASTRUN_STORE"]))
    if not case.at_once:
        wait_until(lambda: [one.phase for one in job.attempts.all()] == ["running"])
    [attempt] = job.attempts.all()
    assert (attempt.launcher, attempt.phase) == (case.name, "running")
    wait_until(lambda: settled(job) and job.checkpoints.all())  # what keeps a job elsewhere fetches for who asks
    with at_rest(job):
        assert "running" in cli("status", job.id).stdout
        second = cli("resume", job.id)
        assert second.returncode == 5
        assert "is being run by attempt 1" in second.stderr

        # As from a machine that knows nothing of the first: the claim in the store decides, and what was started says so.
        blind = started_blindly(job, clean_env)
        assert blind.returncode == 5, blind.stdout + blind.stderr
        who = "attempt 1 on|Slurm job|Hugging Face job|Kaggle session|SkyPilot cluster"
        assert re.fullmatch(rf"\S+ is being run by ({who}) .*", blind.stdout.strip())
        assert [one.id for one in job.attempts.all()] == [attempt.id]

        case.kill(attempt)
    wait_until(lambda: "lost" in cli("status", job.id).stdout)
    [found] = job.attempts.all()
    assert found.phase == "lost"
    assert found.message
    assert f"lost ({found.message})" in cli("status", job.id).stdout
    assert not case.leaves or list(tiny.parent.rglob(f"lastrun-{job.id}-*"))
    sent = cli("sync", job.id)
    assert sent.returncode == 0, sent.stderr
    wait_until(lambda: not list(tiny.parent.rglob(f"lastrun-{job.id}-*")))  # it was found, wherever this launcher has it
    finished = cli("resume", job.id, "--set", "training.epochs=3", "--allow-change", "training.epochs")
    assert finished.returncode == 0, finished.stdout + finished.stderr
    assert [one.launcher for one in job.attempts.all()] == [case.name] * 2


BLIND = """
import sys
from runner.errors import LastrunError
from runner.job.job import Job
from runner.launch.start import detach, make_launcher
from runner.resolve import resolve_attempt
from runner.store.open import open_store
from runner.store.uri import StoreUri
from runner.trust import brought, words

store, name = StoreUri.parse(sys.argv[1]).parent()
job = Job(open_store(store), name)
config, origins, _ = job.settings()
resolved, _ = resolve_attempt(config, origins, None, [], [], takes=lambda *_: True, options=None)
try:
    detach(make_launcher(resolved.config), job, words(brought(resolved)))
except LastrunError as error:
    print(error)
    raise SystemExit(int(error.exit_code))
"""


def started_blindly(job: Job, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", BLIND, job.uri]
    return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, env=env, cwd=env["HOME"], check=False)


def test_what_gives_no_sign_is_ended_and_so_is_what_was_started_when_somebody_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = resolve_spec(ROOT / "jobs" / "quickstart.yaml", "local", []).config
    job = Job(DirectoryStore(tmp_path), "j")

    class Leaving(LocalLauncher):
        def start(self, job: Job, arguments: list[str], token: str, *, output: Any) -> Any:
            started = super().start(job, arguments, token, output=output)
            os.kill(os.getpid(), signal.SIGTERM)
            return started

    monkeypatch.setattr(start, "START_SECONDS", 0.0)
    with pytest.raises(StoreError, match="no sign of the attempt"):
        start.detach(LocalLauncher(config), job, [])
    with pytest.raises(KeyboardInterrupt):
        start.detach(Leaving(config), job, [])
    assert not [line for line in command_lines().values() if job.uri.encode() in line]
