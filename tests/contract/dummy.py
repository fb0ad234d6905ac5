"""A launcher made up for the contract test, which copies this file into ``runner/launch/``.

An attempt is a process in a session of its own, found again by a variable in its environment.
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from pathlib import Path
from typing import TextIO

from last_e.process import run_module
from runner.errors import UsageError
from runner.job.attempts import Attempt
from runner.job.job import Job
from runner.launch.local import StartedProcess
from runner.launch.protocol import BeginsAtOnce
from runner.machine import CONTAINER_VARIABLE
from runner.spec import JobSpec


class DummyLauncher(BeginsAtOnce):
    """Starts attempts as such processes."""

    runs_here = True

    def __init__(self, config: JobSpec) -> None:
        self._config = config

    def preflight(self, store: str) -> None:
        if self._config.run.image is not None:
            raise UsageError(f"run.image: found {self._config.run.image}; launcher dummy has no images")

    def start(self, job: Job, arguments: list[str], token: str, *, output: TextIO | None) -> StartedProcess:
        about = {"launcher": "dummy", "name": "none", "token": token, "scratch": tempfile.gettempdir()}
        command = [*run_module("runner"), "attempt", job.uri, *arguments]
        errors = tempfile.TemporaryFile("w+") if output is None else None  # noqa: SIM115 -- StartedProcess closes it
        process = subprocess.Popen(
            command,
            env={**os.environ, CONTAINER_VARIABLE: json.dumps(about)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL if output is None else output,
            stderr=errors,
            start_new_session=True,
        )
        return StartedProcess(process, errors)

    @staticmethod
    def settle(job: Job, attempt: Attempt) -> Attempt | None:
        token = (attempt.container or {})["token"].encode()
        if token in _environment(Path(f"/proc/{attempt.pid}/environ")):
            return attempt
        current = job.attempts.again(attempt)
        if current is not None and current.open:
            job.attempts.write_lost(current, "its process has no token any more")
        return current

    @staticmethod
    def ready() -> str:
        return "this machine"

    @staticmethod
    def clean() -> None:
        pass

    @staticmethod
    def places(job: Job, attempts: list[Attempt]) -> set[Path]:
        return {Path(tempfile.gettempdir())}


def _environment(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:  # somebody else's, or it has just ended
        return b""
