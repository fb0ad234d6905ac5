"""Attempts of a job one after the other, as long as machines are taken away and the job makes progress."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from runner.attempt.again import CUT
from runner.errors import Exit, Reason
from runner.job.attempts import Attempt
from runner.job.job import Job
from runner.launch.heard import heard
from runner.launch.protocol import Launcher, Orders
from runner.launch.settle import settled
from runner.launch.start import Ended, Look, run

_TOLD = (Exit.USAGE, Exit.NO_SUCH_JOB, Exit.STORE, Exit.CLAIMED, Exit.PAUSED, Exit.INTERRUPTED_TWICE)
"""Codes with which an attempt ends that has not died: the store may hear of it later."""


def run_on(
    launcher: Launcher,
    job: Job,
    arguments: list[str],
    most: int,
    *,
    quiet: bool,
    say: Callable[[str], None],
    look: Look | None = None,
) -> tuple[int, str]:
    """Run an attempt to its end in the foreground, and after one that was cut another, at most ``most`` times
    (``run.auto_continue``), each as :func:`runner.launch.start.run` does; returns the exit code of the last, and what its ID
    ends with.

    Raises:
        LastrunError: one could not be started, or nobody tells any more what becomes of it.
        KeyboardInterrupt: a signal came before it was started.
    """
    first = [word for word in arguments if word != "--takeover"]  # that is meant for who runs now
    known = job.requests.keys() if most else []
    for left in reversed(range(most + 1)):
        ended = run(launcher, job, arguments, quiet=quiet, look=look)
        if not most or ended.asked or ended.code == Exit.DONE:
            break
        before, known = known, job.requests.keys()
        cut = _how_it_was_cut(launcher, job, ended)
        if cut is None or set(known) - set(before):  # who asks one that is leaving already means the job
            break
        if left == 0:
            say(f"{cut}; it is not continued: run.auto_continue is {most}")
            break
        if not _has_made_progress(job, ended):
            say(f"{cut}; it is not continued: it has made no progress, and would only be cut again")
            break
        say(f"{cut}; continued by itself ({most - left + 1} of {most}, run.auto_continue)")
        arguments = [*first, *heard(known)]
    return ended.code, ended.token


def may_go_on(attempt: Attempt | None, seconds: float = math.inf) -> bool:
    """Whether who follows this attempt, the last of its job, may just be about to begin another, by what the store tells: one
    that has ended so few seconds ago."""
    if attempt is None or not attempt.is_continued or time.time() - (attempt.ended_at or time.time()) > seconds:
        return False
    return attempt.phase == "lost" or attempt.reason in {reason.value for reason in CUT}


def _how_it_was_cut(launcher: Launcher, job: Job, ended: Ended) -> str | None:
    """In words; None: it has ended for another reason, is still at work as far as is known, or somebody else has the job. At a
    time limit only who gets another machine goes on: the limit is that of this one."""
    if ended.code == Exit.NO_SUCH_JOB:
        return None
    attempts = settled(job)
    if not attempts or not attempts[-1].id.endswith(f"-{ended.token}"):
        return None
    last: Attempt | None = attempts[-1]
    if last is not None and last.open and ended.code not in _TOLD and (last := job.attempts.again(last)) and last.open:
        # Its heart was heard of just now, and who followed it has seen it end.
        job.attempts.write_lost(last, f"it ended with code {ended.code}, and without a word")
        last = job.attempts.again(last)
    if last is None:
        return None
    if last.phase == "lost" and ended.code in _TOLD:
        return None
    if last.phase == "lost":
        return f"lost ({last.message or 'it ended without a word'})"
    if last.reason == Reason.TIME_LIMIT.value and not isinstance(launcher, Orders):
        return None
    return last.reason if last.reason in {reason.value for reason in CUT} else None


def _has_made_progress(job: Job, ended: Ended) -> bool:
    """What is stored counts: an attempt that was lost could tell nothing else."""
    attempt = job.attempts.of(ended.token)
    return attempt is not None and any(
        stored.attempt == attempt.id and stored.manifest.step > attempt.resumed_step for stored in job.checkpoints.all()
    )
