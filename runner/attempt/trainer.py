"""The child that trains: started, heard, asked to save, ended; and what its end means."""

from __future__ import annotations

import json
import math
import os
import queue
import signal
import subprocess
import threading
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import IO, Any

from last_e import events
from last_e.config import MOST_RANKS, micro_batches
from last_e.manifest import NO_CHECKPOINT, STANDS
from last_e.process import ended_by, run_module, start_with_pipes
from last_e.redact import redact
from runner import machine
from runner.attempt.nodes import all_nodes
from runner.errors import LOST, Reason
from runner.job.attempts import Attempt
from runner.spec import JobSpec

Inbox = queue.Queue[tuple[str, str | None]]
"""Lines with their kind. Of the trainer: ``event`` (its standard output) and ``text`` (its standard error), None at the end of
each. Of others: ``note`` (to be told) and ``heard`` (from another machine)."""
LONGEST_LINE = 1 << 20
"""What is longer, a library's dump perhaps, is several lines."""
PIPES = ("event", "text")
# How the trainer names what the runner has a reason for.
_REASONS = {
    "data_missing": "data_error",
    "data_damaged": "data_error",
    "data_changed": "data_error",
    "bad_usage": "config_error",
    events.NOT_BEGUN: events.RANK_LOST,
}


class Trainer:
    """One child after another, if a checkpoint turns out to be damaged, on the attempt's own GPUs."""

    def __init__(self, inbox: Inbox, gpus: Sequence[str] = ()) -> None:
        self._inbox = inbox
        self._variables = {"CUDA_VISIBLE_DEVICES": ",".join(gpus)} if gpus else {}
        self._process: subprocess.Popen[str] | None = None
        self._memory_kills = machine.memory_kills()
        self.ended: events.Ended | None = None
        self.last_error = ""

    def start(self, command: list[str]) -> None:
        """Start it; what it says goes to the inbox. It has a session of its own, so that Ctrl-C reaches it only
        through us, and its standard input ends when we do."""
        self._process = start_with_pipes(command, {**os.environ, **self._variables})
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        for kind, pipe in zip(PIPES, (self._process.stdout, self._process.stderr)):
            threading.Thread(target=self._read, args=(kind, pipe), name=f"read-{kind}", daemon=True).start()

    @property
    def runs(self) -> bool:
        """Whether there is one that has not ended."""
        return self._process is not None and self._process.poll() is None

    def ask_to_save(self) -> None:
        """Ask it to save and leave."""
        if self._process is not None and self.runs:
            self._process.send_signal(signal.SIGTERM)

    def kill_soon(self) -> None:
        """End it at once, without waiting for that; a handler of signals may call this."""
        if self._process is not None:
            self._process.kill()

    def kill(self) -> None:
        """End it at once."""
        if self._process is not None and self.runs:
            self._process.kill()
            self._process.wait()

    def wait(self) -> int:
        """Its exit code, once it has ended."""
        assert self._process is not None
        return self._process.wait()

    def verdict(self, asked: Reason | None, *, saved: bool) -> tuple[Reason, str]:
        """Why it ended, with a message: from what it was ``asked``, what it said and how its process ended. ``saved``: there is
        a checkpoint, of it or of an earlier one."""
        code = self.wait()
        out_of_memory = machine.memory_kills() > self._memory_kills
        if self.ended is not None:
            if self.ended.reason in (events.RANK_LOST, events.NOT_BEGUN) and (asked is not None or out_of_memory):
                return asked or Reason.OUT_OF_MEMORY, self.ended.message
            name = _REASONS.get(self.ended.reason, self.ended.reason)
            reason = Reason(name) if name in Reason._value2member_map_ else Reason.TRAINER_ERROR
            stopped = reason in (Reason.INTERRUPTED, Reason.PREEMPTED, Reason.TIME_LIMIT, *LOST)
            if stopped and asked is not None:
                reason = asked
            return reason, self.ended.message
        if asked is not None and code < 0:
            stands = STANDS if saved else NO_CHECKPOINT
            return asked, f"the trainer was ended before it could save; {stands}"
        if code == -signal.SIGKILL and out_of_memory:
            return Reason.OUT_OF_MEMORY, "the system ended the trainer: the memory that it may take ran out"
        if code < 0:
            return Reason.TRAINER_ERROR, f"the trainer was ended by {ended_by(code)}"
        return Reason.TRAINER_ERROR, self.last_error or f"the trainer ended with code {code} and no word"

    def _read(self, kind: str, pipe: IO[str]) -> None:
        for line in iter(partial(pipe.readline, LONGEST_LINE), ""):
            self._inbox.put((kind, redact(line.rstrip("\n"))))
        self._inbox.put((kind, None))


def trainer_command(
    config: Path, out: Path, resume: Path | None, allow_change: list[str], nodes: list[str], init: Path | None = None
) -> list[str]:
    """Train as a file says, in ``out``, perhaps from a checkpoint's folder on, or from the weights in a file, and on further
    ``nodes``."""
    command = [*run_module("last_e"), "--config", str(config), "--out", str(out), "--supervised"]
    command += [] if resume is None else ["--resume", str(resume)]
    command += [] if init is None else ["--init", str(init)]
    command += ["--nodes", json.dumps(all_nodes(nodes))] if nodes else []
    return command + (["--allow-change", *allow_change] if allow_change else [])


def trainer_config(config: JobSpec, attempt: Attempt, data: Path | None) -> dict[str, Any]:
    """What it trains with: the job's configuration without the runner's own sections, as this machine has it."""
    values = config.what_it_trains()
    if data is not None:
        values["data"]["uri"] = str(data)
    if config.run.gpus is not None and config.hardware.device != "cpu":
        values["hardware"]["device"] = "cuda" if config.run.gpus else "cpu"
    elif attempt.container and "device" in attempt.container:
        values["hardware"]["device"] = attempt.container["device"]
    gpus, nodes = len(attempt.hardware.get("used_gpus", ())), 1 + len(attempt.hardware.get("further_nodes", ()))
    ranks = values["hardware"]["ranks"] = config.hardware.ranks or min(max(1, gpus) * nodes, MOST_RANKS)
    if attempt.container and config.run.cpus and values["hardware"]["cpu_threads"] is None:
        # A limit that no system call tells, shared by the ranks; a batch is cut for all of them if nobody has said how.
        ranks = ranks if config.hardware.micro_batch is None else min(ranks, micro_batches(config))
        values["hardware"]["cpu_threads"] = max(1, math.ceil(config.run.cpus) // -(-ranks // nodes))
    return values
