"""What Slurm's own programs answer: sbatch, squeue, scontrol, scancel, sinfo, sacct. All here calls one of them."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass

from last_e.text import plain
from runner.errors import EngineError
from runner.waits import WAITS

WAITING = ("PENDING", "REQUEUED", "REQUEUE_HOLD", "SPECIAL_EXIT", "RESV_DEL_HOLD", "REQUEUE_FED")
ENDED = (
    "BOOT_FAIL",
    "CANCELLED",
    "COMPLETED",
    "DEADLINE",
    "FAILED",
    "NODE_FAIL",
    "OUT_OF_MEMORY",
    "PREEMPTED",
    "REVOKED",
    "TIMEOUT",
)
"""States that a job does not leave by itself; Slurm has ended its processes, but in NODE_FAIL, where it cannot know."""
_PATIENCE = 6 * WAITS.engine
"""Seconds that the controller of a busy cluster may take over a change to its queue."""
_GONE = "invalid job id"
_NO_CLUSTER = "could not establish a configuration source"
"""Its programs are installed, and nobody has told them of a cluster."""
_COLUMNS = "%i|%j|%T|%r|%S"
_ACCOUNTS = "JobIDRaw,JobName,State,ExitCode"


@dataclass(frozen=True)
class Queued:
    """A job as Slurm has it now."""

    id: str
    name: str
    state: str
    """``PENDING``, ``RUNNING``, ``COMPLETING``, ... """
    reason: str
    """Why it waits, in Slurm's word; ``None`` if it does not."""
    start: str
    """When it starts as far as Slurm knows, as local time; ``N/A``."""

    def __str__(self) -> str:
        if self.state not in WAITING:
            return f"Slurm job {self.id}: {self.state.lower()}"
        why = _REASONS.get(self.reason, self.reason)
        when = f", about {self.start.replace('T', ' ')}" if re.match(r"\d{4}-", self.start) else ""
        return f"Slurm job {self.id} waits: {why}{when}"


_REASONS = {
    "None": "Slurm has not looked at it yet",
    "Resources": "no node with what it asks for is free",
    "Priority": "others are before it",
    "Dependency": "it begins when the job before it has ended",
    "BeginTime": "it was put back into the queue, and Slurm lets it rest first",
    "JobHeldUser": "you hold it; scontrol release lets it go",
    "JobHeldAdmin": "the cluster's staff holds it",
    "PartitionTimeLimit": "it asks for more time than its partition gives: it never starts",
    "ReqNodeNotAvail": "the nodes that it asks for are down or reserved",
    "QOSMaxJobsPerUserLimit": "as many of your jobs run as your QOS lets you have",
    "AssocGrpGRES": "your account has its share of GPUs in use",
    "QOSMaxGRESPerUser": "you have your QOS's share of GPUs in use",
    "launch failed requeued held": "a node could not start it; scontrol release tries again",
}


def submit(script: str, *options: str) -> str:
    """Hand a batch script to sbatch; returns the job's ID.

    Raises:
        EngineError: Slurm takes it not, in its own words.
    """
    said = _call("sbatch", "--parsable", *options, given=script)
    return said.strip().splitlines()[-1].partition(";")[0]


def refusal(script: str) -> str | None:
    """Why Slurm would not take a batch script; None if it would.

    Raises:
        EngineError: Slurm does not answer.
    """
    done = _run("sbatch", "--test-only", given=script)
    return None if done.returncode == 0 else _words(done)


def queued(name: str | None = None) -> list[Queued]:
    """This user's jobs of a name, or of any, that have not ended, the newest last; none where Slurm's programs have no cluster.

    Raises:
        EngineError: Slurm does not answer.
    """
    named = [] if name is None else [f"--name={name}"]
    done = _run("squeue", "--noheader", "--me", *named, f"--format={_COLUMNS}", seconds=WAITS.engine)
    if done.returncode != 0 and _NO_CLUSTER in done.stderr.lower():
        return []
    if done.returncode != 0:
        raise EngineError(_words(done))
    return _jobs(done.stdout)


def look(job: str) -> Queued | None:
    """One job, also for some minutes after its end, and for ever where the cluster keeps accounts; None: Slurm says that there
    is none, twice, by two programs, since one empty answer means nothing.

    Raises:
        EngineError: Slurm does not answer.
    """
    done = _run("squeue", "--noheader", f"--jobs={job}", "--states=all", f"--format={_COLUMNS}", seconds=WAITS.engine)
    if done.returncode == 0 and (found := _jobs(done.stdout)):
        return found[-1]
    if done.returncode != 0 and _GONE not in done.stderr.lower():
        raise EngineError(_words(done))
    done = _run("scontrol", "--oneliner", "show", "job", job)
    if done.returncode == 0:
        values = dict(word.partition("=")[::2] for word in done.stdout.split())
        return Queued(
            job,
            values.get("JobName", ""),
            values.get("JobState", "?"),
            values.get("Reason", "None"),
            values.get("StartTime", "N/A"),
        )
    if _GONE in done.stderr.lower():
        return (_accounted(job) or (None, 0))[0]
    raise EngineError(_words(done))


def look_at(jobs: Iterable[str]) -> dict[str, Queued]:
    """What Slurm tells of several jobs in one answer. One that is not in it may be there all the same: see :func:`look`.

    Raises:
        EngineError: Slurm does not answer.
    """
    names = ",".join(sorted(jobs))
    done = _run("squeue", "--noheader", f"--jobs={names}", "--states=all", f"--format={_COLUMNS}", seconds=WAITS.engine)
    if done.returncode != 0 and _GONE not in done.stderr.lower():
        raise EngineError(_words(done))
    return {one.id: one for one in _jobs(done.stdout)}


def exit_code(job: str) -> int | None:
    """Of a job that has ended: the batch script's; None where Slurm does not know it any more."""
    done = _run("scontrol", "--oneliner", "show", "job", job)
    found = re.search(r"\bExitCode=(\d+):", done.stdout)
    if done.returncode == 0 and found:
        return int(found[1])
    accounted = _accounted(job)
    return None if accounted is None else accounted[1]


def restarts(job: str) -> int | None:
    """How often Slurm has begun a job anew; None where it does not tell.

    Raises:
        EngineError: Slurm does not answer.
    """
    found = re.search(r"\bRestarts=(\d+)", _run("scontrol", "--oneliner", "show", "job", job, seconds=WAITS.engine).stdout)
    return None if found is None else int(found[1])


def cancel(job: str) -> None:
    """End a job, or take it out of the queue.

    Raises:
        EngineError: Slurm does not do it.
    """
    _call("scancel", job)


def withdraw(name: str) -> str | None:
    """Take those of a name that have not started out of the queue; returns what that was.

    Raises:
        EngineError: Slurm does not answer.
    """
    waiting = [one for one in queued(name) if one.state in WAITING]
    for one in waiting:
        cancel(one.id)
    return f"Slurm job {waiting[-1].id}" if waiting else None


def send(job: str, signal: str) -> None:
    """Send a signal to a job's batch script.

    Raises:
        EngineError: it does not get there.
    """
    _call("scancel", "--batch", f"--signal={signal}", job)


@dataclass(frozen=True)
class Partition:
    """A part of the cluster that is up."""

    default: bool
    minutes: int | None
    """The longest time of a job; None: any."""
    resources: frozenset[str]
    """Kinds of generic resources, such as ``gpu`` and ``gpu:a100``."""


def partitions() -> dict[str, Partition]:
    """By name.

    Raises:
        EngineError: Slurm does not answer.
    """
    found: dict[str, Partition] = {}
    for line in _call("sinfo", "--noheader", "--format=%P|%a|%l|%G").splitlines():
        name, up, limit, resources = (*line.strip().split("|"), "", "", "")[:4]
        if up != "up":
            continue
        kinds = {":".join(word.split("(")[0].split(":")[:-1]) for word in resources.split(",") if ":" in word}
        kinds |= {kind.partition(":")[0] for kind in kinds}
        if before := found.get(name.rstrip("*")):
            kinds |= before.resources
        found[name.rstrip("*")] = Partition(name.endswith("*"), minutes_of(limit), frozenset(kinds))
    return found


def minutes_of(text: str) -> int | None:
    """A time as Slurm writes it, ``[D-]H:MM:SS`` or ``MM:SS``, in minutes, rounded down; None for ``infinite`` and the like."""
    found = re.fullmatch(r"(?:(\d+)-)?(?:(\d+):)?(\d+):(\d+)", text)
    if found is None:
        return None
    days, hours, minutes, _ = (int(part or 0) for part in found.groups())
    return (24 * days + hours) * 60 + minutes


def _accounted(job: str) -> tuple[Queued, int] | None:
    """How a job ended that the controller does not know any more, with its exit code; None where nobody keeps accounts, or they
    do not tell: they only add to what is known."""
    if shutil.which("sacct") is None:
        return None
    try:
        done = _run("sacct", "--noheader", "--parsable2", "--allocations", f"--jobs={job}", f"--format={_ACCOUNTS}")
    except EngineError:
        return None
    rows = [line.split("|") for line in done.stdout.splitlines()] if done.returncode == 0 else []
    for id, name, state, code in (row for row in reversed(rows) if len(row) == 4):
        ended = state.partition(" ")[0]  # "CANCELLED by 1000"
        if id == job and ended in ENDED:
            return Queued(id, plain(name), ended, "None", "N/A"), int(code.partition(":")[0] or 0)
    return None


def _jobs(text: str) -> list[Queued]:
    rows = [line.strip().split("|") for line in text.splitlines()]
    return [Queued(*map(plain, row)) for row in rows if len(row) == 5]


def _call(*words: str, given: str = "", seconds: float = _PATIENCE) -> str:
    done = _run(*words, given=given, seconds=seconds)
    if done.returncode != 0:
        raise EngineError(_words(done))
    return done.stdout


def _run(*words: str, given: str = "", seconds: float = _PATIENCE) -> subprocess.CompletedProcess[str]:
    if shutil.which(words[0]) is None:
        raise EngineError(f"no {words[0]} here: launcher slurm is for the login node of a cluster that runs Slurm")
    try:
        return subprocess.run(
            words, input=given, capture_output=True, text=True, errors="replace", timeout=seconds, check=False
        )
    except subprocess.TimeoutExpired:
        raise EngineError(f"{words[0]} has not answered within {seconds:.0f} s: Slurm's controller may be away") from None


def _words(done: subprocess.CompletedProcess[str]) -> str:
    """What a program of Slurm said against it, on one line."""
    lines = [line.strip() for line in (done.stderr or done.stdout).splitlines() if line.strip()]
    if any(_NO_CLUSTER in line.lower() for line in lines):
        return "Slurm: its programs are there, but no cluster is: begin on a login node, or name one with --on HOST"
    said = "; ".join(dict.fromkeys(line.removeprefix(f"{done.args[0]}: ").removeprefix("error: ") for line in lines))
    return plain(f"Slurm: {said or f'{done.args[0]} ended with code {done.returncode}'}")
