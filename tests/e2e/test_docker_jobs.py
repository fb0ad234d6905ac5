"""Attempts in containers of a real Docker engine, in the project's real image: they run, are killed, and go on elsewhere."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from last_e.manifest import verify
from runner.job.attempts import EXPIRY_SECONDS
from runner.job.find import find_job
from runner.launch.docker.image import default_image
from runner.launch.settle import state_of
from tests.ceph import SECRET_KEY, Ceph
from tests.conftest import Cli
from tests.docker_engine import ROOT, Engine
from tests.jobs import (
    LONGER,
    PATIENCE,
    assert_same,
    has_pending,
    result,
    some_step_is_stored,
    stopped_without_its_store,
    wait_until,
)

pytestmark = [pytest.mark.xdist_group("containers"), pytest.mark.slow, pytest.mark.usefixtures("clean_engine")]
DOCKER = ("--launcher", "docker")


# --- a job's life -----------------------------------------------------------------------------------------------------------


def test_the_quickstart_runs_in_a_container_with_its_store_on_ceph_to_the_bits_that_it_gives_outside(
    engine: Engine, ceph: Ceph, cli: Cli, clean_env: dict[str, str], run: Any, tmp_path: Path
) -> None:
    store = ceph.uri("docker-quickstart")
    clean_env.update(ceph.credentials(), LASTRUN_STORE=store)
    spec = ROOT / "jobs" / "quickstart-docker.yaml"
    refused = cli("submit", spec)
    assert refused.returncode == 2
    assert "run.network=host" in refused.stderr

    # A short one: how far it comes is tests/e2e/test_quickstart.py's matter. Here it comes to the same bits as outside.
    small = ("training.epochs=2", "training.batch_size=64", "training.input_frames=16", "hardware.cpu_threads=2")
    current = run("submit", spec, "--set", "run.network=host", *small)
    inspected = engine.inspect(engine.container().id)
    assert SECRET_KEY not in json.dumps(inspected)
    kept = [path for path in (engine.folder / "data" / "containers" / inspected["Id"]).rglob("*") if path.is_file()]
    assert b"lastrun.attempt" in next(path for path in kept if path.name == "config.v2.json").read_bytes()
    assert not [path for path in kept if SECRET_KEY.encode() in path.read_bytes()]
    out, _ = current.process.communicate(timeout=2 * PATIENCE)
    assert current.process.returncode == 0, out
    job = current.job
    assert state_of(job)[0].value == "succeeded"
    assert [m["epoch"] for m in job.metrics()] == [1, 2]
    attempt = job.attempts.all()[0]
    assert attempt.container is not None
    assert attempt.container["image"] == engine.client.images.get(default_image()).id
    for entry in job.store.scan(""):
        assert SECRET_KEY.encode() not in job.store.get(entry.key)
    assert SECRET_KEY not in out
    assert engine.containers() == []

    outside = cli("submit", ROOT / "jobs" / "quickstart.yaml", "--store", tmp_path / "outside", "--set", *small)
    assert outside.returncode == 0, outside.stdout + outside.stderr
    assert_same(job, result(find_job("quickstart", str(tmp_path / "outside"))))


def test_modules_that_lie_where_a_container_stands_are_not_code(engine: Engine, cli: Cli, tiny: Path) -> None:
    """Its folder is a volume that every attempt of this user may write to."""
    volume = f"lastrun-cache-{os.getuid()}"
    names = ("random", "types", "json", "numpy", "torch", "typer", "multiprocessing", "runner", "last_e", "sitecustomize")
    files = [f"/cache/{name}.py" for name in names]
    mark = "import sys; open('/cache/ran', 'a').write(__name__); sys.exit('imported from here')"
    within: dict[str, Any] = {"volumes": {volume: {"bind": "/cache", "mode": "rw"}}, "user": "0:0", "remove": True}

    def there(command: str, *words: str) -> str:
        shell = ["-c", command, "sh", *words]
        told: bytes = engine.client.containers.run(default_image(), shell, entrypoint="sh", **within)
        return told.decode()

    there('mark=$1; shift; for file; do printf "%s\\n" "$mark" > "$file"; done', mark, *files)
    try:
        done = cli("submit", tiny, *DOCKER, "--set", "training.epochs=1", timeout=2 * PATIENCE)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "random.py" in (listed := there("ls /cache"))
        assert "ran" not in listed.split()
    finally:
        there('rm -f "$@"', "/cache/ran", *files)


@pytest.mark.parametrize(("first", "then"), [("local", "docker"), ("docker", "local")])
def test_a_job_moves_between_process_and_container(
    engine: Engine, run: Any, cli: Cli, tiny: Path, uninterrupted: Any, first: str, then: str
) -> None:
    current = run("submit", tiny, "--launcher", first, *LONGER)
    with current.held(some_step_is_stored) as trainer:
        current.process.send_signal(signal.SIGTERM)
        wait_until(lambda: has_pending(trainer, signal.SIGTERM))
    code, out = current.end()
    assert code == 75, out
    assert current.job.attempts.all()[0].reason == "preempted"
    resumed = cli("resume", current.job.id, "--launcher", then)
    assert resumed.returncode == 0, resumed.stdout + resumed.stderr
    assert "going on from checkpoint" in resumed.stdout
    attempts = current.job.attempts.all()
    assert [attempt.container is not None for attempt in attempts] == [first == "docker", then == "docker"]
    assert {change["key"]: change["after"] for change in attempts[1].changes}["run.launcher"] == then
    assert_same(current.job, uninterrupted)
    assert engine.containers() == []


def test_docker_stop_in_mid_epoch_saves(engine: Engine, run: Any, cli: Cli, tiny: Path, uninterrupted: Any) -> None:
    current = run("submit", tiny, *DOCKER, *LONGER)
    with current.held(some_step_is_stored) as trainer:
        before = current.job.checkpoints.all()[-1].order
        container = engine.container()
        assert engine.inspect(container.id)["Config"]["StopTimeout"] >= 60
        stop = threading.Thread(target=container.stop, daemon=True)
        stop.start()
        wait_until(lambda: has_pending(trainer, signal.SIGTERM))
    stop.join()
    code, out = current.end()
    assert code == 75, out
    state, _, reason = state_of(current.job)
    assert (state.value, reason and reason.value) == ("paused", "preempted")
    assert current.job.checkpoints.all()[-1].order >= before
    assert cli("resume", current.job.id).returncode == 0  # the job's own launcher: docker was given at its beginning
    assert [a.container is not None for a in current.job.attempts.all()] == [True, True]
    assert_same(current.job, uninterrupted)


def test_docker_kill_is_seen_at_once_and_the_job_goes_on_outside(
    engine: Engine, run: Any, cli: Cli, tiny: Path, uninterrupted: Any
) -> None:
    current = run("submit", tiny, *DOCKER, *LONGER)
    with current.held(some_step_is_stored):
        began, killed = time.monotonic(), time.time()
        engine.container().kill()
    code, _ = current.end()
    assert code == 1
    assert state_of(current.job)[0].value == "lost"
    assert time.monotonic() - began < EXPIRY_SECONDS  # not by its heart
    shown = cli("status", current.job.id)
    assert "lost (container lastrun-tiny-" in shown.stdout
    assert "was killed)" in shown.stdout
    assert "the last that its container said" in cli("logs", current.job.id).stdout
    assert engine.containers() == []
    resumed = cli("resume", current.job.id, "--launcher", "local")
    assert resumed.returncode == 0, resumed.stdout + resumed.stderr
    assert current.job.attempts.all()[1].started_at - killed < EXPIRY_SECONDS
    assert_same(current.job, uninterrupted)


def test_what_was_killed_outside_goes_on_in_a_container_at_once(
    engine: Engine, run: Any, cli: Cli, tiny: Path, uninterrupted: Any
) -> None:
    current = run("submit", tiny, "--launcher", "local", *LONGER)
    with current.held(some_step_is_stored):
        killed = time.time()
        os.killpg(current.process.pid, signal.SIGKILL)
    current.end()
    current.settles_as("lost")
    resumed = cli("resume", current.job.id, "--launcher", "docker")
    assert resumed.returncode == 0, resumed.stdout + resumed.stderr
    assert current.job.attempts.all()[1].started_at - killed < EXPIRY_SECONDS
    assert_same(current.job, uninterrupted)


def test_a_job_is_found_again_after_the_command_that_started_it_is_gone(
    engine: Engine, run: Any, cli: Cli, tiny: Path, uninterrupted: Any
) -> None:
    current = run("submit", tiny, *DOCKER, *LONGER)
    with current.held(some_step_is_stored) as trainer:
        current.process.kill()
        current.end()
        container = engine.container()
        job = current.job
        assert container.labels["lastrun.job"] == job.id
        assert job.attempts.all()[0].id.endswith("-" + container.labels["lastrun.attempt"])
        assert "running" in cli("list").stdout
        assert f"container lastrun-{job.id}-1" in cli("resume", job.id).stderr
        assert cli("stop", job.id).returncode == 0
        wait_until(lambda: has_pending(trainer, signal.SIGTERM))
    followed = cli("logs", job.id, "--follow").stdout
    assert "asked to stop from another terminal or machine" in followed
    assert state_of(job)[0].value == "stopped"
    container.wait(timeout=PATIENCE)
    resumed = cli("resume", job.id)
    assert resumed.returncode == 0, resumed.stderr
    assert engine.containers() == []  # the one that nobody waited for is gone, too
    assert_same(job, uninterrupted)


def test_what_a_container_could_not_send_is_sent_from_the_host(
    engine: Engine, ceph: Ceph, cli: Cli, run: Any, tiny: Path, clean_env: dict[str, str], uninterrupted: Any
) -> None:
    clean_env.update(ceph.credentials(), LASTRUN_STORE=ceph.uri("docker-outbox"))
    current = run("submit", tiny, *DOCKER, *LONGER, "--set", "run.network=host")
    stopped_without_its_store(current, engine, ceph)
    sent = cli("sync", current.job.id)
    assert sent.returncode == 0, sent.stderr
    assert "objects sent" in sent.stdout
    assert state_of(current.job)[0].value == "paused"
    assert cli("pull", current.job.id, "newest").returncode == 0
    verify(tiny.parent / "newest")
    assert cli("resume", current.job.id).returncode == 0
    assert_same(current.job, uninterrupted)


# --- what goes wrong --------------------------------------------------------------------------------------------------------


def test_a_trainer_that_takes_too_much_memory_ends_as_out_of_memory(cli: Cli, tiny: Path, clean_env: dict[str, str]) -> None:
    done = cli("submit", tiny, *DOCKER, "--set", "run.memory=120m", "training.epochs=1")
    assert done.returncode == 1, done.stdout + done.stderr
    job = find_job("tiny", clean_env["LASTRUN_STORE"])
    state, _, reason = state_of(job)
    assert (state.value, reason and reason.value) == ("failed", "out_of_memory")
    assert "hardware.micro_batch" in done.stdout.splitlines()[-1]
    assert cli("resume", job.id, "--set", "run.memory=2g").returncode == 0


def test_a_container_killed_for_its_memory_ends_as_out_of_memory(engine: Engine, run: Any, cli: Cli, tiny: Path) -> None:
    """The kernel takes the agent itself, so only the engine knows."""
    current = run("submit", tiny, *DOCKER, "--set", "run.memory=600m", "training.epochs=5000")
    current.wait_for(lambda job: job.checkpoints.all())
    container = engine.container()
    agent = next(words[1] for words in container.top(ps_args="-efww")["Processes"] if words[-1].startswith("python -m runner"))
    Path(f"/proc/{agent}/oom_score_adj").write_text("1000")
    container.exec_run(["python", "-c", "held = []\nwhile True: held.append(bytes(1 << 20).replace(b'\\0', b'1'))"])
    code, out = current.end()
    assert code == 1, out
    state, _, reason = state_of(current.job)
    assert (state.value, reason and reason.value) == ("failed", "out_of_memory")
    assert "out_of_memory" in cli("status", current.job.id).stdout


def test_a_full_disk_stops_an_attempt_before_it_begins_and_in_the_middle(
    run: Any, cli: Cli, tiny: Path, small_disk: Path, uninterrupted: Any
) -> None:
    scratch = f"hardware.scratch_root={small_disk}"
    current = run("submit", tiny, *DOCKER, *LONGER, "--set", scratch)
    filler = small_disk / "filler"
    with current.held(some_step_is_stored), pytest.raises(OSError, match="No space"):
        filler.write_bytes(bytes(4 << 20))
    code, out = current.end()
    job = current.job
    assert code == 1, out
    assert job.attempts.all()[0].reason == "out_of_disk"
    again = cli("resume", job.id)
    assert again.returncode == 1
    assert job.attempts.all()[1].reason == "out_of_disk"
    filler.unlink()
    assert cli("resume", job.id).returncode == 0
    assert_same(job, uninterrupted)


def test_too_little_room_for_checkpoints_is_told_before_training(cli: Cli, tiny: Path, small_disk: Path) -> None:
    words = (f"hardware.scratch_root={small_disk}", "checkpoint.keep_last=100")
    done = cli("submit", tiny, *DOCKER, "--set", *words)
    assert done.returncode == 1
    assert "100 + 1 checkpoints need" in done.stdout
    assert "epoch 1" not in done.stdout
