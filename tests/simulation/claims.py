"""Machines that want one job, with outages in which nobody answers for minutes: in the end one of them has it, the others know.

python -m tests.simulation.claims FIRST-SEED LAST-SEED [MACHINES]
"""

from __future__ import annotations

import sys
from collections import Counter
from contextlib import suppress
from dataclasses import replace
from itertools import count

from runner.errors import ClaimedError, StoreError
from runner.job.attempts import Attempt
from runner.job.job import Job
from runner.job.lease import Heart, claim
from tests.simulation.world import WAITS, Chances, Host, World, inhabited

CALM, END = 1600.0, 2100.0
CHANCES = Chances(slow=0.06, sleep=0.01, outage=0.004, repeated=0.05)


def trial(seed: int, machines: int) -> tuple[str, World]:
    """One world; what became of it: ``one`` is well."""
    world = World(seed, CHANCES, CALM)
    if world.random.random() < 0.3:
        world.chances = replace(CHANCES, lost_answer=0.02)
    running: dict[str, Attempt] = {}
    hosts = [Host(f"machine {number}") for number in range(machines)]
    if machines > 2 and world.random.random() < 0.3:
        hosts[1] = hosts[0]  # two commands on one machine

    def command(host: Host, takeover: bool) -> None:
        job = Job(world, "j")
        try:
            attempt = claim(job, takeover)
        except ClaimedError:
            return
        except StoreError:  # who was told so tries again
            world.start(host, lambda: command(host, takeover), 5.0)
            return
        running[attempt.id] = attempt
        try:
            attempt.inherited = []
            while True:
                try:
                    job.attempts.write(attempt)
                    break
                except StoreError:  # sent again, as everything is
                    world.sleep(1.0)
            heard: list[str] = []
            heart = Heart(job, attempt, (), dict, lambda _, word: heard.append(word))
            for number in count():
                with suppress(StoreError):
                    if not heart.beat(number):
                        break
                if heard:  # its record is not what it was
                    heard.clear()
                    with suppress(StoreError):
                        job.attempts.write(attempt)
                world.sleep(WAITS.heartbeat)
            attempt.phase, attempt.reason = "ended", "lease_lost"
            job.attempts.write(attempt)
        except StoreError:
            pass
        del running[attempt.id]

    with inhabited(world):
        for host in hosts:
            after = world.random.choice((0.0, 0.0, 0.0, 3.0, 61.0, 100.0, 400.0))
            takeover = world.random.random() < 0.15
            world.start(host, lambda h=host, takeover=takeover: command(h, takeover), after)  # type: ignore[misc]
        world.run(END, rest=2 * WAITS.expiry)
    if world.crashes:
        return f"crash: {world.crashes[0]}", world
    return {0: "none", 1: "one"}.get(len(running), "two"), world


def main(first: int, last: int, machines: int = 3) -> int:
    """Print what became of these worlds."""
    found: Counter[str] = Counter()
    bad: dict[str, int] = {}
    for seed in range(first, last):
        end, _ = trial(seed, machines)
        found[end] += 1
        if end != "one":
            bad.setdefault(end, seed)
    print(f"{last - first} worlds of {machines} machines: {dict(found)}; first seeds: {bad}")
    return len(found) != 1


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:])))
