"""A container and the command that waits for it: what it is given at its start, and what it says until its end."""

from __future__ import annotations

import codecs
import json
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, TextIO

from last_e.process import pass_on
from last_e.text import one_line, plain
from runner.errors import EngineError, Exit, LastrunError, Reason, StoreError
from runner.job.attempts import Attempt
from runner.job.job import Job
from runner.launch.docker import containers
from runner.launch.docker.engine import SHORT_SECONDS, explained, patience
from runner.launch.docker.explain import explain
from runner.signals import LEAVING, handled, interrupt

if TYPE_CHECKING:
    from docker import DockerClient


def hand_over(client: DockerClient, container: str, start: Any, given: dict[str, dict[str, str]]) -> None:
    """Start a container and write variables and files to its standard input: what the engine were told, it would keep in a
    file and show to everybody who may ask it."""
    stream = client.api.attach_socket(container, {"stdin": 1, "stream": 1})
    connection = getattr(stream, "_sock", stream)  # an engine on this machine is read and written through another object
    try:
        start()
        connection.sendall(json.dumps(given).encode() + b"\n")
    except OSError as error:
        raise EngineError(f"the container ended before it took its variables ({error.strerror or error})") from None
    finally:
        stream.close()
        connection.close()


class StartedContainer:
    """See :class:`~runner.launch.protocol.Started`.

    Args:
        job: whose attempt it is.
        container: a running one.
        output: where what it says is copied; None: it is left to itself.
    """

    def __init__(self, job: Job, container: Any, output: TextIO | None) -> None:
        self.cancelled = False
        self._job, self._container = job, container
        self._token = container.labels[containers.ATTEMPT_LABEL]
        self._next_look = math.inf
        self._watch = None if output is None else Watch(container, output)
        if self._watch is not None:
            self._watch.start()

    def _is_its(self, attempt: Attempt) -> bool:
        """By the token, which both carry."""
        return attempt.id.endswith(f"-{self._token}")

    def wait(self, seconds: float) -> int | None:
        """In the foreground until all that it said has been shown."""
        if self._watch is None:
            return self._code_in_the_background()
        self._watch.join(seconds)
        if not self._watch.is_alive():
            with handled(interrupt):
                return self._code(self._watch)
        if time.monotonic() >= self._next_look:
            self._call(self._container.reload)
            self._next_look = time.monotonic() + SHORT_SECONDS
        return None

    def hand_on(self, signum: int) -> None:
        """Who has asked us to leave does not wait for an engine that hangs: it has to take the signal, and from then on to
        answer until the container has ended."""
        self._call(partial(self._container.kill, signal.Signals(signum).name))
        self._next_look = time.monotonic() + SHORT_SECONDS

    @property
    def queued(self) -> str | None:
        """It has begun."""
        return None

    def last_words(self) -> str:
        """The last line of its output."""
        with patience(self._container.client, SHORT_SECONDS), explained():
            words = plain(self._container.logs().decode(errors="replace")).strip().splitlines()
        return words[-1] if words else ""

    def kill(self) -> None:
        """Container and all."""
        with patience(self._container.client, SHORT_SECONDS), explained():
            containers.remove(self._container, force=True)

    def _code_in_the_background(self) -> int | None:
        try:
            with explained():
                removed = containers.is_removed(self._container)
        except EngineError as gone:
            raise self._out_of_sight(gone) from None
        if removed:
            return self._code_of_a_removed_one(self._attempt())
        return int(self._container.attrs["State"]["ExitCode"]) if self._container.status in containers.OVER else None

    def _attempt(self) -> Attempt | None:
        """As the store has it; None also where that does not answer."""
        with suppress(StoreError):
            return next(filter(self._is_its, self._job.attempts.all()), None)
        return None

    def _code(self, watch: Watch) -> int:
        """What the container's end means; where the engine does not tell, as the store has it."""
        attempt = self._attempt()
        if attempt is None or attempt.open:
            with suppress(EngineError), patience(self._container.client, SHORT_SECONDS), explained():
                if containers.is_removed(self._container):
                    return self._code_of_a_removed_one(attempt)
        if watch.error is not None:
            if attempt is None or attempt.open:
                raise self._out_of_sight(watch.error)
            return Reason(attempt.reason).ending.exit_code if attempt.reason else Exit.FAILED
        with suppress(LastrunError), patience(self._container.client, SHORT_SECONDS), explained():
            containers.remove_if_told(self._job, self._container)
        if watch.code - 128 in LEAVING and (attempt is None or attempt.phase == "claiming"):
            return Exit.PAUSED  # it had not taken the job yet: nothing is lost
        return watch.code if watch.code in Exit._value2member_map_ else Exit.FAILED

    def _code_of_a_removed_one(self, attempt: Attempt | None) -> int:
        """The job's record says what happened, for this command and for whoever looks at it."""
        name, job = self._container.name, self._job
        self.cancelled = True
        if attempt is None:
            raise LastrunError(
                f"container {name} was removed before its attempt had the job; lastrun resume {job.reference} begins it"
            )
        try:
            containers.write_removed(job, attempt, name)
        except LastrunError as error:
            raise LastrunError(
                f"container {name} was {containers.REMOVED}; lastrun resume {job.reference} goes on ({error})"
            ) from None
        return Exit.FAILED

    def _call(self, what: Callable[[], object]) -> None:
        """Something that the engine has to answer soon; that the container has ended is an answer, too."""
        from docker.errors import APIError

        try:
            with patience(self._container.client, SHORT_SECONDS), explained(), suppress(APIError):
                what()
        except EngineError as error:
            raise self._out_of_sight(error) from None

    def _out_of_sight(self, error: EngineError) -> EngineError:
        return EngineError(
            f"{error}. lastrun status {self._job.reference} tells what becomes of the job; if it goes on, "
            f"lastrun stop {self._job.reference} has it save and end"
        )


class Watch(threading.Thread):
    """Copies a container's output until it ends, and then knows how. On a thread of its own: an engine that hangs is not to
    keep us from hearing signals."""

    def __init__(self, container: Any, out: Any) -> None:
        super().__init__(name="container", daemon=True)
        self._container, self._out = container, out
        self.code = int(Exit.FAILED)
        self.error: EngineError | None = None

    def run(self) -> None:
        """Until the container ends, or the engine does not tell of it any more: then ``error`` says why."""
        try:
            with explained():
                self._show()
                self.code = int(self._container.wait(timeout=None)["StatusCode"])
        except OSError as error:
            self.error = EngineError(explain(error))
        except EngineError as error:
            self.error = error
        except Exception as error:  # whatever it is: a thread that dies in silence would pass for a container that did well
            self.error = EngineError(f"following the container broke off ({type(error).__name__}: {one_line(error)})")

    def _show(self) -> None:
        for piece in _pieces(self._container):
            if not pass_on(piece, self._out):  # a reader of ours that goes away does not stop the container
                return


def _pieces(container: Any) -> Iterator[str]:
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    for piece in container.logs(stream=True, follow=True):
        yield decoder.decode(piece)
