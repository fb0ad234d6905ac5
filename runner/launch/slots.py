"""Places for attempts at points of a group, each for one at a time.

Of a process of this machine a place is a GPU of its own where there are several, of a cluster's queue one place in it, and of
hosts that ssh reaches a host.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from last_e.environment import usable_cores
from runner.launch.protocol import Queue
from runner.launch.start import make_launcher
from runner.machine import gpus_to_use
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
    gpus = gpus_to_use() if is_local and run.gpus != 0 and hardware.device != "cpu" else []
    queues = isinstance(make_launcher(config), Queue)
    number = min(number or (count if queues else max(1, len(gpus))), max(1, count))
    if not is_local or (number == 1 and len(gpus) < 2):
        return [Slot(str(place)) for place in range(number)]
    if gpus:
        return [Slot(f"GPU {place}", {"CUDA_VISIBLE_DEVICES": gpus[place % len(gpus)]}) for place in range(number)]
    threads = max(1, usable_cores() // number)
    words = () if hardware.cpu_threads is not None else ("--set", f"hardware.cpu_threads={threads}")
    return [Slot(str(place), arguments=words) for place in range(number)]


def host_slots(hosts: Sequence[str], number: int | None) -> list[Slot]:
    """So many on each of several hosts, by default one; the first of each come first."""
    return [
        Slot(host if number in (None, 1) else f"{host} {place + 1}", host=host)
        for place in range(number or 1)
        for host in hosts
    ]


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
