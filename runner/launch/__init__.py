"""What starts an attempt. A new kind of launcher is one file and one line in :func:`make_launcher`."""

from __future__ import annotations

from typing import Protocol

from runner.errors import UsageError
from runner.job import Job
from runner.spec import JobSpec


class Launcher(Protocol):
    """Starts ``lastrun attempt JOB-URI`` somewhere."""

    def preflight(self, config: JobSpec) -> None:
        """See that an attempt can start at all, before a job is made for it.

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


def make_launcher(name: str) -> Launcher:
    """The launcher of a name."""
    from runner.launch.local import LocalLauncher

    if name == "local":
        return LocalLauncher()
    raise UsageError(f"launcher {name!r}: allowed is local")
