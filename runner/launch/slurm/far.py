"""A login node as a machine that ssh reaches: what is called there by this very version. See :mod:`runner.launch.ssh.far`."""

from __future__ import annotations

import base64
import json
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from runner.errors import ClaimedError, LastrunError, UsageError
from runner.job.job import Job
from runner.launch.slurm import queue
from runner.launch.slurm.batch import job_name
from runner.launch.slurm.cluster import read_log
from runner.launch.slurm.launcher import SlurmLauncher, log_name
from runner.launch.ssh import far, runs
from runner.spec import JobSpec
from runner.store.open import open_store
from runner.store.uri import StoreUri


def main() -> None:
    """As there."""
    far.main(
        check=check,
        line_up=line_up,
        look=look,
        wait=wait,
        restarts=restarts,
        withdraw=withdraw,
        cancel=queue.cancel,
        send=queue.send,
    )


def check() -> None:
    """All that keeps an attempt from being handed to Slurm here, looked at with what that will be given."""
    asked = _taken("variables")
    launcher = SlurmLauncher(JobSpec.model_validate(asked["config"]))
    problems = [*far.problem(lambda: launcher.see_that_it_is_taken(asked["store"])), *far.store_problems(asked)]
    _tell({"problems": [*problems, *far.disk_problems(asked)]})


def line_up() -> None:
    """Hand an attempt to Slurm: ``id`` of the Slurm job and its ``log``; or ``claimed``: somebody else is at it."""
    asked = _taken("given")
    store, job_id = StoreUri.parse(asked["uri"]).parent()
    job = Job(open_store(store), job_id)
    launcher = SlurmLauncher(JobSpec.model_validate(asked["config"]), asked.get("data"))
    launcher.clean()
    try:
        id = launcher.line_up(job, asked["arguments"], asked["token"], asked["after"])
        _tell({"id": id, "log": log_name(job.id, asked["token"])})
    except ClaimedError as error:
        _tell({"claimed": str(error)})


def look() -> None:
    """Of each of some Slurm jobs: what Slurm tells, its exit code once it has ended, and what its log has from a byte on. What
    it says last is in its log before it has ended, so its end is asked for first."""
    jobs = json.loads(sys.stdin.readline())["jobs"]
    told: dict[str, Any] = {"jobs": {id: {} for id in jobs}}
    try:
        known = queue.look_at(jobs)
        for id, one in told["jobs"].items():
            if found := known.get(id) or queue.look(id):
                one["found"] = asdict(found)
                one["code"] = queue.exit_code(id) if found.state in queue.ENDED else None
    except LastrunError as error:
        told["error"] = str(error)
    for id, (log, offset) in jobs.items():
        told["jobs"][id]["new"] = base64.b64encode(read_log(Path(log).name, offset)).decode()
    _tell(told)


def wait() -> None:
    """Of some jobs, each with the IDs of Slurm jobs of its: why one waits (``waits``), what has started (``started``; who asks
    reads from the store whether an attempt has begun), and which are over (``over``)."""
    jobs: dict[str, list[str]] = json.loads(sys.stdin.readline())["jobs"]
    there: dict[str, list[queue.Queued]] = {}
    for one in queue.queued(job_name(next(iter(jobs))) if len(jobs) == 1 else None):
        there.setdefault(one.name, []).append(one)
    waits, started, over = {}, {}, []
    for job, ids in jobs.items():
        mine = there.get(job_name(job), [])
        if waiting := [one for one in mine if one.state in queue.WAITING]:
            waits[job] = str(waiting[-1])
        elif mine:
            started[job] = asdict(mine[-1])
        else:  # one empty answer means nothing
            over += [id for id in ids if (found := queue.look(id)) is None or found.state in queue.ENDED]
    _tell({"waits": waits, "started": started, "over": over})


def restarts(id: str) -> None:
    """How often a Slurm job has been begun anew (``restarts``)."""
    _tell({"restarts": queue.restarts(id)})


def withdraw(job: str) -> None:
    """Take what of a job has not begun out of the queue (``taken``)."""
    _tell({"taken": queue.withdraw(job_name(job))})


def _taken(variables: str) -> dict[str, Any]:
    """What comes over standard input, its variables taken for one's own."""
    line = sys.stdin.readline()
    if not line.endswith("\n"):
        raise UsageError("the connection broke before all was there that the attempt needs")
    asked: dict[str, Any] = json.loads(line)
    os.environ.update({**asked.get("plain", {}), **asked[variables]})
    runs.take_authority(asked, os.environ)
    return asked


def _tell(answer: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(answer))


if __name__ == "__main__":
    main()
