"""An attempt as a job of the cluster to which this machine is the way in (its login node)."""

from __future__ import annotations

import os
import shlex
import shutil
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import TextIO

from last_e.config import MOST_RANKS
from last_e.text import plain
from runner.attempt.data_check import check_data
from runner.errors import ClaimedError, EngineError, UsageError
from runner.job.attempts import Attempt
from runner.job.job import Job
from runner.launch import inside
from runner.launch.heard import with_heard
from runner.launch.local import LocalLauncher
from runner.launch.slurm import queue
from runner.launch.slurm.batch import asked, job_name, script
from runner.launch.slurm.cluster import HERE, log_folder
from runner.launch.slurm.started import StartedBatch
from runner.launch.variables import see_that_they_are_set, to_hand_over
from runner.spec import JobSpec
from runner.store.uri import StoreUri
from runner.waits import VARIABLE

_GIVEN = (
    *("PATH", "HOME", "USER", "LOGNAME", "LANG", "LC_ALL", "VIRTUAL_ENV", "LD_LIBRARY_PATH", "PYTHONPATH", "CONDA_PREFIX"),
    *("XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "LASTRUN_STORE", VARIABLE),
)
"""What an attempt gets of this shell, beside what the job names."""
_OLD_LOG_SECONDS = 7 * 86400.0


class SlurmLauncher:
    """Starts attempts with sbatch. See :class:`~runner.launch.protocol.Launcher`.

    Args:
        config: the job's.
        data: its data file, where the cluster has it in another place than the one that the job names.
    """

    runs_here = False

    def __init__(self, config: JobSpec, data: str | None = None) -> None:
        self._config, self._data = config, data

    def preflight(self, store: str) -> None:
        """Slurm would take the job, the data are there, and what it is to be handed is set."""
        see_that_they_are_set(self._config)
        self.see_that_it_is_taken(store)
        check_data(self._config)

    def see_that_it_is_taken(self, store: str) -> None:
        """Slurm would take a job in ``store``.

        Raises:
            EngineError, UsageError: why not, and what to ask for.
        """
        self._see_to_the_nodes()
        self._see_to_the_partition()
        options = self._asked(StoreUri.parse(store), "lastrun", "test")
        if refused := queue.refusal(script(options, store, [], 0)):
            raise EngineError(f"{refused}; run.slurm in the job file, or --set run.slurm.partition=..., says what to ask for")
        inside.preflight(self._config)

    def start(self, job: Job, arguments: list[str], token: str, *, output: TextIO | None) -> StartedBatch:
        """A batch script in the queue: when it starts is Slurm's matter."""
        return StartedBatch(HERE, self.line_up(job, arguments, token, None), log_name(job.id, token), output)

    def line_up(self, job: Job, arguments: list[str], token: str, after: str | None) -> str:
        """The same, and nobody follows it."""
        if after and any(word.startswith("--dependency") for word in self._config.run.slurm.extra):
            raise UsageError("run.slurm.extra has a --dependency, and so have points of which only some may run at a time")
        name = job_name(job.id)
        for one in queue.queued(name):
            if one.state in queue.WAITING:
                raise ClaimedError(f"{job.id}: {one}; lastrun stop {job.reference} takes it out of the queue")
            if one.state != "COMPLETING":
                raise ClaimedError(f"{job.id} is being run by {one}; lastrun status -w {job.reference} follows it")
        log_folder().mkdir(parents=True, exist_ok=True, mode=0o700)
        uri, _ = StoreUri.parse(job.uri).parent()
        options = self._asked(uri, name, log_name(job.id, token), after)
        about = {"device": "cuda"} if any(option.startswith("--gres=") for option in options) else {}
        about |= {} if self._data is None else {"data": self._data}
        most = self._config.run.max_requeues
        command = inside.attempt_command(self._config, job.uri, ["--token", token, *with_heard(job, arguments)], self._data)
        return queue.submit(script(options, job.uri, command, most, about))

    def order(self, store: str, name: str) -> dict[str, str]:
        """What the batch script asks for."""
        job_id = f"{name}-DATE-CODE"
        return {"sbatch": shlex.join(self._asked(StoreUri.parse(store), job_name(job_id), log_name(job_id, "TOKEN")))}

    @staticmethod
    def settle(job: Job, attempt: Attempt) -> Attempt | None:
        """Slurm has ended the processes of what it calls ended. Of a dead node it cannot know: there the heartbeat decides, as
        it does where Slurm knows the job no more."""
        about = attempt.container or {}
        if shutil.which("squeue") is None:  # not one of its cluster's machines
            return attempt
        return settled_by(queue.look(about.get("name", "")), job, attempt)

    @staticmethod
    def waits(job: Job) -> str | None:
        """Why the job's Slurm job has not started yet, or that it has and its attempt is about to begin."""
        if shutil.which("squeue") is None:
            return None
        waiting = [told for one in queue.queued(job_name(job.id)) if (told := how_it_waits(one, job)) is not None]
        return waiting[-1] if waiting else None

    @staticmethod
    def waiting(jobs: Sequence[Job]) -> list[Job]:
        """One look at the queue for all of them."""
        if not jobs or shutil.which("squeue") is None:
            return []
        by_name = {job_name(job.id): job for job in jobs}
        there = [(by_name[one.name], one) for one in queue.queued() if one.name in by_name]
        found = {job.id for job, one in there if how_it_waits(one, job) is not None}
        return [job for job in jobs if job.id in found]

    @staticmethod
    def withdraw(job: Job) -> str | None:
        """Take what has not started out of the queue."""
        return None if shutil.which("squeue") is None else queue.withdraw(job_name(job.id))

    @staticmethod
    def ready() -> str:
        """The partitions of the cluster that this machine belongs to."""
        return f"Slurm answers; partitions: {plain(', '.join(queue.partitions())) or 'none that is up'}"

    @staticmethod
    def clean() -> None:
        """Logs that nobody follows any more: the job's own is in the store."""
        with suppress(OSError, UsageError):
            for log in log_folder().glob("*.log"):
                if time.time() - log.stat().st_mtime > _OLD_LOG_SECONDS:
                    log.unlink()

    @staticmethod
    def places(job: Job, attempts: list[Attempt]) -> set[Path]:
        """The folder that the job names, where all machines of the cluster have it."""
        return LocalLauncher.places(job, attempts)

    def _see_to_the_nodes(self) -> None:
        run = self._config.run
        if run.nodes == 1:
            return
        if (ranks := run.nodes * (run.gpus if isinstance(run.gpus, int) else 1)) > MOST_RANKS:
            raise UsageError(
                f"run.nodes: {run.nodes} machines with run.gpus={run.gpus} are {ranks} ranks; allowed: {MOST_RANKS}"
            )
        if self._config.hardware.scratch_root is None:
            raise UsageError(f"run.nodes: {run.nodes} machines need hardware.scratch_root, a folder that all of them have")
        if run.container is not None:
            raise UsageError(f"run.nodes: {run.nodes} machines train without run.container alone; found {run.container}")

    def _asked(self, store: StoreUri, name: str, log: str, after: str | None = None) -> list[str]:
        return asked(self._config, self._gpus(), name, log_folder() / log, self._variables(store), after)

    def _gpus(self) -> str | None:
        """What to ask for of generic resources.

        Raises:
            UsageError: the partition has no such GPU.
        """
        run = self._config.run
        if run.gpus == 0 or self._config.hardware.device == "cpu":
            return None
        if not isinstance(run.gpus, int | None):
            raise UsageError(f"run.gpus: found {run.gpus}; allowed with launcher slurm: how many, such as 1")
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


def settled_by(found: queue.Queued | None, job: Job, attempt: Attempt) -> Attempt | None:
    """An open attempt, by what Slurm tells of its job: where that has ended, its end is written."""
    if found is None or found.state not in queue.ENDED or found.state == "NODE_FAIL" or found.name != job_name(job.id):
        return attempt
    current = job.attempts.again(attempt)
    if current is not None and current.open:
        job.attempts.write_lost(current, f"its Slurm job {found.id} ended as {found.state}")
    return current


def log_name(job_id: str, token: str) -> str:
    """Of the file that an attempt writes to."""
    return f"{job_id}-{token}.log"


def how_it_waits(one: queue.Queued, job: Job, restarts: Callable[[str], int | None] = queue.restarts) -> str | None:
    """Of a Slurm job of a job's, what keeps its attempt from running; None: nothing, or it has ended. ``restarts`` tells how
    often Slurm has begun it anew."""
    if one.state in queue.WAITING:
        return str(one)
    if one.state not in ("CONFIGURING", "RUNNING"):
        return None
    its = [attempt for attempt in job.attempts.all() if (attempt.container or {}).get("name") == one.id]
    begun = [attempt for attempt in its if attempt.began or not attempt.open]
    if any(map(job.attempts.alive, begun)):
        return None
    if begun and (times := restarts(one.id)) is not None:  # of what Slurm has begun anew, this time's
        begun = [attempt for attempt in begun if (attempt.container or {}).get("restart", "0") == str(times)]
    if begun:
        return None
    return f"Slurm job {one.id} has started, and its attempt is about to begin"
