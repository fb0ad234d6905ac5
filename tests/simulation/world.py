"""A world in which every call of a store is a moment at which anything may happen.

Others go on, the call takes minutes, the machine sleeps or dies, the store answers nobody, an answer is lost, an old request
takes effect once more. All of it follows from a seed.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

from greenlet import getcurrent, greenlet

from last_e import manifest, redact
from runner import machine
from runner.attempt import outbox
from runner.errors import MissingKeyError, StoreError
from runner.job import attempts, json_objects, lease, requests
from runner.store.protocol import MOST_BYTES, Entry
from runner.waits import Waits

PAUSES = (1.0, 7.0, 30.0, 80.0, 150.0)
"""Seconds that a call may take when it takes long; an attempt counts as dead after 60."""


class Died(BaseException):
    """The machine is gone, and with it all that ran there."""


@dataclass(frozen=True)
class Chances:
    """Of each call of the store, how likely what is."""

    slow: float = 0.03
    sleep: float = 0.01
    outage: float = 0.005
    death: float = 0.0
    lost_answer: float = 0.0
    """The call takes effect, and fails."""
    repeated: float = 0.0
    """A write takes effect once more, later."""

    @cached_property
    def any(self) -> float:
        """How likely one of the first four is, or a little more."""
        return self.slow + self.sleep + self.outage + self.death + 1e-9


QUIET = Chances(0, 0, 0)
WAITS = Waits()
"""Those that users have, whatever tests wait: in here they cost nothing, and a seed is the same world for everybody."""
PLAIN_JSON = SimpleNamespace(loads=json.loads, dumps=lambda value, indent=None, **how: json.dumps(value, **how))
"""Without indentation, for which Python has no fast code: it took a tenth of the time."""
READ_MANIFEST = lru_cache(maxsize=256)(manifest.Manifest.from_json)
"""The same bytes are the same manifest in every world; it never changes."""


@dataclass
class Host:
    """A machine."""

    name: str
    life: int = 1
    """Grows when it dies and comes back."""
    asleep_until: float = 0.0
    disk: Path | None = None
    """What is there is there still when it comes back."""


@dataclass
class Actor:
    """Something that runs on a machine."""

    run: greenlet
    host: Host
    life: int
    pid: int
    wakes: float


@dataclass
class World:
    """The store, and who uses it. ``chances`` hold until ``calm``; then nothing goes wrong any more."""

    seed: int
    chances: Chances
    calm: float
    now: float = 1000.0
    objects: dict[str, tuple[bytes, float]] = field(default_factory=dict)
    crashes: list[str] = field(default_factory=list)
    """What ended with an error that nobody expects."""
    uri: str = "s3://simulation"
    has_a_clock: bool = True

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)
        self._actors: list[Actor] = []
        self._last_pid = 1
        self._processes: dict[int, int] = {}
        self._outage_until = 0.0
        self._late: list[tuple[float, str, bytes]] = []
        self._hub = getcurrent()

    # --- time and machines --------------------------------------------------------------------------------------------

    def start(self, host: Host, what: Callable[[], object], after: float = 0.0) -> None:
        """Have a process of a machine run something."""
        self._last_pid += 1
        self._add(host, what, after, self._last_pid, alone=True)

    def beside(self, what: Callable[[], object]) -> None:
        """Have a thread of the process that runs now do something."""
        self._add(self.host(), what, 0.0, self._running.pid)

    def _add(self, host: Host, what: Callable[[], object], after: float, pid: int, alone: bool = False) -> None:
        def run() -> None:
            if alone:  # the machine may have died and come back since
                actor.life = self._processes[pid] = host.life
            try:
                what()
            except Died:
                pass
            except Exception as error:
                self.crashes.append(f"{type(error).__name__}: {error}")
            finally:
                if alone:
                    del self._processes[pid]

        actor = Actor(greenlet(run, self._hub), host, host.life, pid, self.now + after)
        self._actors.append(actor)

    def run(self, until: float, rest: float = float("inf")) -> None:
        """Let time pass. Whoever is alone when nothing can go wrong any more has found out all after ``rest`` seconds awake."""
        quiet, last = self.calm, self.now
        while self._actors and self.now <= until:
            if len(self._actors) > 1 or self._late or self.now - last > WAITS.heartbeat:
                quiet = max(quiet, self.now)
            elif self.now > quiet + rest:
                return
            last = self.now
            ready = [actor for actor in self._actors if actor.wakes <= self.now]
            if not ready:
                self._advance()
                continue
            actor = self.random.choice(ready)
            self._running = actor
            actor.run.switch()
            if actor.run.dead:
                self._actors.remove(actor)

    def sleep(self, seconds: float) -> None:
        """Of who runs now."""
        me = self._running
        me.wakes = self.now + seconds
        self._hub.switch()
        if me.life != me.host.life:
            raise Died

    def host(self) -> Host:
        """The machine of who runs now."""
        return self._running.host

    def pid(self) -> int:
        """The process that runs now."""
        return self._running.pid

    def process_identity(self, pid: int) -> str | None:
        """Of a process of this machine, if there is one that lives."""
        return f"process {pid}" if self._processes.get(pid) == self.host().life else None

    def lives(self, host: Host, life: int) -> bool:
        """Whether a machine is what it was."""
        return host.life == life

    @property
    def last_late_write(self) -> float:
        """When the last write arrives that is on its way once more; now, if there is none."""
        return max([self.now, *(when for when, *_ in self._late)])

    def _advance(self) -> None:
        self.now = min([actor.wakes for actor in self._actors] + [when for when, *_ in self._late])
        for write in [write for write in self._late if write[0] <= self.now]:
            self._late.remove(write)
            self.objects[write[1]] = (write[2], self.now)

    def _moment(self) -> None:
        """Of a call: what may happen before it takes effect."""
        host, chances, chance = self._running.host, self.chances if self.now < self.calm else QUIET, self.random
        pause, luck = 0.0, chance.random()
        if luck < chances.any:  # most often nothing does
            if luck < chances.slow:
                pause = chance.choice(PAUSES)
            elif (luck := luck - chances.slow) < chances.sleep:
                host.asleep_until = self.now + chance.choice(PAUSES)
            elif (luck := luck - chances.sleep) < chances.outage:
                self._outage_until = self.now + chance.choice(PAUSES)
            elif luck - chances.outage < chances.death:
                host.life += 1
        self.sleep(pause)
        while (quiet := max(self._outage_until, host.asleep_until) - self.now) > 0:
            self.sleep(quiet)

    def _may_lose_the_answer(self) -> None:
        if self.now < self.calm and self.random.random() < self.chances.lost_answer:
            raise StoreError("no answer in time")

    # --- the store ----------------------------------------------------------------------------------------------------

    def put(self, key: str, data: bytes) -> None:
        self._moment()
        self.objects[key] = (bytes(data), self.now)
        if self.now < self.calm and self.random.random() < self.chances.repeated:
            self._late.append((self.now + self.random.choice(PAUSES[:4]), key, bytes(data)))
        self._may_lose_the_answer()

    def put_file(self, key: str, path: Path) -> None:
        self.put(key, path.read_bytes())

    def get_file(self, key: str, path: Path, size: int | None = None, most: int | None = None) -> None:
        raise NotImplementedError("nobody downloads here")  # so that nobody believes it was tried

    def in_parallel(self, calls: Sequence[Callable[[], Any]]) -> list[Any]:
        """In any order, one after the other: others go on between them all the same."""
        results: dict[int, Any] = {}
        for number in self.random.sample(range(len(calls)), len(calls)):
            results[number] = calls[number]()
        return [results[number] for number in range(len(calls))]

    def get(self, key: str, most: int = MOST_BYTES) -> bytes:
        self._moment()
        if key not in self.objects:
            raise MissingKeyError(key)
        return self.objects[key][0]

    def age(self, key: str) -> float:
        self._moment()
        if key not in self.objects:
            raise MissingKeyError(key)
        return self.now - self.objects[key][1]

    def scan(self, prefix: str, after: str = "") -> Iterator[Entry]:
        self._moment()
        found = sorted(key for key in self.objects if key.startswith(prefix) and key > after)
        return iter([Entry(key, len(self.objects[key][0])) for key in found])

    def folders(self, prefix: str) -> list[str]:
        self._moment()
        inside = (key.removeprefix(prefix) for key in self.objects if key.startswith(prefix))
        return sorted({rest.partition("/")[0] for rest in inside if "/" in rest})

    def delete(self, keys: Iterable[str]) -> None:
        for key in list(keys):
            self._moment()
            self.objects.pop(key, None)

    def clear(self, prefix: str) -> None:
        self.delete([key for key in self.objects if key.startswith(prefix)])

    def sweep(self, prefix: str, keep: Callable[[str], bool]) -> None:
        self._moment()


@contextmanager
def inhabited(world: World) -> Iterator[None]:
    """The runner's code lives in the world: by its clock, on its machines, with its chance."""
    clock = SimpleNamespace(time=lambda: world.now, monotonic=lambda: world.now, sleep=world.sleep)
    chance = SimpleNamespace(token_hex=lambda count: f"{world.random.getrandbits(8 * count):0{2 * count}x}")
    with (
        mock.patch.multiple(lease, time=clock, secrets=chance, os=SimpleNamespace(getpid=world.pid)),
        mock.patch.multiple(lease, HEARTBEAT_SECONDS=WAITS.heartbeat, EXPIRY_SECONDS=WAITS.expiry),
        mock.patch.multiple(attempts, time=clock, EXPIRY_SECONDS=WAITS.expiry),
        mock.patch.multiple(requests, secrets=chance),
        mock.patch.multiple(json_objects, json=PLAIN_JSON),
        mock.patch.multiple(manifest, json=PLAIN_JSON),
        mock.patch.multiple(manifest.Manifest, from_json=READ_MANIFEST),
        mock.patch.multiple(redact, _own_secrets=dict),
        mock.patch.multiple(outbox, time=clock, random=world.random),
        mock.patch.multiple(outbox, LONGEST_PAUSE_SECONDS=WAITS.pause, QUIET_SECONDS=WAITS.heartbeat),
        mock.patch.multiple(
            machine,
            identity=lambda: world.host().name,
            uptime=lambda: world.now,
            process_identity=world.process_identity,
            container=lambda: None,
        ),
    ):
        yield
