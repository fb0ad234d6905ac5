"""What Slurm's programs say, read; what is asked of it, written. The cluster itself is in tests/integration/test_slurm.py."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from runner import machine
from runner.attempt.again import why_not_again
from runner.errors import EngineError
from runner.job.attempts import Attempt
from runner.job.job import Job
from runner.launch.settle import state_of, waits, withdraw
from runner.launch.slurm import login, queue
from runner.launch.slurm.batch import asked, job_name, script
from runner.launch.slurm.either import EitherLauncher
from runner.launch.slurm.launcher import SlurmLauncher
from runner.launch.slurm.queue import Queued, minutes_of
from runner.launch.ssh import notes
from runner.launch.ssh.setup import Host
from runner.launch.stopping import to_stop
from runner.machine import CONTAINER_VARIABLE
from runner.resolve import resolve_spec
from runner.store.directory import DirectoryStore
from runner.view.status import job_status
from tests.conftest import TINY, Cli


@pytest.mark.parametrize(
    ("text", "minutes"),
    [("1:00:00", 60), ("30:00", 30), ("2-12:00:00", 3600), ("00:59", 0), ("infinite", None), ("n/a", None), ("", None)],
)
def test_times_as_slurm_writes_them(text: str, minutes: int | None) -> None:
    assert minutes_of(text) == minutes


@pytest.mark.parametrize(
    ("state", "reason", "start", "told"),
    [
        (
            "PENDING",
            "Resources",
            "2026-11-28T10:00:00",
            "waits: no node with what it asks for is free, about 2026-11-28 10:00:00",
        ),
        ("PENDING", "JobHeldUser", "N/A", "waits: you hold it; scontrol release lets it go"),
        ("PENDING", "SomethingNew", "N/A", "waits: SomethingNew"),
        ("RUNNING", "None", "2026-11-28T10:00:00", ": running"),
    ],
)
def test_why_a_job_waits(state: str, reason: str, start: str, told: str) -> None:
    assert str(Queued("7", "lastrun-x", state, reason, start)) == f"Slurm job 7{'' if told[0] == ':' else ' '}{told}"


def test_what_slurm_says_steers_no_terminal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "squeue").write_text("#!/bin/sh\nprintf '7|lastrun-x|PENDING|\\033[2J|N/A\\nnonsense\\n'\n")
    (tmp_path / "squeue").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert [one.reason for one in queue.queued("lastrun-x")] == ["\\x1b[2J"]


@pytest.mark.parametrize(
    ("accounts", "state", "code"),
    [
        ("7|lastrun-x|CANCELLED by 0|0:0", "CANCELLED", 0),
        ("7|lastrun-x|FAILED|0:9", "FAILED", 0),
        ("7|lastrun-x|NODE_FAIL|1:0\n7|lastrun-x|TIMEOUT|75:0", "TIMEOUT", 75),
        ("7|lastrun-x|RUNNING|0:0", None, None),
        ("", None, None),
        (None, None, None),
    ],
)
def test_how_a_job_ended_that_only_the_accounts_know_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, accounts: str | None, state: str | None, code: int | None
) -> None:
    gone = "echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1"
    no_accounts = "echo 'Slurm accounting storage is disabled' >&2; exit 1"
    told = no_accounts if accounts is None else f"cat <<'END'\n{accounts}\nEND"
    for name, text in (("squeue", gone), ("scontrol", gone), ("sacct", told)):
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    found = queue.look("7")
    assert (found and found.state, queue.exit_code("7")) == (state, code)
    assert found is None or found.name == "lastrun-x"


def test_partitions_with_what_they_have(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [
        "gpu*|up|1-00:00:00|gpu:a100:4(S:0-1)",
        "gpu*|up|1-00:00:00|gpu:t4:2,shard:8",
        "cpu|up|infinite|(null)",
        "old|down|1:00|gpu:k80:1",
    ]
    (tmp_path / "sinfo").write_text("#!/bin/sh\ncat <<'END'\n" + "\n".join(rows) + "\nEND\n")
    (tmp_path / "sinfo").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    found = queue.partitions()
    assert set(found) == {"gpu", "cpu"}
    assert found["gpu"].default
    assert found["gpu"].minutes == 1440
    assert {"gpu", "gpu:a100", "gpu:t4"} <= found["gpu"].resources
    assert (found["cpu"].default, found["cpu"].minutes) == (False, None)
    assert not any(kind.startswith("gpu") for kind in found["cpu"].resources)


def test_what_is_asked_of_slurm(tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text(TINY)
    settings = ["run.launcher=slurm", "run.time_limit=9h", "run.memory=12g", "run.cpus=3.5", "run.slurm.account=lab"]
    config = resolve_spec(tmp_path / "job.yaml", "local", [*settings, "run.slurm.extra=[--exclude=n1]"]).config
    options = asked(config, "gpu:a100:1", "lastrun-x", tmp_path / "50%.log", ["PATH", "HF_TOKEN"])
    assert {"--time=540", "--mem=12G", "--cpus-per-task=4", "--account=lab", "--gres=gpu:a100:1"} <= set(options)
    assert {"--signal=B:USR1@600", "--requeue", "--open-mode=append", "--export=PATH,HF_TOKEN"} <= set(options)
    assert f"--output={tmp_path}/50%%.log" in options
    assert options[-1] == "--exclude=n1"
    text = script(options, "file:///store with a space/x", ["lastrun", "--set", "name='; reboot'"], 5)
    assert "'file:///store with a space/x'" in text
    assert text.startswith("#!/bin/sh\n#SBATCH --job-name=lastrun-x\n")


@pytest.mark.parametrize(
    ("restart", "changes", "told"),
    [
        (0, {}, None),
        (0, {"reason": "time_limit"}, None),
        (0, {"reason": "stop_requested"}, "it ended as stop_requested"),
        (0, {"reason": "completed"}, "it ended as completed"),
        (3, {}, "run.max_requeues is 3"),
        (0, {"resumed_step": 40}, "it has made no progress"),
        (0, {"container": {"launcher": "slurm", "name": "8", "restart": "0"}}, "another attempt has taken the job"),
    ],
)
def test_what_was_cut_is_begun_anew_while_it_gets_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, restart: int, changes: dict[str, object], told: str | None
) -> None:
    config = {
        "model.variant": "nano_e_v3",
        "dataset": "synthetic",
        "split_type": "xsub",
        "env": "local",
        "training.epochs": 5,
    }
    job = Job.create(DirectoryStore(tmp_path), "x", config, {}, "0")
    about = {"launcher": "slurm", "name": "7", "restart": str(restart)}
    attempt = Attempt("0001-aaaaaaaa", "m", 1, "1", 0.0, phase="ended", began=True, reason="preempted", container=about)
    attempt.scores = {"step": 40.0}
    for name, value in changes.items():
        setattr(attempt, name, value)
    job.attempts.write(attempt)
    monkeypatch.setenv(CONTAINER_VARIABLE, f'{{"launcher": "slurm", "name": "7", "restart": "{restart}"}}')
    why = why_not_again(job, most=3)
    assert why == told if told is None else why is not None and why.startswith(told)


def test_what_waits_is_seen_whatever_the_job_was_submitted_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = {"model.variant": "nano_e_v3", "dataset": "synthetic", "split_type": "xsub", "env": "local", "training.epochs": 5}
    job = Job.create(DirectoryStore(tmp_path / "store"), "x", {**config, "run.launcher": "local"}, {}, "0")
    for name, said in (("squeue", f"7|{job_name(job.id)}|PENDING|Resources|N/A"), ("scancel", "")):
        (tmp_path / name).write_text(f"#!/bin/sh\nprintf '%s\\n' '{said}' \"$*\" >>{tmp_path}/{name}.log\necho '{said}'\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert waits(job) == "Slurm job 7 waits: no node with what it asks for is free"
    assert withdraw(job) == ("Slurm job 7", [])
    assert (tmp_path / "scancel.log").read_text().split() == ["7"]
    assert job_status(job)["next"].startswith("lastrun status -w ")
    (tmp_path / "squeue").write_text(f"#!/bin/sh\necho '8|{job_name(job.id)}|RUNNING|None|N/A'\n")
    assert waits(job) == "Slurm job 8 has started, and its attempt is about to begin"
    stopped = to_stop(job)
    assert stopped.later == [(job, "Slurm job 8 has started, and its attempt is about to begin")]
    for phase, still in (("claiming", True), ("ended", False)):
        where = {"launcher": "slurm", "name": "8"}
        job.attempts.write(Attempt("0001-aaaaaaaa", "elsewhere", 1, "1", time.time(), phase=phase, container=where))
        assert (waits(job) is not None) is still


def test_what_was_requeued_and_has_not_begun_again_goes_on_by_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = {"model.variant": "nano_e_v3", "dataset": "synthetic", "split_type": "xsub", "env": "local", "training.epochs": 5}
    job = Job.create(DirectoryStore(tmp_path / "store"), "x", {**config, "run.launcher": "slurm"}, {}, "0")
    restarts = tmp_path / "restarts"
    squeue = f"echo '7|{job_name(job.id)}|RUNNING|None|2026-11-30T10:00:00'"
    scontrol = f'echo "JobId=7 JobName=x Requeue=1 Restarts=$(cat {restarts}) BatchFlag=1"'
    for name, does in (("squeue", squeue), ("scontrol", scontrol)):
        (tmp_path / name).write_text(f"#!/bin/sh\n{does}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    where = {"launcher": "slurm", "name": "7", "restart": "0"}
    one = Attempt("0001-aaaaaaaa", "elsewhere", 1, "1", time.time(), phase="ended", began=True, container=where)
    one.reason = "preempted"
    job.attempts.write(one)
    restarts.write_text("0")  # its batch script has not put it back yet, or does not
    assert waits(job) is None
    restarts.write_text("1")
    assert waits(job) == "Slurm job 7 has started, and its attempt is about to begin"
    found = job_status(job)
    assert (found["state"], found["next"].startswith("lastrun status -w ")) == ("paused", True)
    assert [each for each, _ in to_stop(job).later] == [job]
    died = replace(one, id="0002-bbbbbbbb", phase="running", reason=None, container={**where, "restart": "1"})
    died.started_at = time.time()
    job.attempts.write(died)
    job.attempts.write_heartbeat(died, {})
    assert waits(job) is None
    os.utime(tmp_path / "store" / job.id / "attempts" / died.id / "heartbeat.json", (0, 0))  # its node has gone
    assert waits(job) is None
    restarts.write_text("2")
    assert waits(job) == "Slurm job 7 has started, and its attempt is about to begin"


class Near(Host):
    """A login node of this very machine: what is asked of it is run here as it is there, but for ssh."""

    def ask(self, verb: str, *words: str, given: dict[str, Any] | None = None, seconds: float = 0) -> dict[str, Any]:
        command = [sys.executable, "-m", "runner.launch.slurm.far", verb, *words]
        done = subprocess.run(command, input=json.dumps(given) + "\n", capture_output=True, text=True, check=True)
        found: dict[str, Any] = json.loads(done.stdout)
        return found


def test_what_has_started_by_a_login_node_and_not_begun_is_told_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = {"model.variant": "nano_e_v3", "dataset": "synthetic", "split_type": "xsub", "env": "local", "training.epochs": 5}
    job = Job.create(DirectoryStore(tmp_path / "store"), "x", {**config, "run.launcher": "slurm"}, {}, "0")
    there = tmp_path / "there"  # on the login node alone
    there.mkdir()
    for name, does in (
        ("squeue", f"echo '7|{job_name(job.id)}|RUNNING|None|2026-11-30T10:00:00'"),
        ("scontrol", 'echo "JobId=7 JobName=x Requeue=1 Restarts=1 BatchFlag=1"'),
    ):
        (there / name).write_text(f"#!/bin/sh\n{does}\n")
        (there / name).chmod(0o755)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setenv("PATH", f"{there}:/usr/bin:/bin")
    monkeypatch.setattr(login, "_host", lambda note: Near(note["host"], note["folder"], "runner.launch.slurm.far"))
    monkeypatch.setattr(SlurmLauncher, "waits", staticmethod(lambda job: None))  # this machine is none of the cluster's
    notes.write("0123abcd", "node", "/nowhere", job=job.uri, batch="7")
    told = "Slurm job 7 has started, and its attempt is about to begin"
    assert waits(job) == told
    assert job_status(job)["next"].startswith("lastrun status -w ")
    assert EitherLauncher.waiting([job]) == [job]
    where = {"launcher": "slurm", "name": "7", "restart": "0"}
    one = Attempt("0001-0123abcd", "elsewhere", 1, "1", time.time(), phase="ended", began=True, container=where)
    one.reason = "preempted"
    job.attempts.write(one)
    assert waits(job) == told  # begun anew by Slurm
    job.attempts.write(replace(one, id="0002-0123abcd", container={**where, "restart": "1"}))
    assert waits(job) is None


def test_all_that_waits_in_the_queue_is_taken_out_with_all_that_runs(
    cli: Cli, clean_env: dict[str, str], tmp_path: Path
) -> None:
    store = DirectoryStore(Path(clean_env["LASTRUN_STORE"]))
    config = {"model.variant": "nano_e_v3", "dataset": "synthetic", "split_type": "xsub", "env": "local", "training.epochs": 5}
    waits_, begun, ended, runs = (Job.create(store, "x", config, {}, "0") for _ in range(4))
    attempt = Attempt("0001-aaaaaaaa", "elsewhere", 1, "1", time.time(), phase="running", began=True)
    runs.attempts.write(attempt)
    row = "|Resources|N/A"
    said = f"7|{job_name(waits_.id)}|PENDING{row}\n8|{job_name(begun.id)}|PENDING{row}\n9|lastrun-of-another-store|PENDING{row}"
    later = f"7|{job_name(waits_.id)}|PENDING{row}"  # of one that is asked for by its name
    (tmp_path / "squeue").write_text(
        f'#!/bin/sh\necho "$*" >>{tmp_path}/asked\ncase "$*" in\n*--name={job_name(waits_.id)}*) echo \'{later}\';;\n'
        f"*--name=*) ;;\n*) echo '{said}';;\nesac\n"
    )
    (tmp_path / "scancel").write_text(f'#!/bin/sh\necho "$*" >>{tmp_path}/taken\n')
    for name in ("squeue", "scancel"):
        (tmp_path / name).chmod(0o755)
    done = cli("stop", "--all", "--json", PATH=f"{tmp_path}:{os.environ['PATH']}")
    assert done.returncode == 0, done.stderr
    jobs = {one["id"]: (one["asked"], one["state"]) for one in json.loads(done.stdout)["jobs"]}
    assert jobs == {waits_.id: (None, "queued"), begun.id: ("save", "stopping"), runs.id: ("save", "stopping")}
    assert (tmp_path / "taken").read_text().split() == ["7"]
    assert [len(one.requests.keys()) for one in (waits_, begun, ended, runs)] == [0, 1, 0, 1]
    assert sum("--name" not in line for line in (tmp_path / "asked").read_text().splitlines()) == 1
    (tmp_path / "squeue").write_text("#!/bin/sh\necho 'its controller is away' >&2; exit 1\n")
    runs.attempts.write_heartbeat(attempt, {})  # a busy machine may have been at it for longer than a heart may be silent
    done = cli("stop", "--all", PATH=f"{tmp_path}:{os.environ['PATH']}")
    assert done.returncode == 0
    assert done.stderr == "launcher slurm cannot tell what waits: Slurm: its controller is away\n"
    assert f"{runs.id} is stopping" in done.stdout


def test_a_stop_that_the_queue_does_not_hear_of_waits_in_the_store(cli: Cli, clean_env: dict[str, str], tmp_path: Path) -> None:
    """While the controller is away nobody knows what waits; what begins later finds the request."""
    config = {"model.variant": "nano_e_v3", "dataset": "synthetic", "split_type": "xsub", "env": "local", "training.epochs": 5}
    job = Job.create(DirectoryStore(Path(clean_env["LASTRUN_STORE"])), "x", config, {}, "0")
    (tmp_path / "squeue").write_text("#!/bin/sh\necho 'its controller is away' >&2; exit 1\n")
    (tmp_path / "squeue").chmod(0o755)
    done = cli("stop", job.id, PATH=f"{tmp_path}:{os.environ['PATH']}")
    assert done.returncode == 0, done.stderr
    assert done.stdout == (
        f"{job.id}: the request is in the store; what waits there leaves as soon as it has begun, which lastrun status "
        f"{job.id} tells\n"
    )
    assert "launcher slurm cannot tell what waits: Slurm: its controller is away" in done.stderr
    assert len(job.requests.keys()) == 1
    done = cli("stop", job.id, "--json", PATH=f"{tmp_path}:{os.environ['PATH']}")
    assert json.loads(done.stdout)["jobs"] == [{"id": job.id, "asked": "save", "state": "queued"}]


def test_slurm_without_its_cluster_spoils_no_stop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = Job.create(DirectoryStore(tmp_path / "store"), "x", {"run.launcher": "local"}, {}, "0")
    (tmp_path / "squeue").write_text(
        "#!/bin/sh\necho 'squeue: fatal: Could not establish a configuration source' >&2; exit 1\n"
    )
    (tmp_path / "squeue").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert withdraw(job) == (None, [])
    assert waits(job) is None
    (tmp_path / "squeue").write_text("#!/bin/sh\necho 'squeue: error: Unable to contact slurm controller' >&2; exit 1\n")
    assert withdraw(job) == (None, ["launcher slurm does not take it back: Slurm: Unable to contact slurm controller"])
    assert waits(job) is None


def test_only_a_start_of_the_same_slurm_job_is_begun_anew() -> None:
    def attempt(**about: str) -> Attempt:
        return Attempt("0001-aaaaaaaa", "m", 1, "1", 0.0, container=about or None)

    later = attempt(launcher="slurm", name="7", restart="1")
    assert later.began_anew(attempt(launcher="slurm", name="7", restart="0"))
    assert not later.began_anew(attempt(launcher="slurm", name="8", restart="0"))
    assert not later.began_anew(attempt(launcher="docker", name="7"))
    assert not later.began_anew(attempt())
    assert not attempt(name="7").began_anew(attempt(name="7"))


def test_who_waits_for_an_answer_that_does_not_come_sees_the_end_that_was_written_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seconds go by until a controller that is away counts as silent: what was read before that is old."""
    job = Job(DirectoryStore(tmp_path), "j")
    one = Attempt("0001-0123abcd", machine.identity(), 10**9, "1", time.time(), phase="running", began=True)
    one.container = {"launcher": "slurm", "what": "Slurm job", "name": "7", "restart": "0"}
    job.attempts.write(one)

    def is_silent(job: Job, attempt: Attempt) -> Attempt:
        ended = replace(attempt, phase="ended", reason="stop_requested")
        job.attempts.write(ended)
        raise EngineError("squeue has not answered within 3 s")

    monkeypatch.setattr("runner.launch.slurm.either.EitherLauncher.settle", is_silent)
    assert state_of(Job(job.store, "j"))[0].value == "stopped"
