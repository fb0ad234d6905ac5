"""Machines that a real sshd leads to, with another Python than ours, or none, to which a real uv brings one: from a file of
this machine, since not every machine where tests run gets to where uv has them from."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import uv

from runner.errors import EngineError
from runner.launch.ssh import setup
from runner.launch.ssh.launcher import look
from runner.launch.ssh.setup import Host
from runner.store.directory import DirectoryStore
from tests import debian
from tests.conftest import Cli, close_connections
from tests.jobs import jobs_in
from tests.sshd import Sshd, why_not

pytestmark = [pytest.mark.xdist_group("ssh"), pytest.mark.slow]

_OURS = "{}.{}".format(*sys.version_info)


def as_uv_fetches_it(folder: Path) -> Path:
    """This Python as a file of the form that uv unpacks, with the packages of the tests instead of torch and pip of its own."""
    path, library = folder / "python.tar", f"python/lib/python{_OURS}"
    packages = folder / "packages.pth"
    packages.write_text(next(path for path in sys.path if path.endswith("site-packages")) + "\n")

    def needed(one: tarfile.TarInfo) -> tarfile.TarInfo | None:
        left_out = ("site-packages", "dist-packages", "__pycache__", "test", "idlelib")
        return None if Path(one.name).name in left_out or Path(one.name).name.startswith("config-") else one

    with tarfile.open(path, "w") as archive:
        archive.add(Path(sys.executable).resolve(), f"python/bin/python{_OURS}")
        archive.add(sysconfig.get_path("stdlib"), library, filter=needed)
        archive.add(packages, f"{library}/site-packages/packages.pth")
    return path


def downloads(folder: Path, path: Path) -> Path:
    """What tells uv where it gets Pythons from."""
    machine = {"arch": {"family": platform.machine(), "variant": None}, "os": "linux", "libc": "gnu"}
    version = dict(zip(("major", "minor", "patch"), sys.version_info))
    about = {"name": "cpython", **machine, **version, "prerelease": "", "url": path.as_uri(), "sha256": None, "variant": None}
    key = f"cpython-{'.'.join(map(str, version.values()))}-linux-{platform.machine()}-gnu"
    (folder / "downloads.json").write_text(json.dumps({key: about}))
    return folder / "downloads.json"


def test_a_machine_without_python_gets_one_from_a_uv_that_is_sent(
    cli: Cli, far: Sshd, tiny: Path, clean_env: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, programs, here = (tmp_path / name for name in ("far", "programs", "here"))
    for folder in (home, programs, here):
        folder.mkdir()
    for name in ("sh", "df", "tail", "uname", "mkdir", "cat", "chmod", "mv", "rm", "env"):
        (programs / name).symlink_to(str(shutil.which(name)))
    (here / "uv").symlink_to(uv.find_uv_bin())
    for name in ("PATH", "XDG_RUNTIME_DIR", "HOME"):
        monkeypatch.setenv(name, clean_env[name])
    monkeypatch.setenv("PATH", f"{here}:{clean_env['PATH']}")
    monkeypatch.setattr(setup, "_UV_PYTHON", _OURS)  # else it would have to bring a torch as well
    path = tmp_path / "python.tar"
    own = f"export HOME={home} PATH={programs} UV_PYTHON_DOWNLOADS_JSON_URL={downloads(tmp_path, path)} UV_HTTP_RETRIES=0\n"
    (far.folder / "home" / "rc").write_text(own)
    told: list[str] = []
    monkeypatch.setattr("runner.launch.ssh.launcher.say_of_host", told.append)

    with pytest.raises(EngineError, match=r"far: .*python\.tar.*: where uv cannot fetch a Python, install one there"):
        look(Host("far"), None, None)
    assert told[0] == "far: no Python there; sending uv, which fetches one"
    as_uv_fetches_it(tmp_path)
    told.clear()
    (here / "uv").unlink()  # it is there by now
    found = look(Host("far"), None, None)
    assert (found["problems"], found["facts"]["python"]) == ([], platform.python_version())
    assert told[0] == f"far: setting lastrun up with a Python that {home}/.cache/lastrun/ssh/uv fetches, and torch; once"

    done = cli("submit", tiny, "--on", "far")
    assert done.returncode == 0, done.stdout + done.stderr
    [job] = jobs_in(DirectoryStore(Path(clean_env["LASTRUN_STORE"])))
    assert job.attempts.all()[-1].reason == "completed"
    assert [path.relative_to(home).as_posix() for path in home.rglob("*")][:2] == [".cache", ".cache/lastrun"]
    assert cli("host", "clean", "far").returncode == 0
    assert [path.relative_to(home).as_posix() for path in home.rglob("*")] == [".cache", ".cache/lastrun"]


@pytest.fixture
def bare(clean_env: dict[str, str]) -> Iterator[Path]:
    """``far`` is a machine on which lastrun has never been; what lies in this folder comes first on its PATH."""
    debian.need("sshd", why_not)
    with tempfile.TemporaryDirectory(prefix="ssh-", dir="/tmp") as name:  # short: sockets lie there
        folder = Path(name)
        for place in ("home", "first"):
            (folder / place).mkdir()
        server = Sshd(folder, HOME=str(folder / "home"), PATH=f"{folder}/first:/usr/bin:/bin")
        clean_env.update(PATH=f"{server.bin}:{clean_env['PATH']}", XDG_RUNTIME_DIR=name)
        yield folder / "first"
        close_connections(folder)
        server.end_all()
        server.stop()


@pytest.mark.full
@pytest.mark.parametrize("python", os.environ.get("LASTRUN_PYTHONS", sys.executable).split(os.pathsep))
def test_a_host_may_have_another_python(
    cli: Cli, bare: Path, tiny: Path, clean_env: dict[str, str], tmp_path: Path, python: str
) -> None:
    """``make versions`` names those that have a torch. What is tried first there is one that is too old."""
    (bare / "python3").write_text('#!/bin/sh\necho "SyntaxError: invalid syntax" >&2; exit 1\n')
    (bare / "python3").chmod(0o755)
    asked = [python, "-c", "import sys, platform; print(f'python3.{sys.version_info[1]}', platform.python_version())"]
    name, version = subprocess.run(asked, capture_output=True, text=True, check=True).stdout.split()
    (bare / name).write_text(f'#!/bin/sh\nexec {python} "$@"\n')
    (bare / name).chmod(0o755)
    done = cli("submit", tiny, "--on", "far")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "whose torch is kept; once" in done.stderr
    [job] = jobs_in(DirectoryStore(Path(clean_env["LASTRUN_STORE"])))
    [attempt] = job.attempts.all()
    assert (attempt.reason, (attempt.versions or {})["python"]) == ("completed", version)
    assert cli("host", "clean", "far").returncode == 0
    assert [path.name for path in (bare.parent / "home").rglob("*")] == [".cache", "lastrun"]
