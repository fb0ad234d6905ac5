"""Attempts on hosts of which nobody tells any more: what the store and the host itself still say of them."""

from __future__ import annotations

from dataclasses import dataclass

from runner.errors import Exit, LastrunError, Reason
from runner.job.job import Job
from runner.launch.settle import settled
from runner.launch.ssh import notes
from runner.launch.ssh.connection import Connection
from runner.launch.ssh.setup import Host
from runner.settings import read_settings
from runner.waits import WAITS


class Away:
    """An attempt that is not followed over a connection. See :class:`~runner.launch.protocol.Started`.

    Args:
        job: whose it is.
        own: this command has begun it; one of an earlier command is left alone.
    """

    queued: str | None = None
    cancelled = False

    def __init__(self, job: Job, own: bool) -> None:
        self._job, self.own = job, own
        self.asked = False
        """Whether it is to save and leave."""

    def wait(self, seconds: float) -> int | None:
        """What becomes of it is asked by :func:`verdict`."""
        return None

    def hand_on(self, signum: int) -> None:
        """By way of the store."""
        if self.own:
            self.asked = True
            Job(self._job.store, self._job.id).requests.ask_to_stop(False)

    def last_words(self) -> str:
        """They do not come here."""
        return ""

    def kill(self) -> None:
        """It cannot be reached."""


@dataclass(frozen=True)
class Verdict:
    """What is known of an attempt that gave no sign for a while."""

    code: int | None = None
    """Of one that has ended by its record: what its process ends with."""
    dead: str | None = None
    """Of one that is over and has left no word: how that shows."""
    host_is_gone: bool = False
    """And no other is to begin there."""


def verdict(job: Job, token: str, host: str, seconds: float) -> Verdict:
    """Whether an attempt on a host, started so many seconds ago, is dead by the rules that hold everywhere: by what its host
    says, else when its heartbeat is too old, and so anybody may take its job.

    Raises:
        LastrunError: the store does not tell.
    """
    attempts = settled(job)
    attempt = next((one for one in attempts if one.id.endswith(f"-{token}")), None)
    if attempt is not None and attempt.superseded_by(attempts):
        return Verdict(Exit.CLAIMED)
    if attempt is not None and attempt.phase == "ended":
        return Verdict(int(Reason(attempt.reason).ending.exit_code) if attempt.reason else int(Exit.FAILED))
    if attempt is not None and job.attempts.alive(attempt):
        return Verdict()
    if attempt is None and seconds < WAITS.expiry:  # it may not have claimed the job yet
        return Verdict()
    why, is_at_work = _asked(token, host)
    if why is not None:
        return Verdict(dead=why, host_is_gone=True)
    if is_at_work is False or (is_at_work is None and (attempt is None or attempt.phase == "lost")):
        return Verdict(dead="its process there is gone")
    if attempt is None:
        return Verdict()
    return Verdict(dead="it gives no sign in the store, and may be at work there all the same", host_is_gone=True)


def _asked(token: str, host: str) -> tuple[str | None, bool | None]:
    """Why the host is not reached, else None; and whether the attempt is at work there: None where that is not known here."""
    note = notes.read(token)
    seconds = 2 * WAITS.engine + 10
    try:
        if note is None or note["host"] != host:  # another machine has begun it, or it ran on another host
            Connection(host, read_settings().host(host).ssh).call("true", seconds=seconds)
            return None, None
        return None, bool(Host(host, note["folder"]).ask("state", token, seconds=seconds)["alive"])
    except LastrunError as error:
        return str(error), False
