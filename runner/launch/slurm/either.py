"""Launcher slurm: the cluster to which this machine is the way in, or with ``run.host`` that of another login node."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

from runner.job.attempts import Attempt
from runner.job.job import Job
from runner.launch.protocol import Offer, Started
from runner.launch.slurm import login, queue
from runner.launch.slurm.launcher import SlurmLauncher
from runner.launch.ssh import notes
from runner.spec import JobSpec


class EitherLauncher:
    """Asks the one that is meant. See :class:`~runner.launch.protocol.Launcher`."""

    runs_here = False

    def __init__(self, config: JobSpec) -> None:
        self._meant = SlurmLauncher(config) if config.run.host is None else login.LoginLauncher(config)

    def preflight(self, store: str) -> None:
        """Slurm would take it."""
        self._meant.preflight(store)

    def order(self, store: str, name: str) -> dict[str, str]:
        """What the batch script asks for; that of another login node says itself what it would."""
        return self._meant.order(store, name)

    def start(self, job: Job, arguments: list[str], token: str, *, output: TextIO | None) -> Started:
        """In the queue."""
        return self._meant.start(job, arguments, token, output=output)

    def line_up(self, job: Job, arguments: list[str], token: str, after: str | None) -> str:
        """In the queue, followed by nobody."""
        return self._meant.line_up(job, arguments, token, after)

    @staticmethod
    def settle(job: Job, attempt: Attempt) -> Attempt | None:
        """By the Slurm that it was handed to, as far as that is known here."""
        note = login.note_of(job, attempt)
        return SlurmLauncher.settle(job, attempt) if note is None else login.settle(job, attempt, note)

    @staticmethod
    def waits(job: Job) -> str | None:
        """Why the job's Slurm job has not started yet."""
        return login.waits([job]).get(job.id) or SlurmLauncher.waits(job)

    @staticmethod
    def waiting(jobs: Sequence[Job]) -> list[Job]:
        """One look at each queue for all of them."""
        here, there = SlurmLauncher.waiting(jobs), login.waits(jobs)
        return [job for job in jobs if job in here or job.id in there]

    @staticmethod
    def withdraw(job: Job) -> str | None:
        """Take what has not started out of the queue."""
        return login.withdraw(job) or SlurmLauncher.withdraw(job)

    @staticmethod
    def offers() -> list[Offer]:
        """Partitions of the cluster that this machine belongs to."""
        found = []
        for name, about in queue.partitions().items():
            kinds = sorted(kind.removeprefix("gpu:") for kind in about.resources if kind.startswith("gpu:"))
            gpus = ", ".join(kinds) or ("some" if "gpu" in about.resources else "")
            words = f"--launcher slurm --set run.slurm.partition={name}"
            found.append(Offer(f"partition {name}", gpus, None, words if gpus else f"{words} run.gpus=0"))
        return found

    @staticmethod
    def ready() -> str:
        """The partitions of the cluster that this machine belongs to."""
        return SlurmLauncher.ready()

    @staticmethod
    def clean() -> None:
        """Logs and notes of long ago."""
        SlurmLauncher.clean()
        notes.sweep()

    @staticmethod
    def places(job: Job, attempts: list[Attempt]) -> set[Path]:
        """The folder that the job names, where all machines of the cluster have it."""
        return SlurmLauncher.places(job, attempts)
