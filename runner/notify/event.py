"""What there is to tell of an attempt. The same news has the same ID, whoever tells it and how often: by that a receiver knows
it again."""

from __future__ import annotations

import hashlib
import json
import time
from dataclasses import dataclass, field
from typing import Any

from last_e.redact import redact
from last_e.text import plain
from runner.errors import Reason, State
from runner.job.attempts import Attempt
from runner.job.job import Job

END, LOST, STALLED = "end", "lost", "stalled"
_LONGEST = 500
"""Characters of an attempt's message that are told."""


@dataclass(frozen=True)
class Event:
    """Some news of an attempt.

    Args:
        key: tells it from other news of the same attempt; part of its note's name.
        news: a reason, ``lost`` or ``stalled``: what ``notify.on`` may name.
        at: seconds since the epoch when it happened.
        text: a sentence or two for people, on one line.
        facts: the same for programs.
    """

    key: str
    news: str
    at: float
    text: str
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def id(self) -> str:
        """Made of what it tells of alone."""
        told = json.dumps([self.facts["job"], self.facts["attempt"], self.key])
        return f"msg_{hashlib.sha256(told.encode()).hexdigest()[:32]}"

    @property
    def title(self) -> str:
        """Plain ASCII, a few words."""
        return f"{self.facts['job']} {self.news}"

    @property
    def is_bad(self) -> bool:
        """Whether somebody ought to look."""
        return self.facts["state"] in (State.FAILED.value, State.LOST.value) or self.news == STALLED

    def to_json(self) -> bytes:
        """The same bytes each time."""
        data = {"text": self.text, "news": self.news, **self.facts}
        stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self.at))
        return json.dumps({"id": self.id, "type": f"lastrun.{self.news}", "timestamp": stamp, "data": data}).encode()


def end_of(job: Job, attempt: Attempt, reason: Reason) -> Event:
    """How an attempt ended: for ``reason``, where that is another than its record says."""
    scores = attempt.scores
    said = f"{job.id} {'failed' if reason.ending.state is State.FAILED else reason.ending.state.value}"
    if reason is not Reason.COMPLETED:
        said += f" ({reason.value})"
    kind = "test" if scores.get("validation_top1") is None else "validation"
    if (top1 := scores.get(f"{kind}_top1")) is not None:
        said += f": {kind} top-1 {top1:.2%}"
        if (best := scores.get("best_top1")) is not None:
            said += f", best {best:.2%}"
        if kind != "test" and (test := scores.get("test_top1")) is not None:
            said += f"; test top-1 {test:.2%} with the best epoch's weights"
    if scores.get("total_steps"):
        said += f"; step {scores.get('step') or 0:.0f} of {scores['total_steps']:.0f}"
    said += f"; {attempt}"
    if attempt.message and reason is not Reason.COMPLETED:
        said += f": {attempt.message}"
    if attempt.is_continued and reason.ending.state is State.PAUSED:
        said += "; who follows it may begin another attempt (run.auto_continue)"
    else:
        said += f"; next: {reason.ending.advice.format(job=job.reference)}"
    return _event(job, attempt, END, reason.value, reason.ending.state, attempt.ended_at or time.time(), said)


def loss_of(job: Job, attempt: Attempt, beat: dict[str, Any]) -> Event:
    """Nothing is heard of an attempt any more."""
    at = attempt.ended_at or beat.get("time") or attempt.started_at
    said = (
        f"{job.id} lost: {attempt} ended without a word after {_at(at)}{_reached(beat)}; next: lastrun resume {job.reference}"
    )
    return _event(job, attempt, LOST, LOST, State.LOST, at, said, beat)


def stall_of(job: Job, attempt: Attempt, beat: dict[str, Any]) -> Event:
    """An attempt is alive, and gets no further."""
    at = beat["time"] - beat["idle_seconds"]
    step = int(beat.get("step") or 0)
    said = (
        f"{job.id} stalled: {attempt} has not ended, and has made no step since {_at(at)}{_reached(beat)}; next: lastrun logs "
    )
    return _event(job, attempt, f"{STALLED}-{step:08d}", STALLED, State.RUNNING, at, said + job.reference, beat)


def _event(
    job: Job,
    attempt: Attempt,
    key: str,
    news: str,
    state: State,
    at: float,
    said: str,
    beat: dict[str, Any] | None = None,
) -> Event:
    facts = {
        "job": job.id,
        "attempt": attempt.id,
        "state": state.value,
        "host": attempt.host,
        "launcher": attempt.launcher,
        "message": None if attempt.message is None else _short(attempt.message),
        **{name: (beat or {}).get(name) for name in ("step", "total_steps")},
        **attempt.scores,
        "reference": redact(job.reference),
    }
    return Event(key, news, _as_date(at), _short(said, 3 * _LONGEST), facts)


def _short(text: str, most: int = _LONGEST) -> str:
    text = " ".join(plain(redact(text)).split())
    return text if len(text) <= most else f"{text[: most - 3]}..."


def _reached(beat: dict[str, Any]) -> str:
    return f", at step {beat['step']} of {beat['total_steps']}" if beat.get("total_steps") else ""


def _at(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(_as_date(seconds)))


def _as_date(seconds: float) -> float:
    """The nearest that has a date: a record may be damaged."""
    return max(0.0, min(seconds, 1e11))
