"""What happens between a command, an engine and a container when one of them hangs, is killed or is gone; on a real engine."""

from __future__ import annotations

import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from runner.gpus import FOLDER
from runner.job.attempts import Attempt
from runner.job.job import Job
from runner.launch.docker import containers, locks
from runner.launch.docker.containers import ATTEMPT_LABEL, JOB_LABEL, STORE_LABEL, TRIAL_LABEL, USER_LABEL, settle, sweep
from runner.launch.docker.engine import SHORT_SECONDS
from runner.launch.docker.image import default_image
from runner.launch.settle import state_of
from runner.store.directory import DirectoryStore
from runner.store.open import open_store
from tests.conftest import Cli
from tests.docker_engine import BASE, Engine
from tests.jobs import LONGER, PATIENCE, Run, assert_same, has_pending, jobs_in, some_step_is_stored, stand_still, wait_until

pytestmark = [pytest.mark.xdist_group("containers"), pytest.mark.slow, pytest.mark.usefixtures("clean_engine")]
DOCKER = ("--launcher", "docker")
LONG = ("--set", "training.epochs=5000")
SOON = 6 * SHORT_SECONDS
"""Within this a command is left whose engine does not answer: half of what one is given that works."""


# --- an engine that hangs ---------------------------------------------------------------------------------------------------


def test_a_command_can_be_left_while_the_engine_hangs(
    engine: Engine, run: Any, cli: Cli, tiny: Path, uninterrupted: Any
) -> None:
    current = run("submit", tiny, *DOCKER, *LONGER)
    with current.held(some_step_is_stored), engine.hanging():
        began = time.monotonic()
        current.press_ctrl_c()
        code, out = current.end()
        assert time.monotonic() - began < SOON
        assert code == 6, out
        assert "does not answer in time" in out
        assert f"if it goes on, lastrun stop {current.job.id} has it save and end" in out
        began = time.monotonic()
        assert cli("stop", current.job.id).returncode in (0, 2)  # it asks through the store, which needs no engine
        assert time.monotonic() - began < SOON
    # What it was asked meanwhile it does when it goes on: by the signal it pauses, by the request it stops.
    wait_until(lambda: state_of(current.job)[0].value in ("paused", "stopped", "succeeded"))
    resumed = cli("resume", current.job.id)
    assert resumed.returncode in (0, 2), resumed.stderr
    assert_same(current.job, uninterrupted)


def test_a_command_can_be_left_when_the_engine_hangs_after_it_took_the_signal(
    engine: Engine, run: Any, cli: Cli, tiny: Path, uninterrupted: Any
) -> None:
    current = run("submit", tiny, *DOCKER, *LONGER)
    with current.held(some_step_is_stored):
        init = engine.inspect(engine.container().id)["State"]["Pid"]
        stand_still(init)  # so that the attempt does not end before the engine hangs
        current.press_ctrl_c()
        wait_until(lambda: has_pending(init, signal.SIGINT))
        with engine.hanging():
            began = time.monotonic()
            code, out = current.end()
            assert time.monotonic() - began < SOON
        assert code == 6, out
        assert "does not answer in time" in out
        os.kill(init, signal.SIGCONT)
    wait_until(lambda: state_of(current.job)[0].value == "paused")
    assert cli("resume", current.job.id).returncode == 0
    assert_same(current.job, uninterrupted)


def test_an_engine_that_hangs_is_told_of_within_seconds(engine: Engine, cli: Cli, tiny: Path) -> None:
    with engine.hanging():
        began = time.monotonic()
        done = cli("submit", tiny, *DOCKER)
        assert time.monotonic() - began < SOON
    assert done.returncode == 6
    assert re.fullmatch(
        r"error: the engine at \S+ does not answer in time: .*systemctl restart docker there", done.stderr.strip()
    )


def test_a_list_does_not_wait_for_an_engine_that_hangs(engine: Engine, run: Any, cli: Cli, tiny: Path) -> None:
    for _ in range(2):
        assert cli("submit", tiny, *DOCKER, "--detach", *LONG).returncode == 0
    with engine.hanging():
        began = time.monotonic()
        listed = cli("list")
        assert time.monotonic() - began < SOON
    assert listed.stdout.count("running") == 2


# --- commands that are left, or killed ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "signum"), [(("submit", "TINY", *DOCKER), signal.SIGINT), (("image", "check"), signal.SIGTERM)]
)
def test_no_trial_container_stays_when_a_command_is_left(
    engine: Engine, run: Any, tiny: Path, words: tuple[str, ...], signum: signal.Signals
) -> None:
    current = run(*[str(tiny) if word == "TINY" else word for word in words])
    wait_until(engine.containers)
    current.process.send_signal(signum)
    assert current.end()[0] == 130
    assert engine.containers() == []


def test_what_killed_commands_left_is_swept(engine: Engine, run: Any, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    current = run("image", "check")
    wait_until(engine.containers)
    current.process.kill()
    current.end()
    (left,) = engine.containers()
    assert left.labels[TRIAL_LABEL]
    user, labels = (
        str(os.getuid()),
        {USER_LABEL: str(os.getuid()), JOB_LABEL: "j", STORE_LABEL: "file:///none", ATTEMPT_LABEL: "x"},
    )
    engine.client.containers.create(BASE, ["true"], labels=labels)
    foreign = engine.client.containers.create(BASE, ["true"], labels={**labels, USER_LABEL: "4711"})
    sweep(engine.client, user)
    assert len(engine.containers()) == 3  # they may still be somebody's
    monkeypatch.setattr(containers, "FORGOTTEN_SECONDS", -1.0)
    sweep(engine.client, user)
    assert engine.containers() == [foreign]


def test_a_signal_before_the_attempt_has_the_job_pauses_it(
    engine: Engine, run: Any, tiny: Path, full: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sent at several moments, before there is a container and after."""
    monkeypatch.setattr(containers, "FORGOTTEN_SECONDS", -1.0)  # as if an hour had passed: a busy engine may make one too late
    moments = (0.0, 0.2, 0.4, 0.8)
    signals = (signal.SIGINT, signal.SIGTERM)
    for moment, signum in itertools.product(moments, signals) if full else zip(moments, itertools.cycle(signals)):
        current = run("submit", tiny, *DOCKER, *LONG)
        current.wait_for(lambda job: True)
        time.sleep(moment)
        current.process.send_signal(signum)
        code, out = current.end()
        assert code == 75, (moment, out)
        assert "Traceback" not in out
        job = current.job
        assert state_of(job)[0].value in ("queued", "paused", "lost"), (moment, out)
        wait_until(partial(_nothing_stays, engine))  # what it could not remove itself within seconds, the next command does
        shutil.rmtree(current.store.root)


def _nothing_stays(engine: Engine) -> bool:
    sweep(engine.client, str(os.getuid()))
    return engine.containers() == []


def test_an_attempt_whose_variables_never_come_ends_in_one_line(cli: Cli, tiny: Path, clean_env: dict[str, str]) -> None:
    job = Job.create(DirectoryStore(Path(clean_env["LASTRUN_STORE"])), "tiny", {}, {}, "test")
    done = cli("attempt", job.uri, "--read-env")
    assert done.returncode == 2
    assert done.stderr == "error: standard input ended before the variables came\n"


# --- containers that end in other ways ---------------------------------------------------------------------------------------


def test_the_exit_code_is_the_jobs_although_another_command_removed_the_container(
    engine: Engine, run: Any, cli: Cli, tiny: Path
) -> None:
    current = run("submit", tiny, *DOCKER)
    container = None
    wait_until(lambda: engine.client.containers.list(filters={"label": ATTEMPT_LABEL}))
    container = engine.container()
    current.process.send_signal(signal.SIGSTOP)
    try:
        container.wait(timeout=PATIENCE)
        container.remove()
    finally:
        current.process.send_signal(signal.SIGCONT)
    code, out = current.end()
    assert code == 0, out
    assert "lastrun pull" in out.splitlines()[-1]


def test_a_container_that_somebody_removed_is_told_at_once(
    engine: Engine, run: Any, cli: Cli, tiny: Path, uninterrupted: Any
) -> None:
    current = run("submit", tiny, *DOCKER, *LONGER)
    with current.held(some_step_is_stored):
        engine.container().remove(force=True)
    code, out = current.end()
    assert code == 1, out
    *_, why, following = out.splitlines()
    assert re.fullmatch(rf"lost: container lastrun-{current.job.id}-1 was removed while it ran, by .*", why), out
    assert following == f"next: lastrun resume {current.job.id}"
    assert current.job.attempts.all()[0].phase == "lost"
    assert cli("resume", current.job.id, *DOCKER).returncode == 0
    assert_same(current.job, uninterrupted)


def test_a_removed_container_that_nobody_follows_is_told_by_the_first_who_looks(
    engine: Engine, cli: Cli, tiny: Path, clean_env: dict[str, str]
) -> None:
    assert cli("submit", tiny, *DOCKER, "--detach", *LONG).returncode == 0
    engine.container().remove(force=True)
    (job,) = jobs_in(DirectoryStore(Path(clean_env["LASTRUN_STORE"])))
    shown = cli("status", job.id).stdout
    assert "lost (container lastrun-" in shown
    assert "was removed while it ran" in " ".join(shown.split())
    attempt = job.attempts.all()[0]
    attempt.phase, attempt.machine = "running", "another machine, of which this is a copy"
    job.attempts.write(attempt)
    assert state_of(job)[0].value == "running"  # its engine has the same ID: nobody can say for certain


def ended_container(engine: Engine, store: Path, code: int, phase: str, engine_id: str = "") -> tuple[Job, Attempt]:
    """An attempt whose container has ended with a code, and what the store knows of it."""
    job = Job(DirectoryStore(store), "j")
    about = {"name": "n", "token": "aabbccdd", "engine": engine_id or engine.client.info()["ID"], "image": "i"}
    attempt = Attempt("0001-aabbccdd", "m", 7, "1", time.time(), phase=phase, host="h", container=about)
    if phase == "ended":
        attempt.reason = "trainer_error"
    job.attempts.write(attempt)
    labels = {USER_LABEL: str(os.getuid()), JOB_LABEL: "j", STORE_LABEL: store.as_uri(), ATTEMPT_LABEL: "aabbccdd"}
    container = engine.client.containers.run(BASE, ["sh", "-c", f"echo last words; exit {code}"], labels=labels, detach=True)
    container.wait()
    return job, attempt


@pytest.mark.parametrize("code", [1, 4, 130])
@pytest.mark.parametrize("phase", ["running", "ended"])
def test_a_sweep_removes_what_ended_and_keeps_what_it_knew(engine: Engine, tmp_path: Path, code: int, phase: str) -> None:
    job, _ = ended_container(engine, tmp_path, code, phase)
    sweep(engine.client, str(os.getuid()))
    assert engine.containers() == []
    (attempt,) = job.attempts.all()
    if phase == "ended":
        assert (attempt.phase, attempt.reason) == ("ended", "trainer_error")
    else:
        assert (attempt.phase, attempt.message) == ("lost", f"container n ended with code {code}")
        assert "last words" in "".join(job.log())


def test_a_store_that_names_a_container_of_another_gets_nothing_of_it(engine: Engine, tmp_path: Path) -> None:
    """Whoever writes to one store of mine knows, perhaps, what another of mine is called in."""
    job, attempt = ended_container(engine, tmp_path / "private", 3, "running")
    for store, name in ((tmp_path / "shared", job.id), (tmp_path / "private", "other")):
        hostile = Job(DirectoryStore(store), name)
        hostile.attempts.write(attempt)
        settle(hostile, attempt)
        assert not [entry.key for entry in hostile.store.scan(f"{name}/") if "/log/" in entry.key]
        assert hostile.attempts.all()[0].open
    assert engine.client.containers.list(all=True, filters={"label": f"{ATTEMPT_LABEL}=aabbccdd"})
    settled = settle(job, attempt)
    assert settled is not None
    assert settled.message == "container n ended with code 3"


def test_another_engine_is_not_believed(engine: Engine, tmp_path: Path) -> None:
    job, attempt = ended_container(engine, tmp_path, 1, "running", "another")
    assert settle(job, attempt) is attempt
    assert state_of(job)[0].value == "running"
    sweep(engine.client, str(os.getuid()))
    assert len(engine.containers()) == 1


def test_a_store_that_refuses_keeps_the_container_for_the_next_who_asks(engine: Engine, small_disk: Path) -> None:
    job, _ = ended_container(engine, small_disk, 1, "running")
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    assert state_of(job)[0].value == "running"
    sweep(engine.client, str(os.getuid()))
    assert len(engine.containers()) == 1
    subprocess.run(["mount", "-o", "remount,rw", str(small_disk)], check=True)
    assert state_of(job)[0].value == "lost"
    assert engine.containers() == []


def test_a_store_that_is_away_for_a_while_keeps_the_container(engine: Engine, tmp_path: Path) -> None:
    """As a disk that is not mounted now: its folder is not there."""
    job, _ = ended_container(engine, tmp_path / "disk", 1, "running")
    (tmp_path / "disk").rename(tmp_path / "away")
    sweep(engine.client, str(os.getuid()))
    assert len(engine.containers()) == 1
    (tmp_path / "away").rename(tmp_path / "disk")
    sweep(engine.client, str(os.getuid()))
    assert engine.containers() == []
    assert "last words" in "".join(job.log())


# --- GPUs -------------------------------------------------------------------------------------------------------------------

DRIVER = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.65.06  Sun Jul 27 07:03:38 UTC 2025"


def with_driver(folder: Path, command: list[str], env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Run a command that sees NVIDIA's driver in /proc, as on a machine that has one."""
    place = "/proc/driver/nvidia"
    script = f'mount -t tmpfs none /proc/driver && mkdir {place} && echo "$0" >{place}/version && exec "$@"'
    words = ["unshare", "--mount", "sh", "-c", script, DRIVER, *command]
    return subprocess.run(words, capture_output=True, text=True, env=env, cwd=folder, timeout=PATIENCE, check=False)


def test_a_machine_with_a_gpu_never_trains_on_its_cpu_by_itself(tiny: Path, tmp_path: Path, clean_env: dict[str, str]) -> None:
    submit = [sys.executable, "-m", "runner", "submit", str(tiny), *DOCKER]
    refused = with_driver(tmp_path, submit, clean_env)
    assert refused.returncode == 6, refused.stdout + refused.stderr
    assert "the engine has no NVIDIA runtime: install nvidia-container-toolkit" in refused.stderr
    assert refused.stdout == ""
    assert with_driver(tmp_path, [sys.executable, "-m", "runner", "image", "check"], clean_env).returncode == 6
    for setting in ("run.gpus=0", "hardware.device=cpu"):
        done = with_driver(tmp_path, [*submit, "--set", setting, "training.epochs=1"], clean_env)
        assert done.returncode == 0, done.stdout + done.stderr


def test_an_attempt_that_was_given_a_gpu_does_not_train_without(cli: Cli, tiny: Path, clean_env: dict[str, str]) -> None:
    """As with an image whose torch is a build for the CPU."""
    current = cli("submit", tiny, "--detach", "--json", *LONG)
    assert current.returncode == 0
    (job,) = jobs_in(DirectoryStore(Path(clean_env["LASTRUN_STORE"])))
    assert cli("stop", job.id, "--now").returncode == 0
    wait_until(lambda: state_of(job)[0].value == "stopped")
    about = {"name": "n", "token": "aabbccdd", "engine": "e", "image": "i", "device": "cuda"}
    done = cli("attempt", job.uri, LASTRUN_CONTAINER=json.dumps(about), CUDA_VISIBLE_DEVICES="")
    assert done.returncode == 6, done.stdout + done.stderr
    assert "finds no GPU" in done.stdout
    assert job.attempts.all()[-1].reason == "no_gpu"


def test_a_gpu_that_only_the_container_can_see_is_not_passed_over(engine: Engine, cli: Cli, tiny: Path) -> None:
    """As on an engine of another machine, whose driver nobody here can see."""
    driver = "RUN sed -i 's/^def driver_version.*/&\\n    return \"580.65.06\"/' /app/runner/machine.py"
    image = engine.derive("lastrun:driver", "USER 0", driver, base=default_image())
    done = cli("submit", tiny, *DOCKER, "--set", f"run.image={image}")
    assert done.returncode == 6
    assert "the engine's machine has NVIDIA's driver 580.65.06, but the engine has no NVIDIA runtime" in done.stderr
    assert cli("submit", tiny, *DOCKER, "--set", f"run.image={image}", "run.gpus=0", "training.epochs=1").returncode == 0


def test_a_gpu_is_one_attempts_in_a_container_and_outside(
    engine: Engine, run: Any, cli: Cli, tiny: Path, clean_env: dict[str, str], tmp_path: Path
) -> None:
    one, other = names = [f"GPU-{uuid.uuid4()}" for _ in range(2)]
    short, elsewhere = ("--set", "training.epochs=1"), {"LASTRUN_STORE": str(tmp_path / "elsewhere")}
    with engine.with_gpus(tmp_path / "gpus", names) as outside:
        current = run("submit", tiny, *DOCKER, *LONG)
        with current.held(some_step_is_stored):
            about = engine.inspect(engine.container().id)
            assert (about["HostConfig"]["ReadonlyRootfs"], about["HostConfig"]["CapDrop"]) == (True, ["ALL"])
            [locks] = [mount for mount in about["Mounts"] if mount["Destination"] == "/lastrun-gpus"]
            assert (locks["Type"], locks["Source"]) == ("bind", "/tmp/lastrun-gpus")
            second = cli("submit", tiny, *DOCKER, *short, **elsewhere)
            assert second.returncode == 0, second.stdout + second.stderr
            (job,) = jobs_in(open_store(elsewhere["LASTRUN_STORE"]))
            third = Run({**clean_env, **outside, "LASTRUN_STORE": str(tmp_path / "third")}, "submit", tiny, *LONG)
            with third.held(some_step_is_stored):
                used = [job.attempts.all()[0].hardware["used_gpus"] for job in (current.job, job, third.job)]
                assert used == [[one], [other], [other]]
                refused = cli("submit", tiny, *DOCKER, **elsewhere)
                assert refused.returncode == 6, refused.stdout + refused.stderr
                assert (
                    f"1 GPU wanted, none of 2 GPUs ({one}, {other}) is free: {one} is used by job {current.job.id}; "
                    f"{other} is used by job {third.job.id}; wait for that"
                ) in refused.stderr
                more = cli("submit", tiny, *DOCKER, "--set", "run.gpus=3", **elsewhere)
                assert more.returncode == 6
                assert f"run.gpus asks for 3; this machine has 2 GPUs ({one}, {other})" in more.stderr
                assert len(jobs_in(open_store(elsewhere["LASTRUN_STORE"]))) == 1
            third.press_ctrl_c()
            assert third.end()[0] == 75
        current.press_ctrl_c()
        assert current.end()[0] == 75


def test_an_engine_elsewhere_gets_the_folder_of_locks_that_it_lacks(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Made by a container that sees no more of its machine than the folder above, as nobody's."""
    there = Path(tempfile.mkdtemp(dir="/tmp"))
    there.chmod(0o1777)
    monkeypatch.setattr(locks, "FOLDER", there / FOLDER.name)
    monkeypatch.setattr(locks, "is_local", lambda client: False)
    try:
        assert locks.are_there(engine.client, default_image())
        about = (there / FOLDER.name).stat()
        assert (about.st_mode & 0o7777, about.st_uid) == (0o1777, 65534)
        there.chmod(0o755)
        (there / FOLDER.name).rmdir()
        assert not locks.are_there(engine.client, default_image())
        assert list(there.iterdir()) == []
        assert engine.containers() == []
    finally:
        shutil.rmtree(there)


# --- folders ----------------------------------------------------------------------------------------------------------------


def test_paths_mean_what_they_mean_where_they_are_written(
    engine: Engine, run: Any, cli: Cli, tiny: Path, tmp_path: Path, clean_env: dict[str, str], uninterrupted: Any
) -> None:
    """A scratch folder by a relative path, and then by one in the home folder: both are the caller's."""
    os.chdir(tmp_path)
    current = run("submit", tiny, *DOCKER, *LONGER, "--set", "hardware.scratch_root=here/scratch")
    with current.held(some_step_is_stored):
        mounts = {mount["Destination"]: mount["Source"] for mount in engine.inspect(engine.container().id)["Mounts"]}
        assert mounts[f"{tmp_path}/here/scratch"] == f"{tmp_path}/here/scratch"
        assert list((tmp_path / "here" / "scratch").glob(f"lastrun-{current.job.id}-*"))
        engine.container().kill()
    current.end()
    resumed = run("resume", current.job.id, *DOCKER, "--set", "hardware.scratch_root=~/there")
    wait_until(lambda: list((tmp_path / "there").glob(f"lastrun-{current.job.id}-*")))
    code, out = resumed.end()
    assert code == 0, out
    assert_same(current.job, uninterrupted)
    shutil.rmtree(tmp_path / "there")


def test_sync_finds_a_scratch_folder_that_a_resume_named(
    engine: Engine, run: Any, cli: Cli, tiny: Path, tmp_path: Path
) -> None:
    current = run("submit", tiny, *DOCKER, *LONGER, "--set", "hardware.scratch_root=~/there")
    with current.held(some_step_is_stored):
        container = engine.container()
        assert "TMPDIR=" + str(tmp_path / "there") in engine.inspect(container.id)["Config"]["Env"]
        container.kill()
    current.end()
    (left,) = (tmp_path / "there").glob(f"lastrun-{current.job.id}-*")
    attempt = current.job.attempts.all()[0]
    key = left / "outbox" / current.job.paths.attempt(attempt.id, "log", "999999.txt")
    key.parent.mkdir(parents=True, exist_ok=True)
    key.write_text("not sent in time\n")
    assert "objects sent" in cli("sync", current.job.id).stdout
    assert "not sent in time" in cli("logs", current.job.id).stdout
    assert not left.exists()


def test_a_folder_that_means_another_one_to_the_engine_makes_no_job(
    engine: Engine, cli: Cli, tiny: Path, tmp_path: Path, clean_env: dict[str, str]
) -> None:
    """As to a command in a container of its own that has the host's socket: here in a mount namespace."""
    covered = cli("submit", tiny, *DOCKER, "--set", "hardware.scratch_root=/tmp")
    assert covered.returncode == 2
    assert covered.stderr.startswith("error: hardware.scratch_root: /tmp would stand in the way of the container's own /tmp;")
    (tmp_path / "mine").mkdir()
    words = [sys.executable, "-m", "runner", "submit", str(tiny), *DOCKER]
    for path, setting in (
        ("mine", (f"hardware.scratch_root={tmp_path}/mine/scratch",)),
        ("mine", (f"store.uri={tmp_path}/mine/store",)),
        ("mine/there", (f"hardware.scratch_root={tmp_path}/mine/there",)),
    ):
        (tmp_path / path).mkdir(exist_ok=True)
        script = f'mount -t tmpfs none {tmp_path}/mine && mkdir -p {tmp_path}/{path} && exec "$@"'
        unshared = ["unshare", "--mount", "sh", "-c", script, "sh", *words, "--set", *setting]
        env = {name: value for name, value in clean_env.items() if name != "LASTRUN_STORE" or "store" not in setting[0]}
        done = subprocess.run(unshared, capture_output=True, text=True, env=env, cwd=tmp_path, timeout=PATIENCE, check=False)
        assert done.returncode in (2, 6), done.stdout + done.stderr
        assert re.fullmatch(rf"error: .*{tmp_path}/mine.*this command in a container itself.*", done.stderr.strip()), (
            done.stderr
        )
    assert not (tmp_path / "store").exists()
    assert not list((tmp_path / "mine").rglob("*.json"))


def test_a_dry_run_makes_nothing(engine: Engine, cli: Cli, tiny: Path, tmp_path: Path) -> None:
    volumes = [volume.name for volume in engine.client.volumes.list()]
    name = f"lastrun-cache-{os.getuid()}"
    if name in volumes:
        engine.client.volumes.get(name).remove()
    done = cli("submit", tiny, *DOCKER, "--dry-run")
    assert done.returncode == 0, done.stderr
    assert "it could not start here" not in done.stdout
    assert name not in [volume.name for volume in engine.client.volumes.list()]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["tiny.yaml", "tmp"]
    (tmp_path / "file").write_text("")
    told = cli("submit", tiny, *DOCKER, "--dry-run", "--set", f"hardware.scratch_root={tmp_path}/file/scratch")
    assert f"hardware.scratch_root: {tmp_path}/file/scratch: Not a directory" in told.stdout
