"""Whole attempts on machines that die, sleep and come back: claim, leftovers, choice of the checkpoint, outbox, pruning, heart;
and people who resume, stop, sync and delete.

    python -m tests.simulation.attempts FIRST-SEED LAST-SEED [MACHINES]

What must never be: an attempt that has the job goes on from before what was acknowledged, or from before what an attempt on the
same machine had saved there, if nobody else had the job in between; two have it for good; who reads requests passes over one;
a job that was deleted is trained on, or something of it is written anew; a job that was completed is not done.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cache, lru_cache
from itertools import count
from pathlib import Path
from shutil import rmtree
from typing import Any

from last_e.manifest import MANIFEST, File, Manifest
from runner.attempt.leftovers import clear_leftovers, sync_job
from runner.attempt.outbox import Outbox, waiting
from runner.attempt.publish import post_checkpoint
from runner.attempt.scratch import make_scratch
from runner.errors import LOST, ClaimedError, LastrunError, NoSuchJobError, Reason, State, StoreError
from runner.job.attempts import Attempt
from runner.job.checkpoints import Stored
from runner.job.job import Job
from runner.job.lease import Heart, claim
from runner.job.paths import END_RECORD, attempt_of, attempt_order, step_of
from tests.simulation.world import WAITS, Chances, Died, Host, World, inhabited

CALM, END = 1500.0, 3200.0
CHANCES = Chances(slow=0.02, sleep=0.01, outage=0.005, death=0.006, lost_answer=0.01, repeated=0.02)
STEPS, FEW_STEPS, KEEP_LAST = 40, 6, 3
MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
"""Where the machines' disks are: what a disk keeps when a machine dies needs no disk here."""
BLOB = b"weights!"
FILES = {"state.pt": File(size=len(BLOB), sha256=hashlib.sha256(BLOB).hexdigest())}
RECORD: dict[str, Any] = {
    "format": 1,
    "id": "j-20260101-000000-abcd",
    "name": "j",
    "created_at": 0,
    "config": {"model.variant": "nano", "dataset": "irds", "split_type": "xsub", "env": "local", "training.epochs": STEPS},
    "origins": {},
}
JOB = str(RECORD["id"])


@dataclass
class Running:
    """An attempt that has claimed the job, as its own process knows it."""

    attempt: Attempt
    host: Host
    life: int
    saved: int = 0
    """The last step that is on this machine's disk, or was."""
    told: Reason | None = None
    """Why it has the job no more."""
    over: bool = False
    over_at: float = 0.0


@dataclass
class Story:
    """What happened in a world."""

    world: World
    running: list[Running] = field(default_factory=list)
    acknowledged: list[Stored] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)
    steps: int = STEPS
    """Of the job."""
    deleted: bool = False
    """Somebody has begun to delete the job."""
    deleted_at: float = 0.0
    """When that was done; 0: it was not, or the machine that did it has died over it, and then nobody promises anything."""
    completed: bool = False
    """An attempt has ended so that had the job, and the store has its word."""

    def has_the_job(self, attempt: Attempt) -> bool:
        """By the records in the store at this very moment."""
        return not self.deleted and not any(
            order > attempt.order and phase in ("running", "ended") for order, phase in self._records()
        )

    def before(self, attempt: Attempt) -> Running | None:
        """Who had the job last before an attempt."""
        earlier = [order for order, _ in self._records() if order < attempt.order]
        return next((one for one in self.running if one.attempt.order == max(earlier, default=None)), None)

    def _records(self) -> list[tuple[tuple[int, str], str]]:
        return [_order_and_phase(data) for key, (data, _) in self.world.objects.items() if key.endswith("/attempt.json")]

    def best(self) -> int:
        """The last step that was acknowledged."""
        return max((stored.manifest.step for stored in self.acknowledged), default=0)


@lru_cache(maxsize=64)
def _order_and_phase(record: bytes) -> tuple[tuple[int, str], str]:
    values = json.loads(record)
    return attempt_order(values["id"]), values["phase"]


class Sender(Outbox):
    """An outbox whose thread is one of the world's."""

    def _start(self) -> None:
        self.world: World = self.store  # type: ignore[assignment]
        self.world.beside(self.send_all)

    def send_all(self) -> None:
        """Until it is closed."""
        pause = 0.0
        while not self._closed:
            self.world.sleep(max(pause, 0.5))
            if self._may_send:
                pause = self._send(pause)

    @property
    def empty(self) -> bool:
        """Whether all is sent."""
        return not self._queue


def trial(seed: int, machines: int) -> Story:
    """One world."""
    world = World(seed, CHANCES, CALM)
    if world.random.random() < 0.3:
        world.chances = replace(CHANCES, repeated=0.0)
    story = Story(world)
    if seed % 8 == 7:  # attempts that are over while their first requests are on their way
        story.steps, world.chances = FEW_STEPS, replace(CHANCES, repeated=0.15)
    world.objects[f"{JOB}/job.json"] = (json.dumps(RECORD).encode(), world.now)
    with tempfile.TemporaryDirectory(dir=MEMORY) as disks, inhabited(world):
        hosts = [Host(f"machine {number}", disk=Path(disks, str(number))) for number in range(machines)]
        for host in hosts:
            assert host.disk is not None
            host.disk.mkdir()
            world.start(host, person(story, host), world.random.choice((0.0, 0.0, 20.0, 90.0)))
        for command, chance in ((stop, 0.3), (sync, 0.3), (remove, 0.15)):
            if world.random.random() < chance:
                host = world.random.choice(hosts)
                world.start(host, lambda c=command, h=host: c(story, h), world.random.uniform(20, CALM))  # type: ignore[misc]
        world.run(END)
    look_back(story)
    return story


def look_back(story: Story) -> None:
    """What must not be in the end."""
    world = story.world
    alive = [one for one in story.running if not (one.over or one.told) and world.lives(one.host, one.life)]
    if len(alive) > 1:
        story.violations.append(f"two have the job: {[one.attempt.id for one in alive]}")
    if story.deleted_at:
        # Of attempts that had ended before, a late request may bring something back: nobody is there any more to see that.
        later = [one for one in story.running if one.over_at > story.deleted_at + 10 and world.lives(one.host, one.life)]
        if left := [key for key in world.objects if attempt_of(key) in {one.attempt.id for one in later}]:
            story.violations.append(f"the job was deleted, and {left[0]} is there")
        if alive:
            story.violations.append(f"the job was deleted, and {alive[0].attempt.id} trains")
    elif story.completed and not story.deleted:
        state, *_ = read_quietly(story)
        if state is not State.SUCCEEDED:
            story.violations.append(f"the job was completed and is {state.value}")
    story.violations += [f"crash: {crash}" for crash in world.crashes]


def read_quietly(story: Story) -> tuple[State, ...]:
    """The job's state, as somebody sees it after all that, when no claim that died counts as alive any more."""
    found: list[State] = []
    world = story.world
    with inhabited(world):
        world.calm = 0.0
        quiet = world.last_late_write - world.now + WAITS.expiry  # a claim that arrives once more is as if it were of then
        world.start(Host("somewhere"), lambda: found.append(Job(world, JOB).state()[0]), quiet)
        world.run(world.now + quiet + WAITS.expiry)
    return tuple(found)


# --- people ---------------------------------------------------------------------------------------------------------------


def person(story: Story, host: Host) -> Callable[[], None]:
    """Somebody at a machine who begins the job again until it is done; commands die with the machine, people do not."""
    world = story.world

    def command() -> None:
        try:
            job = Job(world, JOB)
            job.record()
            if train(story, job, host):
                return
        except NoSuchJobError:
            return
        except (ClaimedError, StoreError, Died):
            pass
        if world.now < END - 600:
            world.start(host, command, world.random.choice((5.0, 40.0, 70.0)))

    return command


def stop(story: Story, host: Host) -> None:
    """``lastrun stop``."""
    with suppress(LastrunError):
        job = Job(story.world, JOB)
        job.record()
        if job.state()[0] is State.RUNNING:
            job.requests.ask_to_stop(now=False)


def sync(story: Story, host: Host) -> None:
    """``lastrun sync``."""
    with suppress(LastrunError):
        job = Job(story.world, JOB)
        job.record()
        sync_job(job, None, [host.disk] if host.disk else [])


def remove(story: Story, host: Host) -> None:
    """``lastrun rm``."""
    for _ in range(10):
        job = Job(story.world, JOB)
        try:
            if job.state()[0] is not State.RUNNING:
                job.record(again=True)
                story.deleted = True
                surely(story.world, job.delete)
                story.deleted_at = story.world.now
                return
        except LastrunError:
            pass
        story.world.sleep(60)


# --- an attempt -----------------------------------------------------------------------------------------------------------


def train(story: Story, job: Job, host: Host) -> bool:
    """What an attempt does; whether the job is done."""
    world = story.world
    known = job.attempts.all()
    if job.attempts.completed(known):
        return True
    attempt = claim(job, world.random.random() < 0.05, known=known)
    mine = Running(attempt, host, host.life)
    story.running.append(mine)
    try:
        return run(story, job, mine, story.before(attempt))
    except StoreError:
        mine.over = True
        world.sleep(200)
        surely(world, job.forget)
        raise


def run(story: Story, job: Job, mine: Running, before: Running | None) -> bool:
    """What it does once it has claimed the job."""
    world, disk, host, attempt = story.world, mine.host.disk, mine.host, mine.attempt
    assert disk is not None
    asked: list[str] = []
    world.beside(lambda: beat(story, job, mine, set(job.requests.keys()), asked))
    clear_leftovers(job, disk, lambda _: None)
    scratch = make_scratch(job, attempt.id, disk)
    acknowledged = story.best()
    if before is not None and before.host is host and not before.told:
        acknowledged = max(acknowledged, before.saved)
    found = job.checkpoints.sweep(attempt)
    newest = found[-1] if found else None
    if newest is not None and job.paths.checkpoint(newest.name, "state.pt") not in world.objects:
        # A write that took effect once more, after its checkpoint was deleted, is passed over like anything damaged.
        whole = [one for one in found if job.paths.checkpoint(one.name, "state.pt") in world.objects]
        newest = whole[-1] if whole else None
        for one in found[found.index(newest) + 1 :] if newest else found:
            job.checkpoints.pass_over(one.name)  # as fetch_newest does: they are not what pruning keeps others for
    step = newest.manifest.step if newest else 0
    if step < acknowledged and story.has_the_job(attempt):
        story.violations.append(f"{attempt.id} goes on from {step}, {acknowledged} was acknowledged")
    attempt.resumed_from = newest.name if newest else None
    attempt.inherited = [stored.name for stored in found]
    surely(world, lambda: job.attempts.write(attempt))
    box = outbox(story, job, mine, scratch)
    while step < story.steps and not mine.told and not asked:
        world.sleep(world.random.choice((2.0, 5.0, 9.0)))
        step += 1
        save(job, mine, box, scratch, step)
    return end(story, job, mine, box, scratch, "stop_requested" if asked else "completed")


def outbox(story: Story, job: Job, mine: Running, scratch: Path) -> Sender:
    """What an attempt sends with."""
    world, busy = story.world, []

    def prune() -> None:
        try:
            if not mine.told:
                job.checkpoints.prune(KEEP_LAST, mine.attempt)
        except StoreError:
            pass
        finally:
            busy.clear()

    def sent(key: str) -> None:
        if key.endswith(f"/{MANIFEST}"):
            step = step_of(key)
            stored = Stored(key.split("/")[-2], Manifest(step=step, epoch=step, evaluated=True, files=FILES))
            job.checkpoints.add(stored)
            if story.has_the_job(mine.attempt):
                if key.replace(MANIFEST, "state.pt") not in world.objects:
                    story.violations.append(f"{key} says that it is whole, and is not")
                story.acknowledged.append(stored)
            if not busy:
                busy.append(1)
                world.beside(prune)
        elif key.endswith(f"/{END_RECORD}"):
            story.completed |= mine.attempt.reason == "completed" and story.has_the_job(mine.attempt)

    def lost() -> bool:
        mine.told = mine.told or job.lost(mine.attempt)
        return mine.told is not None

    return Sender(world, scratch / "outbox", lambda _: None, sent, lost)  # type: ignore[arg-type]


def save(job: Job, mine: Running, box: Sender, scratch: Path, step: int) -> None:
    """A checkpoint, whole on this machine's disk, is given to the outbox."""
    folder = scratch / "run"
    if not folder.exists():
        folder.mkdir()
        (folder / "state.pt").write_bytes(BLOB)
    (folder / MANIFEST).write_bytes(_manifest(step))
    post_checkpoint(job.paths, folder, mine.attempt, box)
    mine.saved = step


@cache
def _manifest(step: int) -> bytes:
    return Manifest(step=step, epoch=step, evaluated=True, files=FILES).to_json().encode()


def end(story: Story, job: Job, mine: Running, box: Sender, scratch: Path, reason: str) -> bool:
    """Whether the job is done."""
    world, attempt = story.world, mine.attempt
    with suppress(StoreError):
        mine.told = job.lost(attempt) or mine.told
    attempt.phase, attempt.reason = "ended", mine.told.value if mine.told else reason
    if mine.told is Reason.LEASE_LOST:
        surely(world, lambda: job.attempts.write(attempt))
    elif not mine.told:
        box.put(*job.attempts.entry(attempt))
        patience = world.now + world.random.choice((30.0, 600.0))
        while not box.empty and world.now < patience and not mine.told:
            world.sleep(1.0)
    box.close()
    mine.over, mine.over_at = True, world.now
    with suppress(StoreError):
        if mine.told is not Reason.JOB_DELETED and job.is_deleted():
            mine.told = Reason.JOB_DELETED
    if mine.told is Reason.JOB_DELETED:
        world.sleep(200)  # what is on its way arrives
        surely(world, job.forget)
    if mine.told or not waiting(scratch / "outbox"):
        rmtree(scratch, ignore_errors=True)
    return attempt.reason == "completed" and not mine.told and box.empty


def beat(story: Story, job: Job, mine: Running, known: set[str], asked: list[str]) -> None:
    """A heart, and what an attempt does when it hears something."""
    world, heard = story.world, []
    heart = Heart(job, mine.attempt, known, dict, lambda _, word: heard.append(word))
    for number in count():
        if mine.over:
            return
        there = {key for key in world.objects if key.startswith(job.paths.requests)} - known
        with suppress(StoreError):
            # One that somebody has deleted meanwhile, with the job, is not passed over.
            if heart.beat(number) and there & set(world.objects) and not asked and "stop" not in heard:
                story.violations.append(f"{mine.attempt.id} has passed over a request")
        while heard:
            word = heard.pop()
            if word in [reason.value for reason in LOST]:
                mine.told = mine.told or Reason(word)
                return
            if word != "record":
                asked.append(word)
            elif not mine.over:
                with suppress(StoreError):
                    job.attempts.write(mine.attempt)
        world.sleep(WAITS.heartbeat)


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
    attempts = done = deleted = 0
    for seed in range(first, last):
        story = trial(seed, machines)
        attempts += len(story.running)
        done += story.completed
        deleted += story.deleted
        for violation in story.violations:
            kind = " ".join(word for word in violation.split()[:6] if not any(c.isdigit() for c in word))
            found[kind] += 1
            examples.setdefault(kind, (seed, violation))
    what = f"{attempts} attempts, {done} jobs done, {deleted} deleted"
    print(f"{last - first} worlds of {machines} machines, {what}: {dict(found) or 'well'}")
    for seed, violation in examples.values():
        print(f"seed {seed}: {violation}")
    return bool(found)


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:])))
