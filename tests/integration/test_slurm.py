"""Jobs on a real Slurm of two nodes: its queue, its limits, its ways to end a job, and a node and a controller that die."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from runner.job.find import find_group
from runner.job.job import Job
from runner.store.directory import DirectoryStore
from tests.conftest import TINY, Cli
from tests.jobs import LONGER, Run, assert_same, at_rest, has_pending, jobs_in, some_step_is_stored, wait_until
from tests.slurm import Slurm

pytestmark = [pytest.mark.xdist_group("slurm"), pytest.mark.usefixtures("slurm")]

SLURM = ("--launcher", "slurm", "--set", "run.gpus=0")
LONG = ("--set", "training.epochs=5000")


def only_job(env: dict[str, str]) -> Job:
    [job] = jobs_in(DirectoryStore(Path(env["LASTRUN_STORE"])))
    return job


def slurm_id(job: Job) -> str:
    return str((job.attempts.all()[-1].container or {})["name"])


def test_the_script_is_sound_and_holds_no_secret(
    run: Any, tiny: Path, slurm: Slurm, clean_env: dict[str, str], tmp_path: Path
) -> None:
    clean_env["HF_TOKEN"] = "hf_secretsecretsecret"
    current = run("submit", tiny, *SLURM, "run.pass_env=[HF_TOKEN]", "training.epochs=5000", "--detach")
    assert current.end()[0] == 0
    wait_until(lambda: some_step_is_stored(only_job(clean_env)))
    with at_rest(only_job(clean_env)):
        text = slurm.call("scontrol", "write", "batch_script", slurm_id(only_job(clean_env)), "-")
        assert "lastrun-tiny" in text
        assert "secretsecret" not in text + slurm.call("scontrol", "show", "job", slurm_id(only_job(clean_env)))
        (tmp_path / "batch.sh").write_text(text)
        judged = subprocess.run(["shellcheck", tmp_path / "batch.sh"], capture_output=True, text=True, check=False)
        assert judged.returncode == 0, judged.stdout
        pid = only_job(clean_env).attempts.all()[-1].pid
        given = dict(pair.partition("=")[::2] for pair in Path(f"/proc/{pid}/environ").read_text().split("\0") if pair)
        assert given["HF_TOKEN"] == "hf_secretsecretsecret"
        assert "PYTEST_CURRENT_TEST" not in given, "it gets what is named alone"


def test_partitions_are_among_what_can_be_had(cli: Cli) -> None:
    told = [row for row in json.loads(cli("gpus", "--json").stdout)["offers"] if row["launcher"] == "slurm"]
    assert {row["machine"]: (bool(row["gpus"]), row["words"]) for row in told} == {
        "partition all": (True, "--launcher slurm --set run.slurm.partition=all"),
        "partition cpu": (False, "--launcher slurm --set run.slurm.partition=cpu run.gpus=0"),
        "partition gpu": (True, "--launcher slurm --set run.slurm.partition=gpu"),
        "partition urgent": (False, "--launcher slurm --set run.slurm.partition=urgent run.gpus=0"),
    }


def test_what_slurm_would_not_take_is_told_before_there_is_a_job(cli: Cli, tiny: Path, clean_env: dict[str, str]) -> None:
    for settings, told in (
        (["run.slurm.partition=nowhere"], "run.slurm.partition: found nowhere; allowed here: all, cpu, gpu"),
        (
            ["run.slurm.partition=cpu", "run.gpus=1"],
            "partition cpu has no GPUs: take partition all or gpu, or train on its CPUs with run.gpus=0",
        ),
        (["run.slurm.gpu_type=h100", "run.gpus=1"], "partition gpu has no GPU of type h100; it has a100"),
        (["run.time_limit=90m"], "run.time_limit: found 5400 s; partition gpu gives 3600 s at most"),
        (["run.memory=900g"], "Slurm: "),
        (["run.nodes=2"], "run.nodes: 2 machines need hardware.scratch_root, a folder that all of them have"),
        (["run.nodes=3", "run.slurm.partition=all", "hardware.scratch_root=shared"], "Slurm: "),
        (["run.nodes=2", "run.launcher=local"], "run.nodes: found 2; allowed: 1 with launcher local; several with slurm"),
        (["run.slurm.extra=['--export=ALL']"], "an option of sbatch such as --exclude=n1"),
        (["run.slurm.extra=['--wrap=reboot']"], "an option of sbatch such as --exclude=n1"),
    ):
        done = cli("submit", tiny, *SLURM, *settings)
        assert done.returncode in (2, 6), done.stdout + done.stderr
        assert told in done.stderr
    assert jobs_in(DirectoryStore(Path(clean_env["LASTRUN_STORE"]))) == []


def test_what_waits_says_why_and_is_taken_out_of_the_queue(
    cli: Cli, tiny: Path, slurm: Slurm, clean_env: dict[str, str]
) -> None:
    dry = cli("submit", tiny, *SLURM, "run.slurm.extra=['--hold']", "--dry-run")
    [line] = [line for line in dry.stdout.splitlines() if line.startswith("would ask for sbatch: ")]
    assert "--job-name=lastrun-tiny-DATE-CODE" in line
    assert line.endswith("--requeue --hold")
    assert slurm.jobs() == []
    held = cli("submit", tiny, *SLURM, "run.slurm.extra=['--hold']", "--detach")
    assert held.returncode == 0, held.stderr
    assert "waits" in held.stdout
    job = only_job(clean_env)
    assert "you hold it; scontrol release lets it go" in cli("status", job.id).stdout
    again = cli("resume", job.id)
    assert again.returncode == 5
    assert "takes it out of the queue" in again.stderr
    stopped = cli("stop", job.id)
    assert "was taken out of the queue" in stopped.stdout
    assert slurm.jobs() == []
    assert cli("stop", job.id).returncode == 2
    assert cli("resume", job.id, "--detach").returncode == 0
    assert f"{job.id}: Slurm job " in cli("stop", "--all").stdout
    assert slurm.jobs() == []


@pytest.mark.parametrize("asked_while_the_controller_is_away", [None, "tiny", "--all"])
def test_a_request_from_elsewhere_reaches_what_waited(
    cli: Cli, tiny: Path, slurm: Slurm, clean_env: dict[str, str], asked_while_the_controller_is_away: str | None
) -> None:
    """From where nobody sees the queue: the request waits in the store for what begins after it."""
    assert cli("submit", tiny, *SLURM, "run.slurm.extra=['--hold']", "training.epochs=5000", "--detach").returncode == 0
    job = only_job(clean_env)
    if asked_while_the_controller_is_away:
        wait_until(lambda: job.id.encode() in (slurm.folder / "state" / "job_state").read_bytes())  # else it forgets it
        slurm.kill("slurmctld")
        told = cli("stop", asked_while_the_controller_is_away)
        assert (told.returncode, f"{job.id}: the request is in the store" in told.stdout) == (0, True), (
            told.stdout + told.stderr
        )
        assert "launcher slurm cannot tell what waits: " in told.stderr
        slurm.start_controller()
        wait_until(slurm.jobs)
    else:
        job.requests.ask_to_stop(now=False)
    slurm.call("scontrol", "release", *slurm.jobs())
    wait_until(lambda: job.attempts.all() and job.attempts.all()[-1].phase == "ended")
    assert job.attempts.all()[-1].reason == "stop_requested"


def test_cut_by_its_limit_it_goes_back_into_the_queue_and_on_to_the_same_bits(
    run: Any, tiny: Path, slurm: Slurm, uninterrupted: Any
) -> None:
    current: Run = run("submit", tiny, *SLURM, *LONGER[1:], "run.time_limit=15m")
    with current.held(some_step_is_stored):
        slurm.call("scancel", "--batch", "--signal=USR1", slurm_id(current.job))  # as Slurm does at the limit
    code, out = current.end()
    assert code == 0, out
    assert "it goes back into the queue" in out
    assert "going on from checkpoint" in out
    attempts = current.job.attempts.all()
    assert [(one.phase, one.reason) for one in attempts] == [("ended", "preempted"), ("ended", "completed")]
    assert [(one.container or {})["restart"] for one in attempts] == ["0", "1"]
    assert len({slurm_id(current.job)}) == 1
    assert_same(current.job, uninterrupted)


@pytest.mark.full
def test_slurms_own_notice_before_the_limit_comes_in_time(
    cli: Cli, tiny: Path, slurm: Slurm, clean_env: dict[str, str]
) -> None:
    """Other tests send the signal themselves; Slurm looks at limits once a minute, and may be as much too early."""
    words = ("training.epochs=5000", "run.time_limit=2m", "hardware.stop_margin=60")
    assert cli("submit", tiny, *SLURM, *words, "--detach").returncode == 0
    job = only_job(clean_env)
    wait_until(lambda: [one.resumed_step > 0 for one in job.attempts.all()] == [False, True])
    first = job.attempts.all()[0]
    assert (first.phase, first.reason) == ("ended", "preempted")
    assert (first.ended_at or 0) - first.started_at < 120
    assert cli("stop", job.id, "--wait").returncode == 0
    assert job.attempts.all()[-1].reason == "stop_requested"


def test_it_goes_round_no_more_often_than_is_allowed(run: Any, cli: Cli, tiny: Path, slurm: Slurm) -> None:
    current: Run = run("submit", tiny, *SLURM, "training.epochs=5000", "run.max_requeues=0")
    with current.held(some_step_is_stored):
        slurm.call("scancel", "--batch", "--signal=USR1", slurm_id(current.job))
    code, out = current.end()
    assert code == 75, out
    assert "it is not begun anew: run.max_requeues is 0" in out
    assert slurm.jobs() == []


def test_scancel_saves_and_pauses_and_the_job_goes_on_at_another_kind_of_node(
    run: Any, cli: Cli, tiny: Path, slurm: Slurm, uninterrupted: Any
) -> None:
    """Also where the attempt is saving already."""
    current: Run = run("submit", tiny, *SLURM, *LONGER[1:], "run.slurm.partition=gpu")
    with current.held(some_step_is_stored) as trainer:
        slurm.call("scancel", "--batch", "--signal=USR1", slurm_id(current.job))
        wait_until(lambda: has_pending(trainer, signal.SIGTERM))
        slurm.call("scancel", slurm_id(current.job))
    code, out = current.end()
    assert code == 75, out
    assert current.job.state()[0].value == "paused"
    wait_until(lambda: slurm.jobs() == [])
    done = cli("resume", current.job.id, "--set", "run.slurm.partition=cpu")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "going on from checkpoint" in done.stdout
    assert_same(current.job, uninterrupted)


def test_scancel_of_what_waits_is_a_pause_for_who_follows_it(run: Any, cli: Cli, tiny: Path, slurm: Slurm) -> None:
    current: Run = run("submit", tiny, *SLURM, "run.slurm.extra=['--hold']", "run.auto_continue=3")
    wait_until(lambda: slurm.jobs() or current.process.poll() is not None)
    slurm.call("scancel", *slurm.jobs())
    code, out = current.end()
    assert code == 75, out
    assert "waits: you hold it; scontrol release lets it go" in out
    assert "left before its attempt began: the job is queued, and nothing was trained" in out
    assert slurm.jobs() == []


def test_scancel_of_what_has_just_begun_leaves_a_job_that_can_go_on(
    run: Any, cli: Cli, tiny: Path, slurm: Slurm, clean_env: dict[str, str]
) -> None:
    """It has its node, and has not taken the job: a Python needs longer to start than Slurm to tell of it."""
    current: Run = run("submit", tiny, *SLURM, "training.epochs=30")
    wait_until(lambda: "RUNNING" in slurm.call("squeue", "-h", "-o", "%T") or current.process.poll() is not None)
    slurm.call("scancel", *slurm.jobs())
    code, out = current.end()
    assert code == 75, out
    wait_until(lambda: slurm.jobs() == [])
    job = only_job(clean_env)
    assert job.state()[0].value in ("queued", "paused"), job.attempts.all()
    done = cli("resume", job.id)
    assert done.returncode == 0, done.stdout + done.stderr


def test_what_others_have_displaced_saves_and_comes_back(run: Any, tiny: Path, slurm: Slurm, uninterrupted: Any) -> None:
    current: Run = run("submit", tiny, *SLURM, *LONGER[1:], "run.slurm.partition=cpu")
    with current.held(some_step_is_stored) as trainer:
        slurm.call("sbatch", "--partition=urgent", "--exclusive", "--output=/dev/null", "--wrap=sleep 1")
        wait_until(lambda: has_pending(trainer, signal.SIGTERM))
    code, out = current.end()
    assert code == 0, out
    attempts = current.job.attempts.all()
    assert [(one.phase, one.reason) for one in attempts] == [("ended", "preempted"), ("ended", "completed")]
    assert [(one.container or {})["restart"] for one in attempts] == ["0", "1"]
    assert_same(current.job, uninterrupted)


def test_a_node_that_died_is_followed_by_another_whatever_still_lives_there(
    run: Any, tiny: Path, slurm: Slurm, uninterrupted: Any
) -> None:
    current: Run = run("submit", tiny, *SLURM, *LONGER[1:], "run.slurm.partition=all", "run.slurm.extra=['--nodelist=n2']")
    try:
        with current.held(some_step_is_stored):  # the old attempt stands still, and wakes when another has the job
            old = current.job.attempts.all()[-1]
            slurm.kill("n2")
            slurm.call("scontrol", "update", f"jobid={slurm_id(current.job)}", "reqnodelist=")
            slurm.call("scontrol", "update", "nodename=n2", "state=down", "reason=test")
            slurm.call("scontrol", "update", f"jobid={slurm_id(current.job)}", "reqnodelist=n1")
            wait_until(lambda: len([one for one in current.job.attempts.all() if one.has_taken_the_job]) == 2)
        code, out = current.end()
    finally:
        slurm.start_node("n2")
        slurm.call("scontrol", "update", "nodename=n2", "state=resume")
    assert code == 0, out
    first, second = current.job.attempts.all()
    assert first.id == old.id
    assert second.reason == "completed"
    assert [(one.container or {})["restart"] for one in (first, second)] == ["0", "1"]
    assert_same(current.job, uninterrupted)


def test_a_controller_that_is_away_for_a_while_stops_nobody(run: Any, cli: Cli, tiny: Path, slurm: Slurm) -> None:
    current: Run = run("submit", tiny, *SLURM, *LONGER[1:])
    with current.held(some_step_is_stored):
        slurm.stop_controller()
        assert "running" in cli("status", "tiny").stdout
        slurm.start_controller()
    code, out = current.end()
    assert code == 0, out
    assert current.job.state()[0].value == "succeeded"


def test_twenty_at_once_each_run_once(cli: Cli, slurm: Slurm, clean_env: dict[str, str], tmp_path: Path) -> None:
    """All stand in the queue at once, held, and are let go at once: as many run as the nodes have cores."""
    path = tmp_path / "twenty.yaml"
    path.write_text(f"{TINY}sweep: {{seeds: 20}}\n")
    words = ("training.epochs=1", "training.warmup_epochs=0", "run.slurm.partition=all", "run.slurm.extra=['--hold']")
    done = cli("submit", path, *SLURM, *words, "--detach")
    assert done.returncode == 0, done.stderr
    assert "20 points were put into the queue, 20 at a time" in done.stdout
    store = DirectoryStore(Path(clean_env["LASTRUN_STORE"]))
    jobs = jobs_in(store)
    assert len(slurm.jobs()) == len(jobs) == 20
    slurm.call("scontrol", "release", *slurm.jobs())
    wait_until(lambda: not (time.sleep(1) or slurm.jobs()))
    assert [job.state()[0].value for job in jobs] == ["succeeded"] * 20
    assert {len(job.attempts.all()) for job in jobs} == {1}
    assert len({slurm_id(job) for job in jobs}) == 20
    assert 2 <= most_at_once(jobs) <= 8


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    path = tmp_path / "sweep.yaml"
    path.write_text(f"{TINY}sweep: {{grid: {{training.lr: [0.1, 0.05, 0.02]}}}}\n")
    return path


def most_at_once(jobs: list[Job]) -> int:
    """How many of these ran at the same time, at the worst moment."""
    spans = [(one.started_at, one.ended_at or 0.0) for job in jobs for one in job.attempts.all()]
    return max(sum(begin <= moment < end for begin, end in spans) for moment, _ in spans)


@pytest.mark.parametrize("detach", [False, True])
def test_points_of_a_sweep_are_jobs_of_their_own_so_many_at_a_time(
    cli: Cli, sweep: Path, slurm: Slurm, clean_env: dict[str, str], detach: bool
) -> None:
    wide = ("training.epochs=1", "run.slurm.partition=all")
    done = cli("submit", sweep, *SLURM, *wide, "--parallel", "2", *(["--detach"] if detach else []))
    assert done.returncode == 0, done.stdout + done.stderr
    group = find_group("tiny", clean_env["LASTRUN_STORE"])
    jobs = group.jobs()
    if detach:
        assert "3 points were put into the queue, 2 at a time" in done.stdout
        wait_until(lambda: all(job.state()[0].value == "succeeded" for job in jobs))
    else:
        assert "of 3 points: 3 succeeded" in done.stdout
    assert [job.state()[0].value for job in jobs] == ["succeeded"] * 3
    assert len({slurm_id(job) for job in jobs}) == 3
    assert {len(job.attempts.all()) for job in jobs} == {1}
    assert most_at_once(jobs) <= 2
    assert [row["finished"] for row in json.loads(cli("compare", group.id, "--json").stdout)["rows"]] == [1, 1, 1]


def test_a_group_that_waits_in_the_queue_says_why_is_not_handed_over_twice_and_leaves_it_whole(
    cli: Cli, sweep: Path, slurm: Slurm, clean_env: dict[str, str]
) -> None:
    held = cli("submit", sweep, *SLURM, "run.slurm.extra=['--hold']", "--parallel", "1", "--detach")
    assert held.returncode == 0, held.stderr
    group = find_group("tiny", clean_env["LASTRUN_STORE"])
    second = group.jobs()[1]
    assert len(slurm.jobs()) == 3
    why = slurm.call("squeue", "-h", f"--name=lastrun-{second.id}", "-o", "%E")
    assert why.startswith("afterany:"), why
    assert "you hold it" in json.loads(cli("status", group.id, "--json").stdout)["waits"]
    again = cli("resume", group.id, "--detach")
    assert "all 3 points are in the queue already" in again.stdout, again.stdout + again.stderr
    assert len(slurm.jobs()) == 3
    stopped = cli("stop", group.id)
    assert stopped.stdout.count("was taken out of the queue") == 3, stopped.stdout + stopped.stderr
    assert slurm.jobs() == []
    assert [job.state()[0].value for job in group.jobs()] == ["queued"] * 3


def test_a_point_that_goes_back_into_the_queue_still_keeps_the_next_one_waiting(
    cli: Cli, sweep: Path, slurm: Slurm, clean_env: dict[str, str]
) -> None:
    long = ("training.epochs=5000", "run.slurm.partition=all")
    assert cli("submit", sweep, *SLURM, *long, "--parallel", "1", "--detach").returncode == 0
    group = find_group("tiny", clean_env["LASTRUN_STORE"])
    first, second, _ = group.jobs()
    wait_until(lambda: some_step_is_stored(first))
    slurm.call("scancel", "--batch", "--signal=USR1", slurm_id(first))
    wait_until(lambda: [one.phase for one in first.attempts.all()] == ["ended", "running"])
    assert slurm.call("squeue", "-h", f"--name=lastrun-{second.id}", "-o", "%T %r") == "PENDING Dependency"
    assert second.attempts.names() == []
    stopped = cli("stop", group.id, "--wait")
    assert stopped.stdout.count("was taken out of the queue") == 2, stopped.stdout + stopped.stderr
    assert [job.state()[0].value for job in group.jobs()] == ["stopped", "queued", "queued"]
    wait_until(lambda: not slurm.jobs())
