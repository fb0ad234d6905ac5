"""A real SSH server for the tests, on loopback, with keys of its own; as root it is installed where it is missing."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from contextlib import suppress
from pathlib import Path

from tests import debian

_ITS_FOLDER = Path("/run/sshd")
"""sshd wants it, and a service manager would have made it."""


def why_not() -> str | None:
    """Why a server cannot be started here; None when it can."""
    if os.geteuid() != 0:
        return "only root can start one that lets root in"
    return debian.why_not(["sshd", "ssh", "ssh-keygen"], ["openssh-server", "openssh-client"])


class Sshd:
    """The server, and in ``folder`` what a client needs: a program ``ssh`` that has a key for it and knows it, as ``far``, too,
    and by other names in other ways (``_CONFIG``). Who logs in has the ``environment``."""

    def __init__(self, folder: Path, **environment: str) -> None:
        self.folder, self.home = folder, environment.get("HOME")
        self.port = _free_port()
        for name in ("host", "user", "other"):
            command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)]
            subprocess.run(command, check=True, timeout=60)
        self._made = not _ITS_FOLDER.exists()
        _ITS_FOLDER.mkdir(exist_ok=True)
        keys = {"HostKey": folder / "host", "AuthorizedKeysFile": folder / "user.pub", "StrictModes": "no", "UsePAM": "no"}
        options = {"Port": self.port, "ListenAddress": "127.0.0.1", "PidFile": "none", **keys}
        words = [word for name, value in options.items() for word in ("-o", f"{name}={value}")]
        if environment:
            words += ["-o", "SetEnv=" + " ".join(f"{name}={value}" for name, value in environment.items())]
        program = shutil.which("sshd") or "sshd"  # by its whole path: it runs itself again
        with (folder / "log").open("wb") as log:
            self.process = subprocess.Popen([program, "-D", "-e", "-f", "/dev/null", *words], stdout=log, stderr=log)
        (folder / "known").write_text(f"[127.0.0.1]:{self.port} {(folder / 'host.pub').read_text()}")
        (folder / "changed").write_text(f"[127.0.0.1]:{self.port} {(folder / 'other.pub').read_text()}")
        (folder / "config").write_text(_CONFIG.format(folder=folder, port=self.port, closed=_free_port()))
        self.bin = folder / "bin"
        self.bin.mkdir()
        (self.bin / "ssh").write_text(f'#!/bin/sh\nexec {shutil.which("ssh")} -F {folder}/config "$@"\n')
        (self.bin / "ssh").chmod(0o755)
        deadline = time.monotonic() + 30
        while b"listening" not in (folder / "log").read_bytes().lower():
            assert self.process.poll() is None, (folder / "log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.05)

    def cut(self) -> int:
        """Break all connections, as a network does; what they have started lives on. Returns how many there were."""
        cut = 0
        for pid in Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split():
            with suppress(ProcessLookupError):  # it has just ended by itself
                os.kill(int(pid), signal.SIGKILL)
                cut += 1
        return cut

    def die(self) -> None:
        """As a machine does whose power fails: the server, its connections and all that they have started end at once."""
        self.process.kill()
        self.end_all()
        self.process.wait()

    def end_all(self) -> None:
        """What was started there, however long ago."""
        home = f"HOME={self.home}".encode()
        for path in Path("/proc").glob("[0-9]*/environ"):
            with suppress(OSError):
                if home in path.read_bytes().split(b"\0"):
                    os.kill(int(path.parent.name), signal.SIGKILL)

    def stop(self) -> None:
        """No more connections; those that are open end with their clients."""
        self.process.terminate()
        self.process.wait()
        if self._made:
            _ITS_FOLDER.rmdir()


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


_CONFIG = """\
Host refused
  IdentitiesOnly yes
Host refused by-agent
  IdentityFile {folder}/other
Host changed
  UserKnownHostsFile {folder}/changed
Host unknown
  UserKnownHostsFile /dev/null
Host closed
  Port {closed}
Host jumped
  ProxyJump far
Host badly-jumped
  ProxyJump refused
Host far refused by-agent changed unknown closed jumped badly-jumped
  HostName 127.0.0.1
  Port {port}
  User root
Match !originalhost refused,by-agent
  IdentityFile {folder}/user
Host *
  UserKnownHostsFile {folder}/known
"""
"""Of options that are set twice ssh takes the first; all but these hosts have the key as well."""
