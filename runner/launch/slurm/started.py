"""A batch job as the command that has handed it over holds it."""

from __future__ import annotations

import codecs
import signal
import time
from contextlib import suppress
from typing import TextIO

from last_e.text import plain
from runner.errors import EngineError, Exit, LastrunError
from runner.launch.slurm import queue
from runner.launch.slurm.cluster import LOOK_SECONDS, Cluster
from runner.signals import LEAVING

_SHOW_SECONDS = 0.2
_LAST_WORDS = 2000


class StartedBatch:
    """See :class:`~runner.launch.protocol.Started`.

    Args:
        cluster: where it is.
        id: of the Slurm job.
        log: where what the attempt says goes.
        output: where it is to be shown.
    """

    def __init__(self, cluster: Cluster, id: str, log: str, output: TextIO | None) -> None:
        self.cluster, self._id, self._output = cluster, id, output
        self._said, self._next_look, self._next_show, self._heard = "", 0.0, 0.0, time.monotonic()
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._code: int | None = None
        self.cancelled = False
        self._unknown, self._has_said_something = 0, False
        cluster.follow(id, log)

    @property
    def queued(self) -> str | None:
        """It begins when Slurm says so."""
        found = self.cluster.look_now(self._id)
        return None if found is None else str(found)

    def wait(self, seconds: float) -> int | None:
        """What was requeued goes on."""
        time.sleep(min(seconds, max(0.0, self._next_look - time.monotonic())))
        if time.monotonic() >= self._next_show:  # it may be one of many, in a folder on another machine
            self._show()
            self._next_show = time.monotonic() + _SHOW_SECONDS
        if self._code is None and time.monotonic() >= self._next_look:
            self._look()
            self._next_look = time.monotonic() + LOOK_SECONDS
        return self._code

    def hand_on(self, signum: int) -> None:
        """To the batch script, which passes it on. What has not started leaves the queue, and what has not said a word yet is
        ended: a job has its node a while before its script is there, and a signal is lost then."""
        found = self.cluster.look_now(self._id)
        self._show()  # of a login node's cluster a look brings the log along
        if found is not None and found.state in queue.WAITING:
            self.cluster.cancel(self._id)
            self._code = Exit.PAUSED
        elif not self._has_said_something:
            self.cluster.cancel(self._id)
        else:
            self.cluster.send(self._id, "INT" if signum == signal.SIGINT else "TERM")

    def last_words(self) -> str:
        """The end of its log."""
        said = b""
        while new := self.cluster.read(self._id):
            said = (said + new)[-_LAST_WORDS:]
        return said.decode(errors="replace")

    def kill(self) -> None:
        """Out of the queue, or ended."""
        with suppress(LastrunError):
            self.cluster.cancel(self._id)

    def _look(self) -> None:
        try:
            found = self.cluster.look(self._id)
        except EngineError as error:  # its controller is away for a while, and the attempt goes on without
            if time.monotonic() - self._heard > self.cluster.patience:
                raise
            if str(error) != self._said:
                self._said = str(error)
                self._write(f"{error}; the attempt goes on\n")
            return
        self._heard = time.monotonic()
        self._unknown = self._unknown + 1 if found is None else 0
        if found is None and self._unknown < 3:
            return
        if found is None or found.state in queue.ENDED:
            code = self.cluster.exit_code(self._id) if found is not None else None
            ended_well = found is not None and found.state == "COMPLETED"
            self.cancelled = found is not None and found.state == "CANCELLED"
            self.cluster.forget(self._id)
            self._show()
            self._code = 0 if ended_well else self._meant(code or 0)
        elif found.state in queue.WAITING and str(found) != self._said:
            self._said = str(found)
            self._write(f"{found}\n")

    def _meant(self, code: int) -> int:
        """One that a signal ended had not claimed the job yet: else it would have saved and left by itself."""
        if code in Exit._value2member_map_ and code:
            return code
        return Exit.PAUSED if self.cancelled or code - 128 in LEAVING else Exit.FAILED

    def _show(self) -> None:
        """What has come since."""
        while self._output is not None and (new := self.cluster.read(self._id)):
            self._has_said_something = True
            self._write(self._decoder.decode(new))

    def _write(self, text: str) -> None:
        if self._output is not None:
            self._output.write(plain(text))
            self._output.flush()
