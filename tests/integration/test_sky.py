"""Machines of clouds through SkyPilot: its own server, its optimizer over a catalogue of the tests, real processes."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
from pathlib import Path
from typing import Any

import pytest

from runner.errors import EngineError, LastrunError
from runner.job.find import list_jobs
from runner.job.job import Job
from runner.launch import bill
from runner.launch.sky import terms
from runner.launch.sky.engine import sky
from runner.launch.sky.launcher import SkyLauncher
from runner.launch.start import make_launcher
from runner.resolve import resolve_spec
from runner.store.open import open_store
from tests.conftest import Cli
from tests.faultproxy import Faults, fault_proxy
from tests.jobs import LONGER, assert_same, has_pending, has_saved, jobs_in, some_step_is_stored, stand_still, wait_until
from tests.sky_server import SkyServer

pytestmark = [pytest.mark.xdist_group("clouds"), pytest.mark.slow]
CPU = ("--launcher", "sky", "--set", "run.gpus=0", "run.resources.gpu=T4")
SHORT = ("--set", "training.epochs=1")


def test_a_spot_machine_that_is_taken_away_is_followed_by_another_to_the_same_bits(
    sky_server: SkyServer, run: Any, cli: Cli, tiny: Path, uninterrupted: Any, clean_env: dict[str, str]
) -> None:
    words = ("run.auto_continue=2", "run.pass_env=[MY_TOKEN]", "run.max_price=0.5")
    clean_env["MY_TOKEN"] = "nobody-may-see-this"
    with fault_proxy(sky_server.port) as network:
        clean_env["SKYPILOT_API_SERVER_ENDPOINT"] = f"http://127.0.0.1:{network.port}"
        current = run("submit", tiny, *CPU, *LONGER, *words)
        clean_env["SKYPILOT_API_SERVER_ENDPOINT"] = sky_server.url
        with current.held(some_step_is_stored):
            [name] = sky_server.running()
            network.set(Faults("refuse"))  # SkyPilot's server is gone for a while
            machines = json.loads(cli("list", "--clouds", "--json").stdout)["machines"]
            wait_until(lambda: network.seen["refused"] > 1)
            network.set(Faults())
            sky_server.take_away(name)
        with current.held(lambda job: len(job.attempts.all()) == 2 and has_saved(job)) as trainer:
            current.press_ctrl_c()
            wait_until(lambda: has_pending(trainer, signal.SIGTERM))  # what was asked has come to the machine
        code, out = current.end()
    assert code == 75, out
    assert re.search(r"SkyPilot's server does not answer \(.+\): sky api status; the attempt is not touched by that\n", out)
    assert "SkyPilot: gcp n1-standard-8 (1 x T4, 16 GB, spot), 0.19 USD an hour, for 12.5 h at most 2.38 USD, each of up" in out
    how = r"(is gone: its machine was taken away, or given back|ended as FAILED)"  # whichever is seen first
    told = rf"lost \(its SkyPilot cluster {name} {how}\); continued by itself \(1 of 2"
    assert re.search(told, " ".join(out.split()))
    first, second = current.job.attempts.all()
    assert (first.phase, second.reason) == ("lost", "stop_requested")
    assert first.container is not None
    assert (first.container["what"], first.container["name"], first.container["dollars"]) == ("SkyPilot cluster", name, "0.19")
    assert float(first.container["paid_since"]) <= first.started_at
    assert sky_server.running() == []

    [machine] = machines
    assert (machine["id"], machine["job"], machine["state"]) == (name, current.job.id, "runs")
    assert (machine["machine"], machine["dollars"], machine["ended_by"]) == (
        "gcp n1-standard-8 spot",
        0.19,
        f"sky down -y {name}",
    )
    asked = sky_server.asked(name)
    assert asked["secrets"]["MY_TOKEN"] == "nobody-may-see-this"
    assert asked["secrets"]["AWS_SECRET_ACCESS_KEY"] == clean_env["AWS_SECRET_ACCESS_KEY"]
    seen = json.dumps(asked["envs"]) + asked["task"]["run"] + str(asked["task"].get("file_mounts")) + out
    for secret in ("nobody-may-see-this", clean_env["AWS_SECRET_ACCESS_KEY"], "X-Amz-Signature"):
        assert secret not in seen
    resources = asked["task"]["resources"]
    assert resources["autostop"] == {"idle_minutes": 2, "down": True}
    assert (resources["use_spot"], resources["max_hourly_cost"]) == (True, 0.5)
    assert "setup" not in asked["task"]
    assert json.loads((sky_server.machines / f"{name}.autostop.json").read_text()) == {"idle": 2, "down": True}

    assert cli("resume", current.job.id, "--launcher", "local").returncode == 0
    assert_same(current.job, uninterrupted)


def test_what_skypilot_will_not_do_is_told_before_anything_costs_money(
    sky_server: SkyServer, cli: Cli, tiny: Path, clean_env: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One process asks for most of it: SkyPilot takes seconds to be imported."""
    for name, value in clean_env.items():
        monkeypatch.setenv(name, value)

    def refused(*settings: str, env: str | None = None, store: str = clean_env["LASTRUN_STORE"]) -> str:
        config = resolve_spec(tiny, env, list(settings), "sky").config
        with pytest.raises(LastrunError) as error:
            make_launcher(config).preflight(store)
        assert error.value.exit_code in (2, 6)
        return str(error.value)

    folder = refused("run.max_price=0.1", store=str(tmp_path / "store"))
    assert "a folder of this machine is not there: take a bucket" in folder
    assert "run.max_price: found 0.1 USD an hour, and gcp g2-standard-4 (1 x L4, 24 GB), 0.70 USD an hour; no GPU" in folder
    spot = refused("run.resources.spot=true", env="lambda")
    assert "found a spot machine with A10 or A100 on lambda; no cloud that SkyPilot may use has one" in spot
    assert "the nearest are lambda gpu_1x_a10 (1 x A10, 24 GB), 0.75 USD an hour, lambda gpu_1x_a100" in spot
    unknown = refused("run.resources.gpu=K80", "run.resources.cloud=gcp")
    assert "the nearest are gcp n1-standard-8 (1 x T4, 16 GB, spot), 0.19 USD an hour" in unknown
    assert "SkyPilot" in refused("run.resources.gpu=T4", "run.resources.region=mars-1")
    assert "run.max_cost: found 0.1 USD; gcp g2-standard-4" in refused("run.max_cost=0.1")
    assert "run.gpus: found 0; launcher sky rents machines for their GPU" in refused("run.gpus=0")
    store = open_store(clean_env["LASTRUN_STORE"])
    assert (list(list_jobs(store)), sky_server.tried()) == ([], [])
    sky_server.set("wrong_key", "lambda")
    resolved = resolve_spec(tiny, None, ["run.resources.gpu=A10"], "sky")
    job = Job.create(store, "tiny", resolved.items(), {}, "0")
    told = r"no machine is to be had: lambda does not take its keys \(.*\): sky check lambda tells more\. lastrun resume"
    with pytest.raises(EngineError, match=told):
        make_launcher(resolved.config).start(job, [], "00000000", output=None)
    assert sky_server.tried() == ["gpu_1x_a10"]  # once
    sky_server.clear()
    sky_server.set("slow")  # whoever has begun this is gone
    sky().launch({"resources": {"infra": "lambda", "accelerators": "A10:1"}, "run": "true"}, "lastrun-gone-00000000", 2)
    wait_until(sky_server.running)
    SkyLauncher.clean()
    assert sky_server.running() == ["lastrun-gone-00000000"]  # it may still come to something
    monkeypatch.setattr(bill, "SET_UP_SECONDS", 0)
    SkyLauncher.clean()
    assert sky_server.running() == []
    sky_server.set("closed")
    terms.everything.cache_clear()
    assert "no cloud is set up for SkyPilot: sky check tells what is missing for each" in refused()
    sky_server.clear()
    sky()._end()
    monkeypatch.setenv("SKYPILOT_API_SERVER_ENDPOINT", "http://127.0.0.1:1")
    terms.everything.cache_clear()
    assert "SkyPilot's server does not answer" in refused()
    sky()._end()
    terms.everything.cache_clear()
    without = cli("submit", tiny, "--launcher", "sky", PATH="/usr/bin:/bin")
    assert without.returncode == 6
    assert "pip install '.[sky]'" in without.stderr
    assert [one.id for one in list_jobs(store)] == [job.id]


def test_a_dry_run_tells_what_would_be_asked_for_and_gpus_what_can_be_had(
    sky_server: SkyServer, cli: Cli, run: Any, tiny: Path, clean_env: dict[str, str]
) -> None:
    """Two are submitted side by side, one from a laptop that falls asleep."""
    login = dict.fromkeys(("SKYPILOT_DOCKER_USERNAME", "SKYPILOT_DOCKER_PASSWORD", "SKYPILOT_DOCKER_SERVER"), "me")
    words = ("--launcher", "sky", "--env", "a100", "--set", "run.image=nowhere/nothing:1", f"run.pass_env=[{','.join(login)}]")
    shown = json.loads(cli("submit", tiny, *words, "--dry-run", "--json", **login).stdout)["order"]
    assert set(login) < set(shown["secrets"].split(", "))
    assert shown["price"] == "1.29 USD an hour, 16.12 USD at most"  # the cheapest of any cloud that is not taken away
    assert (shown["resources.infra"], shown["resources.instance_type"]) == ("lambda", "gpu_1x_a100")
    assert shown["else"] == "gcp a2-highgpu-1g (1 x A100, 40 GB), 3.64 USD an hour"
    assert shown["resources.image_id"] == "docker:nowhere/nothing:1"
    assert (sky_server.tried(), sky_server.tried("dry")) == ([], ["gpu_1x_a100"])  # the second is SkyPilot's own dry run
    asleep = run("submit", tiny, *CPU, *SHORT, "--env", "gcp")
    asleep.wait_for(lambda job: job.attempts.all())
    first = asleep.job
    stand_still(asleep.process.pid)
    done = cli("submit", tiny, *CPU, *SHORT, "--env", "gcp")
    assert done.returncode == 0, done.stdout + done.stderr
    wait_until(lambda: not first.attempts.all()[0].open)
    for name in sky_server.running():  # unless the other has given it back
        sky_server.take_away(name)  # as SkyPilot's programs there do, when nothing runs any more
    os.kill(asleep.process.pid, signal.SIGCONT)
    code, out = asleep.end()
    assert code == 0, out
    assert f"next: lastrun pull {first.id} FOLDER --best" in out
    assert sky_server.running() == []
    job = jobs_in(first.store)[0]
    [attempt] = job.attempts.all()
    assert attempt.container is not None
    asked = sky_server.asked(attempt.container["name"])
    told = json.loads(cli("submit", tiny, *CPU, *SHORT, "--env", "gcp", "--dry-run", "--json").stdout)["order"]
    resources = asked["task"]["resources"]
    assert told["resources.instance_type"] == resources["instance_type"] == "n1-standard-8"
    assert told["resources.use_spot"] == str(resources["use_spot"]).lower() == "true"
    assert told["resources.accelerators"] == "T4:1"
    assert told["secrets"].split(", ") == list(asked["secrets"])
    assert told["run"] == asked["task"]["run"]
    begun = ["lastrun", "attempt", *json.loads(asked["envs"]["LASTRUN_BEGIN_WITH"])["arguments"]]
    begun[2], begun[4] = job.uri.replace(job.id, "tiny-DATE-CODE"), "TOKEN"
    command = shlex.split(told["command"])
    assert command == begun[: len(command)]
    rows = [row for row in json.loads(cli("gpus", "--json").stdout)["offers"] if row["launcher"] == "sky"]
    assert [(row["machine"], row["gpus"], row["dollars"]) for row in rows[:2]] == [
        ("gcp n1-standard-8 spot", "1 x T4, 16 GB", 0.19),
        ("gcp g2-standard-4 spot", "1 x L4, 24 GB", 0.28),
    ]
    assert rows[0]["words"] == ("--launcher sky --set run.resources.cloud=gcp run.resources.gpu=T4 run.resources.spot=true")
    two = ("submit", tiny, "--launcher", "sky", "--env", "gcp", "--set", "run.gpus=2", "--dry-run", "--json")
    order = json.loads(cli(*two).stdout)["order"]
    assert (order["resources.accelerators"], order["resources.instance_type"]) == ("T4:2", "n1-highmem-8")
    assert order["price"] == "0.32 USD an hour, 4.00 USD at most"
    several = {(row["gpus"], row["words"].split()[3]) for row in rows if row["gpus"][0] == "2"}
    assert several == {("2 x T4, 16 GB", "run.gpus=2")}
    plan = cli("plan", tiny, "--live")
    assert re.search(r"gcp T4: on sky gcp n1-standard-8 spot ~\$0\.\d+\?: 0\.19 USD an hour", plan.stdout), plan.stdout


def test_where_there_is_none_the_next_is_asked_for_and_at_last_it_is_given_up(
    sky_server: SkyServer, cli: Cli, tiny: Path, clean_env: dict[str, str]
) -> None:
    """By the profile alone: this machine is not one."""
    sky_server.set("full", "n1-standard-8")
    words = ("--env", "gcp", *SHORT, "hardware.device=cpu")
    asked = cli("submit", tiny, *words)
    assert asked.returncode == 2, asked.stdout + asked.stderr
    assert "SkyPilot: gcp n1-standard-8 (1 x T4, 16 GB, spot), 0.19 USD an hour" in asked.stderr
    assert "env gcp: this machine" in asked.stderr
    assert "SkyPilot would rent that one: --yes rents it, --here trains on this machine" in asked.stderr
    resolved = resolve_spec(tiny, None, [])
    job = Job.create(open_store(clean_env["LASTRUN_STORE"]), "tiny", resolved.items(), {}, "0")
    asked = cli("resume", job.id, "--env", "gcp")
    assert asked.returncode == 2, asked.stdout + asked.stderr
    assert "SkyPilot would rent that one: --yes rents it, --here trains on this machine" in asked.stderr
    assert sky_server.tried() == []
    done = cli("submit", tiny, *words, "--yes")
    assert done.returncode == 0, done.stdout + done.stderr
    assert (
        "there is no gcp n1-standard-8 (1 x T4, 16 GB, spot), 0.19 USD an hour now (RuntimeError: QUOTA_EXCEEDED" in done.stderr
    )
    assert sky_server.tried() == ["n1-standard-8", "g2-standard-4"]
    sky_server.clear()
    sky_server.set("full", "gcp")
    sky_server.set("wrong_key", "lambda")
    words = ("--launcher", "sky", "--env", "a100", "--set", "run.gpus=0", "run.resources.gpu=A100")
    done = cli("submit", tiny, *words, LASTRUN_WAITS=f"{clean_env['LASTRUN_WAITS']} follow=0.02")
    assert done.returncode == 6, done.stdout + done.stderr
    wrong = "lambda does not take its keys (ResourcesUnavailableError: Failed to provision on cloud Lambda due to InvalidCloud"
    assert done.stderr.count(f"SkyPilot: {wrong}") == 1
    assert "no machine is to be had: RuntimeError: QUOTA_EXCEEDED: no a2-highgpu-1g in any zone. lastrun resume" in done.stderr
    assert sky_server.tried() == ["gpu_1x_a100", *6 * ["a2-highgpu-1g"]]
    assert done.stderr.count("asked again in") == 5
    assert sky_server.running() == []


def test_what_does_not_come_to_an_attempt_leaves_no_machine_without_a_word(
    sky_server: SkyServer, run: Any, cli: Cli, tiny: Path, clean_env: dict[str, str]
) -> None:
    sky_server.set("slow")
    current = run("submit", tiny, *CPU)
    wait_until(sky_server.running)
    [job] = list_jobs(open_store(clean_env["LASTRUN_STORE"]))
    assert "is being set up" in cli("status", job.id).stdout
    again = cli("resume", job.id)
    assert again.returncode == 5, again.stdout + again.stderr
    assert "is being set up; lastrun stop" in again.stderr
    current.press_ctrl_c()
    code, out = current.end()
    assert code == 75, out
    assert "is taken down; if this is interrupted, sky down -y lastrun-" in out
    wait_until(lambda: sky_server.running() == [])

    current = run("resume", job.id)  # and one whose command is killed
    wait_until(sky_server.running)
    current.process.kill()
    current.process.communicate()
    stopped = cli("stop", job.id)
    assert stopped.returncode == 0, stopped.stdout + stopped.stderr
    assert re.search(r"SkyPilot cluster lastrun-\S+ was taken", stopped.stdout)
    wait_until(lambda: sky_server.running() == [])
    sky_server.clear()

    sky_server.set("slow")  # one that is taken away meanwhile
    current = run("resume", job.id)
    wait_until(sky_server.running)
    sky_server.take_away(sky_server.running()[0])
    code, out = current.end()
    assert code == 6, out
    assert re.search(r"Failed to SSH to .*\. lastrun resume \S+ asks for another machine\n", out)
    assert sky_server.running() == []
    sky_server.clear()

    sky_server.set("broken")  # its machine is there, and its image is not, and it is not taken back
    sky_server.set("stuck")
    done = cli("resume", job.id, "--set", "run.image=nowhere/nothing:1")
    assert done.returncode == 6, done.stdout + done.stderr
    assert "SkyPilot: Command sudo docker pull nowhere/nothing:1 failed" in done.stderr
    assert (
        "asks for another machine (nowhere/nothing:1 is the image that it was to run: can it be pulled there?)" in done.stderr
    )
    assert re.search(
        r"its machine may be left \(SkyPilot: the cloud does not take it back .*\): sky down -y lastrun-", done.stderr
    )
    assert len(sky_server.running()) == 1
