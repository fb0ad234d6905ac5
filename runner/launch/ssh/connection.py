"""Calls to another machine through OpenSSH's own client, with the user's configuration, keys, agent and jump hosts."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
from contextlib import suppress
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
_LONGEST_PATH = 104 - len("/") - 40 - 18
"""Of a folder for ssh's socket: a socket's address, less the name that ssh gives it, and what it hangs on meanwhile."""
_WORDS = {
    "REMOTE HOST IDENTIFICATION HAS CHANGED": "its host key is another than the one that you know: if that is meant to be so, "
    "ssh-keygen -R removes the old one",
    "Host key verification failed": "its host key is not known here: log in once by hand with ssh, and compare it",
    "Permission denied": "it does not let you in: load the key into ssh-agent, or name it in ~/.ssh/config",
    "Could not resolve hostname": "no such name is known",
    "Connection refused": "nothing listens there: is sshd running, and on that port?",
    "Connection timed out": "it does not answer: is it on, and reachable from this network?",
    "No route to host": "it does not answer: is it on, and reachable from this network?",
}


class FarError(EngineError):
    """Something was called there and failed."""


class CutError(EngineError):
    """There is no connection."""


class Connection:
    """To one host.

    Args:
        host: as ssh knows it; :class:`runner.spec.RunConfig` has seen to its characters.
    """

    def __init__(self, host: str) -> None:
        self.host = host

    def command(self, script: str) -> list[str]:
        """A command that runs a script of POSIX sh there, whatever the login shell is. What the script prints comes after
        :data:`BEGIN`."""
        whole = f"echo; echo {BEGIN.decode().strip()}; {script}"
        options = [word for option in _options() for word in ("-o", option)]
        return ["ssh", "-T", *options, "--", self.host, f"exec /bin/sh -c {shlex.quote(whole)}"]

    def call(self, script: str, data: bytes = b"", seconds: float = SECONDS) -> bytes:
        """Run a script there, with ``data`` on its standard input; returns what it prints.

        Raises:
            CutError: there is no connection; why, and what to do.
            FarError: it ended with a code; with the last that it said.
        """
        try:
            done = subprocess.run(
                self.command(script),
                input=data,
                capture_output=True,
                timeout=seconds,
                start_new_session=True,  # Ctrl-C is for us alone
                check=False,
            )
        except FileNotFoundError:
            raise UsageError("there is no ssh here: install OpenSSH's client") from None
        except subprocess.TimeoutExpired:
            raise CutError(f"{self.host} does not answer within {seconds:.0f} s") from None
        if done.returncode == CUT:
            raise self.explained(done.stderr)
        if done.returncode != 0:
            said = [line for line in done.stderr.decode(errors="replace").splitlines() if line.strip()]
            raise FarError(plain(said[-1]).removeprefix("error: ") if said else f"it ended with code {done.returncode}")
        return done.stdout.partition(BEGIN)[2]

    def explained(self, said: bytes) -> CutError:
        """What ssh says of a connection that is none, in words that tell what to do."""
        text = said.decode(errors="replace").strip()
        why = next((words for sign, words in _WORDS.items() if sign in text), "")
        last = plain(text.splitlines()[-1]) if text else "ssh does not say why"
        return CutError(f"{self.host}: {why or 'ssh does not get there'} ({last})")


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


def _options() -> list[str]:
    """Nothing asks; a connection that hangs is given up; one is kept for the next calls, where its socket has a place that is
    this user's alone."""
    options = ["BatchMode=yes", "ConnectTimeout=10", "ServerAliveInterval=5", "ServerAliveCountMax=3"]
    with suppress(UsageError, OSError):
        folder = cache_folder() / "ssh"
        if len(os.fsencode(folder)) <= _LONGEST_PATH:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            folder.chmod(0o700)
            options += ["ControlMaster=auto", "ControlPersist=60", f"ControlPath={folder}/%C".replace(" ", "\\ ")]
    return options
