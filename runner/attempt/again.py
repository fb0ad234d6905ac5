"""Whether an attempt that its session's end has cut is begun anew by what has started it."""

from __future__ import annotations

from runner import machine
from runner.errors import Reason
from runner.job.job import Job

CUT = (Reason.TIME_LIMIT, Reason.PREEMPTED)


def why_not_again(job: Job, most: int) -> str | None:
    """What is against it, in words; None: nothing. It is begun anew ``most`` times (``run.max_requeues``).

    Raises:
        StoreError: the store does not answer.
    """
    about = machine.container() or {}
    attempts = job.attempts.all()
    mine = [one for one in attempts if one.container and one.container.get("name") == about.get("name")]
    if not mine or mine[-1] is not attempts[-1]:
        return "another attempt has taken the job"
    last = mine[-1]
    if last.reason not in {reason.value for reason in CUT}:
        return f"it ended as {last.reason}"
    if int(about.get("restart", 0)) >= most:
        return f"run.max_requeues is {most}"
    if (last.scores.get("step") or 0) <= last.resumed_step:
        return "it has made no progress: it would only wait and be cut again"
    return None
