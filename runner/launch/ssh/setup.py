"""A host as attempts are started on it: this version is put there once, and then called."""

from __future__ import annotations

import json
import platform
import re
import shlex
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from last_e.text import seconds_text
from runner.errors import EngineError, UsageError
from runner.launch.ssh import install
from runner.launch.ssh.connection import SECONDS, Connection, FarError, answer
from runner.launch.ssh.far import NOT_THERE
from runner.launch.ssh.wheel import this_version
from runner.launchers import HOST, HOST_MEANING
from runner.settings import read_settings
from runner.signals import tidied

INSTALL_SECONDS = 3600.0
_CHECK_SECONDS = 180.0
"""A store that does not answer is given up after less, and torch may have to be tried."""
_STILL_SECONDS = 20.0
_MIB = 1 << 20
_NEEDED = {"torch": 300 * _MIB, "cpu": 2048 * _MIB, "gpu": 8192 * _MIB}
"""Where a torch is there; where one for CPUs comes; with CUDA's libraries."""
_ROOT = '"${XDG_CACHE_HOME:-$HOME/.cache}"/lastrun/ssh'
_UV_PYTHON = "3.12"
_SUITS = (
    "import sys, venv, fcntl; from importlib.util import find_spec as has; "
    "sys.version_info >= (3, 10) and (has('ensurepip') or has('pip')) and "
    "print('python', 1 if has('torch') else 0, sys.executable)"
)
# On one line, since there are login shells that take no other.
_FACTS = "; ".join(
    (
        'echo "system $(uname -s) $(uname -m)"',
        'echo "free $(df -Pk "$HOME" | tail -n 1)"',
        'test -e /proc/driver/nvidia/version && echo "driver 1"',
        f"for p in python3 python3.14 python3.13 python3.12 python3.11 python3.10; do $p -c {shlex.quote(_SUITS)} 2>/dev/null; "
        "done",
        f'for u in {_ROOT}/uv uv "$HOME/.local/bin/uv" "$HOME/.cargo/bin/uv"; do '
        'command -v "$u" >/dev/null && echo "uv $(command -v "$u")"; done',
        "exit 0",
    )
)


class Host:
    """See above.

    Args:
        name: as ssh or the user's settings know it.
        folder: of the version there, if it is not to be this one.
        far: the module there that has its verbs.
        for_gpus: the torch there is to be one for GPUs, also if that machine has none: others that share its home folder do.
    """

    def __init__(
        self, name: str, folder: str | None = None, far: str = "runner.launch.ssh.far", *, for_gpus: bool = False
    ) -> None:
        self.connection = Connection(name, read_settings().host(name).ssh)
        self._wheel = this_version() if folder is None else None
        self._far, self._for_gpus = far, for_gpus
        self.folder = str(folder) if self._wheel is None else self._wheel.folder + ("-gpu" if for_gpus else "")
        self._path = f"{_ROOT}/{shlex.quote(self.folder)}"

    def check(self, asked: dict[str, Any], say: Callable[[str], None]) -> dict[str, Any]:
        """What the host is, and all that keeps an attempt from starting there, in one round trip where this version is there
        already; else it is put there first. See :func:`runner.launch.ssh.far.check`.

        Raises:
            EngineError: it is not reached, or this version cannot be put there.
        """
        marker = f"test -d {shlex.quote(asked['marker'])} && echo store; " if "marker" in asked else ""
        script = f"D={self._path}; if test -f $D/ready; then {self.script('check')}; fi; echo facts; {marker}{_FACTS}"
        given = json.dumps(asked).encode() + b"\n"
        out = self._called(script, given, _CHECK_SECONDS)
        if not out.startswith(b"facts\n"):
            return self._answer(out)
        self._set_up(_Facts(out.decode(errors="replace")), asked, say)
        return self._answer(self._called(self.script("check"), given, _CHECK_SECONDS))

    def script(self, verb: str, *words: str) -> str:
        """What is run there for one of the verbs of :mod:`runner.launch.ssh.far`."""
        return f"exec {self._path}/bin/python -I -m {self._far} {shlex.join([verb, *words])}"

    def call(
        self, verb: str, *words: str, given: dict[str, Any] | None = None, data: bytes = b"", seconds: float = SECONDS
    ) -> bytes:
        """One of them; ``given``, or ``data``, by standard input.

        Raises:
            EngineError: there is no connection, or it failed.
        """
        data = data if given is None else json.dumps(given).encode() + b"\n"
        return self._called(self.script(verb, *words), data, seconds)

    def ask(self, verb: str, *words: str, given: dict[str, Any] | None = None, seconds: float = SECONDS) -> dict[str, Any]:
        """The same of one that answers."""
        return self._answer(self.call(verb, *words, given=given, seconds=seconds))

    def clean(self, force: bool) -> dict[str, Any]:
        """Remove all that lastrun has put there (``removed``: where it lay; None: there was nothing). See
        :func:`runner.launch.ssh.runs.clean`.

        Raises:
            EngineError: it is not reached, or something would be lost.
        """
        verb = f"-I -m runner.launch.ssh.far clean {shlex.quote('force' if force else '')}"
        ways = f'for p in {self._path}/bin/python {_ROOT}/*/bin/python; do if test -x "$p"; then exec "$p" {verb}; fi; done'
        return self._answer(self._called(f"{ways}; rm -rf {_ROOT}; echo '{{\"removed\": null}}'", b"", _CHECK_SECONDS))

    def _set_up(self, facts: _Facts, asked: dict[str, Any], say: Callable[[str], None]) -> None:
        """Put this version there.

        Raises:
            EngineError: it cannot be; all that is wrong.
        """
        assert self._wheel is not None
        name = self.connection.host
        needed = _NEEDED["torch" if facts.has_torch else "gpu" if facts.has_driver or self._for_gpus else "cpu"]
        wrong = []
        if "marker" in asked and not facts.has_store:
            wrong.append(NOT_THERE.format(store=asked["store"]))
        if facts.free is not None and facts.free < needed:
            wrong.append(f"its home folder has {facts.free // _MIB} MiB left: lastrun and torch need {needed // _MIB}")
        own_uv = shutil.which("uv") if facts.system == f"{platform.system()} {platform.machine()}" else None
        if not (facts.python or facts.uv or own_uv):
            wrong.append(
                "it has no Python of 3.10 or newer with pip or venv, and no uv to bring one: install one of them there "
                "(Debian: python3-venv), or uv here, which is then sent"
            )
        if wrong:
            raise EngineError("\n".join(f"{name}: {one}" for one in wrong))
        python, uv = facts.python, facts.uv
        if python is None and uv is None:
            say(f"{name}: no Python there; sending uv, which fetches one")
            uv = self._send_uv(Path(str(own_uv)))
        with_what = f"a Python that {uv} fetches" if python is None else python
        say(f"{name}: setting lastrun up with {with_what}, {'whose torch is kept' if facts.has_torch else 'and torch'}; once")
        source = Path(install.__file__).read_bytes()
        about = {"folder": self.folder, "version": self._wheel.version, "size": len(self._wheel.data)}
        about["for_gpus"] = self._for_gpus
        data = source + json.dumps(about).encode() + b"\n" + self._wheel.data
        read = f"import sys; exec(compile(sys.stdin.buffer.read({len(source)}), 'install.py', 'exec'))"
        command = shlex.quote(python) if python is not None else _by_uv(str(uv))
        try:
            leave = f"{name}: left alone with it: what is there already is not done twice by the next command"
            with (
                tidied(lambda: say(leave)),
                _told_of(lambda seconds: say(f"{name}: still being set up ({seconds_text(seconds)})")),
            ):
                self.connection.follow(
                    f"exec {command} -I -c {shlex.quote(read)}", data, INSTALL_SECONDS, lambda line: say(f"{name}: {line}")
                )
        except FarError as error:
            if python is not None:
                raise EngineError(f"{name}: {error}") from None
            raise EngineError(
                f"{name}: {error}: where uv cannot fetch a Python, install one there (Debian: python3-venv)"
            ) from None

    def _send_uv(self, own: Path) -> str:
        """This machine's, for a machine of its kind."""
        script = f"umask 077; R={_ROOT}; mkdir -p $R && cat >$R/uv.$$ && chmod 700 $R/uv.$$ && mv $R/uv.$$ $R/uv && echo $R/uv"
        return self._called(script, own.read_bytes(), INSTALL_SECONDS).decode(errors="replace").strip()

    def _called(self, script: str, data: bytes, seconds: float) -> bytes:
        try:
            return self.connection.call(script, data, seconds)
        except FarError as error:
            raise EngineError(f"{self.connection.host}: {error}") from None

    def _answer(self, out: bytes) -> dict[str, Any]:
        try:
            return answer(out)
        except FarError as error:
            raise EngineError(f"{self.connection.host}: {error}") from None


def named(name: str) -> Host:
    """A host that somebody has typed.

    Raises:
        UsageError: it cannot be the name of one.
    """
    if not re.fullmatch(HOST, name):
        raise UsageError(f"host: found {name!r}; allowed: {HOST_MEANING}")
    return Host(name)


class _Facts:
    """What a machine says of itself that has no lastrun yet."""

    def __init__(self, text: str) -> None:
        lines = [line.split(" ", 1) for line in text.splitlines()]
        found = {words[0]: words[-1] for words in reversed(lines)}  # the first of each kind
        pythons = sorted((words[1] for words in lines if words[0] == "python"), key=lambda rest: rest[:1] == "0")
        self.system = found.get("system", "")
        self.has_driver, self.has_store = "driver" in found, "store" in found
        self.has_torch = bool(pythons) and pythons[0].startswith("1 ")
        self.python = pythons[0][2:] if pythons else None
        self.uv = found.get("uv")
        disk = found.get("free", "").split()
        self.free = int(disk[3]) << 10 if len(disk) > 3 and disk[3].isdigit() else None


@contextmanager
def _told_of(say: Callable[[float], None]) -> Iterator[None]:
    """Meanwhile it is said now and then that something is still going on, and for how many seconds."""
    over, began = threading.Event(), time.monotonic()

    def tell() -> None:
        while not over.wait(_STILL_SECONDS):
            say(time.monotonic() - began)

    teller = threading.Thread(target=tell, name="still", daemon=True)
    teller.start()
    try:
        yield
    finally:
        over.set()
        teller.join()


def _by_uv(uv: str) -> str:
    """The beginning of a command that runs a Python which uv has put below our own folder."""
    places = f"UV_PYTHON_INSTALL_DIR={_ROOT}/python UV_CACHE_DIR={_ROOT}/uv-cache"
    run = f"run --no-project --no-config --python-preference only-managed --python {_UV_PYTHON} python"
    return f"env {places} {shlex.quote(uv)} {run}"
