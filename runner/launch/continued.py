"""Attempts of a job one after the other, as long as machines are taken away and the job makes progress."""

from __future__ import annotations

from collections.abc import Callable

from runner.attempt.again import CUT
from runner.errors import Exit, Reason, State
from runner.job.job import Job
from runner.launch.protocol import Launcher, Orders
from runner.launch.settle import settled
from runner.launch.start import Ended, run


def run_on(
    launcher: Launcher, job: Job, arguments: list[str], most: int, *, quiet: bool, say: Callable[[str], None]
) -> tuple[int, str]:
    """Run an attempt to its end in the foreground, and after one that was cut another, at most ``most`` times
    (``run.auto_continue``); returns the exit code of the last, and what its ID ends with.

    Raises:
        LastrunError: one could not be started, or nobody tells any more what becomes of it.
        KeyboardInterrupt: a signal came before it was started.
    """
    for left in reversed(range(most + 1)):
        ended = run(launcher, job, arguments, quiet=quiet)
        cut = None if ended.asked or not most else _how_it_was_cut(launcher, job, ended)
        if cut is None:
            break
        if left == 0:
            say(f"{cut}; it is not continued: run.auto_continue is {most}")
            break
        if not _has_made_progress(job, ended):
            say(f"{cut}; it is not continued: it has made no progress, and would only be cut again")
            break
        say(f"{cut}; continued by itself ({most - left + 1} of {most}, run.auto_continue)")
        arguments = [word for word in arguments if word != "--takeover"]  # that was meant for who ran before
    return ended.code, ended.token


def _how_it_was_cut(launcher: Launcher, job: Job, ended: Ended) -> str | None:
    """In words; None: it has ended for another reason, is still at work as far as is known, or somebody else has the job. At a
    time limit only who gets another machine goes on: the limit is that of this one."""
    if ended.code == Exit.NO_SUCH_JOB:
        return None
    attempts = settled(job)
    if not attempts or not attempts[-1].id.endswith(f"-{ended.token}"):
        return None
    last = attempts[-1]
    state, _, _ = job.attempts.state(attempts)
    if state is State.LOST and not last.open:
        return f"lost ({last.message or 'it ended without a word'})"
    if last.reason == Reason.TIME_LIMIT.value and not isinstance(launcher, Orders):
        return None
    return last.reason if last.reason in {reason.value for reason in CUT} else None


def _has_made_progress(job: Job, ended: Ended) -> bool:
    """What is stored counts: an attempt that was lost could tell nothing else."""
    attempt, stored = job.attempts.of(ended.token), job.checkpoints.all()
    return attempt is not None and bool(stored) and stored[-1].manifest.step > attempt.resumed_step
