"""An attempt as a process on this machine."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import threading
import weakref
from contextlib import suppress
from pathlib import Path
from typing import IO, TextIO

from last_e.environment import gpu_names, usable_cores
from last_e.text import counted, expand
from runner import machine
from runner.attempt import shutdown
from runner.attempt.data_check import check_data
from runner.errors import EngineError, Exit
from runner.gpus import Asked, see_that_there_are, taken
from runner.job.attempts import Attempt
from runner.job.job import Job
from runner.launch import inside
from runner.launch.protocol import BeginsAtOnce, Offer
from runner.signals import LEAVING, handled
from runner.spec import JobSpec
from runner.trust import Trust


class LocalLauncher(BeginsAtOnce):
    """Starts attempts with this Python. See :class:`~runner.launch.protocol.Launcher`."""

    runs_here = True

    def __init__(self, config: JobSpec) -> None:
        self._config = config

    def preflight(self, store: str) -> None:
        """Torch is installed, and the data file is there, or in its bucket."""
        inside.preflight(self._config)
        if self._config.run.container is None and (missing := machine.lacks()) is not None:
            raise EngineError(missing)
        if self._config.run.container is None:
            see_that_there_are(Asked.of(self._config))
        check_data(self._config)
        if self._config.run.after == "shutdown" and (wrong := shutdown.problem()) is not None:
            raise EngineError(wrong)

    def see_that_gpus_are_free(self, job: str) -> None:
        """They are taken for a moment; inside an image the attempt sees for itself."""
        if self._config.run.container is None:
            with taken(Asked.of(self._config), job):
                pass

    def start(self, job: Job, arguments: list[str], token: str, *, output: TextIO | None) -> StartedProcess:
        """A child of this process; in the background, with a session of its own."""
        command = inside.attempt_command(self._config, job.uri, ["--token", token, *arguments])
        # What runs an image passes Ctrl-C on: from a terminal, which sends it to all, it would come twice.
        apart = self._config.run.container is not None
        asked: list[int] = []
        with handled(asked.append):  # who leaves now would leave a child of which nobody knows
            if output is None:
                errors = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115 -- StartedProcess closes it
                null = subprocess.DEVNULL
                process = subprocess.Popen(command, stdin=null, stdout=null, stderr=errors, start_new_session=True)
                started = StartedProcess(process, errors, apart)
            else:
                stream = None if output is sys.stdout else output
                errors_too = None if output in (sys.stdout, sys.stderr) else output
                process = subprocess.Popen(command, stdout=stream, stderr=errors_too, start_new_session=apart)
                started = StartedProcess(process, None, apart)
        for signum in asked:
            started.hand_on(signum)
        return started

    @staticmethod
    def settle(job: Job, attempt: Attempt) -> Attempt | None:
        """A process of this machine that is gone is dead beyond doubt; from elsewhere, or from inside a container, nobody could
        tell."""
        if not attempt.is_here:
            return attempt
        try:
            if machine.process_identity(attempt.pid) == attempt.process:
                return attempt
        except machine.HiddenProcessError:
            return attempt
        # A dead process writes nothing any more: what it wrote last stands if it is an end.
        current = job.attempts.again(attempt)
        if current is not None and current.open:
            job.attempts.write_lost(current, "its process is gone")
        return current

    @staticmethod
    def offers() -> list[Offer]:
        """This machine, whatever it is."""
        names = gpu_names()
        gpus = ", ".join(f"{names.count(name)} x {name}" for name in dict.fromkeys(names))
        return [Offer(f"this machine, {counted(usable_cores(), 'core')}", gpus, None, "--launcher local")]

    @staticmethod
    def ready() -> str:
        """This Python can train."""
        if missing := machine.lacks():
            raise EngineError(missing)
        return "this machine"

    @staticmethod
    def clean() -> None:
        """Nothing stays of a process but its scratch folder, which the next attempt sends and deletes."""

    @staticmethod
    def places(job: Job, attempts: list[Attempt]) -> set[Path]:
        """The temporary folder, and the one that the job names, if that holds for this machine."""
        key = "hardware.scratch_root"
        scratch = job.record()["config"].get(key)
        mine = isinstance(scratch, str) and Trust(job.store.uri).takes(key, scratch)
        return {Path(tempfile.gettempdir()), *([expand(scratch)] if mine else [])}


class StartedProcess:
    """See :class:`~runner.launch.protocol.Started`.

    Args:
        process: the attempt.
        errors: where a background one's standard error goes.
        apart: it is another program that has the attempt, in a session of its own.
    """

    def __init__(self, process: subprocess.Popen[bytes], errors: IO[str] | None, apart: bool = False) -> None:
        self._process, self._errors, self._apart = process, errors, apart
        self.cancelled = False
        if errors is not None:  # of one that is left to live on nobody reads them
            weakref.finalize(self, errors.close)
        self._ended = threading.Event()
        threading.Thread(target=self._wait, name="attempt", daemon=True).start()

    def wait(self, seconds: float) -> int | None:
        """One that a signal ended had not claimed the job yet: else it would have saved and left by itself."""
        if not self._ended.wait(seconds):
            return None
        code = self._process.wait()
        return code if code >= 0 else Exit.PAUSED if -code in LEAVING else Exit.FAILED

    def hand_on(self, signum: int) -> None:
        """The terminal sends Ctrl-C to both; anything else comes to us alone."""
        if signum != signal.SIGINT or self._apart:
            self._process.send_signal(signum)

    def _wait(self) -> None:
        """On a thread of its own: the main one would have to look again and again, to hear signals as well."""
        self._process.wait()
        self._ended.set()

    @property
    def queued(self) -> str | None:
        """It has begun."""
        return None

    def last_words(self) -> str:
        """Of one in the background: what it wrote to standard error."""
        if self._errors is None:
            return ""
        self._errors.seek(0)
        return self._errors.read()

    def kill(self) -> None:
        """With the trainer, which ends when its standard input does."""
        if self._apart:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
        self._process.kill()
        self._process.wait()
        if self._errors is not None:
            self._errors.close()
