"""What is known of a job, as facts for a screen or for JSON."""

from __future__ import annotations

import time
from collections.abc import Iterator
from itertools import islice
from typing import Any

from runner.errors import LastrunError, NoSuchJobError, State
from runner.job.job import Job
from runner.launch.settle import settled, state_of
from runner.waits import WAITS

FOLLOW_SECONDS = WAITS.follow
READERS = 16
_NEXT = {
    State.QUEUED: "lastrun resume {job}",
    State.RUNNING: "lastrun logs {job}",
    State.LOST: "lastrun resume {job}",
}


def job_status(job: Job) -> dict[str, Any]:
    """Everything about one job."""
    facts = job_summary(job)
    state, attempt, reason = job.state()
    checkpoints = job.checkpoints.all()
    metrics = job.metrics()
    facts.update(
        reason=reason.value if reason else None,
        message=attempt.message if attempt else None,
        next=(reason.ending.advice if reason else _NEXT[state]).format(job=job.reference),
        metrics=metrics[-1] if metrics else None,
        best_epoch=max(metrics, key=lambda m: (m["test_top1"], -m["epoch"]))["epoch"] if metrics else None,
        best_top1=max((m["test_top1"] for m in metrics), default=None),
        checkpoint=checkpoints[-1].name if checkpoints else None,
        checkpoints=len(checkpoints),
        total_steps=int(total) if attempt and (total := attempt.scores.get("total_steps")) is not None else None,
        synced_step=checkpoints[-1].manifest.step if checkpoints else 0,
        progress=job.attempts.heartbeat(attempt) if attempt and state is State.RUNNING else {},
        attempt=None
        if attempt is None
        else {
            "number": attempt.number,
            "id": attempt.id,
            "host": attempt.host,
            "env": attempt.env,
            "container": attempt.container is not None,
        },
        attempts=len(job.attempts.all()),
    )
    facts["step"] = max([stored.manifest.step for stored in checkpoints[-1:]] + [facts["progress"].get("step") or 0])
    facts["epoch"] = max(facts["epoch"], metrics[-1]["epoch"] if metrics else 0)
    return facts


def job_summary(job: Job) -> dict[str, Any]:
    """What a list shows of a job: few reads."""
    record = job.record()
    config = record["config"]
    attempts = settled(job)
    state, attempt, _ = job.attempts.state(attempts)
    scores = attempt.scores if attempt else {}
    last = (job.attempts.heartbeat(attempt).get("last_epoch") or {}) if attempt and not scores else {}
    epoch = int(max(last.get("epoch") or 0, scores.get("epoch") or 0, attempt.resumed_epoch if attempt else 0))
    found = [*(one.scores.get("best_top1") for one in attempts), last.get("test_top1")]
    best = [top1 for top1 in found if top1 is not None]
    return {
        "id": job.id,
        "uri": job.uri,
        "name": record["name"],
        "state": state.value,
        "created_at": record["created_at"],
        "model": config["model.variant"],
        "dataset": config["dataset"],
        "split_type": config["split_type"],
        "env": attempt.env if attempt else config["env"],
        "epoch": epoch,
        "epochs": config["training.epochs"],
        "best_top1": max(best, default=None),
    }


def summaries(jobs: Iterator[Job], limit: int) -> tuple[list[dict[str, Any]], bool]:
    """What a list shows of the first ``limit`` jobs, and whether there are more. Many are read at once, since each waits for
    the network several times."""
    some = list(islice(jobs, limit + 1))
    if not some:
        return [], False
    from concurrent.futures import ThreadPoolExecutor

    shown: list[dict[str, Any]] = []
    with ThreadPoolExecutor(READERS) as readers:
        while some:
            shown += [facts for facts in readers.map(_summary_or_error, some) if facts is not None]
            some = list(islice(jobs, limit + 1 - len(shown)))
    return shown[:limit], len(shown) > limit


def _summary_or_error(job: Job) -> dict[str, Any] | None:
    """A job's summary; one that cannot be read is listed as such, it must not hide the others. None: there is no such job."""
    try:
        return job_summary(job)
    except NoSuchJobError:
        return None
    except (LastrunError, KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        return {"id": job.id, "uri": job.uri, "error": str(error) or type(error).__name__}


def follow_status(job: Job) -> Iterator[dict[str, Any]]:
    """:func:`job_status` every few seconds, the last time when the job no longer runs."""
    while True:
        facts = job_status(job)
        yield facts
        if facts["state"] != State.RUNNING.value:
            return
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
