"""The way to an engine on a machine that is reached by ssh.

OpenSSH forwards the engine's socket, so that keys, agents, jump hosts and ``~/.ssh/config`` work as they do for ``ssh`` itself,
and the SDK talks to a socket like any other.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import threading
from pathlib import Path
from urllib.parse import unquote, urlsplit

from runner.errors import EngineError

ENGINE_SOCKET = "/var/run/docker.sock"
_OPTIONS = (
    *("BatchMode=yes", "ConnectTimeout=10", "ExitOnForwardFailure=yes", "ServerAliveInterval=15"),
    # A connection of its own, which ends with us, whatever the user's configuration shares.
    *("ControlMaster=no", "ControlPath=none", "RemoteCommand=none"),
)
_SSH = 'trap : TERM; ssh "$@"; code=$?; rm -rf -- "$0"; exit $code'
"""``sh -c _SSH FOLDER WORDS...``: the folder goes when ssh has gone, also when nobody is left to see to it."""
HANDSHAKE_SECONDS = 30.0


def open_tunnel(uri: str) -> str:
    """Forward the engine of ``ssh://[USER@]HOST[:PORT][/SOCKET]``; returns the URI of the socket here.

    The tunnel ends with this process, however that ends, and so does its folder: the other end reads from a pipe that only we
    hold open.

    Raises:
        EngineError: ssh does not get there.
    """
    try:
        parts = urlsplit(uri)
        port = parts.port
        user, _, host = parts.netloc.rpartition("@")
        # As it is written: names in ~/.ssh/config know upper case.
        host = host.removesuffix(f":{port}") if port else host.removesuffix(":")
        target = f"{unquote(user)}@{host}" if user else host
    except ValueError:
        parts, port, target = urlsplit(""), None, ""
    if not target:
        raise EngineError(f"DOCKER_HOST: {uri}; allowed: ssh://[USER@]HOST[:PORT][/PATH/OF/docker.sock]")
    if shutil.which("ssh") is None:
        raise EngineError(f"the engine at {uri} needs ssh, which is not installed here: install OpenSSH's client")
    # Not the user's temporary folder: the path of a socket may have no more than some 100 characters.
    folder = Path(tempfile.mkdtemp(prefix="lastrun-ssh-", dir="/tmp"))
    here, there = folder / "docker.sock", parts.path if len(parts.path) > 1 else ENGINE_SOCKET
    words = ["-T", *[word for option in _OPTIONS for word in ("-o", option)], "-L", f"{here}:{there}"]
    words += ["-p", str(port)] if port else []
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(  # in a session of its own: Ctrl-C is for us alone
            ["/bin/sh", "-c", _SSH, folder, *words, "--", target, "echo lastrun-is-through; exec cat"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            start_new_session=True,
        )
        assert process.stdin is not None
        assert process.stdout is not None
        atexit.register(_close, process)
        hanging = threading.Timer(HANDSHAKE_SECONDS, _end, [process])
        hanging.start()
        through = any(b"lastrun-is-through" in line for line in iter(lambda: _line(process), b""))  # after greetings
        hanging.cancel()
        if through:
            return f"unix://{here}"
        _close(process)
        errors.seek(0)
        said = errors.read().decode(errors="replace").strip().splitlines()
    raise EngineError(
        f"ssh does not get to the engine at {uri} ({said[-1].strip() if said else 'it says nothing'}): ssh {target} true "
        "has to work without asking for anything; keys come from ssh-agent or ~/.ssh/config"
    )


def _line(process: subprocess.Popen[bytes]) -> bytes:
    assert process.stdout is not None
    return process.stdout.readline(4096)


def _end(process: subprocess.Popen[bytes]) -> None:
    """End ssh; the shell above it does not hear this, and tidies up."""
    if process.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)


def _close(process: subprocess.Popen[bytes]) -> None:
    _end(process)
    process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            pipe.close()
