"""An attempt as a job of the cluster to which this machine is the way in (its login node)."""

from __future__ import annotations

import math
import os
import shutil
import signal
import time
from collections.abc import Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import TextIO

from last_e.text import plain
from runner.attempt.data_check import check_data
from runner.errors import ClaimedError, EngineError, Exit, LastrunError, UsageError
from runner.folders import cache_folder
from runner.job.attempts import Attempt
from runner.job.job import Job
from runner.launch.local import LocalLauncher
from runner.launch.slurm import queue
from runner.launch.slurm.batch import asked, job_name, script
from runner.launch.variables import see_that_they_are_set, to_hand_over
from runner.spec import JobSpec
from runner.store.uri import StoreUri
from runner.waits import VARIABLE, WAITS

_GIVEN = (
    *("PATH", "HOME", "USER", "LOGNAME", "LANG", "LC_ALL", "VIRTUAL_ENV", "LD_LIBRARY_PATH", "PYTHONPATH", "CONDA_PREFIX"),
    *("XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "LASTRUN_STORE", VARIABLE),
)
"""What an attempt gets of this shell, beside what the job names."""
_LOOK_SECONDS = 2.5 * WAITS.follow
"""Between two questions to Slurm's controller, which serves a whole cluster."""
_SHOW_SECONDS = 0.2
_OLD_LOG_SECONDS = 7 * 86400.0


class SlurmLauncher:
    """Starts attempts with sbatch. See :class:`~runner.launch.protocol.Launcher`."""

    runs_here = False

    def __init__(self, config: JobSpec) -> None:
        self._config = config

    def preflight(self, store: str) -> None:
        """Slurm would take the job, the data are there, and what it is to be handed is set."""
        see_that_they_are_set(self._config)
        self._see_to_the_partition()
        options = asked(self._config, self._gpus(), "lastrun", _log_folder() / "test", self._variables(StoreUri.parse(store)))
        if refused := queue.refusal(script(options, store, [], 0)):
            raise EngineError(f"{refused}; run.slurm in the job file, or --set run.slurm.partition=..., says what to ask for")
        check_data(self._config)

    def start(self, job: Job, arguments: list[str], token: str, *, output: TextIO | None) -> StartedBatch:
        """A batch script in the queue: when it starts is Slurm's matter."""
        return StartedBatch(self.line_up(job, arguments, token, None), _log(job, token), output)

    def line_up(self, job: Job, arguments: list[str], token: str, after: str | None) -> str:
        """The same, and nobody follows it."""
        if after and any(word.startswith("--dependency") for word in self._config.run.slurm.extra):
            raise UsageError("run.slurm.extra has a --dependency, and so have points of which only some may run at a time")
        name, log = job_name(job), _log(job, token)
        for one in queue.queued(name):
            if one.state in queue.WAITING:
                raise ClaimedError(f"{job.id}: {one}; lastrun stop {job.reference} takes it out of the queue")
            if one.state != "COMPLETING":
                raise ClaimedError(f"{job.id} is being run by {one}; lastrun status {job.reference} follows it")
        log.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        uri, _ = StoreUri.parse(job.uri).parent()
        options = asked(self._config, self._gpus(), name, log, self._variables(uri), after)
        heard = [word for key in ("", *job.requests.keys()) for word in ("--heard", key)]
        device = "cuda" if any(option.startswith("--gres=") for option in options) else None
        most = self._config.run.max_requeues
        return queue.submit(script(options, job.uri, ["--token", token, *heard, *arguments], most, device))

    @staticmethod
    def settle(job: Job, attempt: Attempt) -> Attempt | None:
        """Slurm has ended the processes of what it calls ended. Of a dead node it cannot know: there the heartbeat decides, as
        it does where Slurm knows the job no more."""
        about = attempt.container or {}
        if shutil.which("squeue") is None:  # not one of its cluster's machines
            return attempt
        found = queue.look(about.get("name", ""))
        if found is None or found.state not in queue.ENDED or found.state == "NODE_FAIL" or found.name != job_name(job):
            return attempt
        current = job.attempts.again(attempt)
        if current is not None and current.open:
            job.attempts.write_lost(current, f"its Slurm job {found.id} ended as {found.state}")
        return current

    @staticmethod
    def waits(job: Job) -> str | None:
        """Why the job's Slurm job has not started yet."""
        if shutil.which("squeue") is None:
            return None
        waiting = [one for one in queue.queued(job_name(job)) if one.state in queue.WAITING]
        return str(waiting[-1]) if waiting else None

    @staticmethod
    def waiting(jobs: Sequence[Job]) -> list[Job]:
        """One look at the queue for all of them."""
        if not jobs or shutil.which("squeue") is None:
            return []
        names = {one.name for one in queue.queued() if one.state in queue.WAITING}
        return [job for job in jobs if job_name(job) in names]

    @staticmethod
    def withdraw(job: Job) -> str | None:
        """Take what has not started out of the queue."""
        if shutil.which("squeue") is None:
            return None
        waiting = [one for one in queue.queued(job_name(job)) if one.state in queue.WAITING]
        for one in waiting:
            queue.cancel(one.id)
        return f"Slurm job {waiting[-1].id}" if waiting else None

    @staticmethod
    def clean() -> None:
        """Logs that nobody follows any more: the job's own is in the store."""
        with suppress(OSError, UsageError):
            for log in _log_folder().glob("*.log"):
                if time.time() - log.stat().st_mtime > _OLD_LOG_SECONDS:
                    log.unlink()

    @staticmethod
    def places(job: Job, attempts: list[Attempt]) -> set[Path]:
        """The folder that the job names, where all machines of the cluster have it."""
        return LocalLauncher.places(job, attempts)

    def _gpus(self) -> str | None:
        """What to ask for of generic resources.

        Raises:
            UsageError: the partition has no such GPU.
        """
        run = self._config.run
        if run.gpus == 0 or self._config.hardware.device == "cpu":
            return None
        if not isinstance(run.gpus, int | None):
            raise UsageError(f"run.gpus: found {run.gpus}; allowed with launcher slurm: how many")
        name = self._partition
        kinds = self._there[name].resources
        types = sorted(kind.removeprefix("gpu:") for kind in kinds if kind.startswith("gpu:"))
        if "gpu" not in kinds:
            others = sorted(other for other, partition in self._there.items() if "gpu" in partition.resources)
            ways = [f"take partition {' or '.join(others)}"] if others else []
            raise UsageError(f"partition {name} has no GPUs: {', or '.join([*ways, 'train on its CPUs with run.gpus=0'])}")
        wanted = run.slurm.gpu_type
        if wanted is None and self._config.env == "a100":
            wanted = next((kind for kind in types if "a100" in kind.lower()), "a100")
        if wanted is not None and types and wanted not in types:
            raise UsageError(
                f"partition {name} has no GPU of type {wanted}; it has {', '.join(types)}: run.slurm.gpu_type names one"
            )
        return ":".join(["gpu", *([wanted] if wanted else []), str(run.gpus or 1)])

    @cached_property
    def _there(self) -> dict[str, queue.Partition]:
        return queue.partitions()

    @cached_property
    def _partition(self) -> str:
        """The one that the job is for.

        Raises:
            UsageError: there is no such partition.
        """
        name = self._config.run.slurm.partition or next((name for name, one in self._there.items() if one.default), "")
        if name not in self._there:
            found = name or "none, and the cluster has no default"
            raise UsageError(f"run.slurm.partition: found {found}; allowed here: {', '.join(sorted(self._there))}")
        return name

    def _see_to_the_partition(self) -> None:
        """It is there, and gives the time that is asked for: Slurm takes a job that asks for more, and never starts it."""
        name, wanted = self._partition, self._config.hardware.session_limit
        limit = self._there[name].minutes
        if limit is not None and wanted is not None and wanted > 60 * limit:
            raise UsageError(f"run.time_limit: found {wanted} s; partition {name} gives {60 * limit} s at most")

    def _variables(self, store: StoreUri) -> list[str]:
        names = dict.fromkeys([*_GIVEN, *to_hand_over(self._config, store)])
        return [name for name in names if name in os.environ]


class _Followed:
    """What Slurm tells of all batch jobs that this process follows: asked for at once, however many they are."""

    def __init__(self) -> None:
        self.ids: set[str] = set()
        self._told: dict[str, queue.Queued] = {}
        self._asked = -math.inf

    def look(self, id: str) -> queue.Queued | None:
        """As :func:`queue.look`, of a while ago."""
        if time.monotonic() - self._asked >= _LOOK_SECONDS:
            self._told = queue.look_at(self.ids)
            self._asked = time.monotonic()
        return self._told.get(id) or queue.look(id)


_followed = _Followed()


class StartedBatch:
    """See :class:`~runner.launch.protocol.Started`.

    Args:
        id: of the Slurm job.
        log: where what the attempt says goes, if this machine sees it.
        output: where it is to be shown.
    """

    def __init__(self, id: str, log: Path, output: TextIO | None) -> None:
        self._id, self._log, self._output = id, log, output
        self._shown, self._said, self._next_look, self._next_show = 0, "", 0.0, 0.0
        self._code: int | None = None
        self._unknown = 0
        _followed.ids.add(id)

    @property
    def queued(self) -> str | None:
        """It begins when Slurm says so."""
        found = queue.look(self._id)
        return None if found is None else str(found)

    def wait(self, seconds: float) -> int | None:
        """What was requeued goes on."""
        time.sleep(min(seconds, max(0.0, self._next_look - time.monotonic())))
        if time.monotonic() >= self._next_show:  # it may be one of many, in a folder on another machine
            self._show()
            self._next_show = time.monotonic() + _SHOW_SECONDS
        if self._code is None and time.monotonic() >= self._next_look:
            self._look()
            self._next_look = time.monotonic() + _LOOK_SECONDS
        return self._code

    def hand_on(self, signum: int) -> None:
        """To the batch script, which passes it on. What has not started yet leaves the queue."""
        found = queue.look(self._id)
        if found is not None and found.state in queue.WAITING:
            queue.cancel(self._id)
            self._code = Exit.PAUSED
        else:
            queue.send(self._id, "INT" if signum == signal.SIGINT else "TERM")

    def last_words(self) -> str:
        """The end of its log."""
        with suppress(OSError):
            return self._log.read_text(errors="replace")[-2000:]
        return ""

    def kill(self) -> None:
        """Out of the queue, or ended."""
        with suppress(LastrunError):
            queue.cancel(self._id)

    def _look(self) -> None:
        try:
            found = _followed.look(self._id)
        except EngineError as error:  # its controller is away for a while, and the attempt goes on without
            if str(error) != self._said:
                self._said = str(error)
                self._write(f"{error}; the attempt goes on\n")
            return
        self._unknown = self._unknown + 1 if found is None else 0
        if found is None and self._unknown < 3:
            return
        if found is None or found.state in queue.ENDED:
            code = queue.exit_code(self._id) if found is not None else None
            ended_well = found is not None and found.state == "COMPLETED"
            _followed.ids.discard(self._id)
            self._code = 0 if ended_well else code or (Exit.PAUSED if found and found.state == "CANCELLED" else Exit.FAILED)
            self._show()
        elif found.state in queue.WAITING and str(found) != self._said:
            self._said = str(found)
            self._write(f"{found}\n")

    def _show(self) -> None:
        """What has come since."""
        if self._output is None:
            return
        with suppress(OSError), self._log.open("rb") as file:
            file.seek(self._shown)
            if new := file.read():
                self._shown += len(new)
                self._write(new.decode(errors="replace"))

    def _write(self, text: str) -> None:
        if self._output is not None:
            self._output.write(plain(text))
            self._output.flush()


def _log(job: Job, token: str) -> Path:
    return _log_folder() / f"{job.id}-{token}.log"


def _log_folder() -> Path:
    return cache_folder() / "slurm"
