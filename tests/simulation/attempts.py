"""Whole attempts on machines that die, sleep and come back: claim, choice of the checkpoint, uploads, pruning, heart, stop.

    python -m tests.simulation.attempts FIRST-SEED LAST-SEED [MACHINES]

What must never be: an attempt that has the job goes on from before what was acknowledged; two have it for good; the newest
checkpoint that counts is not whole; who asked for a stop is not heard.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count

from last_e.manifest import File, Manifest
from runner.errors import ClaimedError, StoreError
from runner.job.attempts import HEARTBEAT_SECONDS, Attempt
from runner.job.checkpoints import Stored
from runner.job.job import Job
from runner.job.lease import Heart, claim
from runner.job.paths import attempt_order, checkpoint_name
from tests.simulation.world import Chances, Died, Host, World, inhabited

CALM, END = 1500.0, 3200.0
CHANCES = Chances(slow=0.02, sleep=0.01, outage=0.005, death=0.006, lost_answer=0.01, repeated=0.02)
STEPS, KEEP_LAST = 40, 3
BLOB = b"weights!"
FILES = {"state.pt": File(size=len(BLOB), sha256=hashlib.sha256(BLOB).hexdigest())}


@dataclass
class Running:
    """An attempt that has claimed the job, as its own process knows it."""

    attempt: Attempt
    host: Host
    life: int
    told: bool = False
    over: bool = False


@dataclass
class Story:
    """What happened in a world."""

    world: World
    running: list[Running] = field(default_factory=list)
    acknowledged: list[Stored] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)

    def has_the_job(self, attempt: Attempt) -> bool:
        """By the records in the store at this very moment."""
        records = [json.loads(data) for key, (data, _) in self.world.objects.items() if key.endswith("/attempt.json")]
        later = [each for each in records if attempt_order(each["id"]) > attempt.order]
        return not any(each["phase"] in ("running", "ended") for each in later)

    def best(self) -> int:
        """The last step that was acknowledged."""
        return max((stored.manifest.step for stored in self.acknowledged), default=0)


def trial(seed: int, machines: int) -> Story:
    """One world."""
    world = World(seed, CHANCES, CALM)
    story = Story(world)
    hosts = [Host(f"machine {number}") for number in range(machines)]
    with inhabited(world):
        for host in hosts:
            world.start(host, person(story, host), world.random.choice((0.0, 0.0, 20.0, 90.0)))
        world.run(END)
        alive = [one for one in story.running if not (one.over or one.told) and world.lives(one.host, one.life)]
        if len(alive) > 1:
            story.violations.append(f"two have the job: {[one.attempt.id for one in alive]}")
    story.violations += [f"crash: {crash}" for crash in world.crashes]
    return story


def person(story: Story, host: Host) -> Callable[[], None]:
    """Somebody at a machine who begins the job again until it is done; commands die with the machine, people do not."""
    world = story.world

    def command() -> None:
        try:
            if train(story, Job(world, "j"), host):
                return
        except (ClaimedError, StoreError, Died):
            pass
        if world.now < END - 600:
            world.start(host, command, world.random.choice((5.0, 40.0, 70.0)))

    return command


def train(story: Story, job: Job, host: Host) -> bool:
    """What an attempt does; whether the job is done."""
    world = story.world
    attempt = claim(job, world.random.random() < 0.05)
    mine = Running(attempt, host, host.life)
    story.running.append(mine)
    asked: list[str] = []
    world.start(host, lambda: beat(world, job, mine, set(job.requests.keys()), asked))
    acknowledged = story.best()
    found = job.checkpoints.sweep(attempt)
    newest = found[-1] if found else None
    if newest is not None and job.paths.checkpoint(newest.name, "state.pt") not in world.objects:
        # A write that took effect once more, after its checkpoint was deleted, is passed over like anything damaged.
        whole = [one for one in found if job.paths.checkpoint(one.name, "state.pt") in world.objects]
        newest = whole[-1] if whole else None
    step = newest.manifest.step if newest else 0
    if step < acknowledged and story.has_the_job(attempt):
        story.violations.append(f"{attempt.id} goes on from {step}, {acknowledged} was acknowledged")
    attempt.resumed_from = newest.name if newest else None
    attempt.inherited = [stored.name for stored in found]
    surely(world, lambda: job.attempts.write(attempt))
    while step < STEPS and not mine.told and not asked:
        world.sleep(world.random.choice((2.0, 5.0, 9.0)))
        step += 1
        upload(story, job, mine, step)
    mine.over = True
    if mine.told or attempt.superseded_by(surely(world, job.attempts.all)):
        attempt.phase, attempt.reason = "ended", "lease_lost"
    else:
        attempt.phase, attempt.reason = "ended", "stop_requested" if asked else "completed"
    surely(world, lambda: job.attempts.write(attempt))
    return attempt.reason == "completed"


def upload(story: Story, job: Job, mine: Running, step: int) -> None:
    """A checkpoint, as the outbox sends it: in order, each object until the store has it; without its look after an outage."""
    world = story.world
    manifest = Manifest(step=step, epoch=step, evaluated=True, files=FILES)
    name = checkpoint_name(manifest, mine.attempt.id)
    for key, data in (
        (job.paths.checkpoint(name, "state.pt"), BLOB),
        (job.paths.checkpoint(name), manifest.to_json().encode()),
    ):
        if mine.told:
            return
        surely(world, lambda key=key, data=data: world.put(key, data))  # type: ignore[misc]
    if story.has_the_job(mine.attempt):
        story.acknowledged.append(Stored(name, manifest))
    if not mine.told:
        try:
            job.checkpoints.prune(KEEP_LAST, mine.attempt)
        except StoreError:
            return


def beat(world: World, job: Job, mine: Running, known: set[str], asked: list[str]) -> None:
    """A heart, and what an attempt does when it hears something."""
    heard: list[str] = []
    heart = Heart(job, mine.attempt, known, dict, lambda _, word: heard.append(word))
    for number in count():
        if mine.over:
            return
        with suppress(StoreError):
            heart.beat(number)
        while heard:
            word = heard.pop()
            if word == "superseded":
                mine.told = True
                return
            if word != "record":
                asked.append(word)
            elif not mine.over:
                with suppress(StoreError):
                    job.attempts.write(mine.attempt)
        world.sleep(HEARTBEAT_SECONDS)


def surely(world: World, what: Callable[[], object]) -> object:
    """Until the store has answered."""
    while True:
        try:
            return what()
        except StoreError:
            world.sleep(1.0)


def main(first: int, last: int, machines: int = 3) -> int:
    """Print what was found in these worlds."""
    found: Counter[str] = Counter()
    examples: dict[str, tuple[int, str]] = {}
    attempts = done = 0
    for seed in range(first, last):
        story = trial(seed, machines)
        attempts += len(story.running)
        done += any(one.attempt.reason == "completed" for one in story.running)
        for violation in story.violations:
            kind = " ".join(word for word in violation.split()[:4] if not any(c.isdigit() for c in word))
            found[kind] += 1
            examples.setdefault(kind, (seed, violation))
    print(f"{last - first} worlds of {machines} machines, {attempts} attempts, {done} jobs done: {dict(found) or 'well'}")
    for seed, violation in examples.values():
        print(f"seed {seed}: {violation}")
    return bool(found)


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:])))
