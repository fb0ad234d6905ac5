"""What starts an attempt. A new kind of launcher is one file and one line in :func:`make_launcher`."""

from __future__ import annotations

from typing import Protocol

from runner.job import Job
from runner.spec import JobSpec


class Launcher(Protocol):
    """Starts ``lastrun attempt JOB-URI`` somewhere."""

    def preflight(self, store: str) -> None:
        """See that an attempt of a job in ``store`` can start at all, before a job is made for it.

        Raises:
            EngineError, UsageError: what is missing, and what to do.
        """

    def run(self, job: Job, arguments: list[str], *, quiet: bool) -> int:
        """Run an attempt to its end in the foreground; returns its exit code. ``quiet``: nothing on standard output."""

    def detach(self, job: Job, arguments: list[str]) -> None:
        """Start an attempt that lives on when this process ends; returns once it has claimed the job.

        Raises:
            LastrunError: it ended before that.
        """


def make_launcher(config: JobSpec) -> Launcher:
    """The launcher that a configuration names."""
    if config.run.launcher == "docker":
        from runner.launch.docker import DockerLauncher

        return DockerLauncher(config)
    from runner.launch.local import LocalLauncher

    return LocalLauncher(config)
