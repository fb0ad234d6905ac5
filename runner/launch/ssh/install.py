"""Runs on the other side with the Python that is there, before lastrun is: makes an environment of its own, or finds it made.

Its source comes over standard input, and after it the folder's name, the wheel's and the wheel; only Python's own library.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path


def main() -> None:
    """Make the environment; tells how far it is on standard error. Who comes second waits, and finds it made."""
    about = json.loads(sys.stdin.buffer.readline())
    wheel = sys.stdin.buffer.read()
    if len(wheel) != about["size"]:
        fail("the connection broke while lastrun was sent")
    os.umask(0o077)
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lastrun" / "ssh"
    folder = root / about["folder"]
    root.mkdir(parents=True, exist_ok=True)
    with (root / f"{about['folder']}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "ready").exists():
            make(folder, about["wheel"], wheel)


def make(folder: Path, name: str, wheel: bytes) -> None:
    """From the start: what was cut off is never gone on with."""
    shutil.rmtree(folder, ignore_errors=True)
    call("a virtual environment", [sys.executable, "-m", "venv", str(folder)])
    python = str(folder / "bin" / "python")
    if find_spec("torch") is not None and (problem := torch_fails()) is None:
        # Read, and never written: pip leaves what is outside its environment alone.
        own = subprocess.run([python, "-c", "import site; print(site.getsitepackages()[0])"], capture_output=True, check=True)
        others = [path for path in sys.path if path.endswith(("site-packages", "dist-packages"))]
        (Path(os.fsdecode(own.stdout.strip())) / "torch-of-this-machine.pth").write_text("\n".join(others) + "\n")
    elif find_spec("torch") is not None:
        sys.stderr.write(f"note: the torch of {sys.executable} does not compute ({problem}): another is installed\n")
    file = folder / name
    file.write_bytes(wheel)
    pip = [python, "-m", "pip", "install", "-q", "--disable-pip-version-check", "--no-input"]
    call("lastrun", [*pip, "--no-deps", "--force-reinstall", str(file)])
    call("what lastrun needs", [*pip, f"{file}[train]"])
    file.unlink()
    tried = subprocess.run([python, "-I", "-m", "last_e.gpu"], capture_output=True, text=True, check=False)
    if not tried.stdout.strip():
        fail(f"torch does not compute there: {(tried.stderr.strip().splitlines() or ['no word'])[-1]}")
    (folder / "ready").write_text(tried.stdout.splitlines()[-1])


def torch_fails() -> str | None:
    """Why the torch that is there is of no use."""
    code = "import torch; torch.ones(2).sum().item(); assert tuple(map(int, torch.__version__.split('.')[:2])) >= (2, 6)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    return None if done.returncode == 0 else (done.stderr.strip().splitlines() or ["no word"])[-1]


def call(what: str, command: list[str]) -> None:
    """A step, told."""
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
