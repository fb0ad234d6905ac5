"""The other machines of an attempt that has several, all of one Slurm job."""

from __future__ import annotations

import os
import subprocess

from runner.errors import EngineError
from runner.spec import JobSpec

_SRUN = ("srun", "--nodes=1", "--ntasks=1", "--overlap", "--quiet", "--unbuffered", "--export=ALL", "--kill-on-bad-exit=1")
"""One task there, beside the batch script; what it is told and says goes through srun's own streams."""


def further_nodes(config: JobSpec) -> list[str]:
    """The other machines that ``run.nodes`` has brought; none outside of Slurm, where the attempt has one alone.

    Raises:
        EngineError: there are not as many.
    """
    here = os.environ.get("SLURMD_NODENAME")
    if config.run.nodes == 1 or here is None:
        return []
    words = ["scontrol", "show", "hostnames", os.environ.get("SLURM_JOB_NODELIST", "")]
    try:
        names = subprocess.run(words, capture_output=True, text=True, timeout=60, check=True).stdout.split()
    except (OSError, subprocess.SubprocessError) as error:
        raise EngineError(f"run.nodes: Slurm does not tell which machines the job has ({error})") from None
    if len(names) != config.run.nodes or here not in names:
        raise EngineError(f"run.nodes: {config.run.nodes} wanted; the Slurm job has {', '.join(names)}")
    return [name for name in names if name != here]


def all_nodes(further: list[str]) -> dict[str, list[str]]:
    """All machines of an attempt that has ``further`` ones, this one first: what, put before a command, has it run there."""
    return {os.environ["SLURMD_NODENAME"]: [], **{name: _on(name) for name in further}}


def _on(name: str) -> list[str]:
    cores = os.environ.get("SLURM_CPUS_PER_TASK")
    return [*_SRUN, *([f"--cpus-per-task={cores}"] if cores else []), f"--nodelist={name}"]
