"""The same attempt inside an image, by Apptainer or Singularity: what a cluster has that has no Docker.

``python -m runner.launch.inside ABOUT WORD ...`` runs on the machine that trains, and becomes the program that is there.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from last_e.datafile import DataError, data_path, is_remote
from last_e.process import run_module
from last_e.text import expand, plain
from runner import machine
from runner.errors import EngineError, LastrunError, UsageError
from runner.folders import cache_folder
from runner.gpus import FOLDER, make_folder
from runner.launch.variables import to_hand_over, wants_cpu
from runner.spec import JobSpec
from runner.store.uri import StoreUri
from runner.version import lastrun_version
from runner.waits import VARIABLE

_PROGRAMS = ("apptainer", "singularity")
_GIVEN = ("APPTAINERENV_", "SINGULARITYENV_")
"""What is in variables of such names comes to be in the image; a command line anybody could read."""
_NAMES = (machine.CONTAINER_VARIABLE, VARIABLE, "TMPDIR", "CUDA_VISIBLE_DEVICES", "XDG_CACHE_HOME", "XDG_CONFIG_HOME")
_OWN = {"PYTHONNOUSERSITE": "1"}
"""The home folder is there, and packages for another Python may be in it."""
_LASTRUN = ("python", "-m", "runner")
_PULL_SECONDS, _PROBE_SECONDS = 7200.0, 300.0
ONLY = "run.container: found {}; allowed with launcher {}: none (local and slurm start attempts inside an image so)"


def attempt_command(config: JobSpec, uri: str, arguments: list[str], data: str | None = None) -> list[str]:
    """The command of an attempt: with this Python, or inside the image that the job names.

    Args:
        config: the job's.
        uri: the job's.
        arguments: for the attempt.
        data: its data file, where that is in another place than the one that the job names.

    Raises:
        UsageError: a folder's name is none for a bind.
    """
    words = ["attempt", uri, *arguments]
    if config.run.container is None:
        return [*run_module("runner"), *words]
    store, _ = StoreUri.parse(uri).parent()
    about = {
        "image": str(image_file(str(config.run.image))),
        "binds": _binds(config, store, data),
        "names": to_hand_over(config, store),
        "gpu": not wants_cpu(config),
    }
    return [*run_module("runner.launch.inside"), json.dumps(about), *words]


def preflight(config: JobSpec) -> None:
    """See that the image is there and holds this version; one of a registry is fetched and converted here, once.

    Raises:
        EngineError, UsageError: what is missing, and what to do.
    """
    if config.run.container is None:
        return
    if config.run.image is None:
        raise UsageError(
            "run.image is not set: with run.container=apptainer it names a .sif file, or an image of a registry such as "
            "ghcr.io/me/lastrun:0.1.0"
        )
    program = _program()
    file = image_file(config.run.image)
    if not file.exists() and config.run.image.endswith(".sif"):
        raise UsageError(
            f"run.image: no file {file}; apptainer build {file.name} docker-daemon:lastrun:{lastrun_version()} makes one"
        )
    if not file.exists():
        _pull(program, config.run.image, file)
    done = _run([program, "exec", "--cleanenv", "--pwd", "/", str(file), *_LASTRUN, "probe"], _PROBE_SECONDS)
    with suppress(ValueError, KeyError, TypeError, IndexError):
        found = str(json.loads(done.stdout.strip().splitlines()[-1])["version"])
        if found != lastrun_version():
            raise EngineError(
                f"image {config.run.image} holds lastrun {plain(found)}, this is {lastrun_version()}: name one of this version"
            )
        return
    raise EngineError(f"image {config.run.image} cannot start lastrun: {_words(done)}")


def image_file(image: str) -> Path:
    """Where the file of an image is, or is to be once it has been fetched."""
    if image.endswith(".sif"):
        return expand(image)
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", image.partition("://")[2] or image)
    return cache_folder() / "images" / f"{name[-80:]}-{hashlib.sha256(image.encode()).hexdigest()[:12]}.sif"


def main() -> None:
    """Become an attempt inside the image: with this machine's program and driver, and none of its variables but those named."""
    about, words = json.loads(sys.argv[1]), sys.argv[2:]
    try:
        program = _program()
        if not Path(about["image"]).exists():
            raise EngineError(f"image {about['image']} is not on this machine: its folder has to be shared by all of a cluster")
    except LastrunError as error:
        sys.stderr.write(f"error: {error}\n")
        raise SystemExit(int(error.exit_code)) from None
    os.execve(program, command(program, about, words), {**os.environ, **given(about["names"])})  # noqa: S606 -- as it is meant


def command(program: str, about: dict[str, Any], words: list[str]) -> list[str]:
    """The command line; there is nothing secret on it."""
    nvidia = ["--nv"] if about["gpu"] and machine.driver_version() else []
    wanted = [*about["binds"], os.environ.get("TMPDIR", ""), _env_file()]
    if nvidia:  # where GPUs are locked: not every cluster hands in its /tmp
        make_folder(FOLDER)
        wanted.append(str(FOLDER))
    binds = [place for place in wanted if place and Path(place).exists()]
    options = [word for place in dict.fromkeys(binds) for word in ("--bind", place)]
    return [program, "exec", "--cleanenv", "--pwd", "/", *nvidia, *options, about["image"], *_LASTRUN, *words]


def given(names: list[str]) -> dict[str, str]:
    """Variables that are handed in, under the names by which either program takes them."""
    values = {name: os.environ[name] for name in (*_NAMES, *names) if name in os.environ} | _OWN
    if "LASTRUN_ENV_FILE" in values:
        values["LASTRUN_ENV_FILE"] = _env_file()
    return {f"{before}{name}": value for before in _GIVEN for name, value in values.items()}


def _env_file() -> str:
    """The file of keys, which is read again inside: there the current folder is another."""
    named = os.environ.get("LASTRUN_ENV_FILE")
    return str(expand(named).absolute()) if named else ""


def _binds(config: JobSpec, store: StoreUri, data: str | None) -> list[str]:
    """Folders of the machine that the attempt has to see: its store, its data, its own files and copies."""
    made = [cache_folder()]
    made += [Path(store.prefix)] if store.scheme == "file" else []
    made += [expand(config.hardware.scratch_root)] if config.hardware.scratch_root is not None else []
    found = list(made)
    if data is not None:
        found.append(Path(data).parent)
    elif not is_remote(config.data.uri):
        with suppress(DataError):  # told by who looks for it
            if (path := data_path(config)) is not None:
                found += [path.parent, path.resolve().parent]
    for folder in found:
        if re.search("[:,]", str(folder)):
            raise UsageError(f"{folder}: a folder with : or , in its name cannot be handed into an image; take another")
    for folder in made:
        with suppress(OSError):  # what is not there cannot be handed in
            folder.mkdir(parents=True, exist_ok=True)
    return [str(folder) for folder in dict.fromkeys(found)]


def _program() -> str:
    for name in _PROGRAMS:
        if (path := shutil.which(name)) is not None:
            return path
    raise EngineError(
        "neither apptainer nor singularity is in PATH here: load its module (module load apptainer), or leave out run.container"
    )


def _pull(program: str, image: str, file: Path) -> None:
    """Fetch an image of a registry, with the logins that the program itself has."""
    sys.stderr.write(plain(f"{image}: fetching it and making {file} of it, once\n"))
    source = image if "://" in image else f"docker://{image}"
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_name(f".{os.getpid()}-{file.name}")
    try:
        done = _run([program, "pull", str(part), source], _PULL_SECONDS)
        if done.returncode != 0 or not part.exists():
            raise EngineError(
                f"image {image} cannot be fetched: {_words(done)}; run.image names a .sif file, or an image of a registry"
            )
        part.replace(file)
    finally:
        part.unlink(missing_ok=True)


def _run(words: list[str], seconds: float) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, **{f"{before}{name}": value for before in _GIVEN for name, value in _OWN.items()}}
    try:
        return subprocess.run(
            words,
            capture_output=True,
            text=True,
            errors="replace",
            env=env,
            stdin=subprocess.DEVNULL,
            timeout=seconds,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise EngineError(f"{words[0]} {words[1]} has not ended within {seconds:.0f} s") from None
    except OSError as error:
        raise EngineError(f"{words[0]} cannot be started: {error.strerror or error}") from None


def _words(done: subprocess.CompletedProcess[str]) -> str:
    """What it said last against it."""
    lines = [line.strip() for line in (done.stderr or done.stdout).splitlines() if line.strip()]
    fatal = [line for line in lines if line.startswith(("FATAL", "ERROR"))]
    said = re.sub(r"^(FATAL|ERROR):\s*", "", (fatal or lines or [f"it ended with code {done.returncode}"])[-1])
    return plain(said)


if __name__ == "__main__":
    main()
