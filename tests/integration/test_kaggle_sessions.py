"""Sessions of Kaggle that are begun from here: its own client, a stand-in of its server, the pushed script run for real in a
stand-in of its file system; with a real bucket, and with nothing but the account."""

from __future__ import annotations

import json
import os
import re
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from runner.job.find import list_jobs
from runner.job.job import Job
from runner.store.directory import DirectoryStore
from runner.store.open import open_store
from tests.conftest import Cli
from tests.jobs import (
    LONGER,
    assert_same,
    jobs_in,
    python_without_lastrun,
    slow_python,
    some_step_is_stored,
    stand_still,
    trainer_of,
    wait_until,
)

if TYPE_CHECKING:
    from tests.kaggle_server import KaggleServer, Pushed

pytestmark = pytest.mark.slow
CPU = ("--launcher", "kaggle", "--set", "run.gpus=0")
REFERENCE = Path(__file__).parents[2] / "jobs" / "base_ntu60_kaggle.yaml"
SHORT = ("--set", "training.epochs=1")


def job_there(session: Pushed) -> Job | None:
    """The job as a session has it, where it went along."""
    jobs = jobs_in(DirectoryStore(session.working / "lastrun"))
    return jobs[0] if jobs else None


def has_saved_there(session: Pushed) -> bool:
    """Whether its attempt has stored a checkpoint of its own in the middle of an epoch."""
    job = job_there(session)
    attempts = job.attempts.all() if job is not None else []
    return job is not None and any(
        stored.attempt == attempts[-1].id and stored.manifest.step % 24 for stored in job.checkpoints.all() if attempts
    )


@contextmanager
def cut(session: Pushed) -> Iterator[None]:
    """Its time is over while it trains: however slow this machine is, it has saved something of its own, and is not done."""
    wait_until(lambda: has_saved_there(session))
    job = job_there(session)
    assert job is not None
    trainer = trainer_of(job)
    stand_still(trainer)
    yield
    wait_until(lambda: job.attempts.heartbeat(job.attempts.all()[-1]).get("stopping"))
    os.kill(trainer, signal.SIGCONT)


def test_nine_hours_after_nine_hours_with_nothing_but_an_account_come_to_the_same_bits(
    kaggle_server: KaggleServer, run: Any, cli: Cli, tiny: Path, uninterrupted: Any
) -> None:
    kaggle_server.cuts = 2
    settings = ("run.auto_continue=9", "hardware.session_limit=50", "hardware.stop_margin=20")
    current = run("submit", tiny, *CPU, *LONGER, *settings)
    wait_until(lambda: kaggle_server.sessions())
    first = kaggle_server.sessions()[0]
    with cut(first):
        second = cli("resume", current.job.id, "--launcher", "local")
    assert second.returncode == 5, second.stdout + second.stderr
    assert "is being run by attempt 1 on Kaggle (Kaggle session me/lastrun-tiny-" in second.stderr
    wait_until(lambda: len(kaggle_server.sessions()) == 2 or current.process.poll() is not None)
    code, out = current.end()
    assert code == 0, out
    assert "time_limit; continued by itself (1 of 9, run.auto_continue)" in " ".join(out.split())
    reasons = [attempt.reason for attempt in current.job.attempts.all()]
    assert reasons == ["time_limit"] * (len(reasons) - 1) + ["completed"]  # a busy machine may take more of them
    assert current.job.attempts.all()[1].resumed_step > 0
    assert_same(current.job, uninterrupted)
    [code_set] = kaggle_server.datasets  # that of the attempts are gone
    assert code_set.startswith("me/lastrun-code-")
    assert not list((tiny.parent / ".local/share/lastrun/kaggle").glob("????????.*"))  # notes, and halves
    for session in kaggle_server.sessions():
        assert session.request.session_timeout_seconds == 50
        assert not session.request.enable_gpu


def test_what_runs_in_the_background_comes_here_when_somebody_looks(
    kaggle_server: KaggleServer, run: Any, cli: Cli, tiny: Path, clean_env: dict[str, str]
) -> None:
    done = cli("submit", tiny, *CPU, *SHORT, "--detach")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "what it trains is fetched when it has ended" in done.stdout
    [job] = jobs_in(open_store(clean_env["LASTRUN_STORE"]))
    [session] = kaggle_server.sessions()
    wait_until(lambda: session.state == "COMPLETE")
    kaggle_server.cuts = 1
    wait_until(lambda: "completed" in cli("status", job.id).stdout)
    assert len(kaggle_server.datasets) == 1

    kaggle_server.machines = False
    current = run("resume", job.id, *CPU, "training.epochs=2", "--allow-change", "training.epochs")
    wait_until(lambda: len(kaggle_server.sessions()) == 2 and len(kaggle_server.datasets) == 2)
    wait_until(lambda: len(job.attempts.all()) == 2)
    asked = cli("stop", job.id)
    assert (asked.returncode, asked.stdout) == (6, "")
    assert f"{job.id} goes on: its Kaggle session me/lastrun-{job.id} hears of no request, since its job is" in asked.stderr
    assert f"https://www.kaggle.com/code/me/lastrun-{job.id}, Cancel Run, ends it without what it has trained" in asked.stderr
    [told] = json.loads(cli("stop", job.id, "--json").stdout)["jobs"]
    assert told == {"id": job.id, "asked": None, "state": "running"}
    current.press_ctrl_c()
    code, out = current.end()
    assert code == 6, out
    assert "its Kaggle session goes on by itself, and lastrun status" in " ".join(out.split())
    kaggle_server.cancel(kaggle_server.sessions()[1])
    wait_until(lambda: "ended as CANCEL_ACKNOWLEDGED" in " ".join(cli("status", job.id).stdout.split()))
    assert len(kaggle_server.datasets) == 1

    kaggle_server.after_push = [500]  # what has begun is not to be begun again
    begun = cli("resume", job.id, *CPU, "training.epochs=2", "--allow-change", "training.epochs", "--detach")
    assert begun.returncode == 0, begun.stdout + begun.stderr
    unsure = "started; nobody tells now whether it waits or runs (Kaggle: it answers with error 500 (made up for tests))"
    assert f"{unsure}; lastrun status {job.id}\n" in begun.stdout
    assert len(kaggle_server.sessions()) == 3


def test_a_session_that_ends_before_its_attempt_leaves_no_job_that_runs_for_ever(
    kaggle_server: KaggleServer, cli: Cli, tiny: Path, clean_env: dict[str, str]
) -> None:
    kaggle_server.python = "/bin/false"
    done = cli("submit", tiny, *CPU, *SHORT)
    assert done.returncode == 1, done.stdout + done.stderr
    [job] = jobs_in(open_store(clean_env["LASTRUN_STORE"]))
    assert "ended as ERROR" in " ".join(cli("status", job.id).stdout.split())
    assert [attempt.phase for attempt in job.attempts.all()] == ["lost"]
    assert len(kaggle_server.datasets) == 1


def test_a_session_without_lastrun_gets_this_very_one_and_one_without_a_gpu_does_not_train_on_something_else(
    kaggle_server: KaggleServer, cli: Cli, tiny: Path, tmp_path: Path
) -> None:
    kaggle_server.python, packages = python_without_lastrun(tmp_path / "image")
    done = cli("submit", tiny, *CPU, *SHORT)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "bringing lastrun" in done.stdout
    assert not (packages / "runner").is_symlink()
    without = cli("submit", tiny, "--launcher", "kaggle", *SHORT)
    assert without.returncode == 6, without.stdout + without.stderr
    assert "no_gpu at step 0 of 0: hardware.device is cuda, but torch" in without.stdout
    request = kaggle_server.sessions()[1].request
    assert (request.machine_shape, request.enable_gpu, request.session_timeout_seconds) == ("NvidiaTeslaT4", True, 9 * 3600)
    assert len(kaggle_server.datasets) == 1


@pytest.mark.xdist_group("clouds")
def test_what_waits_for_a_machine_is_told_and_where_it_is_taken_back(
    bucket: str, kaggle_server: KaggleServer, cli: Cli, tiny: Path, clean_env: dict[str, str], tmp_path: Path
) -> None:
    kaggle_server.machines = False
    done = cli("submit", tiny, *CPU, "--detach", "--yes-private-dataset")
    assert done.returncode == 0, done.stdout + done.stderr
    [job] = list_jobs(open_store(clean_env["LASTRUN_STORE"]))
    told = f"Kaggle session me/lastrun-{job.id} waits for a machine"
    assert told in done.stdout
    page = f"(https://www.kaggle.com/code/me/lastrun-{job.id}, Cancel Run, takes it back)"
    assert f"{told} {page}" in " ".join(cli("status", job.id).stdout.split())
    again = cli("resume", job.id)
    assert again.returncode == 5
    only = f"only its page takes it back: https://www.kaggle.com/code/me/lastrun-{job.id}, Cancel Run"
    assert f"{told}; {only}" in again.stderr
    stopped = cli("stop", job.id)
    assert (stopped.returncode, stopped.stderr) == (0, "")
    assert (
        f"{job.id}: {told} {page}; what waits there leaves as soon as it has begun, which lastrun status {job.id} tells"
        in stopped.stdout
    )
    for everything in ("--all", job.id):
        [asked] = json.loads(cli("stop", everything, "--json").stdout)["jobs"]
        assert asked == {"id": job.id, "asked": "save", "state": "queued"}
    kaggle_server.busy = [503]
    told = json.loads(cli("stop", job.id, "--json").stdout)
    assert told["jobs"] == [{"id": job.id, "asked": "save", "state": "queued"}]
    assert "launcher kaggle cannot tell what waits: " in " ".join(told["problems"])
    kaggle_server.busy = []
    kaggle_server.asked_for.clear()
    assert cli("list", HOME=str(tiny.parent / "another")).returncode == 0
    assert kaggle_server.asked_for == []  # nothing was started from there
    kaggle_server.give_machines()
    [session] = kaggle_server.sessions()
    wait_until(lambda: session.state != "RUNNING")
    assert [attempt.reason for attempt in job.attempts.all()] == ["stop_requested"], session.log

    kaggle_server.python, go_on = slow_python(tmp_path / "slow")
    done = cli("resume", job.id, "--detach")
    assert done.returncode == 0, done.stdout + done.stderr
    told = f"Kaggle session me/lastrun-{job.id} is being set up"
    assert told in done.stdout
    assert f"{told} {page}" in " ".join(cli("status", job.id).stdout.split())
    stopped = cli("stop", job.id)
    assert f"{job.id}: {told} {page}; what waits there leaves as soon as it has begun" in stopped.stdout
    go_on()
    wait_until(lambda: kaggle_server.sessions()[-1].state != "RUNNING")
    assert [attempt.reason for attempt in job.attempts.all()] == ["stop_requested"] * 2


@pytest.mark.xdist_group("clouds")
def test_who_asks_while_a_session_is_begun_is_heard(
    bucket: str, kaggle_server: KaggleServer, run: Any, cli: Cli, tiny: Path, clean_env: dict[str, str]
) -> None:
    kaggle_server.slow = 10**6
    current = run("submit", tiny, *CPU, "--yes-private-dataset")
    wait_until(lambda: kaggle_server.datasets)
    kaggle_server.unready = dict.fromkeys(kaggle_server.datasets, 0)  # the code
    wait_until(lambda: len(kaggle_server.datasets) == 2)
    job = current.job
    stopped = cli("stop", job.id)
    assert (stopped.returncode, stopped.stderr) == (0, "")
    assert f"{job.id}: Kaggle session me/lastrun-{job.id} is being begun by process {current.process.pid}; " in stopped.stdout
    assert f"what waits there leaves as soon as it has begun, which lastrun status {job.id} tells" in stopped.stdout
    assert kaggle_server.sessions() == []
    kaggle_server.unready = dict.fromkeys(kaggle_server.datasets, 0)
    code, out = current.end()
    assert code == 75, out
    assert [attempt.reason for attempt in job.attempts.all()] == ["stop_requested"]


@pytest.mark.xdist_group("clouds")
def test_a_private_data_set_has_the_keys_as_long_as_the_session_runs_and_nothing_else_has(
    bucket: str, kaggle_server: KaggleServer, run: Any, cli: Cli, tiny: Path, clean_env: dict[str, str], uninterrupted: Any
) -> None:
    clean_env["MY_TOKEN"] = "nobody-may-see-this"
    current = run("submit", tiny, *CPU, *LONGER, "run.pass_env=[MY_TOKEN]", "--yes-private-dataset")
    wait_until(lambda: len(kaggle_server.datasets) == 2)  # the code, and what is this session's own
    [own] = [files for ref, files in kaggle_server.datasets.items() if "code" not in ref]
    assert json.loads(own["lastrun-variables.json"])["MY_TOKEN"] == "nobody-may-see-this"
    code, out = current.interrupt()
    assert code == 75, out
    [attempt] = current.job.attempts.all()
    assert attempt.reason == "stop_requested"
    assert len(kaggle_server.datasets) == 1
    shown = kaggle_server.everything + out + "".join(kaggle_server.sessions()[0].log)
    here = [path.read_bytes().decode("latin-1") for path in (tiny.parent / ".local").rglob("*") if path.is_file()]
    for secret in ("nobody-may-see-this", clean_env["AWS_SECRET_ACCESS_KEY"], kaggle_server.key):
        assert [text for text in (shown, *here) if secret in text] == []
    more = cli("resume", current.job.id)  # another session
    assert more.returncode == 0, more.stdout + more.stderr
    assert [one.reason for one in current.job.attempts.all()] == ["stop_requested", "completed"]
    assert_same(current.job, uninterrupted)

    # Who is killed after the data set was made, and before there is a session, has left a note of it.
    kaggle_server.machines = False
    killed = run("submit", tiny, *CPU, *SHORT, "run.pass_env=[MY_TOKEN]", "--yes-private-dataset")
    wait_until(lambda: len(kaggle_server.sessions()) == 3)
    os.killpg(killed.process.pid, signal.SIGKILL)
    killed.process.communicate()
    assert len(kaggle_server.datasets) == 2
    kaggle_server.cancel(kaggle_server.sessions()[2])
    kaggle_server.refusal = "Maximum batch CPU session count of 5 reached."
    refused = cli("submit", tiny, *CPU, *SHORT, "run.pass_env=[MY_TOKEN]", "--yes-private-dataset")
    assert refused.returncode == 6
    assert "as many sessions of yours run as may" in refused.stderr
    assert len(kaggle_server.datasets) == 1  # neither of both has left one

    kaggle_server.refusal, kaggle_server.machines = None, True
    alone = cli("submit", tiny, *CPU, *SHORT, "run.pass_env=[MY_TOKEN]", "--yes-private-dataset", "--detach")
    assert alone.returncode == 0, alone.stdout + alone.stderr
    wait_until(lambda: kaggle_server.sessions()[-1].state == "COMPLETE")
    assert len(kaggle_server.datasets) == 2  # nobody has followed it
    newest = next(iter(list_jobs(open_store(clean_env["LASTRUN_STORE"]))))
    wait_until(lambda: "completed" in cli("status", newest.id).stdout)
    assert len(kaggle_server.datasets) == 1


@pytest.mark.xdist_group("clouds")
def test_another_push_ends_no_session_but_who_has_lost_the_job_leaves(
    bucket: str, kaggle_server: KaggleServer, run: Any, cli: Cli, tiny: Path, uninterrupted: Any
) -> None:
    old = run("submit", tiny, *CPU, *LONGER, "--yes-private-dataset")
    with old.held(some_step_is_stored):
        job = old.job
        new = cli("resume", job.id, "--takeover")
        assert new.returncode == 0, new.stdout + new.stderr
        code, out = old.end()
    assert code == 5, out
    first, second = kaggle_server.sessions()
    wait_until(lambda: first.state != "RUNNING")
    assert "lease_lost" in "".join(first.log)
    assert (first.state, second.state) == ("ERROR", "COMPLETE")
    assert_same(job, uninterrupted)
    assert len(kaggle_server.datasets) == 1  # the keys of both are gone


@pytest.mark.xdist_group("clouds")
def test_secrets_are_attached_in_the_page_of_each_session(
    bucket: str, kaggle_server: KaggleServer, cli: Cli, tiny: Path, clean_env: dict[str, str]
) -> None:
    refused = cli("submit", tiny, *CPU, *SHORT, "run.auto_continue=3")
    assert refused.returncode == 2
    needed = "AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY"
    assert f"run.auto_continue: found 3; a session finds {needed} only once you have attached them" in refused.stderr
    done = cli("submit", tiny, *CPU, *SHORT)
    assert done.returncode == 2, done.stdout + done.stderr
    assert f"a push attaches no secrets, so the session ends at once for want of {needed}; attach them then" in done.stderr
    [job] = list_jobs(open_store(clean_env["LASTRUN_STORE"]))
    page = f"https://www.kaggle.com/code/me/lastrun-{job.id}"
    told = f"secrets {needed} are not attached to this script: nothing was trained. A push attaches none: open {page}, Edit, "
    assert told in " ".join(done.stdout.split())
    slug = kaggle_server.sessions()[0].request.slug
    begun = kaggle_server.save_version(slug, {name: clean_env[name] for name in needed.split(", ")})
    wait_until(lambda: begun.state != "RUNNING")
    assert [attempt.reason for attempt in job.attempts.all()] == ["completed"], begun.log


def test_of_two_that_begin_a_job_at_once_one_has_a_session(kaggle_server: KaggleServer, run: Any, tiny: Path, cli: Cli) -> None:
    kaggle_server.machines = False
    kaggle_server.answers_pushes.clear()
    first = run("submit", tiny, *CPU, *SHORT)
    wait_until(lambda: kaggle_server.sessions())
    kaggle_server.cancel(kaggle_server.sessions()[0])
    kaggle_server.answers_pushes.set()
    assert first.end()[0] == 1
    both = [run("resume", first.job.id) for _ in range(2)]
    wait_until(lambda: any(one.process.poll() == 5 for one in both))
    kaggle_server.give_machines()
    assert sorted(one.end()[0] for one in both) == [0, 5]
    assert len(kaggle_server.sessions()) == 2
    assert [attempt.phase for attempt in first.job.attempts.all()] == ["lost", "ended"]


def test_its_profile_alone_begins_a_session_where_this_is_no_kaggle(
    kaggle_server: KaggleServer, run: Any, cli: Cli, tiny: Path
) -> None:
    """Which is fetched by who has slept meanwhile, too."""
    words = ("--env", "kaggle", "--set", "run.gpus=0", "training.epochs=1")
    shown = cli("submit", tiny, *words, "--dry-run")
    assert "with launcher kaggle; nothing was written" in shown.stdout, shown.stdout + shown.stderr
    assert kaggle_server.sessions() == []
    current = run("submit", tiny, *words)
    wait_until(lambda: kaggle_server.sessions())
    [session] = kaggle_server.sessions()
    os.killpg(current.process.pid, signal.SIGSTOP)  # as long as a laptop sleeps
    wait_until(lambda: session.state == "COMPLETE")
    os.killpg(current.process.pid, signal.SIGCONT)
    code, out = current.end()
    assert code == 0, out
    assert "a session of Kaggle is begun instead (--here trains on this machine with that profile)" in " ".join(out.split())
    [attempt] = current.job.attempts.all()
    assert (attempt.launcher, attempt.env, attempt.reason) == ("kaggle", "kaggle", "completed")
    alone = cli("submit", tiny, *words, "--here", "--dry-run")
    assert "with launcher local; nothing was written" in alone.stdout


def test_who_is_cut_off_while_it_begins_a_session_has_forgotten_nothing(
    kaggle_server: KaggleServer, run: Any, cli: Cli, tiny: Path, clean_env: dict[str, str]
) -> None:
    """With a folder here, where the job goes along."""

    def told(*words: str) -> str:
        done = cli(*words)
        return " ".join((done.stdout + done.stderr).split())

    def age() -> None:
        """For a moment Kaggle may not know of a session that has begun, or of the one before alone."""
        [note] = (tiny.parent / ".local/share/lastrun/kaggle").glob("????????.json")
        os.utime(note, (0, time.time() - 60))

    kaggle_server.machines = False
    kaggle_server.answers_pushes.clear()
    pressed = run("submit", tiny, *CPU, *SHORT)
    wait_until(lambda: kaggle_server.sessions())
    pressed.press_ctrl_c()
    code, out = pressed.end()
    assert code == 75, out
    job = pressed.job
    where = f"https://www.kaggle.com/code/me/lastrun-{job.id}, Cancel Run"
    assert "interrupted while its session was begun; it was pushed all the same, and only its page ends it: " in out
    assert f"{where} (Kaggle session me/lastrun-{job.id} waits for a machine); lastrun status {job.id} tells the rest" in out
    assert "before its attempt began" not in out
    assert f"the rest is fetched once it has ended; {where}, ends it without that" in told("status", job.id)
    assert where in told("resume", job.id, "--takeover")
    kaggle_server.cancel(kaggle_server.sessions()[0])
    wait_until(lambda: "ended as CANCEL_ACKNOWLEDGED" in told("status", job.id))
    assert len(kaggle_server.datasets) == 1  # the code

    killed = run("resume", job.id)
    wait_until(lambda: len(kaggle_server.sessions()) == 2)
    os.killpg(killed.process.pid, signal.SIGKILL)
    killed.process.communicate()
    kaggle_server.answers_pushes.set()
    assert f"is being run by attempt 2 on Kaggle (Kaggle session me/lastrun-{job.id})" in told("resume", job.id)
    kaggle_server.give_machines()
    wait_until(lambda: kaggle_server.sessions()[1].state == "COMPLETE")
    age()
    wait_until(lambda: "completed" in told("status", job.id))
    assert len(kaggle_server.datasets) == 1

    kaggle_server.slow = 10**6
    left = run("submit", tiny, *CPU, *SHORT)
    wait_until(lambda: len(kaggle_server.datasets) == 2)
    left.press_ctrl_c()
    code, out = left.end()
    assert (code, len(kaggle_server.datasets)) == (75, 1)
    assert f"interrupted before its attempt began; lastrun resume {left.job.id} begins it" in out
    kaggle_server.busy_at["DeleteDataset"] = [500]
    left = run("resume", left.job.id)
    wait_until(lambda: len(kaggle_server.datasets) == 2)
    left.press_ctrl_c()
    code, out = left.end()
    assert (code, len(kaggle_server.datasets)) == (75, 2)
    assert "interrupted while its session was begun; data set me/lastrun-" in out
    age()
    there = set(kaggle_server.datasets)
    again = run("submit", tiny, *CPU, *SHORT)  # killed before there is a session
    wait_until(lambda: len(set(kaggle_server.datasets) - there) == 1)
    assert len(kaggle_server.datasets) == 2  # what was left has gone first
    os.killpg(again.process.pid, signal.SIGKILL)
    again.process.communicate()
    age()
    assert "is there no more" in told("status", again.job.id)
    assert len(kaggle_server.datasets) == 1
    assert not list((tiny.parent / ".local/share/lastrun/kaggle").glob("????????.json"))


def test_a_session_that_began_without_one_of_its_data_sets_is_not_forgotten(
    kaggle_server: KaggleServer, cli: Cli, tiny: Path, clean_env: dict[str, str]
) -> None:
    """Kaggle says of a data set that there is none, and begins it all the same."""
    kaggle_server.machines = False
    done = cli("submit", tiny, *CPU, "run.kaggle.datasets=[me/nothing]")
    [job] = jobs_in(DirectoryStore(Path(clean_env["LASTRUN_STORE"])))
    where = f"https://www.kaggle.com/code/me/lastrun-{job.id}, Cancel Run"
    assert done.returncode == 6
    assert "no such data set, or none that you may read: me/nothing; it was pushed all the same, and " in done.stderr
    assert f"only its page ends it: {where} (Kaggle session me/lastrun-{job.id} waits for a machine); " in done.stderr
    assert len(kaggle_server.datasets) == 2  # the code, and what it needs
    assert "is being run by attempt 1 on Kaggle" in cli("resume", job.id).stderr
    kaggle_server.cancel(kaggle_server.sessions()[0])
    assert "ended as CANCEL_ACKNOWLEDGED" in " ".join(cli("status", job.id).stdout.split())
    assert len(kaggle_server.datasets) == 1


def test_a_session_that_kaggle_does_not_know_yet_is_not_forgotten(
    kaggle_server: KaggleServer, run: Any, cli: Cli, tiny: Path, clean_env: dict[str, str]
) -> None:
    """Of a push that nobody has heard of it tells a moment later; till then of none, or of the session before."""
    notes = tiny.parent / ".local/share/lastrun/kaggle"

    def pass_over(seconds: float) -> None:
        [note] = notes.glob("????????.json")
        os.utime(note, (0, time.time() - seconds))

    kaggle_server.machines, kaggle_server.is_behind, kaggle_server.lost_pushes = False, True, 1
    done = cli("submit", tiny, *CPU)
    [job] = jobs_in(DirectoryStore(Path(clean_env["LASTRUN_STORE"])))
    page = f"https://www.kaggle.com/code/me/lastrun-{job.id}"
    may = f"it may have been pushed all the same: {page}; lastrun status {job.id} tells the rest"
    assert done.returncode == 6
    assert f"; {may}" in done.stderr
    assert (len(kaggle_server.datasets), len(list(notes.glob("????????.json")))) == (2, 1)
    pass_over(-600)  # however long commands take here
    assert "is being run by attempt 1 on Kaggle" in cli("resume", job.id).stderr
    kaggle_server.is_behind = False
    assert f"{page}, Cancel Run, ends it without that" in " ".join(cli("status", job.id).stdout.split())
    kaggle_server.cancel(kaggle_server.sessions()[0])
    assert "ended as CANCEL_ACKNOWLEDGED" in " ".join(cli("status", job.id).stdout.split())

    kaggle_server.answers_pushes.clear()
    pressed = run("resume", job.id)
    wait_until(lambda: len(kaggle_server.sessions()) == 2)
    pass_over(60)  # its data set took long
    kaggle_server.is_behind = True
    pressed.press_ctrl_c()
    code, out = pressed.end()
    assert code == 75, out
    assert f"interrupted while its session was begun; {may}" in out
    assert time.time() - next(notes.glob("????????.json")).stat().st_mtime < 60
    pass_over(-600)
    assert "is being run by attempt 2 on Kaggle" in cli("resume", job.id).stderr
    kaggle_server.cancel(kaggle_server.sessions()[1])
    kaggle_server.is_behind = False
    pass_over(60)
    assert "ended as CANCEL_ACKNOWLEDGED" in " ".join(cli("status", job.id).stdout.split())
    assert (len(kaggle_server.datasets), list(notes.glob("????????.json"))) == (1, [])


def test_what_will_not_do_is_told_before_anything_is_used(
    kaggle_server: KaggleServer, cli: Cli, tiny: Path, clean_env: dict[str, str]
) -> None:
    def refused(*words: str, **env: str) -> str:
        done = cli("submit", tiny, "--launcher", "kaggle", *words, **env)
        assert done.returncode in (2, 6), done.stdout + done.stderr
        assert "Traceback" not in done.stderr
        return " ".join(done.stderr.split())

    told = json.loads(cli("gpus", "--json").stdout)
    gpu = next(row for row in told["offers"] if row["machine"] == "session")
    assert re.fullmatch(r"\d+\.\d h of GPU left( until .* UTC| this week)", gpu["left"])
    assert (gpu["gpus"], gpu["dollars"], gpu["words"]) == ("2 x T4", 0.0, "--launcher kaggle")
    assert f"2 x T4; {gpu['left']}" in " ".join(cli("gpus", COLUMNS="200").stdout.split())
    assert re.search(r"kaggle T4: on kaggle session free: .* \(kaggle tells it\)", cli("plan", tiny, "--live").stdout)
    assert "kaggle auth login, or kaggle.com/settings" in refused(KAGGLE_KEY="")
    assert "it does not take your key" in refused("--set", "run.gpus=1", KAGGLE_KEY="another")
    assert "Kaggle does not answer" in refused(HTTP_PROXY="http://127.0.0.1:1")
    assert "Kaggle ends a session after 12 h" in refused("--set", "hardware.session_limit=20h")
    nobody = refused("--set", "run.pass_env=[MY_TOKEN]", MY_TOKEN="x")
    assert f"store file://{tiny.parent}/store: a session needs MY_TOKEN, which nobody can attach in its page" in nobody
    assert "--yes-private-dataset hands them over, or take a bucket" in nobody
    nothing = cli("submit", REFERENCE, "--launcher", "kaggle", "--dry-run").stdout
    assert "it could not start here: data: no data set has ntu60: make a private data set" in " ".join(nothing.split())
    kaggle_server.hours = 6.04
    assert (
        "6.0 h of GPU left until 2026-12-05 00:00 UTC, and the session may take 9h00m; --set hardware.session_limit=6h"
        in refused()
    )
    assert kaggle_server.sessions() == []
    kaggle_server.hours, kaggle_server.refusal = 30, "Phone verification is required"
    assert "your account has no verified phone" in refused()
    assert list(kaggle_server.datasets) == [ref for ref in kaggle_server.datasets if "code" in ref]
    kaggle_server.refusal = None
    elsewhere = cli("submit", tiny, "--env", "kaggle", KAGGLE_KEY="")
    assert elsewhere.returncode == 2
    assert "(--launcher kaggle gets one; or in a notebook there, see docs/kaggle.md)" in " ".join(elsewhere.stderr.split())
    words = ("--launcher", "kaggle", "--set", "run.kaggle.datasets=[me/ntu60]", "--dry-run", "--json")
    shown = cli("submit", REFERENCE, *words, KAGGLE_KEY="", KAGGLE_API_TOKEN=kaggle_server.key)
    assert shown.returncode == 0, shown.stderr
    assert "two T4 for 9h00m at most; 30.0 h of GPU left until 2026-12-05 00:00 UTC" in shown.stderr
    told = json.loads(shown.stdout)["order"]
    assert (told["account"], told["timeout"], told["secrets"]) == ("me", "32400 s", "none")
    assert told["data sets"].endswith(", me/lastrun-TOKEN, me/ntu60")
