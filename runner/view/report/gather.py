"""What the store has of a job, as far as its report shows it."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

from last_e.choosing import chosen_by, of_one_kind
from last_e.metrics import read_metrics
from last_e.predictions import MOST_BYTES, Predictions, read_predictions
from runner.attempt.report import Own
from runner.errors import DamagedObjectError, MissingKeyError, Reason, State
from runner.job.attempts import Attempt
from runner.job.job import Job
from runner.launch.settle import settled

_MOST_METRICS = 16 << 20


@dataclass(frozen=True)
class Material:
    """Of one job."""

    job: Job
    record: dict[str, Any]
    config: dict[str, Any]
    """As the next attempt would begin with it,"""
    origins: dict[str, str]
    """and where each value comes from."""
    state: State
    attempt: Attempt | None
    """The one that decides the state,"""
    reason: Reason | None
    """and why it ended."""
    attempts: list[Attempt]
    """Oldest first."""
    beats: dict[str, dict[str, Any]]
    """Last heartbeats, by the attempt's ID."""
    epochs: list[dict[str, Any]]
    """A line per epoch; an attempt's replace those of epochs that it trained again."""
    trained_by: list[str]
    """The attempt of each."""
    best: dict[str, Any] | None
    """The epoch with the best score, of equal ones the first."""
    predictions: Predictions | None
    why_no_predictions: str

    @property
    def ranks_by(self) -> str:
        """By which figure of an epoch the best is chosen."""
        return scored_by(self.epochs)


def scored_by(epochs: list[dict[str, Any]]) -> str:
    """``validation_top1`` of a job that validates, else ``test_top1``."""
    return "validation_top1" if epochs and epochs[-1].get("validation_top1") is not None else "test_top1"


def gather(job: Job, own: Own | None = None, *, with_predictions: bool = True) -> Material:
    """Read what a report of the job needs; with ``own``, for the attempt that ends; perhaps without what the best epoch says of
    each clip, which may be as large as all else.

    Raises:
        NoSuchJobError, StoreError: it is not there, or cannot be read.
    """
    record, attempts = job.store.in_parallel([partial(job.record, again=True), partial(_attempts, job, own)])
    config, origins, _ = job.settings(attempts)
    others = [attempt for attempt in attempts if own is None or attempt.id != own.attempt.id]
    found = job.store.in_parallel(
        [partial(_state, job, attempts, own)]
        + [partial(job.attempts.heartbeat, attempt) for attempt in others]
        + [partial(_bytes, job, job.paths.metrics(attempt.id), _MOST_METRICS) for attempt in others]
    )
    (state, attempt, reason), rest = found[0], found[1:]
    beats = {one.id: beat for one, beat in zip(others, rest)}
    texts = {one.id: (data or b"").decode("utf-8", "replace") for one, data in zip(others, rest[len(others) :])}
    if own is not None:
        beats[own.attempt.id], texts[own.attempt.id] = own.beat, own.metrics
    epochs, trained_by = _merged(attempts, texts)
    pairs = list(zip(epochs, trained_by))
    chosen = max(of_one_kind(epochs), key=chosen_by, default=None)
    best, author = next((pair for pair in pairs if pair[0] is chosen), (None, None))
    if epochs and scored_by(epochs) != "test_top1" and epochs[-1].get("test_top1") is not None:
        author = trained_by[-1]  # which has tested the best epoch's weights at the end
    predictions, why = _predictions(job, author, own) if with_predictions else (None, "")
    return Material(
        job, record, config, origins, state, attempt, reason, attempts, beats, epochs, trained_by, best, predictions, why
    )


def _attempts(job: Job, own: Own | None) -> list[Attempt]:
    if own is None:
        return settled(job)
    return [own.attempt] if own.attempt.number == 1 else job.attempts.beside(own.attempt)


def _state(job: Job, attempts: list[Attempt], own: Own | None) -> tuple[State, Attempt | None, Reason | None]:
    if own is None or own.attempt.reason is None:
        return job.attempts.state(attempts)
    reason = Reason(own.attempt.reason)
    return reason.ending.state, own.attempt, reason


def _merged(attempts: list[Attempt], texts: dict[str, str]) -> tuple[list[dict[str, Any]], list[str]]:
    merged: list[tuple[dict[str, Any], str]] = []
    for attempt in attempts:
        if lines := read_metrics(texts[attempt.id]):
            merged = [pair for pair in merged if pair[0]["epoch"] <= attempt.resumed_epoch]
            merged += [(line, attempt.id) for line in lines]
    return [line for line, _ in merged], [by for _, by in merged]


def _predictions(job: Job, author: str | None, own: Own | None) -> tuple[Predictions | None, str]:
    """What the best epoch said of each clip, or why that is not known; ``author``: the attempt that has trained it."""
    if author is None:
        return None, "No epoch has been scored yet."
    anew = f"lastrun evaluate {job.reference} scores the best checkpoint anew."
    try:
        if own is not None and author == own.attempt.id:
            data = own.predictions
        else:
            data = _bytes(job, job.paths.predictions(author), MOST_BYTES)
        if data is None:
            number = int(author.partition("-")[0])
            return None, f"Attempt {number}, which trained the best epoch, has kept none (older versions did not). {anew}"
        return read_predictions(data), ""
    except (ValueError, DamagedObjectError) as error:
        return None, f"What the store has of them is damaged, or of another version ({error}). {anew}"


def _bytes(job: Job, key: str, most: int) -> bytes | None:
    with suppress(MissingKeyError):
        return job.store.get(key, most)
    return None
