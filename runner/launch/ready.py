"""What it takes to go on with a job: whether that makes sense, what it would run with, what its attempt is told."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from last_e.layers import Resolved
from runner.errors import ClaimedError, Reason, State, UsageError
from runner.job.attempts import Attempt
from runner.job.carry import refuse_running
from runner.job.job import Job
from runner.launch.protocol import Launcher
from runner.launch.ssh import relay
from runner.launch.start import make_launcher
from runner.resolve import absolute_settings, resolve_attempt
from runner.settings import read_settings
from runner.spec import JobSpec
from runner.trust import Trust, see_that_it_is_taken, words

if TYPE_CHECKING:
    from last_e.resume import Change


Stand = tuple[State, Attempt | None, Reason | None]
"""What :meth:`runner.job.attempts.Attempts.state` tells."""


@dataclass(frozen=True)
class How:
    """How somebody wants to go on."""

    env: str | None = None
    settings: tuple[str, ...] = ()
    allow_change: tuple[str, ...] = ()
    takeover: bool = False
    launcher: str | None = None
    here: bool = False
    on: tuple[str, ...] = ()
    """Hosts that ssh reaches, to which points of a group are dealt out."""
    shut_down: bool = False
    """Whether somebody has said himself that the machine may be switched off afterwards."""

    def at(self, host: str) -> How:
        """The same on one of them."""
        env = self.env or read_settings().host(host).env
        launcher = self.launcher or "ssh"
        return replace(self, env=env, launcher=launcher, settings=(*self.settings, f"run.host={json.dumps(host)}"), on=())

    def words(self) -> list[str]:
        """The same as arguments of a command."""
        arguments = [*(["--here"] if self.here else []), *(["--takeover"] if self.takeover else [])]
        arguments += ["--yes-shut-down"] if self.shut_down else []
        arguments += [] if self.env is None else ["--env", self.env]
        arguments += [] if not self.on else ["--on", ",".join(self.on)]
        arguments += [] if self.launcher is None else ["--launcher", self.launcher]
        for word in absolute_settings(self.settings):
            arguments += ["--set", word]
        for word in self.allow_change:
            arguments += ["--allow-change", word]
        return arguments


@dataclass(frozen=True)
class Ready:
    """A job that can go on."""

    resolved: Resolved[JobSpec]
    changes: list[Change]
    launcher: Launcher
    values: dict[str, Any]
    """What it brings along that is more than learning."""
    arguments: list[str]
    """For its attempt."""


def ready(
    job: Job, attempts: list[Attempt], how: How, trust: Trust, stand: Stand | None = None, *, copied: bool = False
) -> Ready:
    """See that it makes sense to go on with a job; ``stand`` is its state, where that has just been read. With ``copied`` it is
    in a store that can only be read, and goes on as a copy elsewhere.

    Raises:
        UsageError: it does not, or asks for what its user has not taken.
        ClaimedError: somebody is at it.
        ConfigError: it cannot go on so.
    """
    config, origins, _ = job.settings(attempts)
    resolved, changes = resolve_attempt(
        config, origins, how.env, how.settings, how.allow_change, how.launcher, takes=trust.takes, options=trust.options
    )
    state, attempt, reason = stand or job.attempts.state(attempts)
    if reason is not None and not reason.ending.resumable and state is not State.SUCCEEDED and not how.allow_change:
        raise UsageError(
            f"{job.id} ended as {reason.value}: going on unchanged would end the same way; {reason.ending.advice}, "
            f"or go on with --set KEY=VALUE --allow-change KEY"
        )
    if state is State.SUCCEEDED and not how.allow_change:
        raise UsageError(
            f"{job.id} is complete: there is nothing to go on with; lastrun status {job.reference} shows its result"
        )
    if (
        state is State.SUCCEEDED
        and attempt is not None
        and (would := _what_more(resolved, changes, attempt, config)) is not None
    ):
        raise UsageError(f"{job.id} is complete, and this changes nothing of it: {would}")
    if copied and not how.takeover:
        refuse_running(job, attempts)
    elif state is State.RUNNING and attempt is not None and not how.takeover:
        raise ClaimedError(
            f"{job.id} is being run by {attempt}{relay.words(job, attempt)}; lastrun status -w {job.reference} follows it, "
            f"lastrun stop {job.reference} has it save and leave, --takeover takes it over"
        )
    values = see_that_it_is_taken(resolved, trust)
    return Ready(resolved, changes, make_launcher(resolved.config), values, [*words(values), *how.words()])


def _what_more(resolved: Resolved[JobSpec], changes: list[Change], attempt: Attempt, config: dict[str, Any]) -> str | None:
    """What would have a job that is complete go on; None: this does."""
    epochs, early = resolved.config.training.epochs, attempt.scores.get("early_stop_epoch")
    if early is not None:
        if any(change.key in ("training.patience", "training.min_delta") for change in changes):
            return None
        how = "--set training.patience=N --allow-change training.patience"
        return f"more patience would, with {how} (it ended early, after epoch {early:.0f})"
    if epochs > (attempt.epochs or config["training.epochs"]):
        return None
    how = "--set training.epochs=N --allow-change training.epochs"
    return f"more epochs would, with {how} (it has trained {epochs})"
