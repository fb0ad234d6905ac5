"""The points of a group run by a process that lives on when this one ends."""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import IO

from last_e.process import run_module
from runner.errors import Exit, LastrunError, StoreError
from runner.job.group import Group
from runner.launch.points import Task
from runner.launch.start import START_SECONDS
from runner.signals import handled

_LOOK_SECONDS = 0.2


def run_in_background(group: Group, tasks: Sequence[Task], arguments: list[str]) -> None:
    """Start ``lastrun points``; returns once a point has begun. As long as it says something, such as how far the data are that
    hosts get first, it is waited for.

    Raises:
        LastrunError: it ended before that.
    """
    asked: list[int] = []
    with tempfile.TemporaryFile("w+", errors="replace") as errors, handled(asked.append):
        command = [*run_module("runner"), "points", group.uri, *arguments]
        null = subprocess.DEVNULL
        process = subprocess.Popen(command, stdin=null, stdout=null, stderr=errors, start_new_session=True)
        deadline, said = time.monotonic() + START_SECONDS, 0
        while time.monotonic() < deadline and not asked:
            code = process.poll()  # asked first: all may begin and end between two looks
            with suppress(StoreError):  # it may answer again
                if any(map(_has_begun, tasks)):
                    return
            if code is not None:
                raise _failed(_said(errors), code)
            if (size := os.fstat(errors.fileno()).st_size) > said:
                deadline, said = time.monotonic() + START_SECONDS, size
            time.sleep(_LOOK_SECONDS)
        process.terminate()
        process.wait()
        if asked:
            raise KeyboardInterrupt
        raise StoreError(
            f"{group.id}: no sign of a point within {START_SECONDS:.0f} s, so it was ended; it said: {_said(errors)}"
        )


def _said(errors: IO[str]) -> str:
    errors.seek(0)
    return errors.read()


def _has_begun(task: Task) -> bool:
    new = set(task.job.attempts.names()) - set(task.known)
    return any(attempt.phase != "claiming" for attempt in task.job.attempts.read(new))


def _failed(said: str, code: int) -> LastrunError:
    error = LastrunError(said.strip().removeprefix("error: ") or f"no point began; it ended with code {code}")
    error.exit_code = Exit(code) if code in Exit._value2member_map_ else Exit.FAILED
    return error
