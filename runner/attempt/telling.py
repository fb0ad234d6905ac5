"""At an attempt's end those are told that its job names. That is bounded, and nothing else depends on it."""

from __future__ import annotations

import os
import time
from contextlib import suppress

from runner.attempt.leaving import Leaving
from runner.attempt.publish import Publisher
from runner.attempt.voice import Voice
from runner.errors import Reason
from runner.job.attempts import Attempt
from runner.job.job import Job
from runner.spec import NotifyConfig
from runner.waits import WAITS


def unset(config: NotifyConfig) -> list[str]:
    """What of the variables that those are told by is not set here: no reason not to train."""
    missing = {key: name for key, name in config.variables().items() if not os.environ.get(name)}
    return [f"warning: notify.{key}: {name} is not set here, so nobody is told by it" for key, name in missing.items()]


def tell_of_end(
    job: Job,
    attempt: Attempt,
    reason: Reason,
    config: NotifyConfig,
    publisher: Publisher | None,
    voice: Voice,
    leaving: Leaving,
) -> None:
    """Tell how an attempt ended, as long as the end may wait; what goes wrong is a line of its log. Once those who know are
    written down with what else the store gets, ``lastrun watch`` tells only the others."""
    seconds = min(WAITS.notify, leaving.drain_seconds(reason), leaving.haste_until - time.monotonic())
    if seconds <= 0 or not config.wants(reason.value):
        return
    from runner.notify.event import end_of  # most jobs tell nobody
    from runner.notify.notes import Notes
    from runner.notify.tell import tell

    event = end_of(job, attempt, reason)
    found = tell(event, config, seconds)
    unsent = [f"notify.{name}: {why}" for name, why in found.items() if why is not None]
    if unsent:
        voice.say(f"not told: {'; '.join(unsent)}; lastrun watch {job.reference} tells them", "warning")
    if publisher is None:
        return
    notes = Notes(job, event)
    with suppress(OSError):  # the disk is full: they may be told twice
        if told := [name for name, why in found.items() if why is None]:
            publisher.outbox.put(notes.key, notes.content(told))
        publisher.send_log()
        publisher.outbox.drain(min(seconds, 5.0))
