"""Jobs of Hugging Face: its own client, a stand-in of its server, a real bucket, real processes."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import threading
from pathlib import Path
from typing import Any

import pytest

from runner.job.find import list_jobs
from runner.store.open import open_store
from tests.conftest import Cli
from tests.hub import Hub
from tests.jobs import LONGER, assert_same, python_without_lastrun, slow_python, some_step_is_stored, trainers_of, wait_until

pytestmark = [pytest.mark.xdist_group("clouds"), pytest.mark.slow]
CPU = ("--launcher", "hf", "--set", "run.gpus=0")
SHORT = ("--set", "training.epochs=1")


def test_a_job_is_interrupted_there_and_goes_on_here_to_the_same_bits(
    hub: Hub, run: Any, cli: Cli, tiny: Path, uninterrupted: Any
) -> None:
    current = run("submit", tiny, *CPU, *LONGER)
    code, out = current.interrupt()
    assert code == 75, out
    [attempt] = current.job.attempts.all()
    assert attempt.reason == "stop_requested"
    assert attempt.container is not None
    [job] = hub.jobs.values()
    assert (attempt.container["what"], attempt.container["name"]) == ("Hugging Face job", job.id)
    assert job.asked["timeoutSeconds"] == 12 * 3600 + 1800  # it would end them after half an hour
    assert "Hugging Face, me: cpu-basic (2 vCPU, 16 GB), 0.00 USD an hour, for 12.5 h at most 0.00 USD" in out
    assert cli("resume", current.job.id, "--launcher", "local").returncode == 0
    assert_same(current.job, uninterrupted)


def test_secrets_go_there_as_secrets_alone(hub: Hub, cli: Cli, tiny: Path, clean_env: dict[str, str]) -> None:
    done = cli("submit", tiny, *CPU, *SHORT, "run.pass_env=[MY_TOKEN]", MY_TOKEN="nobody-may-see-this")
    assert done.returncode == 0, done.stdout + done.stderr
    [job] = hub.jobs.values()
    assert job.asked["secrets"]["MY_TOKEN"] == "nobody-may-see-this"
    assert job.asked["secrets"]["AWS_SECRET_ACCESS_KEY"] == clean_env["AWS_SECRET_ACCESS_KEY"]
    shown = json.dumps({**job.asked, "secrets": None}) + done.stdout + done.stderr + json.dumps(job.log)
    for secret in ("nobody-may-see-this", clean_env["AWS_SECRET_ACCESS_KEY"], hub.token, "X-Amz-Signature"):
        assert secret not in shown
    assert hub.token not in json.dumps(job.asked["secrets"])


def test_what_waits_for_a_machine_or_is_set_up_is_told_and_taken_back_or_asked(
    hub: Hub, cli: Cli, tiny: Path, clean_env: dict[str, str], tmp_path: Path
) -> None:
    hub.machines = False
    done = cli("submit", tiny, *CPU, "--detach")
    assert done.returncode == 0, done.stdout + done.stderr
    [waiting] = hub.jobs.values()
    assert f"Hugging Face job {waiting.id} waits for a machine" in done.stdout
    [job] = list_jobs(open_store(clean_env["LASTRUN_STORE"]))
    assert f"Hugging Face job {waiting.id} waits for a machine" in cli("status", job.id).stdout
    again = cli("resume", job.id)
    assert again.returncode == 5
    assert f"Hugging Face job {waiting.id} waits for a machine; lastrun stop" in again.stderr
    hub.away = True
    for what in (job.id, "--all"):  # nobody takes it back just now: it hears of it once it begins
        told = json.loads(cli("stop", what, "--json").stdout)
        assert told["jobs"] == [{"id": job.id, "asked": "save", "state": "queued"}]
        assert "launcher hf cannot tell what waits: " in " ".join(told["problems"])
    assert len(job.requests.keys()) == 2
    hub.away = False
    stopped = cli("stop", job.id)
    assert stopped.returncode == 0, stopped.stderr
    assert f"Hugging Face job {waiting.id} was taken out of the queue" in stopped.stdout
    assert waiting.stage == "CANCELED"

    assert cli("resume", job.id, "--detach").returncode == 0
    away = cli("stop", job.id, HF_ENDPOINT="http://127.0.0.1:1")
    assert away.returncode == 0, away.stderr
    assert f"{job.id}: the request is in the store; what waits there leaves as soon as it has begun" in away.stdout
    assert "launcher hf cannot tell what waits: Hugging Face does not answer" in away.stderr
    hub.give_machines()
    wait_until(lambda: list(hub.jobs.values())[-1].stage != "RUNNING")
    assert [attempt.reason for attempt in job.attempts.all()] == ["stop_requested"]

    hub.python, go_on = slow_python(tmp_path / "slow")
    done = cli("resume", job.id, "--detach")
    assert done.returncode == 0, done.stdout + done.stderr
    set_up = list(hub.jobs.values())[-1]
    assert f"Hugging Face job {set_up.id} is being set up" in done.stdout
    assert f"Hugging Face job {set_up.id} is being set up" in " ".join(cli("status", job.id).stdout.split())
    stopped = cli("stop", job.id)
    assert f"Hugging Face job {set_up.id} was taken out of the queue" in stopped.stdout
    assert set_up.stage == "CANCELED"
    go_on()
    assert len(job.attempts.all()) == 1
    hub.asked_for.clear()
    assert cli("list", HOME=str(tiny.parent / "another")).returncode == 0
    assert hub.asked_for == []  # nothing was started from there


def test_what_will_not_do_is_told_before_anything_costs_money(
    hub: Hub, cli: Cli, tiny: Path, clean_env: dict[str, str], tmp_path: Path
) -> None:
    def refused(*words: str, **env: str) -> str:
        done = cli("submit", tiny, "--launcher", "hf", *words, **env)
        assert done.returncode in (2, 6), done.stdout + done.stderr
        assert "Traceback" not in done.stderr
        return done.stderr

    folder = refused("--store", str(tmp_path / "store"), "--set", "run.max_price=0.5", "run.hf.flavor=a10g-small")
    assert "a folder of this machine is not there: take a bucket" in folder
    assert "run.max_price: found 0.5 USD an hour, and a10g-small (1 x A10G, 24 GB, 4 vCPU, 15 GB), 1.00 USD" in folder
    assert "for that there is t4-small (1 x T4, 16 GB, 4 vCPU, 15 GB), 0.40 USD an hour" in folder
    assert "there are, with USD an hour: t4-small (0.40), a10g-small (1.00), a100-large (2.50)" in refused(
        "--set", "run.hf.flavor=h100"
    )
    inside = ("--set", "run.container=apptainer", "run.image=/x.sif")
    assert "run.container: found apptainer; allowed with launcher hf: none" in refused(*inside)
    assert "hf auth login, or HF_TOKEN" in refused(HF_TOKEN="")
    assert "it does not take your token" in refused(HF_TOKEN="hf_" + "x" * 30)
    assert "Hugging Face does not answer" in refused(HF_ENDPOINT="http://127.0.0.1:1")
    assert hub.jobs == {}
    hub.refusal = (402, "Pre-paid credit balance is insufficient")
    done = cli("submit", tiny, *CPU)
    assert done.returncode == 6
    assert "your account has no credit for jobs" in done.stderr
    [job] = list_jobs(open_store(clean_env["LASTRUN_STORE"]))
    assert job.attempts.all() == []
    hub.refusal = None
    shown = cli("submit", tiny, "--launcher", "hf", "--env", "a100", "--dry-run")
    assert shown.returncode == 0, shown.stderr
    assert "a100-large (1 x A100, 80 GB, 12 vCPU, 142 GB), 2.50 USD an hour" in shown.stderr
    told = json.loads(cli("submit", tiny, "--launcher", "hf", "--env", "a100", "--dry-run", "--json").stdout)["order"]
    assert told["flavor"] == "a100-large (1 x A100, 80 GB, 12 vCPU, 142 GB), 2.50 USD an hour"
    assert told["timeout"] == "45000 s, 31.25 USD at most"
    assert f"would ask for labels: {told['labels']}\n" in shown.stdout
    assert clean_env["AWS_SECRET_ACCESS_KEY"] not in shown.stdout + shown.stderr + json.dumps(told)
    assert hub.jobs == {}
    assert cli("submit", tiny, *CPU, *SHORT).returncode == 0
    asked = next(iter(hub.jobs.values())).asked
    told = json.loads(cli("submit", tiny, *CPU, *SHORT, "--dry-run", "--json").stdout)["order"]
    assert told["secrets"].split(", ") == list(asked["secrets"])
    assert told["timeout"].split()[0] == str(asked["timeoutSeconds"])
    assert (told["image"], told["flavor"].split()[0]) == (asked["dockerImage"], asked["flavor"])
    job = next(iter(list_jobs(open_store(clean_env["LASTRUN_STORE"]))))  # the newest
    begun = ["lastrun", "attempt", *json.loads(asked["environment"]["LASTRUN_BEGIN_WITH"])["arguments"]]
    told = shlex.split(told["command"])
    begun[2], begun[4] = job.uri.replace(job.id, "tiny-DATE-CODE"), "TOKEN"
    assert told == begun[: len(told)]  # then follows what is its user's alone


def test_no_more_is_paid_for_than_the_job_may_cost_in_all(
    hub: Hub, cli: Cli, run: Any, tiny: Path, clean_env: dict[str, str]
) -> None:
    paid = (*CPU, "run.hf.flavor=t4-small")  # 0.40 USD an hour; what is there trains on its CPU
    refused = cli("submit", tiny, *paid, "run.max_cost=0.2")
    assert refused.returncode == 2
    assert (
        "run.max_cost: found 0.2 USD; t4-small (1 x T4, 16 GB, 4 vCPU, 15 GB), 0.40 USD an hour costs 0.27 USD for the 40 min"
        in (refused.stderr)
    )
    assert hub.jobs == {}
    current = run("submit", tiny, *paid, "run.max_cost=2", "training.epochs=5000")
    with current.held(some_step_is_stored):
        listed = json.loads(cli("list", "--clouds", "--json").stdout)
        [machine] = listed["machines"]
        [there] = hub.jobs.values()
        assert (machine["id"], machine["job"], machine["state"], machine["dollars"]) == (there.id, current.job.id, "runs", 0.4)
        assert 0 < machine["cost"] < 0.4
        assert "hf" not in listed["missing"]
        assert f"hf jobs cancel {there.id} --namespace me" in cli("list", "--clouds").stdout
        assert there.asked["timeoutSeconds"] == 5 * 3600  # 2 USD
    current.press_ctrl_c()
    assert current.end()[0] == 75
    assert "no machine that is paid for" in cli("list", "--clouds").stdout
    [attempt] = current.job.attempts.all()
    assert attempt.container is not None
    assert attempt.container["dollars"] == "0.4"
    assert float(attempt.container["paid_since"]) < attempt.started_at
    assert attempt.ended_at is not None
    attempt.container["paid_since"] = str(attempt.ended_at - 4.5 * 3600 - 10)  # it has cost 1.80 and something
    current.job.attempts.write(attempt)
    more = cli("resume", current.job.id)
    assert more.returncode == 2, more.stderr
    assert "run.max_cost: found 2 USD, of which 1.80 are spent; t4-small" in more.stderr
    hub.machines = False
    more = cli("resume", current.job.id, "--set", "run.max_cost=2.8", "--detach")
    assert more.returncode == 0, more.stderr
    assert "for 7 h at most 2.80 USD" in more.stderr
    assert "Hugging Face: 1.80 of 2.8 USD are spent: this machine is asked for 2.5 h at most" in more.stderr
    asked = list(hub.jobs.values())[-1].asked
    assert 2.4 * 3600 < asked["timeoutSeconds"] < 2.5 * 3600  # 1 USD, less what the attempt itself took
    arguments = json.loads(asked["environment"]["LASTRUN_BEGIN_WITH"])["arguments"]
    assert f"hardware.session_limit={asked['timeoutSeconds'] - 1800}" in arguments
    [waiting] = json.loads(cli("list", "--clouds", "--json").stdout)["machines"]
    assert (waiting["state"], waiting["cost"]) == ("waits", None)


def test_what_can_be_had_is_listed_with_its_price_and_what_is_missing(hub: Hub, cli: Cli, tiny: Path) -> None:
    told = json.loads(cli("gpus", "--json").stdout)
    of_hub = [row for row in told["offers"] if row["launcher"] == "hf"]
    assert [(row["machine"], row["gpus"], row["dollars"]) for row in of_hub] == [
        ("cpu-basic", "", 0.0),
        ("t4-small", "1 x T4, 16 GB", 0.4),
        ("a10g-small", "1 x A10G, 24 GB", 1.0),
        ("a100-large", "1 x A100, 80 GB", 2.5),
        ("l4x4", "4 x L4, 24 GB", 4.0),
        ("a10g-largex4", "4 x A10G, 24 GB", 5.0),
        ("a100x4", "4 x A100, 80 GB", 10.0),
    ]
    assert of_hub[0]["words"] == "--launcher hf --set run.gpus=0 run.hf.flavor=cpu-basic"
    assert next(row["words"] for row in told["offers"] if row["launcher"] == "local") == "--launcher local"
    plan = cli("plan", tiny, "--live")
    assert plan.returncode == 0, plan.stderr
    assert re.search(
        r"gcp T4: on hf t4-small ~\$0\.\d+\?: 0\.4 USD an hour, as of 20\d\d-\d\d-\d\d \(hf tells it\)", plan.stdout
    )
    rows = json.loads(cli("plan", tiny, "--live", "--json").stdout)["rows"]
    a100 = next(row for row in rows if row["profile"] == "a100")
    assert [(one["machine"], one["price"]["amount"]) for one in a100["offers"]] == [("a100-large", 2.5)]
    assert a100["offers"][0]["cost"]["value"] == pytest.approx(2.5 * a100["total_seconds"]["value"] / 3600)
    hub.asked_for.clear()
    assert "on hf" not in cli("plan", tiny).stdout
    assert hub.asked_for == []
    without = cli("gpus", HF_TOKEN="")
    assert without.returncode == 0
    assert "not hf: launcher hf: there is no token of yours here: hf auth login, or HF_TOKEN" in without.stdout
    assert "a10g-small" not in without.stdout
    refused = cli("list", "--clouds", "--group", "x")
    assert refused.returncode == 2
    assert "leave all but --json out" in refused.stderr


def test_an_image_without_lastrun_gets_this_very_one(
    hub: Hub, cli: Cli, tiny: Path, tmp_path: Path, clean_env: dict[str, str]
) -> None:
    """A Python that has torch and all that is needed, as it would find it at an index, but no lastrun."""
    hub.python, packages = python_without_lastrun(tmp_path / "image")
    done = cli("submit", tiny, *CPU, *SHORT)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "bringing lastrun" in done.stdout
    [job] = hub.jobs.values()
    assert job.stage == "COMPLETED"
    assert not (packages / "runner").exists()  # the image is left as it was


def test_a_machine_that_fails_there_is_found_and_the_job_goes_on_with_another_until_somebody_cancels_it(
    hub: Hub, run: Any, cli: Cli, tiny: Path, uninterrupted: Any
) -> None:
    current = run("submit", tiny, *CPU, *LONGER, "run.auto_continue=2")
    with current.held(some_step_is_stored):
        [job] = hub.jobs.values()
        os.kill(current.job.attempts.all()[-1].pid, signal.SIGKILL)
    with current.held(lambda job: len(job.attempts.all()) == 2 and trainers_of(job)):  # as it starts: that takes a while
        hub._end(list(hub.jobs.values())[1])
    code, out = current.end()
    assert code == 1, out
    told = "; continued by itself (1 of 2, run.auto_continue)"
    assert f"lost (its Hugging Face job {job.id} ended as ERROR: Job failed with exit code: -9" in " ".join(out.split())
    assert out.count(told) == 1
    assert "it is not continued" not in out
    assert len(hub.jobs) == 2  # who cancels it there means the job
    assert f"ended as {hub.jobs[list(hub.jobs)[1]].stage}" in cli("status", current.job.id).stdout
    assert cli("resume", current.job.id).returncode == 0
    assert [(one.phase, one.reason) for one in current.job.attempts.all()][::2] == [("lost", None), ("ended", "completed")]
    assert_same(current.job, uninterrupted)


def test_who_is_killed_while_it_begins_one_leaves_none_that_nobody_knows_of(
    hub: Hub, run: Any, cli: Cli, tiny: Path, clean_env: dict[str, str]
) -> None:
    hub.machines = False
    current = run("submit", tiny, *CPU)
    wait_until(lambda: hub.jobs)
    current.process.kill()
    current.process.communicate()
    [job] = list_jobs(open_store(clean_env["LASTRUN_STORE"]))
    again = cli("resume", job.id)
    assert again.returncode == 5, again.stdout + again.stderr
    assert len(hub.jobs) == 1
    assert "waits for a machine" in again.stderr


def test_a_job_whose_begin_nobody_has_heard_of_is_ended_or_its_label_is_told(
    hub: Hub, run: Any, cli: Cli, tiny: Path, clean_env: dict[str, str]
) -> None:
    hub.machines, hub.lost = False, [True]
    lost = cli("submit", tiny, *CPU)
    assert lost.returncode == 6
    assert "it has no room now, or is down: in some minutes it may have, or another machine has" in lost.stderr
    assert "may have begun" not in lost.stderr
    assert [job.stage for job in hub.jobs.values()] == ["CANCELED"]

    hub.lost = [False]
    [job] = list_jobs(open_store(clean_env["LASTRUN_STORE"]))
    late = cli("resume", job.id)
    assert late.returncode == 6
    found = re.search(
        r"; it may have begun all the same: .* it has the label (lastrun-token=\w{8}), by which hf jobs ps", late.stderr
    )
    assert found is not None, late.stderr
    label = found[1].partition("=")
    one = hub.arrive()
    assert one.asked["labels"][label[0]] == label[2]
    assert f"Hugging Face job {one.id} was taken out of the queue" in cli("stop", job.id).stdout
    assert one.stage == "CANCELED"

    hub.lost = [False]
    hub.answers_runs.clear()
    pressed = run("resume", job.id)
    wait_until(lambda: hub.late)
    pressed.press_ctrl_c()
    code, out = pressed.end()
    assert code == 75, out
    assert (
        f"{job.id}: interrupted while its machine was asked for; it may have begun all the same: lastrun stop {job.id}" in out
    )
    assert f"label lastrun-token={hub.late[0]['labels']['lastrun-token']}" in out
    one = hub.arrive()
    assert f"{job.id}: Hugging Face job {one.id} waits for a machine; lastrun stop" in cli("resume", job.id).stderr
    assert f"Hugging Face job {one.id} was taken out of the queue" in cli("stop", job.id).stdout


def test_what_ends_before_its_attempt_says_why_and_what_begins_another(
    hub: Hub, run: Any, cli: Cli, tiny: Path, clean_env: dict[str, str], tmp_path: Path
) -> None:
    hub.not_to_be_pulled = "nowhere/nothing:1"
    unknown = cli("submit", tiny, *CPU, *SHORT, "run.image=nowhere/nothing:1")
    assert unknown.returncode == 1, unknown.stdout + unknown.stderr
    [there] = hub.jobs.values()
    assert f"Hugging Face job {there.id} (error): image nowhere/nothing:1 cannot be pulled\n" in unknown.stdout
    [job] = list_jobs(open_store(clean_env["LASTRUN_STORE"]))
    assert f"next: lastrun resume {job.id}" in unknown.stdout

    hub.python, go_on = slow_python(tmp_path / "slow")
    current = run("resume", job.id, "--set", "run.image=any:1")
    wait_until(lambda: [job.stage for job in hub.jobs.values()] == ["ERROR", "RUNNING"])
    there = list(hub.jobs.values())[1]
    hub.lose(there)
    code, out = current.end()
    assert code == 1, out
    assert f"Hugging Face job {there.id} (error): Job failed with exit code: -9" in out
    assert f"next: lastrun resume {job.id}" in out
    assert "no machine that is paid for" in cli("list", "--clouds").stdout
    go_on()

    current = run("resume", job.id, "--set", "run.image=any:1")
    wait_until(lambda: len(hub.jobs) == 3)
    os.killpg(current.process.pid, signal.SIGSTOP)  # as long as a laptop sleeps
    wait_until(lambda: list(hub.jobs.values())[2].stage == "COMPLETED")
    os.killpg(current.process.pid, signal.SIGCONT)
    code, out = current.end()
    assert code == 0, out
    assert [attempt.reason for attempt in job.attempts.all()] == ["completed"]


def test_of_two_that_begin_a_job_at_once_one_trains_and_the_machine_of_the_other_goes(
    hub: Hub, run: Any, cli: Cli, tiny: Path, clean_env: dict[str, str]
) -> None:
    hub.machines = False
    assert cli("submit", tiny, *CPU, *LONGER, "--detach").returncode == 0
    [job] = list_jobs(open_store(clean_env["LASTRUN_STORE"]))
    assert cli("stop", job.id).returncode == 0
    hub.machines, hub.together = True, threading.Barrier(2)
    ends = [one.end() for one in [run("resume", job.id) for _ in range(2)]]
    assert sorted(code for code, _ in ends) == [0, 5], ends
    assert [attempt.reason for attempt in job.attempts.all()] == ["completed"]
    assert "no machine that is paid for" in cli("list", "--clouds").stdout
