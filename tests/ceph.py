"""A real Ceph RADOS Gateway for the tests: one monitor, one OSD in memory, one gateway with http and https, on loopback."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import time
import urllib.request
import uuid
from pathlib import Path
from urllib.parse import urlencode

from tests import debian

PROGRAMS = ("ceph", "ceph-mon", "ceph-osd", "ceph-authtool", "monmaptool", "radosgw", "radosgw-admin", "openssl")
DEBIAN_PACKAGES = ("radosgw", "ceph-mon", "ceph-osd", "openssl")
ACCESS_KEY, SECRET_KEY = "lastruntestaccess", "lastruntestsecret-0123456789"

_CONFIG = """\
[global]
fsid = {fsid}
mon host = [v2:127.0.0.1:{mon_port}]
mon initial members = a
public addr = 127.0.0.1
cluster addr = 127.0.0.1
ms bind msgr1 = false
auth cluster required = cephx
auth service required = cephx
auth client required = cephx
keyring = {folder}/keyring
run dir = {folder}
log file = {folder}/$name.log
mon cluster log file = {folder}/cluster.log
pid file =
admin socket =
crash dir = {folder}
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 2
osd pool default pgp num = 2
osd pool default pg autoscale mode = off
mon allow pool size one = true
mon max pg per osd = 1000
osd crush chooseleaf type = 0
paxos propose interval = 0.05
[mon]
mon data = {folder}/mon
mon data avail warn = 1
mon data avail crit = 1
[osd]
osd data = {folder}/osd
osd objectstore = memstore
memstore device bytes = 4294967296
[client.rgw.a]
rgw data = {folder}/rgw
rgw frontends = beast endpoint=127.0.0.1:{port} ssl_endpoint=127.0.0.1:{tls_port} ssl_certificate={folder}/tls.crt \
ssl_private_key={folder}/tls.key
rgw thread pool size = 32
rgw run sync thread = false
rgw crypt require ssl = false
rgw crypt s3 kms backend = testing
rgw crypt s3 kms encryption keys = testkey-1=YmluCmJvb3N0CmJvb3N0LWJ1aWxkCmNlcGguY29uZgo=
"""


def why_not() -> str | None:
    """Why a gateway cannot be started here; None when it can. As root, missing Debian packages are installed first."""
    return debian.why_not(PROGRAMS, DEBIAN_PACKAGES)


class Ceph:
    """The cluster, in ``folder`` (a short path: sockets live there)."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port, self.tls_port, self.mon_port = _free_port(), _free_port(), _free_port()
        self.endpoint, self.tls_endpoint = f"http://127.0.0.1:{self.port}", f"https://127.0.0.1:{self.tls_port}"
        self.ca_bundle = folder / "tls.crt"
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    def start(self) -> None:
        """From nothing to a gateway that answers."""
        folder, fsid = self.folder, uuid.uuid4()
        for name in ("mon", "osd", "rgw"):
            (folder / name).mkdir(parents=True)
        ports = {"mon_port": self.mon_port, "port": self.port, "tls_port": self.tls_port}
        (folder / "ceph.conf").write_text(_CONFIG.format(folder=folder, fsid=fsid, **ports))
        names = "subjectAltName=IP:127.0.0.1,DNS:localhost"
        certificate = ["-nodes", "-days", "30", "-subj", "/CN=127.0.0.1", "-addext", names]
        certificate += ["-keyout", f"{folder}/tls.key", "-out", f"{folder}/tls.crt"]
        self._call("openssl", "req", "-x509", "-newkey", "rsa:2048", *certificate)
        keyring = f"{folder}/keyring"
        self._call("ceph-authtool", "--create-keyring", keyring, "--gen-key", "-n", "mon.", "--cap", "mon", "allow *")
        for name in ("client.admin", "client.rgw.a"):
            caps = [word for daemon in ("mon", "osd", "mgr") for word in ("--cap", daemon, "allow *")]
            self._call("ceph-authtool", keyring, "--gen-key", "-n", name, *caps)
        address = f"[v2:127.0.0.1:{self.mon_port}]"
        monmap = [f"{folder}/monmap", "--create", "--enable-all-features", "--fsid", str(fsid), "--addv", "a", address]
        self._call("monmaptool", *monmap)
        self._call("ceph-mon", *self._conf, "-i", "a", "--mkfs", "--monmap", f"{folder}/monmap", "--keyring", keyring)
        self._run("mon", "ceph-mon", "-i", "a", "-f")
        self._until(lambda: self._try("ceph", "mon", "stat", "--connect-timeout", "5"), "the monitor")

        osd = str(uuid.uuid4())
        secret = self._call("ceph-authtool", "--gen-print-key").strip()
        self._call("ceph", *self._conf, "osd", "new", osd, "-i", "-", given=json.dumps({"cephx_secret": secret}))
        self._call("ceph-authtool", keyring, "-n", "osd.0", "--add-key", secret)
        self._call("ceph-osd", *self._conf, "-i", "0", "--mkfs", "--osd-uuid", osd)
        self._run("osd", "ceph-osd", "-i", "0", "-f")
        self._until(lambda: " 1 up" in (self._try("ceph", "osd", "stat") or ""), "the OSD")
        keys = ["--access-key", ACCESS_KEY, "--secret-key", SECRET_KEY]
        self._call("radosgw-admin", *self._conf, "-n", "client.rgw.a", "user", "create", "--uid=t", "--display-name=t", *keys)
        self.start_gateway()

    def make_user(self, name: str, key: str) -> None:
        """Another user, whose secret is the key twice."""
        words = ("--uid", name, "--display-name", name, "--access-key", key, "--secret-key", 2 * key)
        self._call("radosgw-admin", *self._conf, "-n", "client.rgw.a", "user", "create", *words)

    def rotate_key(self, user: str, old: str, new: str) -> None:
        """Give a user another key; the old one is refused from then on."""
        admin = ("radosgw-admin", *self._conf, "-n", "client.rgw.a", "key")
        self._call(*admin, "create", "--uid", user, "--key-type", "s3", "--access-key", new, "--secret-key", 2 * new)
        self._call(*admin, "rm", "--uid", user, "--key-type", "s3", "--access-key", old)

    def start_gateway(self) -> None:
        """Start the gateway, again after :meth:`kill_gateway`."""
        self._run("rgw", "radosgw", "-n", "client.rgw.a", "-f")
        self._until(self._answers, "the gateway")

    def kill_gateway(self) -> None:
        """SIGKILL, as a power cut would."""
        process = self.processes.pop("rgw")
        process.kill()
        process.wait()

    def stop(self) -> None:
        """End everything that was started."""
        for process in reversed(self.processes.values()):
            process.send_signal(signal.SIGKILL)
            process.wait()

    def credentials(self) -> dict[str, str]:
        """The environment in which boto3 finds the way in."""
        keys = {"AWS_ACCESS_KEY_ID": ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": SECRET_KEY, "AWS_CA_BUNDLE": str(self.ca_bundle)}
        return {**keys, "AWS_CONFIG_FILE": "/dev/null", "AWS_SHARED_CREDENTIALS_FILE": "/dev/null", "NO_PROXY": "127.0.0.1"}

    def make_bucket(self, name: str) -> None:
        """An empty bucket; needs :meth:`credentials` in the environment."""
        import boto3

        boto3.client("s3", endpoint_url=self.endpoint, region_name="us-east-1").create_bucket(Bucket=name)

    def uri(self, prefix: str, *, tls: bool = True, port: int | None = None) -> str:
        """The URI of a store in the bucket; ``port`` goes through a proxy."""
        own = self.tls_port if tls else self.port
        endpoint = f"{'https' if tls else 'http'}://127.0.0.1:{port or own}"
        return f"s3://lastrun/{prefix}?{urlencode({'endpoint_url': endpoint})}"

    @property
    def _conf(self) -> tuple[str, str]:
        return "-c", f"{self.folder}/ceph.conf"

    def _call(self, *words: str, given: str | None = None) -> str:
        done = subprocess.run(words, input=given, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, f"{' '.join(words)}: {done.stderr}"
        return done.stdout

    def _try(self, program: str, *words: str) -> str | None:
        done = subprocess.run([program, *self._conf, *words], capture_output=True, text=True, timeout=60, check=False)
        return done.stdout if done.returncode == 0 else None

    def _run(self, name: str, program: str, *words: str) -> None:
        with (self.folder / f"{name}.out").open("ab") as out:
            command = [program, *self._conf, *words]
            self.processes[name] = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True
            )

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(self.endpoint, timeout=2) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def _until(self, done: object, what: str) -> None:
        assert callable(done)
        deadline = time.monotonic() + 60
        while not done():
            ended = [name for name, process in self.processes.items() if process.poll() is not None]
            assert not ended, f"{ended[0]} ended: {(self.folder / f'{ended[0]}.out').read_text()[-800:]}"
            assert time.monotonic() < deadline, f"{what} does not answer"
            time.sleep(0.1)


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
