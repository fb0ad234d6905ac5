"""The beginning of what is pushed: runs in a session with the Python that is there, before lastrun is. Brings this very
version, which then takes over (:mod:`runner.launch.kaggle.session`).

Only Python's own library. After it the script calls :func:`main` with what is asked.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import time
from importlib import import_module
from pathlib import Path
from typing import Any

_DIGEST = "from runner.launch.docker.image import code_digest; print(code_digest())"


ENDED = "the attempt ended with code"


def main(asked: dict[str, Any]) -> None:
    """Go on by this version of lastrun."""
    begun = time.time()
    os.umask(0o077)
    see_that_secrets_are_there(asked)
    if digest_of(sys.executable) != asked["code"]:
        bring(asked)
    done = subprocess.run(
        [sys.executable, "-m", "runner.launch.kaggle.session"],
        input=json.dumps({**asked, "begun": begun}) + "\n",
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise SystemExit(1)


def see_that_secrets_are_there(asked: dict[str, Any]) -> None:
    """Before anything is installed: the minutes are the user's. What cannot be asked now is told later."""
    if asked["private"] or not asked["secrets"]:
        return
    missing = []
    try:
        client = import_module("kaggle_secrets").UserSecretsClient

        for name in asked["secrets"]:
            try:
                client().get_secret(name)
            except Exception as error:
                if type(error).__name__ != "BackendError":
                    raise
                missing.append(name)
    except Exception:  # it names no common base
        return
    if missing:
        sys.stderr.write(f"error: {not_attached(asked, missing)}\n{ENDED} 2\n")
        raise SystemExit(1)


def not_attached(asked: dict[str, Any], missing: list[str], why: str = "") -> str:
    """What to do for a session that lacks secrets."""
    page = f"https://www.kaggle.com/code/{asked['about']['name']}"
    return (
        f"secrets {', '.join(missing)} are not attached to this script{why and f' ({why})'}: nothing was trained. A push "
        f"attaches none: open {page}, Edit, attach them under Add-ons, Secrets, and Save Version there, Save & Run All; or "
        "lastrun resume with --yes-private-dataset"
    )


def bring(asked: dict[str, Any]) -> None:
    """Install the wheel; what is here of torch stays as it is."""
    sys.stdout.write("bringing lastrun\n")
    sys.stdout.flush()
    found = sorted(Path("/kaggle/input").rglob(asked["wheel"]))
    if not found:
        fail(f"the data set with {asked['wheel']} is not attached to this session")
    wheel = found[0]
    if hashlib.sha256(wheel.read_bytes()).hexdigest() != asked["sha256"]:
        fail(f"{asked['wheel']} is not what was put into its data set")
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-input", "--disable-pip-version-check"]
    done = subprocess.run([*pip, f"lastrun[train] @ {wheel.as_uri()}"], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        lines = (done.stderr or done.stdout).strip().splitlines() or [f"pip ended with code {done.returncode}"]
        fail(f"lastrun cannot be installed here: {lines[-1]}")
    if digest_of(sys.executable) != asked["code"]:
        fail("another lastrun is in the way of the one that was brought")


def digest_of(python: str) -> str:
    """Of the code of a Python's lastrun; empty: it has none."""
    done = subprocess.run([python, "-I", "-c", _DIGEST], capture_output=True, text=True, check=False)
    return done.stdout.strip()


def fail(why: str) -> None:
    """End with a reason."""
    sys.stderr.write(f"error: {why}\n")
    raise SystemExit(1)
