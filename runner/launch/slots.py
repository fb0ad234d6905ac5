"""Places for attempts at points of a group, each for one at a time.

Of a process of this machine a place is a GPU of its own where there are several, of a cluster's queue one place in it, and of
hosts that ssh reaches a host.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from last_e.environment import usable_cores
from runner.gpus import gpus_to_use
from runner.launch.bring import Bringing
from runner.launch.protocol import Launcher, Queue
from runner.launch.start import make_launcher
from runner.spec import JobSpec


@dataclass(frozen=True)
class Slot:
    """A place for one attempt at a time."""

    name: str
    variables: dict[str, str] = field(default_factory=dict)
    arguments: tuple[str, ...] = ()
    host: str | None = None
    """The machine that it is on, where points are dealt out to several that ssh reaches."""


def make_slots(number: int | None, config: JobSpec, count: int) -> list[Slot]:
    """So many slots for ``count`` jobs such as this; by default one a GPU of this machine, one a job where a queue deals out
    machines, else one. GPUs are dealt out in turn, the processor's cores evenly."""
    run, hardware = config.run, config.hardware
    is_local = run.launcher == "local"
    gpus = _gpus_of_each(config) if is_local else []
    queues = isinstance(make_launcher(config), Queue)
    number = min(number or (count if queues else max(1, len(gpus))), max(1, count))
    if not is_local or (number == 1 and len(gpus) < 2):  # an engine's machine may have fewer GPUs, as a host may
        shared = ("--set", "run.share_gpus=true") if number > 1 and run.launcher == "docker" else ()
        return [Slot(str(place), arguments=shared) for place in range(number)]
    if gpus:
        shared = ("--set", "run.share_gpus=true") if number > len(gpus) else ()
        return [Slot(f"GPU {place}", {"CUDA_VISIBLE_DEVICES": gpus[place % len(gpus)]}, shared) for place in range(number)]
    threads = max(1, usable_cores() // number)
    words = () if hardware.cpu_threads is not None else ("--set", f"hardware.cpu_threads={threads}")
    return [Slot(str(place), arguments=words) for place in range(number)]


def host_slots(hosts: Sequence[str], number: int | None) -> list[Slot]:
    """So many on each of several hosts, by default one; the first of each come first."""
    shared = ("--set", "run.share_gpus=true") if number not in (None, 1) else ()
    return [
        Slot(host if number in (None, 1) else f"{host} {place + 1}", arguments=shared, host=host)
        for place in range(number or 1)
        for host in hosts
    ]


class Places:
    """The slots of one command, of which those on a host go when it does no more."""

    def __init__(self, slots: Sequence[Slot]) -> None:
        self._slots = list(slots)
        self._refused: Counter[str | None] = Counter()
        self._gone: dict[str, str] = {}
        self._bringing = Bringing()

    def __bool__(self) -> bool:
        return bool(self._slots)

    def free(self, busy: Iterable[Slot], host: str | None = None) -> Slot | None:
        """One that is not busy, perhaps on a certain host."""
        names, waiting = {slot.name for slot in busy}, self._bringing.hosts()
        fits = (slot for slot in self._slots if slot.name not in names and slot.host not in waiting)
        return next((slot for slot in fits if host in (None, slot.host)), None)

    def has_all(self, launcher: Launcher, host: str | None) -> bool:
        """Whether a host has what an attempt needs to begin; if not, that is on its way, and meanwhile nothing there is free.

        Raises:
            LastrunError: why it did not get there.
        """
        return host is None or self._bringing.is_there(launcher, host)

    def begun(self, host: str | None) -> None:
        """A host has begun a point."""
        self._refused.pop(host, None)

    def refused(self, host: str, why: str) -> None:
        """A host could not begin a point. One that fails so twice in a row does no more: it would go through all points in no
        time."""
        self._refused[host] += 1
        if self._refused[host] > 1:
            self.lose(host, why)

    def lose(self, host: str, why: str) -> None:
        """Nothing more is begun on a host."""
        self._gone.setdefault(host, why.removeprefix(f"{host}: "))
        self._slots = [slot for slot in self._slots if slot.host != host]

    def why_none(self) -> str | None:
        """Why there is no host left; None: there is."""
        return None if self._slots else "no host is left: " + "; ".join(f"{host}: {why}" for host, why in self._gone.items())


def _gpus_of_each(config: JobSpec) -> list[str]:
    """The GPUs of this machine, as many together as a point asks for; none where all of it is for one point."""
    run = config.run
    if run.gpus in (0, "all") or isinstance(run.gpus, list) or config.hardware.device == "cpu":
        return []
    there, each = gpus_to_use(), run.gpus if isinstance(run.gpus, int) else config.hardware.ranks or 1
    return [",".join(there[first : first + each]) for first in range(0, len(there) - each + 1, each)]


@contextmanager
def variables_set(values: dict[str, str]) -> Iterator[None]:
    """For what is started meanwhile."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
