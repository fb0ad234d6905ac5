"""Attempts in containers of a real Docker engine, in the project's real image: they run, are killed, and go on elsewhere."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from last_e.data import Clips, write_clips
from last_e.manifest import verify
from runner.engine import connect
from runner.image import BUILD, default_image
from runner.job import EXPIRY_SECONDS, Job, find_job
from runner.launch.docker import DockerLauncher
from runner.resolve import resolve_spec
from runner.store import StoreUri
from runner.store.directory import DirectoryStore
from tests.ceph import SECRET_KEY, Ceph
from tests.conftest import Cli
from tests.docker_engine import BASE, ROOT, Engine
from tests.jobs import LONGER, assert_same, result, some_step_is_stored

pytestmark = [pytest.mark.xdist_group("docker"), pytest.mark.slow]
DOCKER = ("--launcher", "docker")


@pytest.fixture(autouse=True)
def clean_engine(engine: Engine, clean_env: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The commands of a test and the test itself use the engine; no container outlives the test."""
    monkeypatch.setenv("HOME", clean_env["HOME"])
    yield
    engine.remove_containers()
    connect().close()
    connect.cache_clear()


def state_of(engine: Engine, name: str) -> dict[str, Any]:
    return dict(engine.client.api.inspect_container(name))


def containers(engine: Engine) -> list[Any]:
    return list(engine.client.containers.list(all=True))


# --- the image --------------------------------------------------------------------------------------------------------------


def test_the_image_is_what_the_code_is_and_says_so(engine: Engine, cli: Cli) -> None:
    done = cli("image", "check", "--json")
    facts = json.loads(done.stdout)
    assert done.returncode == 0, facts
    assert facts["problems"] == []
    head = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True, cwd=ROOT).stdout.strip()
    assert facts["revision"].removesuffix("-dirty") == head
    assert facts["base"] == BASE
    assert facts["torch"].startswith("2.")
    text = cli("image", "check").stdout
    assert re.search(r"^fits +yes$", text, re.MULTILINE)

    image = engine.client.images.get(default_image())
    config = image.attrs["Config"]
    assert config["User"] == "10001:10001"
    assert image.labels["org.opencontainers.image.version"] == default_image().partition(":")[2]
    inside = engine.client.containers.run(image.id, ["-c", "ls / /opt/lastrun/bin"], entrypoint=["sh"], remove=True)
    assert not {"extra", "src", "tools", "pip"} & set(inside.decode().split())


def test_a_change_of_the_code_is_seen_and_rebuilt_in_seconds(engine: Engine, cli: Cli, tiny: Path, tmp_path: Path) -> None:
    clone = tmp_path / "clone"
    clone.mkdir()
    for name in ("LICENSE", "README.md", "constraints.txt", "pyproject.toml"):
        shutil.copy(ROOT / name, clone / name)
    for folder in ("docker", "last_e", "runner"):
        shutil.copytree(ROOT / folder, clone / folder, ignore=shutil.ignore_patterns("__pycache__"))
    with (clone / "runner" / "status.py").open("a") as file:
        file.write("# another line\n")
    found = cli("image", "check", PYTHONPATH=str(clone))
    assert found.returncode == 6
    assert "built from other code" in found.stdout
    noted = cli("submit", tiny, *DOCKER, PYTHONPATH=str(clone))
    assert noted.returncode == 0, noted.stderr
    assert "note: image" in noted.stderr

    began = time.monotonic()
    words = ("--base", BASE, "--wheels", engine.wheels, "--tag", "lastrun:changed")
    built = cli("image", "build", *words, PYTHONPATH=str(clone))
    assert built.returncode == 0, built.stderr
    assert time.monotonic() - began < 30
    assert cli("image", "check", "lastrun:changed", PYTHONPATH=str(clone)).returncode == 0
    layers = [engine.client.images.get(name).attrs["RootFS"]["Layers"] for name in (default_image(), "lastrun:changed")]
    assert layers[0][:-1] == layers[1][:-1]
    assert layers[0][-1] != layers[1][-1]


def test_the_dockerfile_builds_with_buildkit_too(engine: Engine, tmp_path: Path) -> None:
    """With the smallest package in torch's place: this is about the builder."""
    program = next((path for path in ("/usr/bin/docker", shutil.which("docker") or "") if Path(path).exists()), None)
    assert program is not None
    extra = ROOT / "docker" / "extra"
    links = [extra / path.name for path in engine.wheels.glob("*.whl") if not path.name.startswith("torch")]
    try:
        for link in links:
            shutil.copy(engine.wheels / link.name, link)
        arguments = ("BASE_IMAGE=" + BASE, "TORCH=filelock", "PIP_NO_INDEX=1")
        words = [word for argument in arguments for word in ("--build-arg", argument)]
        command = [
            program,
            "build",
            "-q",
            "-f",
            str(ROOT / "docker" / "Dockerfile"),
            "-t",
            "lastrun:buildkit",
            *words,
            str(ROOT),
        ]
        env = {**os.environ, "DOCKER_BUILDKIT": "1"}
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=env, check=False)
    finally:
        for link in links:
            link.unlink(missing_ok=True)
    assert done.returncode == 0, done.stderr
    out = engine.client.containers.run("lastrun:buildkit", ["--version"], remove=True)
    assert out.decode().strip() == default_image().replace(":", " ")


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("--base", "no-such-base:1"), "neither here nor can it be fetched"),
        (("--wheels", "."), "--wheels: no *.whl in"),
        (("--ca-bundle", "nowhere.crt"), "--ca-bundle: no file nowhere.crt"),
        (("--base", BASE, "--torch", "torch==0.0.1", "--wheels", "WHEELS"), "No matching distribution found for torch==0.0.1"),
    ],
)
def test_a_build_that_fails_says_why_in_one_line(engine: Engine, cli: Cli, words: tuple[str, ...], text: str) -> None:
    done = cli("image", "build", *[word.replace("WHEELS", str(engine.wheels)) for word in words])
    assert done.returncode in (2, 6)
    assert text in done.stderr
    assert len(done.stderr.splitlines()) == 1


# --- a job's life -----------------------------------------------------------------------------------------------------------


def test_the_quickstart_runs_in_a_container_with_its_store_on_ceph(
    engine: Engine, ceph: Ceph, cli: Cli, clean_env: dict[str, str], run: Any
) -> None:
    store = ceph.uri("docker-quickstart")
    clean_env.update(ceph.credentials(), LASTRUN_STORE=store)
    spec = ROOT / "jobs" / "quickstart-docker.yaml"
    refused = cli("submit", spec)
    assert refused.returncode == 2
    assert "run.network=host" in refused.stderr

    current = run("submit", spec, "--set", "run.network=host")
    inspected = state_of(engine, engine.container().id)
    assert SECRET_KEY not in json.dumps(inspected)
    files = (engine.folder / "data" / "containers" / inspected["Id"]).rglob("*")
    assert not [path for path in files if path.is_file() and SECRET_KEY.encode() in path.read_bytes()]
    out, _ = current.process.communicate(timeout=400)
    assert current.process.returncode == 0, out
    job = current.job
    assert job.state()[0].value == "succeeded"
    assert [m["epoch"] for m in job.metrics()] == [1, 2, 3, 4, 5]
    assert job.metrics()[-1]["test_top1"] >= 0.99
    attempt = job.attempts()[0]
    assert attempt.container is not None
    assert attempt.container["image"] == engine.client.images.get(default_image()).id
    for entry in job.store.scan(""):
        assert SECRET_KEY.encode() not in job.store.get(entry.key)
    assert SECRET_KEY not in out
    assert containers(engine) == []


def test_real_motion_trains_to_the_same_bits_in_a_container(cli: Cli, tmp_path: Path) -> None:
    small = ("training.epochs=1", "training.batch_size=64", "training.input_frames=16", "training.warmup_epochs=0")
    words = ("--set", *small, "hardware.cpu_threads=2")
    results = []
    for launcher in ("local", "docker"):
        store = tmp_path / launcher
        done = cli("submit", ROOT / "jobs" / "quickstart.yaml", "--launcher", launcher, "--store", store, *words, timeout=300)
        assert done.returncode == 0, done.stdout + done.stderr
        results.append(find_job("quickstart", str(store)))
    assert_same(results[1], result(results[0]))


@pytest.mark.parametrize(("first", "then"), [("local", "docker"), ("docker", "local")])
def test_a_job_moves_between_process_and_container(
    engine: Engine, run: Any, cli: Cli, tiny: Path, uninterrupted: Any, first: str, then: str
) -> None:
    current = run("submit", tiny, "--launcher", first, *LONGER)
    current.wait_for(some_step_is_stored)
    current.process.send_signal(signal.SIGTERM)
    code, out = current.end()
    assert code == 75, out
    assert current.job.attempts()[0].reason == "preempted"
    resumed = cli("resume", current.job.id, "--launcher", then)
    assert resumed.returncode == 0, resumed.stdout + resumed.stderr
    assert "going on from checkpoint" in resumed.stdout
    attempts = current.job.attempts()
    assert [attempt.container is not None for attempt in attempts] == [first == "docker", then == "docker"]
    assert {change["key"]: change["after"] for change in attempts[1].changes}["run.launcher"] == then
    assert_same(current.job, uninterrupted)
    assert containers(engine) == []


def test_docker_stop_in_mid_epoch_saves(engine: Engine, run: Any, cli: Cli, tiny: Path, uninterrupted: Any) -> None:
    current = run("submit", tiny, *DOCKER, *LONGER)
    current.wait_for(some_step_is_stored)
    before = current.job.checkpoints()[-1].order
    container = engine.container()
    assert state_of(engine, container.id)["Config"]["StopTimeout"] >= 60
    container.stop()
    code, out = current.end()
    assert code == 75, out
    state, _, reason = current.job.state()
    assert (state.value, reason and reason.value) == ("paused", "preempted")
    assert current.job.checkpoints()[-1].order >= before
    assert cli("resume", current.job.id).returncode == 0  # the job's own launcher: docker was given at its beginning
    assert [a.container is not None for a in current.job.attempts()] == [True, True]
    assert_same(current.job, uninterrupted)


def test_docker_kill_is_seen_at_once_and_the_job_goes_on(
    engine: Engine, run: Any, cli: Cli, tiny: Path, uninterrupted: Any
) -> None:
    current = run("submit", tiny, *DOCKER, *LONGER)
    current.wait_for(some_step_is_stored)
    began = time.monotonic()
    engine.container().kill()
    code, _ = current.end()
    assert code == 1
    assert current.job.state()[0].value == "lost"
    shown = cli("status", current.job.id)
    assert "lost (container lastrun-tiny-" in shown.stdout
    assert "was killed)" in shown.stdout
    assert "the last that its container said" in cli("logs", current.job.id).stdout
    assert containers(engine) == []
    resumed = cli("resume", current.job.id)
    assert resumed.returncode == 0, resumed.stdout + resumed.stderr
    assert time.monotonic() - began < EXPIRY_SECONDS
    assert_same(current.job, uninterrupted)


@pytest.mark.parametrize("moved", ["local", "docker"])
def test_what_was_killed_on_one_side_goes_on_on_the_other_at_once(
    engine: Engine, run: Any, cli: Cli, tiny: Path, uninterrupted: Any, moved: str
) -> None:
    current = run("submit", tiny, "--launcher", "docker" if moved == "local" else "local", *LONGER)
    current.wait_for(some_step_is_stored)
    if moved == "local":
        engine.container().kill()
    else:
        os.killpg(current.process.pid, signal.SIGKILL)
    current.end()
    current.settles_as("lost")
    resumed = cli("resume", current.job.id, "--launcher", moved, timeout=EXPIRY_SECONDS)
    assert resumed.returncode == 0, resumed.stdout + resumed.stderr
    assert_same(current.job, uninterrupted)


def test_a_job_is_found_again_after_the_command_that_started_it_is_gone(
    engine: Engine, run: Any, cli: Cli, tiny: Path, uninterrupted: Any
) -> None:
    current = run("submit", tiny, *DOCKER, *LONGER)
    current.wait_for(some_step_is_stored)
    current.process.kill()
    current.end()
    container = engine.container()
    job = current.job
    assert container.labels["lastrun.job"] == job.id
    assert job.attempts()[0].id.endswith("-" + container.labels["lastrun.attempt"])
    assert "running" in cli("list").stdout
    assert f"container lastrun-{job.id}-1" in cli("resume", job.id).stderr
    assert cli("stop", job.id).returncode == 0
    followed = cli("logs", job.id, "--follow").stdout
    assert "asked to stop from another terminal or machine" in followed
    assert job.state()[0].value == "stopped"
    container.wait(timeout=30)
    resumed = cli("resume", job.id)
    assert resumed.returncode == 0, resumed.stderr
    assert containers(engine) == []  # the one that nobody waited for is gone, too
    assert_same(job, uninterrupted)


def test_a_detached_container_lives_on_and_a_second_one_steps_back(engine: Engine, cli: Cli, tiny: Path) -> None:
    started = cli("submit", tiny, *DOCKER, "--detach", "--json", "--set", "training.epochs=5000")
    assert started.returncode == 0, started.stderr
    job = find_job("tiny", json.loads(started.stdout)["uri"].rpartition("/")[0])
    second = cli("resume", job.id, *DOCKER)
    assert second.returncode == 5
    assert "is being run by attempt 1" in second.stderr
    # As a machine would start it that knows nothing of the first one: the claim in the store decides.
    command = [sys.executable, "-c", _START, job.uri]
    blind = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert blind.returncode == 5, blind.stdout + blind.stderr
    assert "is being run by attempt 1" in blind.stdout
    assert [attempt.number for attempt in job.attempts()] == [1]
    assert cli("stop", job.id, "--now").returncode == 0


_START = """
import sys
from runner.job import Job
from runner.launch import make_launcher
from runner.resolve import resolve_attempt
from runner.store import StoreUri, open_store

store, name = StoreUri.parse(sys.argv[1]).parent()
job = Job(open_store(store), name)
record = job.record()
config = resolve_attempt(record["config"], record["origins"], None, [], [])[0].config
raise SystemExit(make_launcher(config).run(job, [], quiet=False))
"""


# --- what goes wrong --------------------------------------------------------------------------------------------------------


def test_a_trainer_that_takes_too_much_memory_ends_as_out_of_memory(cli: Cli, tiny: Path, clean_env: dict[str, str]) -> None:
    done = cli("submit", tiny, *DOCKER, "--set", "run.memory=120m", *LONGER[1:])
    assert done.returncode == 1, done.stdout + done.stderr
    job = find_job("tiny", clean_env["LASTRUN_STORE"])
    state, _, reason = job.state()
    assert (state.value, reason and reason.value) == ("failed", "out_of_memory")
    assert "hardware.micro_batch" in done.stdout.splitlines()[-1]
    assert cli("resume", job.id, "--set", "run.memory=2g").returncode == 0


def test_a_container_killed_for_its_memory_ends_as_out_of_memory(engine: Engine, run: Any, cli: Cli, tiny: Path) -> None:
    """The kernel takes the agent itself, so only the engine knows."""
    current = run("submit", tiny, *DOCKER, "--set", "run.memory=600m", "training.epochs=5000")
    current.wait_for(lambda job: job.checkpoints())
    container = engine.container()
    agent = next(words[1] for words in container.top()["Processes"] if words[-1].startswith("python -m runner"))
    Path(f"/proc/{agent}/oom_score_adj").write_text("1000")
    container.exec_run(["python", "-c", "held = []\nwhile True: held.append(bytes(1 << 20).replace(b'\\0', b'1'))"])
    code, out = current.end()
    assert code == 1, out
    state, _, reason = current.job.state()
    assert (state.value, reason and reason.value) == ("failed", "out_of_memory")
    assert "out_of_memory" in cli("status", current.job.id).stdout


def test_a_full_disk_stops_an_attempt_before_it_begins_and_in_the_middle(
    run: Any, cli: Cli, tiny: Path, small_disk: Path, uninterrupted: Any
) -> None:
    scratch = f"hardware.scratch_root={small_disk}"
    current = run("submit", tiny, *DOCKER, *LONGER, "--set", scratch)
    current.wait_for(some_step_is_stored)
    filler = small_disk / "filler"
    with pytest.raises(OSError, match="No space"):
        filler.write_bytes(bytes(4 << 20))
    code, out = current.end()
    job = current.job
    assert code == 1, out
    assert job.attempts()[0].reason == "out_of_disk"
    again = cli("resume", job.id)
    assert again.returncode == 1
    assert job.attempts()[1].reason == "out_of_disk"
    filler.unlink()
    assert cli("resume", job.id).returncode == 0
    assert_same(job, uninterrupted)


def test_too_little_room_for_checkpoints_is_told_before_training(cli: Cli, tiny: Path, small_disk: Path) -> None:
    words = (f"hardware.scratch_root={small_disk}", "checkpoint.keep_last=100")
    done = cli("submit", tiny, *DOCKER, "--set", *words)
    assert done.returncode == 1
    assert "100 + 1 checkpoints need" in done.stdout
    assert "epoch 1" not in done.stdout


def failure(cli: Cli, *words: str | Path, code: int = 6, **env: str) -> str:
    done = cli("submit", *words, *DOCKER, **env)
    assert done.returncode == code, done.stdout + done.stderr
    lines = done.stderr.splitlines()
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("error: ")
    assert done.stdout == ""  # no job was made for it
    return lines[0]


@pytest.mark.parametrize(
    ("host", "why"),
    [("unix:///nowhere/docker.sock", "ENOENT"), ("tcp://127.0.0.1:1", "ECONNREFUSED")],
)
def test_no_engine(cli: Cli, tiny: Path, host: str, why: str) -> None:
    line = failure(cli, tiny, DOCKER_HOST=host)
    assert f"no Docker engine answers at {host} ({why})" in line
    assert "systemctl start docker" in line


def test_a_context_names_the_engine(engine: Engine, cli: Cli, tiny: Path, clean_env: dict[str, str], tmp_path: Path) -> None:
    from hashlib import sha256

    folder = tmp_path / ".docker" / "contexts" / "meta" / sha256(b"mine").hexdigest()
    folder.mkdir(parents=True)
    endpoint = {"Host": engine.host, "SkipTLSVerify": False}
    (tmp_path / ".docker" / "config.json").write_text("{}")
    (folder / "meta.json").write_text(json.dumps({"Name": "mine", "Metadata": {}, "Endpoints": {"docker": endpoint}}))
    del clean_env["DOCKER_HOST"]
    done = cli("image", "check", DOCKER_CONTEXT="mine")
    assert done.returncode == 0, done.stderr
    assert "no docker context other" in failure(cli, tiny, DOCKER_CONTEXT="other")


def test_no_permission_on_the_socket(engine: Engine) -> None:
    code = (
        "import os, docker, docker.context, requests, last_e.text, runner.engine as e, runner.errors\n"
        "os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
        "try: e.connect()\n"
        "except runner.errors.EngineError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert f"this user may not use the engine at {engine.host}" in done.stdout
    assert "usermod -aG docker" in done.stdout


@pytest.mark.parametrize("gpus", ["1", "all", "[0]"])
def test_no_nvidia_runtime(cli: Cli, tiny: Path, gpus: str) -> None:
    line = failure(cli, tiny, "--set", f"run.gpus={gpus}")
    assert "no NVIDIA runtime" in line
    assert "nvidia-ctk runtime configure" in line
    assert "run.gpus=0" in line


def test_images_that_will_not_do(engine: Engine, cli: Cli, tiny: Path) -> None:
    assert f"no image nowhere/nothing:1: {BUILD}" in failure(cli, tiny, "--set", "run.image=nowhere/nothing:1")
    assert f"holds no lastrun (/usr/bin/python: No module named runner): {BUILD}" in failure(
        cli, tiny, "--set", "run.image=" + engine.derive("plain", "RUN ln -s python3 /usr/bin/python", base=BASE)
    )
    assert "exec python failed" in failure(cli, tiny, "--set", f"run.image={BASE}")
    older = ("USER 0", "RUN sed -i 's/^Version: .*/Version: 0.0.1/' /app/lastrun-*/METADATA")
    line = failure(cli, tiny, "--set", "run.image=" + engine.derive("lastrun:old", *older, base=default_image()))
    assert "image lastrun:old holds lastrun 0.0.1, this is" in line
    assert cli("image", "check", "lastrun:old").returncode == 6


def test_limits_that_are_too_tight_or_wrong(cli: Cli, tiny: Path) -> None:
    assert "not enough shared memory" in failure(cli, tiny, "--set", "run.shm_size=1m")
    assert "run.cpus: Range of CPUs is from 0.01 to" in failure(cli, tiny, "--set", "run.cpus=1000")
    assert "run.memory: at least" in failure(cli, tiny, "--set", "run.memory=1m")
    assert "run.memory=8m is too little even to start" in failure(cli, tiny, "--set", "run.memory=8m")
    assert "the engine knows no network nowhere" in failure(cli, tiny, "--set", "run.network=nowhere")
    line = failure(cli, tiny, "--store", "s3://b/p?endpoint_url=http://localhost:1", code=2)
    assert "--set run.network=host" in line


def test_a_name_that_is_taken(engine: Engine, run: Any, cli: Cli, tiny: Path) -> None:
    current = run("submit", tiny, "--set", "training.epochs=500")
    current.wait_for(lambda job: job.checkpoints())
    current.press_ctrl_c()
    current.end()
    name = f"lastrun-{current.job.id}-2"
    engine.client.api.create_container(BASE, ["true"], name=name)
    done = cli("resume", current.job.id, *DOCKER)
    assert done.returncode == 6
    assert f"a container {name} is there already" in done.stderr
    assert f"docker rm {name}" in done.stderr


# --- confinement ------------------------------------------------------------------------------------------------------------


def test_a_container_may_do_and_see_no_more_than_it_needs(
    engine: Engine, run: Any, tmp_path: Path, tiny: Path, clean_env: dict[str, str]
) -> None:
    clean_env.update(LASTRUN_TEST_PASSED="a secret of mine", LASTRUN_TEST_NOT_NAMED="private")
    words = ("run.pass_env=[LASTRUN_TEST_PASSED]", "training.epochs=5000", "run.cpus=1.5", "run.memory=2g", "run.shm_size=128m")
    current = run("submit", tiny, *DOCKER, "--set", *words)
    current.wait_for(lambda job: job.checkpoints())
    container = engine.container()
    about = state_of(engine, container.id)
    assert "a secret of mine" not in json.dumps(about)
    host = about["HostConfig"]
    assert (host["ReadonlyRootfs"], host["CapDrop"], host["SecurityOpt"]) == (True, ["ALL"], ["no-new-privileges:true"])
    assert (host["Init"], host["NanoCpus"], host["Memory"], host["MemorySwap"]) == (True, 1_500_000_000, 2 << 30, 2 << 30)
    binds = {mount["Destination"]: mount["RW"] for mount in about["Mounts"] if mount["Type"] == "bind"}
    assert binds == {str(tmp_path / "store"): True, str(tmp_path / ".cache" / "lastrun" / "scratch"): True}
    assert [mount["Destination"] for mount in about["Mounts"] if mount["Type"] == "volume"] == ["/cache"]

    def inside(command: str) -> str:
        return str(container.exec_run(["sh", "-c", command]).output.decode())

    status = inside("cat /proc/self/status; df -k /dev/shm")
    assert re.search(r"^CapEff:\s+0+$", status, re.MULTILINE)
    assert re.search(r"^NoNewPrivs:\s+1$", status, re.MULTILINE)
    assert " 131072 " in status
    assert "Read-only file system" in inside("touch /app/x")
    assert inside("touch /tmp/x /cache/x && echo done") == "done\n"
    trainer = next(words for words in container.top()["Processes"] if "last_e" in words[-1])
    seen = dict(part.split("=", 1) for part in Path(f"/proc/{trainer[1]}/environ").read_text().split("\0") if "=" in part)
    assert seen["LASTRUN_TEST_PASSED"] == "a secret of mine"
    assert "LASTRUN_TEST_NOT_NAMED" not in seen
    assert all("a secret of mine" not in " ".join(words) for words in container.top()["Processes"])
    current.press_ctrl_c()
    assert current.end()[0] == 75


def test_files_belong_to_the_caller_and_data_cannot_be_written(
    engine: Engine, cli: Cli, clean_env: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    frames = torch.randint(-1000, 1000, (60 * 20, 25, 3), dtype=torch.int16)
    one = torch.ones(60, dtype=torch.int64)
    performer = torch.tensor([1, 3] * 30)
    data = tmp_path / ".cache" / "lastrun" / "data" / "ntu60.safetensors"
    data.parent.mkdir(parents=True)
    write_clips(
        Clips(
            joints=frames, length=20 * one, bodies=one, label=torch.arange(60) % 60, performer=performer, camera=one, setup=one
        ),
        data,
    )
    spec = tmp_path / "job.yaml"
    spec.write_text(
        "name: mine\nmodel: {variant: nano_e_v3, stem_channels: 8, channels: [8, 8, 16]}\ndataset: ntu60\n"
        "training: {epochs: 1, batch_size: 10, input_frames: 16, warmup_epochs: 0}\nrun: {launcher: docker}\n"
    )
    for folder in (tmp_path, tmp_path / ".cache", tmp_path / ".cache" / "lastrun", data.parent, tmp_path.parent):
        folder.chmod(0o755)
    store = tmp_path / "store"
    scratch = tmp_path / ".cache" / "lastrun" / "scratch"
    for folder in (store, scratch):
        folder.mkdir()
        os.chown(folder, 12345, 12345)
    data.chmod(0o644)
    monkeypatch.setattr(os, "getuid", lambda: 12345)
    monkeypatch.setattr(os, "getgid", lambda: 12345)
    resolved = resolve_spec(spec, None, [])
    launcher = DockerLauncher(resolved.config)
    launcher.preflight(store.as_uri())
    job = Job.create(DirectoryStore(store), "mine", resolved.items(), {k: str(o) for k, o in resolved.origins.items()}, "test")
    for path in [store, *store.rglob("*")]:
        os.chown(path, 12345, 12345)
    assert launcher.run(job, [], quiet=True) == 0
    assert {path.stat().st_uid for path in store.rglob("*")} == {12345}
    assert [m["epoch"] for m in job.metrics()] == [1]

    options = launcher._options(engine.client, StoreUri.parse(str(store)), {})
    mounted = {mount["Target"]: mount["ReadOnly"] for mount in options["host_config"]["Mounts"]}
    assert mounted["/cache/.cache/lastrun/data/ntu60.safetensors"] is True


def test_what_a_container_could_not_send_is_sent_from_the_host(
    engine: Engine, ceph: Ceph, cli: Cli, run: Any, tiny: Path, clean_env: dict[str, str], uninterrupted: Any
) -> None:
    clean_env.update(ceph.credentials(), LASTRUN_STORE=ceph.uri("docker-outbox"))
    current = run("submit", tiny, *DOCKER, *LONGER, "--set", "run.network=host")
    current.wait_for(some_step_is_stored)
    ceph.kill_gateway()
    engine.container().stop()
    code, out = current.end()
    ceph.start_gateway()
    assert code == 4, out
    sent = cli("sync", current.job.id)
    assert sent.returncode == 0, sent.stderr
    assert "objects sent" in sent.stdout
    assert current.job.state()[0].value == "paused"
    assert cli("pull", current.job.id, "newest").returncode == 0
    verify(tiny.parent / "newest")
    assert cli("resume", current.job.id).returncode == 0
    assert_same(current.job, uninterrupted)
