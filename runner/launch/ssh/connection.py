"""Calls to another machine through OpenSSH's own client, with the user's configuration, keys, agent and jump hosts."""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import signal
import stat
import subprocess
import tempfile
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from last_e.text import plain
from runner.errors import EngineError, UsageError
from runner.folders import cache_folder

SECONDS = 60.0
"""What a call may take that does little there."""
BEGIN = b"lastrun-begins\n"
"""What comes before it is the greeting of a shell there."""
CUT = 255
"""ssh's exit code for a connection that did not come about, or broke."""
_LONGEST_PATH = 104 - len("/") - 12 - 40 - 18
"""Of a folder for ssh's socket: a socket's address, less its name, and what ssh hangs on meanwhile."""
NO_SSH = "there is no ssh here: install OpenSSH's client"
_UNKNOWN_KEY = "its host key is not known here: log in once by hand with ssh, and compare it"
_NO_ANSWER = "it does not answer: is it on, and reachable from this network?"
_WORDS = {
    "REMOTE HOST IDENTIFICATION HAS CHANGED": "its host key is another than the one that you know: if that is meant to be so, "
    "ssh-keygen -R removes the old one; if not, somebody else may be answering in its place",
    "Host key verification failed": _UNKNOWN_KEY,
    "host key is known": _UNKNOWN_KEY,
    "UNKNOWN port": "the machine that leads to it (ProxyJump) does not let you through: log in to that one by hand with ssh",
    "Permission denied": "it does not let you in: load the key into ssh-agent, or name it in ~/.ssh/config",
    "Could not resolve hostname": "no such name is known",
    "Connection refused": "nothing listens there: is sshd running, and on that port?",
    "timed out": _NO_ANSWER,
    "No route to host": _NO_ANSWER,
    "Bad configuration option": "ssh does not take its own configuration",
}


class FarError(EngineError):
    """Something was called there and failed."""


class CutError(EngineError):
    """There is no connection."""


class Connection:
    """To one host.

    Args:
        host: its name for people.
        address: as ssh knows it, if that is another. :class:`runner.spec.RunConfig` and the settings see to its characters.
    """

    def __init__(self, host: str, address: str | None = None) -> None:
        self.host, self._address = host, address or host

    def command(self, script: str) -> list[str]:
        """A command that runs a script of POSIX sh there, on one line, whatever the login shell is. What it prints comes
        after :data:`BEGIN`."""
        whole = f"echo; echo {BEGIN.decode().strip()}; {script}"
        options = [word for option in self._options() for word in ("-o", option)]
        return ["ssh", "-T", *options, "--", self._address, f"exec /bin/sh -c {shlex.quote(whole)}"]

    def call(self, script: str, data: bytes = b"", seconds: float = SECONDS) -> bytes:
        """Run a script there, with ``data`` on its standard input; returns what it prints.

        Raises:
            CutError: there is no connection; why, and what to do.
            FarError: it ended with a code; with the last that it said.
        """
        with tempfile.TemporaryFile() as said:  # no pipe: older versions' kept connection holds on to its end
            try:
                done = subprocess.run(
                    self.command(script),
                    input=data,
                    stdout=subprocess.PIPE,
                    stderr=said,
                    timeout=seconds,
                    start_new_session=True,  # Ctrl-C is for us alone, and there is no terminal to ask at
                    env=environment(),
                    check=False,
                )
            except FileNotFoundError:
                raise EngineError(NO_SSH) from None
            except subprocess.TimeoutExpired:
                raise CutError(f"{self.host} does not answer within {seconds:.0f} s") from None
            said.seek(0)
            words = said.read()
        if done.returncode == CUT:
            raise self.explained(words)
        if done.returncode != 0:
            raise FarError(last_error(words) or f"it ended with code {done.returncode}")
        return done.stdout.partition(BEGIN)[2]

    def follow(self, script: str, data: bytes, seconds: float, heard: Callable[[str], None]) -> None:
        """Run what takes minutes there; each line that it prints is handed on as it comes.

        Raises:
            CutError, FarError: see :meth:`call`.
        """
        with tempfile.TemporaryFile() as said:
            pipe = subprocess.PIPE
            process = subprocess.Popen(
                self.command(script), stdin=pipe, stdout=pipe, stderr=said, start_new_session=True, env=environment()
            )
            limit = threading.Timer(seconds, process.kill)
            feeder = threading.Thread(target=_feed, args=(process, data), name="ssh", daemon=True)
            try:
                limit.start()
                feeder.start()
                assert process.stdout is not None
                begun = False
                for line in process.stdout:
                    if begun:
                        heard(line.decode(errors="replace").strip())
                    begun = begun or line == BEGIN
                code = process.wait()
            finally:
                limit.cancel()
                process.kill()
                process.wait()
                feeder.join()
                process.stdout.close() if process.stdout else None
            said.seek(0)
            words = said.read()
        if code == -signal.SIGKILL:
            raise CutError(f"{self.host} does not answer within {seconds:.0f} s")
        if code == CUT:
            raise self.explained(words)
        if code != 0:
            raise FarError(last_error(words) or f"it ended with code {code}")

    def _options(self) -> list[str]:
        """Nothing asks; a connection that hangs is given up; one is kept for the next calls, where its socket has a place of
        this user's alone."""
        options = ["BatchMode=yes", "ConnectTimeout=10", "ServerAliveInterval=5", "ServerAliveCountMax=3"]
        if (folder := _socket_folder()) is not None:
            path = str(folder).replace("%", "%%").replace('"', "")
            # Behind two jump hosts there may be two machines of the same address, which are one to ssh's %C.
            name = hashlib.sha256(self._address.encode()).hexdigest()[:12]
            options += ["ControlMaster=auto", "ControlPersist=60", f'ControlPath="{path}/{name}%C"']
        return options

    def explained(self, said: bytes) -> CutError:
        """What ssh says of a connection that is none, in words that tell what to do."""
        lines = [line.strip() for line in said.decode(errors="replace").splitlines() if line.strip()]
        sign = next((sign for sign in _WORDS if any(sign in line for line in lines)), "")
        told = next((line for line in reversed(lines) if sign in line), "ssh does not say why")
        return CutError(f"{self.host}: {_WORDS.get(sign, 'ssh does not get there')} ({plain(told)})")


def _feed(process: subprocess.Popen[bytes], data: bytes) -> None:
    """All of it, unless the other side has gone."""
    assert process.stdin is not None
    with suppress(OSError, ValueError):
        process.stdin.write(data)
    with suppress(OSError):
        process.stdin.close()


def last_error(said: bytes) -> str:
    """What something there has said against it, as one line."""
    lines = [line.strip() for line in said.decode(errors="replace").splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("error: ")]
    return plain((errors or lines or [""])[-1]).removeprefix("error: ")


def environment() -> dict[str, str]:
    """ssh's: no window asks for a password, neither its own nor that of a jump host's ssh."""
    return {**os.environ, "SSH_ASKPASS_REQUIRE": "never"}


def answer(out: bytes) -> dict[str, Any]:
    """The JSON object that something there has printed.

    Raises:
        FarError: it is none.
    """
    with suppress(ValueError):
        found = json.loads(out)
        if isinstance(found, dict):
            return found
    raise FarError("what it says is no answer of lastrun's")


def _socket_folder() -> Path | None:
    """The first that is short enough for a socket, and nobody else's."""
    places = [Path(runtime) / "lastrun"] if (runtime := os.environ.get("XDG_RUNTIME_DIR")) else []
    with suppress(UsageError):
        places.append(cache_folder() / "ssh" / "sockets")
    places.append(Path(tempfile.gettempdir()) / f"lastrun-{os.getuid()}")
    for folder in places:
        if len(os.fsencode(folder)) > _LONGEST_PATH:
            continue
        with suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            about = folder.lstat()
            if stat.S_ISDIR(about.st_mode) and about.st_uid == os.getuid() and not about.st_mode & 0o077:
                return folder
    return None
