"""Jobs of a store watched for what their attempts cannot tell themselves: that one is lost, that it gets no further, and what
it could not send when it ended."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from pydantic import ValidationError

from last_e.layers import set_by
from last_e.redact import keep_secret
from runner import kaggle
from runner.errors import LOST, UNREADABLE, LastrunError, MissingKeyError, NoSuchJobError, State
from runner.job.attempts import Attempt
from runner.job.job import Job
from runner.launch.settle import settled
from runner.notify.event import Event, end_of, loss_of, stall_of
from runner.notify.notes import Notes
from runner.notify.tell import tell
from runner.spec import JobSpec, NotifyConfig
from runner.trust import Trust, table
from runner.waits import WAITS

GRACE_SECONDS = 2 * WAITS.notify
"""An attempt that has ended tells that itself first."""
NEWS_SECONDS = 3 * 86400.0
"""What is older is no news."""
_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 60.0, 3600.0


@dataclass
class Told:
    """What came of one look."""

    event: Event
    told: list[str]
    """Keys of ``notify`` that name those who know now, and did not before."""
    failed: dict[str, str]
    """The others, each with the reason."""

    def facts(self) -> dict[str, Any]:
        """The same for programs."""
        about = {"id": self.event.id, "news": self.event.news, "job": self.event.facts["job"], "text": self.event.text}
        return {**about, "told": self.told, "failed": self.failed}


@dataclass
class _Again:
    """When some news that could not be told are tried once more."""

    at: float = 0.0
    pause: float = _FIRST_PAUSE_SECONDS

    def later(self) -> None:
        self.at = time.monotonic() + self.pause
        self.pause = min(2 * self.pause, _LONGEST_PAUSE_SECONDS)


@dataclass
class Watch:
    """Looks at jobs, as often as it is asked to.

    Args:
        stalled_after: seconds without a step after which an attempt that runs is said to stall.
        trust_all: take from now on what the jobs name of whom to tell, whoever has written them. May be
            changed between looks; a job that was refused once stays so.
        are_named: whether the jobs were named one by one: then one that tells nobody is worth a word.
    """

    stalled_after: float
    trust_all: bool = False
    are_named: bool = False
    by: str = field(default_factory=lambda: secrets.token_hex(8))
    notes: list[str] = field(default_factory=list)
    """What people should know; taken by whoever shows it."""
    _jobs: dict[str, Job] = field(default_factory=dict)
    """With what has been read of them and cannot change."""
    _configs: dict[str, NotifyConfig | None] = field(default_factory=dict)
    _over: dict[str, str] = field(default_factory=dict)
    """Jobs of which nothing is left to be told, with their last attempt."""
    _again: dict[str, _Again] = field(default_factory=dict)
    _noted: set[str] = field(default_factory=set)

    def look(self, jobs: Iterable[Job]) -> tuple[list[Told], bool]:
        """Look at jobs of one store; what was told, and whether anything may come of any of them. What cannot be read is looked
        at the next time."""
        some = [self._jobs.setdefault(job.uri, job) for job in jobs]
        found = some[0].store.in_parallel([partial(self._look, job) for job in some]) if some else []
        told = [self._tell(job, event, config) for job, (event, config, _) in zip(some, found) if event is not None]
        return [one for one in told if one is not None], any(goes_on for _, _, goes_on in found)

    def _look(self, job: Job) -> tuple[Event | None, NotifyConfig, bool]:
        """What there is to tell of a job, whom, and whether there may be more."""
        nobody = NotifyConfig()
        try:
            config = self._config(job)
            if config is None:
                return None, nobody, False
            names = job.attempts.names()
            if names and self._over.get(job.uri) == names[-1]:
                return None, config, False
            event, is_over = self._news(job)
        except NoSuchJobError:
            return None, nobody, False
        except (*UNREADABLE, OSError) as error:  # of one job: the others are told all the same
            self._note(f"{job.id} cannot be read: {str(error) or type(error).__name__}")
            return None, nobody, True
        if is_over and event is None and names:
            self._over[job.uri] = names[-1]
        return event, config, not is_over or event is not None

    def _news(self, job: Job) -> tuple[Event | None, bool]:
        """The newest that may have to be told, and whether the job stays as it is unless somebody goes on with it."""
        state, attempt, reason = job.attempts.state(settled(job))
        config = self._configs[job.uri]
        if attempt is None or config is None:
            return None, False
        beat = {} if reason is not None else job.attempts.heartbeat(attempt)
        if reason is not None:
            event, is_over = end_of(job, attempt, reason), True
            if reason in LOST:
                return None, True
            if not self._had_its_time(job, attempt):
                return None, False
        elif state is State.LOST:
            event, is_over = loss_of(job, attempt, beat), True
        elif self._idle_seconds(job, attempt, beat) >= self.stalled_after:
            event, is_over = stall_of(job, attempt, beat), False
        else:
            return None, False
        if not config.wants(event.news) or time.time() - event.at > NEWS_SECONDS or self._knows(job, event, config):
            return None, is_over
        return event, is_over

    def _idle_seconds(self, job: Job, attempt: Attempt, beat: dict[str, Any]) -> float:
        """How long it has made no step, by its heart, which may be silent itself: a process that is stopped is alive."""
        if beat.get("idle_seconds") is None:  # no beat yet, or of an older version
            return 0.0
        return float(beat["idle_seconds"]) + max(0.0, job.store.age(job.paths.heartbeat(attempt.id)))

    def _had_its_time(self, job: Job, attempt: Attempt) -> bool:
        """Whether an attempt that has ended must have told it by now."""
        with suppress(MissingKeyError):  # an older version's end lies elsewhere
            return job.store.age(job.paths.end(attempt.id)) > GRACE_SECONDS
        return True

    def _knows(self, job: Job, event: Event, config: NotifyConfig) -> bool:
        return set(config.targets()) <= set(Notes(job, event).read().told)

    def _tell(self, job: Job, event: Event, config: NotifyConfig) -> Told | None:
        """Tell it, unless somebody else is at it, or it failed a moment ago."""
        again = self._again.setdefault(event.id, _Again())
        if time.monotonic() < again.at:
            return None
        notes = Notes(job, event)
        try:
            note = notes.read()
            if notes.is_at_work(note) or not notes.take(note, self.by):
                return None
            found = tell(event, config, WAITS.notify, already=note.told)
            told = [name for name, why in found.items() if why is None]
            job.store.put(notes.key, notes.content([*note.told, *told]))
        except LastrunError as error:
            self._note(f"{job.id}: who has been told cannot be written down: {error}")
            again.later()
            return None
        failed = {name: why for name, why in found.items() if why is not None}
        if failed:
            again.later()
        return Told(event, told, failed)

    def _config(self, job: Job) -> NotifyConfig | None:
        """Whom a job names, as far as this user has taken that; None: nobody."""
        if job.uri not in self._configs:
            values = {key: value for key, value in job.record()["config"].items() if key.startswith("notify.")}
            self._configs[job.uri] = self._taken(job, values)
        return self._configs[job.uri]

    def _taken(self, job: Job, values: dict[str, Any]) -> NotifyConfig | None:
        try:
            config = NotifyConfig.model_validate({key.partition(".")[2]: value for key, value in values.items()})
        except ValidationError:
            self._note(f"{job.id}: whom it tells is damaged, or of another version of lastrun: nobody is told of it")
            return None
        if not config.targets():
            if self.are_named:
                self._note(f"{job.id} names nobody to tell: notify.slack, notify.mail and the like in its file do")
            return None
        who, trust = set_by(JobSpec), Trust(job.store.uri)
        named = {key: value for key, value in values.items() if who[key].who == "asks" and value is not None}
        refused = {key: value for key, value in named.items() if not trust.takes(key, value)}
        if refused and not self.trust_all:
            self._note(
                f"{job.id} names whom you alone decide to tell; you have not given it from here, and others may write to "
                f"{job.store.uri}. Nobody is told of it.\n{table(refused)}\n"
                f"lastrun watch {job.reference} --trust takes it, and remembers that for this store"
            )
            return None
        if refused:
            trust.remember(refused)
            self._note(f"taken from {job.id}, and remembered for {job.store.uri}:\n{table(refused)}")
        kaggle.take_secrets(config.variables().values())
        keep_secret(config.variables().values())
        return config

    def _note(self, words: str) -> None:
        """Once."""
        if words not in self._noted:
            self._noted.add(words)
            self.notes.append(words)
