"""A real Docker engine for the tests, with its own socket and data, and the project's own image on a base that is made of
Debian packages as this machine has them: no registry is needed, and nothing is set up anew."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement

from runner import gpus
from tests import debian
from tests.jobs import PATIENCE, stand_still, wait_until

ROOT = Path(__file__).parents[1]
PROGRAMS = ("dockerd", "docker-init", "ip", "openssl", "dpkg-query")
DEBIAN_PACKAGES = ("docker.io", "iptables", "iproute2", "openssl")
NETWORK = "172.31.{}.1/24"
"""For each of pytest-xdist's workers one of its own."""
BASE = "lastrun-test-base"
IMAGE = "image"
"""Where is told where an engine has left the project's image for others of the same run."""
BASE_PACKAGES = ("python3", "python3-venv", "ca-certificates", "libstdc++6")


GPUS = """
import runner.gpus
from runner.attempt import trainer
runner.gpus.gpu_names = lambda: ["Tesla T4"] * {number}
made = trainer.trainer_config
def on_the_cpu(*words):
    values = made(*words)
    values["hardware"]["device"] = "cpu"
    return values
trainer.trainer_config = on_the_cpu
"""
"""What a Python beside them takes them for; it computes on the CPU."""
RUNTIME = """#!/usr/bin/python3
import json, os, sys
words = sys.argv[1:]
if "create" in words:
    place = words[words.index("--bundle") + 1] + "/config.json"
    with open(place) as file:
        config = json.load(file)
    env = dict(word.split("=", 1) for word in config["process"]["env"])
    if env.get("NVIDIA_VISIBLE_DEVICES"):
        config["mounts"].append(
            {{"destination": "/gpus", "type": "bind", "source": "{folder}", "options": ["rbind", "ro"]}}
        )
        env.update({{name: "/gpus:" + env[name] for name in ("PATH", "PYTHONPATH")}})
        config["process"]["env"] = [name + "=" + value for name, value in env.items()]
        with open(place, "w") as file:
            json.dump(config, file)
os.execvp("runc", ["runc", *words])
"""
"""As NVIDIA's does, it changes what the engine asks of the real one."""
_BUILD_SECONDS = 1500.0
_ANNOUNCED_SECONDS = 60.0
"""Within which who builds the image says so: workers begin at the same time."""


class CannotStart(Exception):
    """What keeps the engine from being there, in one line."""


def why_not() -> str | None:
    """Why an engine cannot be started here; None when it can. Missing Debian packages are installed first."""
    if os.geteuid() != 0:
        return "only root can start one"
    return debian.why_not(PROGRAMS, DEBIAN_PACKAGES) or debian.why_not(BASE_PACKAGES, BASE_PACKAGES, _is_installed)


class Engine:
    """The engine, in ``folder`` (a short path: its socket lies there). It also listens on TCP, for who has the certificates in
    ``folder/tls``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.host = f"unix://{folder}/docker.sock"
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            self.tls_host = f"tcp://127.0.0.1:{listener.getsockname()[1]}"
        self.wheels = folder / "wheels"
        self.client: Any = None
        self._bridge: str | None = None
        self._daemon: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """From nothing to an engine that answers, with the base image.

        Raises:
            CannotStart: there is no network, or the system does not let a container engine run.
        """
        # A bridge of its own and no rules of the firewall: another engine of this machine is not to notice.
        self._bridge = f"lastrun{os.getpid() % 10**8}"
        _call("ip", "link", "add", "name", self._bridge, "type", "bridge")
        worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
        _call("ip", "address", "add", NETWORK.format(253 - worker), "dev", self._bridge)
        _call("ip", "link", "set", self._bridge, "up")
        tls = self.folder / "tls"
        tls.mkdir()
        names = ("-nodes", "-days", "30", "-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1")
        _call("openssl", "req", "-x509", "-newkey", "rsa:2048", *names, "-keyout", f"{tls}/key.pem", "-out", f"{tls}/cert.pem")
        shutil.copy(tls / "cert.pem", tls / "ca.pem")
        files = ("--tlscacert", f"{tls}/ca.pem", "--tlscert", f"{tls}/cert.pem", "--tlskey", f"{tls}/key.pem")
        self.start_daemon("--bridge", self._bridge, "-H", self.tls_host, "--tlsverify", *files)
        if not self.client.images.list(BASE):
            self._import_base()

    def build(self) -> None:
        """The project's image, as a user does."""
        self.download()
        command = [sys.executable, "-m", "runner", "image", "build", "--base", BASE, "--wheels", str(self.wheels)]
        env = {**os.environ, "NO_PROXY": ""}
        built = subprocess.run(command, capture_output=True, text=True, timeout=_BUILD_SECONDS, check=False, cwd=ROOT, env=env)
        assert built.returncode == 0, built.stdout + built.stderr

    def start_daemon(self, *words: str) -> None:
        """The engine alone, with nothing in it."""
        from docker import DockerClient

        words = ("--data-root", f"{self.folder}/data", "--exec-root", f"{self.folder}/exec", *words)
        (self.folder / "daemon.json").write_text("{}")
        words += ("--config-file", f"{self.folder}/daemon.json", "--iptables=false", "--ip6tables=false", "--ip-masq=false")
        with (self.folder / "dockerd.log").open("wb") as log:
            self._daemon = subprocess.Popen(
                ["dockerd", *words, "-H", self.host, "--pidfile", f"{self.folder}/docker.pid"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        deadline = time.monotonic() + PATIENCE
        while not (self.folder / "docker.sock").exists():
            if self._daemon.poll() is not None or time.monotonic() > deadline:
                raise CannotStart(f"dockerd: {_last_line((self.folder / 'dockerd.log').read_text())}")
            time.sleep(0.1)
        self.client = DockerClient(self.host)

    @contextmanager
    def hanging(self) -> Iterator[None]:
        """For a while it takes calls, but answers none; its containers run on."""
        assert self._daemon is not None
        stand_still(self._daemon.pid)
        try:
            yield
        finally:
            self._daemon.send_signal(signal.SIGCONT)

    @contextmanager
    def with_gpus(self, folder: Path, names: Sequence[str]) -> Iterator[dict[str, str]]:
        """For a while it has NVIDIA's runtime, which hands GPUs of these names in, though they compute nothing. Gives variables
        by which a process outside finds them as well."""
        folder.mkdir()
        lines = "".join(f"echo 'GPU {place}: Tesla T4 (UUID: {name})'\n" for place, name in enumerate(names))
        (folder / "nvidia-smi").write_text(f"#!/bin/sh\n{lines}")
        (folder / "sitecustomize.py").write_text(GPUS.format(number=len(names)))
        (folder / "runtime").write_text(RUNTIME.format(folder=str(folder)))
        for program in ("nvidia-smi", "runtime"):
            (folder / program).chmod(0o755)
        try:
            self._reload({"runtimes": {"nvidia": {"path": str(folder / "runtime")}}}, lambda known: "nvidia" in known)
            before = {name: os.environ.get(name, "") for name in ("PATH", "PYTHONPATH")}
            yield {name: os.pathsep.join(filter(None, [str(folder), value])) for name, value in before.items()}
        finally:
            self._reload({"runtimes": {}}, lambda known: "nvidia" not in known)
            for name in names:
                (gpus.FOLDER / f"{name}.lock").unlink(missing_ok=True)

    def _reload(self, settings: dict[str, Any], until: Callable[[dict[str, Any]], bool]) -> None:
        assert self._daemon is not None
        (self.folder / "daemon.json").write_text(json.dumps(settings))
        self._daemon.send_signal(signal.SIGHUP)
        wait_until(lambda: until(self.client.info()["Runtimes"]))

    def _import_base(self) -> None:
        archive = self.folder / "base.tar"
        with tarfile.open(archive, "w") as tar:
            for path in _files_of(_with_what_they_need(BASE_PACKAGES)):
                tar.add(path, recursive=False)
        self.client.api.import_image_from_file(str(archive), BASE, "latest")
        archive.unlink()

    def download(self) -> None:
        """The packages that a build of the project's image needs: what the Dockerfile installs, as this machine's own pip finds
        it, wherever its settings point."""
        found = [Requirement(text) for text in metadata.requires("lastrun") or []]
        wanted = [f"{r.name}{r.specifier}" for r in found if r.marker is None or r.marker.evaluate({"extra": "train"})]
        python = _call("/usr/bin/python3", "-c", "import sys; print(*sys.version_info[:2], sep='.')").strip()
        target = ("--only-binary=:all:", "--python-version", python)
        words = ["-m", "pip", "download", "-q", "-d", str(self.wheels), "-c", str(ROOT / "constraints.txt")]
        _call(sys.executable, *words, *target, *wanted, "hatchling")

    def stop(self) -> None:
        """End the engine and everything that it runs."""
        if self.client is not None:
            self.remove_containers()
            self.client.close()
        if self._daemon is not None:
            self._daemon.send_signal(signal.SIGTERM)
            try:
                self._daemon.wait(timeout=60)
            except subprocess.TimeoutExpired:
                self._daemon.kill()
                self._daemon.wait()
        if self._bridge is not None:  # a second engine has none of its own, and is not to take the first one's
            subprocess.run(["ip", "link", "delete", self._bridge], capture_output=True, check=False)
        for line in Path("/proc/mounts").read_text().splitlines():  # it leaves the mark of its network behind
            if line.split()[1].startswith(f"{self.folder}/"):
                subprocess.run(["umount", "-l", line.split()[1]], check=False)

    def containers(self) -> list[Any]:
        """All there are, ended ones as well."""
        return list(self.client.containers.list(all=True, ignore_removed=True))

    def inspect(self, container: str) -> dict[str, Any]:
        """What the engine tells of one to everybody who may ask."""
        return dict(self.client.api.inspect_container(container))

    def remove_containers(self) -> None:
        """Kill and remove all there are."""
        for container in self.containers():
            container.remove(force=True, v=True)

    def container(self, seconds: float = PATIENCE) -> Any:
        """The container of an attempt, once it runs."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            for one in self.client.containers.list(filters={"label": "lastrun.attempt"}, ignore_removed=True):
                return one
            time.sleep(0.05)
        raise AssertionError("no container runs")

    def derive(self, name: str, *lines: str, base: str) -> str:
        """An image made from another by a few lines of a Dockerfile."""
        from io import BytesIO

        self.client.images.build(fileobj=BytesIO("\n".join([f"FROM {base}", *lines]).encode()), tag=name, rm=True)
        return name


class SharedImage:
    """The project's image as the engine that has built it has it on disk, for others of the same run, in a folder of the whole
    run's beside the files that tell how far it is; ``place`` begins their names (None: there is but one engine). One announces
    that it is going to build it."""

    def __init__(self, place: Path | None) -> None:
        self._place = place

    def _of(self, what: str) -> Path:
        assert self._place is not None
        return self._place.with_suffix(f".{what}")

    def announce(self) -> None:
        """Others need not build it."""
        if self._place:
            self._of("announced").touch()

    def give_up(self) -> None:
        """If it is not built now, it will not be."""
        if self._place:
            self._of("failed").touch()

    def build(self, engine: Engine) -> None:
        """In an engine, and for others unless another was first."""
        engine.build()
        if self._place is None or self._of("there").exists():
            return
        same_disk = self._place.parent.stat().st_dev == engine.folder.stat().st_dev
        if engine.client.info()["Driver"] != "overlay2" or not same_disk:
            self.give_up()
            return
        _link_layers(engine.folder / "data", self._of("kept"))
        self._of("there").touch()

    def load(self, engine: Engine) -> bool:
        """Into an engine that has not been started, once it is there; False: nobody builds it."""
        if self._place is None:
            return False
        deadline = time.monotonic() + _ANNOUNCED_SECONDS
        while not self._of("announced").exists():
            if time.monotonic() > deadline:
                return False
            time.sleep(0.5)
        deadline = time.monotonic() + _BUILD_SECONDS
        while not self._of("there").exists():
            if self._of("failed").exists() or time.monotonic() > deadline:
                return False
            time.sleep(0.5)
        _link_layers(self._of("kept"), engine.folder / "data")
        return True

    def remove(self) -> None:
        """What was kept for others, whole or not, when all have ended."""
        if self._place and self._of("kept").exists():
            removed_by_and_by(self._of("kept"))


def _link_layers(source: Path, target: Path) -> None:
    """An engine's images for another, on the same disk: layers are never changed, so that both can have the same files. Saved
    and loaded they would be written twice, and their hashes made anew: half a minute of a processor."""
    target.mkdir(exist_ok=True)
    _call("cp", "-a", f"{source}/image", str(target))
    # An engine that runs has its folder mounted onto itself, and nothing is linked from one mount to another.
    link = 'umount -l "$0" 2>/dev/null; cp -al "$0/overlay2" "$1"'
    _call("unshare", "--mount", "sh", "-c", link, str(source), str(target))


def removed_by_and_by(folder: Path) -> None:
    """Gigabytes of images, for which a busy disk takes minutes: nobody waits for that."""
    subprocess.run(["sh", "-c", 'rm -rf "$0" </dev/null >/dev/null 2>&1 &', str(folder)], check=True)


def _with_what_they_need(packages: Sequence[str]) -> list[str]:
    """Debian packages that are installed here: the named ones, the essential ones, and what all of these depend on."""
    form = "${Package}\t${Essential}\t${Pre-Depends}, ${Depends}\t${Provides}\t${db:Status-Abbrev}\n"
    needs: dict[str, str] = {}
    given: dict[str, set[str]] = {}  # by name, also of what a package only provides
    found: set[str] = set()
    for line in _call("dpkg-query", "-W", "-f", form).splitlines():
        name, essential, depends, provides, status = line.split("\t")
        if status.strip() != "ii":
            continue
        needs[name] = depends
        for other in (name, *_names(provides)):
            given.setdefault(other, set()).add(name)
        if essential == "yes":
            found.add(name)
    ahead = [*found, *packages]
    while ahead:
        name = ahead.pop()
        found.add(name)
        ahead += {one for need in _names(needs[name]) for one in given.get(need, ())} - found
    return sorted(found)


def _is_installed(package: str) -> bool:
    words = ["dpkg-query", "-W", "-f", "${db:Status-Abbrev}", package]
    return subprocess.run(words, capture_output=True, text=True, check=False).stdout.startswith("ii")


def _names(field: str) -> list[str]:
    """The packages in a field such as ``libc6 (>= 2.3), perl:any | perl-base``."""
    return [word.split()[0].partition(":")[0] for word in field.replace("|", ",").split(",") if word.strip()]


def _files_of(packages: Sequence[str]) -> Iterator[str]:
    """What they have installed here, each once, but for what is there to be read by people; parents come first."""
    unread = ("/usr/share/doc/", "/usr/share/man/", "/usr/share/info/", "/usr/share/locale/")
    made = ("/etc/passwd", "/etc/group", "/etc/ld.so.cache", *map(str, Path("/etc/alternatives").iterdir()))
    certificates = (str(path) for path in sorted(Path("/etc/ssl/certs").iterdir()))
    seen = {"/", ""}
    for name in ("/bin", "/sbin", "/lib", "/lib64", *_call("dpkg-query", "-L", *packages).splitlines(), *made, *certificates):
        if not name.startswith("/") or name.startswith(unread):
            continue
        # A package may name its files by a link to their folder, as /lib is one to /usr/lib.
        path = os.path.join(os.path.realpath(os.path.dirname(name)), os.path.basename(name))  # noqa: PTH118, PTH119, PTH120
        if path not in seen and os.path.lexists(path):
            seen.add(path)
            yield path


def _call(*words: str) -> str:
    done = subprocess.run(words, capture_output=True, text=True, timeout=600, check=False)
    if done.returncode != 0:
        raise CannotStart(f"{words[0]}: {_last_line(done.stdout + done.stderr)}")
    return done.stdout


def _last_line(text: str) -> str:
    lines: Sequence[str] = text.strip().splitlines() or ["no word"]
    return lines[-1]
