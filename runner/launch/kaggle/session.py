"""Runs in a session of Kaggle: takes its secrets, unpacks the job where there is no bucket, runs the attempt, and leaves what
came of it as the session's output. Started by :mod:`runner.launch.kaggle.begin`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from last_e.process import run_module
from runner import kaggle
from runner.errors import Exit, LastrunError, UsageError
from runner.job.job import Job
from runner.launch.kaggle import parcel
from runner.launch.kaggle.begin import ENDED, not_attached
from runner.machine import CONTAINER_VARIABLE
from runner.store.directory import DirectoryStore

PRIVATE, JOB = "lastrun-variables.json", "lastrun-job.parcel"
"""Files of the private data set of an attempt."""


def main() -> None:
    """As the script says that was pushed."""
    asked = json.loads(sys.stdin.readline())
    try:
        code = _run(asked)
    except LastrunError as error:
        sys.stderr.write(f"error: {error}\n")
        code, asked["parcel"] = int(error.exit_code), ""  # nothing was left: it must not end as if it had been
    sys.stdout.write(f"{ENDED} {code}\n")
    # A job that came along goes back as the output, which a session that fails may not keep.
    raise SystemExit(0 if code in (Exit.DONE, Exit.PAUSED) or asked["parcel"] else 1)


def _run(asked: dict[str, Any]) -> int:
    os.environ.update(asked["variables"])
    os.environ[CONTAINER_VARIABLE] = json.dumps(asked["about"])
    if asked["authority"]:
        path = Path(tempfile.mkdtemp(prefix="lastrun-begin-"), "authority.pem")
        path.write_text(asked["authority"])
        os.environ["AWS_CA_BUNDLE"] = str(path)
    _take_secrets(asked)
    job = None
    uri = asked["uri"]
    if asked["parcel"]:
        job = Job(DirectoryStore(kaggle.WORKING / "lastrun"), asked["job"])
        parcel.unpack(_input(JOB), asked["parcel"], job)
        uri = job.uri
    left = asked["limit"] - int(time.time() - asked["begun"])
    words = ["attempt", uri, *asked["arguments"], "--set", f"hardware.session_limit={max(1, left)}"]
    code = subprocess.run([*run_module("runner"), *words], stdin=subprocess.DEVNULL, check=False).returncode
    if job is not None:
        parcel.leave(job, asked["about"]["token"], code, kaggle.WORKING)
    return code if code >= 0 else int(Exit.FAILED)


def _take_secrets(asked: dict[str, Any]) -> None:
    """From the private data set of this attempt, or those that its user has attached to the script.

    Raises:
        UsageError: they are not there.
    """
    if asked["private"]:
        os.environ.update(json.loads(_input(PRIVATE).read_text()))
        return
    kaggle.take_secrets([*asked["secrets"], *asked["if_attached"]])
    if missing := [name for name in asked["secrets"] if name not in os.environ]:
        raise UsageError(not_attached(asked, missing, (kaggle.trouble() or "").removeprefix("note: ")))


def _input(name: str) -> Path:
    for path in sorted(kaggle.INPUT.rglob(name)):
        return path
    raise UsageError(f"the private data set with {name} is not attached to this session")


if __name__ == "__main__":
    main()
