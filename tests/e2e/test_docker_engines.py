"""Engines that are reached in other ways, or are set up otherwise, than the one of this machine: each for real."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from runner.errors import EngineError
from runner.job.find import find_job
from runner.launch.docker.engine import _connect
from runner.launch.docker.image import default_image
from tests import debian
from tests.ceph import Ceph
from tests.conftest import Cli
from tests.docker_engine import BASE, CannotStart, Engine
from tests.jobs import LONGER, PATIENCE, assert_same, stopped_without_its_store
from tests.sshd import Sshd, why_not

pytestmark = [pytest.mark.xdist_group("docker"), pytest.mark.slow, pytest.mark.usefixtures("clean_engine")]


@pytest.fixture(scope="module")
def sshd() -> Iterator[Sshd]:
    debian.need("SSH server", why_not)
    folder = Path(tempfile.mkdtemp(prefix="sshd-", dir="/tmp"))
    server = Sshd(folder)
    yield server
    server.stop()
    shutil.rmtree(folder)


@pytest.fixture
def by_ssh(sshd: Sshd, engine: Engine, clean_env: dict[str, str]) -> str:
    """The tests' engine, as a user on another machine would name it."""
    clean_env.update(
        PATH=f"{sshd.bin}:{os.environ['PATH']}", DOCKER_HOST=f"ssh://root@127.0.0.1:{sshd.port}{engine.folder}/docker.sock"
    )
    return clean_env["DOCKER_HOST"]


@pytest.fixture
def by_tls(engine: Engine, clean_env: dict[str, str]) -> str:
    """The same over TCP, with certificates; those that requests is told of elsewhere are for other servers."""
    clean_env.update(DOCKER_TLS_VERIFY="1", DOCKER_CERT_PATH=str(engine.folder / "tls"), DOCKER_HOST=engine.tls_host)
    clean_env["REQUESTS_CA_BUNDLE"] = "/etc/ssl/certs/ca-certificates.crt"
    return engine.tls_host


# --- on another machine -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["by_ssh", "by_tls"])
def test_an_engine_elsewhere_runs_a_job_with_its_store_in_a_bucket(
    way: str, request: pytest.FixtureRequest, engine: Engine, ceph: Ceph, cli: Cli, tiny: Path, clean_env: dict[str, str]
) -> None:
    request.getfixturevalue(way)
    refused = cli("submit", tiny, "--launcher", "docker")
    assert refused.returncode == 2
    assert "the engine is on another machine, which has no such folder: take a bucket" in refused.stderr

    store = ceph.uri(f"docker-{way.replace('_', '-')}")
    clean_env.update(ceph.credentials(), LASTRUN_STORE=store)
    done = cli("submit", tiny, "--launcher", "docker", "--set", "run.network=host", "training.epochs=1")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "epoch 1/1" in done.stdout
    started = cli(
        "submit", tiny, "--launcher", "docker", "--detach", "--json", "--set", "run.network=host", "training.epochs=5000"
    )
    assert started.returncode == 0, started.stderr
    job = find_job(json.loads(started.stdout)["id"], store)
    container = engine.container()
    assert [mount["Type"] for mount in engine.inspect(container.id)["Mounts"]] == ["volume"]
    container.kill()
    assert "was killed" in cli("status", job.id).stdout  # as the engine over there knows
    assert engine.containers() == []


@pytest.mark.usefixtures("by_tls")
def test_what_an_attempt_elsewhere_could_not_send_goes_with_the_next_on_that_engine(
    engine: Engine, ceph: Ceph, cli: Cli, run: Any, tiny: Path, clean_env: dict[str, str], uninterrupted: Any
) -> None:
    clean_env.update(ceph.credentials(), LASTRUN_STORE=ceph.uri("docker-elsewhere"))
    current = run("submit", tiny, "--launcher", "docker", *LONGER, "--set", "run.network=host")
    out = stopped_without_its_store(current, engine, ceph)
    way = rf"in the engine's volume: lastrun resume \S*{current.job.id}\S* with the same engine sends it"
    assert re.search(way, " ".join(out.split()))
    resumed = cli("resume", current.job.id)
    assert resumed.returncode == 0, resumed.stdout + resumed.stderr
    assert "sending what an earlier attempt left in /cache/" in resumed.stdout
    assert_same(current.job, uninterrupted)


def test_a_tunnel_goes_with_the_command_also_when_that_is_killed(by_ssh: str, sshd: Sshd, cli: Cli, run: Any) -> None:
    def tunnels() -> bytes:
        return subprocess.run(["pgrep", "-f", f"ssh .*-p {sshd.port}"], capture_output=True, check=False).stdout

    def within_seconds(what: Callable[[], object]) -> bool:
        deadline = time.monotonic() + PATIENCE
        while not what() and time.monotonic() < deadline:
            time.sleep(0.01)
        return bool(what())

    before = set(Path("/tmp").glob("lastrun-ssh-*"))
    assert cli("image", "check").returncode == 0
    assert tunnels() == b""
    assert set(Path("/tmp").glob("lastrun-ssh-*")) == before
    killed = run("image", "check")
    assert within_seconds(tunnels)
    killed.process.kill()
    killed.process.communicate()
    assert within_seconds(lambda: not tunnels())
    assert set(Path("/tmp").glob("lastrun-ssh-*")) == before


@pytest.mark.parametrize(
    ("host", "text"),
    [
        ("ssh://", "allowed: ssh://[USER@]HOST[:"),
        ("ssh://root@127.0.0.1:1", "ssh does not get to the engine at ssh://root@127.0.0.1:1 (ssh: connect to"),
        ("ssh://nobody@127.0.0.1:PORT", "Permission denied (publickey"),
        ("ssh://root@127.0.0.1:PORT/no/such.sock", "no Docker engine answers at ssh://root@127.0.0.1:PORT/no/such.sock"),
    ],
)  # fmt: skip
def test_an_ssh_that_does_not_get_there_says_why(by_ssh: str, sshd: Sshd, cli: Cli, tiny: Path, host: str, text: str) -> None:
    done = cli("submit", tiny, "--launcher", "docker", DOCKER_HOST=host.replace("PORT", str(sshd.port)))
    assert done.returncode == 6
    assert text.replace("PORT", str(sshd.port)) in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_an_engine_that_wants_certificates_says_so(by_tls: str, cli: Cli) -> None:
    done = cli("image", "check", DOCKER_TLS_VERIFY="", DOCKER_CERT_PATH="")
    assert done.returncode == 6
    assert "the engine wants TLS: set DOCKER_TLS_VERIFY=1 and DOCKER_CERT_PATH" in done.stderr


# --- docker's own settings --------------------------------------------------------------------------------------------------


def refused(words: str) -> None:
    """The engine that the environment names does not take us, or is not to be taken; told in one line."""
    with pytest.raises(EngineError) as error:
        _connect()
    assert words in str(error.value), error.value
    assert "\n" not in str(error.value)


def test_whose_certificate_is_not_taken_by_whom(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    for name in ("ca", "cert", "key"):
        shutil.copy(engine.folder / "tls" / f"{name}.pem", tmp_path)
    subject = ("-subj", "/CN=other", "-keyout", f"{tmp_path}/other-key.pem", "-out", f"{tmp_path}/other-cert.pem")
    subprocess.run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", *subject], capture_output=True, check=True)
    monkeypatch.setenv("DOCKER_HOST", engine.tls_host)
    monkeypatch.setenv("DOCKER_CERT_PATH", str(tmp_path))
    refused("without DOCKER_TLS_VERIFY=1 whoever answers there would be taken for the engine")
    monkeypatch.setenv("DOCKER_TLS_VERIFY", "1")
    _connect().close()

    monkeypatch.setenv("DOCKER_HOST", engine.tls_host.replace("127.0.0.1", "localhost"))
    refused("has a certificate for another name (Hostname mismatch, certificate is not valid for 'localhost')")
    monkeypatch.setenv("DOCKER_HOST", engine.tls_host)
    shutil.copy(tmp_path / "other-cert.pem", tmp_path / "cert.pem")
    refused("do not belong together")
    shutil.copy(tmp_path / "other-key.pem", tmp_path / "key.pem")
    refused(f"does not take the certificate {tmp_path}/cert.pem")
    shutil.copy(tmp_path / "other-cert.pem", tmp_path / "ca.pem")
    refused(f"has a certificate that {tmp_path}/ca.pem does not vouch for (self-signed certificate)")
    assert not [warning for warning in recwarn if "verif" in str(warning.message)]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("[]", "config.json: docker's settings are a JSON object, this is another"),
        ("{", "config.json: docker's settings cannot be read"),
        ('{"currentContext": "gone"}', "no docker context gone (currentContext in "),
    ],
)
def test_settings_of_docker_that_cannot_be_followed(
    tmp_path: Path, text: str, line: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".docker").mkdir()
    (tmp_path / ".docker" / "config.json").write_text(text)
    monkeypatch.delenv("DOCKER_HOST")
    refused(line)


def test_credentials_that_others_left_are_in_nobodys_way(engine: Engine, cli: Cli, tmp_path: Path) -> None:
    """As of a Docker Desktop that is gone; named only where an image cannot be had without."""
    (tmp_path / ".docker").mkdir()
    odd = {"credsStore": "desktop", "auths": {"ghcr.io": {"auth": "!"}}, "proxies": []}
    (tmp_path / ".docker" / "config.json").write_text(json.dumps(odd))
    built = cli("image", "build", "--base", BASE, "--wheels", engine.wheels, NO_PROXY="")
    assert built.returncode == 0, built.stderr
    asked = cli("image", "build", "--base", "no-such-base:1")
    assert asked.returncode == 6
    assert "no-such-base:1 is neither here nor can it be fetched" in asked.stderr
    assert "has docker-credential-desktop keep the credentials of https://index.docker.io/v1/ (credsStore)" in asked.stderr
    assert len(asked.stderr.splitlines()) == 1


def test_a_damaged_context_is_told(cli: Cli, tmp_path: Path, clean_env: dict[str, str]) -> None:
    folder = tmp_path / ".docker" / "contexts" / "meta" / sha256(b"mine").hexdigest()
    folder.mkdir(parents=True)
    (tmp_path / ".docker" / "config.json").write_text('{"currentContext": "mine"}')
    (folder / "meta.json").write_text("{")
    del clean_env["DOCKER_HOST"]
    done = cli("image", "check")
    assert done.returncode == 6
    assert "docker context mine (currentContext in" in done.stderr
    assert "cannot be read" in done.stderr


# --- an engine with other users inside than outside -------------------------------------------------------------------------


@pytest.fixture
def remapped(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> Iterator[Engine]:
    """A second engine, with ``--userns-remap`` and defaults that nobody can work with, that holds the project's image."""
    folder = Path(tempfile.mkdtemp(prefix="docker-", dir="/tmp"))
    folder.chmod(0o755)
    other = Engine(folder)
    try:
        try:
            # Its logs go to a server that is away: a container that asks for no other kind does not even start.
            logs = ("--log-driver=fluentd", "--log-opt=fluentd-address=127.0.0.1:1")
            other.start_daemon("--bridge=none", "--userns-remap=default", "--default-shm-size=8m", *logs)
        except CannotStart as why:
            pytest.skip(f"no engine with userns-remap here: {why}")
        other.client.images.load(engine.client.images.get(default_image()).save(named=True))
        yield other
    finally:
        other.stop()
        shutil.rmtree(folder, ignore_errors=True)


def test_files_belong_to_the_caller_with_userns_remap_too(remapped: Engine, cli: Cli, tiny: Path, tmp_path: Path) -> None:
    assert any("userns" in option for option in remapped.client.info()["SecurityOptions"])
    done = cli(
        "submit", tiny, "--launcher", "docker", "--set", "run.network=host", "training.epochs=1", DOCKER_HOST=remapped.host
    )
    assert done.returncode == 0, done.stdout + done.stderr
    store = tmp_path / "store"
    assert {path.stat().st_uid for path in [store, *store.rglob("*")]} == {os.getuid()}
    assert "epoch 1/1" in done.stdout
    checked = cli("image", "check", DOCKER_HOST=remapped.host)  # it asks for what it needs, too
    assert checked.returncode == 0, checked.stdout + checked.stderr
