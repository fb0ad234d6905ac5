"""A data file of this machine, sent to a host over its connection, and told how far it is."""

from __future__ import annotations

import subprocess
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress

from runner.errors import EngineError
from runner.launch.ssh.connection import CUT, CutError, environment, last_error
from runner.launch.ssh.sent import AGAIN, Local
from runner.launch.ssh.setup import Host

Watch = Callable[[str, int, int], None]
_PIECE_BYTES = 1 << 17
_TELL_SECONDS = 5.0
_AGAIN_SECONDS = 2.0
_TRIES = 10
"""How often a connection that brings nothing any more is made anew."""


def send(host: Host, data: Local, say: Callable[[str], None], watch: Watch | None = None) -> str:
    """Send it, unless it is there; returns where it is. A connection that breaks is made anew, and what has come counts.
    ``watch`` is told what is sent, how many bytes of it are there, and of how many; without it that is said now and then.

    Raises:
        EngineError: it does not get there.
    """
    name, tries, before = host.connection.host, 0, -1
    while True:
        try:
            found = host.ask("have", data.sha256, data.path.name)
            if found["whole"]:
                return str(found["path"])
            if found["bytes"] > before:
                before, tries = found["bytes"], 0
            _send_rest(host, data, found["bytes"], say, watch)
        except CutError as error:
            tries += 1
            if tries > _TRIES:
                raise EngineError(f"{error}; what has come of {data.path.name} stays there, and is gone on with") from None
            say(f"{name}: the connection broke while {data.path.name} was sent; going on with it")
            time.sleep(_AGAIN_SECONDS)


def _send_rest(host: Host, data: Local, offset: int, say: Callable[[str], None], watch: Watch | None) -> None:
    name, told = host.connection.host, time.monotonic()
    say(f"{name}: sending {data.path.name}, {data.size / 1e6:.1f} MB{f', from {offset / 1e6:.1f} on' if offset else ''}")
    command = host.connection.command(host.script("receive", data.sha256, data.path.name, str(offset), str(data.size)))
    with tempfile.TemporaryFile() as errors, data.path.open("rb") as file:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=errors,
            start_new_session=True,
            env=environment(),
        )
        assert process.stdin is not None
        try:
            file.seek(offset)
            with suppress(BrokenPipeError), process.stdin as pipe:
                while piece := file.read(_PIECE_BYTES):
                    pipe.write(piece)
                    if watch is not None:
                        watch(f"{data.path.name} to {name}", file.tell(), data.size)
                    elif time.monotonic() - told > _TELL_SECONDS:
                        told = time.monotonic()
                        say(f"{name}: {file.tell() / 1e6:.1f} of {data.size / 1e6:.1f} MB")
            code = process.wait()
        except BaseException:  # somebody wants to leave: what has come stays
            process.kill()
            process.wait()
            raise
        errors.seek(0)
        said = errors.read()
    if code == CUT or code < 0:
        raise host.connection.explained(said)
    if code not in (0, AGAIN):
        raise EngineError(f"{name}: {last_error(said) or f'it ended with code {code}'}")
