"""An attempt on another machine as the command that has started it holds it; a cut connection is made anew."""

from __future__ import annotations

import codecs
import signal
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import nullcontext, suppress
from typing import IO, TextIO

from last_e.process import pass_on
from last_e.terminal import Above
from last_e.text import plain
from runner.errors import EngineError, Exit, LastrunError, PausedError, Reason
from runner.job.job import Job
from runner.launch.ssh import notes
from runner.launch.ssh.connection import BEGIN, CUT, environment
from runner.launch.ssh.relay import Fetching, Relay
from runner.launch.ssh.runs import GONE, how_it_ended
from runner.launch.ssh.setup import Host
from runner.signals import LEAVING, handled, interrupt

_AGAIN_SECONDS = 2.0
_PATIENCE_SECONDS = 600.0
"""For how long a connection that is cut is made anew."""


class StartedThere:
    """See :class:`~runner.launch.protocol.Started`.

    Args:
        job: whose attempt it is.
        host: where it is.
        token: what its ID ends with.
        output: where what it says is copied; None: it is left to itself.
        relay: fetches what it keeps there, if its store is not there.
    """

    def __init__(self, job: Job, host: Host, token: str, output: TextIO | None, relay: Relay | None = None) -> None:
        self._job, self._host, self._token, self._relay = job, host, token, relay
        self._next_look, self.cancelled = 0.0, False
        self._watch = None if output is None else _Watch(job, host, token, output, relay)
        if self._watch is not None:
            self._watch.start()

    def wait(self, seconds: float) -> int | None:
        """In the foreground until all that it said has been shown."""
        if self._watch is None:
            return self._code_in_the_background()
        self._watch.join(seconds)
        if self._watch.is_alive():
            return None
        if self._watch.error is not None:
            raise EngineError(f"{self._watch.error}. {self._how_it_goes_on()}")
        return self._meant(self._watch.code)

    def hand_on(self, signum: int) -> None:
        """Ctrl-C at a terminal may mean the attempt, or the looking on; of points side by side it means all of them, and no
        thread but the main one may ask."""
        if only_looks_away(signum, None if self._watch is None else self._watch.out):
            raise PausedError(f"{self._job.id} goes on on {self._host.connection.host}. {self._how_it_goes_on()}")
        try:
            self._host.call("signal", self._token, str(int(signum)))
        except EngineError as error:
            raise EngineError(f"{error}. {self._how_it_goes_on()}") from None

    @property
    def queued(self) -> str | None:
        """It has begun."""
        return None

    def last_words(self) -> str:
        """The last line of its output."""
        return str(self._host.ask("state", self._token)["tail"])

    def kill(self) -> None:
        """With the trainer, which ends when its standard input does."""
        self._host.call("end", self._token)
        if self._relay is not None:
            self._relay.to_the_end()
        self._host.call("remove", self._token)
        notes.forget(self._token)

    def _code_in_the_background(self) -> int | None:
        if time.monotonic() < self._next_look:
            return None
        self._next_look = time.monotonic() + _AGAIN_SECONDS
        if self._relay is not None:
            self._relay.pull()
        found = self._host.ask("state", self._token)
        if found["code"] is None:
            return None if found["alive"] else int(Exit.FAILED)
        return self._meant(found["code"])

    def _meant(self, code: int) -> int:
        """One that a signal ended had not claimed the job yet: else it would have saved and left by itself."""
        signum = -code if code < 0 else code - 128
        if signum in LEAVING and code not in Exit._value2member_map_:
            return Exit.PAUSED
        return code if code in Exit._value2member_map_ else Exit.FAILED

    def _how_it_goes_on(self) -> str:
        job = self._job.reference
        return f"lastrun status {job} tells what becomes of it; lastrun stop {job} has it save and end"


class _Watch(threading.Thread):
    """Copies what it says until it ends, over as many connections as that takes."""

    def __init__(self, job: Job, host: Host, token: str, out: TextIO, relay: Relay | None) -> None:
        super().__init__(name="ssh", daemon=True)
        self._job, self._host, self._token, self.out, self._relay = job, host, token, out, relay
        self._offset = 0
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self.code = int(Exit.FAILED)
        self.error: EngineError | None = None

    def run(self) -> None:
        """Until it ends, or no connection comes about any more: then ``error`` says why."""
        try:
            self._follow()
        except LastrunError as error:
            self.error = EngineError(str(error))
        except Exception as error:  # whatever it is: a thread that dies in silence would pass for an attempt that did well
            self.error = EngineError(f"following the attempt broke off ({type(error).__name__})")

    def _follow(self) -> None:
        deadline, told = time.monotonic() + _PATIENCE_SECONDS, False
        fetching = None if self._relay is None else Fetching(self._relay)
        while True:
            before = self._offset
            with tempfile.TemporaryFile() as errors:
                code = self._one_connection(errors)
                errors.seek(0)
                said = errors.read()
            if code == GONE:
                found = self._host.ask("state", self._token)
                if found["alive"] or not found["known"]:
                    raise EngineError(f"{self._host.connection.host}: the attempt is gone and has left no word")
            if code != CUT and code >= 0:
                self.code = int(Exit.FAILED) if code == GONE else code
                if self._relay is not None and fetching is not None:
                    fetching.stop()
                    self._relay.to_the_end()
                with suppress(LastrunError):
                    self._write_its_end(None if code == GONE else code)
                    self._host.call("remove", self._token)
                    notes.forget(self._token)
                return
            if self._offset > before:
                deadline, told = time.monotonic() + _PATIENCE_SECONDS, False
            if not told:
                self._show(
                    f"{self._host.connection.host}: the connection broke; the attempt goes on, and is looked for again\n"
                )
                told = True
            if time.monotonic() > deadline:
                raise self._host.connection.explained(said)
            time.sleep(_AGAIN_SECONDS)

    def _write_its_end(self, code: int | None) -> None:
        """If it could not do that itself. As long as the store does not take it, the host knows, and who looks asks it."""
        job = Job(self._job.store, self._job.id)
        attempt = job.attempts.of(self._token)
        if code is None and attempt is not None and attempt.reason is not None:
            self.code = int(Reason(attempt.reason).ending.exit_code)
        if attempt is not None and attempt.open:
            where = self._host.connection.host
            job.attempts.write_lost(attempt, plain(f"its process on {where} {how_it_ended(code)}"))

    def _one_connection(self, errors: IO[bytes]) -> int:
        command = self._host.connection.command(self._host.script("follow", self._token, str(self._offset)))
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            start_new_session=True,
            bufsize=0,
            env=environment(),
        )
        assert process.stdout is not None
        with process.stdout as pipe:
            greeting = b""
            while BEGIN not in greeting:
                if not (piece := pipe.read(4096)):
                    return process.wait()
                greeting += piece
            piece = greeting.partition(BEGIN)[2]
            while True:
                self._offset += len(piece)
                self._show(self._decoder.decode(piece))
                if not (piece := pipe.read(4096)):
                    return process.wait()

    def _show(self, text: str) -> None:
        pass_on(text, self.out)  # a reader of ours that goes away does not stop the attempt


def only_looks_away(signum: int, output: TextIO | None) -> bool:
    """Whether somebody at a terminal means with Ctrl-C the looking on, and not the attempt: they are asked, where it is quiet
    meanwhile."""
    asks = threading.current_thread() is threading.main_thread() and signum == signal.SIGINT
    if not (asks and sys.stdin.isatty() and sys.stderr.isatty()):
        return False
    with output.screen.aside() if isinstance(output, Above) else nullcontext():
        return not _asked_to_stop()


def _asked_to_stop() -> bool:
    """What Ctrl-C means, from whoever has pressed it; pressed again, it is the answer that changes nothing."""
    sys.stderr.write("\nstop it, so that it saves and ends, or only stop looking? [stop/LOOK] ")
    sys.stderr.flush()
    with handled(interrupt):
        try:
            return sys.stdin.readline().strip().lower() in ("s", "stop")
        except KeyboardInterrupt:
            return False
