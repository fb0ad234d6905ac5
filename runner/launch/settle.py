"""What launchers know of attempts that could not write their own end. Asked before a job's state is read."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

from runner.errors import LastrunError, Reason, State, UsageError
from runner.job.attempts import Attempt
from runner.job.job import Job
from runner.launch.notes import Notes
from runner.launch.protocol import Launcher
from runner.launchers import LAUNCHERS


def launcher_class(name: str) -> type[Launcher]:
    """The launcher of a name in the table."""
    module, _, attribute = LAUNCHERS[name].place.partition(":")
    found: type[Launcher] = getattr(importlib.import_module(module), attribute)
    return found


def settled(job: Job) -> list[Attempt]:
    """The job's attempts, once the launchers of those that are open have written what they know of their end."""
    return settle(job, job.attempts.all())


def settle(job: Job, attempts: list[Attempt]) -> list[Attempt]:
    """The same of attempts that have been read just before."""
    found = job.store.in_parallel([partial(_settled, job, attempt) for attempt in attempts])
    return [attempt for attempt in found if attempt is not None and attempt.phase != "withdrawn"]


def state_of(job: Job) -> tuple[State, Attempt | None, Reason | None]:
    """The job's state as far as can be known here, the attempt that decides it, and why that ended."""
    return job.attempts.state(settled(job))


def waits(job: Job) -> str | None:
    """What of the job has been handed to a launcher and has not begun, and why, as far as can be seen from here."""
    for name in LAUNCHERS:  # its record tells only of the first that it was submitted with
        with suppress(LastrunError):
            if told := launcher_class(name).waits(job):
                return told
    return None


def waiting(jobs: Sequence[Job]) -> tuple[list[Job], list[str], list[Job]]:
    """Those of these jobs of which something has been handed to a launcher and has not begun, what could not be asked, and of
    which something may wait there."""
    found: list[Job] = []
    silent, unsure = [], list[Job]()
    for name in LAUNCHERS:
        left = [job for job in jobs if job not in found]
        try:
            found += launcher_class(name).waiting(left)
        except LastrunError as error:
            silent.append(f"launcher {name} cannot tell what waits: {error}")
            unsure += _may_wait(name, left)
    return found, silent, [job for job in jobs if job in unsure and job not in found]


def withdraw(job: Job) -> tuple[str | None, list[str]]:
    """Take back what has not begun of a job. Returns what that was, if there was something, and else why it may wait all the
    same: who does not answer."""
    silent = []
    for name in LAUNCHERS:
        try:
            if told := launcher_class(name).withdraw(job):
                return told, []
        except LastrunError as error:
            silent.append(f"launcher {name} does not take it back: {error}")
    return None, silent


def scratch_places(job: Job, attempts: list[Attempt]) -> set[Path]:
    """Folders of this machine in which these attempts of a job may have left scratch folders."""
    found: set[Path] = set()
    for name in LAUNCHERS:
        with suppress(UsageError):  # without a home folder there are none of that kind
            found |= launcher_class(name).places(job, attempts)
    return found


def _may_wait(name: str, jobs: Sequence[Job]) -> Sequence[Job]:
    """Any, where nothing here tells what was handed to a launcher."""
    if not LAUNCHERS[name].keeps_notes:
        return jobs
    noted = {note["job"] for note in Notes(name, "job").of(jobs)}
    return [job for job in jobs if job.id in noted]


def _settled(job: Job, attempt: Attempt) -> Attempt | None:
    if attempt.open and attempt.launcher in LAUNCHERS:  # else of a newer version: its heartbeat decides
        try:
            return launcher_class(attempt.launcher).settle(job, attempt)
        except LastrunError:  # it cannot be seen from here, or the store only lets us read
            with suppress(LastrunError):  # to find that out may have taken long
                return job.attempts.again(attempt)
    return attempt
