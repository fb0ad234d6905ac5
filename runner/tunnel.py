"""The way to an engine on a machine that is reached by ssh.

OpenSSH forwards the engine's socket, so that keys, agents, jump hosts and ``~/.ssh/config`` work as they do for ``ssh`` itself,
and the SDK talks to a socket like any other.
"""

from __future__ import annotations

import atexit
import shutil
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
HANDSHAKE_SECONDS = 30.0


def open_tunnel(uri: str) -> str:
    """Forward the engine of ``ssh://[USER@]HOST[:PORT][/SOCKET]``; returns the URI of the socket here.

    The tunnel ends with this process, however that ends: the other end reads from a pipe that only we hold open.

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
        raise EngineError(f"DOCKER_HOST: {uri}: allowed is ssh://[USER@]HOST[:PORT][/PATH/OF/docker.sock]")
    # Not the user's temporary folder: the path of a socket may have no more than some 100 characters.
    folder = Path(tempfile.mkdtemp(prefix="lastrun-ssh-", dir="/tmp"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    here, there = folder / "docker.sock", parts.path if len(parts.path) > 1 else ENGINE_SOCKET
    words = ["ssh", "-T", *[word for option in _OPTIONS for word in ("-o", option)], "-L", f"{here}:{there}"]
    words += ["-p", str(port)] if port else []
    with (folder / "errors").open("wb") as errors:
        try:
            process = subprocess.Popen(  # in a session of its own: Ctrl-C is for us alone
                [*words, "--", target, "echo lastrun-is-through; exec cat"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                start_new_session=True,
            )
        except FileNotFoundError:
            raise EngineError(f"the engine at {uri} needs ssh, which is not installed here") from None
    assert process.stdin is not None
    assert process.stdout is not None
    atexit.register(_close, process)
    hanging = threading.Timer(HANDSHAKE_SECONDS, process.terminate)
    hanging.start()
    through = any(b"lastrun-is-through" in line for line in iter(lambda: _line(process), b""))  # greetings may come before it
    hanging.cancel()
    if not through:
        process.wait()
        said = (folder / "errors").read_text(errors="replace").strip().splitlines()
        raise EngineError(
            f"ssh does not get to the engine at {uri} ({said[-1].strip() if said else 'it says nothing'}): ssh {target} true "
            "has to work without asking for anything; keys come from ssh-agent or ~/.ssh/config"
        )
    return f"unix://{here}"


def _line(process: subprocess.Popen[bytes]) -> bytes:
    assert process.stdout is not None
    return process.stdout.readline(4096)


def _close(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            pipe.close()
