#!/usr/bin/env python3
"""Tries lastrun on every Python that pyproject.toml names, and with the lowest versions that it admits.

On the lowest Python: the unit tests. On the others, but for the one that runs this script (it is the one of ``make test``):
install, check a job, train a short one. Each of these is also the Python of a machine that ssh reaches. All of them get what
constraints-lowest.txt pins, from wheels alone. The runner without its trainer is tried with the newest versions, those of
constraints.txt.

``prepare`` and ``check`` do one half each: the downloads (2 GB, and as much again for every Python, where only PyPI is at
hand), and what takes the processor.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
UNIT_TESTS = ["tests/unit", "-m", "not server and not slow", "--one-of-each"]
"""What ``make quick`` runs, of each test one case."""

SHORT = """\
name: short
model: {variant: nano_e_v3, stem_channels: 8, channels: [8, 8, 16]}
dataset: synthetic
training: {epochs: 1, batch_size: 40, input_frames: 16, warmup_epochs: 0}
hardware: {cpu_threads: 1}
"""

COMMANDS = [
    (["--version"], r"lastrun \d"),
    (["--help"], "Usage: lastrun "),
    (["submit", "--help"], "Usage: lastrun submit "),
    (["validate", "jobs/quickstart.yaml"], "jobs/quickstart.yaml is valid"),
    (["list"], "no jobs in "),
]
"""Each with what a line of its output begins with."""
TRAIN = (["submit", "SHORT"], "completed at step 6 of 6: ")


class Failed(Exception):
    """Something does not work; says what."""


def supported() -> list[str]:
    """The Pythons that the classifiers name, lowest first."""
    found = re.findall(r'"Programming Language :: Python :: (3\.\d+)"', (ROOT / "pyproject.toml").read_text())
    return sorted(found, key=lambda version: int(version.partition(".")[2]))


def main() -> int:
    """Both halves, or one."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("half", nargs="?", choices=["prepare", "check"], help="default: both")
    parser.add_argument("--folder", type=Path, help="where everything goes, and stays (default: a temporary one)")
    args = parser.parse_args()
    if args.half and not args.folder:
        parser.error("a half needs --folder")
    folder = (args.folder or Path(tempfile.mkdtemp(prefix="lastrun-versions-"))).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    try:
        if args.half != "check":
            prepare(folder)
        if args.half != "prepare":
            check(folder)
    except Failed as why:
        print(f"error: {why}", file=sys.stderr)
        return 1
    finally:
        if not args.folder:
            shutil.rmtree(folder)
    return 0


# --- first half: what takes the network ------------------------------------------------------------------------------


def prepare(folder: Path) -> None:
    """Makes the virtual environments."""
    if not (folder / "uv").exists():
        call([sys.executable, "-m", "venv", folder / "uv"])
        call([folder / "uv/bin/python", "-m", "pip", "install", "-q", "--disable-pip-version-check", "uv"])
    pythons = {version: python for version in supported() if (python := find(folder, version))}
    lowest = min(pythons, key=supported().index, default=None)
    if lowest is None:
        raise Failed("none of the Pythons that pyproject.toml names is on this machine")
    wheel = [
        "build",
        "--wheel",
        "--out-dir",
        folder,
        "--build-constraints",
        "constraints-lowest.txt",
        "-p",
        pythons[lowest],
        ".",
    ]
    uv(folder, wheel)
    for version, python in pythons.items():
        install(folder, python, f"{version}-alone", "", "constraints.txt")
    backend = cpu_builds(folder, folder / f"{lowest}-alone")
    for version, python in pythons.items():
        if version == lowest:
            install(folder, python, f"{version}-unit", "[dev]", "constraints-lowest.txt", backend)
        elif version != running():
            install(folder, python, f"{version}-trainer", "[data,docker,train]", "constraints-lowest.txt", backend)


def find(folder: Path, version: str) -> str | None:
    """An interpreter of this machine; else one that uv can fetch; else None."""
    if version == running():
        return sys.executable
    own = {"PYENV_VERSION": version}  # pyenv's python3.12 runs only where 3.12 is the chosen one
    search = ["python", "find", "--no-python-downloads", version]
    try:
        return uv(folder, search, own)
    except Failed:
        pass
    try:
        uv(folder, ["python", "install", "--no-bin", version], {"UV_HTTP_RETRIES": "0"})
        return uv(folder, search, own)
    except Failed:
        say(f"PYTHON {version} IS NOT HERE and cannot be fetched: NOT TRIED")
        return None


def cpu_builds(folder: Path, place: Path) -> dict[str, str]:
    """Torch's own index has builds without CUDA's libraries, 2 GB less; not every machine reaches it."""
    if "UV_TORCH_BACKEND" in os.environ:
        return {}
    try:
        words = [
            "pip",
            "install",
            "--dry-run",
            "--no-deps",
            "--torch-backend",
            "cpu",
            "-p",
            place,
            "-c",
            "constraints-lowest.txt",
        ]
        uv(folder, [*words, "torch"], {"UV_HTTP_RETRIES": "0", "UV_HTTP_TIMEOUT": "10"})
    except Failed:
        return {}
    return {"UV_TORCH_BACKEND": "cpu"}


def install(folder: Path, python: str, name: str, extras: str, constraints: str, env: dict[str, str] | None = None) -> None:
    """The wheel with extras, in a virtual environment of its own."""
    began = time.monotonic()
    uv(folder, ["venv", "--clear", "-p", python, folder / name])
    what = f"lastrun{extras} @ {next(folder.glob('*.whl')).as_uri()}"
    uv(folder, ["pip", "install", "--only-binary", ":all:", "-p", folder / name, "-c", constraints, what], env)
    say(f"{name}: installed in {time.monotonic() - began:.0f} s")


def uv(folder: Path, words: list[str | Path], env: dict[str, str] | None = None) -> str:
    """Calls uv, which keeps one copy on disk of what several environments hold."""
    own = {"UV_CACHE_DIR": str(folder / "cache"), "UV_PYTHON_INSTALL_DIR": str(folder / "pythons")}
    return call([folder / "uv/bin/uv", *words], {**own, **os.environ, **(env or {})})


# --- second half: what takes the processor ---------------------------------------------------------------------------


def check(folder: Path) -> None:
    """Tries what is in the virtual environments."""
    failures = []
    for version in supported():
        for kind, calls in (("alone", COMMANDS), ("trainer", [*COMMANDS, TRAIN]), ("unit", COMMANDS)):
            place = folder / f"{version}-{kind}"
            if not place.exists():
                continue
            began = time.monotonic()
            try:
                commands(place, calls)
                if kind == "unit":
                    tests(place, *UNIT_TESTS, "-n", "2")
                say(f"{place.name}: works ({time.monotonic() - began:.0f} s)")
            except Failed as why:
                failures.append(place.name)
                say(f"{place.name}: FAILED\n{why}")
    if with_torch := [place for kind in ("unit", "trainer") for place in sorted(folder.glob(f"*-{kind}"))]:
        try:
            pythons = os.pathsep.join(str(place / "bin/python") for place in with_torch)
            hosts = ["tests/integration/test_ssh_pythons.py", "-k", "another", "--full", "-rs"]
            skipped = tests(with_torch[0], *hosts, LASTRUN_PYTHONS=pythons)
            say(f"each of them as a host's: {'NOT TRIED, see above' if skipped else 'works'}")
        except Failed:
            failures.append("one of them as a host's")
    if failures:
        raise Failed(f"does not work: {', '.join(failures)}")


def tests(place: Path, *words: str | Path, **env: str) -> int:
    """Runs some, with their output; returns how many were skipped."""
    with tempfile.TemporaryDirectory() as name:
        report = Path(name) / "report.xml"
        command = [place / "bin/python", "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junit-xml={report}", *words]
        if subprocess.run(command, cwd=ROOT, check=False, env={**os.environ, **env}).returncode != 0:
            raise Failed("tests fail with the lowest versions")
        return sum(map(int, re.findall(r'<testsuite [^>]*skipped="(\d+)"', report.read_text())))


def commands(place: Path, calls: list[tuple[list[str], str]]) -> None:
    """Calls ``lastrun`` as a user does; each has to say what is expected."""
    store = place / "store"
    shutil.rmtree(store, ignore_errors=True)
    (place / "short.yaml").write_text(SHORT)
    for words, expected in calls:
        command = [place / "bin/lastrun", *(str(place / "short.yaml") if word == "SHORT" else word for word in words)]
        said = call(command, {**os.environ, "LASTRUN_STORE": str(store)})
        if not re.search(f"^{expected}", said, re.MULTILINE):
            raise Failed(f"{' '.join(words)} does not say {expected!r} but\n{said}")


def call(command: list[str | Path], env: dict[str, str] | None = None) -> str:
    """What the command prints."""
    done = subprocess.run(list(map(str, command)), cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise Failed(f"{' '.join(map(str, command))} ends with {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout.strip()


def running() -> str:
    """The Python of this script."""
    return f"3.{sys.version_info.minor}"


def say(line: str) -> None:
    """At once, also into a file."""
    print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
