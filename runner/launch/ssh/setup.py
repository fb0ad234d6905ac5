"""A host as attempts are started on it: this version is put there once, and then called."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

from runner.errors import EngineError
from runner.launch.ssh import install
from runner.launch.ssh.connection import SECONDS, Connection, FarError, answer
from runner.launch.ssh.wheel import make_wheel

INSTALL_SECONDS = 3600.0
NEEDED_BYTES = 1 << 30
_ROOT = '"${XDG_CACHE_HOME:-$HOME/.cache}"/lastrun/ssh'
_FIND = """
if [ -f "$D/ready" ]; then echo ready; exit 0; fi
df -Pk "$HOME" | tail -n 1
for p in python3 python3.13 python3.12 python3.11 python3.10 python; do
  command -v $p >/dev/null && $p -c "import sys, venv, ensurepip, fcntl, importlib.util as u
if sys.version_info >= (3, 10): print(1 if u.find_spec(sys.argv[1]) else 0, sys.executable)
" torch 2>/dev/null
done
exit 0"""


class Host:
    """See above.

    Args:
        name: as ssh knows it.
    """

    def __init__(self, name: str) -> None:
        self.connection = Connection(name)
        self._wheel = make_wheel()
        self._folder = f"{_ROOT}/{self._wheel.folder}"

    def set_up(self, say: Callable[[str], None]) -> None:
        """Put this version there, unless it is there.

        Raises:
            EngineError: it cannot be; all that is missing.
        """
        name = self.connection.host
        found = self.connection.call(f"D={self._folder}; {_FIND}").decode(errors="replace").splitlines()
        if found[:1] == ["ready"]:
            return
        disk = found[0].split() if found else []
        missing = []
        if len(disk) > 3 and disk[3].isdigit() and int(disk[3]) << 10 < NEEDED_BYTES:
            missing.append(f"its home folder has {int(disk[3]) >> 10} MiB left: lastrun and torch need {NEEDED_BYTES >> 20}")
        pythons = sorted((line for line in found[1:] if line[:2] in ("0 ", "1 ")), reverse=True, key=lambda line: line[0])
        if not pythons:
            missing.append("it has no Python of 3.10 or newer with venv: install one (Debian: python3-venv)")
        if missing:
            raise EngineError("\n".join(f"{name}: {one}" for one in missing))
        has_torch, python = pythons[0].split(" ", 1)
        say(f"{name}: setting lastrun up with {python}, {'its torch is kept' if has_torch == '1' else 'and torch'}; once")
        source = Path(install.__file__).read_bytes()
        about = {"folder": self._wheel.folder, "wheel": self._wheel.name, "size": len(self._wheel.data)}
        data = source + json.dumps(about).encode() + b"\n" + self._wheel.data
        read = (
            f"import sys; exec(compile(sys.stdin.buffer.read({len(source)}), {str(Path(install.__file__).name)!r}, {'exec'!r}))"
        )
        script = f"exec {shlex.quote(python)} -I -c {shlex.quote(read)}"
        try:
            self.connection.call(script, data, INSTALL_SECONDS)
        except FarError as error:
            raise EngineError(f"{name}: {error}") from None

    def script(self, verb: str, *words: str) -> str:
        """What is run there for one of the verbs of :mod:`runner.launch.ssh.far`."""
        return f"exec {self._folder}/bin/python -I -m runner.launch.ssh.far {shlex.join([verb, *words])}"

    def call(self, verb: str, *words: str, given: dict[str, Any] | None = None, seconds: float = SECONDS) -> bytes:
        """One of them; ``given`` by standard input.

        Raises:
            EngineError: there is no connection, or it failed.
        """
        data = b"" if given is None else json.dumps(given).encode() + b"\n"
        try:
            return self.connection.call(self.script(verb, *words), data, seconds)
        except FarError as error:
            raise EngineError(f"{self.connection.host}: {error}") from None

    def ask(self, verb: str, *words: str, given: dict[str, Any] | None = None, seconds: float = SECONDS) -> dict[str, Any]:
        """The same of one that answers."""
        return answer(self.call(verb, *words, given=given, seconds=seconds))
