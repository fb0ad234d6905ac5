"""The image, how a container is confined, and starts that fail, each provoked with a real Docker engine."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import time
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import torch

from last_e.data import Clips, write_clips
from runner.job.job import Job
from runner.launch.docker.handed import Handed
from runner.launch.docker.image import BUILD, default_image
from runner.launch.docker.launcher import DockerLauncher
from runner.launch.settle import state_of
from runner.launch.start import run
from runner.resolve import resolve_spec
from runner.store.directory import DirectoryStore
from runner.store.open import open_store
from runner.store.uri import StoreUri
from runner.trust import brought, words
from tests.ceph import Ceph
from tests.conftest import Cli, Figures
from tests.docker_engine import BASE, ROOT, Engine

pytestmark = [pytest.mark.xdist_group("docker"), pytest.mark.slow, pytest.mark.usefixtures("clean_engine")]
DOCKER = ("--launcher", "docker")


def clone_in(folder: Path) -> Path:
    """What of a clone a build needs."""
    clone = folder / "clone"
    clone.mkdir()
    for name in ("LICENSE", "README.md", "constraints.txt", "pyproject.toml", ".dockerignore"):
        shutil.copy(ROOT / name, clone / name)
    for name in ("docker", "last_e", "runner"):
        shutil.copytree(ROOT / name, clone / name, ignore=shutil.ignore_patterns("__pycache__", "*.whl", "*.crt"))
    return clone


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


def test_a_change_of_the_code_is_seen_and_rebuilds_the_last_layer_alone(
    engine: Engine, cli: Cli, tiny: Path, tmp_path: Path, figure: Figures
) -> None:
    clone = clone_in(tmp_path)
    with (clone / "runner" / "view" / "status.py").open("a") as file:
        file.write("# another line\n")
    found = cli("image", "check", PYTHONPATH=str(clone))
    assert found.returncode == 6
    assert "built from other code" in found.stdout
    noted = cli("submit", tiny, *DOCKER, "--set", "training.epochs=1", PYTHONPATH=str(clone))
    assert noted.returncode == 0, noted.stderr
    assert "note: image" in noted.stderr

    began = time.monotonic()
    words = ("--base", BASE, "--wheels", engine.wheels, "--tag", "lastrun:changed")
    # Ceph's fixture sets it, and to the classic builder a build with a proxy is another one.
    built = cli("image", "build", *words, PYTHONPATH=str(clone), NO_PROXY="")
    assert built.returncode == 0, built.stderr
    figure("building the image again after a change of the code", f"{time.monotonic() - began:.1f} s")
    assert cli("image", "check", "lastrun:changed", PYTHONPATH=str(clone)).returncode == 0
    layers = [engine.client.images.get(name).attrs["RootFS"]["Layers"] for name in (default_image(), "lastrun:changed")]
    assert layers[0][:-1] == layers[1][:-1]
    assert layers[0][-1] != layers[1][-1]


def test_the_dockerfile_builds_with_buildkit_too(engine: Engine, tmp_path: Path) -> None:
    """With the smallest packages in the place of torch and the others, and little else: this is about the builder."""
    program = next((path for path in ("/usr/bin/docker", shutil.which("docker") or "") if Path(path).exists()), None)
    assert program is not None
    clone = clone_in(tmp_path)
    project = (clone / "pyproject.toml").read_text()
    project = re.sub(r"^train = .*$", 'train = ["six"]', project, flags=re.MULTILINE)
    (clone / "pyproject.toml").write_text(re.sub(r'^    "boto3>=.*$', "", project, flags=re.MULTILINE))
    for wheel in engine.wheels.glob("*.whl"):
        if wheel.stat().st_size < 5e6:
            shutil.copy(wheel, clone / "docker" / "extra")
    arguments = ("BASE_IMAGE=" + BASE, "TORCH=filelock", "PIP_NO_INDEX=1")
    words = [word for argument in arguments for word in ("--build-arg", argument)]
    command = [program, "build", "-q", "-f", str(clone / "docker" / "Dockerfile"), "-t", "lastrun:buildkit", *words, str(clone)]
    env = {**os.environ, "DOCKER_BUILDKIT": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=env, check=False)
    assert done.returncode == 0, done.stderr
    out = engine.client.containers.run("lastrun:buildkit", ["--version"], remove=True)
    assert out.decode().strip() == default_image().replace(":", " ")


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("--base", "no-such-base:1"), "neither here nor can it be fetched"),
        (("--wheels", "."), "--wheels: no *.whl in"),
        (("--ca-bundle", "nowhere.crt"), "--ca-bundle: no file nowhere.crt"),
    ],
)
def test_a_build_that_fails_says_why_in_one_line(engine: Engine, cli: Cli, words: tuple[str, ...], text: str) -> None:
    assert text in why_it_failed(cli("image", "build", *words))


def why_it_failed(built: subprocess.CompletedProcess[str]) -> str:
    assert built.returncode in (2, 6)
    assert len(built.stderr.splitlines()) == 1, built.stderr
    return built.stderr


@pytest.mark.parametrize("who", ["me:hunter2hunter2", "a-token", "a-token:"])
def test_an_index_with_a_password_is_refused_before_the_builder_hears_of_it(engine: Engine, cli: Cli, who: str) -> None:
    done = cli("image", "build", "--base", BASE, PIP_INDEX_URL=f"https://{who}@index.example/simple")
    assert done.returncode == 2
    assert done.stderr.startswith("error: PIP_INDEX_URL holds a user's name, token or password, which the builder")
    assert "--wheels DIR" in done.stderr


def test_what_pip_does_not_find_is_told_and_certificates_in_a_folder_are_passed_over(engine: Engine, cli: Cli) -> None:
    words = ("--base", BASE, "--wheels", engine.wheels, "--tag", "lastrun:certificates")
    folder = {"PIP_CERT": "/etc/ssl/certs", "REQUESTS_CA_BUNDLE": "/etc/ssl/certs", "SSL_CERT_FILE": "/nowhere.pem"}
    done = cli("image", "build", *words, "--torch", "torch==0.0.1", NO_PROXY="", **folder)
    assert "No matching distribution found for torch==0.0.1" in why_it_failed(done)


# --- starts that fail -----------------------------------------------------------------------------------------------------


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
        "import os, docker, docker.context, requests, last_e.text, runner.launch.docker.engine as e, runner.errors\n"
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


def of_another_processor(engine: Engine, name: str) -> str:
    """An image whose only programs are 64-bit ARM's."""
    program = b"\x7fELF\x02\x01\x01" + bytes(9) + b"\x02\0\xb7\0\x01" + bytes(200)
    layer = packed({"usr/bin/python": program, "bin/sh": program})
    about = {
        "architecture": "arm64",
        "os": "linux",
        "config": {"Env": ["PATH=/usr/bin:/bin"]},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{sha256(layer).hexdigest()}"]},
    }
    manifest = [{"Config": "config.json", "RepoTags": [name], "Layers": ["layer.tar"]}]
    files = {"config.json": about, "manifest.json": manifest}
    engine.client.images.load(packed({"layer.tar": layer, **{name: json.dumps(text).encode() for name, text in files.items()}}))
    return name


def packed(files: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, data in files.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(data), 0o755
            tar.addfile(entry, io.BytesIO(data))
    return out.getvalue()


def test_images_that_will_not_do(engine: Engine, cli: Cli, tiny: Path) -> None:
    assert f"no image nowhere/nothing:1: {BUILD}" in failure(cli, tiny, "--set", "run.image=nowhere/nothing:1")
    assert f"holds no lastrun (/usr/bin/python: No module named runner): {BUILD}" in failure(
        cli, tiny, "--set", "run.image=" + engine.derive("plain", "RUN ln -s python3 /usr/bin/python", base=BASE)
    )
    assert "exec python failed" in failure(cli, tiny, "--set", f"run.image={BASE}")
    line = failure(cli, tiny, "--set", "run.image=" + of_another_processor(engine, "lastrun:arm"))
    assert "image lastrun:arm is for another kind of processor than the engine's machine has" in line
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
    current.wait_for(lambda job: job.checkpoints.all())
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
    current.wait_for(lambda job: job.checkpoints.all())
    container = engine.container()
    about = engine.inspect(container.id)
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
    listed = container.top(ps_args="-efww")["Processes"]
    trainer = next((words for words in listed if "-m last_e" in words[-1]), None)
    assert trainer is not None, (listed, state_of(current.job))
    seen = dict(part.split("=", 1) for part in Path(f"/proc/{trainer[1]}/environ").read_text().split("\0") if "=" in part)
    assert seen["LASTRUN_TEST_PASSED"] == "a secret of mine"
    assert "LASTRUN_TEST_NOT_NAMED" not in seen
    assert all("a secret of mine" not in " ".join(words) for words in container.top(ps_args="-efww")["Processes"])
    current.press_ctrl_c()
    assert current.end()[0] == 75


def test_files_belong_to_the_caller_and_data_cannot_be_written(
    engine: Engine, ceph: Ceph, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
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

    def train(*settings: str) -> Job:
        resolved = resolve_spec(spec, None, settings)
        launcher = DockerLauncher(resolved.config)
        launcher.preflight(store.as_uri())
        origins = {key: str(origin) for key, origin in resolved.origins.items()}
        job = Job.create(DirectoryStore(store), "mine", resolved.items(), origins, "test")
        for path in [store, *store.rglob("*")]:
            os.chown(path, 12345, 12345)
        assert run(launcher, job, words(brought(resolved)), quiet=True)[0] == 0
        return job

    job = train()
    assert {path.stat().st_uid for path in store.rglob("*")} == {12345}
    assert [m["epoch"] for m in job.metrics()] == [1]

    # The same data from a bucket, which is downloaded into the volume; and again as a file, which was in the volume's way once.
    open_store(ceph.uri("people")).put_file("ntu60.safetensors", data)
    remote = train("run.network=host", f"data.uri={ceph.uri('people/ntu60.safetensors')}")
    data.rename(tmp_path / "elsewhere.safetensors")
    moved = train(f"data.uri={tmp_path}/elsewhere.safetensors")
    assert remote.metrics() == moved.metrics() == job.metrics()
    assert (
        remote.attempts.all()[0].data_fingerprint
        == moved.attempts.all()[0].data_fingerprint
        == job.attempts.all()[0].data_fingerprint
    )

    config = resolve_spec(spec, None, [f"data.uri={tmp_path}/elsewhere.safetensors"]).config
    options = Handed(config, engine.client).options(StoreUri.parse(str(store)), {}, "")
    mounted = {mount["Target"]: mount["ReadOnly"] for mount in options["host_config"]["Mounts"]}
    assert mounted["/lastrun-data/elsewhere.safetensors"] is True
