"""What is known of a job, as facts for a screen or for JSON."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any

from last_e.choosing import chosen_by, heard_of, of_one_kind
from runner.errors import UNREADABLE, LastrunError, NoSuchJobError, Reason, State
from runner.job.attempts import Attempt, from_the_owner
from runner.job.checkpoints import counted
from runner.job.job import Job
from runner.job.paths import step_of
from runner.launch.settle import scratch_places, settle, settled, state_of, waits
from runner.view.wanted import ALL, STOPPING, Wanted
from runner.waits import WAITS

FOLLOW_SECONDS = WAITS.follow
_TOGETHER = 64
"""So many jobs at least are looked at together where not all are wanted."""
_NEXT = {
    State.QUEUED: "lastrun resume {job}",
    State.RUNNING: "lastrun logs {job}",
    State.LOST: "lastrun resume {job}",
}


def job_status(job: Job) -> dict[str, Any]:
    """Everything about one job."""
    return _status(job)[0]


def _status(job: Job) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The same, and a line for each of its epochs. What needs nothing of each other is asked at once: a bucket takes a tenth of
    a second to answer anything."""
    asked: list[Any] = [partial(job.record, again=True), partial(settled, job), job.checkpoints.written]
    record, attempts, written = job.store.in_parallel(asked)
    checkpoints = counted(written, attempts)
    stand, metrics = job.store.in_parallel([partial(_stand, job, attempts), partial(job.metrics, attempts)])
    facts, attempt, state, reason = _summary(job, record, stand), stand.attempt, stand.state, stand.reason
    facts.update(
        reason=reason.value if reason else None,
        message=attempt.message if attempt else None,
        reference=job.reference,
        next=(reason.ending.advice if reason else _NEXT[state]).format(job=job.reference),
        metrics=metrics[-1] if metrics else None,
        best_epoch=max(of_one_kind(metrics), key=lambda m: (chosen_by(m), -m["epoch"]))["epoch"] if metrics else None,
        best_top1=max(map(chosen_by, of_one_kind(metrics)), default=None),
        chosen_on="validation" if metrics and metrics[-1].get("validation_top1") is not None else "test",
        early_stop_epoch=attempt.scores.get("early_stop_epoch") if attempt else None,
        checkpoint=checkpoints[-1].name if checkpoints else None,
        checkpoints=len(checkpoints),
        total_steps=_total_steps(attempt, stand.beat),
        synced_step=checkpoints[-1].manifest.step if checkpoints else 0,
        progress=stand.beat if state is State.RUNNING else {},
        attempt=None
        if attempt is None
        else {
            "number": attempt.number,
            "id": attempt.id,
            "host": attempt.host,
            "env": facts["env"],
            "container": attempt.container is not None,
            "place": place_of(attempt),
        },
        attempts=len(attempts),
        unsent=_unsent(job, stand),
        relay=_relay(job, attempt),
        waits=None if state is State.RUNNING else waits(job),
    )
    if state is State.LOST and (facts["unsent"] or {}).get("folder"):
        facts["next"] = f"lastrun sync {job.reference}"  # its end may be among it: then there is nothing to resume
    if facts["waits"]:
        ends = f"lastrun stop {job.reference} takes it back, or has it leave as it begins"
        facts["next"] = f"lastrun status -w {job.reference} follows it; {ends}"
    if facts["relay"] and facts["relay"]["why"]:
        from runner.launch.ssh.relay import GONE

        facts["next"] = GONE.format(job=job.reference)
    facts["step"] = max([stored.manifest.step for stored in checkpoints[-1:]] + [facts["progress"].get("step") or 0])
    facts["epoch"] = max(facts["epoch"], metrics[-1]["epoch"] if metrics else 0)
    return facts, metrics


def _total_steps(attempt: Attempt | None, beat: dict[str, Any]) -> int | None:
    """As it said at its end; of one that was killed, as its heart said last."""
    total = attempt.scores.get("total_steps") if attempt is not None else None
    total = beat.get("total_steps") if total is None else total
    return None if total is None else int(total)


def _relay(job: Job, attempt: Attempt | None) -> dict[str, Any] | None:
    """Of a job that is kept where it runs: where that is, and how long ago all of it was fetched."""
    if attempt is None or not attempt.is_relayed:
        return None
    from runner.launch.ssh.relay import last_heard, why_silent

    heard = last_heard(job, attempt)
    if heard is None:
        return None
    late = heard > 3 * WAITS.heartbeat
    why = why_silent(attempt) if late else ""
    name = str((attempt.container or {}).get("name"))
    if attempt.launcher == "kaggle":
        from runner.launch.kaggle.kept import page_of

        rest: str | None = f"the rest is fetched once it has ended; {page_of(attempt)}, Cancel Run, ends it without that"
    else:
        rest = f"lastrun sync {job.reference} fetches the rest" if late else None
    return {"host": name, "seconds": heard, "why": why or None, "rest": rest}


def place_of(attempt: Attempt) -> str:
    """Where it runs, or ran."""
    about = attempt.container
    if about is None:
        return attempt.host
    return f"{attempt.host}, {about['what']} {about.get('name')}" if "what" in about else f"{attempt.host}, in a container"


@dataclass(frozen=True)
class _Stand:
    """Where a job is: its state, the attempt that decides it, why that ended, and its last sign of life if it has not."""

    attempts: list[Attempt]
    state: State
    attempt: Attempt | None
    reason: Reason | None
    beat: dict[str, Any]


def _stand(job: Job, attempts: list[Attempt]) -> _Stand:
    silent = [attempt for attempt in from_the_owner(attempts) if attempt.reason is None]
    asked: list[Any] = [
        partial(job.attempts.state, attempts),
        *(partial(job.attempts.heartbeat, attempt) for attempt in silent),
    ]
    (state, attempt, reason), *beats = job.store.in_parallel(asked)
    beat: dict[str, Any] = next((beat for one, beat in zip(silent, beats) if one is attempt), {})
    return _Stand(attempts, state, attempt, reason, beat)


def _unsent(job: Job, stand: _Stand) -> dict[str, Any] | None:
    """What attempts that have ended left on a machine: on this one as it is there, elsewhere by what was heard last."""
    from last_e.manifest import MANIFEST
    from runner.attempt.leftovers import leftovers
    from runner.attempt.outbox import waiting
    from runner.attempt.scratch import OUTBOX

    if stand.state is State.RUNNING:
        return None
    folders = [folder for place in scratch_places(job, stand.attempts) for folder in leftovers(job, place)]
    left = [(folder / OUTBOX, waiting(folder / OUTBOX)) for folder in folders]
    for folder, keys in left:
        if keys:
            steps = [step_of(key) for key in keys if key.endswith(f"/{MANIFEST}")]
            return {"host": None, "folder": str(folder), "objects": len(keys), "step": max(steps, default=None)}
    attempt, beat = stand.attempt, stand.beat
    if attempt is None or attempt.is_here or beat.get("local_step", 0) <= beat.get("synced_step", 0):
        return None
    return {"host": attempt.host, "folder": None, "objects": None, "step": beat["local_step"]}


def job_summary(job: Job) -> dict[str, Any]:
    """What a list shows of a job: few reads."""
    record, attempts = job.store.in_parallel([partial(job.record, again=True), job.attempts.newest])
    if not any("best_epoch" in attempt.scores for attempt in attempts[-1:]):  # the best may be an earlier attempt's
        attempts = job.attempts.all()
    return _summary(job, record, _stand(job, settle(job, attempts)))


def _summary(job: Job, record: dict[str, Any], stand: _Stand) -> dict[str, Any]:
    config, attempt = record["config"], stand.attempt
    scores = attempt.scores if attempt else {}
    last = {} if scores else stand.beat.get("last_epoch") or {}
    epoch = int(max(last.get("epoch") or 0, scores.get("epoch") or 0, attempt.resumed_epoch if attempt else 0))
    found = of_one_kind(
        [*(one.scores for one in stand.attempts if one.scores.get("best_top1") is not None), *([last] if last else [])]
    )
    best = [top1 for one in found if (top1 := one.get("best_top1", heard_of(one))) is not None]
    return {
        "id": job.id,
        "uri": job.uri,
        "name": record["name"],
        "group": record["group"],
        "state": STOPPING if stand.state is State.RUNNING and stand.beat.get("stopping") else stand.state.value,
        "created_at": record["created_at"],
        "model": config["model.variant"],
        "dataset": config["dataset"],
        "split_type": config["split_type"],
        "env": (attempt.env if attempt else None) or config["env"],
        "epoch": epoch,
        "epochs": (attempt.epochs if attempt else None) or config["training.epochs"],
        "best_top1": max(best, default=None),
        "reason": stand.reason.value if stand.reason else None,
        "by": record["by"],
        "seconds_left": stand.beat.get("seconds_left") if stand.state is State.RUNNING else None,
    }


def summaries(jobs: Iterator[Job], limit: int, wanted: Wanted = ALL) -> tuple[list[dict[str, Any]], bool]:
    """What a list shows of the first ``limit`` jobs that are ``wanted``, and whether there are more. Many are read at once,
    since each waits for the network several times."""
    some = list(islice(jobs, limit + 1))
    shown: list[dict[str, Any]] = []
    while some:
        found = some[0].store.in_parallel([partial(summary_or_error, job, wanted) for job in some])
        shown += [facts for facts in found if facts is not None and wanted.takes(facts)]
        left = limit + 1 - len(shown)
        some = list(islice(jobs, max(left, _TOGETHER) if wanted and left > 0 else left))
    return shown[:limit], len(shown) > limit


def summary_or_error(job: Job, wanted: Wanted = ALL) -> dict[str, Any] | None:
    """A job's summary; one that cannot be read is listed as such, it must not hide the others. None: there is no such job, or
    its record says that it is not ``wanted``."""
    try:
        return job_summary(job) if wanted.has_right_record(job) else None
    except NoSuchJobError:
        return None
    except UNREADABLE as error:
        return {"id": job.id, "uri": job.uri, "error": str(error) or type(error).__name__}


def follow_status(job: Job) -> Iterator[dict[str, Any]]:
    """:func:`job_status` every few seconds, with a line for each epoch as ``history``; the last time when the job no longer
    runs."""
    while True:
        facts, history = _status(job)
        yield {**facts, "history": history}
        if not is_at_work(facts):
            return
        time.sleep(FOLLOW_SECONDS)


def is_at_work(status: dict[str, Any]) -> bool:
    """Whether a job runs, by its status."""
    return status["state"] in (State.RUNNING.value, STOPPING)


def running(jobs: Iterable[Job]) -> list[Job]:
    """Those of these that run; one that cannot be read counts as none."""
    return [job for job, state in states(jobs)[0] if state is State.RUNNING]


def states(jobs: Iterable[Job]) -> tuple[list[tuple[Job, State]], list[str]]:
    """Each of these that is there and can be read, with its state, and what keeps the others from being read; one that is
    deleted meanwhile is none of them."""
    found, told = with_their_attempts(jobs)
    return [(job, state) for job, state, _ in found], told


def with_their_attempts(jobs: Iterable[Job]) -> tuple[list[tuple[Job, State, Attempt | None]], list[str]]:
    """The same, with the attempt that decides each one's state."""
    some = list(jobs)
    found = some[0].store.in_parallel([partial(_state_or_problem, job) for job in some]) if some else []
    told = [str(state) for state in found if isinstance(state, LastrunError)]
    return [(job, *stand) for job, stand in zip(some, found) if isinstance(stand, tuple)], told


def _state_or_problem(job: Job) -> tuple[State, Attempt | None] | LastrunError | None:
    try:
        return state_of(job)[:2]
    except NoSuchJobError:
        return None
    except UNREADABLE as error:
        return LastrunError(f"{job.id} cannot be read: {str(error) or type(error).__name__}")


def until_stopped(jobs: list[Job]) -> Iterator[tuple[Job, dict[str, Any]]]:
    """Each of these jobs with :func:`job_status`, once it no longer runs."""
    left = list(jobs)
    while left:
        states = left[0].store.in_parallel([partial(_state_or_problem, job) for job in left])
        for job, state in zip(list(left), states):
            if isinstance(state, LastrunError) or (state and state[0] is State.RUNNING):  # what cannot be read now may be later
                continue
            left.remove(job)
            with suppress(NoSuchJobError):  # somebody has deleted it, and the others are waited for all the same
                yield job, job_status(job)
        if left:
            time.sleep(FOLLOW_SECONDS)


def follow_log(job: Job) -> Iterator[str]:
    """The log so far, then what comes, until the job no longer runs."""
    seen: set[str] = set()
    while True:
        running = state_of(job)[0] is State.RUNNING  # asked first: what is written until then is shown below
        yield from job.log(seen)
        if not running:
            return
        time.sleep(FOLLOW_SECONDS)
