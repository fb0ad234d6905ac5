"""Jobs in the Slurm of a login node that ssh leads to; the machine where one types knows of no cluster."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from runner.job.job import Job
from runner.store.directory import DirectoryStore
from runner.store.open import open_store
from tests.conftest import TINY, Cli
from tests.integration.test_slurm import only_job, slurm_id
from tests.integration.test_ssh import environ_of_trainer, far_shell_runs
from tests.jobs import LONGER, PATIENCE, Run, assert_same, command_lines, jobs_in, some_step_is_stored, wait_until
from tests.slurm import Slurm
from tests.sshd import Sshd
from tests.terminals import at_a_terminal

pytestmark = [pytest.mark.xdist_group("ssh"), pytest.mark.slow, pytest.mark.usefixtures("login")]

LOGIN = ("--on", "far", "--launcher", "slurm", "--set", "run.gpus=0")
HOLD = "run.slurm.extra=['--hold']"


@pytest.fixture
def login(far: Sshd, slurm: Slurm, clean_env: dict[str, str]) -> Iterator[Sshd]:
    """Only what is called over ssh is told where the cluster is."""
    del clean_env["SLURM_CONF"]
    far_shell_runs(far, f"export SLURM_CONF={slurm.conf}\n")
    yield far
    slurm.clear()  # before its folder goes


def test_followed_over_a_cut_connection_to_the_same_bits(
    run: Any, login: Sshd, slurm: Slurm, tiny: Path, clean_env: dict[str, str], uninterrupted: Any
) -> None:
    """And put back into the queue at its limit. What was handed over in secret is in no file of ours and on no command line."""
    secret = "hf_" + "secret" * 5
    clean_env["HF_TOKEN"] = secret
    current: Run = run("submit", tiny, *LOGIN, *LONGER[1:], "run.pass_env=[HF_TOKEN]", "run.time_limit=15m")
    with current.held(some_step_is_stored):
        assert f"HF_TOKEN={secret}".encode() in environ_of_trainer(current.job)
        assert not [line for line in command_lines().values() if secret.encode() in line]
        script = slurm.call("scontrol", "write", "batch_script", slurm_id(current.job), "-")
        assert f"lastrun-{current.job.id}" in script
        assert secret not in script
        wait_until(login.cut)  # on a slow machine it may have broken by itself just now
        slurm.call("scancel", "--batch", "--signal=USR1", slurm_id(current.job))
    code, out = current.end()
    assert code == 0, out
    assert "it goes back into the queue" in out
    assert "waits: it was put back into the queue, and Slurm lets it rest first" in out
    assert out.count("epoch 1/3  lr ") == 1  # beside what tells of the middle of a long one
    assert out.count("completed at step") == 1
    assert [one.reason for one in current.job.attempts.all()] == ["preempted", "completed"]
    assert_same(current.job, uninterrupted)
    homes = (login.folder / "home", Path(clean_env["HOME"]))
    files = [path for top in homes for path in top.rglob("*") if path.is_file()]
    assert not [path for path in files if secret.encode() in path.read_bytes()]
    assert notes(clean_env) == []


def notes(env: dict[str, str]) -> list[Path]:
    """Of what was handed over from here and may have to be asked about."""
    return list((Path(env["HOME"]) / ".local/share/lastrun/ssh").glob("*"))


def test_what_waits_there_says_why_and_is_taken_out_of_the_queue_only_by_who_handed_it_over(
    cli: Cli, login: Sshd, slurm: Slurm, tiny: Path, clean_env: dict[str, str], tmp_path: Path
) -> None:
    held = cli("submit", tiny, *LOGIN, HOLD, "--detach")
    assert held.returncode == 0, held.stdout + held.stderr
    assert "waits" in held.stdout
    job = only_job(clean_env)
    assert "you hold it; scontrol release lets it go" in cli("status", job.id).stdout
    (tmp_path / "other").mkdir()
    assert "you hold it" not in cli("status", job.id, HOME=str(tmp_path / "other")).stdout
    again = cli("resume", job.id)
    assert again.returncode == 5, again.stderr
    assert "takes it out of the queue" in again.stderr
    kept = cli("host", "clean", "far")
    assert kept.returncode == 6
    assert f"far: Slurm job {slurm.jobs()[0]} of lastrun's is in its queue" in kept.stderr
    stopped = cli("stop", job.id)
    assert stopped.returncode == 0, stopped.stderr
    assert "was taken out of the queue" in stopped.stdout
    assert slurm.jobs() == []
    assert len(notes(clean_env)) == 1
    assert cli("status", job.id).returncode == 0
    assert notes(clean_env) == [], "what is over is asked about once"
    back = cli("resume", job.id, "--detach")
    assert back.returncode == 0, back.stderr
    assert len(slurm.jobs()) == 1


ANSWER_LOST = """\
case "$BASH_EXECUTION_STRING" in *" line_up"*) bash -c "$BASH_EXECUTION_STRING" >/dev/null; kill -9 $PPID; exit;; esac
"""


def test_one_that_is_in_the_queue_though_the_answer_was_lost_is_found_there(
    cli: Cli, login: Sshd, slurm: Slurm, tiny: Path, clean_env: dict[str, str]
) -> None:
    conf = f"export SLURM_CONF={slurm.conf}\n"
    dry = cli("submit", tiny, *LOGIN, "--dry-run")
    assert (dry.returncode, "would ask for login node: far\n" in dry.stdout) == (0, True), dry.stdout + dry.stderr
    far_shell_runs(login, conf + ANSWER_LOST)
    lost = cli("submit", tiny, *LOGIN, HOLD)
    assert lost.returncode == 6, lost.stdout + lost.stderr
    job = only_job(clean_env)
    assert f"; lastrun status {job.id} tells whether it is in the queue all the same" in lost.stderr
    assert len(lost.stderr.splitlines()) == 1
    far_shell_runs(login, conf)
    assert "you hold it; scontrol release lets it go" in cli("status", job.id).stdout
    again = cli("resume", job.id)
    assert again.returncode == 5, again.stderr
    assert "was taken out of the queue" in cli("stop", job.id).stdout
    assert slurm.jobs() == []


def test_what_slurm_there_would_not_take_is_told_before_there_is_a_job(
    cli: Cli, login: Sshd, slurm: Slurm, tiny: Path, clean_env: dict[str, str]
) -> None:
    store = Path(clean_env["LASTRUN_STORE"])
    store.mkdir()
    hidden = 'mount -t tmpfs none "$0" && exec /bin/sh -c "$1"'
    conf = f"export SLURM_CONF={slurm.conf}; "
    far_shell_runs(login, f"{conf}exec unshare -m /bin/sh -c '{hidden}' {store} \"$BASH_EXECUTION_STRING\"")
    refused = cli("submit", tiny, *LOGIN, "run.slurm.partition=nowhere")
    assert refused.returncode == 6, refused.stderr
    lines = [line.removeprefix("error: ") for line in refused.stderr.splitlines()]
    assert lines[0] == "far: run.slurm.partition: found nowhere; allowed here: all, cpu, gpu, urgent"
    assert lines[1].startswith(f"far: store file://{store} is a folder here, and not the same one there")
    assert len(lines) == 2
    far_shell_runs(login, "")
    no_cluster = cli("submit", tiny, *LOGIN)
    assert no_cluster.returncode == 6
    assert no_cluster.stderr.startswith("error: far: Slurm: ")
    two = cli("submit", tiny, "--on", "far,other", "--launcher", "slurm")
    assert two.returncode == 2
    assert "with launcher slurm it names one, the login node" in two.stderr
    assert list(store.iterdir()) == []


def test_ctrl_c_at_a_terminal_may_leave_it_to_the_queue(cli: Cli, tiny: Path, slurm: Slurm, clean_env: dict[str, str]) -> None:
    with at_a_terminal(clean_env, "submit", tiny, *LOGIN, "training.epochs=5000") as (terminal, process):
        wait_until(
            lambda: [job for job in jobs_in(DirectoryStore(Path(clean_env["LASTRUN_STORE"]))) if some_step_is_stored(job)]
        )
        os.kill(process.pid, signal.SIGINT)
        wait_until(lambda: terminal.lines[-1].endswith(" [stop/LOOK]"))
        terminal.press("\n")
        assert process.wait(PATIENCE) == 75
        job = only_job(clean_env)
        told = f"{job.id} goes on in the Slurm of far. lastrun status"
        wait_until(lambda: told in " ".join(terminal.text.split()))
    assert job.attempts.all()[-1].phase == "running"
    assert cli("stop", job.id, "--wait").returncode == 0
    assert job.attempts.all()[-1].reason == "stop_requested"


def test_data_are_sent_to_where_the_nodes_have_them(
    cli: Cli, login: Sshd, tiny: Path, clean_env: dict[str, str], tmp_path: Path
) -> None:
    data = tmp_path / "made up 100%s.safetensors"
    assert cli("data", "synth", "--like", "ntu60", "--clips", "240", "--out", data).returncode == 0
    words = ("dataset=ntu60", f"data.uri={data}", "training.epochs=1", "training.warmup_epochs=0")
    done = cli("submit", tiny, *LOGIN, *words)
    assert done.returncode == 0, done.stdout + done.stderr
    kept = str((only_job(clean_env).attempts.all()[0].container or {})["data"])
    assert kept.startswith(str(login.folder / "home/.cache/lastrun/ssh/data"))
    assert Path(kept).name == data.name


def test_keys_of_a_bucket_are_those_of_who_hands_it_over(
    cli: Cli, login: Sshd, slurm: Slurm, bucket: str, tiny: Path, clean_env: dict[str, str]
) -> None:
    done = cli("submit", tiny, *LOGIN)
    assert done.returncode == 0, done.stdout + done.stderr
    [job] = jobs_in(open_store(clean_env["LASTRUN_STORE"]))
    assert job.attempts.all()[-1].reason == "completed"
    secret = clean_env["AWS_SECRET_ACCESS_KEY"]
    assert secret not in slurm.call("scontrol", "write", "batch_script", slurm_id(job), "-")
    files = [path for path in (login.folder / "home").rglob("*") if path.is_file()]
    assert not [path for path in files if secret.encode() in path.read_bytes()]
    wrong = cli("submit", tiny, *LOGIN, AWS_SECRET_ACCESS_KEY=secret[::-1])
    assert wrong.returncode == 6
    assert "the secret key does not fit the access key" in wrong.stderr


def test_points_of_a_sweep_stand_in_the_queue_there(cli: Cli, slurm: Slurm, clean_env: dict[str, str], tmp_path: Path) -> None:
    sweep = tmp_path / "sweep.yaml"
    sweep.write_text(f"{TINY}sweep: {{grid: {{training.lr: [0.1, 0.05, 0.02]}}}}\n")
    wide = ("training.epochs=1", "run.slurm.partition=all")
    done = cli("submit", sweep, *LOGIN, *wide)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "of 3 points: 3 succeeded" in done.stdout
    held = cli("submit", sweep, *LOGIN, HOLD, "--parallel", "1", "--detach")
    assert "3 points were put into the queue, 1 at a time" in held.stdout, held.stdout + held.stderr
    group = held.stdout.partition("group: ")[2].split()[0].rpartition("/")[2]
    stopped = cli("stop", group)
    assert stopped.stdout.count("was taken out of the queue") == 3, stopped.stdout + stopped.stderr
    assert slurm.jobs() == []


def test_a_job_that_ended_without_a_word_is_asked_about_there(cli: Cli, tiny: Path, clean_env: dict[str, str]) -> None:
    assert cli("submit", tiny, *LOGIN, "training.epochs=5000", "--detach").returncode == 0
    job: Job = only_job(clean_env)
    wait_until(lambda: job.attempts.all() and job.attempts.all()[-1].phase == "running")
    os.kill(job.attempts.all()[-1].pid, signal.SIGKILL)
    wait_until(lambda: cli("status", job.id) and not job.attempts.all()[-1].open)
    found = job.attempts.all()[-1]
    assert (found.phase, found.message) == ("lost", f"its Slurm job {slurm_id(job)} ended as FAILED")
    assert notes(clean_env) == []
