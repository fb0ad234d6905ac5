"""Other processes of this Python, which import nothing from the folder one stands in.

There people have a ``random.py`` of their own, or another clone of this. Python before 3.11 has no switch for that.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_ROOT = str(Path(__file__).resolve().parents[1])
_SAFE = sys.version_info >= (3, 11)
# Whoever is given code has the folder first in its path before anything was imported from there; runpy comes after that.
_BOOT = "import sys; del sys.path[0]; sys.argv.pop(0); import runpy; runpy.run_module(sys.argv[0], None, '__main__', True)"


def module(name: str) -> list[str]:
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
