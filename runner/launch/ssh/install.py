"""Runs on the other side with the Python that is there, before lastrun is: makes an environment of its own, or finds it made.

Its source comes over standard input, and after it the folder's name, the version and the wheel; only Python's own library.
"""

from __future__ import annotations

import contextlib
import fcntl
import io
import json
import os
import shutil
import subprocess
import sys
import zipfile
from importlib.util import find_spec
from pathlib import Path

_CPU_INDEX = "https://download.pytorch.org/whl/cpu"


def main() -> None:
    """Make the environment. Who comes second waits, and finds it made."""
    about = json.loads(sys.stdin.buffer.readline())
    wheel = sys.stdin.buffer.read()
    if len(wheel) != about["size"]:
        fail("the connection broke while lastrun was sent")
    os.umask(0o077)
    root = own_folder()
    folder = root / about["folder"]
    root.mkdir(parents=True, exist_ok=True)
    with (root / f"{about['folder']}.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            say("another command is at it: waiting for that")
            fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "ready").exists():
            make(folder, about["version"], wheel, about["for_gpus"])


def own_folder() -> Path:
    """All that is put there lies in it, but for what attempts keep."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lastrun" / "ssh"


def make(folder: Path, version: str, wheel: bytes, for_gpus: bool) -> None:
    """From the start: what was cut off is never gone on with."""
    shutil.rmtree(folder, ignore_errors=True)
    call("a virtual environment", [sys.executable, "-m", "venv", "--without-pip", str(folder)])
    python = str(folder / "bin" / "python")
    pip = pip_for(python)
    asked = subprocess.run([python, "-c", "import site; print(site.getsitepackages()[0])"], capture_output=True, check=True)
    packages = Path(os.fsdecode(asked.stdout.strip()))
    with zipfile.ZipFile(io.BytesIO(wheel)) as archive:  # of Python alone, and ours: there is nothing more to be done with it
        archive.extractall(packages)
    if find_spec("torch") is not None and torch_computes(for_gpus):
        # Read, and never written: pip leaves what is outside its environment alone.
        others = [path for path in sys.path if path.endswith(("site-packages", "dist-packages"))]
        (packages / "torch-of-this-machine.pth").write_text("\n".join(others) + "\n")
    elif not for_gpus:
        torch_for_cpus(pip)
    there = any((packages / name).exists() for name in ("torch", "torch-of-this-machine.pth"))
    say("installing what lastrun needs" + ("" if there else ", torch among it, which is large"))
    call("what lastrun needs", [*pip, f"lastrun[train]=={version}"])
    tried = subprocess.run([python, "-I", "-m", "last_e.gpu"], capture_output=True, text=True, check=False)
    if not tried.stdout.strip():
        fail(f"torch does not compute there: {(tried.stderr.strip().splitlines() or ['no word'])[-1]}")
    (folder / "ready").write_text(json.dumps({"seen_on": machine(), "torch": json.loads(tried.stdout.splitlines()[-1])}))


def pip_for(python: str) -> list[str]:
    """pip for the environment of another Python: this one's, if it is new enough to know how, which saves seconds, and is all
    that Debian has without python3-venv; else one of its own."""
    words = ["install", "-q", "--disable-pip-version-check", "--no-input"]
    own = [sys.executable, "-m", "pip", "--python", python]
    if subprocess.run([*own, "config", "list"], capture_output=True, check=False).returncode == 0:
        return [*own, *words]
    call("pip", [python, "-m", "ensurepip"])
    return [python, "-m", "pip", *words]


def machine() -> str:
    """What changes when torch has to be tried anew: a start of the machine, another driver, a clone of its disk."""
    places = ("/proc/sys/kernel/random/boot_id", "/proc/driver/nvidia/version")
    return " ".join(Path(place).read_text().strip() for place in places if Path(place).exists())


def torch_computes(for_gpus: bool) -> bool:
    """Whether the torch that is there is of use."""
    code = "import torch; torch.ones(2).sum().item(); assert tuple(map(int, torch.__version__.split('.')[:2])) >= (2, 6)"
    code += "; assert torch.version.cuda or torch.version.hip" if for_gpus else ""
    return subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode == 0


def torch_for_cpus(pip: list[str]) -> None:
    """Without a GPU's driver PyPI's build would bring gigabytes for nothing. Who has told pip another index has chosen."""
    if Path("/proc/driver/nvidia/version").exists() or any(name in os.environ for name in ("PIP_INDEX_URL", "PIP_NO_INDEX")):
        return
    told = subprocess.run([*pip[: pip.index("install")], "config", "list"], capture_output=True, text=True, check=False)
    if "index" not in told.stdout and "find-links" not in told.stdout:
        say("installing torch's build for CPUs, for there is no GPU's driver")
        done = subprocess.run([*pip, "torch", "--index-url", _CPU_INDEX], capture_output=True, check=False)
        if done.returncode != 0:
            say(
                f"{_CPU_INDEX} does not give it: taking the build for GPUs, gigabytes more; an index of yours in pip.conf helps"
            )


def say(text: str) -> None:
    """What is being done, for whoever has asked for it."""
    with contextlib.suppress(OSError):  # who has left hears nothing, and the next command finds it made
        sys.stdout.write(f"{text}\n")
        sys.stdout.flush()


def call(what: str, command: list[str]) -> None:
    """A step of it."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    if done.returncode != 0:
        said = (done.stderr.strip() or done.stdout.strip()).splitlines() or ["no word"]
        errors = [line for line in said if line.lower().startswith("error")] or said[-1:]
        fail(f"{what} could not be installed ({errors[0]}); where there is no way to PyPI, its own pip.conf names an index")


def fail(why: str) -> None:
    """With one line."""
    sys.stderr.write(f"{why}\n")
    raise SystemExit(1)


if __name__ == "__main__":
    main()
