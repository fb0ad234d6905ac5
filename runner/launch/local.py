"""An attempt as a process on this machine."""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from types import FrameType

from last_e.datafile import DataError, data_path, is_remote
from runner import data_cache
from runner.errors import EngineError, Exit, LastrunError, StoreError, UsageError
from runner.job import Job
from runner.resolve import LOCAL_GPUS
from runner.spec import JobSpec

START_SECONDS = 60.0
_NEEDED = ("torch", "numpy", "safetensors")


class LocalLauncher:
    """Starts attempts with this Python."""

    def __init__(self, config: JobSpec) -> None:
        self._config = config

    def preflight(self, store: str) -> None:
        """See :class:`~runner.launch.Launcher`."""
        if self._config.run.gpus not in (None, 0, 1, "all"):  # of a job that was in a container before
            raise UsageError(f"run.gpus: found {self._config.run.gpus}; allowed: {LOCAL_GPUS}")
        missing = [name for name in _NEEDED if find_spec(name) is None]
        if missing:
            raise EngineError(
                f"training here needs {', '.join(missing)}, not installed in {sys.prefix}; from a clone of lastrun: "
                "pip install '.[train]'"
            )
        if is_remote(self._config.data.uri):  # the attempt fetches it
            data_cache.parse(str(self._config.data.uri), {})
            return
        try:
            data_path(self._config)
        except DataError as error:
            raise UsageError(str(error)) from None

    def run(self, job: Job, arguments: list[str], *, quiet: bool) -> int:
        """See :class:`~runner.launch.Launcher`."""
        # The terminal sends Ctrl-C to both: the attempt saves and ends, we wait for it. (A handler, unlike SIG_IGN, is not
        # passed on to the child.) SIGTERM comes to us alone, so it is handed on.
        process: subprocess.Popen[bytes] | None = None

        def hand_on(signum: int, frame: FrameType | None) -> None:
            if process is not None:
                process.send_signal(signum)

        before = {signal.SIGINT: signal.signal(signal.SIGINT, lambda *_: None)}
        for signum in (signal.SIGTERM, signal.SIGHUP):
            before[signum] = signal.signal(signum, hand_on)
        try:
            process = subprocess.Popen(_command(job, arguments), stdout=sys.stderr if quiet else None)
            code = process.wait()
        finally:
            for signum, handler in before.items():
                signal.signal(signum, handler)
        if -code in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # before the attempt had claimed the job
            return Exit.PAUSED
        return code if code >= 0 else Exit.FAILED

    def detach(self, job: Job, arguments: list[str]) -> None:
        """See :class:`~runner.launch.Launcher`."""
        known = {attempt.id for attempt in job.attempts()}
        with tempfile.TemporaryFile("w+", errors="replace") as errors:
            process = subprocess.Popen(
                _command(job, arguments),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=errors,
                start_new_session=True,
            )
            deadline = time.monotonic() + START_SECONDS
            while time.monotonic() < deadline:
                code = process.poll()
                if any(a.id not in known and a.phase != "claiming" for a in job.attempts()):
                    return
                if code is not None:
                    errors.seek(0)
                    error = LastrunError(errors.read().strip().removeprefix("error: ") or f"the attempt ended with code {code}")
                    error.exit_code = Exit(code) if code in Exit._value2member_map_ else Exit.FAILED
                    raise error
                time.sleep(0.1)
            raise StoreError(f"{job.id}: no sign of the attempt within {START_SECONDS:.0f} s")


def _command(job: Job, arguments: list[str]) -> list[str]:
    return [sys.executable, "-m", "runner", "attempt", job.uri, *arguments]
