"""The batch script of an attempt: what is asked of Slurm, what the attempt is told, and :file:`batch.sh`."""

from __future__ import annotations

import json
import math
import re
import shlex
from collections.abc import Iterable
from importlib.resources import files
from pathlib import Path
from typing import Any

from last_e.process import run_module
from runner import machine
from runner.spec import JobSpec

ABOUT = {"launcher": "slurm", "what": "Slurm job"}
"""What an attempt's record says of where it runs, beside the Slurm job's ID."""
_SHORTEST_NOTICE = 60
"""Slurm looks for jobs whose time is nearly over once a minute."""


def job_name(job_id: str) -> str:
    """The Slurm job's name, by which it is found again."""
    return f"lastrun-{job_id}"


def asked(
    config: JobSpec, gpus: str | None, name: str, log: Path, variables: Iterable[str], after: str | None = None
) -> list[str]:
    """What is asked of Slurm, as the options of sbatch.

    Args:
        config: the job's.
        gpus: ``gpu:1``, ``gpu:a100:2``; None asks for none.
        name: of the Slurm job.
        log: where what the attempt says goes.
        variables: names of those that it gets from here; it gets no others.
        after: the Slurm job for whose end it waits; one that is requeued has not ended.
    """
    run, slurm = config.run, config.run.slurm
    limit = config.hardware.session_limit
    options: dict[str, Any] = {
        "job-name": name,
        "partition": slurm.partition,
        "account": slurm.account,
        "qos": slurm.qos,
        "constraint": slurm.constraint,
        "nodes": run.nodes,
        "ntasks-per-node": 1,
        "cpus-per-task": None if run.cpus is None else math.ceil(run.cpus),
        "mem": run.memory.upper() if run.memory else None,
        "gres": gpus,
        "time": None if limit is None else math.ceil(limit / 60),
        "signal": f"B:USR1@{max(_SHORTEST_NOTICE, min(config.hardware.stop_margin, 65535))}",
        "open-mode": "append",
        "output": _without_patterns(str(log)),
        "export": ",".join(variables),
        "dependency": None if after is None else f"afterany:{after}",
    }
    words = [f"--{option}={value}" for option, value in options.items() if value is not None]
    return [*words, "--requeue" if run.max_requeues else "--no-requeue", *slurm.extra]


def script(options: Iterable[str], job_uri: str, command: Iterable[str], most: int, more: dict[str, str] | None = None) -> str:
    """The whole script. It holds no secret: who may ask Slurm for it sees it.

    ``command`` runs the attempt. It is put back into the queue ``most`` times. ``more``: what the attempt's record says of
    where it runs beside the rest: with ``device`` it trains there or not at all, ``data`` is its data file.
    """
    again = shlex.join([*run_module("runner"), "again", job_uri, "--most", str(most)])
    about = shlex.quote(json.dumps({**ABOUT, **(more or {})})[:-1])
    known_there = '"$SLURM_JOB_ID" "${SLURM_RESTART_COUNT:-0}"'
    variable = machine.CONTAINER_VARIABLE
    head = [
        "#!/bin/sh",
        *(f"#SBATCH {_quoted(option)}" for option in options),
        f'{variable}=$(printf \'%s, "name": "%s", "restart": "%s"}}\' {about} {known_there})',
        f"export {variable}",
        f"again() {{ {again}; }}",
        f"set -- {shlex.join(command)}",
    ]
    return "\n".join([*head, files("runner.launch.slurm").joinpath("batch.sh").read_text("utf-8")])


def _quoted(option: str) -> str:
    return shlex.quote(option) if re.search(r"[^\w@%+=:,./-]", option) else option


def _without_patterns(path: str) -> str:
    """A file's name for sbatch, to which ``%j`` is the job's ID."""
    return path.replace("\\", "\\\\").replace("%", "%%")
