"""Runs there with the Python that the image has, before lastrun is: brings this very version, and becomes the attempt.

Its source comes in a variable, and what it is to do in another; only Python's own library.
"""

from __future__ import annotations

import hashlib
import json
import os
import ssl
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

_DIGEST = "from runner.launch.docker.image import code_digest; print(code_digest())"


def main() -> None:
    """Go on as ``lastrun attempt``, by the Python that has this version."""
    began = time.time()
    os.umask(0o077)
    asked = json.loads(os.environ.pop("LASTRUN_BEGIN_WITH"))
    address = os.environ.pop("LASTRUN_WHEEL", "")
    os.environ.pop("LASTRUN_BEGIN", None)
    folder = Path(tempfile.mkdtemp(prefix="lastrun-begin-"))
    os.chdir(folder)  # the folder that an image begins in is not code
    python = sys.executable
    if digest_of(python) != asked["code"]:
        python = brought(folder, address, asked)
    if asked["authority"]:
        (folder / "authority.pem").write_text(asked["authority"])
        os.environ["AWS_CA_BUNDLE"] = str(folder / "authority.pem")
    about = {"name": os.environ.get("JOB_ID", "?"), **asked["about"]}
    asked_for = about.get("paid_since")
    about["paid_since"] = began if asked_for is None else max(float(asked_for), up_since())
    os.environ["LASTRUN_CONTAINER"] = json.dumps(about)
    os.execv(python, [python, "-m", "runner", "attempt", *asked["arguments"]])  # noqa: S606


def up_since() -> float:
    """When this machine began; 0: nobody tells. It is paid for since then, or since it was asked for (``paid_since``)."""
    try:
        return time.time() - float(Path("/proc/uptime").read_text().split()[0])
    except (OSError, ValueError):
        return 0.0


def brought(folder: Path, address: str, asked: dict[str, str]) -> str:
    """The Python of an environment with the wheel, and with the image's torch where it has one that will do."""
    say("bringing lastrun")
    wheel = folder / asked["wheel"]
    try:
        with urllib.request.urlopen(address, timeout=60, context=context(asked["authority"])) as answer:  # noqa: S310
            wheel.write_bytes(answer.read())
    except OSError as error:
        fail(f"the store does not hand out {asked['wheel']} ({type(error).__name__}: {error})")
    if hashlib.sha256(wheel.read_bytes()).hexdigest() != asked["sha256"]:
        fail(f"{asked['wheel']} is not what was put into the store")
    place = folder / "python"
    python = str(place / "bin" / "python")
    made = subprocess.run([sys.executable, "-m", "venv", str(place)], capture_output=True, check=False)
    if made.returncode == 0:  # the image's packages are read, also where its Python is of a virtual environment itself
        asked_for = [python, "-I", "-c", "import site; print(site.getsitepackages()[0])"]
        packages = Path(subprocess.run(asked_for, capture_output=True, text=True, check=True).stdout.strip())
        others = [path for path in sys.path if path.endswith(("site-packages", "dist-packages"))]
        (packages / "of-this-image.pth").write_text("\n".join(others) + "\n")
    else:  # Debian's has venv in a package of its own
        python = sys.executable
    pip = [python, "-m", "pip", "install", "-q", "--no-input", "--disable-pip-version-check"]
    done = subprocess.run([*pip, f"lastrun[train] @ {wheel.as_uri()}"], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        lines = (done.stderr or done.stdout).strip().splitlines() or [f"pip ended with code {done.returncode}"]
        fail(f"lastrun cannot be installed in this image: {lines[-1]}")
    if digest_of(python) != asked["code"]:
        fail("another lastrun of this image is in the way of the one that was brought")
    return python


def digest_of(python: str) -> str:
    """Of the code of a Python's lastrun; empty: it has none."""
    done = subprocess.run([python, "-I", "-c", _DIGEST], capture_output=True, text=True, check=False)
    return done.stdout.strip()


def context(authority: str) -> ssl.SSLContext:
    """How the store's server is believed."""
    found = ssl.create_default_context()
    if authority:
        found.load_verify_locations(cadata=authority)
    return found


def say(text: str) -> None:
    """A line of the job's log."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def fail(why: str) -> None:
    """End with a reason."""
    sys.stderr.write(f"error: {why}\n")
    raise SystemExit(1)


if __name__ == "__main__":
    main()
