"""Commands that a page runs: ``lastrun stop`` and ``lastrun resume``, as children, with the very words that it has shown."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import tempfile
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import IO, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from last_e.process import run_module
from last_e.text import plain
from runner.errors import UsageError

_FLAGS = {"stop": ("now",), "resume": ("here", "takeover", "trust", "yes")}
_MOST_OUTPUT = 64 << 10
_MOST_KEPT, _MOST_AT_ONCE = 20, 4


class Order(BaseModel):
    """What somebody asks for; whatever else a command takes is for the command line."""

    model_config = ConfigDict(extra="forbid", strict=True)

    command: Literal["stop", "resume"]
    name: str = Field(max_length=100)
    """Of a job or a group."""
    env: Literal["", "auto", "local", "kaggle", "gcp", "lambda", "a100"] = ""
    flags: list[Literal["here", "now", "takeover", "trust", "yes"]] = Field(default=[], max_length=5)
    only_show: bool = False
    """Tell the words, and run nothing."""

    def words(self, reference: str) -> list[str]:
        """The command's, for what it names as commands find it (quoted for a shell). It leaves a job that it begins in the
        background: it shall outlive the pages.

        Raises:
            UsageError: a flag of another command.
        """
        allowed = _FLAGS[self.command]
        if odd := [flag for flag in self.flags if flag not in allowed]:
            raise UsageError(f"{self.command}: found --{odd[0]}; allowed: --{', --'.join(allowed)}")
        if self.command == "stop" and self.env:
            raise UsageError(f"stop: found --env {self.env}; that is for resume alone")
        resume = ["--detach", *(["--env", self.env] if self.env else [])] if self.command == "resume" else []
        return [self.command, *shlex.split(reference), *resume, *(f"--{flag}" for flag in allowed if flag in self.flags)]


@dataclass
class _Running:
    """One of them."""

    order: Order
    words: list[str]
    process: subprocess.Popen[bytes]
    output: IO[bytes]


class Orders:
    """Those that were begun here, the last of them. ``ended`` is told the name that one was for."""

    def __init__(self, ended: Callable[[str], None]) -> None:
        self._ended, self._lock = ended, threading.Lock()
        self._kept: OrderedDict[int, _Running] = OrderedDict()
        self._number = 0

    def begin(self, order: Order, words: list[str]) -> int:
        """Run a command; its number.

        Raises:
            UsageError: too many of them run.
        """
        with self._lock:
            busy = [one for one in self._kept.values() if one.process.poll() is None]
            if len(busy) >= _MOST_AT_ONCE:
                raise UsageError(f"{len(busy)} commands run already; wait until one has ended")
            # Into a file: it can end as it likes when these pages are gone. In a session of its own: Ctrl-C is not for it.
            output = tempfile.TemporaryFile()  # noqa: SIM115 -- closed when it is forgotten
            process = subprocess.Popen(
                [*run_module("runner"), *words],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            self._number += 1
            number = self._number
            self._kept[number] = _Running(order, words, process, output)
            done = [key for key, one in self._kept.items() if one.process.poll() is not None]
            for key in done[: max(0, len(self._kept) - _MOST_KEPT)]:
                self._kept.pop(key).output.close()
        threading.Thread(target=self._wait, args=(process, order.name), name="order", daemon=True).start()
        return number

    def told(self, number: int) -> dict[str, Any] | None:
        """How it fares, and all that it has said, or the end of that; None: there is no such number any more."""
        with self._lock:
            one = self._kept.get(number)
            if one is None:
                return None
            code = one.process.poll()  # first: what was said before is in the file then
            size = os.fstat(one.output.fileno()).st_size
            said = os.pread(one.output.fileno(), _MOST_OUTPUT, max(0, size - _MOST_OUTPUT)).decode("utf-8", "replace")
        left_out = f"... ({size - _MOST_OUTPUT:,} bytes before)\n" if size > _MOST_OUTPUT else ""
        return {
            "number": number,
            "command": shown(one.words),
            "output": left_out + plain(said),
            "code": code,
            "asks": [] if code in (None, 0) else _asked(one.order, said),
        }

    def _wait(self, process: subprocess.Popen[bytes], name: str) -> None:
        process.wait()
        self._ended(name)


def shown(words: list[str]) -> str:
    """As one would type it."""
    return f"lastrun {shlex.join(words)}"


def _asked(order: Order, said: str) -> list[str]:
    """Flags that a refusal names, which have not been given: what the command would have asked on a terminal, or takes for
    granted once it was said."""
    return [flag for flag in _FLAGS[order.command] if flag not in order.flags and re.search(rf"--{flag}\b", said)]
