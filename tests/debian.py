"""Programs of Debian packages for the tests: as root they are installed where they are missing."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
from filelock import FileLock

PATIENCE = 600.0
"""Seconds that another process may keep apt's or dpkg's lock, and that an installation may take after that."""
_BUSY = ("Could not get lock", "Unable to acquire the dpkg", "Unable to lock")
_INTERRUPTED = "dpkg was interrupted"


class InstallationFailed(Exception):
    """apt-get was there to install something, and did not; with its own words."""


def _is_program(name: str) -> bool:
    return shutil.which(name) is not None


def why_not(programs: Iterable[str], packages: Iterable[str], there: Callable[[str], bool] = _is_program) -> str | None:
    """Why programs are not here; None when they are. ``there`` says whether one is.

    Raises:
        InstallationFailed: somebody who may install them has tried.
    """
    programs, packages = list(programs), list(packages)

    def missing() -> str:
        return ", ".join(program for program in programs if not there(program))

    if not missing():
        return None
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        who = "no apt-get" if os.geteuid() == 0 else "not root"
        return f"no {missing()} ({who}; Debian: {' '.join(packages)})"
    # Tests run in several processes, and apt's own locks do not all wait.
    with FileLock(Path(tempfile.gettempdir()) / "lastrun-tests-apt.lock"):
        if missing():
            _install(packages)
    if missing():
        raise InstallationFailed(f"apt-get has installed {' '.join(packages)}, but there is no {missing()}")
    return None


def need(what: str, reason: Callable[[], str | None]) -> None:
    """Skip a test where something is not here and cannot be; fail it where it could have been installed and was not."""
    try:
        why = reason()
    except InstallationFailed as error:
        pytest.fail(f"{what} could not be installed: {error}", pytrace=False)
    if why is not None:
        pytest.skip(f"no {what} here: {why}")


def _install(packages: list[str]) -> None:
    deadline = time.monotonic() + PATIENCE
    updated = _apt(deadline, "update", "-q")
    done = _apt(deadline, "install", "-qy", "--no-install-recommends", *packages)
    if done.returncode != 0:
        words = [_words(one) for one in (updated, done) if one.returncode != 0]
        raise InstallationFailed(f"apt-get install {' '.join(packages)}: {'; '.join(words)}")


def _apt(deadline: float, *words: str) -> subprocess.CompletedProcess[str]:
    """One call, again while somebody else has a lock that apt does not wait for."""
    env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C"}
    command = ["apt-get", "-o", f"DPkg::Lock::Timeout={max(1, int(deadline - time.monotonic()))}", *words]
    configured = False
    while True:
        done = subprocess.run(command, env=env, capture_output=True, text=True, check=False, timeout=2 * PATIENCE)
        said = done.stdout + done.stderr
        if done.returncode == 0:
            return done
        if _INTERRUPTED in said and not configured:
            configured = True
            subprocess.run(["dpkg", "--configure", "-a"], env=env, capture_output=True, check=False, timeout=PATIENCE)
        elif any(word in said for word in _BUSY) and time.monotonic() < deadline:
            time.sleep(min(1.0, PATIENCE / 100))
        else:
            return done


def _words(done: subprocess.CompletedProcess[str]) -> str:
    """What apt names as errors, or else the last that it said."""
    lines = [line.strip() for line in (done.stdout + done.stderr).splitlines() if line.strip()] or ["no word"]
    return "; ".join([line for line in lines if line.startswith("E: ")] or lines[-1:])
