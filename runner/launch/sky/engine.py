"""SkyPilot as this process asks it: through the Python that has it (:mod:`runner.launch.sky.far`)."""

from __future__ import annotations

import json
import os
import re
import select
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import closing, suppress
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import IO, Any

from last_e.text import plain
from runner.errors import EngineError, LastrunError, UsageError
from runner.launch.notes import Notes

NOTES = Notes("sky", "job", "cluster")
PREFIX = "lastrun-"
"""Of its clusters there: by that they are found again."""
ACTIVE = ("INIT", "PENDING", "SETTING_UP", "RUNNING")
"""Of what runs on one."""
CANCELLED = "CANCELLED"
_PATIENCE_SECONDS = 300.0
"""What an answer may take; the first one starts SkyPilot's server."""
_FAR = Path(__file__).with_name("far") / "__main__.py"
_COLOUR = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
_SILENT = "SkyPilot's server does not answer ({}): sky api status"
NO_CLOUD = "launcher sky: no cloud is set up for SkyPilot: sky check tells what is missing for each"
NO_SKYPILOT = (
    "launcher sky needs SkyPilot; from a clone of lastrun: pip install '.[sky]'; "
    "or, beside the extra hf, in an environment of its own: pipx install skypilot"
)


class FullError(EngineError):
    """There is no such machine now, or no quota for it."""


class InfeasibleError(EngineError):
    """There never is such a machine."""


class KeysError(EngineError):
    """A cloud does not take the keys that SkyPilot has for it."""


class SilentError(EngineError):
    """SkyPilot's server does not answer, as far as can be told from here."""


@dataclass(frozen=True)
class Cluster:
    """One that runs an attempt, or is to."""

    name: str
    state: str
    since: float
    cloud: str
    instance: str | None
    spot: bool
    gpu: str | None
    number: int
    """Of its GPUs."""

    @property
    def job(self) -> str:
        """Whose attempt that is."""
        return self.name[len(PREFIX) : -9]

    @property
    def token(self) -> str:
        """What the attempt's ID ends with."""
        return self.name[-8:]


@dataclass(frozen=True)
class Seen:
    """What has become of a cluster."""

    name: str
    state: str
    """``INIT``, ``UP``, ``STOPPED``, ``UNHEALTHY``, or ``gone``; ``asked``: it is being asked for, as far as is known here."""
    job: str | None
    given_back: bool
    """Whether somebody has taken it down."""

    @property
    def waits(self) -> bool:
        """Whether it is being asked for or made, or has just been."""
        return self.state in ("asked", "INIT") or (self.state == "UP" and self.job in (None, "INIT", "PENDING", "SETTING_UP"))

    @property
    def runs(self) -> bool:
        """Whether the attempt runs, or will."""
        return self.waits or (self.state == "UP" and self.job in ACTIVE)

    def __str__(self) -> str:
        doing = " is being asked for" if self.state == "asked" else " is being set up" if self.waits else ""
        return f"SkyPilot cluster {self.name}{doing}"

    @property
    def end(self) -> str:
        """How it ended, in words."""
        if self.state == "gone":
            return "was taken down" if self.given_back else "is gone: its machine was taken away, or given back"
        return f"ended as {self.job}" if self.state == "UP" else f"is {self.state.lower()}"


def ended_by(name: str) -> str:
    """The command that ends a cluster."""
    return f"sky down -y {name}"


def python() -> str | None:
    """The one that has SkyPilot; None: there is none."""
    with suppress(metadata.PackageNotFoundError):
        metadata.distribution("skypilot")
        return sys.executable
    program = shutil.which("sky")
    if program is None:
        return None
    with suppress(OSError, UnicodeDecodeError, IndexError):
        first = Path(program).resolve().read_text("utf-8").splitlines()[0]
        return first[2:].strip() if first.startswith("#!/") and "python" in first else None
    return None


def is_set_up() -> bool:
    """Whether SkyPilot is here, and has a cloud that it may use, by its own records: nothing is started, and nobody asked. Of a
    server elsewhere it keeps none."""
    if python() is None:
        return False
    home = Path("~/.sky").expanduser()
    with suppress(OSError, UnicodeDecodeError):
        if os.environ.get("SKYPILOT_API_SERVER_ENDPOINT") or "api_server:" in (home / "config.yaml").read_text("utf-8"):
            return True
    with (
        suppress(sqlite3.Error, OSError, ValueError),
        closing(sqlite3.connect(f"{(home / 'state.db').as_uri()}?mode=ro", uri=True)) as db,
    ):
        rows = db.execute("SELECT value FROM config WHERE key LIKE 'enabled_clouds_%compute'").fetchall()
        return any(json.loads(value) for (value,) in rows)
    return False


class Sky:
    """A child process that answers; it is started when it is first asked."""

    def __init__(self) -> None:
        self.unheard: set[str] = set()
        """Names of machines that may have been asked for, as far as can be told from here."""
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()
        self._said: IO[bytes] | None = None
        self._rest = b""

    def offers(self) -> list[dict[str, Any]]:
        """Machines with GPUs, on each cloud that it may use.

        Raises:
            EngineError, UsageError: there is no cloud.
        """
        found: list[dict[str, Any]] | None = self._ask("offers")
        if found is None:
            raise UsageError(NO_CLOUD)
        return found

    def see_that_it_is_feasible(self, task: dict[str, Any]) -> None:
        """Its optimizer finds a machine for a task.

        Raises:
            InfeasibleError: it finds none.
        """
        why = self._ask("feasible", task=task)
        if why is not None:
            raise InfeasibleError(_first(why))

    def dry_run(self, task: dict[str, Any], name: str, idle: int) -> None:
        """See that all of a task is taken; no machine is asked for.

        Raises:
            EngineError: it is not.
        """
        self._ask("dry_run", task=task, cluster=name, idle=idle)

    def launch(self, task: dict[str, Any], name: str, idle: int) -> str:
        """Ask for a machine; returns the request's ID.

        Raises:
            EngineError: it is not taken.
            SilentError: that cannot be seen.
        """
        self.unheard.add(name)
        try:
            request = str(self._ask("launch", task=task, cluster=name, idle=idle))
        except LastrunError as error:
            if not isinstance(error, SilentError):
                self.unheard.discard(name)
            raise
        self.unheard.discard(name)
        return request

    def is_done(self, request: str) -> bool:
        """Whether a request has been carried out.

        Raises:
            FullError, InfeasibleError, KeysError: it cannot be.
            SilentError: that cannot be seen.
            EngineError: it has come to nothing.
        """
        return bool(self._ask("result", request=request))

    def cancel(self, request: str) -> None:
        """Withdraw a request."""
        self._ask("cancel", request=request)

    def down(self, name: str) -> bool:
        """Give a machine back, and ask for it no more; returns whether there was one of that name, or was to be."""
        return bool(self._ask("down", cluster=name))

    def is_asked_for(self, name: str) -> bool:
        """Whether it has a request for a machine of that name that it has not carried out."""
        return bool(self._ask("is_asked_for", cluster=name))

    def clusters(self) -> list[Cluster]:
        """All of lastrun's of this user."""
        rows: list[dict[str, Any]] = self._ask("clusters", prefix=PREFIX)
        for row in rows:
            row["name"] = plain(row["name"])
        found = [Cluster(**row) for row in rows]
        return [one for one in found if re.fullmatch(rf"{PREFIX}.+-[0-9a-f]{{8}}", one.name)]

    def look(self, name: str) -> Seen:
        """What has become of one."""
        return Seen(name, **self._ask("look", cluster=name))

    def last_lines(self, name: str) -> list[str]:
        """Of what it said."""
        return [clean(line) for line in self._ask("last_lines", cluster=name)]

    def log(self, name: str) -> subprocess.Popen[str]:
        """A process that copies what it says to its own standard output, until it ends."""
        return _begin("logs", name, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL, text=True, errors="replace")

    def _ask(self, word: str, **about: Any) -> Any:
        with self._lock:
            try:
                answer = self._answer(word, about)
            except BaseException:  # what is half said is not heard
                self._end()
                raise
        if "error" not in answer:
            return answer["answer"]
        says, kind = _first(answer["says"]), answer["error"]
        if kind in ("full", "keys"):
            told = "; ".join(dict.fromkeys(_first(one) for one in answer["history"])) or says
            raise FullError(told) if kind == "full" else KeysError(told)
        if kind == "infeasible":
            raise InfeasibleError(says)
        if kind == "closed":
            raise UsageError(NO_CLOUD)
        if kind == "silent":
            raise SilentError(_SILENT.format(says))
        raise EngineError(f"SkyPilot: {says} ({answer['kind']})")

    def _answer(self, word: str, about: dict[str, Any]) -> dict[str, Any]:
        if self._process is None:
            self._said, self._rest = tempfile.TemporaryFile(), b""  # noqa: SIM115 - as long as the process
            self._process = _begin(stdin=subprocess.PIPE, stderr=self._said)
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        deadline = time.monotonic() + _PATIENCE_SECONDS
        with suppress(BrokenPipeError):
            stdin.write(json.dumps([word, about]).encode() + b"\n")
            stdin.flush()
        while b"\n" not in self._rest:
            if not select.select([stdout], [], [], max(0.0, deadline - time.monotonic()))[0]:
                raise SilentError(_SILENT.format(f"not within {_PATIENCE_SECONDS:.0f} s"))
            got = os.read(stdout.fileno(), 1 << 16)
            if not got:
                raise SilentError(f"SkyPilot's Python has ended: {self._last_words()}")
            self._rest += got
        line, _, self._rest = self._rest.partition(b"\n")
        found: dict[str, Any] = json.loads(line)
        return found

    def _last_words(self) -> str:
        assert self._said is not None
        self._said.seek(0)
        lines = [line for line in self._said.read().decode("utf-8", "replace").splitlines() if line.strip()]
        return clean(lines[-1]).strip() if lines else "without a word"

    def _end(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None
        if self._said is not None:
            self._said.close()
            self._said = None


@cache
def sky() -> Sky:
    """The one of this process.

    Raises:
        EngineError: SkyPilot is not here.
    """
    _python()
    return Sky()


def _python() -> str:
    if (found := python()) is None:
        raise EngineError(NO_SKYPILOT)
    return found


def _begin(*words: str, **how: Any) -> subprocess.Popen[Any]:
    """The other side; what a terminal sends is for us alone.

    Raises:
        EngineError: it is not here.
    """
    program = _python()
    try:
        return subprocess.Popen([program, str(_FAR), *words], stdout=subprocess.PIPE, start_new_session=True, **how)
    except OSError as error:  # the environment of pipx outlives the Python that it was made with
        raise EngineError(f"the Python that has SkyPilot does not start ({error}): pipx reinstall skypilot") from None


def clean(text: str) -> str:
    """Without colours, and what a terminal would take for an order."""
    return plain(_COLOUR.sub("", text))


def _first(text: str) -> str:
    """The first line that says something."""
    lines = [line.strip() for line in clean(text.replace("\r", "\n")).splitlines() if line.strip()]
    return lines[0] if lines else "it does not say why"
