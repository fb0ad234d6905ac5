"""Starts the ranks of a run on this machine, hears them, and ends them all when one fails. Torch-free.

What the first rank tells is told on; why one failed is its own word, not what the others then say of a closed connection.
"""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import filterfalse
from pathlib import Path
from typing import IO

from last_e.events import NOT_BEGUN, RANK_LOST, Beat, Ended, Event, Sink, parse_event
from last_e.manifest import NO_CHECKPOINT, STANDS
from last_e.process import ended_by, pass_on, start_with_pipes
from last_e.ranks.lifeline import BEAT_SECONDS, SILENT_SECONDS, tell_that_one_lives
from last_e.ranks.meeting import meeting_folder
from last_e.ranks.pace import Pace
from last_e.stop import REASONS, Stop

SILENT_AT_FIRST_SECONDS = 60.0
"""Before the first step a rank may read much from a slow disk."""
BEHIND_SECONDS = 300.0
"""A rank that lives lets others wait for so long, and for ten times as long as any has been in one place before: the first one
also waits for its disk."""
STUCK_SECONDS, STUCK_AT_FIRST_SECONDS = SILENT_SECONDS + 3.0, 180.0
"""For so long all may wait for each other, which takes a moment: what is known of one that is silent is told before. A shared
file system may take minutes to show them where they meet."""
FIRST_SECONDS = 900.0
"""Until there has been a step: data are read, code is compiled."""
_LOOPBACK = {"GLOO_SOCKET_IFNAME": "lo", "NCCL_SOCKET_IFNAME": "lo"} if sys.platform == "linux" else {}
"""Ranks of one machine meet where no other machine gets to."""
_IN_A_STEP = 6
"""So often, or less often, they have met when the first step begins to end."""
LAST_WORD_SECONDS, ALONE_SECONDS = 3.0, 10.0
"""When one has failed, for the others to say so and to write what they are writing; when one says that another has gone, until
somebody knows better."""
LONGEST_LINE = 1 << 20
GONE = "peer_gone"
"""The reason of a rank that another has left alone."""
_QUIET = "completed", *REASONS


@dataclass
class _Rank:
    """A process that trains a share."""

    number: int
    name: str
    """As messages have it."""
    process: subprocess.Popen[str]
    heard: float
    entered: int | None = None
    """How often it has met the others, or waits to; None: it has not said so yet."""
    waits: bool = False
    since: float = 0.0
    """When it came there."""
    ended: Ended | None = None
    code: int | None = None
    last_error: str = ""
    open_pipes: set[str] = field(default_factory=lambda: {"event", "text"})


class Agent:
    """All ranks of one run.

    Args:
        commands: what starts each, given a folder of this user's in which they may meet.
        sink: told what rank 0 tells.
        stop: asked by whoever wants the run to end; then all ranks are asked to save and leave.
        saved: whether there is a checkpoint that a new start would go on from.
        machines: where each of them runs, if they are on several; the first one on this machine.
        shared: where the folder is made; all machines have it.
    """

    def __init__(
        self,
        commands: Callable[[Path], list[list[str]]],
        sink: Sink,
        stop: Stop,
        saved: Callable[[], bool],
        machines: Sequence[str] = (),
        shared: Path | None = None,
    ) -> None:
        self._commands, self._sink, self._stop, self._saved = commands, sink, stop, saved
        self._machines, self._shared = machines, shared
        self._inbox: queue.Queue[tuple[int, str, str | None]] = queue.Queue()
        self._ranks: list[_Rank] = []
        self._readers: list[threading.Thread] = []
        self._first: Ended | None = None
        """Why the first one that failed did."""
        self._longest = 0.0
        """For how long any of them has been in one place."""
        self._first_word = float("inf")
        """When the first of them said how it ended."""

    def run(self) -> Ended:
        """Start them; how the run ended."""
        with meeting_folder(self._shared) as folder:
            try:
                for number, command in enumerate(self._commands(folder)):
                    self._ranks.append(self._start(number, command))
                self._pace = Pace(len(self._ranks))
                with tell_that_one_lives([rank.process.stdin for rank in self._ranks if self._is_elsewhere(rank)]):
                    return self._follow()
            finally:
                for rank in self._ranks:
                    rank.process.kill()
                    rank.process.wait()
                    if rank.process.stdin is not None:
                        rank.process.stdin.close()
                for reader in self._readers:
                    reader.join(1.0)

    def _start(self, number: int, command: list[str]) -> _Rank:
        own = {} if self._machines else {**_LOOPBACK, **_part_of_a_gpu(number)}
        process = start_with_pipes(command, {**os.environ, **own})
        for kind, pipe in (("event", process.stdout), ("text", process.stderr)):
            assert pipe is not None
            reader = threading.Thread(target=self._read, args=(number, kind, pipe), name=f"rank {number}", daemon=True)
            reader.start()
            self._readers.append(reader)
        name = f"rank {number}"
        if self._machines:
            name += f" on {self._machines[number]}"
        return _Rank(number, name, process, heard=time.monotonic())

    def _read(self, number: int, kind: str, pipe: IO[str]) -> None:
        with pipe:
            for line in iter(partial(pipe.readline, LONGEST_LINE), ""):
                self._inbox.put((number, kind, line.rstrip("\n")))
        self._inbox.put((number, kind, None))

    def _follow(self) -> Ended:
        asked = False
        give_up = float("inf")
        last_look = time.monotonic()
        while any(rank.open_pipes for rank in self._ranks):
            came = []
            with suppress(queue.Empty):  # all of it, before anybody counts as silent
                came.append(self._inbox.get(timeout=0.2))
                while True:
                    came.append(self._inbox.get_nowait())
            now = time.monotonic()
            if now - last_look > 5 * BEAT_SECONDS:  # it was this process that slept, perhaps with all of them
                for rank in self._ranks:
                    rank.heard, rank.since = now, now
            last_look = now
            for line in came:
                self._hear(*line)
            if self._stop.reason is not None and not asked:
                asked = True
                for rank in filterfalse(self._is_elsewhere, self._ranks):  # what starts others may end them
                    if rank.process.poll() is None:
                        rank.process.send_signal(signal.SIGTERM)
            self._look_for_dead(now)
            self._look_for_silent(now)
            if self._first is not None:
                if give_up == float("inf"):
                    give_up = now + LAST_WORD_SECONDS
                if now > give_up:  # of whoever waits for one that is gone
                    for rank in self._ranks:
                        rank.process.kill()
        return self._verdict()

    def _hear(self, number: int, kind: str, line: str | None) -> None:
        rank = self._ranks[number]
        rank.heard = time.monotonic()
        if line is None:
            rank.open_pipes.discard(kind)
            return
        if kind == "text":
            rank.last_error = line.strip() or rank.last_error
            pass_on(f"{line}\n" if number == 0 else f"{rank.name}: {line}\n", sys.stderr)
            return
        event = parse_event(line)
        if isinstance(event, Beat):
            if (event.entered, event.waits) != (rank.entered, rank.waits):
                if rank.entered:
                    self._longest = max(self._longest, rank.heard - rank.since)
                rank.entered, rank.waits, rank.since = event.entered, event.waits, rank.heard
            self._pace.hear(number, event)
        elif isinstance(event, Ended):
            rank.ended = event
            self._first_word = min(self._first_word, rank.heard)
            if event.reason not in (*_QUIET, GONE):
                self._fail(replace(event, message=event.message if number == 0 else f"{rank.name}: {event.message}"))
        elif event is not None:
            self._sink.emit(self._pace.told(event))
        else:
            pass_on(f"{line}\n", sys.stderr)

    def _look_for_dead(self, now: float) -> None:
        for rank in self._ranks:
            if rank.open_pipes and rank.process.poll() is not None and now - rank.heard > LAST_WORD_SECONDS:
                rank.open_pipes.clear()  # a process that it has started holds them
            if rank.code is None and not rank.open_pipes:
                rank.code = rank.process.wait()
                if rank.ended is None and self._is_elsewhere(rank):  # that machine may have gone
                    self._lose(f"{rank.name} has gone ({rank.last_error or f'code {rank.code}'})")
                elif rank.ended is None and rank.code < 0:
                    self._lose(f"{rank.name} was ended by {ended_by(rank.code)}")
                elif rank.ended is None:  # what ends by a mistake of its own would do so again
                    said = rank.last_error or f"ended with code {rank.code} and no word"
                    self._fail(Ended("trainer_error", f"{rank.name}: {said}", 0, 0))

    def _look_for_silent(self, now: float) -> None:
        """A rank that hangs is killed; others then end by themselves."""
        alive = [rank for rank in self._ranks if rank.open_pipes]
        if self._first is not None or not alive:
            return
        for rank in alive:
            limit = SILENT_SECONDS if (rank.entered or 0) > _IN_A_STEP else SILENT_AT_FIRST_SECONDS
            if rank.entered is None:
                limit = FIRST_SECONDS
            if now - rank.heard > limit:
                self._lose(f"{rank.name} did not answer for {limit:.0f} s", rank)
                return
        told = [rank.ended for rank in self._ranks if rank.ended is not None]
        if gone := [ended for ended in told if ended.reason == GONE]:
            if now - self._first_word > ALONE_SECONDS:
                silent = [rank for rank in alive if now - rank.heard > 5 * BEAT_SECONDS]
                what = f"the ranks lost each other ({gone[0].message})"
                if silent:
                    what = f"{silent[0].name} has gone: it did not answer for {now - silent[0].heard:.0f} s"
                self._lose(what, *alive)
        elif told:
            if now - self._first_word > BEHIND_SECONDS:
                self._lose(f"{alive[0].name} did not end with the others", *alive)
        else:
            self._look_for_late(now, alive)

    def _look_for_late(self, now: float, alive: list[_Rank]) -> None:
        places = [rank.entered or 0 for rank in alive]
        waiting = [rank for rank, place in zip(alive, places) if place > min(places)]
        if waiting:
            limit = max(BEHIND_SECONDS, 10 * self._longest) if min(places) > _IN_A_STEP else FIRST_SECONDS
            waited = now - max(rank.since for rank in waiting)
            if waited > limit:
                late = alive[places.index(min(places))]
                self._lose(f"{late.name} did not come on for {waited:.0f} s while others waited for it", late)
                return
        if all(rank.waits for rank in alive):
            limit = STUCK_SECONDS if min(places) > _IN_A_STEP else STUCK_AT_FIRST_SECONDS
            if now - max(rank.since for rank in alive) > limit:
                self._lose(f"nothing gets from one rank to another: all have waited for {limit:.0f} s{self._network()}", *alive)

    def _network(self) -> str:
        if not self._machines:
            return ""
        names = ", ".join(dict.fromkeys(self._machines))
        return f" (the network between {names}; GLOO_SOCKET_IFNAME, with run.pass_env, names the interface)"

    def _is_elsewhere(self, rank: _Rank) -> bool:
        return bool(self._machines) and self._machines[rank.number] != self._machines[0]

    def _lose(self, what: str, *killed: _Rank) -> None:
        self._fail(self._loss(what))
        for rank in killed:
            rank.process.kill()

    def _loss(self, what: str) -> Ended:
        begun = not self._machines or any((rank.entered or 0) > 1 for rank in self._ranks)
        return Ended(RANK_LOST if begun else NOT_BEGUN, f"{what}; {STANDS if self._saved() else NO_CHECKPOINT}", 0, 0)

    def _fail(self, ended: Ended) -> None:
        self._first = self._first or ended

    def _verdict(self) -> Ended:
        if self._first is not None:
            return self._first
        ended = self._ranks[0].ended
        if ended is None or ended.reason == GONE:  # all say that another has gone
            told = "no word" if ended is None else ended.message
            return self._loss(f"the ranks lost each other ({told})")
        if ended.reason in REASONS and self._stop.reason is not None:
            return replace(ended, reason=self._stop.reason)
        return ended


def _part_of_a_gpu(number: int) -> dict[str, str]:
    """For a rank on a machine whose GPUs are cut in parts (MIG), of which CUDA shows a process but the first that is named."""
    names = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
    is_cut = len(names) > 1 and all(name.strip().startswith("MIG-") for name in names)
    return {"CUDA_VISIBLE_DEVICES": names[number % len(names)].strip()} if is_cut else {}


class OnlyItsEnd:
    """What a rank tells that is not the first: others would say the same again."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink

    def emit(self, event: Event) -> None:
        """Tell how it ended, and that it lives."""
        if isinstance(event, (Beat, Ended)):
            self._sink.emit(event)
