"""For how long a machine that is paid for by the hour is asked for, and what that comes to."""

from __future__ import annotations

import math
import sys
from typing import Protocol

from runner.errors import UsageError
from runner.job.cost import spent
from runner.job.job import Job
from runner.spec import JobSpec

SET_UP_SECONDS = 1800
"""What comes before an attempt: the image, what pip installs."""
_LIMIT_SECONDS = 12 * 3600
"""For jobs without a limit: nothing is paid for without an end."""
_LEAST_SECONDS = 600
"""Of training, below which no machine is worth its set-up."""


class Priced(Protocol):
    """A kind of machine, in words with its price."""

    @property
    def dollars(self) -> float:
        """For an hour."""


def seconds_of(config: JobSpec, machine: Priced, paid: float) -> int:
    """After how many it is ended there: what the attempt may take, and what comes before; no more than can be paid for, where
    so many USD are ``paid`` already.

    Raises:
        UsageError: that is not worth a machine.
    """
    seconds = math.ceil(config.hardware.session_limit or _LIMIT_SECONDS) + SET_UP_SECONDS
    most = config.run.max_cost
    if most is None or machine.dollars == 0:
        return seconds
    paid_for = math.floor(round((most - paid) / machine.dollars * 3600, 3))
    least = min(seconds, SET_UP_SECONDS + _LEAST_SECONDS)
    if paid_for < least:
        before = f", of which {paid:.2f} are spent" if paid else ""
        raise UsageError(
            f"run.max_cost: found {most:g} USD{before}; {machine} costs {machine.dollars * least / 3600:.2f} USD for the "
            f"{least // 60} minutes that setting it up and a little training may take: allow more with --set "
            "run.max_cost=USD, or name a cheaper machine"
        )
    return min(seconds, paid_for)


def pays_for(config: JobSpec, machine: Priced, paid: float) -> bool:
    """Whether what is left is worth a machine."""
    try:
        seconds_of(config, machine, paid)
    except UsageError:
        return False
    return True


def seconds_left(config: JobSpec, machine: Priced, job: Job, who: str) -> int:
    """The same when this job's turn comes, told where what it has cost so far makes it less.

    Raises:
        UsageError: that is not worth a machine.
    """
    most = config.run.max_cost
    if most is None:
        return seconds_of(config, machine, 0.0)
    seconds = seconds_of(config, machine, paid := spent(job))
    if seconds < seconds_of(config, machine, 0.0):
        told = f"{paid:.2f} of {most:g} USD are spent: this machine is asked for {seconds / 3600:.2g} h at most"
        sys.stderr.write(f"{who}: {told}\n")
    return seconds


def words(config: JobSpec, machine: Priced, what: str) -> str:
    """What will be paid; ``what`` is what several machines one after the other are called.

    Raises:
        UsageError: it is more than the job may cost.
    """
    run, hours = config.run, seconds_of(config, machine, 0.0) / 3600
    times = run.auto_continue + 1
    each = f", each of up to {times} {what}" if times > 1 else ""
    in_all = f", {run.max_cost:g} USD in all" if times > 1 and run.max_cost is not None else ""
    return f"{machine}, for {hours:g} h at most {hours * machine.dollars:.2f} USD{each}{in_all}"


def arguments(config: JobSpec, job_uri: str, token: str, seconds: int) -> list[str]:
    """What an attempt is told beside what whoever starts it wants; its machine is there for so many ``seconds``."""
    limit, own = seconds - SET_UP_SECONDS, config.hardware.session_limit
    more = [] if own is not None and own <= limit else ["--set", f"hardware.session_limit={limit}"]
    return [job_uri, "--token", token, *more]
