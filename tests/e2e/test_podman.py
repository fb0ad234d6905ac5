"""The tests of containers that tell most, on Podman, which answers as a Docker engine does, but for some things."""

from __future__ import annotations

import os
import re
import shutil
import signal
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from runner.launch.docker.engine import _connected
from runner.launch.docker.image import default_image
from runner.launch.settle import state_of
from tests import debian
from tests.conftest import Cli
from tests.docker_engine import CannotStart, Engine
from tests.jobs import LONGER, assert_same, has_pending, some_step_is_stored, wait_until
from tests.podman import Podman, why_not

pytestmark = [pytest.mark.xdist_group("containers"), pytest.mark.slow, pytest.mark.usefixtures("on_podman")]
SUBMIT = ("--launcher", "docker", "--set", "run.network=host")


@pytest.fixture(scope="module")
def podman(engine: Engine) -> Iterator[Podman]:
    """With the project's image, as the other engine has built it."""
    debian.need("Podman", why_not)
    folder = Path(tempfile.mkdtemp(prefix="podman-", dir="/tmp"))
    one = Podman(folder)
    try:
        try:
            one.start()
        except CannotStart as why:
            pytest.skip(f"no Podman here: {why}")
        one.client.images.load(engine.client.images.get(default_image()).save(named=True))
        yield one
    finally:
        one.stop()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def on_podman(podman: Podman, clean_env: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The commands of a test and the test itself use it; no container outlives the test."""
    clean_env["DOCKER_HOST"] = podman.host
    clean_env["LASTRUN_WAITS"] = re.sub(r"engine=\d+", "engine=20", clean_env["LASTRUN_WAITS"])  # on a busy machine it is slow
    monkeypatch.setenv("DOCKER_HOST", podman.host)
    monkeypatch.setenv("HOME", clean_env["HOME"])
    _connected.cache_clear()
    yield
    podman.remove_containers()
    _connected.cache_clear()


def test_a_job_is_stopped_and_goes_on_to_the_same_bits(
    podman: Podman, run: Any, cli: Cli, tiny: Path, uninterrupted: Any
) -> None:
    assert cli("image", "check").returncode == 0
    current = run("submit", tiny, *SUBMIT, *LONGER[1:])
    with current.held(some_step_is_stored) as trainer:
        memory = os.statvfs(f"/proc/{trainer}/root/dev/shm")
        assert memory.f_blocks * memory.f_frsize == 1 << 30  # Podman's own default is 64000 KiB
        stop = threading.Thread(target=podman.container().stop, daemon=True)
        stop.start()
        wait_until(lambda: has_pending(trainer, signal.SIGTERM))
    stop.join()
    code, out = current.end()
    assert code == 75, out
    state, _, reason = state_of(current.job)
    assert (state.value, reason and reason.value) == ("paused", "preempted")
    resumed = cli("resume", current.job.id)
    assert resumed.returncode == 0, resumed.stdout + resumed.stderr
    assert_same(current.job, uninterrupted)
    assert podman.containers() == []


def test_a_container_that_was_killed_is_told_at_once_to_whoever_looks(podman: Podman, run: Any, cli: Cli, tiny: Path) -> None:
    current = run("submit", tiny, *SUBMIT, "training.epochs=5000")
    current.wait_for(some_step_is_stored)
    current.process.kill()  # nobody follows it now
    current.end()
    podman.container().kill()
    wait_until(lambda: podman.containers()[0].status != "running")
    assert f"lost (container lastrun-{current.job.id}-1 was killed)" in " ".join(cli("status", current.job.id).stdout.split())
    assert "the last that its container said" in cli("logs", current.job.id).stdout
    assert podman.containers() == []


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("run.image=localhost/nothing:1", "no image localhost/nothing:1: lastrun image build"),
        ("run.network=nowhere", "the engine knows no network nowhere"),
        ("run.memory=8m", "run.memory=8m is too little even to start"),
        ("run.gpus=1", "Podman has handed in no GPU"),
    ],
)
def test_starts_that_fail_are_told_before_there_is_a_job(cli: Cli, tiny: Path, setting: str, words: str) -> None:
    done = cli("submit", tiny, *SUBMIT, setting)
    assert done.returncode == 6, done.stdout + done.stderr
    assert words in done.stderr
    assert (len(done.stderr.splitlines()), done.stdout) == (1, "")
