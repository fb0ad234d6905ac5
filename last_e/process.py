"""This process and those of its kind: where they import from, and the streams and signals that a system gives them.

In the folder one stands in people have a ``random.py`` of their own, or another clone of this: nothing is imported from there.
Python before 3.11 has no switch for that.
"""

from __future__ import annotations

import gc
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    import subprocess

_ROOT = str(Path(__file__).resolve().parents[1])
_SAFE = sys.version_info >= (3, 11)
# Whoever is given code has the folder first in its path before anything was imported from there; runpy comes after that.
_BOOT = "import sys; del sys.path[0]; sys.argv.pop(0); import runpy; runpy.run_module(sys.argv[0], None, '__main__', True)"


NOTICES = (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGXCPU)
"""What systems send before they take a machine away, or a job's time is over; batch systems let one choose."""


def on_notices(handler: Callable[[int], None]) -> None:
    """Call ``handler`` with the number of each notice; from then on those come that :func:`notices_held` held back. A process
    that a closed terminal is not to end (``nohup``) goes on not to hear of that."""
    for signum in NOTICES:
        if signum != signal.SIGHUP or signal.getsignal(signum) is not signal.SIG_IGN:
            signal.signal(signum, lambda number, _: handler(number))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, NOTICES)


@contextmanager
def notices_held() -> Iterator[None]:
    """What is started meanwhile gets notices when it is ready for them: until then each would end it."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, NOTICES)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def importing() -> Iterator[None]:
    """Meanwhile Python looks for no garbage, and at what is there afterwards it never looks again: modules make next to none,
    they stay, and going through them over and over is a sixth of the time that they take to be imported."""
    before = len(sys.modules)
    gc.disable()
    try:
        yield
    finally:
        if len(sys.modules) > before:
            gc.freeze()
        gc.enable()


def have_standard_streams() -> None:
    """Where one was closed (``>&-``), nothing is written, instead of into the next file that is opened."""
    for number, mode in ((0, os.O_RDONLY), (1, os.O_WRONLY), (2, os.O_WRONLY)):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, mode)  # the lowest number that is free: this one
    sys.stdout = sys.stdout or os.fdopen(1, "w", closefd=False)
    sys.stderr = sys.stderr or os.fdopen(2, "w", closefd=False)


def pass_on(text: str, stream: TextIO) -> bool:
    """Write at once; what the stream's encoding does not know is escaped. Whether somebody still takes it."""
    try:
        try:
            stream.write(text)
        except UnicodeEncodeError:
            encoding = getattr(stream, "encoding", None) or "ascii"
            stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
        stream.flush()
    except (OSError, ValueError):
        return False
    return True


def discard_output(stream: TextIO | None = None) -> None:
    """Nobody reads it any more, or there is no room for it: what is still buffered must not fail again. Of what is printed, or
    of another stream."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, (stream or sys.stdout).fileno())
    os.close(nowhere)


def start_with_pipes(command: list[str], env: dict[str, str] | None = None) -> subprocess.Popen[str]:
    """Start what is spoken with by its three streams, in a session of its own: Ctrl-C reaches it only through us. Notices are
    held until it can hear of one, which takes seconds."""
    import subprocess  # commands that start nothing are quicker without

    with notices_held():
        pipe = subprocess.PIPE
        return subprocess.Popen(
            command, stdin=pipe, stdout=pipe, stderr=pipe, text=True, errors="replace", start_new_session=True, env=env
        )


def ended_by(code: int) -> str:
    """What ended a process, whose exit code is negative."""
    name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
    hints = {
        int(signal.SIGKILL): " (by the system, when memory runs out, or by hand)",
        int(signal.SIGBUS): " (shared memory ran out? raise run.shm_size)",
    }
    return name + hints.get(-code, "")


def run_module(name: str) -> list[str]:
    """The beginning of a command that runs a module."""
    return [sys.executable, "-P", "-m", name] if _SAFE else [sys.executable, "-c", _BOOT, name]


def import_nothing_from_here() -> None:
    """For this process and those that it starts. An empty part of PYTHONPATH, as ``:$PYTHONPATH`` leaves one, means the folder
    one stands in, too."""
    os.environ["PYTHONSAFEPATH"] = "1"  # of workers that other modules start
    if parts := os.environ.get("PYTHONPATH"):
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, parts.split(os.pathsep)))
    with suppress(FileNotFoundError):  # a folder that was deleted holds no code
        here = str(Path.cwd())
        if here != _ROOT:
            sys.path[:] = [path for path in sys.path if os.path.realpath(path) != here]


@contextmanager
def elsewhere() -> Iterator[None]:
    """While workers are started: before 3.11 they would import from here. Python has them go back by themselves."""
    if _SAFE:
        yield
        return
    here = Path.cwd()
    os.chdir(_ROOT)
    try:
        yield
    finally:
        os.chdir(here)
