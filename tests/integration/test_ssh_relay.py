"""A store that is a folder here, for a host that does not have it: what comes there is fetched, whatever breaks in between.

The host is this machine by another name, where the store's folder is hidden, so that neither side can see the other's processes
for what they are, nor the other's files.
"""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from runner.job.job import Job
from runner.launch.ssh import notes
from runner.store.directory import DirectoryStore
from tests.conftest import Cli
from tests.jobs import (
    LONGER,
    Run,
    assert_same,
    assert_whole,
    at_rest,
    command_lines,
    jobs_in,
    some_step_is_stored,
    stand_still,
    trainer_of,
    wait_until,
)
from tests.sshd import Sshd

pytestmark = [pytest.mark.xdist_group("ssh"), pytest.mark.slow]

RELAY = ("--on", "far", "--relay")
HERE = ("--launcher", "local")
BOX = """hostname gpubox; mount -t tmpfs none "$0"; exec /bin/sh -c "$1" """


class Box:
    """The host."""

    def __init__(self, far: Sshd, store: Path) -> None:
        self.far, self.store = far, store
        self.copies = far.folder / "home" / ".cache" / "lastrun" / "ssh" / "relay"
        self._rc = far.folder / "home" / "rc"
        self.is_back()

    def shell_runs(self, text: str) -> None:
        self._rc.write_text(text)

    def is_back(self) -> None:
        self.shell_runs(f"exec unshare -mu /bin/sh -c '{BOX}' {self.store} \"$BASH_EXECUTION_STRING\"\n")

    @contextmanager
    def held(self) -> Iterator[Job]:
        """The trainer stands still from when a checkpoint in the middle of an epoch is kept there, and has come here."""

        def found() -> list[Path]:
            manifests = self.copies.glob("*/*/checkpoints/*/MANIFEST.json")
            return [path for path in manifests if int(path.parent.name.partition("-")[0].rstrip("e")) % 24]

        wait_until(found)
        job = the_job(self)
        trainer = trainer_of(job)
        stand_still(trainer)
        try:
            wait_until(lambda: some_step_is_stored(Job(job.store, job.id)))
            yield job
        finally:
            with suppress(ProcessLookupError):
                os.kill(trainer, signal.SIGCONT)

    def is_gone(self) -> None:
        """No call gets there any more; what runs there goes on."""
        self.shell_runs("kill -9 $PPID; exit\n")
        self.far.cut()


@pytest.fixture
def box(far: Sshd, clean_env: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Box:
    store = Path(clean_env["LASTRUN_STORE"])
    store.mkdir()
    for name in ("PATH", "XDG_RUNTIME_DIR", "HOME"):  # the test itself fetches when it asks how a job fares
        monkeypatch.setenv(name, clean_env[name])
    return Box(far, store)


def the_job(box: Box) -> Job:
    return jobs_in(DirectoryStore(box.store))[0]


def is_at_work(job: Job) -> bool:
    return any(f"/lastrun-{job.id}-".encode() in line for line in command_lines().values())


def test_what_comes_on_the_host_is_here_also_after_a_cut_and_nothing_stays_there(
    run: Any, box: Box, tiny: Path, uninterrupted: Any
) -> None:
    current: Run = run("submit", tiny, *RELAY, *LONGER)
    with box.held():
        [attempt] = current.job.attempts.all()
        assert (attempt.host, attempt.is_here, attempt.is_relayed, attempt.open) == ("gpubox", False, True, True)
        assert current.job.attempts.alive(attempt)
        assert_whole(current.job)
        wait_until(box.far.cut)
    code, out = current.end()
    assert code == 0, out
    assert "far: the connection broke; the attempt goes on, and is looked for again\n" in out
    assert_same(current.job, uninterrupted)
    assert_whole(current.job)
    assert [attempt.reason for attempt in current.job.attempts.all()] == ["completed"]
    assert len(current.job.checkpoints.written()) <= 4  # what is pruned there is pruned here
    log = "".join(current.job.log())
    assert [f"epoch {number}/3" in log for number in (1, 2, 3)] == [True] * 3
    assert list(box.copies.iterdir()) == []
    assert notes.hosts() == []


def test_who_followed_is_killed_and_the_job_is_stopped_from_here_and_goes_on_here(
    run: Any, cli: Cli, box: Box, tiny: Path, uninterrupted: Any
) -> None:
    current: Run = run("submit", tiny, *RELAY, *LONGER)
    with box.held():
        os.killpg(current.process.pid, signal.SIGKILL)
        current.process.communicate()
        refused = cli("resume", current.job.id, *HERE)
        assert refused.returncode == 5, refused.stdout + refused.stderr
        assert (
            "is being run by attempt 1 on gpubox (process on far), which keeps it there and was last heard of" in refused.stderr
        )
        asked = cli("stop", current.job.id)
        assert asked.returncode == 0, asked.stderr
        assert asked.stderr == ""
    stopped = cli("stop", current.job.id, "--wait")
    assert stopped.returncode == 0 or "there is nothing to stop" in stopped.stderr, stopped.stderr
    wait_until(lambda: "stopped" in cli("status", current.job.id).stdout)
    assert [attempt.reason for attempt in current.job.attempts.all()] == ["stop_requested"]
    assert_whole(current.job)
    assert list(box.copies.iterdir()) == []
    resumed = cli("resume", current.job.id, *HERE)
    assert resumed.returncode == 0, resumed.stdout + resumed.stderr
    assert "going on from checkpoint" in resumed.stdout
    assert_same(current.job, uninterrupted)


def test_nobody_looks_until_it_has_ended_and_sync_fetches_all(cli: Cli, box: Box, tiny: Path, uninterrupted: Any) -> None:
    """Then it goes on there, with more epochs, from what is here."""
    begun = cli("submit", tiny, *RELAY, *LONGER, "--detach")
    assert begun.returncode == 0, begun.stdout + begun.stderr
    job = the_job(box)
    refused = cli("host", "clean", "far")
    assert refused.returncode == 6
    wait_until(lambda: not is_at_work(job))
    assert job.attempts.all()[-1].open
    refused = cli("host", "clean", "far")
    assert f"{job.id} was kept there, and not all of it fetched: lastrun sync JOB fetches it" in refused.stderr
    synced = cli("sync", job.id, "--json")
    assert synced.returncode == 0, synced.stderr
    assert json.loads(synced.stdout)["fetched"] > 5
    assert "nothing was waiting" in cli("sync", job.id).stdout
    facts = json.loads(cli("status", job.id, "--json").stdout)
    assert (facts["state"], facts["relay"]) == ("succeeded", None)
    assert_same(job, uninterrupted)
    more = ("--set", "training.epochs=4", "--allow-change", "training.epochs")
    again = cli("resume", job.id, *RELAY, *more)
    assert again.returncode == 0, again.stdout + again.stderr
    assert "going on from checkpoint" in again.stdout
    assert [metrics["epoch"] for metrics in job.metrics()] == [1, 2, 3, 4]
    assert list(box.copies.iterdir()) == []


def test_a_host_that_is_gone_keeps_its_job_unless_somebody_takes_it(cli: Cli, box: Box, tiny: Path, uninterrupted: Any) -> None:
    assert cli("submit", tiny, *RELAY, *LONGER, "--detach").returncode == 0
    asking = threading.Thread(target=lambda: cli("status", the_job(box).id, "-w"), daemon=True)
    asking.start()
    with box.held() as job:
        box.is_gone()
        time.sleep(3.5)  # beats that are not heard
        told = " ".join(cli("status", job.id).stdout.split())
        assert "state running" in told
        assert "s ago is here; far: ssh does not get there" in told, told
        takes = f"if it is gone for good, lastrun resume {job.id} --takeover goes on from what is here"
        assert f"next lastrun sync {job.id} once it is back; {takes}" in told, told
        synced = cli("sync", job.id)
        assert (synced.returncode, takes in synced.stderr) == (6, True), synced.stderr
        asked = cli("stop", job.id)
        assert (asked.returncode, takes in asked.stderr) == (0, True), asked.stderr
        refused = cli("resume", job.id, *HERE)
        assert refused.returncode == 5, refused.stdout + refused.stderr
        assert "ago (far: ssh does not get there" in refused.stderr
        assert "what it has trained since is not here, and not gone on with if you take it" in refused.stderr

        taken = cli("resume", job.id, *HERE, "--takeover")
        assert taken.returncode == 0, taken.stdout + taken.stderr
        assert "going on from what is here" in taken.stderr
        assert_same(job, uninterrupted)
        asking.join()
        box.is_back()
        assert cli("sync", job.id).returncode == 0  # it is told before it can end by itself
    wait_until(lambda: not is_at_work(job))
    assert cli("sync", job.id).returncode == 0
    ends = [(attempt.phase, attempt.reason, attempt.message) for attempt in Job(job.store, job.id).attempts.all()]
    assert [end[:2] for end in ends] == [("ended", "lease_lost"), ("ended", "completed")], ends
    assert_same(job, uninterrupted)
    assert list(box.copies.iterdir()) == []


def test_an_attempt_that_is_killed_there_is_told_of_here_and_loses_nothing(
    cli: Cli, box: Box, tiny: Path, uninterrupted: Any
) -> None:
    assert cli("submit", tiny, *RELAY, *LONGER, "--detach").returncode == 0
    job = the_job(box)
    wait_until(lambda: list(box.copies.glob("*/*/checkpoints/*/MANIFEST.json")))
    [attempt] = job.attempts.all()
    os.kill(attempt.pid, signal.SIGKILL)
    wait_until(lambda: not is_at_work(job))
    there = {path.parent.name for path in box.copies.glob("*/*/checkpoints/*/MANIFEST.json")}
    wait_until(lambda: "lost" in cli("status", job.id).stdout)
    [attempt] = Job(job.store, job.id).attempts.all()
    assert (attempt.phase, attempt.message) == ("lost", "its process on far was killed")
    assert {stored.name for stored in job.checkpoints.written()} >= there
    assert cli("resume", job.id, *RELAY).returncode == 0
    assert_same(job, uninterrupted)


def test_a_host_that_lies_writes_nothing_of_the_job_but_its_own(cli: Cli, box: Box, tiny: Path) -> None:
    assert cli("submit", tiny, *RELAY, "--detach", "--set", "training.epochs=5000").returncode == 0
    job = the_job(box)
    [attempt] = job.attempts.all()
    other = "0001-ffffffff"

    def says(attempt_id: str, *keys: str) -> None:
        told = {
            "alive": True,
            "code": None,
            "known": True,
            "id": attempt_id,
            "root": "/",
            "objects": [[k, 2, "x"] for k in keys],
        }
        given = "".join(f'["{key}", 2]\\n{{}}' for key in keys)
        lies = "".join(
            f"*relay-{verb}*) printf '\\nlastrun-begins\\n{text}'; exit;; "
            for verb, text in (("tell", json.dumps(told)), ("give", given))
        )
        box.shell_runs(f'case "$BASH_EXECUTION_STRING" in {lies} esac\n')

    def files() -> dict[str, bytes]:
        return {key: job.store.get(key) for key in (entry.key for entry in job.store.scan("")) if "heartbeat" not in key}

    with at_rest(job):
        before = files()
        says(other, job.paths.end(other))
        lied = cli("sync", job.id)
        assert (lied.returncode, f"it tells of attempt {other}, which was not begun there" in lied.stderr) == (6, True), lied
        own = job.paths.attempt(attempt.id, "log", "../attempt.json")
        says(attempt.id, job.paths.record, "x/job.json", own, job.paths.end(other), job.paths.checkpoint(f"00000001-{other}"))
        lied = cli("sync", job.id)
        assert lied.returncode == 0, lied.stderr
        assert files() == before
    box.is_back()
    stopped = cli("stop", job.id, "--wait")
    assert stopped.returncode == 0, stopped.stderr
    assert "stopped" in stopped.stdout


def test_where_a_relay_makes_no_sense_is_told(cli: Cli, box: Box, tiny: Path, tmp_path: Path) -> None:
    refused = cli("submit", tiny, "--relay")
    assert refused.returncode == 2
    assert "--relay: found launcher local; --relay is for a host that ssh reaches: --on HOST" in refused.stderr
    refused = cli("submit", tiny, *RELAY, "--set", "sweep.seeds=2")
    assert refused.returncode == 2
    assert "is a sweep: found --relay, which is for one job" in refused.stderr
    refused = cli("submit", tiny, *RELAY, "--store", "s3://bucket/prefix")
    assert refused.returncode == 2
    assert "--relay is for one that is a folder here" in refused.stderr
    assert "or --relay, which keeps the job there and fetches what comes" in cli("submit", tiny, "--on", "far").stderr
    assert list(box.store.iterdir()) == []
